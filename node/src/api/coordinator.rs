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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::mesh::ListNodesParams;

    /// Whether those parameters are read, with what else is there.
    fn reads<P: serde::de::DeserializeOwned>(params: &str, more: &str) -> bool {
        serde_json::from_str::<P>(&params.replace('}', more)).is_ok()
    }

    fn knows_its_own_only<P: serde::de::DeserializeOwned>(params: &str) {
        assert!(reads::<P>(params, "}"), "{params}");
        let more = if params == "{}" { "\"bogus\":1}" } else { ",\"bogus\":1}" };
        assert!(!reads::<P>(params, more), "{params}");
    }

    #[test]
    fn unknown_parameters_are_refused() {
        knows_its_own_only::<ListWorkflowsParams>("{}");
        knows_its_own_only::<ListNodesParams>("{}");
        knows_its_own_only::<WorkflowStatusParams>(r#"{"workflow_id":"w"}"#);
        knows_its_own_only::<WorkflowIdParams>(r#"{"workflow_id":"w"}"#);
        knows_its_own_only::<WorkflowLogParams>(r#"{"workflow_id":"w"}"#);
        knows_its_own_only::<WaitWorkflowParams>(r#"{"workflow_id":"w","timeout_ms":1}"#);
        knows_its_own_only::<ValidateWorkflowParams>(r#"{"definition":""}"#);
    }
}
