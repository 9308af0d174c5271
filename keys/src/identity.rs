//! The key behind a name.

use std::fmt;
use std::sync::Arc;

use ed25519_dalek::pkcs8::KeypairBytes;
use ed25519_dalek::{Signer, SigningKey};
use getrandom::SysRng;
use pkcs8::der::SecretDocument;
use pkcs8::der::pem::PemLabel;
use pkcs8::pkcs5::{EncryptionScheme, pbes2};
use pkcs8::{EncodePrivateKey, EncryptedPrivateKeyInfoRef, LineEnding, PrivateKeyInfoRef};
use zeroize::Zeroizing;

use crate::error::KeyError;
use crate::peer_id::PeerId;

/// An Ed25519 signing key (RFC 8032). Cheap to clone; zeroized when the last clone goes; prints as
/// `Identity(12D3KooW...)`.
#[derive(Clone)]
pub struct Identity(Arc<Inner>);

struct Inner {
    // Wipes itself when dropped.
    key: SigningKey,
    peer_id: PeerId,
}

impl Identity {
    /// Makes a new key from the system's randomness.
    ///
    /// # Panics
    /// If the system has no randomness to give: nothing safe could be done without it.
    #[must_use]
    pub fn generate() -> Self {
        Self::from_seed(&random_bytes())
    }

    /// The key of a seed: the 32 secret bytes of RFC 8032, the same on every machine.
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        let key = SigningKey::from_bytes(seed);
        let peer_id = PeerId::of_verifying_key(&key.verifying_key());
        Self(Arc::new(Inner { key, peer_id }))
    }

    /// The name of the key.
    #[must_use]
    pub fn peer_id(&self) -> PeerId {
        self.0.peer_id
    }

    /// Signs `message` (pure Ed25519, deterministic).
    ///
    /// Nothing in Horus is signed bare: use [`crate::Envelope::sign`], which says what the bytes are.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.key.sign(message).to_bytes()
    }

    /// The X25519 secret of the same seed: the 32 raw bytes that `mycelium -k` reads.
    #[must_use]
    pub fn mesh_secret(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.key.to_scalar_bytes())
    }

    /// The seed. Whoever has it is this identity.
    #[must_use]
    pub fn seed(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.key.to_bytes())
    }

    /// The key as PEM in PKCS#8 (RFC 5958, RFC 8410), with a passphrase encrypted by PBES2 with
    /// scrypt (N 2^14, r 8, p 1) and AES-256-CBC, which OpenSSL 1.1 and newer read.
    ///
    /// # Errors
    /// [`KeyError::Pem`] if the passphrase is empty (it would protect nothing) or encoding fails.
    pub fn to_pkcs8_pem(&self, passphrase: Option<&str>) -> Result<Zeroizing<String>, KeyError> {
        // Version 1, without the public key: OpenSSL 3.0 does not read version 2.
        let pair = KeypairBytes {
            secret_key: self.0.key.to_bytes(),
            public_key: None,
        };
        let plain = pair.to_pkcs8_der().map_err(pem_error)?;
        let (label, document) = match passphrase {
            None => ("PRIVATE KEY", plain),
            Some("") => return Err(KeyError::Pem("an empty passphrase protects nothing".into())),
            Some(passphrase) => {
                let parameters =
                    pbes2::Parameters::generate_scrypt(&mut SysRng).map_err(pem_error)?;
                let encrypted = PrivateKeyInfoRef::try_from(plain.as_bytes())
                    .and_then(|info| info.encrypt_with_params(parameters, passphrase))
                    .map_err(pem_error)?;
                (ENCRYPTED_LABEL, encrypted)
            }
        };
        document.to_pem(label, LineEnding::LF).map_err(pem_error)
    }

    /// Reads PEM in PKCS#8, version 1 or 2, plain or encrypted with PBES2. A passphrase given for a
    /// plain PEM is ignored.
    ///
    /// # Errors
    /// [`KeyError::PassphraseNeeded`] or [`KeyError::WrongPassphrase`] for an encrypted PEM,
    /// [`KeyError::PassphraseCost`] if its settings ask for more than 256 MiB or an unreasonable time,
    /// else [`KeyError::Pem`].
    pub fn from_pkcs8_pem(pem: &str, passphrase: Option<&str>) -> Result<Self, KeyError> {
        if pem.len() > MAX_PEM_BYTES {
            return Err(KeyError::Pem(format!("longer than {MAX_PEM_BYTES} bytes")));
        }
        let (label, document) = SecretDocument::from_pem(pem).map_err(pem_error)?;
        let document = match label {
            "PRIVATE KEY" => document,
            ENCRYPTED_LABEL => {
                let passphrase = passphrase.ok_or(KeyError::PassphraseNeeded)?;
                decrypt(&document, passphrase)?
            }
            _ => return Err(KeyError::Pem("the label is not PRIVATE KEY".into())),
        };
        let pair = KeypairBytes::try_from(document.as_bytes()).map_err(pem_error)?;
        let identity = Self::from_seed(&pair.secret_key);
        match &pair.public_key {
            Some(public) if public.as_ref() != identity.peer_id().public_key() => Err(
                KeyError::Pem("its public key does not belong to its private key".into()),
            ),
            _ => Ok(identity),
        }
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.0.peer_id)
    }
}

const ENCRYPTED_LABEL: &str = EncryptedPrivateKeyInfoRef::PEM_LABEL;
const MAX_PEM_BYTES: usize = 64 * 1024;

/// Whether the PEM needs a passphrase, by its label alone.
#[must_use]
pub fn is_encrypted_pem(pem: &str) -> bool {
    pem.contains("-----BEGIN ENCRYPTED PRIVATE KEY-----")
}

/// 32 bytes of the system's randomness, wiped after use.
pub(crate) fn random_bytes() -> Zeroizing<[u8; 32]> {
    let mut bytes = Zeroizing::new([0u8; 32]);
    getrandom::fill(bytes.as_mut()).expect("the system has randomness to give");
    bytes
}

fn decrypt(document: &SecretDocument, passphrase: &str) -> Result<SecretDocument, KeyError> {
    let encrypted = EncryptedPrivateKeyInfoRef::try_from(document.as_bytes()).map_err(pem_error)?;
    check_cost(&encrypted.encryption_algorithm)?;
    encrypted
        .decrypt(passphrase)
        .map_err(|_| KeyError::WrongPassphrase)
}

/// An imported file may ask for any amount of memory; say no before it is spent.
fn check_cost(scheme: &EncryptionScheme) -> Result<(), KeyError> {
    let parameters = scheme
        .pbes2()
        .ok_or_else(|| KeyError::Pem("encrypted with something older than PBES2".into()))?;
    if let Some(scrypt) = parameters.kdf.scrypt() {
        let memory = 128u64
            .saturating_mul(scrypt.cost_parameter)
            .saturating_mul(u64::from(scrypt.block_size));
        if memory > 256 << 20 || scrypt.parallelization > 16 {
            return Err(KeyError::PassphraseCost(format!(
                "scrypt N {}, r {}, p {}",
                scrypt.cost_parameter, scrypt.block_size, scrypt.parallelization
            )));
        }
    }
    if let Some(pbkdf2) = parameters.kdf.pbkdf2()
        && pbkdf2.iteration_count > 10_000_000
    {
        return Err(KeyError::PassphraseCost(format!(
            "PBKDF2 with {} rounds",
            pbkdf2.iteration_count
        )));
    }
    Ok(())
}

fn pem_error(error: impl fmt::Display) -> KeyError {
    KeyError::Pem(error.to_string())
}
