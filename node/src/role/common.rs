//! What every role is started with.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use horus_keys::{Envelope, Identity, KeyDir, KeyDirError, PeerId, Role, Timestamp, Trust, TrustError};
use horus_transport::TlsFiles;
use thiserror::Error;
use zeroize::Zeroizing;

use super::{Announcer, Health, MeshConfig, RoleMesh, Shutdown};

/// How often the trust policy's file is looked at. Who takes a key out of it waits so long at most.
const TRUST_LOOK: Duration = Duration::from_secs(2);
/// Largest certificate file.
const MAX_CERTIFICATE_BYTES: u64 = 64 * 1024;

/// What a role needs of its surroundings, resolved and validated: flags, environment and config file are read elsewhere.
#[derive(Debug, Clone)]
pub struct CommonOptions {
    /// The role's own key directory.
    pub identity: PathBuf,
    /// The trust policy. A file that does not exist trusts nobody, until it does.
    pub trust: PathBuf,
    /// A certificate by an owner, unless it lies in the key directory as `cert.json`.
    pub certificate: Option<PathBuf>,
    /// Where HTTP is served. Port 0 takes any free one.
    pub listen: Vec<SocketAddr>,
    /// TLS for HTTP.
    pub tls: Option<TlsFiles>,
    /// Redis of this machine: `redis://`, `rediss://` or `redis+unix://`.
    pub redis_url: String,
    /// Addresses that the role announces, the best first: what clients can reach, which this process cannot know by itself.
    pub announce: Vec<String>,
    /// Mycelium topics that the role serves.
    pub topics: Vec<String>,
}

impl CommonOptions {
    /// Options for a role with its key in `identity` that listens on `listen`; everything else empty.
    #[must_use]
    pub fn new(identity: &Path, trust: &Path, redis_url: &str, listen: Vec<SocketAddr>) -> Self {
        Self {
            identity: identity.to_owned(),
            trust: trust.to_owned(),
            certificate: None,
            listen,
            tls: None,
            redis_url: redis_url.to_owned(),
            announce: Vec::new(),
            topics: Vec::new(),
        }
    }
}

/// Why a role could not start.
#[derive(Debug, Error)]
pub enum RoleError {
    /// The keys could not be read.
    #[error(transparent)]
    Keys(#[from] KeyDirError),
    /// The trust policy could not be read.
    #[error("the trust policy {} cannot be used: {source}", path.display())]
    Trust {
        /// The policy's file.
        path: PathBuf,
        /// What is wrong with it.
        source: TrustError,
    },
    /// The certificate given by `--cert` could not be read.
    #[error("the certificate {} cannot be used: {reason}", path.display())]
    Certificate {
        /// The certificate's file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Redis could not be set up: its URL is wrong, or it cannot be used as a queue.
    #[error("Redis cannot be used: {0}")]
    Redis(String),
    /// An address could not be listened on.
    #[error("cannot serve: {0}")]
    Serve(String),
    /// The mesh cannot be used as asked for.
    #[error("the mesh cannot be used: {0}")]
    Mesh(String),
}

/// Everything that every role has. Cheap enough to clone at start-up.
#[derive(Debug, Clone)]
pub struct Common {
    /// The key that the role signs with.
    pub identity: Identity,
    /// The certificate that it presents.
    pub certificate: Option<Envelope>,
    /// The trust policy, read again when its file changes.
    pub trust: Trust,
    /// How the role is.
    pub health: Health,
    /// How the role stops.
    pub shutdown: Shutdown,
    /// The options it was made from.
    pub options: CommonOptions,
    /// The role's part in the mesh, if it takes one.
    pub mesh: Option<RoleMesh>,
    sealing_public_key: horus_keys::SealingPublicKey,
}

impl Common {
    /// Reads keys, certificate and trust policy. `passphrase` is asked only if the key is encrypted.
    ///
    /// # Errors
    /// [`RoleError`] when one of them cannot be used. The message says which file and what to do.
    pub fn load(
        options: CommonOptions,
        shutdown: Shutdown,
        passphrase: impl FnOnce() -> Result<Option<Zeroizing<String>>, String>,
    ) -> Result<Self, RoleError> {
        let keys = KeyDir::load(&options.identity, passphrase)?;
        Self::with_keys(&keys, options, shutdown)
    }

    /// As [`Common::load`], with keys that are at hand.
    ///
    /// # Errors
    /// [`RoleError`] when the certificate or the trust policy cannot be used.
    pub fn with_keys(keys: &KeyDir, options: CommonOptions, shutdown: Shutdown) -> Result<Self, RoleError> {
        let trust =
            Trust::open(&options.trust).map_err(|source| RoleError::Trust { path: options.trust.clone(), source })?;
        let certificate = match &options.certificate {
            Some(path) => Some(read_certificate(path)?),
            None => keys.certificate.clone(),
        };
        if let Some(certificate) = &certificate {
            present_own(&trust, certificate, keys.identity.peer_id());
        }
        Ok(Self {
            identity: keys.identity.clone(),
            certificate,
            trust,
            health: Health::new(),
            shutdown,
            mesh: None,
            sealing_public_key: keys.sealing.public(),
            options,
        })
    }

    /// Takes part in the mesh as that role, unless the configuration says not to.
    ///
    /// # Errors
    /// [`RoleError::Mesh`]: a wrong address of the daemon, or no daemon although one is required.
    pub async fn join_mesh(&mut self, config: MeshConfig, role: Role) -> Result<(), RoleError> {
        self.mesh = RoleMesh::join(config, &self.trust, role).await?;
        if let Some(mesh) = &self.mesh {
            self.options.topics = vec![mesh.topic().to_owned()];
        }
        Ok(())
    }

    /// The role's name: the PeerId of its key.
    #[must_use]
    pub fn peer_id(&self) -> PeerId {
        self.identity.peer_id()
    }

    /// An announcer for this node in `role`, reached at the addresses of the options; where it listens is added by
    /// [`Announcer::serve_at`], where it is on the overlay by [`Announcer::live_at`].
    #[must_use]
    pub fn announcer(&self, role: Role) -> Announcer {
        Announcer::new(
            self.identity.clone(),
            role,
            self.options.topics.clone(),
            self.options.announce.clone(),
            None,
            Some(self.sealing_public_key),
        )
        .with_certificate(self.certificate.clone())
    }

    /// Reads the trust policy again whenever its file changes, until the process drains. A file that became bad leaves the
    /// policy as it was, which the log and `/healthz` say.
    pub async fn follow_trust(self) {
        follow_trust(self.trust, self.health, self.shutdown).await;
    }
}

/// Reads a trust policy again whenever its file changes, until the process stops. See [`Common::follow_trust`].
pub async fn follow_trust(trust: Trust, health: Health, shutdown: Shutdown) {
    let mut ticks = tokio::time::interval(TRUST_LOOK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.stopped() => return,
            _ = ticks.tick() => {}
        }
        match trust.reload() {
            Ok(changed) => {
                if changed {
                    tracing::info!("trust policy read again");
                }
                health.well("trust");
            }
            Err(error) => {
                health.trouble(
                    "trust",
                    format!("the trust policy changed and cannot be used, the old one stays in force: {error}"),
                );
            }
        }
    }
}

fn read_certificate(path: &Path) -> Result<Envelope, RoleError> {
    let bad = |reason: String| RoleError::Certificate { path: path.to_owned(), reason };
    let size = std::fs::metadata(path).map_err(|e| bad(e.to_string()))?.len();
    if size > MAX_CERTIFICATE_BYTES {
        return Err(bad(format!("it has {size} bytes, a certificate has at most {MAX_CERTIFICATE_BYTES}")));
    }
    let text = std::fs::read(path).map_err(|e| bad(e.to_string()))?;
    Envelope::from_json(&text).map_err(|e| bad(e.to_string()))
}

/// Says in the log when the own certificate is worth nothing here; elsewhere it may be worth something.
pub(crate) fn present_own(trust: &Trust, certificate: &Envelope, me: PeerId) {
    match trust.present(certificate, Timestamp::now()) {
        Ok(peer) if peer == me => {}
        Ok(peer) => tracing::warn!(%peer, %me, "the certificate is for another key than this role's"),
        Err(error) => tracing::warn!(%error, "this role's certificate is not accepted by its own trust policy"),
    }
}
