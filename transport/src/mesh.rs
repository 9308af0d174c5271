//! RPC over the Mycelium mesh: by messages, and by HTTP where that is possible.
//!
//! - [`Mesh`] is the process's hold on its mycelium daemon. It serves topics and makes carriers for
//!   `mycelium://` and `topic:` addresses.
//! - Served: `serve` keeps a topic registered, `socket` reads what the daemon hands over, `answer` and
//!   `ledger` turn a message into its reply, each request once.
//! - Called: `carrier` finds the node, `route` the path, `lane` puts calls together into messages,
//!   `exchange` sees one message through, `places` bounds how many wait, `late` takes replies that came too late. `nudge` and `slot` get along with the daemon's timers.
//! - `frame` is the wire form, `daemon` the daemon's API, `watch` notices its restarts.
//! - `raw` uses the daemon plainly, to measure ours against.

mod answer;
mod carrier;
mod daemon;
mod exchange;
mod frame;
mod known;
mod lane;
mod late;
mod ledger;
mod nudge;
mod path;
mod peer;
mod places;
mod raw;
mod route;
mod serve;
mod slot;
mod socket;
mod status;
mod subnet;
mod watch;

use std::net::Ipv6Addr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use horus_keys::{Envelope, MeshPublicKey, PeerId, Timestamp, Trust, TrustPolicy};
use lru::LruCache;
use reqwest::Url;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::address::Address;
use crate::carrier::{Carrier, CarrierFactory};
use crate::client::ClientOptions;
use crate::dispatch::Dispatcher;
use crate::error::{ErrorKind, RpcError};
use answer::Answerer;
use daemon::Daemon;
use known::Known;
use late::LateReplies;
use peer::Peer;
use route::{Route, Target};
use serve::Service;
use socket::Socket;
use watch::Watcher;

pub use known::KnownNode;
pub use path::{PathKind, TransportMode};
pub use raw::RawMessages;
pub use serve::ServiceState;
pub use status::{DaemonStatus, LinkStatus, MeshStatus, NodeStatus, PathStatus, TopicStatus};
pub use subnet::{Subnet, SubnetError};

/// Nodes that are called at a time, or lately.
const MAX_ROUTES: usize = 4096;
/// How long starting waits for the daemon.
const START: Duration = Duration::from_secs(2);

/// How a process takes part in the mesh.
#[derive(Clone)]
pub struct MeshOptions {
    /// The daemon's JSON-RPC: `http://127.0.0.1:8990` by default.
    pub daemon_url: Url,
    /// Where sockets for the daemon are made, one for each topic. Its path must leave room for the
    /// topic: the path of a socket has at most 107 bytes.
    pub socket_dir: PathBuf,
    /// Who may send messages to the topics that are served. Everybody on the overlay by default:
    /// access is decided by signatures.
    pub allow: Vec<Subnet>,
    /// Whether the daemon can reach sockets in that directory. If it cannot, it is polled, which is
    /// slower. By default taken for granted if `daemon_url` names this host.
    pub forward: Option<bool>,
    /// Which paths are used.
    pub mode: TransportMode,
    /// The topic of addresses that name none: `horus.supervisor` by default.
    pub default_topic: String,
    /// Whose announcements count for `topic:` addresses and as sources of further addresses.
    pub trust: Trust,
    /// For paths over HTTP: authorities, plain HTTP allowed or not, timeouts.
    pub http: ClientOptions,
}

impl MeshOptions {
    /// The defaults, with sockets in that directory.
    #[must_use]
    pub fn new(socket_dir: impl Into<PathBuf>) -> Self {
        Self {
            daemon_url: Url::parse("http://127.0.0.1:8990").expect("a constant URL"),
            socket_dir: socket_dir.into(),
            allow: vec![Subnet::EVERYBODY],
            forward: None,
            mode: TransportMode::Auto,
            default_topic: "horus.supervisor".into(),
            trust: Trust::new(TrustPolicy::default()),
            http: ClientOptions::default(),
        }
    }
}

/// A process's hold on its mycelium daemon. Cheap to clone. Give it to clients as
/// [`ClientOptions::carriers`].
///
/// The daemon may come and go: calls then fail with [`ErrorKind::DaemonDown`] or go by HTTP, topics are
/// registered again when it is back.
#[derive(Clone)]
pub struct Mesh(Arc<Shared>);

/// Address, key and topic.
type PeerKey = (Ipv6Addr, Option<MeshPublicKey>, String);

/// What all parts share.
struct Shared {
    options: MeshOptions,
    daemon: Arc<Daemon>,
    watcher: Arc<Watcher>,
    known: Known,
    routes: Mutex<LruCache<Target, Arc<Route>>>,
    peers: Mutex<LruCache<PeerKey, Arc<Peer>>>,
    services: Mutex<Vec<Arc<Service>>>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Mesh {
    /// Starts to watch the daemon; waits for it for two seconds at most. That it does not answer is no
    /// error here: ask [`Mesh::daemon_error`].
    pub async fn start(options: MeshOptions) -> Self {
        let daemon = Arc::new(Daemon::new(options.daemon_url.clone()));
        let watcher = Arc::new(Watcher::new(Arc::clone(&daemon)));
        let _ = tokio::time::timeout(START, watcher.check()).await;
        let capacity = NonZeroUsize::new(MAX_ROUTES).expect("the number of routes is not zero");
        let shared = Arc::new(Shared {
            known: Known::new(options.trust.clone()),
            options,
            daemon,
            watcher,
            routes: Mutex::new(LruCache::new(capacity)),
            peers: Mutex::new(LruCache::new(capacity)),
            services: Mutex::default(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        let (watcher, stop) = (Arc::clone(&shared.watcher), shared.stop.clone());
        shared.tasks.spawn(async move { watcher.run(stop).await });
        let tidy = Arc::clone(&shared);
        shared.tasks.spawn(async move { tidy.keep_inbox_tidy().await });
        Self(shared)
    }

    /// Why the daemon does not answer, if it does not.
    #[must_use]
    pub fn daemon_error(&self) -> Option<RpcError> {
        let state = self.0.watcher.state();
        (!state.is_up()).then(|| state.down())
    }

    /// This host's overlay address, once the daemon told it.
    #[must_use]
    pub fn overlay_address(&self) -> Option<Ipv6Addr> {
        self.0.watcher.state().info.map(|info| info.node_ip)
    }

    /// The key of this host's daemon, once it told it: what a node announces as `mesh_public_key`.
    #[must_use]
    pub fn mesh_public_key(&self) -> Option<MeshPublicKey> {
        self.0.watcher.state().info.map(|info| info.node_pubkey)
    }

    /// Whether this host has a network interface with its overlay address.
    #[must_use]
    pub fn has_tun(&self) -> bool {
        self.overlay_address().is_some_and(path::has_tun)
    }

    /// Serves a topic from now on, until [`Mesh::shutdown`] or until `stop`.
    ///
    /// # Errors
    /// If the socket cannot be made; [`ErrorKind::IdConflict`] if another process of this host serves the topic. That
    /// the daemon is away is no error: the topic is registered when it comes, unless another process was faster.
    pub async fn serve(&self, topic: &str, dispatcher: Dispatcher, stop: CancellationToken) -> Result<(), RpcError> {
        let shared = &self.0;
        if lock(&shared.services).iter().any(|service| service.topic == topic) {
            return Err(serve::served_twice(topic));
        }
        let socket = Socket::bind(&shared.options.socket_dir, topic).await?;
        let answerer = Answerer::new(dispatcher);
        let allow = shared.options.allow.clone();
        let daemon = Arc::clone(&shared.daemon);
        let forward = shared.options.forward.unwrap_or_else(|| daemon.is_local());
        let service = Arc::new(Service::new(topic.to_owned(), allow, socket, answerer, daemon, forward));
        if shared.watcher.state().is_up()
            && let Some(error) = service.taken().await
        {
            return Err(error);
        }
        lock(&shared.services).push(Arc::clone(&service));
        let (inner, watcher) = (Arc::clone(shared), Arc::clone(&shared.watcher));
        shared.tasks.spawn(async move {
            let ended = CancellationToken::new();
            let run = Arc::clone(&service).run(watcher, ended.clone());
            tokio::pin!(run);
            tokio::select! {
                () = &mut run => {}
                () = stop.cancelled() => {}
                () = inner.stop.cancelled() => {}
            }
            ended.cancel();
            run.await;
            lock(&inner.services).retain(|other| !Arc::ptr_eq(other, &service));
        });
        Ok(())
    }

    /// Checks and remembers a node's announcement (`node+json`). It counts once its key is trusted.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidEnvelope`] if it is malformed, not signed by one key, or expired.
    pub fn learn(&self, envelope: &Envelope) -> Result<PeerId, RpcError> {
        let learnt = self.0.known.learn(envelope, Timestamp::now());
        learnt.map_err(|e| RpcError::new(ErrorKind::InvalidEnvelope, format!("the announcement is refused: {e}")))
    }

    /// Forgets a node that took its leave.
    pub fn forget(&self, peer: PeerId) {
        self.0.known.forget(peer);
    }

    /// The trusted live nodes that serve a topic.
    #[must_use]
    pub fn serving(&self, topic: &str) -> Vec<Arc<KnownNode>> {
        self.0.known.serving(topic, Timestamp::now())
    }

    /// How the mesh looks now. Asks the local daemon, but sends no message.
    pub async fn status(&self) -> MeshStatus {
        let shared = &self.0;
        shared.watcher.check().await;
        let state = shared.watcher.state();
        let links = shared.daemon.peers().await.unwrap_or_default();
        let started_at = state.info.as_ref().map(|info| info.node_start_time).filter(|start| *start > 0);
        let topic = |service: &Arc<Service>| TopicStatus {
            topic: service.topic.clone(),
            socket: service.socket_path().display().to_string(),
            state: service.state(),
        };
        let mut nodes: Vec<_> = {
            let routes = lock(&shared.routes);
            routes.iter().map(|(_, route)| NodeStatus::of(route, shared)).collect()
        };
        for node in shared.known.trusted(Timestamp::now()) {
            let is_listed = |status: &NodeStatus| status.peer_id == Some(node.peer_id);
            if let Some(ip) = node.overlay_address().filter(|_| !nodes.iter().any(is_listed)) {
                nodes.push(NodeStatus {
                    peer_id: Some(node.peer_id),
                    overlay_ip: Some(ip),
                    topic: node.announcement.topics.first().cloned(),
                    expires_at: Some(node.announcement.expires_at),
                    ..NodeStatus::default()
                });
            }
        }
        nodes.sort_by(|a, b| (a.overlay_ip, &a.topic).cmp(&(b.overlay_ip, &b.topic)));
        MeshStatus {
            daemon: DaemonStatus {
                url: shared.daemon.url().to_string(),
                up: state.is_up(),
                tun: self.has_tun(),
                error: state.error,
                overlay_ip: state.info.as_ref().map(|info| info.node_ip),
                mesh_public_key: state.info.as_ref().map(|info| info.node_pubkey),
                started_at: started_at
                    .and_then(|start| i64::try_from(start.saturating_mul(1000)).ok())
                    .map(Timestamp::from_millis),
            },
            links: links.iter().map(LinkStatus::of).collect(),
            transport: shared.options.mode,
            topics: lock(&shared.services).iter().map(topic).collect(),
            nodes,
            messages_sent: shared.daemon.counts.sent.load(Ordering::Relaxed),
            replies_received: shared.daemon.counts.replies.load(Ordering::Relaxed),
        }
    }

    /// Carriers that use the same daemon plainly, a message a request: to measure ours against.
    #[must_use]
    pub fn raw(&self) -> RawMessages {
        RawMessages(Arc::clone(&self.0))
    }

    /// Takes back the registrations, lets calls that are being answered end, and stops.
    pub async fn shutdown(&self) {
        self.0.stop.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
        // Routes know this, and this knows the routes.
        lock(&self.0.routes).clear();
        lock(&self.0.peers).clear();
    }
}

impl CarrierFactory for Mesh {
    fn carrier(&self, address: &Address) -> Result<Arc<dyn Carrier>, RpcError> {
        carrier::carrier(&self.0, address)
    }
}

impl std::fmt::Debug for Mesh {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Mesh({})", self.0.daemon.url())
    }
}

impl Shared {
    /// The route to that target, shared by all who call it.
    fn route(self: &Arc<Self>, target: Target) -> Arc<Route> {
        let mut routes = lock(&self.routes);
        if let Some(route) = routes.get(&target) {
            return Arc::clone(route);
        }
        let route = Arc::new(Route::new(Arc::clone(self), target.clone()));
        routes.put(target, Arc::clone(&route));
        route
    }

    /// The lanes to that target, which the routes of all roles of a topic share.
    fn peer(&self, target: &Target) -> Arc<Peer> {
        let Target { ip, key, topic, .. } = target.clone();
        let new = || Arc::new(Peer::new(ip, key, topic.clone(), Arc::clone(&self.daemon), Arc::clone(&self.watcher)));
        Arc::clone(lock(&self.peers).get_or_insert((ip, key, topic.clone()), new))
    }

    /// Remembers an announcement that came with a reply; one that is refused is of no use here.
    fn remember(&self, envelope: &Envelope) {
        if let Err(e) = self.known.learn(envelope, Timestamp::now()) {
            tracing::debug!("an announcement is refused: {e}");
        }
    }

    /// Takes replies that came too late out of the daemon's inbox. Looks there only if there may be
    /// some.
    async fn keep_inbox_tidy(&self) {
        let mut looked_after = None;
        let mut late = LateReplies::new();
        loop {
            let sent = self.daemon.counts.sent.load(Ordering::Relaxed);
            let replies = self.daemon.counts.replies.load(Ordering::Relaxed);
            let unanswered = sent.saturating_sub(replies);
            if self.watcher.state().is_up() && looked_after != Some(unanswered) {
                match late.take(&self.daemon, unanswered).await {
                    Ok(()) => looked_after = Some(unanswered),
                    Err(e) => tracing::debug!("cannot look for late replies: {e}"),
                }
            }
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(Duration::from_secs(10)) => {}
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// A number that nobody can guess.
fn random() -> u64 {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).expect("the system has randomness to give");
    u64::from_ne_bytes(bytes)
}
