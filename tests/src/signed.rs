//! Workflows as their submitters sign them.

use std::time::Duration;

use horus_keys::{Envelope, Identity, PayloadType, PeerId, Timestamp};
use horus_runners::job::WorkflowSubmission;

/// For how long a signed workflow may be submitted, and for how long it may run.
#[derive(Debug, Clone, Copy)]
pub struct Valid {
    /// From now to `submit_by`.
    pub submit: Duration,
    /// From now to `run_until`.
    pub run: Duration,
}

impl Valid {
    /// 10 minutes to submit it, an hour to run: longer than a test.
    pub const LONG: Self = Self { submit: Duration::from_secs(600), run: Duration::from_secs(3600) };
}

/// Signs a workflow without inputs.
///
/// # Panics
/// The id is none.
pub fn sign_workflow(user: &Identity, id: &str, definition: String, coordinators: &[PeerId], valid: Valid) -> Envelope {
    let now = Timestamp::now();
    let submission = WorkflowSubmission {
        id: id.parse().expect("a valid id"),
        definition,
        inputs: None,
        coordinators: coordinators.to_vec(),
        submit_by: now + valid.submit,
        run_until: now + valid.run,
        certificates: Vec::new(),
    };
    Envelope::sign_json(user, PayloadType::Workflow, &submission)
}
