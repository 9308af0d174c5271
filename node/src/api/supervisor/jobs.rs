//! Methods that create and change jobs.

use horus_keys::RunnerKind;
use horus_runners::job::{JobId, JobStatus};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::{EnvelopeText, rpc_method};

/// Parameters of `create_jobs`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateJobsParams {
    /// A batch of 1 to 256 jobs (`application/vnd.horus.jobs+json`, payload at most 1 MiB), signed by its submitter or, for
    /// the steps of a workflow, by a coordinator that the workflow names.
    pub envelope: EnvelopeText,
    /// The signed workflow that the steps refer to. Needed once: when the answer to a call without it was
    /// `WORKFLOW_UNKNOWN`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workflow: Option<EnvelopeText>,
    /// Receipts (`application/vnd.horus.receipts+json`) that the jobs refer to by digest and that this supervisor may not
    /// have, such as those of steps that ran elsewhere. At most 10,001.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub receipts: Vec<EnvelopeText>,
}

/// Parameters of `store_documents`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StoreDocumentsParams {
    /// The runner kind of the steps that will refer to them.
    pub runner: RunnerKind,
    /// A signed workflow that names the caller as a coordinator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workflow: Option<EnvelopeText>,
    /// Receipts (`application/vnd.horus.receipts+json`) by runners that are trusted. At most 10,001.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub receipts: Vec<EnvelopeText>,
}

/// Result of `store_documents`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StoredDocuments {
    /// How many documents are there now; receipts by keys that are not trusted as runners are left out.
    pub stored: usize,
}

/// Parameters of `create_job`: those of `create_jobs`, with a batch of one.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateJobParams {
    /// A batch of exactly one job (`application/vnd.horus.jobs+json`).
    pub envelope: EnvelopeText,
    /// The signed workflow that the step refers to, when the supervisor does not know it yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workflow: Option<EnvelopeText>,
    /// Receipts that the job refers to by digest and that this supervisor may not have. At most 10,001.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub receipts: Vec<EnvelopeText>,
}

/// An accepted job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CreatedJob {
    /// The job's full id, `<runner>-<id>`.
    pub job_id: JobId,
    /// Its status now: `queued` or `delayed` when this call created it.
    pub status: JobStatus,
    /// False when the very same job had been accepted before: nothing was changed.
    pub created: bool,
}

/// Result of `create_jobs`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CreatedJobs {
    /// The accepted jobs, in the order of the batch.
    pub jobs: Vec<CreatedJob>,
}

/// Parameters that name one job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JobIdParams {
    /// The job's full id, `<runner>-<id>`.
    pub job_id: JobId,
}

/// A job and its status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JobState {
    /// The job's full id, `<runner>-<id>`.
    pub job_id: JobId,
    /// Its status now.
    pub status: JobStatus,
}

/// Result of `delete_job`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Deleted {
    /// False when the job has not ended yet: cancel it first.
    pub deleted: bool,
}

rpc_method!(
    /// `create_jobs`: accept a signed batch. All or nothing: one refusal refuses the batch and names the index. Idempotent.
    CreateJobs,
    "create_jobs",
    "Accept a signed batch of jobs: all of them, or none",
    CreateJobsParams => CreatedJobs,
    [InvalidEnvelope, BadSignature, UntrustedSigner, NotAllowed, Expired, IdConflict, TooLarge, UnknownRunner, WorkflowUnknown, InvalidWorkflow, DelegationMismatch, QueueFull, RedisUnavailable]
);
rpc_method!(
    /// `create_job`: accept a signed batch of one job. Idempotent.
    CreateJob,
    "create_job",
    "Accept a signed batch of one job",
    CreateJobParams => CreatedJob,
    [InvalidEnvelope, BadSignature, UntrustedSigner, NotAllowed, Expired, IdConflict, TooLarge, UnknownRunner, WorkflowUnknown, InvalidWorkflow, DelegationMismatch, QueueFull, RedisUnavailable]
);
rpc_method!(
    /// `store_documents`: keep a workflow and receipts for 10 minutes, for steps that will refer to them by digest. For what
    /// is too large to go along with `create_jobs`; to be sent in as many calls as it takes. Idempotent.
    StoreDocuments,
    "store_documents",
    "Keep documents that the next jobs refer to",
    StoreDocumentsParams => StoredDocuments,
    [InvalidEnvelope, BadSignature, UntrustedSigner, NotAllowed, Expired, TooLarge, UnknownRunner, InvalidWorkflow, RedisUnavailable]
);
rpc_method!(
    /// `cancel_job`: end a job that waits, stop one that runs. The answer's status is `running` while the runner is
    /// stopping it. Cancelling a job that has ended changes nothing.
    CancelJob,
    "cancel_job",
    "Cancel a job wherever it is",
    JobIdParams => JobState,
    [JobNotFound, NotAllowed, RedisUnavailable]
);
rpc_method!(
    /// `delete_job`: forget a finished job's result and log. Its id stays taken until after its `run_until`.
    DeleteJob,
    "delete_job",
    "Delete a finished job; its id stays taken",
    JobIdParams => Deleted,
    [JobNotFound, NotAllowed, RedisUnavailable]
);
