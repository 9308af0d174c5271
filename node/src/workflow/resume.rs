//! Commands and the state they were meant for: which still count, and which a state calls for after a restart.

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
