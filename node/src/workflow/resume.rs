//! Commands and the state they were meant for: which still count, and which a state calls for after a restart.

use std::time::Duration;

use horus_keys::{PeerId, Timestamp};

use super::engine::{GRACE, UNKNOWN_OUTCOME};
use super::event::{Command, StepAttempt, Timer};
use super::plan::Plan;
use super::state::State;
use super::status::StepStatus;

/// Whether a command still means something in this state.
#[must_use]
pub fn still_wanted(state: &State, command: &Command) -> bool {
    match command {
        Command::Dispatch(StepAttempt(step, attempt)) => {
            let at = state.step(*step);
            at.status == StepStatus::Ready && at.attempt == *attempt
        }
        Command::Watch(StepAttempt(step, attempt), _) => {
            let at = state.step(*step);
            at.status.has_job() && at.attempt == *attempt
        }
        Command::Wake(Timer::Step(StepAttempt(step, attempt)), due) => {
            let at = state.step(*step);
            at.wake_at == Some(*due) && at.attempt == *attempt
        }
        Command::Wake(Timer::Deadline, _) => state.stop.is_none() && !state.status.is_final(),
        Command::Wake(Timer::Grace, _) => state.stop.is_some() && !state.status.is_final(),
        Command::Cancel(..) | Command::Ended => true,
    }
}

/// How long to wait, by a clock that shows `now`, for a timer that is due then. Never longer than it was set for: a clock that was set
/// back since, or that of another coordinator, delays nothing.
#[must_use]
pub fn time_until(plan: &Plan, state: &State, timer: Timer, due: Timestamp, now: Timestamp) -> Duration {
    let longest = match timer {
        Timer::Step(StepAttempt(step, attempt)) => {
            let planned = plan.step(step);
            match state.step(step).status {
                StepStatus::Retrying => planned.policy.backoff(plan.workflow(), &planned.id, attempt),
                _ => planned.policy.timeout,
            }
        }
        // The signed end of a workflow's time is one of the wall clock.
        Timer::Deadline => plan.deadline().timeout.unwrap_or(Duration::MAX),
        Timer::Grace => GRACE,
    };
    due.since(now).min(longest)
}

/// What keeps a state going after a restart: everything that it waits for, asked for anew.
#[must_use]
pub fn resume(plan: &Plan, state: &State) -> Vec<Command> {
    if state.status.is_final() {
        return vec![Command::Ended];
    }
    let mut commands = Vec::new();
    match (state.stop, state.deadline) {
        (Some((_, until)), _) => commands.push(Command::Wake(Timer::Grace, until)),
        (None, Some(deadline)) => commands.push(Command::Wake(Timer::Deadline, deadline)),
        (None, None) => {}
    }
    for step in (0..).zip(plan.steps()).map(|(place, _)| place) {
        let at = state.step(step);
        let attempt = StepAttempt(step, at.attempt);
        if at.status == StepStatus::Ready {
            commands.push(Command::Dispatch(attempt));
        }
        if let Some(due) = at.wake_at {
            commands.push(Command::Wake(Timer::Step(attempt), due));
        }
        if let (true, Some(supervisor)) = (at.status.has_job(), state.supervisor_of(step)) {
            commands.push(Command::Watch(attempt, supervisor));
            if state.stop.is_some() {
                commands.push(Command::Cancel(attempt, supervisor));
            }
        }
    }
    commands
}

/// What a stopped workflow may have left at supervisors: attempts that were sent, and of whose end nobody knows.
#[must_use]
pub fn at_large(plan: &Plan, state: &State) -> Vec<(StepAttempt, PeerId)> {
    let mut left = Vec::new();
    if state.stop.is_none() {
        return left;
    }
    for (place, dispatch) in (0..).zip(&state.dispatches) {
        let StepAttempt(step, attempt) = dispatch.step;
        let at = state.step(step);
        let is_unknown = if at.attempt == attempt {
            let given_up = at.error.as_ref().is_some_and(|error| error.code == UNKNOWN_OUTCOME);
            // What was sent elsewhere before has certainly come back.
            at.dispatch == Some(place) && (at.status.has_job() || at.status != StepStatus::Succeeded && given_up)
        } else {
            // The others ended, as their receipts say.
            plan.step(step).policy.retries_unknown(attempt)
        };
        if let (true, Some(supervisor)) = (is_unknown, state.supervisors.get(dispatch.supervisor as usize)) {
            left.push((dispatch.step, *supervisor));
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use horus_keys::{Digest, Identity};
    use horus_runners::job::{JobError, JobStatus, StepId};

    use super::*;
    use crate::workflow::{Deadline, Event, Outcome, PlannedStep, Policy, ReceiptPlace, Record, Unknown, apply};

    const HOUR_MS: i64 = 3_600_000;

    /// A workflow whose two steps were sent at ten o'clock: one failed and is tried again, of the other nothing is known.
    fn plan_and_state() -> (Plan, State, Vec<Command>) {
        let step = |id: &str| PlannedStep {
            id: StepId::new(id).unwrap(),
            runner: "noop".parse().unwrap(),
            dependencies: Box::new([]),
            policy: Policy {
                max_attempts: 3,
                initial_interval: Duration::from_millis(100),
                multiplier: 2.0,
                max_interval: Duration::from_secs(1),
                jitter: 0.0,
                non_retryable: Box::new([]),
                timeout: Duration::from_secs(30),
                on_unknown: Unknown::Wait,
                idempotent: false,
                continue_on_error: false,
            },
            supervisor: None,
        };
        let run_until = Timestamp::from_millis(100 * HOUR_MS);
        let deadline = Deadline { run_until, timeout: Some(Duration::from_secs(60)) };
        let plan = Plan::new(Digest::of(b"w"), deadline, vec![step("a"), step("b")]);
        let (a, b) = (StepAttempt(0, 1), StepAttempt(1, 1));
        let outcome = Outcome {
            status: JobStatus::Failed,
            output: None,
            error: Some(JobError::new("NO", "no")),
            receipt: Some(ReceiptPlace { batch: Digest::of(b"r"), index: 0 }),
            started_at: None,
            finished_at: None,
        };
        let supervisor = Identity::from_seed(&[1; 32]).peer_id();
        let events = [
            Event::Started,
            Event::Dispatched { supervisor, steps: vec![a, b] },
            Event::Finished { step: a, outcome },
            Event::Unreachable { steps: vec![b], reason: "gone".to_owned() },
        ];
        let (mut state, mut commands) = (State::new(&plan), Vec::new());
        for event in events {
            let at = Timestamp::from_millis(10 * HOUR_MS);
            assert!(apply(&plan, &mut state, &Record { at, event }, &mut commands));
        }
        (plan, state, commands)
    }

    #[test]
    fn what_a_stopped_workflow_may_have_left_is_what_nobody_knows_the_end_of() {
        let (plan, mut state, _) = plan_and_state();
        let at = Timestamp::from_millis(10 * HOUR_MS);
        let happen = |state: &mut State, event| {
            assert!(apply(&plan, state, &Record { at: at.saturating_add(GRACE), event }, &mut Vec::new()));
            at_large(&plan, state)
        };
        let supervisor = Identity::from_seed(&[1; 32]).peer_id();
        let b = (StepAttempt(1, 1), supervisor);
        assert_eq!(at_large(&plan, &state), [], "it goes on");
        let cancel = Event::CancelRequested { by: supervisor };
        assert_eq!(happen(&mut state, cancel), [b], "the other step's first attempt has a receipt");
        let due = state.step(1).wake_at.unwrap();
        let mut given_up = state.clone();
        assert_eq!(happen(&mut given_up, Event::Woken { step: b.0, due }), [b], "it was waited for long enough");
        let outcome = Outcome {
            status: JobStatus::Cancelled,
            output: None,
            error: None,
            receipt: None,
            started_at: None,
            finished_at: None,
        };
        assert_eq!(happen(&mut state, Event::Finished { step: b.0, outcome }), []);
    }

    #[test]
    fn a_clock_that_was_set_back_delays_no_attempt_and_no_end() {
        let (plan, state, commands) = plan_and_state();
        let waits = |hour: i64| -> Vec<u128> {
            let now = Timestamp::from_millis(hour * HOUR_MS);
            let wait = |command: &Command| match command {
                Command::Wake(timer, due) => Some(time_until(&plan, &state, *timer, *due, now).as_millis()),
                _ => None,
            };
            commands.iter().filter_map(wait).collect()
        };
        let usual = [60_000, 100, 30_000];
        assert_eq!(
            waits(10),
            usual,
            "the workflow's timeout, the pause before the next attempt, the wait for an outcome"
        );
        assert_eq!(waits(4), usual, "six hours earlier, by the clock");
        assert_eq!(waits(11), [0, 0, 0], "the time is over");
    }
}
