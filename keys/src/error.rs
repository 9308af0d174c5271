//! Errors of parsing keys and plain values.

use thiserror::Error;

/// Why a key, or the text of one, was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum KeyError {
    /// The text is not the PeerId of an Ed25519 key.
    #[error(
        "`{text}` is not a PeerId ({reason}); a PeerId looks like 12D3KooW... (52 characters), as `horus keys show` prints it"
    )]
    NotAPeerId {
        /// The text, shortened.
        text: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The 32 bytes are not a public key that a signature can be checked with.
    #[error("these 32 bytes are no usable Ed25519 public key ({0}); ask the owner of the key for its PeerId again")]
    InvalidPublicKey(&'static str),
    /// The text is not 64 hexadecimal digits.
    #[error("`{0}` is not a key in hexadecimal: 64 digits 0-9a-f were expected")]
    NotHex(String),
    /// The PEM text holds no Ed25519 private key in PKCS#8.
    #[error("this PEM holds no Ed25519 private key in PKCS#8 ({0}); make one with `horus keys generate`")]
    Pem(String),
    /// The PEM is encrypted and no passphrase was given.
    #[error("this private key is encrypted: a passphrase is needed")]
    PassphraseNeeded,
    /// The passphrase does not open the PEM.
    #[error("the passphrase does not open this private key, or the file is damaged")]
    WrongPassphrase,
    /// The PEM demands more memory or time for its passphrase than is reasonable.
    #[error("this private key's passphrase settings are out of bounds ({0}); refusing to spend the memory")]
    PassphraseCost(String),
}

/// Why the text of a plain value (digest, time, duration, role, runner kind) was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{text}` is not {expected}")]
pub struct ValueError {
    text: String,
    expected: &'static str,
}

impl ValueError {
    /// `expected` finishes the sentence "`text` is not ...".
    pub(crate) fn new(text: &str, expected: &'static str) -> Self {
        Self { text: excerpt(text), expected }
    }
}

/// At most 80 characters of `text`, with control characters made visible: what was refused may be
/// hostile, and ends up in logs and terminals.
pub(crate) fn excerpt(text: &str) -> String {
    const MAX: usize = 80;
    let mut out = String::new();
    for (i, c) in text.chars().enumerate() {
        if i == MAX {
            out.push_str("...");
            break;
        }
        if c.is_control() {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}
