//! Ready steps and the supervisors that get them.

use std::collections::{HashMap, VecDeque};

use horus_keys::{PeerId, RunnerKind, Timestamp};
use horus_runners::job::limits;

use super::{Driver, Sent};
use crate::workflow::{
    Command, Event, PlannedStep, Record, Selector, State, StepAttempt, StepStatus, apply, still_wanted,
};

/// Ready steps that no supervisor has yet, by what they ask of one: when the first of a group cannot go, none of it can.
#[derive(Default)]
pub(super) struct Waiting {
    groups: Vec<Group>,
}

struct Group {
    kind: RunnerKind,
    selector: Option<Selector>,
    steps: VecDeque<StepAttempt>,
}

impl Waiting {
    pub(super) fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    pub(super) fn add(&mut self, planned: &PlannedStep, step: StepAttempt) {
        let fits = |group: &&mut Group| group.kind == planned.runner && group.selector == planned.supervisor;
        if let Some(group) = self.groups.iter_mut().find(fits) {
            group.steps.push_back(step);
            return;
        }
        self.groups.push(Group {
            kind: planned.runner.clone(),
            selector: planned.supervisor.clone(),
            steps: VecDeque::from([step]),
        });
    }
}

impl Driver {
    /// Gives as many ready steps as possible to supervisors, and records it.
    pub(super) fn assign(
        &mut self,
        state: &mut State,
        now: Timestamp,
        records: &mut Vec<Record>,
        commands: &mut Vec<Command>,
    ) -> Vec<Sent> {
        let mut sent: HashMap<PeerId, Sent> = HashMap::new();
        for group in &mut self.waiting.groups {
            let mut refused = Vec::new();
            while let Some(step) = group.steps.pop_front() {
                // It may have been cancelled since, or have ended after all.
                if !still_wanted(state, &Command::Dispatch(step)) {
                    continue;
                }
                debug_assert_eq!(
                    state.step(step.0).status,
                    StepStatus::Ready,
                    "only ready steps wait for a supervisor"
                );
                let not = self.refused_by.get(&step.0);
                match self.shared.pool.choose(&group.kind, group.selector.as_ref(), not) {
                    Some((supervisor, peer)) => {
                        supervisor.took();
                        let entry = sent.entry(peer);
                        entry.or_insert_with(|| Sent { supervisor, peer, steps: Vec::new() }).steps.push(step);
                    }
                    // It waits for another supervisor than those behind it.
                    None if not.is_some() => refused.push(step),
                    None => {
                        group.steps.push_front(step);
                        break;
                    }
                }
            }
            group.steps.extend(refused);
            if !group.steps.is_empty() {
                self.shared.pool.look_for(&group.kind, group.selector.as_ref());
            }
        }
        self.waiting.groups.retain(|group| !group.steps.is_empty());
        let sent: Vec<Sent> = sent.into_values().collect();
        for Sent { peer, steps, .. } in &sent {
            for steps in steps.chunks(limits::BATCH_JOBS) {
                let event = Event::Dispatched { supervisor: *peer, steps: steps.to_vec() };
                let record = Record { at: now, event };
                if apply(&self.live.plan, state, &record, commands) {
                    records.push(record);
                }
            }
        }
        sent
    }
}
