//! Methods that read jobs, results and logs, and that wait for them.

use std::time::Duration;

use horus_keys::{Digest, Envelope, PeerId, RunnerKind};
use horus_runners::job::{JobError, JobId, JobStatus};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

pub use horus_runners::executor::{LogLine, LogStream};
pub use horus_runners::queue::{JobPage, JobView as Job, LogPage};

use super::jobs::{JobIdParams, JobState};
use crate::api::rpc_method;

/// The longest wait of one `wait_jobs` call; a longer `timeout_ms` is cut to it.
pub const MAX_WAIT: Duration = Duration::from_secs(600);
/// Most jobs that one `wait_jobs` call may name.
pub const MAX_WAIT_JOBS: usize = 4096;
/// Most jobs that `list_jobs` returns in one page.
pub const MAX_LIST: usize = 1000;
/// Most log lines that `get_job_logs` returns in one page.
pub const MAX_LOG_LINES: usize = 1000;

/// Where the receipt of a result is: in which signed batch of receipts, and at which place.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct ReceiptAt {
    /// The signed batch of receipts. Absent only in an answer of `wait_jobs` with `share_receipts`: see `digest`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub envelope: Option<Envelope>,
    /// With `share_receipts`: the digest of the batch's payload, whose envelope stands once in the answer's `receipts`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// The receipt's place in the batch, from 0.
    pub index: u32,
}

/// What became of a job.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct JobResult {
    /// The job's full id, `<runner>-<id>`.
    pub job_id: JobId,
    /// Its status now; the other fields are there once it has ended.
    pub status: JobStatus,
    /// The output of a job that succeeded: any JSON, byte for byte as the receipt's digest covers it.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    #[schemars(with = "serde_json::Value")]
    pub output: Option<Box<RawValue>>,
    /// Why it did not succeed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<JobError>,
    /// The runner's receipt. A job that no runner ended (cancelled or expired in the queue, lost) has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receipt: Option<ReceiptAt>,
}

/// Parameters of `get_job_logs`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LogParams {
    /// The job's full id, `<runner>-<id>`.
    pub job_id: JobId,
    /// Continue after this: the `cursor` of the page before. Absent: from the oldest line that is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Most lines to return: 1 to 1000, 200 unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// Parameters of `wait_jobs`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WaitJobsParams {
    /// The jobs to wait for: 1 to 4096.
    pub job_ids: Vec<JobId>,
    /// How long to wait, in milliseconds, before the answer says what is done by then. 0 asks only; at most 600000 (10
    /// minutes), a longer one is cut to that.
    pub timeout_ms: u64,
    /// True: answer as soon as one of them has ended. Else when all have.
    #[serde(default)]
    pub any: bool,
    /// True: put every batch of receipts once in the answer's `receipts` instead of in each result.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub share_receipts: bool,
}

/// Result of `wait_jobs`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
pub struct WaitedJobs {
    /// The results of jobs that have ended. Some 768 KiB at most: what does not fit stays in `pending`, and a call for those
    /// is answered at once.
    pub done: Vec<JobResult>,
    /// The jobs to ask for again.
    pub pending: Vec<JobId>,
    /// With `share_receipts`: the signed batches of receipts that the results refer to by digest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub receipts: Vec<Envelope>,
}

/// An output of `null` is an output: it is not the same as none.
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Box<RawValue>>, D::Error> {
    Box::<RawValue>::deserialize(deserializer).map(Some)
}

impl WaitedJobs {
    /// The signed batch of receipts for `result`, and the place of its receipt there, however the answer carries them.
    #[must_use]
    pub fn receipt_of<'a>(&'a self, result: &'a JobResult) -> Option<(&'a Envelope, u32)> {
        let at = result.receipt.as_ref()?;
        let envelope = at.envelope.as_ref().or_else(|| {
            let digest = at.digest?;
            self.receipts.iter().find(|e| e.digest() == digest)
        })?;
        Some((envelope, at.index))
    }
}

/// Parameters of `list_jobs`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListJobsParams {
    /// Only jobs of this runner kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runner: Option<RunnerKind>,
    /// Only jobs with this status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<JobStatus>,
    /// Only jobs of this submitter. Who does not see everybody's jobs gets its own either way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub submitter: Option<PeerId>,
    /// Continue after this: the `cursor` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Most jobs to return: 1 to 1000, 100 unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

rpc_method!(
    /// `get_job`: everything known of a job but its result and its log.
    GetJob,
    "get_job",
    "Show a job",
    JobIdParams => Job,
    [JobNotFound, RedisUnavailable]
);
rpc_method!(
    /// `get_job_status`: a job's status only.
    GetJobStatus,
    "get_job_status",
    "The status of a job",
    JobIdParams => JobState,
    [JobNotFound, RedisUnavailable]
);
rpc_method!(
    /// `get_job_result`: a job's output or error, with the runner's receipt.
    GetJobResult,
    "get_job_result",
    "The output or error of a job, with the runner's receipt",
    JobIdParams => JobResult,
    [JobNotFound, RedisUnavailable]
);
rpc_method!(
    /// `get_job_logs`: a page of a job's log, as it grows.
    GetJobLogs,
    "get_job_logs",
    "A page of a job's log",
    LogParams => LogPage,
    [JobNotFound, RedisUnavailable]
);
rpc_method!(
    /// `wait_jobs`: wait until one or all of some jobs have ended (a long poll).
    WaitJobs,
    "wait_jobs",
    "Wait until one or all of the jobs have ended",
    WaitJobsParams => WaitedJobs,
    [JobNotFound, RedisUnavailable], long_poll
);
rpc_method!(
    /// `list_jobs`: the jobs that the caller may see, a page at a time.
    ListJobs,
    "list_jobs",
    "List jobs",
    ListJobsParams => JobPage,
    [NotAllowed, RedisUnavailable]
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_is_an_output() {
        let text = r#"{"job_id":"noop-a","status":"succeeded","output":null}"#;
        let result: JobResult = serde_json::from_str(text).unwrap();
        assert_eq!(result.output.as_ref().map(|o| o.get()), Some("null"));
        assert_eq!(serde_json::to_string(&result).unwrap(), text);
        let none: JobResult = serde_json::from_str(r#"{"job_id":"noop-a","status":"lost"}"#).unwrap();
        assert!(none.output.is_none());
    }
}
