//! Methods that change something beside submitting: cancelling workflows.

use std::sync::Arc;
use std::time::Duration;

use horus_transport::{Caller, ErrorKind, RpcError};

use super::arrival::Message;
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
}
