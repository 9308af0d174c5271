//! X25519 public keys, and the overlay addresses that Mycelium computes from them.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use crate::error::KeyError;
use crate::text::{parse_hex, text_value, write_hex};

/// X25519 with the base point (RFC 7748).
pub(crate) fn public_of(secret: &[u8; 32]) -> [u8; 32] {
    // The secret inside wipes itself when dropped.
    x25519_dalek::PublicKey::from(&x25519_dalek::StaticSecret::from(*secret)).to_bytes()
}

macro_rules! x25519_public_key {
    ($(#[$doc:meta])* $type:ident, $description:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type([u8; 32]);

        impl $type {
            /// Takes the 32 bytes of the key (RFC 7748, u-coordinate).
            #[must_use]
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// The 32 bytes of the key.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_hex(&self.0, f)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_hex(&self.0, f)
            }
        }

        impl FromStr for $type {
            type Err = KeyError;

            fn from_str(text: &str) -> Result<Self, KeyError> {
                parse_hex(text).map(Self)
            }
        }

        text_value!($type, schema: {
            "type": "string",
            "description": $description,
            "pattern": "^[0-9a-fA-F]{64}$"
        });
    };
}

x25519_public_key!(
    /// The public key of a Mycelium daemon, written as 64 hexadecimal digits.
    MeshPublicKey,
    "X25519 public key of a Mycelium daemon, in hexadecimal"
);

x25519_public_key!(
    /// The public key that secrets are sealed to, written as 64 hexadecimal digits.
    ///
    /// It is never the key of the Mycelium daemon: the daemon must not be able to open secrets.
    SealingPublicKey,
    "X25519 public key that secrets are sealed to, in hexadecimal"
);

impl MeshPublicKey {
    /// The public key of the daemon whose key file holds these 32 bytes.
    #[must_use]
    pub fn of_secret(secret: &[u8; 32]) -> Self {
        Self(public_of(secret))
    }

    /// The overlay address of the daemon with this key, in `400::/7`.
    ///
    /// The first 16 bytes of BLAKE3 of the key, byte 0 replaced by `0x04 | parity of its bits`, as
    /// mycelium 0.7 does it.
    #[must_use]
    pub fn overlay_address(&self) -> Ipv6Addr {
        let mut address = [0u8; 16];
        blake3::Hasher::new().update(&self.0).finalize_xof().fill(&mut address);
        address[0] = 0x04 | (address[0].count_ones() as u8 & 1);
        Ipv6Addr::from(address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_of_either_case_is_read_and_lowercase_is_written() {
        let text = "761d88ec830413919dfe9d4d1d56f17e653c8c994082df5b137b90a0ae6edf74";
        let key: MeshPublicKey = text.to_uppercase().parse().unwrap();
        assert_eq!(key.to_string(), text);
        assert_eq!(serde_json::to_string(&key).unwrap(), format!("\"{text}\""));
        for bad in ["", &text[1..], &format!("{text}00"), &text.replace('7', "g")] {
            assert!(bad.parse::<MeshPublicKey>().is_err(), "{bad}");
        }
    }
}
