//! Workflows: the time from submission to the last step's end, for a chain and for a fan-out with its fan-in.

use std::time::{Duration, Instant};

use horus_keys::{Envelope, Identity, PayloadType, RunnerKind, Timestamp};
use horus_runners::job::{WorkflowId, WorkflowSubmission, limits};
use horus_transport::{ErrorKind, RpcClient, RpcError};
use serde::Serialize;

use super::stats::{Environment, Latencies, round};
use crate::{
    api::coordinator::{StepDetail, SubmitWorkflow, SubmitWorkflowParams, WaitWorkflow, WaitWorkflowParams},
    workflow::WorkflowStatus,
};

const PATIENCE: Duration = Duration::from_secs(120);
/// The most dependencies of a step.
const DEPENDENCIES: u32 = limits::DEPENDENCIES as u32;

/// What the workflow looks like.
#[derive(Debug, Clone, Copy)]
pub enum Shape {
    /// So many steps in a row.
    Chain(u32),
    /// One step, then so many at once, then one that waits for all of them; beyond 10,000, by way of a step for each 10,000,
    /// since a step may have no more dependencies.
    Fan(u32),
}

impl Shape {
    fn steps(self) -> u32 {
        match self {
            Self::Chain(n) => n,
            Self::Fan(n) if n <= DEPENDENCIES => n + 2,
            Self::Fan(n) => n + 2 + n.div_ceil(DEPENDENCIES),
        }
    }
}

/// What to measure.
#[derive(Debug, Clone)]
pub struct WorkflowPlan {
    /// Its shape.
    pub shape: Shape,
    /// How many, one after the other.
    pub count: u32,
    /// Runner kind of every step.
    pub runner: RunnerKind,
}

/// The figures; medians over all workflows.
#[derive(Debug, Clone, Serialize)]
pub struct WorkflowReport {
    #[serde(skip_serializing_if = "Option::is_none")]
    chain: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fan: Option<u32>,
    workflows: u32,
    total_ms_p50: f64,
    total_ms_p99: f64,
    step_ms_p50: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    fan_ms: Option<f64>,
    environment: Environment,
}

/// Measures workflows.
///
/// # Errors
/// What the coordinator refused, or a workflow that did not succeed.
pub async fn workflow(
    rpc: &RpcClient,
    identity: &Identity,
    certificates: &[Envelope],
    plan: &WorkflowPlan,
    environment: Environment,
) -> Result<WorkflowReport, RpcError> {
    let definition = definition(plan);
    run_one(rpc, identity, certificates, &definition).await?;
    let mut samples = Vec::new();
    for _ in 0..plan.count {
        samples.push(run_one(rpc, identity, certificates, &definition).await?);
    }
    let latencies = Latencies::new(samples);
    let (chain, fan) = match plan.shape {
        Shape::Chain(n) => (Some(n), None),
        Shape::Fan(n) => (None, Some(n)),
    };
    let steps = plan.shape.steps();
    let total = latencies.percentile_ms(50);
    Ok(WorkflowReport {
        chain,
        fan,
        workflows: plan.count,
        total_ms_p50: total,
        total_ms_p99: latencies.percentile_ms(99),
        step_ms_p50: round(total / f64::from(steps)),
        fan_ms: fan.map(|_| total),
        environment,
    })
}

/// From the submission's first byte to the answer that says that the last step has ended.
async fn run_one(
    rpc: &RpcClient,
    identity: &Identity,
    certificates: &[Envelope],
    definition: &str,
) -> Result<Duration, RpcError> {
    let coordinator = rpc.peer().await?;
    let id = WorkflowId::generate();
    let now = Timestamp::now();
    let submission = WorkflowSubmission {
        id: id.clone(),
        definition: definition.to_owned(),
        inputs: None,
        coordinators: vec![coordinator],
        submit_by: now + Duration::from_secs(600),
        run_until: now + Duration::from_secs(3600),
        certificates: certificates.to_vec(),
    };
    let started = Instant::now();
    let envelope = Envelope::sign_json(identity, PayloadType::Workflow, &submission);
    rpc.call::<SubmitWorkflow>(&SubmitWorkflowParams { envelope: envelope.into() }).await?;
    loop {
        let params = WaitWorkflowParams {
            workflow_id: id.clone(),
            after_revision: None,
            timeout_ms: u64::try_from(PATIENCE.as_millis()).unwrap_or(u64::MAX),
            steps: Some(StepDetail::None),
        };
        let view = rpc.call_with_timeout::<WaitWorkflow>(&params, PATIENCE + Duration::from_secs(10)).await?;
        if view.status.is_final() {
            let elapsed = started.elapsed();
            if view.status == WorkflowStatus::Succeeded {
                return Ok(elapsed);
            }
            let why = view.error.map(|e| e.message).unwrap_or_default();
            return Err(RpcError::new(ErrorKind::Other, format!("workflow {id} {}: {why}", view.status.as_str())));
        }
    }
}

fn definition(plan: &WorkflowPlan) -> String {
    let runner = &plan.runner;
    let payload = if runner.as_str() == "noop" { "" } else { "1" };
    let mut text = "workflow:\n  name: bench\n  steps:\n".to_owned();
    let mut step = |id: String, after: &str| {
        text += &format!("    - {{id: {id}, runner: {runner}, payload: \"{payload}\", depends_on: [{after}]}}\n");
    };
    match plan.shape {
        Shape::Chain(n) => {
            for i in 0..n {
                let after = i.checked_sub(1).map(|p| format!("s{p}")).unwrap_or_default();
                step(format!("s{i}"), &after);
            }
        }
        Shape::Fan(n) => {
            step("first".to_owned(), "");
            for i in 0..n {
                step(format!("s{i}"), "first");
            }
            let names = |from: u32, to: u32| (from..to).map(|i| format!("s{i}")).collect::<Vec<_>>().join(", ");
            if n <= DEPENDENCIES {
                step("last".to_owned(), &names(0, n));
                return text;
            }
            let joins = n.div_ceil(DEPENDENCIES);
            for i in 0..joins {
                step(format!("j{i}"), &names(i * DEPENDENCIES, n.min((i + 1) * DEPENDENCIES)));
            }
            step("last".to_owned(), &(0..joins).map(|i| format!("j{i}")).collect::<Vec<_>>().join(", "));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definitions_are_valid() {
        for shape in [Shape::Chain(1), Shape::Chain(3), Shape::Fan(1), Shape::Fan(50), Shape::Fan(10_001)] {
            let plan = WorkflowPlan { shape, count: 1, runner: "noop".parse().unwrap() };
            let text = definition(&plan);
            let parsed = horus_runners::definition::parse(&text);
            assert_eq!(parsed.unwrap().steps.len(), shape.steps() as usize, "{shape:?}");
        }
    }
}
