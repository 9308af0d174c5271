//! What callers are told when something goes wrong: every error of the layers below, as an error of the RPC.

use horus_keys::RunnerKind;
use horus_runners::admission::{Refusal, RefusalKind};
use horus_runners::definition::Problem;
use horus_runners::job::JobId;
use horus_runners::queue::QueueError;
use horus_transport::{ErrorKind, RpcError};
use serde_json::{Value, json};

/// Most problems of a workflow that an error lists.
const MAX_PROBLEMS: usize = 100;

/// A refusal by admission; `data.index` is the job's place in the batch.
pub(super) fn refused(refusal: &Refusal) -> RpcError {
    let kind = match refusal.kind {
        RefusalKind::InvalidEnvelope => ErrorKind::InvalidEnvelope,
        RefusalKind::BadSignature => ErrorKind::BadSignature,
        RefusalKind::UntrustedSigner => ErrorKind::UntrustedSigner,
        RefusalKind::NotAllowed => ErrorKind::NotAllowed,
        RefusalKind::Expired => ErrorKind::Expired,
        RefusalKind::TooLarge => ErrorKind::TooLarge,
        RefusalKind::WorkflowUnknown => ErrorKind::WorkflowUnknown,
        RefusalKind::ReceiptUnknown | RefusalKind::DelegationMismatch => ErrorKind::DelegationMismatch,
        RefusalKind::InvalidWorkflow => ErrorKind::InvalidWorkflow,
    };
    let mut error = RpcError::new(kind, refusal.to_string());
    if let Some(index) = refusal.index {
        error = error.with("index", index);
    }
    if !refusal.problems.is_empty() {
        let problems: Vec<Value> = refusal.problems.iter().take(MAX_PROBLEMS).map(problem).collect();
        error = error.with("errors", problems);
    }
    error
}

fn problem(problem: &Problem) -> Value {
    json!({ "message": problem.message, "line": problem.line, "column": problem.column, "path": problem.path })
}

/// A job that is not there, or that the caller may not see: the two must not be told apart.
pub(super) fn no_job(id: &JobId) -> RpcError {
    RpcError::new(
        ErrorKind::JobNotFound,
        format!("there is no job {id} that you may see: check its id, and whether this supervisor was given it; finished jobs are forgotten after a while"),
    )
    .with("job_id", id.to_string())
}

/// A job that the caller sees but may not change.
pub(super) fn not_yours(id: &JobId) -> RpcError {
    RpcError::new(
        ErrorKind::NotAllowed,
        format!(
            "job {id} is not yours: only its submitter, the coordinator that delegated it, or an operator may change it"
        ),
    )
    .with("job_id", id.to_string())
}

/// A runner kind that nobody here has ever served.
pub(super) fn unknown_kind(kind: &RunnerKind, known: &[RunnerKind], index: Option<u32>) -> RpcError {
    let known_names: Vec<&str> = known.iter().map(AsRef::as_ref).collect();
    let what = if known.is_empty() {
        "no runner has registered here yet: start one with `horus runner KIND`".to_owned()
    } else {
        format!(
            "this supervisor has {}; start one with `horus runner {kind}`, or announce it with register_runner",
            known_names.join(", ")
        )
    };
    let error = RpcError::new(ErrorKind::UnknownRunner, format!("there is no runner of kind {kind}: {what}"))
        .with("runner", kind.to_string())
        .with("known", known_names);
    match index {
        Some(index) => error.with("index", index),
        None => error,
    }
}

/// Redis cannot be used now.
pub(super) fn redis_unavailable(reason: &str) -> RpcError {
    RpcError::new(
        ErrorKind::RedisUnavailable,
        format!(
            "this supervisor cannot use its Redis now, nothing was changed that was not confirmed: {reason}. It goes on by itself; send the call again in some seconds"
        ),
    )
}

/// Parameters that make no sense.
pub(super) fn invalid(message: impl Into<String>) -> RpcError {
    RpcError::new(ErrorKind::InvalidParams, message)
}

/// An error of the queue.
pub(super) fn queue(error: &QueueError) -> RpcError {
    match error {
        QueueError::IdConflict { index, job_id } => RpcError::new(ErrorKind::IdConflict, error.to_string())
            .with("index", *index)
            .with("job_id", job_id.to_string()),
        QueueError::Full { runner, queued, max } => RpcError::new(ErrorKind::QueueFull, error.to_string())
            .with("runner", runner.to_string())
            .with("queued", *queued)
            .with("max", *max),
        QueueError::Missing { name, .. } => {
            let workflow = name.starts_with("wf:");
            let kind = if workflow { ErrorKind::WorkflowUnknown } else { ErrorKind::DelegationMismatch };
            RpcError::new(kind, error.to_string())
        }
        trouble if trouble.is_transient() => redis_unavailable(&trouble.to_string()),
        other => RpcError::internal(other),
    }
}
