//! Finding out which steps run already. A supervisor says when a job has ended, not when it was started; so that costs calls,
//! and is asked only while somebody looks at the workflow, and only for steps that take a while.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use horus_keys::PeerId;
use horus_runners::job::{JobStatus, limits, step_job_id};
use horus_transport::{Call, decode};

use super::Shared;
use super::arrival::Message;
use super::live::Live;
use crate::api::supervisor::{GetJobStatus, JobIdParams};
use crate::workflow::{StepAttempt, StepIndex, StepStatus};

/// A step that ends sooner is never asked for.
const FIRST: Duration = Duration::from_millis(250);
/// The pause until those that still wait may be asked for again.
const PAUSE: Duration = Duration::from_secs(1);
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Steps that are asked for at a time: those that were sent first.
const AT_ONCE: usize = limits::BATCH_JOBS;

/// Somebody looks at the workflow.
pub(super) fn looked_at(shared: &Arc<Shared>, live: &Arc<Live>) {
    if shared.driven(&live.id).is_none() || live.asking.swap(true, Ordering::Relaxed) {
        return;
    }
    let (shared, live) = (Arc::clone(shared), Arc::clone(live));
    tokio::spawn(async move {
        tokio::time::sleep(FIRST).await;
        let asked = ask(&shared, &live).await;
        if asked {
            tokio::time::sleep(PAUSE).await;
        }
        live.asking.store(false, Ordering::Relaxed);
    });
}

/// Asks the supervisors of steps that were sent. False if there are none.
async fn ask(shared: &Shared, live: &Live) -> bool {
    let mut sent: HashMap<PeerId, Vec<StepAttempt>> = HashMap::new();
    {
        let state = live.state.read().await;
        if state.count(StepStatus::Dispatched) == 0 {
            return false;
        }
        let waiting = |step: &StepIndex| state.step(*step).status == StepStatus::Dispatched;
        let places = (0..).zip(live.plan.steps()).map(|(place, _)| place);
        for step in places.filter(waiting).take(AT_ONCE) {
            if let Some(peer) = state.supervisor_of(step) {
                sent.entry(peer).or_default().push(state.attempt_of(step));
            }
        }
    }
    for (peer, steps) in sent {
        let Some(supervisor) = shared.pool.find(&peer) else { continue };
        let call = |step: &StepAttempt| {
            let planned = live.plan.step(step.0);
            let job_id = step_job_id(live.plan.workflow(), &planned.id, None, step.1, &planned.runner);
            Call::new::<GetJobStatus>(&JobIdParams { job_id })
        };
        let Ok(calls) = steps.iter().map(call).collect::<Result<Vec<Call>, _>>() else { continue };
        let Ok(answers) = supervisor.client.batch(&calls, PATIENCE).await else { continue };
        let runs = |answer: &Result<Box<serde_json::value::RawValue>, _>| {
            let state = answer.as_ref().ok().and_then(|text| decode::<GetJobStatus>(text).ok());
            state.is_some_and(|state| state.status == JobStatus::Running)
        };
        let running: Vec<StepAttempt> =
            steps.iter().zip(&answers).filter(|(_, answer)| runs(answer)).map(|(step, _)| *step).collect();
        if !running.is_empty() {
            let _ = live.inbox.send(Message::Running(running));
        }
    }
    true
}
