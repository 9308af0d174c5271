//! SHA-256 digests.

use std::fmt;
use std::str::FromStr;

use sha2::Digest as _;

use crate::error::ValueError;
use crate::text::{text_value, write_hex};

/// A SHA-256 digest (FIPS 180-4), written `sha256:<64 lowercase hexadecimal digits>`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Computes the digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(sha2::Sha256::digest(bytes).into())
    }

    /// Takes a digest that was computed elsewhere.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The 64 lowercase hexadecimal digits, without `sha256:`.
    #[must_use]
    pub fn hex(&self) -> String {
        hex::encode(self.0)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        write_hex(&self.0, f)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = ValueError;

    /// Uppercase digits are refused: a digest is compared and stored as text, so it has one form.
    fn from_str(text: &str) -> Result<Self, ValueError> {
        let refuse = || ValueError::new(text, "a digest: `sha256:` and 64 lowercase hexadecimal digits");
        let digits = text.strip_prefix("sha256:").ok_or_else(refuse)?;
        let mut bytes = [0u8; 32];
        if digits.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(refuse());
        }
        hex::decode_to_slice(digits, &mut bytes).map_err(|_| refuse())?;
        Ok(Self(bytes))
    }
}

text_value!(Digest, schema: {
    "type": "string",
    "description": "SHA-256 digest",
    "pattern": "^sha256:[0-9a-f]{64}$"
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_is_sha_256_and_has_one_text() {
        // FIPS 180-4, "abc".
        let text = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(Digest::of(b"abc").to_string(), text);
        assert_eq!(text.parse::<Digest>().unwrap(), Digest::of(b"abc"));
        assert_eq!(Digest::of(b"abc").hex(), text[7..]);
        let json = serde_json::to_string(&Digest::of(b"abc")).unwrap();
        assert_eq!(json, format!("\"{text}\""));
        assert_eq!(serde_json::from_str::<Digest>(&json).unwrap(), Digest::of(b"abc"));
    }

    #[test]
    fn every_other_text_is_refused() {
        let good = Digest::of(b"abc").to_string();
        for bad in [
            String::new(),
            good[7..].to_owned(),
            good.to_uppercase(),
            good.replace("sha256:ba", "sha256:BA"),
            format!("{good}0"),
            good[..70].to_owned(),
            format!(" {good}"),
            good.replace("sha256", "sha512"),
        ] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
    }
}
