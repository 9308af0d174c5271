//! Methods that change something beside submitting: cancelling workflows.

use std::sync::Arc;
use std::time::Duration;

use horus_keys::PeerId;
use horus_transport::{Caller, ErrorKind, RpcError};

use super::arrival::Message;
use super::live::Live;
use super::{Coordinator, Sight};
use crate::api::coordinator::{WorkflowIdParams, WorkflowState};

/// How long `cancel_workflow` waits until its request is in the journal.
const HEARD_WITHIN: Duration = Duration::from_secs(5);

impl Coordinator {
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
        let mut status = self.state(&live).await?.status;
        if !status.is_final() {
            if !self.heard(&live, sight.caller).await? {
                // Another coordinator drives it, or will.
                let requested = shared.store.request_cancel(&live.id, &sight.caller).await;
                requested.map_err(|error| shared.as_rpc(&error))?;
            }
            tracing::info!(workflow = %live.id, by = %sight.caller, "cancel requested");
            let live = self.find(sight, &params.workflow_id).await?;
            status = self.state(&live).await?.status;
        }
        Ok(WorkflowState { workflow_id: live.id.clone(), status })
    }

    /// Has the driver of a workflow write down that somebody wants it stopped. False if it has none here, or loses it over that.
    async fn heard(&self, live: &Live, by: PeerId) -> Result<bool, RpcError> {
        if self.shared.driven(&live.id).is_none() {
            return Ok(false);
        }
        let mut revision = live.revision.subscribe();
        let _ = live.inbox.send(Message::Cancel { by });
        let heard = async {
            loop {
                let seen =
                    self.state(live).await.map(|now| (now.stop.is_some() || now.status.is_final(), now.sequence));
                if live.is_adrift() {
                    return Ok(false);
                }
                let (stopping, now) = seen?;
                if stopping || live.inbox.is_closed() {
                    return Ok(stopping);
                }
                tokio::select! {
                    _ = revision.wait_for(|at| *at > now) => {}
                    () = live.inbox.closed() => {}
                }
            }
        };
        tokio::time::timeout(HEARD_WITHIN, heard).await.map_err(|_| {
            RpcError::new(
                ErrorKind::RedisUnavailable,
                "the request could not be written down in time; it may still take effect, ask for the status",
            )
        })?
    }
}
