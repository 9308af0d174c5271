//! The workflow engine: (state, event) -> (state, commands), and nothing else.
//!
//! It reads no clock, draws no chance, does no IO: times come with the events, ids and back-offs are computed from the
//! plan. So the journal can be replayed to the same state, by another coordinator as well, and a simulator can drive it.
//!
//! - An event about another attempt than the current one, or one that came before, changes nothing.
//! - An event costs the number of those that depend on its step, never the number of steps; stopping alone visits all.
//! - Whatever has not ended has a wake-up: a command that [`apply`] gave, or that [`resume`](super::resume()) gives after a restart.

use std::time::Duration;

use horus_keys::{PeerId, Timestamp};
use horus_runners::job::{JobError, JobStatus};

use super::event::{Command, Event, Outcome, ReceiptPlace, Record, StepAttempt, StepIndex, Timer};
use super::plan::Plan;
use super::policy::Unknown;
use super::state::{Dispatch, State, Stop};
use super::status::{StepStatus, WorkflowStatus};

/// The error of a step of which nobody could say what became of it.
pub(super) const UNKNOWN_OUTCOME: &str = "UNKNOWN_OUTCOME";
/// How long jobs get to stop after a workflow was cancelled or its time was over, before they are given up as unknown.
pub const GRACE: Duration = Duration::from_secs(15);

/// Lets an event happen. Returns whether it changed anything: one that did not need not be recorded.
///
/// A command may come from an event whose step an event after it has ended again: carry commands out only after
/// [`still_wanted`](super::still_wanted) has looked at them.
pub fn apply(plan: &Plan, state: &mut State, record: &Record, commands: &mut Vec<Command>) -> bool {
    if state.status.is_final() {
        return false;
    }
    let mut run = Run { plan, state, at: record.at, commands, changed: false };
    match &record.event {
        Event::Started => run.start(),
        Event::Dispatched { supervisor, steps } => run.dispatched(*supervisor, steps),
        Event::Running { steps } => run.running(steps),
        Event::Returned { steps } => run.returned(steps),
        Event::Refused { step, error } => run.refused(*step, error),
        Event::Finished { step, outcome } => run.finished(*step, outcome),
        Event::Unreachable { steps, reason } => run.unreachable(steps, reason),
        Event::Reached { steps } => run.reached(steps),
        Event::Woken { step, due } => run.woken(*step, *due),
        Event::CancelRequested { by } => run.stop(Stop::Cancelled { by: *by }),
        Event::DeadlinePassed => run.deadline_passed(),
        Event::GraceOver => run.grace_over(),
    }
    if run.changed {
        run.end_if_done();
        run.state.sequence += 1;
        return true;
    }
    false
}

/// One event while it happens.
struct Run<'a> {
    plan: &'a Plan,
    state: &'a mut State,
    at: Timestamp,
    commands: &'a mut Vec<Command>,
    changed: bool,
}

impl Run<'_> {
    fn start(&mut self) {
        if self.state.status != WorkflowStatus::Pending {
            return;
        }
        self.changed = true;
        self.state.status = WorkflowStatus::Running;
        self.state.started_at = Some(self.at);
        let deadline = self.plan.deadline().from_start(self.at);
        self.state.deadline = Some(deadline);
        self.commands.push(Command::Wake(Timer::Deadline, deadline));
        for step in (0..).zip(self.plan.steps()).map(|(place, _)| place) {
            if self.state.step(step).waiting == 0 {
                self.make_ready(step, 1);
            }
        }
    }

    fn dispatched(&mut self, supervisor: PeerId, steps: &[StepAttempt]) {
        let known = self.state.supervisors.iter().position(|peer| *peer == supervisor);
        let supervisor = known.unwrap_or_else(|| {
            self.state.supervisors.push(supervisor);
            self.state.supervisors.len() - 1
        });
        let supervisor = u32::try_from(supervisor).unwrap_or(u32::MAX);
        for step in steps {
            if !self.is_current(*step, &[StepStatus::Ready]) {
                continue;
            }
            let place = u32::try_from(self.state.dispatches.len()).unwrap_or(u32::MAX);
            self.state.dispatches.push(Dispatch { step: *step, supervisor });
            self.set(step.0, StepStatus::Dispatched);
            let at = &mut self.state.steps[step.0 as usize];
            at.dispatch = Some(place);
            at.started_at = Some(self.at);
        }
    }

    fn running(&mut self, steps: &[StepAttempt]) {
        for step in steps {
            if self.is_current(*step, &[StepStatus::Dispatched, StepStatus::Unknown]) {
                self.set(step.0, StepStatus::Running);
                let at = &mut self.state.steps[step.0 as usize];
                at.wake_at = None;
                at.error = None;
            }
        }
    }

    fn returned(&mut self, steps: &[StepAttempt]) {
        for step in steps {
            if !self.is_current(*step, &[StepStatus::Dispatched, StepStatus::Unknown]) {
                continue;
            }
            if self.state.stop.is_some() {
                self.end_step(step.0, StepStatus::Cancelled);
            } else {
                self.set(step.0, StepStatus::Ready);
                self.state.steps[step.0 as usize].wake_at = None;
                self.commands.push(Command::Dispatch(*step));
            }
        }
    }

    fn refused(&mut self, step: StepAttempt, error: &JobError) {
        let open = [StepStatus::Ready, StepStatus::Dispatched, StepStatus::Running, StepStatus::Unknown];
        if self.is_current(step, &open) {
            self.fail(step.0, Some(error.clone()), None);
        }
    }

    fn finished(&mut self, step: StepAttempt, outcome: &Outcome) {
        let Some(at) = self.state.steps.get(step.0 as usize).cloned() else { return };
        let late = step.1 < at.attempt || at.status == StepStatus::Retrying;
        if at.status.is_final() || step.1 == 0 || step.1 > at.attempt || at.status == StepStatus::Pending {
            return;
        }
        // Of an attempt that was given up only its success counts: the first accepted one wins.
        if late && outcome.status != JobStatus::Succeeded {
            return;
        }
        if step.1 < at.attempt
            && at.status.has_job()
            && let Some(supervisor) = self.state.supervisor_of(step.0)
        {
            self.commands.push(Command::Cancel(self.state.attempt_of(step.0), supervisor));
        }
        if step.1 < at.attempt {
            let sent = self.state.dispatches.iter().rposition(|dispatch| dispatch.step == step);
            let at = &mut self.state.steps[step.0 as usize];
            at.attempt = step.1;
            at.dispatch = sent.and_then(|place| u32::try_from(place).ok()).or(at.dispatch);
        }
        let at = &mut self.state.steps[step.0 as usize];
        at.started_at = outcome.started_at.or(at.started_at);
        let error = outcome.error.clone();
        match outcome.status {
            JobStatus::Succeeded => self.succeed(step.0, outcome),
            JobStatus::Failed | JobStatus::TimedOut => self.failed(step, error, outcome.receipt),
            JobStatus::Cancelled => {
                let at = &mut self.state.steps[step.0 as usize];
                at.error = error.map(Box::new);
                if self.state.stop.is_none() {
                    self.note_failure(step.0);
                }
                self.end_step(step.0, StepStatus::Cancelled);
                self.skip_dependents(step.0);
            }
            JobStatus::Lost => {
                let error = error.unwrap_or_else(|| problem("LOST", "the job's runner was lost"));
                if self.plan.step(step.0).policy.retries_lost(step.1) && self.state.stop.is_none() {
                    self.retry(step.0, Some(error), None);
                } else {
                    self.fail(step.0, Some(error), None);
                }
            }
            JobStatus::Expired | JobStatus::Delayed | JobStatus::Queued | JobStatus::Running => {
                let error = error.unwrap_or_else(|| {
                    problem("EXPIRED", "the workflow's run_until passed before a runner took the step")
                });
                self.fail(step.0, Some(error), None);
            }
        }
    }

    fn succeed(&mut self, step: StepIndex, outcome: &Outcome) {
        let at = &mut self.state.steps[step as usize];
        at.output = outcome.output;
        at.receipt = outcome.receipt;
        at.error = None;
        at.finished_at = outcome.finished_at;
        self.end_step(step, StepStatus::Succeeded);
        self.release_dependents(step);
    }

    fn failed(&mut self, step: StepAttempt, error: Option<JobError>, receipt: Option<ReceiptPlace>) {
        let policy = &self.plan.step(step.0).policy;
        // Without a receipt that proves the attempt, as when the runner refused the job, no runner accepts another one.
        if receipt.is_none() {
            return self.fail(step.0, error, None);
        }
        let code = error.as_ref().map(|error| error.code.as_str());
        if self.state.stop.is_none() && policy.retries(step.1, code) {
            self.retry(step.0, error, receipt);
        } else {
            self.fail(step.0, error, receipt);
        }
    }

    fn unreachable(&mut self, steps: &[StepAttempt], reason: &str) {
        for step in steps {
            if !self.is_current(*step, &[StepStatus::Dispatched, StepStatus::Running]) {
                continue;
            }
            let error = problem(UNKNOWN_OUTCOME, reason);
            let policy = &self.plan.step(step.0).policy;
            if self.state.stop.is_none() {
                if policy.retries_unknown(step.1) {
                    self.set(step.0, StepStatus::Unknown);
                    self.retry(step.0, Some(error), None);
                    continue;
                }
                if policy.on_unknown == Unknown::Fail {
                    self.set(step.0, StepStatus::Unknown);
                    self.fail(step.0, Some(error), None);
                    continue;
                }
            }
            self.set(step.0, StepStatus::Unknown);
            let due = self.at.saturating_add(policy.timeout);
            let at = &mut self.state.steps[step.0 as usize];
            at.error = Some(Box::new(error));
            at.wake_at = Some(due);
            self.commands.push(Command::Wake(Timer::Step(*step), due));
        }
    }

    fn reached(&mut self, steps: &[StepAttempt]) {
        for step in steps {
            if self.is_current(*step, &[StepStatus::Unknown]) {
                self.set(step.0, StepStatus::Dispatched);
                let at = &mut self.state.steps[step.0 as usize];
                at.wake_at = None;
                at.error = None;
            }
        }
    }

    fn woken(&mut self, step: StepAttempt, due: Timestamp) {
        let Some(at) = self.state.steps.get(step.0 as usize) else { return };
        if at.attempt != step.1 || at.wake_at != Some(due) {
            return;
        }
        match at.status {
            StepStatus::Retrying => {
                self.state.steps[step.0 as usize].wake_at = None;
                self.make_ready(step.0, step.1 + 1);
            }
            StepStatus::Unknown => {
                let error = self.state.steps[step.0 as usize].error.take().map(|error| *error);
                self.fail(step.0, error, None);
            }
            _ => {}
        }
    }

    fn stop(&mut self, stop: Stop) {
        if self.state.stop.is_some() {
            return;
        }
        self.changed = true;
        let until = self.at.saturating_add(GRACE);
        self.state.stop = Some((stop, until));
        for step in (0..).zip(self.plan.steps()).map(|(place, _)| place) {
            let status = self.state.step(step).status;
            if matches!(status, StepStatus::Pending | StepStatus::Ready | StepStatus::Retrying) {
                self.end_step(step, StepStatus::Cancelled);
            } else if status.has_job()
                && let Some(supervisor) = self.state.supervisor_of(step)
            {
                self.commands.push(Command::Cancel(self.state.attempt_of(step), supervisor));
            }
        }
        self.commands.push(Command::Wake(Timer::Grace, until));
    }

    fn deadline_passed(&mut self) {
        if self.state.deadline.is_some_and(|deadline| self.at >= deadline) {
            self.stop(Stop::Deadline);
        }
    }

    fn grace_over(&mut self) {
        if self.state.stop.is_none_or(|(_, until)| self.at < until) {
            return;
        }
        self.changed = true;
        for step in (0..).zip(self.plan.steps()).map(|(place, _)| place) {
            let status = self.state.step(step).status;
            if status.has_job() && status != StepStatus::Unknown {
                self.set(step, StepStatus::Unknown);
            }
            self.state.steps[step as usize].wake_at = None;
        }
        self.end();
    }

    fn make_ready(&mut self, step: StepIndex, attempt: u32) {
        if self.state.stop.is_some() {
            return;
        }
        self.set(step, StepStatus::Ready);
        self.state.steps[step as usize].attempt = attempt;
        self.commands.push(Command::Dispatch(StepAttempt(step, attempt)));
    }

    fn retry(&mut self, step: StepIndex, error: Option<JobError>, receipt: Option<ReceiptPlace>) {
        let planned = self.plan.step(step);
        let attempt = self.state.step(step).attempt;
        let wait = planned.policy.backoff(self.plan.workflow(), &planned.id, attempt);
        let due = self.at.saturating_add(wait);
        self.set(step, StepStatus::Retrying);
        let at = &mut self.state.steps[step as usize];
        at.previous = receipt;
        at.error = error.map(Box::new);
        at.wake_at = Some(due);
        self.commands.push(Command::Wake(Timer::Step(StepAttempt(step, attempt)), due));
    }

    fn fail(&mut self, step: StepIndex, error: Option<JobError>, receipt: Option<ReceiptPlace>) {
        let at = &mut self.state.steps[step as usize];
        at.receipt = receipt;
        at.error = error.map(Box::new);
        self.end_step(step, StepStatus::Failed);
        if self.state.step(step).failed_but_tolerated(&self.plan.step(step).policy) {
            self.release_dependents(step);
        } else {
            self.note_failure(step);
            self.skip_dependents(step);
        }
    }

    fn note_failure(&mut self, step: StepIndex) {
        self.state.failures.0 += 1;
        self.state.failures.1.get_or_insert(step);
    }

    fn release_dependents(&mut self, step: StepIndex) {
        for dependent in self.plan.dependents(step) {
            let at = &mut self.state.steps[*dependent as usize];
            at.waiting -= 1;
            if at.waiting == 0 && at.status == StepStatus::Pending {
                self.make_ready(*dependent, 1);
            }
        }
    }

    fn skip_dependents(&mut self, step: StepIndex) {
        let mut ended = vec![step];
        while let Some(step) = ended.pop() {
            for dependent in self.plan.dependents(step) {
                if self.state.step(*dependent).status == StepStatus::Pending {
                    self.end_step(*dependent, StepStatus::Skipped);
                    ended.push(*dependent);
                }
            }
        }
    }

    fn is_current(&self, step: StepAttempt, among: &[StepStatus]) -> bool {
        self.state.steps.get(step.0 as usize).is_some_and(|at| at.attempt == step.1 && among.contains(&at.status))
    }

    fn end_step(&mut self, step: StepIndex, status: StepStatus) {
        self.set(step, status);
        let at = &mut self.state.steps[step as usize];
        at.finished_at = at.finished_at.or(Some(self.at));
        at.wake_at = None;
    }

    fn set(&mut self, step: StepIndex, next: StepStatus) {
        let at = &mut self.state.steps[step as usize];
        assert!(at.status.may_become(next), "step {step}: {:?} -> {next:?}", at.status);
        self.state.counts[at.status as usize] -= 1;
        self.state.counts[next as usize] += 1;
        at.status = next;
        self.changed = true;
    }

    fn end_if_done(&mut self) {
        if !self.state.status.is_final() && self.state.unfinished() == 0 {
            self.end();
        }
    }

    fn end(&mut self) {
        let (failures, first) = self.state.failures;
        let all_done = self.state.unfinished() == 0
            && failures == 0
            && self.state.count(StepStatus::Cancelled) == 0
            && self.state.count(StepStatus::Skipped) == 0;
        let (status, error) = match self.state.stop {
            _ if all_done => (WorkflowStatus::Succeeded, None),
            Some((Stop::Cancelled { by }, _)) => {
                (WorkflowStatus::Cancelled, Some(problem("CANCELLED", &format!("cancelled by {by}"))))
            }
            Some((Stop::Deadline, _)) => (WorkflowStatus::Failed, Some(self.out_of_time())),
            None => (WorkflowStatus::Failed, first.map(|step| self.first_failure(step, failures))),
        };
        self.state.status = status;
        self.state.error = error;
        self.state.finished_at = Some(self.at);
        self.commands.push(Command::Ended);
    }

    fn out_of_time(&self) -> JobError {
        if self.state.deadline == Some(self.plan.deadline().run_until) {
            problem("EXPIRED", "the workflow's run_until passed before its steps had ended")
        } else {
            problem("TIMED_OUT", "the workflow's timeout passed before its steps had ended")
        }
    }

    fn first_failure(&self, step: StepIndex, failures: u32) -> JobError {
        let id = &self.plan.step(step).id;
        let at = self.state.step(step);
        let (code, why) =
            at.error.as_ref().map_or(("FAILED", ""), |error| (error.code.as_str(), error.message.as_str()));
        let others = match failures - 1 {
            0 => String::new(),
            1 => " (and 1 other step)".to_owned(),
            n => format!(" (and {n} other steps)"),
        };
        problem(code, &format!("step `{id}` {}: {why}{others}", at.status.as_str()))
    }
}

fn problem(code: &str, message: &str) -> JobError {
    JobError::new(code, message)
}
