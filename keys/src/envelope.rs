//! Signed documents: DSSE v1 (<https://github.com/secure-systems-lab/dsse>).

use std::borrow::Cow;
use std::fmt;
use std::sync::{Arc, OnceLock};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use ed25519_dalek::Signature;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

use crate::digest::Digest;
use crate::error::{KeyError, ValueError};
use crate::identity::Identity;
use crate::payload_type::PayloadType;
use crate::peer_id::PeerId;
use crate::verified::Verified;

/// The longest JSON text of an envelope that is read, in bytes; the RPC limits are lower.
const MAX_JSON_BYTES: usize = 16 << 20;
/// How many signatures an envelope may carry.
const MAX_SIGNATURES: usize = 8;

/// Why an envelope was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EnvelopeError {
    /// The JSON is not that of a DSSE envelope.
    #[error("not a signed envelope: {0}; send the JSON that `horus keys sign` prints, unchanged")]
    Malformed(String),
    /// The envelope holds another kind of document than was asked for.
    #[error("the envelope holds {found}, but {expected} is needed here")]
    WrongType {
        /// What the caller needs.
        expected: PayloadType,
        /// What the envelope says it holds.
        found: PayloadType,
    },
    /// A signature does not fit the payload. One bad signature voids the whole envelope.
    #[error("the signature of {keyid} does not match the payload: it was changed on the way, or another key signed it")]
    BadSignature {
        /// The key that was said to have signed.
        keyid: PeerId,
    },
    /// More than 8 signatures.
    #[error("an envelope carries at most 8 signatures")]
    TooManySignatures,
    /// More bytes than an envelope may have.
    #[error("the envelope is longer than {limit} bytes")]
    TooLarge {
        /// The limit, in bytes.
        limit: usize,
    },
    /// The signatures are good, but the payload is not a document of its type.
    #[error("the payload is not valid {expected}: {reason}")]
    Payload {
        /// What the payload should be.
        expected: PayloadType,
        /// What the JSON parser says.
        reason: String,
    },
}

/// A payload, what it is, and who signed it: nothing is proven before [`Envelope::verify`].
///
/// Cheap to clone. In JSON it is a DSSE envelope, `{payload, payloadType, signatures: [{keyid, sig}]}`,
/// with standard base64; URL-safe base64 is read too.
#[derive(Clone, PartialEq, Eq)]
pub struct Envelope(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    payload_type: PayloadType,
    payload: Vec<u8>,
    digest: OnceLock<Digest>,
    signatures: Vec<Signed>,
}

impl PartialEq for Inner {
    fn eq(&self, other: &Self) -> bool {
        self.payload_type == other.payload_type && self.payload == other.payload && self.signatures == other.signatures
    }
}

impl Eq for Inner {}

#[derive(Clone, PartialEq, Eq)]
struct Signed {
    keyid: PeerId,
    sig: [u8; 64],
}

impl Envelope {
    /// Signs `payload` as a document of type `payload_type`.
    #[must_use]
    pub fn sign(identity: &Identity, payload_type: PayloadType, payload: Vec<u8>) -> Self {
        let sig = identity.sign(&pae(payload_type.as_str(), &payload));
        Self(Arc::new(Inner {
            payload_type,
            payload,
            digest: OnceLock::new(),
            signatures: vec![Signed { keyid: identity.peer_id(), sig }],
        }))
    }

    /// Serialises `document` once and signs those bytes.
    ///
    /// # Panics
    /// If `document` cannot be written as JSON (a map with keys that are not text). No type of Horus
    /// is such.
    #[must_use]
    pub fn sign_json<T: Serialize + ?Sized>(identity: &Identity, payload_type: PayloadType, document: &T) -> Self {
        let payload = serde_json::to_vec(document).expect("documents have text keys only");
        Self::sign(identity, payload_type, payload)
    }

    /// Adds the signature of another key over the same payload. A key that has signed already is left
    /// as it is.
    ///
    /// # Errors
    /// [`EnvelopeError::TooManySignatures`] beyond 8.
    pub fn add_signature(&mut self, identity: &Identity) -> Result<(), EnvelopeError> {
        let keyid = identity.peer_id();
        if self.keyids().any(|signer| signer == keyid) {
            return Ok(());
        }
        if self.0.signatures.len() >= MAX_SIGNATURES {
            return Err(EnvelopeError::TooManySignatures);
        }
        let sig = identity.sign(&pae(self.0.payload_type.as_str(), &self.0.payload));
        Arc::make_mut(&mut self.0).signatures.push(Signed { keyid, sig });
        Ok(())
    }

    /// Reads the JSON of an envelope. Nothing is verified yet.
    ///
    /// # Errors
    /// [`EnvelopeError::Malformed`] unless there is exactly one each of the three fields, 1 to 8
    /// signatures by different keys, a known payload type and canonical base64;
    /// [`EnvelopeError::TooLarge`] beyond 16 MiB. Unknown fields are ignored, as DSSE asks for.
    pub fn from_json(json: &[u8]) -> Result<Self, EnvelopeError> {
        if json.len() > MAX_JSON_BYTES {
            return Err(EnvelopeError::TooLarge { limit: MAX_JSON_BYTES });
        }
        let raw: RawEnvelope<'_> = serde_json::from_slice(json).map_err(|e| EnvelopeError::Malformed(e.to_string()))?;
        raw.decode()
    }

    /// The JSON of the envelope, without spaces.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("an envelope is text only")
    }

    /// What the envelope says it holds.
    #[must_use]
    pub fn payload_type(&self) -> PayloadType {
        self.0.payload_type
    }

    /// The payload, unverified: to store and to pass on. To read it, [`Envelope::verify`] first.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.0.payload
    }

    /// The SHA-256 of the payload, computed once. Two envelopes are the same if their digests are.
    #[must_use]
    pub fn digest(&self) -> Digest {
        *self.0.digest.get_or_init(|| Digest::of(&self.0.payload))
    }

    /// The keys that are said to have signed, unverified, in the order of the signatures.
    pub fn keyids(&self) -> impl ExactSizeIterator<Item = PeerId> + '_ {
        self.0.signatures.iter().map(|signed| signed.keyid)
    }

    /// Checks the type and every signature (RFC 8032 without its leniencies: dalek's `verify_strict`,
    /// one by one). Says nothing about whether the signers are trusted: ask [`crate::Trust`].
    ///
    /// # Errors
    /// [`EnvelopeError::WrongType`], or [`EnvelopeError::BadSignature`] if any signature is bad.
    pub fn verify(&self, expected: PayloadType) -> Result<Verified, EnvelopeError> {
        let found = self.0.payload_type;
        if found != expected {
            return Err(EnvelopeError::WrongType { expected, found });
        }
        let message = pae(found.as_str(), &self.0.payload);
        for Signed { keyid, sig } in &self.0.signatures {
            keyid
                .verifying_key()
                .verify_strict(&message, &Signature::from_bytes(sig))
                .map_err(|_| EnvelopeError::BadSignature { keyid: *keyid })?;
        }
        Ok(Verified::new(self.clone()))
    }
}

impl fmt::Debug for Envelope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Envelope")
            .field("payload_type", &self.0.payload_type)
            .field("digest", &self.digest())
            .field("keyids", &self.keyids().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

/// DSSE's pre-authentication encoding: what is actually signed.
fn pae(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let head = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len());
    let mut out = Vec::with_capacity(head.len() + payload.len());
    out.extend_from_slice(head.as_bytes());
    out.extend_from_slice(payload);
    out
}

/// The JSON form, borrowed where the parser can.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawEnvelope<'a> {
    #[serde(borrow)]
    payload: Cow<'a, str>,
    #[serde(borrow)]
    payload_type: Cow<'a, str>,
    #[serde(borrow)]
    signatures: Vec<RawSignature<'a>>,
}

#[derive(Deserialize)]
struct RawSignature<'a> {
    #[serde(borrow)]
    keyid: Cow<'a, str>,
    #[serde(borrow)]
    sig: Cow<'a, str>,
}

impl RawEnvelope<'_> {
    fn decode(self) -> Result<Envelope, EnvelopeError> {
        match self.signatures.len() {
            0 => return Err(EnvelopeError::Malformed("it carries no signature".into())),
            1..=MAX_SIGNATURES => {}
            _ => return Err(EnvelopeError::TooManySignatures),
        }
        let payload_type =
            self.payload_type.parse().map_err(|e: ValueError| EnvelopeError::Malformed(e.to_string()))?;
        let mut signatures: Vec<Signed> = Vec::with_capacity(self.signatures.len());
        for raw in &self.signatures {
            let keyid = raw.keyid.parse().map_err(|e: KeyError| EnvelopeError::Malformed(format!("keyid: {e}")))?;
            if signatures.iter().any(|signed| signed.keyid == keyid) {
                return Err(EnvelopeError::Malformed(format!("{keyid} signed twice")));
            }
            let sig = decode_base64(&raw.sig, "sig")?
                .try_into()
                .map_err(|_| EnvelopeError::Malformed("sig is not 64 bytes long".into()))?;
            signatures.push(Signed { keyid, sig });
        }
        let payload = decode_base64(&self.payload, "payload")?;
        Ok(Envelope(Arc::new(Inner { payload_type, payload, digest: OnceLock::new(), signatures })))
    }
}

/// Both alphabets, never mixed, padded, and with the unused bits of the last digit zero: otherwise
/// one payload would have several texts.
fn decode_base64(text: &str, field: &str) -> Result<Vec<u8>, EnvelopeError> {
    let engine = if text.bytes().any(|b| matches!(b, b'-' | b'_')) { &URL_SAFE } else { &STANDARD };
    engine.decode(text).map_err(|e| EnvelopeError::Malformed(format!("{field} is not canonical base64: {e}")))
}

impl Serialize for Envelope {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        EnvelopeJson {
            payload: STANDARD.encode(&self.0.payload),
            payload_type: self.0.payload_type,
            signatures: self
                .0
                .signatures
                .iter()
                .map(|s| SignatureJson { keyid: s.keyid, sig: STANDARD.encode(s.sig) })
                .collect(),
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Envelope {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        RawEnvelope::deserialize(deserializer)?.decode().map_err(serde::de::Error::custom)
    }
}

/// A signed document: a DSSE v1 envelope.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Envelope")]
struct EnvelopeJson {
    /// The signed document, in base64.
    payload: String,
    payload_type: PayloadType,
    /// 1 to 8 signatures by different keys.
    #[schemars(length(min = 1, max = 8))]
    signatures: Vec<SignatureJson>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Signature")]
struct SignatureJson {
    keyid: PeerId,
    /// Ed25519 signature over the DSSE pre-authentication encoding, in base64.
    sig: String,
}

impl JsonSchema for Envelope {
    fn schema_name() -> Cow<'static, str> {
        EnvelopeJson::schema_name()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        EnvelopeJson::json_schema(generator)
    }
}

#[cfg(test)]
mod tests;
