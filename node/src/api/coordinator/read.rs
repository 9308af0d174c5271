//! Methods that read workflows and their logs, and that wait for them.

use std::collections::BTreeMap;
use std::time::Duration;

use horus_keys::{Digest, Envelope, PeerId, Timestamp};
use horus_runners::job::{JobError, JobId, StepId, WorkflowId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::api::rpc_method;
use crate::api::supervisor::LogStream;
use crate::workflow::{StepStatus, WorkflowStatus};

/// The longest wait of one `wait_workflow` call; a longer `timeout_ms` is cut to it.
pub const MAX_WORKFLOW_WAIT: Duration = Duration::from_secs(600);
/// Most workflows that `list_workflows` returns in one page.
pub const MAX_WORKFLOW_LIST: u32 = 1000;
/// Most log lines that `get_workflow_logs` returns in one page.
pub const MAX_WORKFLOW_LOG_LINES: u32 = 1000;
/// Most steps that one status shows.
pub const MAX_STEPS_SHOWN: usize = 20_000;
/// Most bytes of outputs that one status shows.
pub const MAX_OUTPUT_BYTES: usize = 8 << 20;

/// Which steps a status shows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StepDetail {
    /// All of them (the first 20,000).
    #[default]
    All,
    /// Those that are being worked on: neither pending nor ended.
    Active,
    /// None: the counts only.
    None,
}

/// Parameters of `get_workflow_status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WorkflowStatusParams {
    /// The workflow's id.
    pub workflow_id: WorkflowId,
    /// Which steps to show: `all` unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<StepDetail>,
}

/// Parameters of `wait_workflow`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WaitWorkflowParams {
    /// The workflow's id.
    pub workflow_id: WorkflowId,
    /// Answer as soon as the revision is higher than this. Absent: when the workflow has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after_revision: Option<u64>,
    /// How long to wait, in milliseconds, before the answer says how things stand by then; at most 600000.
    pub timeout_ms: u64,
    /// Which steps to show: `all` unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<StepDetail>,
}

/// A step of a workflow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StepView {
    /// Its status now.
    pub status: StepStatus,
    /// The attempt that runs, ran last or runs next: from 1; 0 for a step that never became ready.
    pub attempt: u32,
    /// The supervisor that has it: its address, or its PeerId if the coordinator does not know the address any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub supervisor: Option<String>,
    /// The job that it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_id: Option<JobId>,
    /// When it was started by its runner, or sent to its supervisor if the runner has not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
    /// Why its latest attempt did not succeed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<JobError>,
    /// When its next attempt begins, or its supervisor's silence ends its waiting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wake_at: Option<Timestamp>,
    /// Why it is ready and yet goes nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting_for: Option<String>,
}

/// A workflow, as `get_workflow_status` and `wait_workflow` show it.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct WorkflowView {
    /// The workflow's id.
    pub workflow_id: WorkflowId,
    /// Its name, from the definition.
    pub name: String,
    /// Its status now.
    pub status: WorkflowStatus,
    /// Who signed it.
    pub submitter: PeerId,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
    /// When its time is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Timestamp>,
    /// How many steps have which status; a status that no step has is left out.
    pub counts: BTreeMap<StepStatus, u32>,
    /// The steps by id, as many as were asked for.
    pub steps: BTreeMap<StepId, StepView>,
    /// How many steps were asked for and left out, because an answer shows 20,000 at most.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub steps_omitted: u32,
    /// Once it has succeeded: the outputs that the definition declares, else those of the steps on which no other depends,
    /// by step id. Once it has failed: those of them that there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<BTreeMap<String, serde_json::Value>>")]
    pub outputs: Option<BTreeMap<String, Box<RawValue>>>,
    /// Which receipt proves each of the outputs, by the same names. Whoever asked checks them against `receipts` instead of
    /// believing the coordinator.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub output_receipts: BTreeMap<String, OutputReceipt>,
    /// The signed batches of receipts that `output_receipts` refers to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub receipts: Vec<Envelope>,
    /// Outputs that were left out, because an answer holds 8 MiB of them at most: `get_job_result` has them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outputs_omitted: Vec<String>,
    /// Why it did not succeed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<JobError>,
    /// Grows with every change.
    pub revision: u64,
}

/// The receipt of an output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OutputReceipt {
    /// The job whose output it is.
    pub job_id: JobId,
    /// Digest of the payload of the batch of receipts.
    pub digest: Digest,
    /// Place of the receipt in it, from 0.
    pub index: u32,
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// Parameters of `list_workflows`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListWorkflowsParams {
    /// Only workflows of this name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Only workflows with this status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<WorkflowStatus>,
    /// Continue after this: the `cursor` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Most workflows to return: 1 to 1000, 100 unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// A workflow in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WorkflowSummary {
    /// The workflow's id.
    pub workflow_id: WorkflowId,
    /// Its name.
    pub name: String,
    /// Its status now.
    pub status: WorkflowStatus,
    /// Who signed it.
    pub submitter: PeerId,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
    /// How many steps it has.
    pub steps: u32,
}

/// A page of workflows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WorkflowPage {
    /// The workflows, newest first. A page can hold fewer than `limit` and still not be the last.
    pub workflows: Vec<WorkflowSummary>,
    /// Give it back to get the next page. Absent: this was the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// Parameters of `get_workflow_logs`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WorkflowLogParams {
    /// The workflow's id.
    pub workflow_id: WorkflowId,
    /// Only this step's log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<StepId>,
    /// Continue after this: the `cursor` of the page before, asked with the same `step`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Most lines to return: 1 to 1000, 200 unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// A line of a step's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WorkflowLogLine {
    /// When it was written.
    pub time: Timestamp,
    /// The step that wrote it.
    pub step: StepId,
    /// In which attempt.
    pub attempt: u32,
    /// Where it comes from.
    pub stream: LogStream,
    /// The line, without its end.
    pub text: String,
}

/// A log that could not be read now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MissingLog {
    /// The step.
    pub step: StepId,
    /// The attempt.
    pub attempt: u32,
    /// Why, and whether asking again helps.
    pub reason: String,
}

/// A page of a workflow's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WorkflowLogPage {
    /// The lines of this page by time. Steps of very different age come in the order in which they were started. Empty:
    /// nothing new yet.
    pub lines: Vec<WorkflowLogLine>,
    /// Give it back to get what comes after; it stays valid while the workflow runs and after.
    pub cursor: String,
    /// Logs that belong here and could not be read now; the cursor keeps their place.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<MissingLog>,
}

rpc_method!(
    /// `get_workflow_status`: a workflow, its steps and, once it has ended, its outputs.
    GetWorkflowStatus,
    "get_workflow_status",
    "The status of a workflow and its steps",
    WorkflowStatusParams => WorkflowView,
    [WorkflowNotFound, RedisUnavailable]
);
rpc_method!(
    /// `wait_workflow`: the status of a workflow as soon as it has changed or ended (a long poll).
    WaitWorkflow,
    "wait_workflow",
    "Wait until a workflow has changed or ended",
    WaitWorkflowParams => WorkflowView,
    [WorkflowNotFound, RedisUnavailable, RateLimited],
    long_poll
);
rpc_method!(
    /// `list_workflows`: the workflows that the caller may see, newest first, a page at a time.
    ListWorkflows,
    "list_workflows",
    "List workflows",
    ListWorkflowsParams => WorkflowPage,
    [RedisUnavailable]
);
rpc_method!(
    /// `get_workflow_logs`: the logs of a workflow's steps, fetched from their supervisors, merged by time, as they grow.
    GetWorkflowLogs,
    "get_workflow_logs",
    "A page of a workflow's log",
    WorkflowLogParams => WorkflowLogPage,
    [WorkflowNotFound, RedisUnavailable]
);
