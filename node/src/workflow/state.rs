//! Where a workflow and each of its steps is. Changed by the [`engine`](super::engine) alone.

use horus_keys::{Digest, PeerId, Timestamp};
use horus_runners::job::JobError;
use serde::{Deserialize, Serialize};

use super::event::{ReceiptPlace, StepAttempt, StepIndex};
use super::plan::Plan;
use super::policy::Policy;
use super::status::{StepStatus, WorkflowStatus};

/// Where a step is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepState {
    /// Its status.
    pub status: StepStatus,
    /// The attempt that runs, ran last, or runs next: from 1; 0 for one that never became ready.
    pub attempt: u32,
    /// How many of its dependencies have not ended.
    pub waiting: u32,
    /// Its latest entry in [`State::dispatches`].
    pub dispatch: Option<u32>,
    /// When a runner started the latest attempt, or the step was sent if the runner has not said.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// Its output, if it succeeded.
    pub output: Option<Digest>,
    /// The receipt of the attempt that decided: its success, or the failure that others may go on after.
    pub receipt: Option<ReceiptPlace>,
    /// The receipt of the attempt before the current one: it proves that another attempt is due.
    pub previous: Option<ReceiptPlace>,
    /// Why the latest attempt did not succeed.
    pub error: Option<Box<JobError>>,
    /// When it wants to be woken.
    pub wake_at: Option<Timestamp>,
}

impl StepState {
    fn fresh(waiting: u32) -> Self {
        Self {
            status: StepStatus::Pending,
            attempt: 0,
            waiting,
            dispatch: None,
            started_at: None,
            finished_at: None,
            output: None,
            receipt: None,
            previous: None,
            error: None,
            wake_at: None,
        }
    }

    /// Whether those that depend on the step run without its output: it failed, may fail, and a receipt proves it, or its author asks for
    /// no proof.
    #[must_use]
    pub fn failed_but_tolerated(&self, policy: &Policy) -> bool {
        let may = policy.continue_on_error && (self.receipt.is_some() || policy.tolerates_unknown());
        self.status == StepStatus::Failed && may
    }
}

/// A step that was sent, in the order of sending.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dispatch {
    /// What was sent.
    pub step: StepAttempt,
    /// To whom: a place in [`State::supervisors`].
    pub supervisor: u32,
}

/// Why a workflow takes no further steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stop {
    /// Somebody asked for it.
    Cancelled {
        /// Who.
        by: PeerId,
    },
    /// Its time is over.
    Deadline,
}

/// Where a workflow is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// Its status.
    pub status: WorkflowStatus,
    /// How many records led here: the revision.
    pub sequence: u64,
    /// When it started.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// When its time is over; set when it starts.
    pub deadline: Option<Timestamp>,
    /// Why it takes no further steps, and when what still runs is given up.
    pub stop: Option<(Stop, Timestamp)>,
    /// Why it failed.
    pub error: Option<JobError>,
    /// The steps, in the order of the definition.
    pub steps: Vec<StepState>,
    /// Everything that was sent, in order.
    pub dispatches: Vec<Dispatch>,
    /// The supervisors that something was sent to.
    pub supervisors: Vec<PeerId>,
    /// How many steps have each status, by [`StepStatus`] as a number.
    pub counts: [u32; StepStatus::COUNT],
    /// Failures that nothing tolerates: how many, and the first of them.
    pub failures: (u32, Option<StepIndex>),
}

impl State {
    /// A workflow in which nothing has happened.
    #[must_use]
    pub fn new(plan: &Plan) -> Self {
        let steps: Vec<StepState> = plan
            .steps()
            .iter()
            .map(|step| StepState::fresh(u32::try_from(step.dependencies.len()).unwrap_or(u32::MAX)))
            .collect();
        let mut counts = [0; StepStatus::COUNT];
        counts[StepStatus::Pending as usize] = u32::try_from(steps.len()).unwrap_or(u32::MAX);
        Self {
            status: WorkflowStatus::Pending,
            sequence: 0,
            started_at: None,
            finished_at: None,
            deadline: None,
            stop: None,
            error: None,
            steps,
            dispatches: Vec::new(),
            supervisors: Vec::new(),
            counts,
            failures: (0, None),
        }
    }

    /// The step at that place.
    #[must_use]
    pub fn step(&self, step: StepIndex) -> &StepState {
        &self.steps[step as usize]
    }

    /// How many steps have that status.
    #[must_use]
    pub fn count(&self, status: StepStatus) -> u32 {
        self.counts[status as usize]
    }

    /// How many steps have not ended.
    #[must_use]
    pub fn unfinished(&self) -> u32 {
        StepStatus::ALL.into_iter().filter(|s| !s.is_final()).map(|s| self.count(s)).sum()
    }

    /// The supervisor that the step was last sent to.
    #[must_use]
    pub fn supervisor_of(&self, step: StepIndex) -> Option<PeerId> {
        let dispatch = self.dispatches.get(self.step(step).dispatch? as usize)?;
        self.supervisors.get(dispatch.supervisor as usize).copied()
    }

    /// The current attempt of a step.
    #[must_use]
    pub fn attempt_of(&self, step: StepIndex) -> StepAttempt {
        StepAttempt(step, self.step(step).attempt)
    }
}

/// A stored state: what cannot be computed from the rest, of steps only those that something happened to.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Snapshot {
    version: u32,
    status: WorkflowStatus,
    sequence: u64,
    started_at: Option<Timestamp>,
    finished_at: Option<Timestamp>,
    deadline: Option<Timestamp>,
    stop: Option<(Stop, Timestamp)>,
    error: Option<JobError>,
    supervisors: Vec<PeerId>,
    dispatches: Vec<Dispatch>,
    failures: (u32, Option<StepIndex>),
    steps: Vec<StoredStep>,
}

/// A step of a [`Snapshot`], with short names: there may be 100,000.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct StoredStep {
    n: StepIndex,
    s: StepStatus,
    a: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    d: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    b: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    f: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    o: Option<Digest>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    r: Option<ReceiptPlace>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    p: Option<ReceiptPlace>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    e: Option<Box<JobError>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    w: Option<Timestamp>,
}

/// Why a stored state does not fit its workflow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the stored snapshot of the workflow does not fit its definition: {0}")]
pub struct SnapshotError(&'static str);

impl State {
    /// What has to be stored to have this state again.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let steps = (0..)
            .zip(&self.steps)
            .filter(|(_, step)| step.status != StepStatus::Pending)
            .map(|(n, step)| StoredStep {
                n,
                s: step.status,
                a: step.attempt,
                d: step.dispatch,
                b: step.started_at,
                f: step.finished_at,
                o: step.output,
                r: step.receipt,
                p: step.previous,
                e: step.error.clone(),
                w: step.wake_at,
            })
            .collect();
        Snapshot {
            version: 1,
            status: self.status,
            sequence: self.sequence,
            started_at: self.started_at,
            finished_at: self.finished_at,
            deadline: self.deadline,
            stop: self.stop,
            error: self.error.clone(),
            supervisors: self.supervisors.clone(),
            dispatches: self.dispatches.clone(),
            failures: self.failures,
            steps,
        }
    }

    /// The state that a snapshot was taken of.
    ///
    /// # Errors
    /// A snapshot of another version, or of another definition.
    pub fn restore(plan: &Plan, stored: Snapshot) -> Result<Self, SnapshotError> {
        if stored.version != 1 {
            return Err(SnapshotError("it has another version; use the Horus that wrote it"));
        }
        let mut state = Self::new(plan);
        for step in stored.steps {
            let at = state.steps.get_mut(step.n as usize).ok_or(SnapshotError("a step too many"))?;
            state.counts[at.status as usize] -= 1;
            state.counts[step.s as usize] += 1;
            *at = StepState {
                status: step.s,
                attempt: step.a,
                waiting: at.waiting,
                dispatch: step.d,
                started_at: step.b,
                finished_at: step.f,
                output: step.o,
                receipt: step.r,
                previous: step.p,
                error: step.e,
                wake_at: step.w,
            };
        }
        for step in (0..).zip(plan.steps()).map(|(place, _)| place) {
            let at = state.step(step);
            if at.status == StepStatus::Succeeded || at.failed_but_tolerated(&plan.step(step).policy) {
                for dependent in plan.dependents(step) {
                    state.steps[*dependent as usize].waiting -= 1;
                }
            }
        }
        let known = u32::try_from(stored.supervisors.len()).unwrap_or(u32::MAX);
        if stored.dispatches.iter().any(|dispatch| dispatch.supervisor >= known) {
            return Err(SnapshotError("a supervisor is missing"));
        }
        state.status = stored.status;
        state.sequence = stored.sequence;
        state.started_at = stored.started_at;
        state.finished_at = stored.finished_at;
        state.deadline = stored.deadline;
        state.stop = stored.stop;
        state.error = stored.error;
        state.supervisors = stored.supervisors;
        state.dispatches = stored.dispatches;
        state.failures = stored.failures;
        Ok(state)
    }
}
