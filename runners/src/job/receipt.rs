//! What a runner signs: how a job ended.

use horus_keys::{Digest, Envelope, RunnerKind, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{id::JobId, json::cut, limits, status::JobStatus, verified::Job};

/// Why a job did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JobError {
    /// In `SCREAMING_SNAKE`, from the executor or from admission, for example `SCRIPT_ERROR`.
    pub code: String,
    /// What happened and what to do.
    pub message: String,
}

impl JobError {
    /// An error within the limits: a longer code or message is cut.
    #[must_use]
    pub fn new(code: &str, message: &str) -> Self {
        Self {
            code: cut(code, limits::ERROR_CODE_BYTES).to_owned(),
            message: cut(message, limits::ERROR_MESSAGE_BYTES).to_owned(),
        }
    }
}

/// How one job ended, as its runner saw it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Receipt {
    /// The job.
    pub job_id: JobId,
    /// SHA-256 of the exact text of the `JobSpec` inside the batch.
    pub spec: Digest,
    /// The workflow whose step the job was. Without it, somebody's plain job with the id of a step could pass for the step. None also if
    /// the runner refused the job: that a step failed is proven only by an attempt to execute it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workflow: Option<Digest>,
    /// How often the queue had started the job, from 1.
    pub attempt: u32,
    /// The kind of the runner.
    pub runner: RunnerKind,
    /// When execution began.
    pub started_at: Timestamp,
    /// When it ended.
    pub finished_at: Timestamp,
    /// A final state.
    pub outcome: JobStatus,
    /// SHA-256 of the exact text of the output; null unless the job succeeded.
    pub output: Option<Digest>,
    /// Why it did not succeed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<JobError>,
}

/// What the worker knows at the end of a job.
#[derive(Debug, Clone)]
pub struct Ending<'a> {
    /// How often the queue had started the job, from 1.
    pub attempt: u32,
    /// When execution began.
    pub started_at: Timestamp,
    /// When it ended.
    pub finished_at: Timestamp,
    /// A final state.
    pub outcome: JobStatus,
    /// The output text, if the job succeeded.
    pub output: Option<&'a str>,
    /// Why it did not succeed.
    pub error: Option<&'a JobError>,
}

impl Receipt {
    /// The receipt of a job that a runner executed. The error's message is cut to 2 KiB, so that a whole batch fits into one envelope.
    #[must_use]
    pub fn of(job: &Job, ending: &Ending<'_>) -> Self {
        let message = |e: &JobError| cut(&e.message, limits::RECEIPT_MESSAGE_BYTES).to_owned();
        Self {
            job_id: job.id.clone(),
            spec: job.spec,
            workflow: job.workflow.as_ref().map(|(digest, _)| *digest),
            attempt: ending.attempt,
            runner: job.id.runner().clone(),
            started_at: ending.started_at,
            finished_at: ending.finished_at,
            outcome: ending.outcome,
            output: ending.output.map(|text| Digest::of(text.as_bytes())),
            error: ending
                .error
                .map(|e| JobError { code: cut(&e.code, limits::ERROR_CODE_BYTES).to_owned(), message: message(e) }),
        }
    }
}

/// The payload of a `receipts+json` envelope.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct ReceiptBatch {
    /// 1 to 256 receipts.
    pub receipts: Vec<Receipt>,
    /// Certificates of the runner, at most 4.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub certificates: Vec<Envelope>,
}
