//! A role that has been started.

use std::net::SocketAddr;

use horus_keys::PeerId;
use horus_transport::Dispatcher;
use tokio_util::task::TaskTracker;

/// A role that serves, until the shutdown of its [`Common`](super::Common) ends it.
pub struct Running {
    pub(crate) peer_id: PeerId,
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) dispatcher: Dispatcher,
    pub(crate) tasks: TaskTracker,
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running")
            .field("peer_id", &self.peer_id)
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}

impl Running {
    /// The key that it signs with: calls to a supervisor name it as `aud`, workflows name a coordinator's in `coordinators`.
    #[must_use]
    pub fn peer_id(&self) -> PeerId {
        self.peer_id
    }

    /// Where it serves HTTP, with the ports that were taken for port 0.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// What answers its calls, for other carriers than HTTP.
    #[must_use]
    pub fn dispatcher(&self) -> Dispatcher {
        self.dispatcher.clone()
    }

    /// Returns when it has stopped, which the shutdown makes it do.
    pub async fn stopped(self) {
        self.tasks.wait().await;
    }
}
