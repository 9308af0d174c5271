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
    ///
    /// They are the secret scalar of the Ed25519 key itself (the first half of SHA-512 of the seed), and
    /// signing takes no more than that: whoever has them, the daemon included, can sign as this identity.
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
        let pair = KeypairBytes { secret_key: self.0.key.to_bytes(), public_key: None };
        let plain = pair.to_pkcs8_der().map_err(pem_error)?;
        let (label, document) = match passphrase {
            None => ("PRIVATE KEY", plain),
            Some("") => return Err(KeyError::Pem("an empty passphrase protects nothing".into())),
            Some(passphrase) => {
                let parameters = pbes2::Parameters::generate_scrypt(&mut SysRng).map_err(pem_error)?;
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
            Some(public) if public.as_ref() != identity.peer_id().public_key() => {
                Err(KeyError::Pem("its public key does not belong to its private key".into()))
            }
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
    encrypted.decrypt(passphrase).map_err(|_| KeyError::WrongPassphrase)
}

/// An imported file may ask for any amount of memory; say no before it is spent.
fn check_cost(scheme: &EncryptionScheme) -> Result<(), KeyError> {
    let parameters = scheme.pbes2().ok_or_else(|| KeyError::Pem("encrypted with something older than PBES2".into()))?;
    if let Some(scrypt) = parameters.kdf.scrypt() {
        let memory = 128u64.saturating_mul(scrypt.cost_parameter).saturating_mul(u64::from(scrypt.block_size));
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
        return Err(KeyError::PassphraseCost(format!("PBKDF2 with {} rounds", pbkdf2.iteration_count)));
    }
    Ok(())
}

fn pem_error(error: impl fmt::Display) -> KeyError {
    KeyError::Pem(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    /// RFC 8032, section 7.1, test 2: one byte, 0x72.
    #[test]
    fn signatures_are_those_of_rfc_8032() {
        let seed: [u8; 32] = hex::decode("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
            .unwrap()
            .try_into()
            .unwrap();
        let identity = Identity::from_seed(&seed);
        assert_eq!(
            hex::encode(identity.peer_id().public_key()),
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
        );
        assert_eq!(
            hex::encode(identity.sign(&[0x72])),
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da\
             085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
        );
    }

    #[test]
    fn keys_are_all_different_and_secrets_are_not_printed() {
        let (a, b) = (Identity::generate(), Identity::generate());
        assert_ne!(a.peer_id(), b.peer_id());
        assert_eq!(format!("{a:?}"), format!("Identity({})", a.peer_id()));
    }

    #[test]
    fn pem_leads_back_to_the_key() {
        let identity = Identity::generate();
        let pem = identity.to_pkcs8_pem(None).unwrap();
        assert!(!is_encrypted_pem(&pem));
        assert_eq!(Identity::from_pkcs8_pem(&pem, None).unwrap().peer_id(), identity.peer_id());
        assert!(Identity::from_pkcs8_pem(&pem, Some("ignored")).is_ok());
    }

    #[test]
    fn an_encrypted_pem_opens_with_its_passphrase_only() {
        let identity = Identity::generate();
        let pem = identity.to_pkcs8_pem(Some("correct horse")).unwrap();
        assert!(is_encrypted_pem(&pem));
        let open = |passphrase| Identity::from_pkcs8_pem(&pem, passphrase).map(|i| i.peer_id());
        assert_eq!(open(Some("correct horse")), Ok(identity.peer_id()));
        assert_eq!(open(None), Err(KeyError::PassphraseNeeded));
        assert_eq!(open(Some("battery staple")), Err(KeyError::WrongPassphrase));
        assert!(matches!(identity.to_pkcs8_pem(Some("")), Err(KeyError::Pem(_))));
        assert_ne!(*pem, *identity.to_pkcs8_pem(Some("correct horse")).unwrap(), "the salt is random");
    }

    #[test]
    fn what_holds_no_such_key_is_refused() {
        for pem in [
            "",
            "not a PEM",
            "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
            "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n",
            // X25519 in place of Ed25519: the OID ends in 110, not 112.
            "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VuBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n-----END PRIVATE KEY-----\n",
            &"A".repeat(MAX_PEM_BYTES + 1),
        ] {
            assert!(matches!(Identity::from_pkcs8_pem(pem, None), Err(KeyError::Pem(_))), "{pem:.60}");
        }
    }

    #[test]
    fn a_pem_that_asks_for_gigabytes_is_refused() {
        let params = pkcs8::pkcs5::scrypt::Params::new(22, 8, 1).unwrap();
        let scheme = pbes2::Parameters::generate_scrypt_aes256cbc(params, &[1; 16], [2; 16]).unwrap();
        assert!(matches!(check_cost(&scheme.into()), Err(KeyError::PassphraseCost(_))));
        let scheme = pbes2::Parameters::generate_pbkdf2_sha256_aes256cbc(99_000_000, &[1; 16], [2; 16]).unwrap();
        assert!(matches!(check_cost(&scheme.into()), Err(KeyError::PassphraseCost(_))));
    }

    /// RFC 8410, section 10.3: version 1, and version 2 with the public key.
    #[test]
    fn the_keys_of_rfc_8410_are_read() {
        let v1 = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n-----END PRIVATE KEY-----\n";
        let v2 = "-----BEGIN PRIVATE KEY-----\nMHICAQEwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\noB8wHQYKKoZIhvcNAQkJFDEPDA1DdXJkbGUgQ2hhaXJzgSEAGb9ECWmEzf6FQbrB\nZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PRIVATE KEY-----\n";
        let expected = "19bf44096984cdfe8541bac167dc3b96c85086aa30b6b6cb0c5c38ad703166e1";
        for pem in [v1, v2] {
            let identity = Identity::from_pkcs8_pem(pem, None).unwrap();
            assert_eq!(hex::encode(identity.peer_id().public_key()), expected);
        }
        let other_key = v2.replace("Z9w7lshQ", "Z9w7lshR");
        assert!(Identity::from_pkcs8_pem(&other_key, None).is_err());
    }

    /// What `openssl` makes of the PEM: the public key, as DER. `None` if there is no openssl here.
    fn openssl_public_key(pem: &str, passphrase: &str) -> Option<Vec<u8>> {
        let mut child = Command::new("openssl")
            .args(["pkey", "-pubout", "-outform", "DER", "-passin", &format!("pass:{passphrase}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .ok()?;
        child.stdin.take().unwrap().write_all(pem.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "openssl does not read\n{pem}");
        Some(output.stdout)
    }

    #[test]
    fn openssl_reads_the_pem() {
        let identity = Identity::generate();
        for passphrase in [None, Some("correct horse")] {
            let pem = identity.to_pkcs8_pem(passphrase).unwrap();
            let Some(der) = openssl_public_key(&pem, passphrase.unwrap_or("unused")) else { return };
            assert!(der.ends_with(identity.peer_id().public_key()));
        }
    }
}
