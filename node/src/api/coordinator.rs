//! RPC of the coordinator: workflows, their steps and logs, and the supervisors that it sends steps to.

mod change;
mod read;
mod supervisors;

pub use change::{
    CancelWorkflow, SubmitWorkflow, SubmitWorkflowParams, Submitted, ValidateWorkflow, ValidateWorkflowParams,
    Validation, WorkflowIdParams, WorkflowState,
};
pub use read::{
    GetWorkflowLogs, GetWorkflowStatus, ListWorkflows, ListWorkflowsParams, MissingLog, OutputReceipt, StepDetail,
    StepView, WaitWorkflow, WaitWorkflowParams, WorkflowLogLine, WorkflowLogPage, WorkflowLogParams, WorkflowPage,
    WorkflowStatusParams, WorkflowSummary, WorkflowView,
};
pub use read::{MAX_OUTPUT_BYTES, MAX_STEPS_SHOWN, MAX_WORKFLOW_LIST, MAX_WORKFLOW_LOG_LINES, MAX_WORKFLOW_WAIT};
pub use supervisors::{
    ListSupervisors, RegisterSupervisor, RegisterSupervisorParams, Registered, SupervisorState, SupervisorView,
    Supervisors,
};
