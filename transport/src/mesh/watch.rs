//! Keeps an eye on the local daemon: whether it answers, who it is, and whether it was restarted.

use std::net::Ipv6Addr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::daemon::{Daemon, DaemonError, DaemonInfo};
use super::status::LinkStatus;
use crate::error::{ErrorKind, RpcError};

/// How often the daemon is asked when nothing happens. It costs no message.
const CHECK: Duration = Duration::from_secs(15);
/// How soon it is asked again while it is down, or while somebody waits for its first link.
const RETRY: Duration = Duration::from_millis(300);
/// It is not asked more often.
const LEAST: Duration = Duration::from_millis(200);

/// What is known of the daemon.
#[derive(Debug, Clone, Default)]
pub(super) struct DaemonState {
    /// Counts the times that it came up, so that what lives in its memory can be made anew.
    pub(super) generation: u64,
    /// Who it is, or was when it last answered.
    pub(super) info: Option<DaemonInfo>,
    /// Why it does not answer; `None` if it does.
    pub(super) error: Option<String>,
}

impl DaemonState {
    pub(super) fn is_up(&self) -> bool {
        self.info.is_some() && self.error.is_none()
    }

    /// What a caller is told who needs it while it is not up.
    pub(super) fn down(self) -> RpcError {
        let error = self.error.unwrap_or_else(|| "the mycelium daemon did not answer yet".into());
        RpcError::new(ErrorKind::DaemonDown, error)
    }
}

/// Watches one daemon.
pub(super) struct Watcher {
    daemon: Arc<Daemon>,
    state: watch::Sender<DaemonState>,
    /// Whether it has had a link to another daemon since it came up.
    linked: watch::Sender<bool>,
    look: Notify,
}

impl Watcher {
    pub(super) fn new(daemon: Arc<Daemon>) -> Self {
        Self {
            daemon,
            state: watch::channel(DaemonState::default()).0,
            linked: watch::channel(false).0,
            look: Notify::new(),
        }
    }

    /// The state as of now and its changes.
    pub(super) fn subscribe(&self) -> watch::Receiver<DaemonState> {
        self.state.subscribe()
    }

    pub(super) fn state(&self) -> DaemonState {
        self.state.borrow().clone()
    }

    /// Looks at once: somebody found the daemon gone.
    pub(super) fn look(&self) {
        self.look.notify_one();
    }

    /// Waits so long for a daemon that has come up to have its first link to another one, if it has had none. Made to look for the
    /// way to `ip` before, it asks nobody, and then not again for 15 s, whatever neighbours it finds meanwhile (0.7.10).
    ///
    /// # Errors
    /// [`ErrorKind::PeerUnreachable`]: it has none yet.
    pub(super) async fn until_linked(&self, ip: Ipv6Addr, wait: Duration) -> Result<(), RpcError> {
        if !self.lacks_links() {
            return Ok(());
        }
        let (mut linked, mut state) = (self.linked.subscribe(), self.state.subscribe());
        self.look();
        let comes = async {
            // In vain if the daemon goes down.
            while !*linked.borrow_and_update() && state.borrow_and_update().is_up() {
                // The senders are those of this watcher: neither ends before it.
                tokio::select! {
                    _ = linked.changed() => {}
                    _ = state.changed() => {}
                }
            }
        };
        tokio::time::timeout(wait, comes).await.map_err(|_| {
            let message = format!(
                "no mycelium daemon answers for [{ip}]: the daemon of this host has no peer at all yet; start it with \
                 --peers tcp://HOST:9651, or see whether the peers that it has been given can be reached (`horus mesh status`)"
            );
            RpcError::new(ErrorKind::PeerUnreachable, message).with("overlay_ip", ip.to_string())
        })
    }

    fn lacks_links(&self) -> bool {
        !*self.linked.borrow() && self.state.borrow().is_up()
    }

    /// Whether somebody waits for the first link.
    fn is_awaited(&self) -> bool {
        self.linked.receiver_count() > 0 && self.lacks_links()
    }

    async fn look_for_links(&self) {
        let is_linked = match self.daemon.peers().await {
            Ok(links) => links.iter().any(|link| LinkStatus::of(link).is_alive()),
            // It is asked to save time only: one that cannot tell is taken as it is.
            Err(DaemonError::Refused { .. } | DaemonError::Strange(_)) => true,
            Err(_) => false,
        };
        self.linked.send_if_modified(|linked| std::mem::replace(linked, is_linked) != is_linked);
    }

    /// Asks the daemon and tells all who listen if something changed.
    pub(super) async fn check(&self) {
        let answer = self.daemon.info().await;
        let is_same = |info: &DaemonInfo| {
            let state = self.state.borrow();
            state.is_up() && state.info.as_ref() == Some(info)
        };
        if answer.as_ref().is_ok_and(|info| !is_same(info)) {
            self.linked.send_replace(false);
        }
        self.state.send_if_modified(|state| match answer {
            Ok(info) => {
                let is_new = !state.is_up() || state.info.as_ref() != Some(&info);
                if is_new {
                    state.generation += 1;
                    state.error = None;
                    tracing::info!(ip = %info.node_ip, url = %self.daemon.url(), "mycelium daemon is up");
                    state.info = Some(info);
                }
                is_new
            }
            Err(e) => {
                let is_new = state.error.is_none();
                if is_new {
                    tracing::warn!("{e}");
                }
                state.error = Some(e.to_string());
                is_new
            }
        });
        if self.lacks_links() {
            self.look_for_links().await;
        }
    }

    /// Watches until `stop`. An idle connection to the daemon tells of its end at once.
    pub(super) async fn run(&self, stop: CancellationToken) {
        let mut canary: Option<TcpStream> = None;
        loop {
            let is_up = self.state.borrow().is_up();
            if is_up && canary.is_none() {
                canary = self.connect().await;
            }
            let asked = Instant::now();
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.look.notified() => {}
                () = tokio::time::sleep(if is_up && !self.is_awaited() { CHECK } else { RETRY }) => {}
                () = ended(&mut canary) => canary = None,
            }
            tokio::time::sleep_until(asked + LEAST).await;
            self.check().await;
        }
    }

    async fn connect(&self) -> Option<TcpStream> {
        let url = self.daemon.url();
        let host = url.host_str()?.trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = url.port_or_known_default()?;
        let connect = TcpStream::connect((host, port));
        tokio::time::timeout(Duration::from_secs(2), connect).await.ok()?.ok()
    }
}

/// Resolves when the other side closes the connection.
async fn ended(canary: &mut Option<TcpStream>) {
    match canary {
        Some(stream) => while matches!(stream.read(&mut [0; 64]).await, Ok(n) if n > 0) {},
        None => std::future::pending().await,
    }
}

impl From<DaemonError> for RpcError {
    fn from(e: DaemonError) -> Self {
        let kind = match e {
            DaemonError::Taken(_) => ErrorKind::IdConflict,
            DaemonError::Down(_) | DaemonError::Refused { .. } | DaemonError::Strange(_) => ErrorKind::DaemonDown,
        };
        Self::new(kind, e.to_string())
    }
}
