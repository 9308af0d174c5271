//! Sealed secrets: HPKE (RFC 9180) to the sealing keys of runners.

use std::fmt;
use std::sync::Arc;

use hpke::aead::ChaCha20Poly1305;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable, Kem, OpModeR, OpModeS, Serializable};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::identity::random_bytes;
use crate::overlay::{SealingPublicKey, public_of};
use crate::peer_id::PeerId;
use crate::runner_kind::RunnerKind;

/// Keeps the keys of this use apart from every other use of HPKE.
const INFO: &[u8] = b"horus sealed secret v1";
/// How many keys one secret can be sealed to.
const MAX_RECIPIENTS: usize = 64;
/// The longest secret, in bytes.
const MAX_SECRET_BYTES: usize = 64 * 1024;

/// Why a secret could not be sealed or opened.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SealError {
    /// No recipient, or too many.
    #[error("a secret is sealed to between 1 and {MAX_RECIPIENTS} runners")]
    Recipients,
    /// The secret is too long.
    #[error("a secret has at most {MAX_SECRET_BYTES} bytes")]
    TooLong,
    /// The recipient's key is not usable.
    #[error("{0} is no usable sealing key; ask the runner's operator for `horus keys show`")]
    BadKey(SealingPublicKey),
    /// The secret was sealed to others.
    #[error("this secret was not sealed to {0}; seal it again, to the keys that the runners announce now")]
    NotForThisKey(SealingPublicKey),
    /// The ciphertext was changed, or moved from another job, runner kind, submitter or name.
    #[error(
        "this secret does not open here: it was changed, or sealed for another job, runner kind, submitter or name"
    )]
    DoesNotOpen,
}

/// A secret, sealed to one or more runners.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SealedSecret {
    /// One ciphertext for each key that may open the secret, at most 64.
    pub recipients: Vec<SealedFor>,
}

/// A secret, sealed to one key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SealedFor {
    /// The key that opens it.
    pub key: SealingPublicKey,
    /// The encapsulated key, 32 bytes.
    #[serde(with = "crate::text::base64_bytes")]
    #[schemars(with = "String")]
    pub enc: Vec<u8>,
    /// The secret, encrypted, and the 16 bytes that authenticate it and its context.
    #[serde(with = "crate::text::base64_bytes")]
    #[schemars(with = "String")]
    pub ciphertext: Vec<u8>,
}

/// What a secret is for. Both sides derive it from the signed documents, so that a ciphertext copied
/// into another job does not open there.
#[derive(Debug, Clone, Copy)]
pub struct SecretContext<'a> {
    /// Who submits the workflow or job.
    pub submitter: PeerId,
    /// The kind of runner that may open it.
    pub runner: &'a RunnerKind,
    /// The id of the workflow or job.
    pub scope: &'a str,
    /// The name of the secret.
    pub name: &'a str,
}

impl SecretContext<'_> {
    /// Each field behind its length, so that no two contexts have the same bytes.
    fn associated_data(&self) -> Vec<u8> {
        let fields = [
            &self.submitter.public_key()[..],
            self.runner.as_str().as_bytes(),
            self.scope.as_bytes(),
            self.name.as_bytes(),
        ];
        let mut out = Vec::new();
        for field in fields {
            out.extend_from_slice(&(field.len() as u64).to_be_bytes());
            out.extend_from_slice(field);
        }
        out
    }
}

/// Seals `plaintext` to each of the keys in `to`: HPKE in base mode, DHKEM(X25519, HKDF-SHA256),
/// HKDF-SHA256, ChaCha20-Poly1305. A key that is listed twice is sealed to once.
///
/// # Errors
/// [`SealError::Recipients`], [`SealError::TooLong`] or [`SealError::BadKey`].
pub fn seal(plaintext: &[u8], to: &[SealingPublicKey], context: &SecretContext<'_>) -> Result<SealedSecret, SealError> {
    if plaintext.len() > MAX_SECRET_BYTES {
        return Err(SealError::TooLong);
    }
    let mut keys: Vec<SealingPublicKey> = Vec::new();
    for key in to {
        if !keys.contains(key) {
            keys.push(*key);
        }
        if keys.len() > MAX_RECIPIENTS {
            return Err(SealError::Recipients);
        }
    }
    if keys.is_empty() {
        return Err(SealError::Recipients);
    }
    let aad = context.associated_data();
    let recipients = keys
        .into_iter()
        .map(|key| seal_to(key, plaintext, &aad).map_err(|_| SealError::BadKey(key)))
        .collect::<Result<_, _>>()?;
    Ok(SealedSecret { recipients })
}

fn seal_to(key: SealingPublicKey, plaintext: &[u8], aad: &[u8]) -> Result<SealedFor, hpke::HpkeError> {
    let public = <X25519HkdfSha256 as Kem>::PublicKey::from_bytes(key.as_bytes())?;
    let (enc, ciphertext) = hpke::single_shot_seal::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
        &OpModeS::Base,
        &public,
        INFO,
        plaintext,
        aad,
    )?;
    Ok(SealedFor { key, enc: enc.to_bytes().to_vec(), ciphertext })
}

/// The X25519 key that opens secrets. It belongs to the runner process alone and is not the key of
/// the Mycelium daemon. Cheap to clone; zeroized when the last clone goes.
#[derive(Clone)]
pub struct SealingKey(Arc<Inner>);

struct Inner {
    secret: Zeroizing<[u8; 32]>,
    public: SealingPublicKey,
}

impl SealingKey {
    /// Makes a new key from the system's randomness.
    ///
    /// # Panics
    /// If the system has no randomness to give.
    #[must_use]
    pub fn generate() -> Self {
        Self::from_bytes(&random_bytes())
    }

    /// Takes the 32 secret bytes (RFC 7748; clamped when used).
    #[must_use]
    pub fn from_bytes(secret: &[u8; 32]) -> Self {
        let public = SealingPublicKey::from_bytes(public_of(secret));
        Self(Arc::new(Inner { secret: Zeroizing::new(*secret), public }))
    }

    /// The 32 secret bytes, to be kept in `sealing.key`.
    #[must_use]
    pub fn to_bytes(&self) -> Zeroizing<[u8; 32]> {
        self.0.secret.clone()
    }

    /// The key to seal to.
    #[must_use]
    pub fn public(&self) -> SealingPublicKey {
        self.0.public
    }

    /// Opens a secret.
    ///
    /// # Errors
    /// [`SealError::NotForThisKey`], or [`SealError::DoesNotOpen`] if anything was changed, the context
    /// included.
    pub fn open(&self, sealed: &SealedSecret, context: &SecretContext<'_>) -> Result<Zeroizing<Vec<u8>>, SealError> {
        if sealed.recipients.len() > MAX_RECIPIENTS {
            return Err(SealError::Recipients);
        }
        let mine = sealed
            .recipients
            .iter()
            .find(|recipient| recipient.key == self.public())
            .ok_or_else(|| SealError::NotForThisKey(self.public()))?;
        let aad = context.associated_data();
        self.open_mine(mine, &aad).map(Zeroizing::new).map_err(|_| SealError::DoesNotOpen)
    }

    fn open_mine(&self, mine: &SealedFor, aad: &[u8]) -> Result<Vec<u8>, hpke::HpkeError> {
        let secret = <X25519HkdfSha256 as Kem>::PrivateKey::from_bytes(self.0.secret.as_ref())?;
        let enc = <X25519HkdfSha256 as Kem>::EncappedKey::from_bytes(&mine.enc)?;
        hpke::single_shot_open::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
            &OpModeR::Base,
            &secret,
            &enc,
            INFO,
            &mine.ciphertext,
            aad,
        )
    }
}

impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealingKey({})", self.0.public)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Identity;
    use proptest::prelude::*;

    fn kind(text: &str) -> RunnerKind {
        text.parse().unwrap()
    }

    fn context<'a>(runner: &'a RunnerKind, scope: &'a str, name: &'a str) -> SecretContext<'a> {
        SecretContext { submitter: Identity::from_seed(&[1; 32]).peer_id(), runner, scope, name }
    }

    #[test]
    fn each_recipient_opens_the_secret_and_nobody_else() {
        let (a, b, stranger) = (SealingKey::generate(), SealingKey::generate(), SealingKey::generate());
        let hero = kind("hero");
        let context = context(&hero, "wf-1", "TOKEN");
        let sealed = seal(b"s3cret", &[a.public(), b.public(), a.public()], &context).unwrap();
        assert_eq!(sealed.recipients.len(), 2);
        let json = serde_json::to_string(&sealed).unwrap();
        let sealed: SealedSecret = serde_json::from_str(&json).unwrap();
        assert_eq!(a.open(&sealed, &context).unwrap().as_slice(), b"s3cret");
        assert_eq!(b.open(&sealed, &context).unwrap().as_slice(), b"s3cret");
        assert_eq!(stranger.open(&sealed, &context), Err(SealError::NotForThisKey(stranger.public())));
    }

    #[test]
    fn a_ciphertext_that_was_moved_does_not_open() {
        let key = SealingKey::generate();
        let (hero, sal) = (kind("hero"), kind("sal"));
        let good = context(&hero, "wf-1", "TOKEN");
        let sealed = seal(b"s3cret", &[key.public()], &good).unwrap();
        let other_submitter = SecretContext { submitter: Identity::from_seed(&[2; 32]).peer_id(), ..good };
        for moved in [
            context(&sal, "wf-1", "TOKEN"),
            context(&hero, "wf-2", "TOKEN"),
            context(&hero, "wf-1", "PASSWORD"),
            // The same characters, divided otherwise.
            context(&hero, "wf-1T", "OKEN"),
            other_submitter,
        ] {
            assert_eq!(key.open(&sealed, &moved), Err(SealError::DoesNotOpen), "{moved:?}");
        }
        // Nor does one that was sealed to another key, under this key's name.
        let other = SealingKey::generate();
        let mut renamed = seal(b"s3cret", &[other.public()], &good).unwrap();
        renamed.recipients[0].key = key.public();
        assert_eq!(key.open(&renamed, &good), Err(SealError::DoesNotOpen));
    }

    #[test]
    fn any_flipped_bit_is_refused() {
        let key = SealingKey::generate();
        let hero = kind("hero");
        let context = context(&hero, "wf-1", "TOKEN");
        let sealed = seal(b"s3", &[key.public()], &context).unwrap();
        for position in 0..sealed.recipients[0].ciphertext.len() * 8 {
            let mut changed = sealed.clone();
            changed.recipients[0].ciphertext[position / 8] ^= 1 << (position % 8);
            assert_eq!(key.open(&changed, &context), Err(SealError::DoesNotOpen));
        }
        for position in 0..256 {
            let mut changed = sealed.clone();
            changed.recipients[0].enc[position / 8] ^= 1 << (position % 8);
            assert_eq!(key.open(&changed, &context), Err(SealError::DoesNotOpen), "bit {position}");
        }
        for enc in [vec![], vec![0; 32], vec![1; 31]] {
            let mut changed = sealed.clone();
            changed.recipients[0].enc = enc;
            assert_eq!(key.open(&changed, &context), Err(SealError::DoesNotOpen));
        }
    }

    #[test]
    fn limits_are_kept() {
        let key = SealingKey::generate();
        let hero = kind("hero");
        let context = context(&hero, "wf-1", "TOKEN");
        assert_eq!(seal(b"x", &[], &context), Err(SealError::Recipients));
        assert_eq!(seal(&[0; MAX_SECRET_BYTES + 1], &[key.public()], &context), Err(SealError::TooLong));
        let many: Vec<_> = (0..=MAX_RECIPIENTS).map(|_| SealingKey::generate().public()).collect();
        assert_eq!(seal(b"x", &many, &context), Err(SealError::Recipients));
        // A point of small order gives everybody the same shared secret.
        let weak = SealingPublicKey::from_bytes([0; 32]);
        assert_eq!(seal(b"x", &[weak], &context), Err(SealError::BadKey(weak)));
    }

    #[test]
    fn the_key_is_not_printed() {
        let key = SealingKey::generate();
        let shown = format!("{key:?}");
        assert!(!shown.contains(&hex::encode(*key.to_bytes())) && shown.contains(&key.public().to_string()));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn any_secret_comes_back(secret in proptest::collection::vec(any::<u8>(), 0..500), seed in any::<[u8; 32]>()) {
            let key = SealingKey::from_bytes(&seed);
            let sal = kind("sal");
            let context = context(&sal, "j", "n");
            let sealed = seal(&secret, &[key.public()], &context).unwrap();
            let opened = key.open(&sealed, &context).unwrap();
            prop_assert_eq!(opened.as_slice(), &secret[..]);
        }
    }
}
