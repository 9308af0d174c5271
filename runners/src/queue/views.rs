//! What the queue shows of its jobs.

use std::{collections::BTreeMap, fmt::Display, str::FromStr};

use horus_keys::{Envelope, PeerId, RunnerKind, Timestamp};
use redis::Value;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::QueueError;
use crate::{
    executor::LogLine,
    job::{JobError, JobId, JobStatus, Priority, StepId, json::present},
};

/// A job as `get_job` and `list_jobs` show it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JobView {
    /// The full id.
    pub job_id: JobId,
    /// The kind of runner.
    pub runner: RunnerKind,
    /// Where it stands.
    pub status: JobStatus,
    /// How often it was started.
    pub attempt: u32,
    /// Who is responsible for it.
    pub submitter: PeerId,
    /// The coordinator that sent it, if it is a step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delegate: Option<PeerId>,
    /// Other coordinators that its workflow names, for those who decide who may see it; not shown.
    #[serde(skip)]
    pub coordinators: Vec<PeerId>,
    /// The step that it executes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<StepId>,
    /// Which waiting jobs go first.
    pub priority: Priority,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// It is not started before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// It is not started after.
    pub run_until: Timestamp,
    /// When it was started last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
    /// The worker that holds it, or held it last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
    /// Whether cancel was asked for while it ran.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cancel_requested: bool,
    /// Free text by name.
    pub labels: BTreeMap<String, String>,
    /// Why it did not succeed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<JobError>,
}

/// The result of a job, as far as there is one, as `get_job_result` and `wait_jobs` show it.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct JobResult {
    /// The full id.
    pub job_id: JobId,
    /// Where it stands.
    pub status: JobStatus,
    /// The exact text that the receipt's digest is of.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    #[schemars(with = "serde_json::Value")]
    pub output: Option<Box<RawValue>>,
    /// Why it did not succeed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<JobError>,
    /// What the runner signed; none if no runner finished the job (cancelled or expired while it waited, lost).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receipt: Option<ReceiptAt>,
}

/// A receipt within a signed batch.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct ReceiptAt {
    /// A `receipts+json` envelope.
    pub envelope: Envelope,
    /// Position of the job's receipt in it.
    pub index: u32,
}

/// Some jobs, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JobPage {
    /// The jobs.
    pub jobs: Vec<JobView>,
    /// Where to go on; none if this was all. A page may have fewer jobs than asked for, even none, and still a cursor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// Which jobs to list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JobFilter {
    /// Of this kind.
    pub runner: Option<RunnerKind>,
    /// In this state.
    pub status: Option<JobStatus>,
    /// Of this submitter.
    pub submitter: Option<PeerId>,
}

/// Some lines of a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LogPage {
    /// Oldest first.
    pub lines: Vec<LogLine>,
    /// Where to go on, also when nothing is there yet.
    pub cursor: String,
}

/// The fields of a record that [`JobView`] needs.
pub(crate) const VIEW_FIELDS: [&str; 16] = [
    "status",
    "attempt",
    "submitter",
    "delegate",
    "step",
    "priority",
    "created",
    "not_before",
    "run_until",
    "started",
    "finished",
    "worker",
    "cancel",
    "labels",
    "error",
    "coordinators",
];

/// The fields of a record that [`JobResult`] needs.
pub(crate) const RESULT_FIELDS: [&str; 5] = ["status", "output", "error", "receipt", "receipt_index"];

/// A reply's text, if it is one.
pub(crate) fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        _ => None,
    }
}

/// Reads a field that must be there.
pub(crate) fn field<T>(row: &[Value], at: usize, name: &str) -> Result<T, QueueError>
where
    T: FromStr,
    T::Err: Display,
{
    optional(row, at, name)?.ok_or_else(|| QueueError::corrupt(format_args!("a job has no {name}")))
}

/// Reads a field that may be missing.
pub(crate) fn optional<T>(row: &[Value], at: usize, name: &str) -> Result<Option<T>, QueueError>
where
    T: FromStr,
    T::Err: Display,
{
    match row.get(at).and_then(text) {
        None | Some("") => Ok(None),
        Some(found) => found.parse().map(Some).map_err(|e| QueueError::corrupt(format_args!("{name} of a job: {e}"))),
    }
}

fn time(row: &[Value], at: usize, name: &str) -> Result<Option<Timestamp>, QueueError> {
    Ok(optional::<i64>(row, at, name)?.map(Timestamp::from_millis))
}

fn json<T: for<'de> Deserialize<'de>>(row: &[Value], at: usize, name: &str) -> Result<Option<T>, QueueError> {
    let parse =
        |found| serde_json::from_str(found).map_err(|e| QueueError::corrupt(format_args!("{name} of a job: {e}")));
    row.get(at).and_then(text).map(parse).transpose()
}

/// Keys with blanks in between; none if the field is missing.
fn peers(row: &[Value], at: usize) -> Result<Vec<PeerId>, QueueError> {
    let found = row.get(at).and_then(text).unwrap_or_default();
    let parse = |peer: &str| peer.parse().map_err(|e| QueueError::corrupt(format_args!("coordinators of a job: {e}")));
    found.split_ascii_whitespace().map(parse).collect()
}

pub(crate) fn status(value: &Value) -> Result<JobStatus, QueueError> {
    let found = text(value).ok_or_else(|| QueueError::corrupt("a status is no text"))?;
    found.parse().map_err(|_| QueueError::corrupt(format_args!("a job has the status {found:?}")))
}

impl JobView {
    /// From the values of [`VIEW_FIELDS`].
    pub(crate) fn from_row(job_id: JobId, row: &[Value]) -> Result<Self, QueueError> {
        let missing = || QueueError::corrupt("a job has no time");
        let priority = match row.get(5).and_then(text) {
            None => Priority::Normal,
            Some(name) => Priority::ALL
                .into_iter()
                .find(|priority| priority.as_str() == name)
                .ok_or_else(|| QueueError::corrupt(format_args!("a job has the priority {name:?}")))?,
        };
        Ok(Self {
            runner: job_id.runner().clone(),
            job_id,
            status: status(row.first().unwrap_or(&Value::Nil))?,
            attempt: optional(row, 1, "attempt")?.unwrap_or(0),
            submitter: field(row, 2, "submitter")?,
            delegate: optional(row, 3, "delegate")?,
            coordinators: peers(row, 15)?,
            step: optional(row, 4, "step")?,
            priority,
            created_at: time(row, 6, "created")?.ok_or_else(missing)?,
            not_before: time(row, 7, "not_before")?,
            run_until: time(row, 8, "run_until")?.ok_or_else(missing)?,
            started_at: time(row, 9, "started")?,
            finished_at: time(row, 10, "finished")?,
            worker: row.get(11).and_then(text).map(str::to_owned),
            cancel_requested: row.get(12).and_then(text).is_some(),
            labels: json(row, 13, "labels")?.unwrap_or_default(),
            error: json(row, 14, "error")?,
        })
    }
}

impl JobResult {
    /// From the values of [`RESULT_FIELDS`]; `receipts` has the envelopes by their digest in hex.
    pub(crate) fn from_row(
        job_id: JobId,
        row: &[Value],
        receipts: &BTreeMap<String, Envelope>,
    ) -> Result<Self, QueueError> {
        let status = status(row.first().unwrap_or(&Value::Nil))?;
        let envelope = row.get(3).and_then(text).and_then(|digest| receipts.get(digest)).cloned();
        let index = optional(row, 4, "receipt_index")?;
        Ok(Self {
            status,
            output: json(row, 1, "output")?,
            error: json(row, 2, "error")?.or_else(|| unfinished_error(&job_id, status)),
            receipt: envelope.zip(index).map(|(envelope, index)| ReceiptAt { envelope, index }),
            job_id,
        })
    }
}

/// Says why a job ended that no runner finished.
fn unfinished_error(job_id: &JobId, status: JobStatus) -> Option<JobError> {
    match status {
        JobStatus::Expired => Some(JobError::new("EXPIRED", "run_until passed before a runner could start the job")),
        JobStatus::Cancelled => Some(JobError::new("CANCELLED", &format!("{job_id} was cancelled"))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_is_an_output_like_any_other() {
        let bulk = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let row = [bulk("succeeded"), bulk("null"), Value::Nil, Value::Nil, Value::Nil];
        let id: JobId = "fake-a".parse().unwrap();
        let result = JobResult::from_row(id.clone(), &row, &BTreeMap::new()).unwrap();
        assert_eq!(result.output.as_ref().unwrap().get(), "null");
        let wire = serde_json::to_string(&result).unwrap();
        assert_eq!(wire, r#"{"job_id":"fake-a","status":"succeeded","output":null}"#);
        assert_eq!(serde_json::from_str::<JobResult>(&wire).unwrap().output.unwrap().get(), "null");
        let row = [bulk("running"), Value::Nil, Value::Nil, Value::Nil, Value::Nil];
        assert!(JobResult::from_row(id, &row, &BTreeMap::new()).unwrap().output.is_none());
    }
}
