//! The name of a key.

use std::collections::HashMap;
use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;
use std::sync::{Arc, LazyLock, PoisonError, RwLock, RwLockReadGuard};

use ed25519_dalek::VerifyingKey;

use crate::error::{KeyError, excerpt};
use crate::overlay::MeshPublicKey;
use crate::text::text_value;

/// Multihash `identity`, 36 bytes, of the protobuf `{1: Ed25519, 2: 32 bytes}`: what precedes the key
/// in the binary form of every PeerId of an Ed25519 key (libp2p peer-ids specification).
const PREFIX: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];

/// No PeerId of an Ed25519 key is longer in base 58.
const MAX_TEXT: usize = 64;

/// The name of a person, host or role: its Ed25519 public key, written as libp2p PeerId (`12D3KooW...`).
///
/// A `PeerId` always holds a usable key: a canonically encoded point of the curve, of large order.
/// The key is inside the name, so no directory is needed to check a signature or to compute the
/// overlay address of a host.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId([u8; 32]);

impl PeerId {
    /// Takes the 32 bytes of an Ed25519 public key (RFC 8032).
    ///
    /// # Errors
    /// [`KeyError::InvalidPublicKey`] if they are no point of the curve, not in canonical form, or a
    /// point of small order (for which anybody can make signatures).
    pub fn from_public_key(bytes: &[u8; 32]) -> Result<Self, KeyError> {
        let peer_id = Self(*bytes);
        peer_id.decompress()?;
        Ok(peer_id)
    }

    /// For keys that were derived from a secret here, and so need no check.
    pub(crate) fn of_verifying_key(key: &VerifyingKey) -> Self {
        Self(key.to_bytes())
    }

    /// The 32 bytes of the Ed25519 public key.
    #[must_use]
    pub fn public_key(&self) -> &[u8; 32] {
        &self.0
    }

    /// The X25519 public key that a Mycelium daemon has if it runs on the same seed.
    #[must_use]
    pub fn mesh_public_key(&self) -> MeshPublicKey {
        MeshPublicKey::from_bytes(self.verifying_key().to_montgomery().to_bytes())
    }

    /// The overlay address (`400::/7`) of a host whose daemon runs on the same seed.
    #[must_use]
    pub fn overlay_address(&self) -> Ipv6Addr {
        self.mesh_public_key().overlay_address()
    }

    /// The point behind the name, ready to check signatures with.
    pub(crate) fn verifying_key(&self) -> VerifyingKey {
        self.decompress().expect("every constructor of PeerId has checked the key")
    }

    /// Finds the curve point, in the cache or by computing it.
    ///
    /// Decompression costs a field exponentiation (about 4 us) and base 58 as much again, and a request names the same few
    /// keys several times: signer, audience, coordinators.
    fn decompress(&self) -> Result<VerifyingKey, KeyError> {
        if let Some(known) = read_known().by_key.get(&self.0) {
            return Ok(known.point);
        }
        let point = check_point(&self.0)?;
        remember(self.0, point);
        Ok(point)
    }

    /// The text, computed.
    fn spell(&self) -> String {
        let mut binary = [0u8; 38];
        binary[..6].copy_from_slice(&PREFIX);
        binary[6..].copy_from_slice(&self.0);
        let peer_id =
            libp2p_identity::PeerId::from_bytes(&binary).expect("an identity multihash of 36 bytes is a PeerId");
        peer_id.to_base58()
    }
}

/// About 400 bytes each.
const MAX_KNOWN: usize = 1024;
static KNOWN: LazyLock<RwLock<KnownKeys>> = LazyLock::new(RwLock::default);

/// Keys that were checked, by both of their names.
#[derive(Default)]
struct KnownKeys {
    by_key: HashMap<[u8; 32], Known>,
    by_text: HashMap<Arc<str>, [u8; 32]>,
}

struct Known {
    point: VerifyingKey,
    text: Arc<str>,
}

fn read_known() -> RwLockReadGuard<'static, KnownKeys> {
    KNOWN.read().unwrap_or_else(PoisonError::into_inner)
}

fn remember(key: [u8; 32], point: VerifyingKey) {
    let text: Arc<str> = PeerId(key).spell().into();
    let mut known = KNOWN.write().unwrap_or_else(PoisonError::into_inner);
    // Who sends a flood of fresh keys makes everybody pay the computation again, no more.
    if known.by_key.len() >= MAX_KNOWN {
        known.by_key.clear();
        known.by_text.clear();
    }
    known.by_text.insert(Arc::clone(&text), key);
    known.by_key.insert(key, Known { point, text });
}

fn check_point(bytes: &[u8; 32]) -> Result<VerifyingKey, KeyError> {
    // dalek takes y >= p (2^255 - 19) modulo p: two names for one key. RFC 8032, 5.1.3 refuses them.
    let [low, middle @ .., high] = bytes;
    if *low >= 0xed && high & 0x7f == 0x7f && middle.iter().all(|b| *b == 0xff) {
        return Err(KeyError::InvalidPublicKey("not in canonical form"));
    }
    let key = VerifyingKey::from_bytes(bytes).map_err(|_| KeyError::InvalidPublicKey("not a point of the curve"))?;
    if key.is_weak() {
        return Err(KeyError::InvalidPublicKey("a point of small order"));
    }
    Ok(key)
}

impl FromStr for PeerId {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let refuse = |reason| KeyError::NotAPeerId { text: excerpt(text), reason };
        // Base 58 takes quadratic time: bound it first.
        if text.len() > MAX_TEXT {
            return Err(refuse("too long"));
        }
        if let Some(key) = read_known().by_text.get(text) {
            return Ok(Self(*key));
        }
        let parsed: libp2p_identity::PeerId = text.parse().map_err(|_| refuse("not a libp2p PeerId in base 58"))?;
        let binary = parsed.to_bytes();
        let key: &[u8; 32] = binary
            .strip_prefix(&PREFIX)
            .and_then(|key| key.try_into().ok())
            .ok_or_else(|| refuse("it does not name an Ed25519 key"))?;
        Self::from_public_key(key).map_err(|_| refuse("the key in it is invalid or weak"))
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = read_known().by_key.get(&self.0).map(|known| Arc::clone(&known.text));
        if let Some(text) = known {
            return f.pad(&text);
        }
        // Own keys come here first; what is no key, in tests, is not remembered.
        let _ = self.decompress();
        f.pad(&self.spell())
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

text_value!(PeerId, schema: {
    "type": "string",
    "description": "libp2p PeerId of an Ed25519 key",
    "pattern": "^12D3KooW[1-9A-HJ-NP-Za-km-z]{44}$"
});

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Identity;
    use proptest::prelude::*;

    /// Checked against `mycelium inspect`.
    #[test]
    fn a_seed_gives_the_names_and_addresses_that_libp2p_and_mycelium_give() {
        let identity = Identity::from_seed(&[7; 32]);
        let peer_id = identity.peer_id();
        assert_eq!(peer_id.to_string(), "12D3KooWRawPbxPtP1eZaJpumGnyWX2DcUyd3RQnydr3eAto4Az7");
        assert_eq!(
            peer_id.mesh_public_key().to_string(),
            "761d88ec830413919dfe9d4d1d56f17e653c8c994082df5b137b90a0ae6edf74"
        );
        assert_eq!(peer_id.overlay_address().to_string(), "5c6:4896:5bc7:a56f:1510:c6d1:f1a5:e9e2");
        assert_eq!(
            MeshPublicKey::of_secret(&identity.mesh_secret()),
            peer_id.mesh_public_key(),
            "the daemon must derive from mesh.key what others derive from the PeerId"
        );
    }

    fn refused(text: &str, reason: &str) {
        let error = text.parse::<PeerId>().unwrap_err().to_string();
        assert!(error.contains(reason), "{text}: {error}");
    }

    fn text_of(key: [u8; 32]) -> String {
        PeerId(key).to_string()
    }

    #[test]
    fn what_is_no_usable_ed25519_key_is_refused() {
        refused("", "base 58");
        refused("alice", "base 58");
        refused("QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N", "does not name an Ed25519 key");
        refused(&"1".repeat(10_000), "too long");
        // A secp256k1 key.
        refused("16Uiu2HAkvUpmJW5SSBBy7Ts1VfvGA6gLhANUVZmxSJMxgYPSXtMt", "does not name an Ed25519 key");
        let mut off_curve = [0; 32];
        off_curve[0] = 2;
        refused(&text_of(off_curve), "invalid or weak");
        // The neutral element, and a point of order 4.
        let mut neutral = [0; 32];
        neutral[0] = 1;
        refused(&text_of(neutral), "invalid or weak");
        refused(&text_of([0; 32]), "invalid or weak");
        // y = p + 3 is the same point as y = 3, under another name.
        let mut canonical = [0; 32];
        canonical[0] = 3;
        assert!(PeerId::from_public_key(&canonical).is_ok());
        let mut twin = [0xff; 32];
        twin[0] = 0xf0;
        twin[31] = 0x7f;
        assert_eq!(PeerId::from_public_key(&twin), Err(KeyError::InvalidPublicKey("not in canonical form")));
    }

    #[test]
    fn an_error_does_not_repeat_hostile_text_at_length() {
        let error = "\x1b[31m".repeat(5000).parse::<PeerId>().unwrap_err().to_string();
        assert!(error.len() < 600 && !error.contains('\x1b'), "{error}");
    }

    #[test]
    fn the_cache_of_keys_is_bounded_and_gives_what_it_was_given() {
        let fresh = |i: usize| {
            let mut seed = [9; 32];
            seed[..8].copy_from_slice(&(i as u64).to_le_bytes());
            Identity::from_seed(&seed).peer_id()
        };
        for i in 0..(MAX_KNOWN + 50) {
            let peer_id = fresh(i);
            assert!(PeerId::from_public_key(peer_id.public_key()).is_ok());
            let text = peer_id.to_string();
            assert_eq!(text, peer_id.spell());
            assert_eq!(text.parse::<PeerId>().unwrap(), peer_id);
        }
        assert_eq!(fresh(0).to_string(), fresh(0).spell(), "it may have been forgotten");
        let known = read_known();
        assert!(known.by_key.len() <= MAX_KNOWN && known.by_text.len() <= MAX_KNOWN);
    }

    proptest! {
        #[test]
        fn text_and_json_lead_back_to_the_key(seed in any::<[u8; 32]>()) {
            let peer_id = Identity::from_seed(&seed).peer_id();
            let text = peer_id.to_string();
            prop_assert!(text.starts_with("12D3KooW") && text.len() == 52);
            prop_assert_eq!(text.parse::<PeerId>().unwrap(), peer_id);
            let json = serde_json::to_string(&peer_id).unwrap();
            prop_assert_eq!(serde_json::from_str::<PeerId>(&json).unwrap(), peer_id);
            prop_assert!(peer_id.overlay_address().segments()[0] >> 9 == 0x0400 >> 9);
        }

        #[test]
        fn any_32_bytes_are_refused_or_round_trip(key in any::<[u8; 32]>()) {
            if let Ok(peer_id) = PeerId::from_public_key(&key) {
                prop_assert_eq!(peer_id.to_string().parse::<PeerId>().unwrap(), peer_id);
            }
        }

        #[test]
        fn any_text_is_read_without_panic(text in ".{0,80}") {
            let _ = text.parse::<PeerId>();
        }
    }
}
