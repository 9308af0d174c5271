//! One topic of one host of the overlay, as its callers here share it.

use std::net::Ipv6Addr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use horus_keys::MeshPublicKey;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::daemon::Daemon;
use super::frame::{ENTRY_OVERHEAD, HEAD_OVERHEAD, MAX_MESSAGE};
use super::lane;
use super::nudge::Nudges;
use super::watch::Watcher;
use crate::carrier::{Outbound, Sendings};
use crate::error::{ErrorKind, RpcError};

/// Calls that wait to be sent to one peer, for each lane.
const MAX_QUEUE: usize = 8192;
/// No single request of a message is longer, its authorization included, in bytes.
pub(super) const MAX_REQUEST: usize = MAX_MESSAGE - HEAD_OVERHEAD - ENTRY_OVERHEAD;

/// What a caller gets.
pub(super) type Outcome = Result<Option<Bytes>, RpcError>;

/// A request of one caller, on its way.
pub(super) struct Entry {
    pub(super) n: u64,
    pub(super) body: Bytes,
    pub(super) authorization: Option<String>,
    pub(super) deadline: Instant,
    /// Whether it was sent with its body, and need not be again.
    pub(super) sent: bool,
    /// Whether the latest message brought the body.
    pub(super) fresh: bool,
    /// Whether it waits for something to happen.
    pub(super) long_poll: bool,
    pub(super) sendings: Sendings,
    pub(super) reply: oneshot::Sender<Outcome>,
}

impl Entry {
    /// What it takes in a message, in bytes.
    pub(super) fn size(&self) -> usize {
        let body = if self.sent { 0 } else { self.body.len() + self.authorization.as_ref().map_or(0, String::len) };
        body + ENTRY_OVERHEAD
    }

    /// Whether somebody still waits for it.
    pub(super) fn is_wanted(&self, now: Instant) -> bool {
        !self.reply.is_closed() && self.deadline > now
    }
}

/// Calls one topic of one host by messages.
pub(super) struct Peer {
    pub(super) core: Arc<Core>,
    normal: mpsc::Sender<Entry>,
    long: mpsc::Sender<Entry>,
}

/// What the lanes of a peer share.
pub(super) struct Core {
    pub(super) ip: Ipv6Addr,
    /// The only key that may answer, besides that it must belong to the address.
    pub(super) key: Option<MeshPublicKey>,
    pub(super) topic: String,
    /// Tells our entries from those of others, at the node.
    pub(super) session: String,
    pub(super) daemon: Arc<Daemon>,
    pub(super) watcher: Arc<Watcher>,
    numbers: AtomicU64,
    /// When the peer was last heard.
    heard: Mutex<Option<Instant>>,
    /// The smoothed time that a message and its reply take, in microseconds; 0 if none was measured.
    rtt: AtomicU64,
    /// Which run of node and daemon answered last.
    pub(super) boot: watch::Sender<String>,
    /// Counts how often the peer was found gone, and says why.
    pub(super) gone: watch::Sender<Option<RpcError>>,
    pub(super) nudges: Nudges,
    /// Whether there is another path to the node, so that doubts need not be waited out.
    pub(super) has_alternative: AtomicBool,
}

impl Peer {
    pub(super) fn new(
        ip: Ipv6Addr,
        key: Option<MeshPublicKey>,
        topic: String,
        daemon: Arc<Daemon>,
        watcher: Arc<Watcher>,
    ) -> Self {
        let core = Arc::new(Core {
            ip,
            key,
            topic,
            session: format!("{:016x}{:016x}", super::random(), super::random()),
            daemon,
            watcher,
            numbers: AtomicU64::new(0),
            heard: Mutex::new(None),
            rtt: AtomicU64::new(0),
            boot: watch::channel(String::new()).0,
            gone: watch::channel(None).0,
            nudges: Nudges::new(),
            has_alternative: AtomicBool::new(false),
        });
        let (normal, normal_queue) = mpsc::channel(MAX_QUEUE);
        let (long, long_queue) = mpsc::channel(MAX_QUEUE);
        tokio::spawn(lane::run(Arc::clone(&core), lane::Lane::Normal, normal_queue, Some(long.clone())));
        tokio::spawn(lane::run(Arc::clone(&core), lane::Lane::Long, long_queue, None));
        Self { core, normal, long }
    }

    /// Takes a request there and brings its reply.
    ///
    /// # Errors
    /// [`ErrorKind::TooLarge`], [`ErrorKind::DaemonDown`], [`ErrorKind::PeerUnreachable`],
    /// [`ErrorKind::NoService`], [`ErrorKind::TimedOut`] and those of [`Core::exchange`].
    pub(super) async fn send(&self, request: Outbound) -> Outcome {
        let size = request.body.len() + request.authorization.as_ref().map_or(0, String::len);
        if size > MAX_REQUEST {
            return Err(RpcError::new(
                ErrorKind::TooLarge,
                format!(
                    "the request has {size} bytes, but over Mycelium messages it may have {MAX_REQUEST}: send less at \
                     once, or call the node over HTTP (give it a TUN, or an http(s) address)"
                ),
            )
            .with("limit", MAX_REQUEST));
        }
        let (reply, outcome) = oneshot::channel();
        let n = self.core.numbers.fetch_add(1, Ordering::Relaxed);
        let Outbound { body, authorization, deadline, long_poll, sendings } = request;
        let entry = Entry { n, body, authorization, deadline, sent: false, fresh: false, long_poll, sendings, reply };
        let lane = if long_poll { &self.long } else { &self.normal };
        if lane.try_send(entry).is_err() {
            let message = format!("{MAX_QUEUE} calls wait for {} already: call it less at once", self.core);
            return Err(RpcError::new(ErrorKind::RateLimited, message).with("retry_after_ms", 1000));
        }
        match tokio::time::timeout_at(deadline, outcome).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(RpcError::internal("the lane of a peer ended")),
            Err(_) => Err(self.core.timed_out()),
        }
    }

    /// Tells it whether there is another path to the node.
    pub(super) fn set_alternative(&self, exists: bool) {
        self.core.has_alternative.store(exists, Ordering::Relaxed);
    }

    /// Asks the peer whether it is there, for that long, and tells how long the answer took.
    pub(super) async fn ping(&self, wait: Duration) -> Result<Duration, RpcError> {
        self.core.ping(wait).await
    }

    /// How long a message and its reply take, if it was measured.
    pub(super) fn latency(&self) -> Option<Duration> {
        self.core.rtt()
    }
}

impl Core {
    /// Whether it is this host itself.
    pub(super) fn is_own(&self) -> bool {
        self.watcher.state().info.is_some_and(|info| info.node_ip == self.ip)
    }

    /// Something of the peer arrived.
    pub(super) fn hear(&self) {
        *self.heard.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(Instant::now());
    }

    /// How long ago it was heard.
    pub(super) fn silence(&self) -> Duration {
        let heard = *self.heard.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        heard.map_or(Duration::MAX, |heard| heard.elapsed())
    }

    pub(super) fn rtt(&self) -> Option<Duration> {
        let micros = self.rtt.load(Ordering::Relaxed);
        (micros > 0).then(|| Duration::from_micros(micros))
    }

    /// A message and its reply took so long.
    pub(super) fn measured(&self, took: Duration) {
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
        let before = self.rtt.load(Ordering::Relaxed);
        // As TCP does (RFC 6298): an eighth of the new one.
        self.rtt.store(if before == 0 { took } else { before - before / 8 + took / 8 }, Ordering::Relaxed);
    }

    fn timed_out(&self) -> RpcError {
        let state = self.watcher.state();
        if let Some(error) = state.error {
            return RpcError::new(ErrorKind::DaemonDown, error);
        }
        let hint = if self.silence() < Duration::from_secs(10) {
            "it is there, but busy: give the call more time"
        } else {
            "it may be busy or cut off"
        };
        RpcError::new(
            ErrorKind::TimedOut,
            format!("no reply from {self} within the time given: {hint}; calls can be sent again"),
        )
    }

    pub(super) fn unreachable(&self) -> RpcError {
        RpcError::new(
            ErrorKind::PeerUnreachable,
            format!(
                "no mycelium daemon answers for {self}: check that it runs there, that both daemons have peers in \
                 common, and that the node's --mesh-allow covers this host"
            ),
        )
        .with("overlay_ip", self.ip.to_string())
    }

    pub(super) fn unserved(&self) -> RpcError {
        RpcError::new(
            ErrorKind::NoService,
            format!(
                "the mycelium daemon of [{}] takes the message, but nobody there answers for the topic {}: start the \
                 role on that host, or check the topic in the address",
                self.ip, self.topic
            ),
        )
        .with("overlay_ip", self.ip.to_string())
        .with("topic", self.topic.as_str())
    }
}

impl std::fmt::Display for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "mycelium://[{}]/{}", self.ip, self.topic)
    }
}
