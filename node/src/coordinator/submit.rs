//! `submit_workflow` and `validate_workflow`.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use horus_keys::{Envelope, PayloadType, Timestamp};
use horus_runners::admission::{Refusal, RefusalKind, SignedWorkflow};
use horus_runners::definition::{MAX_PROBLEMS, Problem};
use horus_runners::job::WorkflowSubmission;
use horus_transport::{Caller, ErrorKind, RpcError};
use serde_json::Value;

use super::driver::Driver;
use super::live::Live;
use super::store::{Created, NewWorkflow};
use super::{Coordinator, Shared, watchman};
use crate::api::coordinator::{SubmitWorkflowParams, Submitted, ValidateWorkflowParams, Validation};
use crate::workflow::{WorkflowStatus, all_problems, problems};

/// For how long what was noted is certainly believed to be on its way: less than [`watchman`] waits for it.
const NOTED_FOR: Duration = Duration::from_secs(10);

impl Coordinator {
    pub(super) async fn submit_workflow(
        self: Arc<Self>,
        _caller: Caller,
        params: SubmitWorkflowParams,
    ) -> Result<Submitted, RpcError> {
        let shared = &self.shared;
        shared.check_redis()?;
        let envelope = params.envelope.read()?;
        let signed = verified(shared, envelope).await?;
        let id = signed.submission.id.clone();
        if let Some(answer) = known(shared, &signed).await? {
            return Ok(answer);
        }
        let now = Timestamp::now();
        shared.verifier.check_submission(&signed, &shared.me, now).map_err(|refusal| refused(&refusal))?;
        let prepared = {
            let (shared, signed) = (Arc::clone(shared), Arc::clone(&signed));
            compute(move || prepare(&shared, &signed, now)).await?
        };
        // Noted first: from here on a crash leaves a workflow that is found again, or none.
        let as_rpc = |error| shared.as_rpc(&error);
        let noted = shared.store.note_active(&id).await.map_err(as_rpc)?;
        let noted_at = Instant::now();
        let new = NewWorkflow {
            id: &id,
            envelope: &signed.envelope,
            submitter: signed.signer,
            name: &signed.definition.name,
            created_at: now,
            run_until: signed.submission.run_until,
            steps: signed.definition.steps.len(),
            coordinators: &signed.submission.coordinators,
            owner: &shared.instance,
        };
        match shared.store.create(&new).await.map_err(as_rpc)? {
            Created::New => {}
            // Somebody was faster.
            Created::Same(status) => return Ok(Submitted { workflow_id: id, status, created: false }),
            Created::Conflict => {
                if noted {
                    shared.store.note_ended(&id).await.map_err(as_rpc)?;
                }
                return Err(conflict(&signed));
            }
        }
        let (live, inbox) = prepared;
        Driver::spawn(shared, Arc::new(live), 1, inbox, 0);
        if noted_at.elapsed() > NOTED_FOR {
            // Others may have taken it for one that came to nothing.
            shared.store.note_active(&id).await.map_err(as_rpc)?;
        }
        if let Err(error) = shared.store.list_in(&id, &signed.signer, now).await {
            // It is stored and runs; whoever takes it over lists it.
            shared.redis_trouble(&error);
        }
        tracing::info!(workflow = %id, submitter = %signed.signer, steps = signed.definition.steps.len(), "workflow accepted");
        Ok(Submitted { workflow_id: id, status: WorkflowStatus::Pending, created: true })
    }

    pub(super) async fn validate_workflow(
        self: Arc<Self>,
        _caller: Caller,
        params: ValidateWorkflowParams,
    ) -> Result<Validation, RpcError> {
        let shared = Arc::clone(&self.shared);
        let errors = compute(move || {
            let inputs = params.inputs.unwrap_or_default();
            all_problems(&params.definition, Some(&shared.pool.kinds()), inputs.keys().map(String::as_str))
        })
        .await;
        Ok(Validation { valid: errors.is_empty(), errors: bounded(errors) })
    }
}

/// Signature, shape and definition.
async fn verified(shared: &Arc<Shared>, envelope: Envelope) -> Result<Arc<SignedWorkflow>, RpcError> {
    let shared = Arc::clone(shared);
    compute(move || shared.verifier.workflow(&envelope).map_err(|refusal| explained(&shared, &envelope, &refusal)))
        .await
}

/// The verifier tells what is wrong with the shape of a definition; the submitter gets everything that is wrong with it.
fn explained(shared: &Shared, envelope: &Envelope, refusal: &Refusal) -> RpcError {
    if refusal.problems.is_empty() {
        return refused(refusal);
    }
    // It was the definition that was refused, so the signature holds.
    let submission = envelope.verify(PayloadType::Workflow).and_then(|verified| verified.parse::<WorkflowSubmission>());
    let Ok(submission) = submission else { return refused(refusal) };
    let inputs = submission.inputs.iter().flatten().map(|(name, _)| name.as_str());
    let found = all_problems(&submission.definition, Some(&shared.pool.kinds()), inputs);
    if found.is_empty() { refused(refusal) } else { invalid(found) }
}

/// The workflow that is there already: the same one is returned whenever it is asked for, another one refused.
async fn known(shared: &Arc<Shared>, signed: &SignedWorkflow) -> Result<Option<Submitted>, RpcError> {
    let id = &signed.submission.id;
    let meta = shared.store.meta(id).await.map_err(|error| shared.as_rpc(&error))?;
    let Some(meta) = meta else { return Ok(None) };
    // Two keys can sign one payload: it is the same workflow only if the same key is responsible.
    if meta.digest != signed.digest || meta.submitter != signed.signer {
        return Err(conflict(signed));
    }
    let broken = shared.broken.lock().unwrap_or_else(PoisonError::into_inner).contains(id);
    if meta.owner == shared.instance && !meta.status.is_final() && shared.driven(id).is_none() && !broken {
        // It was stored, but the answer of Redis was lost on the way, and with it its driver.
        watchman::take(shared, id, &meta).await.map_err(|error| shared.as_rpc(&error))?;
    }
    if !meta.status.is_final() {
        // It may have been stored so late that others took it for one that came to nothing.
        shared.store.note_active(id).await.map_err(|error| shared.as_rpc(&error))?;
    }
    Ok(Some(Submitted { workflow_id: id.clone(), status: meta.status, created: false }))
}

fn conflict(signed: &SignedWorkflow) -> RpcError {
    let id = &signed.submission.id;
    RpcError::new(
        ErrorKind::IdConflict,
        format!("another workflow has the id {id} already: an id is accepted once, sign this one under a new id"),
    )
    .with("workflow_id", id.to_string())
}

type Prepared = (Live, tokio::sync::mpsc::UnboundedReceiver<super::arrival::Message>);

/// What goes beyond the shape of the definition, and everything that its driver needs.
fn prepare(shared: &Shared, signed: &Arc<SignedWorkflow>, now: Timestamp) -> Result<Prepared, RpcError> {
    let inputs = signed.submission.inputs.iter().flatten().map(|(name, _)| name.as_str());
    let found = problems(&signed.definition, &shared.pool.kinds(), inputs);
    if !found.is_empty() {
        return Err(invalid(found));
    }
    Live::fresh(&signed.submission.id, Arc::clone(signed), now)
        .ok_or_else(|| RpcError::internal("a definition without problems has a circle"))
}

fn bounded(mut found: Vec<Problem>) -> Vec<Problem> {
    if found.len() > MAX_PROBLEMS {
        let more = found.len() - MAX_PROBLEMS;
        found.truncate(MAX_PROBLEMS);
        if let Some(last) = found.last_mut() {
            last.message = format!("{} (and {more} more problems)", last.message);
        }
    }
    found
}

fn invalid(found: Vec<Problem>) -> RpcError {
    let found = bounded(found);
    let message = match found.as_slice() {
        [only] => format!("the definition is not valid: {only}"),
        [first, rest @ ..] => format!("the definition is not valid: {first} (and {} more problems)", rest.len()),
        [] => "the definition is not valid".to_owned(),
    };
    let errors = serde_json::to_value(&found).unwrap_or(Value::Null);
    RpcError::new(ErrorKind::InvalidWorkflow, message).with("errors", errors)
}

/// A refusal by admission as the caller gets it.
pub(super) fn refused(refusal: &Refusal) -> RpcError {
    let kind = match refusal.kind {
        RefusalKind::InvalidWorkflow if !refusal.problems.is_empty() => return invalid(refusal.problems.clone()),
        kind => ErrorKind::from_name(kind.as_str()).unwrap_or(ErrorKind::InvalidEnvelope),
    };
    RpcError::new(kind, refusal.message.clone())
}

/// Off the async threads: the largest definitions take most of a second.
async fn compute<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(failed) => std::panic::resume_unwind(failed.into_panic()),
    }
}
