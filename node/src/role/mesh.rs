//! A role's part in the Mycelium mesh: its topic, its own overlay address, and the way to other nodes.
//!
//! The daemon may be there or not, and may come and go: a role serves HTTP meanwhile, takes the mesh up when the daemon
//! appears, and announces what is so at the time.

use std::collections::HashSet;
use std::net::{Ipv6Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use horus_keys::{Envelope, PeerId, Role, Timestamp, Trust};
use horus_transport::{
    CarrierFactory, ClientOptions, Dispatcher, ErrorKind, Mesh, MeshOptions, NodeStatus, RpcError, RpcServer,
    ServerOptions, Subnet, TransportMode,
};
use lru::LruCache;
use tokio_util::task::TaskTracker;

use super::{Announcer, Health, RoleError, Shutdown};
use crate::api::{KnownAnnouncement, MeshReport};

/// How often the role looks whether the daemon has come, or has another address. It asks nobody for that.
const LOOK: Duration = Duration::from_secs(1);
/// How long taking leave of the daemon may take.
const LEAVE: Duration = Duration::from_secs(5);
/// Certificates of other nodes that are kept to be passed on.
const MAX_CERTIFICATES: usize = 4096;
/// How to get a daemon, for those who need one.
pub const HOW_TO_GET_A_DAEMON: &str = "install mycelium from https://github.com/threefoldtech/mycelium/releases and \
    start it with the host's key and a public peer: `sudo mycelium -k DATA_DIR/keys/host/mesh.key --peers \
    tcp://188.40.132.242:9651` (docs/MESH.md has the details)";

/// Whether a role uses a mycelium daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MeshUse {
    /// One that is running, now or later.
    #[default]
    Auto,
    /// None.
    Off,
    /// The role does not start without one.
    Require,
}

/// How a role takes part in the mesh.
#[derive(Debug, Clone)]
pub struct MeshConfig {
    /// Whether it does.
    pub usage: MeshUse,
    /// The daemon's JSON-RPC, such as `http://127.0.0.1:8990`.
    pub daemon_url: String,
    /// The paths to other nodes.
    pub transport: TransportMode,
    /// Whose messages are let in. Everybody's if empty: access is decided by signatures.
    pub allow: Vec<Subnet>,
    /// Whether calls may fall back to plain HTTP outside the overlay.
    pub allow_plain: bool,
    /// What is added to the role's topic, for one of several such roles on a host.
    pub topic_suffix: Option<String>,
    /// Where the socket for the daemon is made.
    pub socket_dir: PathBuf,
    /// Identities that the key of the host's daemon may have been made from.
    pub hosts: Vec<PeerId>,
    /// Authorities for `https://`.
    pub ca: Option<PathBuf>,
}

impl MeshConfig {
    /// The defaults, with sockets in that directory.
    #[must_use]
    pub fn new(socket_dir: &Path) -> Self {
        Self {
            usage: MeshUse::Auto,
            daemon_url: "http://127.0.0.1:8990".to_owned(),
            transport: TransportMode::Auto,
            allow: Vec::new(),
            allow_plain: false,
            topic_suffix: None,
            socket_dir: socket_dir.to_owned(),
            hosts: Vec::new(),
            ca: None,
        }
    }

    /// The options of the process's hold on the daemon.
    ///
    /// # Errors
    /// An address of the daemon that is no URL.
    pub fn options(&self, trust: &Trust) -> Result<MeshOptions, RoleError> {
        let mut options = MeshOptions::new(&self.socket_dir);
        options.daemon_url = self.daemon_url.parse().map_err(|e| {
            RoleError::Mesh(format!(
                "--mycelium-rpc {}: {e}; it is a URL such as http://127.0.0.1:8990",
                self.daemon_url
            ))
        })?;
        if !self.allow.is_empty() {
            options.allow = self.allow.clone();
        }
        options.mode = self.transport;
        options.trust = trust.clone();
        options.http = ClientOptions { ca: self.ca.clone(), allow_plain: self.allow_plain, ..ClientOptions::default() };
        Ok(options)
    }
}

/// A role's hold on the mesh. Cheap to clone.
#[derive(Debug, Clone)]
pub struct RoleMesh {
    mesh: Mesh,
    topic: String,
    config: Arc<MeshConfig>,
    /// Certificates that nodes showed with their announcements.
    certificates: Arc<Mutex<LruCache<PeerId, Envelope>>>,
}

/// What a role serves on the mesh, and by whom it lets that be known.
pub(crate) struct Serving {
    pub(crate) dispatcher: Dispatcher,
    pub(crate) announcer: Arc<Announcer>,
    pub(crate) health: Health,
    /// Where the role listens already, the first with its port.
    pub(crate) listens: Vec<SocketAddr>,
    pub(crate) shutdown: Shutdown,
}

/// Where a role is on the overlay, and what was told of that.
#[derive(Default)]
struct Place {
    servers: TaskTracker,
    bound: HashSet<Ipv6Addr>,
    /// Where listening failed, which was said once; it is tried again.
    failed: HashSet<Ipv6Addr>,
    said: Option<(horus_keys::MeshPublicKey, Vec<String>)>,
}

impl RoleMesh {
    /// Takes hold of the daemon, or `None` if the mesh is not wanted.
    ///
    /// # Errors
    /// [`RoleError::Mesh`]: a wrong address of the daemon, or no daemon although one is required.
    pub async fn join(config: MeshConfig, trust: &Trust, role: Role) -> Result<Option<Self>, RoleError> {
        if config.usage == MeshUse::Off {
            return Ok(None);
        }
        let mesh = Mesh::start(config.options(trust)?).await;
        if let Some(error) = mesh.daemon_error() {
            if config.usage == MeshUse::Require {
                return Err(RoleError::Mesh(format!("{}. To get one, {HOW_TO_GET_A_DAEMON}", error.message)));
            }
            tracing::info!(daemon = %config.daemon_url, "no mycelium daemon yet: HTTP only until one answers");
        }
        let topic = topic_of(role, config.topic_suffix.as_deref());
        let capacity = NonZeroUsize::new(MAX_CERTIFICATES).expect("the number is not zero");
        let certificates = Arc::new(Mutex::new(LruCache::new(capacity)));
        Ok(Some(Self { mesh, topic, config: Arc::new(config), certificates }))
    }

    /// The topic that the role serves.
    #[must_use]
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// The key of the host's daemon, once it told it.
    #[must_use]
    pub fn daemon_key(&self) -> Option<horus_keys::MeshPublicKey> {
        self.mesh.mesh_public_key()
    }

    /// Lets go of the daemon.
    pub async fn leave(&self) {
        self.mesh.shutdown().await;
    }

    /// The way to `mycelium://` and `topic:` addresses, for clients.
    #[must_use]
    pub fn carriers(&self) -> Arc<dyn CarrierFactory> {
        Arc::new(self.mesh.clone())
    }

    /// The nodes that are known to serve a topic, as far as they are trusted.
    #[must_use]
    pub fn serving(&self, topic: &str) -> Vec<Arc<horus_transport::KnownNode>> {
        self.mesh.serving(topic)
    }

    /// Remembers an announcement, and the certificate that came with it.
    ///
    /// # Errors
    /// As [`Mesh::learn`].
    pub fn learn(&self, announcement: &Envelope, certificate: Option<&Envelope>) -> Result<PeerId, RpcError> {
        let peer = self.mesh.learn(announcement)?;
        if let Some(certificate) = certificate {
            let mut kept = self.certificates.lock().unwrap_or_else(PoisonError::into_inner);
            kept.put(peer, certificate.clone());
        }
        Ok(peer)
    }

    /// What is known of the nodes that serve a topic, to be passed on.
    #[must_use]
    pub fn known(&self, topic: &str) -> Vec<KnownAnnouncement> {
        let mut kept = self.certificates.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = |node: &Arc<horus_transport::KnownNode>| KnownAnnouncement {
            peer_id: node.peer_id,
            envelope: node.envelope.clone(),
            certificate: kept.get(&node.peer_id).cloned(),
        };
        self.mesh.serving(topic).iter().map(entry).collect()
    }

    /// How the mesh looks from here, if the role takes part in it, and the nodes that it calls by URL.
    pub(crate) async fn report(mesh: Option<&Self>, others: Vec<NodeStatus>) -> MeshReport {
        match mesh {
            Some(this) => MeshReport { used: true, status: Some(this.mesh.status().await), others },
            None => MeshReport { used: false, status: None, others },
        }
    }

    /// Registers the topic, listens on the own overlay address when there is one, and says in the announcement where the
    /// role is; until the role drains.
    ///
    /// # Errors
    /// If another role of this host serves the topic by the daemon that is there, or the mesh is required and the topic cannot be
    /// served.
    pub(crate) async fn serve(self, serving: Serving) -> Result<impl Future<Output = ()> + Send, RoleError> {
        let stop = serving.shutdown.drain_token();
        if let Err(error) = self.mesh.serve(&self.topic, serving.dispatcher.clone(), stop).await {
            // Two that took the topic from each other by turns would be worse than one that does not start. As long as there
            // is no daemon the topic is worth nothing, and HTTP is what the role was started for.
            let contested = error.kind == ErrorKind::IdConflict && self.mesh.daemon_error().is_none();
            if self.config.usage == MeshUse::Require || contested {
                return Err(RoleError::Mesh(error.message));
            }
            tracing::error!(topic = self.topic, %error, "the role is not served over Mycelium messages");
        }
        // At once, so that the first announcement says it already.
        let mut place = Place::default();
        self.look(&serving, &mut place).await;
        Ok(self.attend(serving, place))
    }

    /// Listens on the own overlay address if there is a new one, and lets be known where the role is if that has changed.
    async fn look(&self, serving: &Serving, place: &mut Place) {
        let tun = self.mesh.overlay_address().filter(|_| self.mesh.has_tun());
        if let Some(ip) = tun.filter(|ip| !place.bound.contains(ip)) {
            match listen(ip, serving).await {
                Ok(server) => {
                    place.bound.insert(ip);
                    if let Some(server) = server {
                        place.servers.spawn(server.serve(serving.shutdown.drain_token()));
                    }
                }
                Err(error) if place.failed.insert(ip) => {
                    tracing::warn!(%ip, %error, "cannot serve HTTP on the own overlay address yet, trying on");
                }
                Err(_) => {}
            }
        }
        let here = self.addresses(tun.filter(|ip| place.bound.contains(ip)), serving);
        if here != place.said {
            let (key, addresses) = here.clone().unzip();
            serving.announcer.live_at(key, addresses.unwrap_or_default());
            place.said = here;
        }
    }

    async fn attend(self, serving: Serving, mut place: Place) {
        while !serving.shutdown.is_draining() {
            self.look(&serving, &mut place).await;
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = serving.shutdown.draining() => {}
            }
        }
        if tokio::time::timeout(LEAVE, self.mesh.shutdown()).await.is_err() {
            tracing::debug!("the mesh was left without waiting for all replies");
        }
        place.servers.close();
        place.servers.wait().await;
    }

    /// Where the role is on the overlay, once the daemon told: its key, and addresses, the best first.
    fn addresses(
        &self,
        listening: Option<Ipv6Addr>,
        serving: &Serving,
    ) -> Option<(horus_keys::MeshPublicKey, Vec<String>)> {
        let key = self.mesh.mesh_public_key()?;
        let host = self.config.hosts.iter().find(|host| host.mesh_public_key() == key);
        let host = host.map_or_else(|| key.to_string(), ToString::to_string);
        let mut addresses = vec![format!("mycelium://{host}/{}", self.topic)];
        if let (Some(ip), Some(port)) = (listening, serving.listens.first().map(SocketAddr::port)) {
            addresses.push(format!("http://[{ip}]:{port}"));
        }
        Some((key, addresses))
    }
}

/// Listens on the own overlay address with the port of the role; `None` if something the role listens on covers it.
async fn listen(ip: Ipv6Addr, serving: &Serving) -> Result<Option<RpcServer>, RoleError> {
    let Some(port) = serving.listens.first().map(SocketAddr::port) else { return Ok(None) };
    let address = SocketAddr::from((ip, port));
    let covers = |at: &SocketAddr| *at == address || (at.port() == port && at.ip() == Ipv6Addr::UNSPECIFIED);
    if serving.listens.iter().any(covers) {
        return Ok(None);
    }
    let health = serving.health.clone();
    // The overlay encrypts end to end: TLS would be a second coat.
    let options = ServerOptions {
        listen: vec![address],
        health: Some(Arc::new(move || {
            let report = health.report();
            async move { report }.boxed()
        })),
        ..ServerOptions::default()
    };
    let bound = RpcServer::bind(serving.dispatcher.clone(), options).await;
    let server = bound.map_err(|error| RoleError::Serve(error.to_string()))?;
    tracing::info!(%address, "serving on the own overlay address");
    Ok(Some(server))
}

/// The topic of a role, with a suffix for one of several on a host.
#[must_use]
pub fn topic_of(role: Role, suffix: Option<&str>) -> String {
    match suffix.filter(|suffix| !suffix.is_empty()) {
        Some(suffix) => format!("horus.{role}.{suffix}"),
        None => format!("horus.{role}"),
    }
}

/// What a role passes on of those that it knows, itself first.
pub(crate) fn known_nodes(
    announcer: &Announcer,
    runners: &[horus_keys::RunnerKind],
    mesh: Option<&RoleMesh>,
    topic: Option<&str>,
) -> Vec<KnownAnnouncement> {
    let info = announcer.info(runners, Timestamp::now());
    let own = announcer.topics().first().cloned();
    let mut nodes = Vec::new();
    if topic.is_none() || own.as_deref() == topic {
        nodes.push(KnownAnnouncement { peer_id: info.peer_id, envelope: info.envelope, certificate: info.certificate });
    }
    let topics = topic.map_or_else(
        || vec![topic_of(Role::Supervisor, None), topic_of(Role::Coordinator, None)],
        |topic| vec![topic.to_owned()],
    );
    for topic in topics {
        for node in mesh.map(|mesh| mesh.known(&topic)).unwrap_or_default() {
            if !nodes.iter().any(|known| known.peer_id == node.peer_id) {
                nodes.push(node);
            }
        }
    }
    nodes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suffix_makes_a_topic_of_ones_own() {
        assert_eq!(topic_of(Role::Supervisor, None), "horus.supervisor");
        assert_eq!(topic_of(Role::Coordinator, Some("blue")), "horus.coordinator.blue");
        assert_eq!(topic_of(Role::Coordinator, Some("")), "horus.coordinator");
    }

    #[test]
    fn the_address_of_the_daemon_must_be_a_url() {
        let dir = PathBuf::from("x");
        let config = MeshConfig { daemon_url: "8990".into(), ..MeshConfig::new(&dir) };
        let error = config.options(&Trust::new(horus_keys::TrustPolicy::default())).err().unwrap().to_string();
        assert!(error.contains("--mycelium-rpc 8990"), "{error}");
    }
}
