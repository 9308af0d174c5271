//! Who a node is: the one method that every role serves and every client needs.

use horus_keys::{DocumentError, Envelope, NodeAnnouncement, PeerId, Role, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{ErrorKind, RpcError};
use crate::method::{Access, Method, NoParams};

/// `get_node_info`: who the node is, signed by itself.
pub enum GetNodeInfo {}

impl Method for GetNodeInfo {
    const NAME: &'static str = "get_node_info";
    const SUMMARY: &'static str = "Says who this node is, signed by its key";
    const DESCRIPTION: &'static str = "The envelope holds a node+json document. Its signer must be \
        `peer_id`: that is the audience to sign calls of this node for.";
    const ACCESS: Access = Access::Open;
    type Params = NoParams;
    type Result = NodeInfo;
}

/// The answer of `get_node_info`. Nothing of it is proven before [`NodeInfo::verify`].
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct NodeInfo {
    /// The announcement, `node+json`, signed by the node.
    pub envelope: Envelope,
    /// The node's key.
    pub peer_id: PeerId,
    /// The role that answers.
    pub role: Role,
    /// The version of the Horus that answers.
    pub version: String,
    /// An owner's certificate of the node's key (`member+json`), for those who know the owner only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<Envelope>,
}

/// A node whose announcement was checked.
#[derive(Debug, Clone)]
pub struct VerifiedNode {
    /// The key that signed the announcement.
    pub peer_id: PeerId,
    /// The role that answered; not signed.
    pub role: Role,
    /// The version that it runs; not signed.
    pub version: String,
    /// What the node announces.
    pub announcement: NodeAnnouncement,
    /// The announcement as signed, to pass on.
    pub envelope: Envelope,
    /// The certificate that it shows, which was not checked: see [`horus_keys::Trust::present`].
    pub certificate: Option<Envelope>,
}

impl NodeInfo {
    /// Checks that the announcement is signed by `peer_id`, has not expired, and that the key is the
    /// one that the address pins, if it does.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidEnvelope`], [`ErrorKind::BadSignature`], [`ErrorKind::Expired`], or
    /// [`ErrorKind::UntrustedSigner`] for another key than the pinned one.
    pub fn verify(self, pin: Option<PeerId>, now: Timestamp) -> Result<VerifiedNode, RpcError> {
        let (signer, announcement) = NodeAnnouncement::check(&self.envelope, now).map_err(|e| refusal(&e))?;
        if signer != self.peer_id {
            return Err(RpcError::new(
                ErrorKind::BadSignature,
                format!(
                    "the node says it is {}, but its announcement is signed by {signer}: do not trust it",
                    self.peer_id
                ),
            ));
        }
        if let Some(pin) = pin.filter(|pin| *pin != signer) {
            return Err(RpcError::new(
                ErrorKind::UntrustedSigner,
                format!(
                    "the address pins the key {pin}, but the node that answers is {signer}: \
                     check the address; if the node was set up anew, ask its owner for its new PeerId"
                ),
            ));
        }
        let Self { envelope, peer_id, role, version, certificate } = self;
        Ok(VerifiedNode { peer_id, role, version, announcement, envelope, certificate })
    }
}

fn refusal(e: &DocumentError) -> RpcError {
    use horus_keys::EnvelopeError;
    let kind = match e {
        DocumentError::Envelope(EnvelopeError::BadSignature { .. }) => ErrorKind::BadSignature,
        DocumentError::Expired { .. } => ErrorKind::Expired,
        _ => ErrorKind::InvalidEnvelope,
    };
    RpcError::new(kind, format!("the node's announcement is refused: {e}"))
}
