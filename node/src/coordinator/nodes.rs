//! The nodes of the mesh: supervisors that announce themselves, and what the coordinator tells about those it knows.

use std::sync::Arc;
use std::time::Duration;

use horus_keys::{DocumentError, Envelope, EnvelopeError, NodeAnnouncement, Role, Timestamp};
use horus_transport::{Caller, ErrorKind, GetNodeInfo, Method, NoParams, NodeInfo, RpcError};
use serde::{Deserialize, Serialize};

use super::{Coordinator, Shared};
use crate::api::coordinator::{RegisterSupervisorParams, Registered, Supervisors};
use crate::api::{EnvelopeText, KnownNodes, ListNodesParams, MeshReport};
use crate::role::{RoleMesh, known_nodes};

/// How often the nodes of a topic are looked through. It asks nobody.
const LOOK: Duration = Duration::from_secs(1);

/// An announcement with what makes it count, as it is kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Announced {
    /// The announcement (`node+json`).
    pub(super) envelope: Envelope,
    /// An owner's certificate of its key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) certificate: Option<Envelope>,
}

/// Takes up the supervisors that announced themselves before this coordinator was started, or to another one on its Redis, and
/// forgets those whose announcements have expired.
pub(super) async fn recall(shared: &Shared) {
    let kept = match shared.store.announcements().await {
        Ok(kept) => kept,
        Err(error) => return shared.redis_trouble(&error),
    };
    let now = Timestamp::now();
    for (peer, announced) in kept {
        if let Some(certificate) = &announced.certificate {
            let _ = shared.trust.present(certificate, now);
        }
        let live = NodeAnnouncement::check(&announced.envelope, now);
        match live.ok().filter(|(signer, _)| *signer == peer && shared.trust.allows(peer, Role::Supervisor, now)) {
            Some((peer, announcement)) => {
                if let Some(mesh) = &shared.mesh {
                    let _ = mesh.learn(&announced.envelope, announced.certificate.as_ref());
                }
                if let Err(problem) = shared.pool.announced(peer, &announcement, now) {
                    tracing::warn!(%peer, problem, "a supervisor that announced itself cannot be called");
                }
            }
            None => {
                let _ = shared.store.forget_announcement(&peer).await;
            }
        }
    }
}

/// Keeps those in the pool that serve the topics, for `--supervisor topic:...`.
pub(super) async fn follow_topics(shared: Arc<Shared>, topics: Vec<String>) {
    let Some(mesh) = shared.mesh.clone() else { return };
    loop {
        let now = Timestamp::now();
        for node in topics.iter().flat_map(|topic| mesh.serving(topic)) {
            if shared.trust.allows(node.peer_id, Role::Supervisor, now) {
                let _ = shared.pool.announced(node.peer_id, &node.announcement, now);
            }
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = shared.shutdown.draining() => return,
        }
    }
}

impl Coordinator {
    pub(super) async fn get_node_info(
        self: Arc<Self>,
        _caller: Caller,
        _params: NoParams,
    ) -> Result<<GetNodeInfo as Method>::Result, RpcError> {
        let info: NodeInfo = self.announcer.info(&[], Timestamp::now());
        Ok(info)
    }

    pub(super) async fn get_mesh_status(self: Arc<Self>, _: Caller, _: NoParams) -> Result<MeshReport, RpcError> {
        Ok(RoleMesh::report(self.shared.mesh.as_ref(), self.shared.pool.outside_the_mesh()).await)
    }

    pub(super) async fn list_nodes(
        self: Arc<Self>,
        _: Caller,
        params: ListNodesParams,
    ) -> Result<KnownNodes, RpcError> {
        let nodes = known_nodes(&self.announcer, &[], self.shared.mesh.as_ref(), params.topic.as_deref());
        Ok(KnownNodes { nodes })
    }

    pub(super) async fn register_supervisor(
        self: Arc<Self>,
        _caller: Caller,
        params: RegisterSupervisorParams,
    ) -> Result<Registered, RpcError> {
        let now = Timestamp::now();
        let envelope = params.envelope.read()?;
        let (peer, announcement) = NodeAnnouncement::check(&envelope, now).map_err(|error| {
            let kind = match &error {
                DocumentError::Envelope(EnvelopeError::BadSignature { .. }) => ErrorKind::BadSignature,
                DocumentError::Expired { .. } => ErrorKind::Expired,
                _ => ErrorKind::InvalidEnvelope,
            };
            RpcError::new(kind, error.to_string())
        })?;
        let trust = &self.shared.trust;
        let certificate = params.certificate.map(EnvelopeText::read).transpose()?;
        let presented = certificate.as_ref().map(|certificate| trust.present(certificate, now));
        if !trust.allows(peer, Role::Supervisor, now) {
            let (kind, how) = if trust.known(peer, now) {
                (ErrorKind::NotAllowed, "has not got the role supervisor here")
            } else {
                (ErrorKind::UntrustedSigner, "is not known here")
            };
            let refused = presented.and_then(Result::err).map(|error| format!("; its certificate is refused: {error}"));
            return Err(RpcError::new(
                kind,
                format!(
                    "the key {peer} {how}: `horus keys trust add {peer} --role supervisor` at the coordinator, or give the \
                     supervisor a certificate by an owner (--cert){}",
                    refused.unwrap_or_default()
                ),
            ));
        }
        if !announcement.roles.contains(&Role::Supervisor) {
            return Err(RpcError::new(ErrorKind::InvalidEnvelope, "the announcement is not that of a supervisor"));
        }
        let expires_at = self.shared.pool.announced(peer, &announcement, now).map_err(|problem| {
            RpcError::new(
                ErrorKind::InvalidEnvelope,
                format!("this supervisor cannot be called from here: {problem}; let it announce an address that can"),
            )
        })?;
        if let Some(mesh) = &self.shared.mesh {
            mesh.learn(&envelope, certificate.as_ref())?;
        }
        // So that a coordinator that is started again need not wait for the next announcement. Redis may be away: then it has to.
        let kept = Announced { envelope, certificate };
        if let Err(error) = self.shared.store.keep_announcement(&peer, &kept).await {
            self.shared.redis_trouble(&error);
        }
        Ok(Registered { expires_at })
    }

    pub(super) async fn list_supervisors(
        self: Arc<Self>,
        caller: Caller,
        _params: NoParams,
    ) -> Result<Supervisors, RpcError> {
        caller.signed()?;
        Ok(Supervisors { supervisors: self.shared.pool.views() })
    }
}
