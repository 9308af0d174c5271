//! Methods that change something beside submitting: cancelling workflows, announcing supervisors.

use std::sync::Arc;
use std::time::Duration;

use horus_keys::{DocumentError, EnvelopeError, NodeAnnouncement, Role, Timestamp};
use horus_transport::{Caller, ErrorKind, GetNodeInfo, Method, NoParams, NodeInfo, RpcError};

use super::arrival::Message;
use super::{Coordinator, Sight};
use crate::api::coordinator::{RegisterSupervisorParams, Registered, Supervisors, WorkflowIdParams, WorkflowState};

/// How long `cancel_workflow` waits until its request is in the journal.
const HEARD_WITHIN: Duration = Duration::from_secs(5);

impl Coordinator {
    pub(super) async fn get_node_info(
        self: Arc<Self>,
        _caller: Caller,
        _params: NoParams,
    ) -> Result<<GetNodeInfo as Method>::Result, RpcError> {
        let info: NodeInfo = self.announcer.info(&[], Timestamp::now());
        Ok(info)
    }

    pub(super) async fn cancel_workflow(
        self: Arc<Self>,
        caller: Caller,
        params: WorkflowIdParams,
    ) -> Result<WorkflowState, RpcError> {
        let shared = &self.shared;
        let sight = Sight::of(&caller, &shared.trust)?;
        let live = self.find(sight, &params.workflow_id).await?;
        if !sight.steers(live.submitter()) {
            return Err(RpcError::new(
                ErrorKind::NotAllowed,
                format!("workflow {} is not yours: only its submitter or an operator may cancel it", live.id),
            ));
        }
        if !self.state(&live).await?.status.is_final() {
            if shared.driven(&live.id).is_some() {
                let mut revision = live.revision.subscribe();
                let _ = live.inbox.send(Message::Cancel { by: sight.caller });
                let heard = async {
                    loop {
                        let (stopping, now) = {
                            let state = self.state(&live).await?;
                            (state.stop.is_some() || state.status.is_final(), state.sequence)
                        };
                        if stopping || live.inbox.is_closed() {
                            return Ok::<(), RpcError>(());
                        }
                        let _ = revision.wait_for(|at| *at > now).await;
                    }
                };
                tokio::time::timeout(HEARD_WITHIN, heard).await.map_err(|_| {
                    RpcError::new(
                        ErrorKind::RedisUnavailable,
                        "the request could not be written down in time; it may still take effect, ask for the status",
                    )
                })??;
            } else {
                // Another coordinator drives it, or will.
                shared.store.request_cancel(&live.id, &sight.caller).await.map_err(|error| shared.as_rpc(&error))?;
            }
            tracing::info!(workflow = %live.id, by = %sight.caller, "cancel requested");
        }
        let status = self.state(&live).await?.status;
        Ok(WorkflowState { workflow_id: live.id.clone(), status })
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
        if !trust.allows(peer, Role::Supervisor, now) {
            let (kind, how) = if trust.known(peer, now) {
                (ErrorKind::NotAllowed, "has not got the role supervisor here")
            } else {
                (ErrorKind::UntrustedSigner, "is not known here")
            };
            return Err(RpcError::new(
                kind,
                format!("the key {peer} {how}: `horus keys trust add {peer} --role supervisor` at the coordinator"),
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
