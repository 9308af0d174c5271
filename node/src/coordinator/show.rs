//! Methods that show workflows: status, waiting, lists.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use horus_keys::Digest;
use horus_runners::job::step_job_id;
use horus_transport::{Caller, ErrorKind, RpcError};
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::live::Live;
use super::store::StoreError;
use super::{Coordinator, Sight, ask, no_workflow};
use crate::api::coordinator::{
    ListWorkflowsParams, MAX_OUTPUT_BYTES, MAX_STEPS_SHOWN, MAX_WORKFLOW_LIST, MAX_WORKFLOW_WAIT, OutputReceipt,
    StepDetail, StepView, WaitWorkflowParams, WorkflowPage, WorkflowStatusParams, WorkflowSummary, WorkflowView,
};
use crate::workflow::{State, StepIndex, StepStatus};

/// Workflows in a page unless asked otherwise.
const LIST: u32 = 100;
/// Ids that one call for a page looks at: a filter that fits few gets short pages, not long waits.
const LOOKED_AT: usize = 5000;
/// How long a reader waits for a driver that is waiting for Redis.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often a workflow that another coordinator drives is looked at.
const LOOK: Duration = Duration::from_millis(300);

impl Coordinator {
    pub(super) async fn get_workflow_status(
        self: Arc<Self>,
        caller: Caller,
        params: WorkflowStatusParams,
    ) -> Result<WorkflowView, RpcError> {
        let sight = Sight::of(&caller, &self.shared.trust)?;
        let live = self.find(sight, &params.workflow_id).await?;
        ask::looked_at(&self.shared, &live);
        self.view(&live, params.steps.unwrap_or_default()).await
    }

    pub(super) async fn wait_workflow(
        self: Arc<Self>,
        caller: Caller,
        params: WaitWorkflowParams,
    ) -> Result<WorkflowView, RpcError> {
        let sight = Sight::of(&caller, &self.shared.trust)?;
        let until = Instant::now() + Duration::from_millis(params.timeout_ms).min(MAX_WORKFLOW_WAIT);
        let id = &params.workflow_id;
        loop {
            // Of one that is not driven here, or not for long any more, its description says enough until there is something to show.
            let is_driven = self.shared.driven(id).is_some_and(|live| !live.is_adrift());
            let live = if is_driven { Some(self.find(sight, id).await?) } else { None };
            let (now, ended) = match &live {
                Some(live) => {
                    let seen = self.state(live).await.map(|state| (state.sequence, state.status.is_final()));
                    if live.is_adrift() {
                        continue;
                    }
                    seen?
                }
                None => {
                    let meta = self.kept(id).await?;
                    if !sight.sees(meta.submitter) {
                        return Err(no_workflow(id));
                    }
                    (meta.sequence, meta.status.is_final())
                }
            };
            let enough = ended || params.after_revision.is_some_and(|after| now > after);
            if enough || Instant::now() >= until || self.shared.shutdown.is_draining() {
                let live = match live {
                    Some(live) => live,
                    None => self.find(sight, id).await?,
                };
                return self.view(&live, params.steps.unwrap_or_default()).await;
            }
            let Some(live) = live else {
                tokio::select! {
                    () = tokio::time::sleep_until(until.min(Instant::now() + LOOK)) => {}
                    () = self.shared.shutdown.draining() => {}
                }
                continue;
            };
            if params.after_revision.is_some() {
                // Who waits for the end only does not look at what happens until then.
                ask::looked_at(&self.shared, &live);
            }
            let mut revision = live.revision.subscribe();
            tokio::select! {
                // Until the state that was just looked at has changed; an end of the driver wakes as well.
                _ = revision.wait_for(|at| *at > now) => {}
                () = live.inbox.closed() => {}
                () = tokio::time::sleep_until(until) => {}
                () = self.shared.shutdown.draining() => {}
            }
        }
    }

    pub(super) async fn list_workflows(
        self: Arc<Self>,
        caller: Caller,
        params: ListWorkflowsParams,
    ) -> Result<WorkflowPage, RpcError> {
        let shared = &self.shared;
        shared.check_redis()?;
        let sight = Sight::of(&caller, &shared.trust)?;
        let limit = match params.limit.unwrap_or(LIST) {
            0 => return Err(RpcError::invalid_params("limit is 0: give at least 1")),
            n => n.min(MAX_WORKFLOW_LIST) as usize,
        };
        let mut after = params.cursor.as_deref().map(read_cursor).transpose()?;
        let of = (!sight.sees_all).then_some(&sight.caller);
        let as_rpc = |error| shared.as_rpc(&error);
        let (mut workflows, mut looked_at, mut gone) = (Vec::new(), 0, Vec::new());
        let mut more = true;
        while more && workflows.len() < limit && looked_at < LOOKED_AT {
            let ids = shared.store.listed(of, after.as_ref(), limit).await.map_err(as_rpc)?;
            more = ids.len() == limit;
            looked_at += ids.len();
            let metas = ids.iter().map(|(id, _)| shared.store.kept(id));
            let metas = futures::future::join_all(metas).await;
            for ((id, at), meta) in ids.into_iter().zip(metas) {
                if workflows.len() == limit {
                    more = true;
                    break;
                }
                after = Some((id.clone(), at));
                let meta = match meta {
                    Ok(Some(meta)) => meta,
                    Ok(None) => {
                        gone.push(id);
                        continue;
                    }
                    // The others can be shown; of this one `horus doctor` says what is wrong.
                    Err(StoreError::Corrupt { .. }) => continue,
                    Err(error) => return Err(as_rpc(error)),
                };
                let wanted = params.name.as_ref().is_none_or(|name| *name == meta.name)
                    && params.status.is_none_or(|status| status == meta.status)
                    && sight.sees(meta.submitter);
                if wanted {
                    workflows.push(WorkflowSummary {
                        workflow_id: id,
                        name: meta.name,
                        status: meta.status,
                        submitter: meta.submitter,
                        created_at: meta.created_at,
                        finished_at: meta.finished_at,
                        steps: meta.steps,
                    });
                }
            }
        }
        shared.store.list_out(of, &gone).await.map_err(as_rpc)?;
        let cursor = after.filter(|_| more).map(|(id, at)| format!("{}:{id}", at.as_millis()));
        Ok(WorkflowPage { workflows, cursor })
    }

    /// The state, unless its driver is held up for too long, or has lost the workflow.
    pub(super) async fn state<'a>(&self, live: &'a Live) -> Result<tokio::sync::RwLockReadGuard<'a, State>, RpcError> {
        let unavailable = |message: &str| RpcError::new(ErrorKind::RedisUnavailable, message);
        let state = tokio::time::timeout(PATIENCE, live.state.read()).await.map_err(|_| {
            unavailable(
                "this coordinator is waiting for its Redis, and cannot say how the workflow stands; it goes on by itself, \
                 send the call again in some seconds",
            )
        })?;
        if live.is_adrift() {
            return Err(unavailable("this coordinator has just let go of the workflow: send the call again"));
        }
        Ok(state)
    }

    /// A workflow as it is shown.
    async fn view(&self, live: &Live, detail: StepDetail) -> Result<WorkflowView, RpcError> {
        let (mut view, outputs) = {
            let state = self.state(live).await?;
            (self.view_state(live, &state, detail), wanted_outputs(live, &state))
        };
        if view.status.is_final() {
            let proofs: Vec<_> = outputs.iter().filter_map(|(name, of, _)| Some((name.clone(), of.clone()?))).collect();
            let wanted = outputs.into_iter().map(|(name, _, digest)| (name, digest)).collect();
            let (shown, omitted) = self.read_outputs(live, wanted).await?;
            view.output_receipts = proofs.into_iter().filter(|(name, _)| shown.contains_key(name)).collect();
            let batches: BTreeSet<Digest> = view.output_receipts.values().map(|proof| proof.digest).collect();
            let batches: Vec<Digest> = batches.into_iter().collect();
            view.receipts =
                self.shared.vault.receipts(&live.id, &batches).await.map_err(|error| self.shared.as_rpc(&error))?;
            view.outputs = Some(shown);
            view.outputs_omitted = omitted;
        }
        Ok(view)
    }

    fn view_state(&self, live: &Live, state: &State, detail: StepDetail) -> WorkflowView {
        let counts =
            StepStatus::ALL.into_iter().map(|status| (status, state.count(status))).filter(|(_, n)| *n > 0).collect();
        let mut steps = BTreeMap::new();
        let mut omitted = 0;
        if detail != StepDetail::None {
            for (place, planned) in (0..).zip(live.plan.steps()) {
                let status = state.step(place).status;
                let active = status != StepStatus::Pending && !status.is_final();
                if detail == StepDetail::Active && !active {
                    continue;
                }
                if steps.len() < MAX_STEPS_SHOWN {
                    steps.insert(planned.id.clone(), self.view_step(live, state, place));
                } else {
                    omitted += 1;
                }
            }
        }
        WorkflowView {
            workflow_id: live.id.clone(),
            name: live.signed.definition.name.clone(),
            status: state.status,
            submitter: live.submitter(),
            created_at: live.created_at,
            finished_at: state.finished_at,
            deadline: state.deadline,
            counts,
            steps,
            steps_omitted: omitted,
            outputs: None,
            output_receipts: BTreeMap::new(),
            receipts: Vec::new(),
            outputs_omitted: Vec::new(),
            error: state.error.clone(),
            revision: state.sequence,
        }
    }

    fn view_step(&self, live: &Live, state: &State, place: StepIndex) -> StepView {
        let (planned, at) = (live.plan.step(place), state.step(place));
        let pool = &self.shared.pool;
        let supervisor = state.supervisor_of(place);
        let sent = supervisor.is_some() && !matches!(at.status, StepStatus::Ready);
        let address = |peer| pool.find(&peer).map_or_else(|| peer.to_string(), |known| known.address.clone());
        StepView {
            status: at.status,
            attempt: at.attempt,
            supervisor: supervisor.filter(|_| sent).map(address),
            job_id: sent.then(|| step_job_id(live.plan.workflow(), &planned.id, None, at.attempt, &planned.runner)),
            started_at: at.started_at.filter(|_| sent),
            finished_at: at.finished_at,
            error: at.error.as_deref().cloned(),
            wake_at: at.wake_at,
            waiting_for: (at.status == StepStatus::Ready)
                .then(|| pool.why_not(&planned.runner, planned.supervisor.as_ref())),
        }
    }

    async fn read_outputs(&self, live: &Live, wanted: Vec<(String, Digest)>) -> Result<Outputs, RpcError> {
        let (mut shown, mut omitted, mut bytes) = (BTreeMap::new(), Vec::new(), 0);
        for some in wanted.chunks(64) {
            if bytes > MAX_OUTPUT_BYTES {
                omitted.extend(some.iter().map(|(name, _)| name.clone()));
                continue;
            }
            let digests: Vec<Digest> = some.iter().map(|(_, digest)| *digest).collect();
            let texts =
                self.shared.vault.outputs(&live.id, &digests).await.map_err(|error| self.shared.as_rpc(&error))?;
            for (name, digest) in some {
                let text = texts.get(digest).map_or("null", |text| &**text);
                bytes += text.len();
                if bytes > MAX_OUTPUT_BYTES {
                    omitted.push(name.clone());
                } else {
                    shown.insert(name.clone(), RawValue::from_string(text.to_owned()).map_err(RpcError::internal)?);
                }
            }
        }
        Ok((shown, omitted))
    }
}

/// Outputs by name, and the names of those left out.
type Outputs = (BTreeMap<String, Box<RawValue>>, Vec<String>);

/// The outputs that there are of those that the definition declares, or of the steps on which no other depends.
fn wanted_outputs(live: &Live, state: &State) -> Vec<(String, Option<OutputReceipt>, Digest)> {
    let declared = live.signed.definition.outputs.as_ref();
    let names: Vec<(String, StepIndex)> = match declared {
        Some(declared) => {
            let place = |(name, id)| Some((String::clone(name), live.plan.find(id)?));
            declared.iter().filter_map(place).collect()
        }
        None => live.plan.leaves().map(|place| (live.plan.step(place).id.to_string(), place)).collect(),
    };
    let proof = |place: StepIndex| {
        let (planned, at) = (live.plan.step(place), state.step(place));
        let receipt = at.receipt?;
        let job_id = step_job_id(live.plan.workflow(), &planned.id, None, at.attempt, &planned.runner);
        Some(OutputReceipt { job_id, digest: receipt.batch, index: receipt.index })
    };
    names.into_iter().filter_map(|(name, place)| Some((name, proof(place), state.step(place).output?))).collect()
}

fn read_cursor(text: &str) -> Result<super::store::Listed, RpcError> {
    let read = || {
        let (at, id) = text.split_once(':')?;
        Some((id.parse().ok()?, horus_keys::Timestamp::from_millis(at.parse().ok()?)))
    };
    read()
        .ok_or_else(|| RpcError::invalid_params("cursor is none that list_workflows gave: leave it out to begin anew"))
}
