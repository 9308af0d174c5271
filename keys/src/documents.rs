//! The documents that this crate itself signs and reads: announcements, certificates, bindings.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::envelope::{Envelope, EnvelopeError};
use crate::identity::Identity;
use crate::overlay::{MeshPublicKey, SealingPublicKey};
use crate::payload_type::PayloadType;
use crate::peer_id::PeerId;
use crate::role::Role;
use crate::runner_kind::{RunnerKind, RunnerPattern};
use crate::timestamp::Timestamp;
use crate::verified::Verified;

/// Entries in any list of an announcement.
const MAX_ANNOUNCED: usize = 256;
/// Bytes in a topic (Mycelium's own limit).
const MAX_TOPIC_BYTES: usize = 255;
/// Bytes in an address.
const MAX_ADDRESS_BYTES: usize = 512;
/// Runner kinds in a certificate: it must fit into the header of a call.
const MAX_CERTIFIED_RUNNERS: usize = 64;
/// Bytes in the name of a key.
const MAX_NAME_BYTES: usize = 128;

/// Why a signed document was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DocumentError {
    /// The envelope or its JSON is bad.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    /// The document is past its time.
    #[error(
        "this {what} by {signer} expired at {expired_at}; ask for a new one, and compare the clocks of both machines"
    )]
    Expired {
        /// The kind of document.
        what: &'static str,
        /// Who signed it.
        signer: PeerId,
        /// When it expired.
        expired_at: Timestamp,
    },
    /// The document contradicts itself or breaks a limit.
    #[error("this {what} is not valid: {reason}")]
    Invalid {
        /// The kind of document.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

fn invalid(what: &'static str, reason: impl Into<String>) -> DocumentError {
    DocumentError::Invalid { what, reason: reason.into() }
}

/// Who speaks for itself signs alone: a second signature would make "by whom" ambiguous.
fn only_signer(verified: &Verified, what: &'static str) -> Result<PeerId, DocumentError> {
    match verified.signers() {
        [signer] => Ok(*signer),
        _ => Err(invalid(what, "it must carry exactly one signature")),
    }
}

/// What a node says about itself: `node+json`, signed by the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NodeAnnouncement {
    /// The roles it plays.
    pub roles: Vec<Role>,
    /// The Mycelium topics it serves.
    #[serde(default)]
    pub topics: Vec<String>,
    /// The runner kinds it answers for.
    #[serde(default)]
    pub runners: Vec<RunnerKind>,
    /// Where it can be reached, the preferred address first.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// The key of the Mycelium daemon on its host, which gives the overlay address it lives at.
    #[serde(default)]
    pub mesh_public_key: Option<MeshPublicKey>,
    /// The key that secrets for it are sealed to.
    #[serde(default)]
    pub sealing_public_key: Option<SealingPublicKey>,
    /// From then on it must be disregarded.
    pub expires_at: Timestamp,
}

impl NodeAnnouncement {
    const WHAT: &'static str = "announcement";

    /// Signs the announcement with the key of the node.
    #[must_use]
    pub fn sign(&self, node: &Identity) -> Envelope {
        Envelope::sign_json(node, PayloadType::Node, self)
    }

    /// Verifies an announcement and tells by whom it is. Whether that key is trusted is another
    /// question: ask [`crate::Trust`].
    ///
    /// # Errors
    /// [`DocumentError`] if the envelope is bad, several keys signed, a list is longer than 256, or it
    /// has expired at `now`.
    pub fn check(envelope: &Envelope, now: Timestamp) -> Result<(PeerId, Self), DocumentError> {
        let verified = envelope.verify(PayloadType::Node)?;
        let signer = only_signer(&verified, Self::WHAT)?;
        let node: Self = verified.parse()?;
        let lengths = [node.roles.len(), node.topics.len(), node.runners.len(), node.addresses.len()];
        if lengths.into_iter().any(|length| length > MAX_ANNOUNCED) {
            return Err(invalid(Self::WHAT, format!("a list is longer than {MAX_ANNOUNCED}")));
        }
        if node.topics.iter().any(|topic| topic.len() > MAX_TOPIC_BYTES) {
            return Err(invalid(Self::WHAT, format!("a topic is longer than {MAX_TOPIC_BYTES} bytes")));
        }
        if node.addresses.iter().any(|address| address.len() > MAX_ADDRESS_BYTES) {
            return Err(invalid(Self::WHAT, format!("an address is longer than {MAX_ADDRESS_BYTES} bytes")));
        }
        let expired_at = node.expires_at;
        if expired_at <= now {
            return Err(DocumentError::Expired { what: Self::WHAT, signer, expired_at });
        }
        Ok((signer, node))
    }
}

/// What an owner says about another key: `member+json`.
///
/// Unknown fields are refused, unlike elsewhere: what this version does not understand might have
/// been meant to restrict the certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// The key that is certified.
    pub peer_id: PeerId,
    /// How people call it; at most 128 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The roles it may act in. Never owner: owners are named in `trust.toml` only.
    pub roles: Vec<Role>,
    /// The runner kinds it may submit to or run; `*` is all, none is none. At most 64.
    pub runners: Vec<RunnerPattern>,
    /// From then on it grants nothing.
    pub expires_at: Timestamp,
}

impl Certificate {
    const WHAT: &'static str = "certificate";

    /// Signs the certificate with the key of an owner.
    ///
    /// # Errors
    /// [`DocumentError::Invalid`] if no verifier would accept it.
    pub fn sign(&self, owner: &Identity) -> Result<Envelope, DocumentError> {
        self.validate()?;
        Ok(Envelope::sign_json(owner, PayloadType::Member, self))
    }

    /// Verifies the signatures and the form of a certificate. Whether a signer is an owner and whether
    /// it is expired or revoked is for [`crate::Trust::present`].
    ///
    /// # Errors
    /// [`DocumentError`] if the envelope is bad or the certificate grants what none may grant.
    pub fn read(envelope: &Envelope) -> Result<(Verified, Self), DocumentError> {
        let verified = envelope.verify(PayloadType::Member)?;
        let certificate: Self = verified.parse()?;
        certificate.validate()?;
        Ok((verified, certificate))
    }

    fn validate(&self) -> Result<(), DocumentError> {
        let refuse = |reason: &str| Err(invalid(Self::WHAT, reason));
        if self.roles.is_empty() || self.roles.len() > Role::ALL.len() {
            return refuse("it must grant between one and seven roles");
        }
        if self.roles.contains(&Role::Owner) {
            return refuse("it grants the role owner; owners are named in trust.toml only");
        }
        if self.runners.len() > MAX_CERTIFIED_RUNNERS {
            return refuse("it lists more than 64 runner kinds; use * for all");
        }
        match &self.name {
            Some(name) if !is_valid_name(name) => refuse("its name is longer than 128 bytes or has control characters"),
            _ => Ok(()),
        }
    }
}

/// Names appear in logs, terminals and pages.
pub(crate) fn is_valid_name(name: &str) -> bool {
    name.len() <= MAX_NAME_BYTES && !name.chars().any(char::is_control)
}

/// Ties the own key of a Mycelium daemon to an identity: `binding+json`, signed by the identity.
///
/// For daemons that had a key before Horus came. An X25519 key cannot sign, so whoever makes a binding
/// shows the daemon's secret key to [`Binding::prove`]; others can only believe the identity, which
/// harms nobody else by lying: it would send its own messages to a host that cannot answer as it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Binding {
    /// The public key of the daemon.
    pub mesh_public_key: MeshPublicKey,
    /// The identity that lives there.
    pub peer_id: PeerId,
}

impl Binding {
    const WHAT: &'static str = "binding";

    /// Binds the daemon whose key file holds `mesh_secret` to `identity`.
    #[must_use]
    pub fn prove(identity: &Identity, mesh_secret: &[u8; 32]) -> Envelope {
        let binding = Self { mesh_public_key: MeshPublicKey::of_secret(mesh_secret), peer_id: identity.peer_id() };
        Envelope::sign_json(identity, PayloadType::Binding, &binding)
    }

    /// Verifies a binding.
    ///
    /// # Errors
    /// [`DocumentError`] if the envelope is bad or signed by another key than the one it names.
    pub fn check(envelope: &Envelope) -> Result<Self, DocumentError> {
        let verified = envelope.verify(PayloadType::Binding)?;
        let signer = only_signer(&verified, Self::WHAT)?;
        let binding: Self = verified.parse()?;
        if binding.peer_id != signer {
            return Err(invalid(Self::WHAT, format!("it names {} but {signer} signed it", binding.peer_id)));
        }
        Ok(binding)
    }
}

#[cfg(test)]
mod tests;
