//! Which call signatures were used already.

use std::collections::{HashSet, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use horus_keys::PeerId;

use crate::error::{ErrorKind, RpcError};

/// Remembers the nonces of calls, so that a recorded call cannot be made again.
///
/// Roles keep them in Redis, where they outlive a restart; [`MemoryNonces`] is for nodes without one.
pub trait NonceStore: Send + Sync + 'static {
    /// Remembers the nonce of that caller for at least `ttl`. True if it was not remembered before.
    ///
    /// # Errors
    /// If that cannot be found out now; the call is then refused with this error.
    fn remember<'a>(&'a self, caller: PeerId, nonce: &'a str, ttl: Duration) -> BoxFuture<'a, Result<bool, RpcError>>;
}

/// Nonces in the memory of this process, at most a million of them (about 40 MB): beyond, calls are
/// refused until the oldest lapse. A restart forgets them, so that a call that was recorded in the
/// two minutes before could be made again.
pub struct MemoryNonces {
    hasher: RandomState,
    slots: Mutex<Slots>,
    capacity: usize,
}

/// Hashes by the second in which they lapse, so that lapsed ones are dropped by the second.
#[derive(Default)]
struct Slots {
    seconds: VecDeque<(Instant, HashSet<u128>)>,
    count: usize,
}

impl MemoryNonces {
    /// An empty store for a million nonces.
    #[must_use]
    pub fn new() -> Self {
        Self::with_capacity(1 << 20)
    }

    /// An empty store for that many nonces.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        Self { hasher: RandomState::new(), slots: Mutex::default(), capacity }
    }

    /// 128 bits under a secret key: nobody can look for collisions.
    fn hash(&self, caller: PeerId, nonce: &str) -> u128 {
        let half = |salt: u8| u128::from(self.hasher.hash_one((salt, caller, nonce)));
        half(0) << 64 | half(1)
    }

    fn insert(&self, hash: u128, now: Instant, ttl: Duration) -> Result<bool, RpcError> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some((lapses, _)) = slots.seconds.front()
            && *lapses <= now
        {
            let gone = slots.seconds.pop_front().map_or(0, |(_, hashes)| hashes.len());
            slots.count -= gone;
        }
        if slots.seconds.iter().any(|(_, hashes)| hashes.contains(&hash)) {
            return Ok(false);
        }
        if slots.count >= self.capacity {
            return Err(RpcError::new(
                ErrorKind::RateLimited,
                "too many signed calls in the last two minutes to tell new ones from repeats: \
                 send fewer, in batches",
            ));
        }
        // Rounded up to the second after next: never shorter than asked.
        let lapses = now + ttl + Duration::from_secs(1);
        match slots.seconds.back_mut() {
            Some((last, hashes)) if *last + Duration::from_secs(1) > lapses => {
                // Joins the newest group, which must then live as long as its newest member.
                *last = (*last).max(now + ttl);
                hashes.insert(hash);
            }
            _ => slots.seconds.push_back((lapses, HashSet::from([hash]))),
        }
        slots.count += 1;
        Ok(true)
    }
}

impl Default for MemoryNonces {
    fn default() -> Self {
        Self::new()
    }
}

impl NonceStore for MemoryNonces {
    fn remember<'a>(&'a self, caller: PeerId, nonce: &'a str, ttl: Duration) -> BoxFuture<'a, Result<bool, RpcError>> {
        let fresh = self.insert(self.hash(caller, nonce), Instant::now(), ttl);
        Box::pin(std::future::ready(fresh))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nonce_is_fresh_once_until_it_lapses() {
        let nonces = MemoryNonces::new();
        let (ttl, start) = (Duration::from_secs(121), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        for (i, ms) in (0..121_000u64).step_by(100).enumerate() {
            assert!(nonces.insert(i as u128, at(ms), ttl).unwrap());
        }
        for i in 0..1210u128 {
            assert!(!nonces.insert(i, at(120_999), ttl).unwrap(), "{i}");
        }
        assert!(nonces.insert(0, at(124_000), ttl).unwrap());
        assert!(!nonces.insert(1209, at(124_000), ttl).unwrap());
        let slots = nonces.slots.lock().unwrap();
        assert!(slots.seconds.len() < 130, "{}", slots.seconds.len());
        assert_eq!(slots.count, slots.seconds.iter().map(|(_, hashes)| hashes.len()).sum::<usize>());
    }

    #[test]
    fn callers_do_not_share_nonces() {
        let nonces = MemoryNonces::new();
        let peer = || horus_keys::Identity::generate().peer_id();
        let (a, b) = (peer(), peer());
        assert_ne!(nonces.hash(a, "n"), nonces.hash(b, "n"));
        assert_ne!(nonces.hash(a, "n"), nonces.hash(a, "m"));
    }

    #[test]
    fn memory_is_bounded() {
        let nonces = MemoryNonces::with_capacity(3);
        let now = Instant::now();
        for i in 0..3 {
            assert!(nonces.insert(i, now, Duration::from_secs(1)).unwrap());
        }
        let refused = nonces.insert(9, now, Duration::from_secs(1)).unwrap_err();
        assert_eq!(refused.kind, ErrorKind::RateLimited);
        assert!(!nonces.insert(2, now, Duration::from_secs(1)).unwrap());
        assert!(nonces.insert(9, now + Duration::from_secs(3), Duration::from_secs(1)).unwrap());
    }
}
