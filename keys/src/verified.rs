//! Proof that an envelope was verified.

use std::sync::Arc;

use serde::de::DeserializeOwned;

use crate::digest::Digest;
use crate::envelope::{Envelope, EnvelopeError};
use crate::json::{MAX_JSON_DEPTH, check_json_depth};
use crate::payload_type::PayloadType;
use crate::peer_id::PeerId;

/// An envelope of which every signature was checked. Only [`Envelope::verify`] makes one.
#[derive(Debug, Clone)]
pub struct Verified {
    envelope: Envelope,
    signers: Arc<[PeerId]>,
}

impl Verified {
    pub(crate) fn new(envelope: Envelope) -> Self {
        let signers = envelope.keyids().collect();
        Self { envelope, signers }
    }

    /// The very bytes that were signed.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        self.envelope.payload()
    }

    /// What the payload is.
    #[must_use]
    pub fn payload_type(&self) -> PayloadType {
        self.envelope.payload_type()
    }

    /// The SHA-256 of the payload.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.envelope.digest()
    }

    /// All keys that signed, at least one, each once.
    #[must_use]
    pub fn signers(&self) -> &[PeerId] {
        &self.signers
    }

    /// The key that signed first.
    #[must_use]
    pub fn signer(&self) -> PeerId {
        self.signers[0]
    }

    /// The envelope, to store and to pass on.
    #[must_use]
    pub fn envelope(&self) -> &Envelope {
        &self.envelope
    }

    /// Reads the payload as JSON.
    ///
    /// # Errors
    /// [`EnvelopeError::Payload`] if it is not UTF-8, nests deeper than [`MAX_JSON_DEPTH`], or is no `T`.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, EnvelopeError> {
        let refuse = |reason| EnvelopeError::Payload { expected: self.payload_type(), reason };
        let text = std::str::from_utf8(self.payload()).map_err(|_| refuse("not UTF-8".into()))?;
        if !check_json_depth(text.as_bytes(), MAX_JSON_DEPTH) {
            return Err(refuse(format!("nested deeper than {MAX_JSON_DEPTH}")));
        }
        serde_json::from_str(text).map_err(|e| refuse(e.to_string()))
    }
}
