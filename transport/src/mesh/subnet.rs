//! Which hosts of the overlay may call.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use crate::address::is_overlay;

/// Addresses of the overlay that begin with the same bits, such as `400::/7` (all) or `5c6:1:2:3::/64`
/// (one host).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Subnet {
    network: Ipv6Addr,
    prefix: u8,
}

/// Why a text is no [`Subnet`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no subnet of the overlay: give one within 400::/7, such as 5c6:1:2:3::/64, or 400::/7 for everybody")]
pub struct SubnetError(String);

impl Subnet {
    /// All hosts of the overlay: `400::/7`.
    pub const EVERYBODY: Self = Self { network: Ipv6Addr::new(0x400, 0, 0, 0, 0, 0, 0, 0), prefix: 7 };

    /// Whether that address lies in it.
    #[must_use]
    pub fn contains(self, ip: Ipv6Addr) -> bool {
        mask(ip, self.prefix) == self.network
    }
}

fn mask(ip: Ipv6Addr, prefix: u8) -> Ipv6Addr {
    let bits = u32::from(128 - prefix);
    Ipv6Addr::from_bits(ip.to_bits().checked_shr(bits).and_then(|high| high.checked_shl(bits)).unwrap_or(0))
}

impl FromStr for Subnet {
    type Err = SubnetError;

    fn from_str(text: &str) -> Result<Self, SubnetError> {
        let parse = || {
            let (ip, prefix) = match text.split_once('/') {
                Some((ip, prefix)) => (ip, prefix.parse::<u8>().ok()?),
                None => (text, 128),
            };
            let ip: Ipv6Addr = ip.parse().ok()?;
            ((7..=128).contains(&prefix) && is_overlay(ip)).then(|| Self { network: mask(ip, prefix), prefix })
        };
        parse().ok_or_else(|| SubnetError(text.chars().take(60).collect()))
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subnets_hold_the_addresses_that_begin_alike() {
        let subnet = |text: &str| text.parse::<Subnet>().unwrap();
        let ip = |text: &str| text.parse::<Ipv6Addr>().unwrap();
        assert_eq!(subnet("400::/7"), Subnet::EVERYBODY);
        assert_eq!(subnet("5c6::1/7"), Subnet::EVERYBODY);
        assert!(Subnet::EVERYBODY.contains(ip("5c6::1")) && !Subnet::EVERYBODY.contains(ip("600::1")));
        assert!(subnet("5c6:1:2:3::9/64").contains(ip("5c6:1:2:3:4::")));
        assert!(!subnet("5c6:1:2:3::9/64").contains(ip("5c6:1:2:4::")));
        assert_eq!(subnet("5c6::1").to_string(), "5c6::1/128");
        assert!(subnet("5c6::1").contains(ip("5c6::1")) && !subnet("5c6::1").contains(ip("5c6::2")));
        for bad in ["", "400::/129", "400::/6", "::/0", "2001:db8::/32", "10.0.0.0/8", "400::/x"] {
            assert!(bad.parse::<Subnet>().is_err(), "{bad}");
        }
    }
}
