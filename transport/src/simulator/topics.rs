//! Which topics a daemon takes from whom, and where it hands them on.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::str::FromStr;

/// The topics of one daemon. They live in memory and are gone when it restarts.
#[derive(Debug, Default)]
pub(super) struct Topics {
    /// Whether topics that were never added are refused.
    pub(super) refuse_others: bool,
    topics: BTreeMap<Vec<u8>, Topic>,
}

#[derive(Debug, Default)]
struct Topic {
    sources: Vec<Subnet>,
    socket: Option<PathBuf>,
}

impl Topics {
    pub(super) fn names(&self) -> impl Iterator<Item = &Vec<u8>> {
        self.topics.keys()
    }

    /// A topic without sources: nobody may send to it.
    pub(super) fn add(&mut self, name: Vec<u8>) {
        self.topics.entry(name).or_default();
    }

    pub(super) fn remove(&mut self, name: &[u8]) {
        self.topics.remove(name);
    }

    pub(super) fn sources(&self, name: &[u8]) -> Option<&[Subnet]> {
        self.topics.get(name).map(|topic| topic.sources.as_slice())
    }

    /// Adds the topic too, if need be. The same source may be there more than once.
    pub(super) fn add_source(&mut self, name: Vec<u8>, source: Subnet) {
        self.topics.entry(name).or_default().sources.push(source);
    }

    pub(super) fn remove_source(&mut self, name: &[u8], source: Subnet) {
        if let Some(topic) = self.topics.get_mut(name) {
            topic.sources.retain(|s| *s != source);
        }
    }

    pub(super) fn socket(&self, name: &[u8]) -> Option<&PathBuf> {
        self.topics.get(name)?.socket.as_ref()
    }

    /// Does nothing if the topic was never added.
    pub(super) fn set_socket(&mut self, name: &[u8], socket: Option<PathBuf>) {
        if let Some(topic) = self.topics.get_mut(name) {
            topic.socket = socket;
        }
    }

    pub(super) fn accepts(&self, name: &[u8], from: IpAddr) -> bool {
        match self.topics.get(name) {
            Some(topic) => topic.sources.iter().any(|source| source.contains(from)),
            None => !self.refuse_others,
        }
    }
}

/// Addresses that begin with the same bits. Two are equal if they hold the same addresses.
#[derive(Debug, Clone, Copy)]
pub(super) struct Subnet {
    address: IpAddr,
    prefix: u8,
}

impl Subnet {
    fn network(self) -> (bool, u128) {
        let (is_v6, bits, width) = match self.address {
            IpAddr::V4(ip) => (false, u128::from(ip.to_bits()), Ipv4Addr::BITS),
            IpAddr::V6(ip) => (true, ip.to_bits(), Ipv6Addr::BITS),
        };
        (is_v6, bits.checked_shr(width - u32::from(self.prefix)).unwrap_or(0))
    }

    pub(super) fn contains(self, ip: IpAddr) -> bool {
        ip.is_ipv6() == self.address.is_ipv6() && self.network() == Self { address: ip, ..self }.network()
    }
}

impl PartialEq for Subnet {
    fn eq(&self, other: &Self) -> bool {
        self.prefix == other.prefix && self.network() == other.network()
    }
}

impl FromStr for Subnet {
    type Err = ();

    /// `address/bits`, or an address alone, for itself only.
    fn from_str(text: &str) -> Result<Self, ()> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| ())?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.map_or(Ok(width), |prefix| prefix.parse().map_err(|_| ()))?;
        if prefix > width { Err(()) } else { Ok(Self { address, prefix }) }
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(text: &str) -> Subnet {
        text.parse().unwrap()
    }

    #[test]
    fn subnets_hold_the_addresses_that_begin_alike() {
        let check = |net: &str, ip: &str, inside: bool| {
            assert_eq!(subnet(net).contains(ip.parse().unwrap()), inside, "{net} {ip}");
        };
        check("400::/7", "5c6:4896::1", true);
        check("400::/7", "600::1", false);
        check("5c6:1:2:3::9/64", "5c6:1:2:3:4::", true);
        check("5c6:1:2:3::9/64", "5c6:1:2:4::", false);
        check("5c6::1", "5c6::1", true);
        check("5c6::1", "5c6::2", false);
        check("::/0", "5c6::2", true);
        check("::/0", "10.0.0.1", false);
        check("0.0.0.0/0", "10.0.0.1", true);
        check("10.1.0.0/16", "10.1.2.3", true);
        check("10.1.0.0/16", "10.2.2.3", false);
        assert_eq!(subnet("5c6::1").to_string(), "5c6::1/128");
        assert_eq!(subnet("5c6::1/64"), subnet("5c6::2/64"));
        assert_ne!(subnet("5c6::1/64"), subnet("5c6::1/63"));
        for bad in ["", "400::/129", "10.0.0.1/33", "400::/x", "400::/7/8", "400::/"] {
            assert!(bad.parse::<Subnet>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_added_topic_takes_from_its_sources_only() {
        let mut topics = Topics::default();
        let ip: IpAddr = "5c6::1".parse().unwrap();
        assert!(topics.accepts(b"t", ip));
        topics.set_socket(b"t", Some("/s".into()));
        assert_eq!(topics.socket(b"t"), None, "no such topic yet");
        topics.add(b"t".to_vec());
        assert!(!topics.accepts(b"t", ip), "no sources, nobody");
        topics.add_source(b"t".to_vec(), subnet("400::/7"));
        topics.set_socket(b"t", Some("/s".into()));
        topics.add(b"t".to_vec());
        assert!(topics.accepts(b"t", ip) && topics.socket(b"t").is_some(), "adding again changes nothing");
        topics.remove_source(b"t", subnet("400::/7"));
        assert!(!topics.accepts(b"t", ip));
        topics.remove(b"t");
        assert!(topics.accepts(b"t", ip));
        topics.refuse_others = true;
        assert!(!topics.accepts(b"t", ip));
    }
}
