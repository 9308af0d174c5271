//! What takes a client's requests to a node.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::time::Instant;

use crate::address::Address;
use crate::error::{ErrorKind, RpcError};
use crate::mesh::NodeStatus;

/// A way to one node (or, for a topic, to one of several): HTTP, Mycelium messages, or a choice of
/// them.
///
/// A carrier may send the same bytes again when it cannot tell whether they arrived: mutating calls
/// are idempotent by id, and a repeat of a signed call gets the first one's reply. It counts every sending
/// in [`Outbound::sendings`].
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
    /// How often it was sent: clones count together.
    pub sendings: Sendings,
}

/// How often a request may have got to its node. What a reply or a failure says of one sending, it does not say of the others: only
/// this tells whether a call that failed is certainly not there.
#[derive(Debug, Clone, Default)]
pub struct Sendings(Arc<AtomicU32>);

/// Set once the caller was told how it ended.
const CLOSED: u32 = 1 << 31;

impl Sendings {
    /// The request is about to leave this process.
    ///
    /// # Errors
    /// [`ErrorKind::TimedOut`] if it must not, since its caller was told already how it ended.
    pub fn begin(&self) -> Result<(), RpcError> {
        let more = |count: u32| (count < CLOSED).then_some(count + 1);
        self.0
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, more)
            .map(|_| ())
            .map_err(|_| RpcError::new(ErrorKind::TimedOut, "nobody waits for this call any more"))
    }

    /// One sending certainly brought nothing: no connection came about, or all that it brought was refused unread.
    pub fn undo(&self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }

    /// How many there were. There will be no more.
    pub(crate) fn close(&self) -> u32 {
        self.0.fetch_or(CLOSED, Ordering::AcqRel) & !CLOSED
    }
}

/// Finds carriers for addresses of the Mycelium overlay and for topics.
pub trait CarrierFactory: Send + Sync + 'static {
    /// A carrier to that address. Does no work yet: the carrier connects when it is used.
    ///
    /// # Errors
    /// [`NoService`](crate::ErrorKind::NoService) if this process has no way to such addresses.
    fn carrier(&self, address: &Address) -> Result<Arc<dyn Carrier>, RpcError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_leaves_once_the_caller_was_told_how_often_it_did() {
        let sendings = Sendings::default();
        let of_another_path = sendings.clone();
        assert!(sendings.begin().is_ok() && of_another_path.begin().is_ok());
        sendings.undo();
        assert_eq!(sendings.close(), 1);
        assert_eq!(of_another_path.begin().unwrap_err().kind, ErrorKind::TimedOut);
        assert_eq!(sendings.close(), 1);
    }
}
