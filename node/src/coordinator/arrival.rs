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
