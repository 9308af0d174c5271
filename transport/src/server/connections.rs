//! How many connections there are, in all and from one address.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

/// Counts connections; clones share the count.
#[derive(Clone)]
pub(super) struct Connections {
    counts: Arc<Mutex<Counts>>,
    limit: usize,
    per_origin: usize,
}

#[derive(Default)]
struct Counts {
    all: usize,
    by_origin: HashMap<IpAddr, usize>,
}

/// A connection that is counted until this is dropped.
pub(super) struct Admitted {
    counts: Arc<Mutex<Counts>>,
    origin: IpAddr,
}

impl Connections {
    pub(super) fn new(limit: usize, per_origin: usize) -> Self {
        Self { counts: Arc::default(), limit, per_origin }
    }

    /// Counts a connection from there, unless it is one too many.
    pub(super) fn admit(&self, from: IpAddr) -> Option<Admitted> {
        let origin = origin_of(from);
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let same = counts.by_origin.get(&origin).copied().unwrap_or(0);
        // The node's own roles and users share the loopback address; the last quarter of the places is for others, so that
        // no program on this machine can lock out all the rest.
        let most = if origin.is_loopback() { self.limit - self.limit / 4 } else { self.per_origin };
        if counts.all >= self.limit || same >= most {
            return None;
        }
        counts.all += 1;
        counts.by_origin.insert(origin, same + 1);
        Some(Admitted { counts: Arc::clone(&self.counts), origin })
    }
}

/// A /64 of IPv6 is one customer, and on the overlay one host.
fn origin_of(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) if !ip.is_loopback() => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX))),
        ip => ip,
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.all -= 1;
        match counts.by_origin.get_mut(&self.origin) {
            Some(count) if *count > 1 => *count -= 1,
            _ => _ = counts.by_origin.remove(&self.origin),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_counted_in_all_and_by_origin() {
        let connections = Connections::new(5, 2);
        let admit = |ip: &str| connections.admit(ip.parse().unwrap());
        let a = admit("192.0.2.1").unwrap();
        let b = admit("::ffff:192.0.2.1").unwrap();
        assert!(admit("192.0.2.1").is_none());
        let others = [admit("2001:db8::1"), admit("2001:db8::2")];
        assert!(others.iter().all(Option::is_some));
        assert!(admit("2001:db8::3").is_none(), "the same /64");
        drop((a, others));
        let local: Vec<_> = (0..9).map_while(|_| admit("::1")).collect();
        assert_eq!(local.len(), 4, "loopback leaves a quarter to others");
        assert!(admit("192.0.2.9").is_none());
        drop((b, local));
        assert!(connections.counts.lock().unwrap().by_origin.is_empty());
        assert_eq!(connections.counts.lock().unwrap().all, 0);
    }
}
