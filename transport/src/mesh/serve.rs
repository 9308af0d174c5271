//! Serving a topic: registered with the daemon for as long as the node runs, whatever becomes of the
//! daemon.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use horus_keys::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::answer::Answerer;
use super::daemon::{Daemon, DaemonError, Message};
use super::frame;
use super::socket::{self, Socket};
use super::subnet::Subnet;
use super::watch::Watcher;
use crate::error::RpcError;
use crate::rate::Origin;

/// How often the registration is looked at when nothing happens. It costs no message.
const CHECK: Duration = Duration::from_secs(15);
/// Messages that are taken from the inbox and answered at a time.
const AT_ONCE: usize = 64;
/// Messages that are taken from the inbox in a row.
const MAX_DRAIN: usize = 10_000;
/// The daemon is polled at least and at most so often.
const POLL: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// How much the clocks of two hosts may differ.
const SKEW: i64 = 5_000;
/// A service that finds messages in the inbox although the socket is set polls for so long.
const DISTRUST: Duration = Duration::from_secs(60);

/// How messages reach a topic that is served here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum ServiceState {
    /// The daemon was not reached yet, or is gone.
    Waiting {
        /// Why.
        reason: String,
    },
    /// The daemon hands messages over as they come.
    Forwarded,
    /// The daemon is asked for messages again and again: it cannot reach the socket.
    Polled,
}

/// One topic that is served.
pub(super) struct Service {
    pub(super) topic: String,
    allow: Vec<Subnet>,
    socket: Socket,
    answerer: Arc<Answerer>,
    daemon: Arc<Daemon>,
    state: Mutex<ServiceState>,
    at_once: Arc<Semaphore>,
    /// Whether the daemon can reach the socket.
    forward: bool,
}

impl Service {
    pub(super) fn new(
        topic: String,
        allow: Vec<Subnet>,
        socket: Socket,
        answerer: Answerer,
        daemon: Arc<Daemon>,
        forward: bool,
    ) -> Self {
        let state = Mutex::new(ServiceState::Waiting { reason: "not registered yet".into() });
        let at_once = Arc::new(Semaphore::new(AT_ONCE));
        Self { topic, allow, socket, answerer: Arc::new(answerer), daemon, state, at_once, forward }
    }

    pub(super) fn state(&self) -> ServiceState {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    pub(super) fn socket_path(&self) -> PathBuf {
        self.socket.path().to_owned()
    }

    fn set_state(&self, state: ServiceState) {
        *self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = state;
    }

    /// Serves until `stop`.
    pub(super) async fn run(self: Arc<Self>, watcher: Arc<Watcher>, stop: CancellationToken) {
        let registered = async {
            self.keep_registered(&watcher, &stop).await;
            // Taken back before the socket closes: a successor may wait for it.
            self.unregister().await;
            self.answerer.stop();
        };
        tokio::join!(registered, self.socket.serve(&self.answerer, &stop));
    }

    async fn keep_registered(self: &Arc<Self>, watcher: &Watcher, stop: &CancellationToken) {
        let mut daemon = watcher.subscribe();
        let mut is_first = true;
        while !stop.is_cancelled() {
            let state = daemon.borrow_and_update().clone();
            let lost = match (&state.info, &state.error) {
                (Some(info), None) => {
                    self.answerer.set_daemon_start(info.node_start_time);
                    tokio::select! {
                        served = self.registered(is_first) => served.err(),
                        // The daemon went away or was restarted: all it knew of us is gone.
                        _ = daemon.changed() => continue,
                        () = stop.cancelled() => return,
                    }
                }
                (_, error) => {
                    let reason = error.clone().unwrap_or_else(|| "the daemon was not asked yet".into());
                    self.set_state(ServiceState::Waiting { reason });
                    tokio::select! {
                        _ = daemon.changed() => {}
                        () = stop.cancelled() => return,
                    }
                    continue;
                }
            };
            is_first = false;
            if let Some(e) = lost {
                tracing::warn!(topic = self.topic, "cannot register with the mycelium daemon: {e}");
                self.set_state(ServiceState::Waiting { reason: e.to_string() });
                watcher.look();
                tokio::select! {
                    () = tokio::time::sleep(Duration::from_secs(1)) => {}
                    () = stop.cancelled() => return,
                }
            }
        }
    }

    /// Registers, empties the inbox, and looks after it; returns if the registration is gone.
    async fn registered(self: &Arc<Self>, is_first: bool) -> Result<(), DaemonError> {
        self.register().await?;
        // What lay there before we came may be of any age if it does not say so itself.
        self.drain(!is_first).await?;
        if !self.forward {
            self.set_state(ServiceState::Polled);
            return self.poll(None).await;
        }
        self.set_state(ServiceState::Forwarded);
        tracing::info!(topic = self.topic, socket = %self.socket.path().display(), "serving over Mycelium messages");
        loop {
            tokio::time::sleep(CHECK).await;
            if self.daemon.socket(&self.topic).await?.as_deref() != self.socket.path().to_str() {
                return Ok(());
            }
            if self.drain(true).await? > 0 {
                tracing::warn!(
                    topic = self.topic,
                    "messages lay in the mycelium daemon's inbox: it cannot reach {}; is it run by another user, \
                     or in a container? Polling it meanwhile",
                    self.socket.path().display()
                );
                self.set_state(ServiceState::Polled);
                self.poll(Some(DISTRUST)).await?;
                self.set_state(ServiceState::Forwarded);
            }
        }
    }

    /// The error of a topic that another role of this host serves already, if one does.
    pub(super) async fn taken(&self) -> Option<RpcError> {
        let other = self.daemon.socket(&self.topic).await.ok().flatten()?;
        self.is_taken(&other).await.then(|| socket::taken(&self.topic, &other))
    }

    /// Whether somebody else listens on the socket that the daemon has for the topic.
    async fn is_taken(&self, path: &str) -> bool {
        self.forward && Some(path) != self.socket.path().to_str() && socket::is_alive(Path::new(path)).await
    }

    async fn register(&self) -> Result<(), DaemonError> {
        let topic = &self.topic;
        if let Some(other) = self.daemon.socket(topic).await?
            && self.is_taken(&other).await
        {
            return Err(DaemonError::Taken(socket::taken(topic, &other).message));
        }
        self.daemon.add_topic(topic).await?;
        let present = self.daemon.sources(topic).await?;
        for subnet in &self.allow {
            if !present.iter().any(|text| text.parse() == Ok(*subnet)) {
                self.daemon.add_source(topic, &subnet.to_string()).await?;
            }
        }
        for text in present {
            if !self.allow.iter().any(|subnet| text.parse() == Ok(*subnet)) {
                self.daemon.remove_source(topic, &text).await?;
            }
        }
        if self.forward {
            self.daemon.set_socket(topic, &self.socket.path().to_string_lossy()).await
        } else {
            self.daemon.remove_socket(topic).await
        }
    }

    async fn unregister(&self) {
        let ours = async {
            let socket = self.daemon.socket(&self.topic).await?;
            if socket.is_none() || socket.as_deref() == self.socket.path().to_str() {
                self.daemon.remove_topic(&self.topic).await?;
            }
            Ok::<_, DaemonError>(())
        };
        if let Ok(Err(e)) = tokio::time::timeout(Duration::from_secs(1), ours).await {
            tracing::debug!(topic = self.topic, "cannot take back the registration: {e}");
        }
    }

    /// Asks for messages until none came for `quiet`, if that is given.
    async fn poll(self: &Arc<Self>, quiet: Option<Duration>) -> Result<(), DaemonError> {
        let mut pause = POLL.0;
        let mut last = Instant::now();
        loop {
            if self.drain(true).await? > 0 {
                pause = POLL.0;
                last = Instant::now();
            } else {
                pause = (pause * 2).min(POLL.1);
            }
            if quiet.is_some_and(|quiet| last.elapsed() > quiet) {
                return Ok(());
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// Takes what lies in the inbox, answers what is fresh, and says how much it was.
    async fn drain(self: &Arc<Self>, take_undated: bool) -> Result<usize, DaemonError> {
        let mut count = 0;
        while count < MAX_DRAIN {
            let permit = Arc::clone(&self.at_once).acquire_owned().await.expect("the semaphore is never closed");
            let Some(message) = self.daemon.pop(&self.topic, false).await? else { break };
            count += 1;
            if !self.allow.iter().any(|subnet| subnet.contains(message.src_ip)) || !is_fresh(&message, take_undated) {
                continue;
            }
            let service = Arc::clone(self);
            tokio::spawn(async move {
                let origin = Origin::Mesh(message.src_pk);
                let reply = service.answerer.answer(message.payload.clone(), origin).await;
                if let Err(e) = service.daemon.reply(&message, &reply).await {
                    tracing::debug!("cannot send a reply: {e}");
                }
                drop(permit);
            });
        }
        Ok(count)
    }
}

/// Whether somebody may still wait for the reply.
fn is_fresh(message: &Message, take_undated: bool) -> bool {
    if !frame::is_frame(&message.payload) {
        return take_undated;
    }
    let Ok((head, _)) = frame::decode_request(&message.payload) else { return false };
    let wait = head.entries.iter().map(|entry| entry.wait_ms).max().unwrap_or(0);
    let wait = i64::try_from(wait.max(head.hold_ms)).unwrap_or(i64::MAX);
    head.sent_at.saturating_add(wait).saturating_add(SKEW) > Timestamp::now().as_millis()
}

/// The error of a topic that is served already by this process.
pub(super) fn served_twice(topic: &str) -> RpcError {
    RpcError::new(
        crate::error::ErrorKind::Internal,
        format!("the topic {topic} is served already: give each role of a host its own --topic"),
    )
}
