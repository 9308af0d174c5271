//! What arrives at a workflow from outside, and the check that a result must pass before it does.

use std::sync::Arc;

use horus_keys::{Digest, Envelope, PeerId, Timestamp};
use horus_runners::admission::Verifier;
use horus_runners::job::{JobError, JobStatus};

use super::waiter::Watch;
use crate::api::supervisor::JobResult;
use crate::workflow::{Outcome, ReceiptPlace, StepAttempt};

/// Something for the task of one workflow.
pub(crate) enum Message {
    /// Jobs have ended; their results were checked.
    Arrived(Vec<Arrived>),
    /// A supervisor certainly did not take these.
    Returned(Vec<StepAttempt>),
    /// A supervisor refuses this one for a reason that lies in it.
    Refused {
        /// The step.
        step: StepAttempt,
        /// Who refuses it.
        by: PeerId,
        /// The reason.
        error: JobError,
        /// Whether it certainly has not got it from an earlier call either.
        certain: bool,
    },
    /// A runner executes these.
    Running(Vec<StepAttempt>),
    /// Nobody can say what becomes of these.
    Unreachable {
        /// The steps.
        steps: Vec<StepAttempt>,
        /// Why.
        reason: String,
    },
    /// The supervisor of these answers again.
    Reached(Vec<StepAttempt>),
    /// The supervisor that may have these since before a restart is known now.
    Found {
        /// Its key.
        peer: PeerId,
        /// The steps.
        steps: Vec<StepAttempt>,
    },
    /// Somebody who may do so wants the workflow stopped.
    Cancel {
        /// Who.
        by: PeerId,
    },
}

/// A job that has ended, with what is kept of it.
pub(crate) struct Arrived {
    /// The step that it was.
    pub(crate) step: StepAttempt,
    /// How it ended.
    pub(crate) outcome: Outcome,
    /// The output's JSON text.
    pub(crate) output: Option<Arc<str>>,
    /// The signed batch that holds its receipt.
    pub(crate) receipt: Option<Envelope>,
}

impl Arrived {
    /// An end that no runner testifies to.
    pub(crate) fn without_receipt(step: StepAttempt, status: JobStatus, error: Option<JobError>) -> Self {
        let outcome = Outcome { status, output: None, error, receipt: None, started_at: None, finished_at: None };
        Self { step, outcome, output: None, receipt: None }
    }
}

/// Takes a result only with a receipt that fits: by a runner that is trusted for the kind, for this job, this spec and this
/// output. Lost, expired and cancelled jobs need none, for no runner ended them. A job that its runner refused has failed, but what
/// arrives has no receipt then: nothing may follow from it.
///
/// # Errors
/// Why the result cannot be believed.
pub(super) fn arrived(
    verifier: &Verifier,
    watch: &Watch,
    result: &JobResult,
    receipt: Option<(&Envelope, u32)>,
    now: Timestamp,
) -> Result<Arrived, String> {
    let Some((envelope, index)) = receipt else {
        return match result.status {
            JobStatus::Lost | JobStatus::Expired | JobStatus::Cancelled => {
                Ok(Arrived::without_receipt(watch.step, result.status, result.error.clone()))
            }
            status => Err(format!("its supervisor says that it {status}, but has no receipt of its runner for that")),
        };
    };
    let text = result.output.as_ref().map(|output| output.get());
    let receipt = verifier
        .check_result(envelope, index, &watch.job, Some(&watch.spec), text.map(str::as_bytes), now)
        .map_err(|refusal| format!("its receipt is not valid: {}", refusal.message))?;
    if receipt.outcome != result.status {
        return Err(format!("its supervisor says {}, its runner's receipt says {}", result.status, receipt.outcome));
    }
    let output = text.filter(|_| receipt.outcome == JobStatus::Succeeded).map(Arc::<str>::from);
    if output.as_deref().map(|text| Digest::of(text.as_bytes())) != receipt.output {
        return Err("its output is not the one that its runner's receipt covers".to_owned());
    }
    // A runner that refused the job signs a receipt of no workflow: the step failed, but for other steps that proves nothing.
    let proves = receipt.workflow.is_some();
    if receipt.outcome == JobStatus::Succeeded && !proves {
        return Err("its receipt is not one of a workflow's step".to_owned());
    }
    let outcome = Outcome {
        status: receipt.outcome,
        output: receipt.output,
        error: receipt.error,
        receipt: proves.then(|| ReceiptPlace { batch: envelope.digest(), index }),
        started_at: Some(receipt.started_at),
        finished_at: Some(receipt.finished_at),
    };
    Ok(Arrived { step: watch.step, outcome, output, receipt: proves.then(|| envelope.clone()) })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use horus_keys::{Identity, PayloadType, Role, Trust, TrustPolicy, TrustedKey};
    use horus_runners::job::{JobId, Receipt, ReceiptBatch};

    use super::*;

    fn watch(job: JobId) -> Watch {
        let (inbox, _) = tokio::sync::mpsc::unbounded_channel();
        let (wanted, step) = (Arc::new(AtomicBool::new(true)), StepAttempt(0, 1));
        Watch { job, step, spec: Digest::of(b"spec"), inbox, wanted, told: false, doubted: None, refused: None }
    }

    #[test]
    fn a_step_that_its_runner_refused_has_failed_without_a_proof() {
        let runner = Identity::from_seed(&[1; 32]);
        let roles = vec![Role::Runner];
        let keys = vec![TrustedKey { id: runner.peer_id(), name: None, roles, runners: vec!["*".parse().unwrap()] }];
        let verifier = Verifier::new(Trust::new(TrustPolicy { keys, revoked: Vec::new() }));
        let (now, job): (_, JobId) = (Timestamp::now(), "noop-a".parse().unwrap());
        let arrive = |workflow: Option<Digest>| {
            let receipt = Receipt {
                job_id: job.clone(),
                spec: Digest::of(b"spec"),
                workflow,
                attempt: 1,
                runner: job.runner().clone(),
                started_at: now,
                finished_at: now,
                outcome: JobStatus::Failed,
                output: None,
                error: Some(JobError::new("NOT_ALLOWED", "no")),
            };
            let batch = ReceiptBatch { receipts: vec![receipt], certificates: vec![] };
            let envelope = Envelope::sign_json(&runner, PayloadType::Receipts, &batch);
            let (status, job_id) = (JobStatus::Failed, job.clone());
            let result = JobResult { job_id, status, output: None, error: None, receipt: None };
            arrived(&verifier, &watch(job.clone()), &result, Some((&envelope, 0)), now).unwrap()
        };
        for (workflow, proven) in [(Some(Digest::of(b"w")), true), (None, false)] {
            let arrived = arrive(workflow);
            assert_eq!(arrived.outcome.status, JobStatus::Failed);
            assert_eq!(arrived.outcome.error.unwrap().code, "NOT_ALLOWED");
            assert_eq!((arrived.outcome.receipt.is_some(), arrived.receipt.is_some()), (proven, proven));
        }
    }
}
