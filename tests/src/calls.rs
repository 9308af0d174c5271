//! Calls to roles from tests that are not asynchronous themselves, and from threads that put load on them.

use std::{
    thread,
    time::{Duration, Instant},
};

use horus_keys::{Envelope, Identity};
use horus_node::api::{
    coordinator::{GetWorkflowStatus, SubmitWorkflow, SubmitWorkflowParams, WorkflowStatusParams, WorkflowView},
    supervisor::{CreateJobs, CreateJobsParams, GetJobResult, JobIdParams, JobResult},
};
use horus_transport::{ClientOptions, ErrorKind, Method, RpcClient, RpcError};
use serde_json::Value;

/// How long one call may take before it is given up and made again.
const ONE_CALL: Duration = Duration::from_secs(5);

/// One role, called by one thread.
#[derive(Debug)]
pub struct Calls {
    runtime: tokio::runtime::Runtime,
    client: RpcClient,
}

impl Calls {
    /// Calls the role at that address, signed by `identity` where the method wants a signature.
    ///
    /// # Panics
    /// The address is none.
    pub fn to(address: &str, identity: Option<Identity>) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let options = ClientOptions { identity, ..ClientOptions::default() };
        let client = {
            let _inside = runtime.enter();
            RpcClient::connect(address.parse().expect("a valid address"), options).expect("a client")
        };
        Self { runtime, client }
    }

    /// One call.
    ///
    /// # Errors
    /// What the role answers, or that it does not.
    pub fn call<M: Method>(&self, params: &M::Params, within: Duration) -> Result<M::Result, RpcError> {
        self.runtime.block_on(self.client.call_with_timeout::<M>(params, within))
    }

    /// Makes a call again and again until it is answered. Errors that are none of a role that stops, is away, or has no
    /// Redis, are not lived through.
    ///
    /// # Panics
    /// It is refused, or not answered within `patience`.
    pub fn insist<M: Method>(&self, params: &M::Params, patience: Duration) -> M::Result {
        let deadline = Instant::now() + patience;
        loop {
            match self.call::<M>(params, ONE_CALL) {
                Ok(result) => return result,
                Err(error) => {
                    assert!(is_passing(error.kind), "{} is refused: {error}", M::NAME);
                    assert!(Instant::now() < deadline, "{} is not answered within {patience:?}: {error}", M::NAME);
                    thread::sleep(Duration::from_millis(50));
                }
            }
        }
    }

    /// Submits a workflow: the very same envelope again when nobody knows whether it was accepted.
    ///
    /// # Panics
    /// As [`Calls::insist`].
    pub fn submit_workflow(&self, envelope: Envelope, patience: Duration) {
        self.insist::<SubmitWorkflow>(&SubmitWorkflowParams { envelope: envelope.into() }, patience);
    }

    /// Submits a batch of jobs likewise.
    ///
    /// # Panics
    /// As [`Calls::insist`].
    pub fn submit_jobs(&self, envelope: Envelope, patience: Duration) {
        let params = CreateJobsParams { envelope: envelope.into(), workflow: None, receipts: Vec::new() };
        self.insist::<CreateJobs>(&params, patience);
    }

    /// A workflow as its coordinator shows it now.
    ///
    /// # Errors
    /// The coordinator does not answer, or knows no such workflow.
    ///
    /// # Panics
    /// The id is none.
    pub fn workflow(&self, id: &str) -> Result<WorkflowView, RpcError> {
        let params = WorkflowStatusParams { workflow_id: id.parse().expect("a valid id"), steps: None };
        self.call::<GetWorkflowStatus>(&params, ONE_CALL)
    }

    /// Waits until a job has ended, and gives how.
    ///
    /// # Panics
    /// It has not within `patience`.
    pub fn job_ended(&self, job: &str, patience: Duration) -> JobResult {
        let deadline = Instant::now() + patience;
        let params = JobIdParams { job_id: job.parse().expect("a valid id") };
        loop {
            let result = self.insist::<GetJobResult>(&params, patience);
            if result.status.is_final() {
                return result;
            }
            assert!(Instant::now() < deadline, "job {job} has not ended after {patience:?}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until all of these workflows have ended, and gives their views.
    ///
    /// # Panics
    /// One has not within `patience`.
    pub fn ended(&self, ids: &[String], patience: Duration) -> Vec<Value> {
        let deadline = Instant::now() + patience;
        let view = |id: &String| {
            loop {
                let shown = self.workflow(id);
                if let Ok(view) = &shown
                    && view.status.is_final()
                {
                    return serde_json::to_value(view).expect("a view is JSON");
                }
                assert!(Instant::now() < deadline, "workflow {id} has not ended after {patience:?}: {shown:#?}");
                thread::sleep(Duration::from_millis(50));
            }
        };
        ids.iter().map(view).collect()
    }
}

/// Whether an error means that the same call can succeed later.
fn is_passing(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::ShuttingDown
            | ErrorKind::PeerUnreachable
            | ErrorKind::TimedOut
            | ErrorKind::InvalidReply
            | ErrorKind::RedisUnavailable
            | ErrorKind::QueueFull
            | ErrorKind::UnknownRunner
    )
}
