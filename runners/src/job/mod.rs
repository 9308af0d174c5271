//! The job model: what is signed, queued, executed and reported. It is the input language of runners, and the wire format of CONTRACT.md.

pub(crate) mod bounds;
mod id;
pub(crate) mod json;
pub mod limits;
mod receipt;
mod spec;
mod status;
#[cfg(test)]
mod tests;
mod verified;
mod workflow;

pub use id::{IdError, JobId, LocalId, StepId, WorkflowId, step_job_id};
pub use receipt::{Ending, JobError, Receipt, ReceiptBatch};
pub use spec::{Delegation, JobBatch, JobSpec, ReceiptRef};
pub use status::{JobStatus, Priority, UnknownStatus};
pub use verified::Job;
pub use workflow::WorkflowSubmission;
