//! What takes a client's requests to a node.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::time::Instant;

use crate::address::Address;
use crate::error::RpcError;
use crate::mesh::NodeStatus;

/// A way to one node (or, for a topic, to one of several): HTTP, Mycelium messages, or a choice of
/// them.
///
/// A carrier may send the same bytes again when it cannot tell whether they arrived: mutating calls
/// are idempotent by id, and a repeat of a signed call gets the first one's reply.
pub trait Carrier: Send + Sync + 'static {
    /// Takes a request to the node and brings the reply, or `None` if the node has nothing to say, as
    /// to notifications.
    ///
    /// # Errors
    /// What kept the reply from coming, with the kind that names it:
    /// [`PeerUnreachable`](crate::ErrorKind::PeerUnreachable),
    /// [`NoService`](crate::ErrorKind::NoService), [`DaemonDown`](crate::ErrorKind::DaemonDown),
    /// [`TimedOut`](crate::ErrorKind::TimedOut), [`TooLarge`](crate::ErrorKind::TooLarge) or
    /// [`InvalidReply`](crate::ErrorKind::InvalidReply).
    fn send(&self, request: Outbound) -> BoxFuture<'_, Result<Option<Bytes>, RpcError>>;

    /// How calls get there now, as far as the carrier keeps count of that. Asks nobody.
    fn status(&self) -> Option<NodeStatus> {
        None
    }

    /// Resolves when a way that had failed works again, so that whoever waits to call again need wait no longer; never for
    /// carriers that do not look for that by themselves.
    fn recovered(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::pending())
    }
}

/// A request on its way out.
#[derive(Debug, Clone)]
pub struct Outbound {
    /// The JSON-RPC text.
    pub body: Bytes,
    /// The value of `Authorization`, or of the same field in a message: `Horus <base64url>`.
    pub authorization: Option<String>,
    /// When the caller stops waiting.
    pub deadline: Instant,
    /// Whether it waits for something to happen, and so must not hold up others.
    pub long_poll: bool,
}

/// Finds carriers for addresses of the Mycelium overlay and for topics.
pub trait CarrierFactory: Send + Sync + 'static {
    /// A carrier to that address. Does no work yet: the carrier connects when it is used.
    ///
    /// # Errors
    /// [`NoService`](crate::ErrorKind::NoService) if this process has no way to such addresses.
    fn carrier(&self, address: &Address) -> Result<Arc<dyn Carrier>, RpcError>;
}
