//! Methods that submit, check and stop workflows.

use std::collections::BTreeMap;

use horus_runners::definition::Problem;
use horus_runners::job::WorkflowId;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::{EnvelopeText, rpc_method};
use crate::workflow::WorkflowStatus;

/// Parameters of `submit_workflow`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SubmitWorkflowParams {
    /// The signed workflow (`application/vnd.horus.workflow+json`): id, definition, inputs, the coordinators that may
    /// delegate its steps, `submit_by` and `run_until`. At most 16 MiB over HTTP and 1 MiB over messages.
    pub envelope: EnvelopeText,
}

/// Result of `submit_workflow`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Submitted {
    /// The workflow's id, as its submitter signed it.
    pub workflow_id: WorkflowId,
    /// Its status now.
    pub status: WorkflowStatus,
    /// False when the very same workflow had been accepted before: nothing was changed.
    pub created: bool,
}

/// Parameters that name one workflow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WorkflowIdParams {
    /// The workflow's id.
    pub workflow_id: WorkflowId,
}

/// A workflow and its status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WorkflowState {
    /// The workflow's id.
    pub workflow_id: WorkflowId,
    /// Its status now.
    pub status: WorkflowStatus,
}

/// Parameters of `validate_workflow`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ValidateWorkflowParams {
    /// The YAML text, at most 16 MiB.
    pub definition: String,
    /// The inputs that it would be submitted with: their names must not be those of steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inputs: Option<BTreeMap<String, serde_json::Value>>,
}

/// Result of `validate_workflow`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Validation {
    /// Whether `submit_workflow` would accept the definition.
    pub valid: bool,
    /// Everything that is wrong with it, in the order of the text; at most 100, and the last one says how many more.
    pub errors: Vec<Problem>,
}

rpc_method!(
    /// `submit_workflow`: accept a signed workflow and start it. It is stored before the answer is sent, so that it runs
    /// whatever happens to the coordinator. Idempotent: the same envelope again returns the same workflow.
    SubmitWorkflow,
    "submit_workflow",
    "Accept a signed workflow and start it",
    SubmitWorkflowParams => Submitted,
    [InvalidEnvelope, BadSignature, UntrustedSigner, NotAllowed, Expired, IdConflict, TooLarge, InvalidWorkflow, RedisUnavailable]
);
rpc_method!(
    /// `cancel_workflow`: start no further step and stop those that run. The answer's status is `running` while they are
    /// being stopped, 15 seconds at most. Cancelling a workflow that has ended changes nothing.
    CancelWorkflow,
    "cancel_workflow",
    "Stop a workflow",
    WorkflowIdParams => WorkflowState,
    [WorkflowNotFound, NotAllowed, RedisUnavailable]
);
rpc_method!(
    /// `validate_workflow`: everything that is wrong with a definition, without submitting it.
    ValidateWorkflow,
    "validate_workflow",
    "Check a workflow definition",
    ValidateWorkflowParams => Validation,
    []
);
