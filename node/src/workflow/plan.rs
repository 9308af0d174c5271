//! The plan of a workflow: its definition with ids resolved to numbers. It never changes.

use std::collections::HashMap;
use std::time::Duration;

use horus_keys::{Digest, RunnerKind, Timestamp};
use horus_runners::job::StepId;

use super::event::StepIndex;
use super::policy::Policy;
use super::selector::Selector;

/// A step with its dependencies by number and its policies filled in.
#[derive(Debug, Clone, PartialEq)]
pub struct PlannedStep {
    /// Its id.
    pub id: StepId,
    /// The runner kind that executes it.
    pub runner: RunnerKind,
    /// The steps that it waits for, in the order of the definition.
    pub dependencies: Box<[StepIndex]>,
    /// What to do in trouble.
    pub policy: Policy,
    /// Which supervisors may have it. Absent: any.
    pub supervisor: Option<Selector>,
}

/// Steps, edges and limits of one workflow.
#[derive(Debug, Clone)]
pub struct Plan {
    workflow: Digest,
    deadline: Deadline,
    steps: Vec<PlannedStep>,
    index: HashMap<StepId, StepIndex>,
    /// `targets[offsets[i]..offsets[i + 1]]` are those that depend on step `i`.
    offsets: Vec<u32>,
    targets: Vec<StepIndex>,
}

/// When a workflow's time is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadline {
    /// The time that its submitter signed: no runner executes a step of it after that.
    pub run_until: Timestamp,
    /// How long it may take from its start, if its definition says so.
    pub timeout: Option<Duration>,
}

impl Deadline {
    /// The earlier of the two, for a workflow that started then.
    #[must_use]
    pub fn from_start(&self, started_at: Timestamp) -> Timestamp {
        self.timeout.map_or(self.run_until, |timeout| self.run_until.min(started_at.saturating_add(timeout)))
    }
}

impl Plan {
    /// Numbers the edges backwards. The dependencies must be places in `steps`, without repetition and without a circle:
    /// validation has seen to that.
    #[must_use]
    pub fn new(workflow: Digest, deadline: Deadline, steps: Vec<PlannedStep>) -> Self {
        let mut offsets = vec![0_u32; steps.len() + 1];
        for dependency in steps.iter().flat_map(|step| step.dependencies.iter()) {
            offsets[*dependency as usize + 1] += 1;
        }
        for at in 1..offsets.len() {
            offsets[at] += offsets[at - 1];
        }
        let mut next = offsets.clone();
        let mut targets = vec![0; offsets.last().map_or(0, |total| *total as usize)];
        for (place, step) in (0..).zip(&steps) {
            for dependency in &step.dependencies {
                let slot = &mut next[*dependency as usize];
                targets[*slot as usize] = place;
                *slot += 1;
            }
        }
        let index = (0..).zip(&steps).map(|(place, step)| (step.id.clone(), place)).collect();
        Self { workflow, deadline, steps, index, offsets, targets }
    }

    /// Digest of the signed workflow.
    #[must_use]
    pub fn workflow(&self) -> &Digest {
        &self.workflow
    }

    /// When its time is over.
    #[must_use]
    pub fn deadline(&self) -> Deadline {
        self.deadline
    }

    /// The steps, in the order of the definition.
    #[must_use]
    pub fn steps(&self) -> &[PlannedStep] {
        &self.steps
    }

    /// The step at that place.
    #[must_use]
    pub fn step(&self, step: StepIndex) -> &PlannedStep {
        &self.steps[step as usize]
    }

    /// The step of that id.
    #[must_use]
    pub fn find(&self, id: &StepId) -> Option<StepIndex> {
        self.index.get(id).copied()
    }

    /// Those that wait for the step.
    #[must_use]
    pub fn dependents(&self, step: StepIndex) -> &[StepIndex] {
        let from = self.offsets[step as usize] as usize;
        let to = self.offsets[step as usize + 1] as usize;
        &self.targets[from..to]
    }

    /// The steps for which no other waits.
    pub fn leaves(&self) -> impl Iterator<Item = StepIndex> + '_ {
        (0..).zip(&self.steps).map(|(place, _)| place).filter(|step| self.dependents(*step).is_empty())
    }
}
