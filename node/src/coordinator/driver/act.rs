//! Carrying out what the engine wants done. All of it may be done twice.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use horus_keys::{PeerId, Timestamp};
use horus_runners::job::{JobId, limits, step_job_id};
use tokio::time::Instant;

use super::{Driver, Out, Sent};
use crate::coordinator::arrival::Message;
use crate::coordinator::batch::ticket;
use crate::coordinator::cancels;
use crate::coordinator::deliver::Delivery;
use crate::coordinator::pool::Supervisor;
use crate::workflow::{Command, GRACE, State, StepAttempt, at_large, time_until};

/// The first pause before a supervisor is asked again to cancel, and the longest.
const CANCEL_AGAIN: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

impl Driver {
    /// Brings steps on their way.
    pub(super) fn send(&mut self, state: &State, sent: Vec<Sent>) {
        for Sent { supervisor, peer, steps } in sent {
            for steps in steps.chunks(limits::BATCH_JOBS) {
                self.deliver(state, &supervisor, peer, steps, false);
            }
        }
    }

    fn deliver(
        &mut self,
        state: &State,
        supervisor: &Arc<Supervisor>,
        peer: PeerId,
        steps: &[StepAttempt],
        again: bool,
    ) {
        let mut tickets = Vec::with_capacity(steps.len());
        for step in steps {
            let wanted = Arc::new(AtomicBool::new(true));
            let out = Out { attempt: step.1, wanted: Arc::clone(&wanted) };
            if let Some(old) = self.out.insert(step.0, out) {
                old.wanted.store(false, std::sync::atomic::Ordering::Relaxed);
            }
            tickets.push((ticket(&self.live, state, *step), wanted));
        }
        let delivery = Delivery {
            shared: Arc::clone(&self.shared),
            live: Arc::clone(&self.live),
            supervisor: Arc::clone(supervisor),
            peer,
            steps: tickets,
            again,
        };
        tokio::spawn(delivery.run());
    }

    /// Does what follows from what happened. True once the workflow has ended.
    pub(super) fn carry_out(&mut self, state: &State, commands: Vec<Command>) -> bool {
        let mut ended = false;
        let mut watch: HashMap<PeerId, Vec<StepAttempt>> = HashMap::new();
        let mut cancel: HashMap<PeerId, Vec<JobId>> = HashMap::new();
        for command in commands {
            match command {
                // Is in the waiting groups, or was assigned from there.
                Command::Dispatch(_) => {}
                Command::Watch(step, supervisor) => watch.entry(supervisor).or_default().push(step),
                Command::Cancel(step, supervisor) => cancel.entry(supervisor).or_default().push(self.job(step)),
                Command::Wake(timer, due) => {
                    let wait = time_until(&self.live.plan, state, timer, due, Timestamp::now());
                    self.timers.push(Reverse((Instant::now() + wait, due, timer)));
                }
                Command::Ended => ended = true,
            }
        }
        for (peer, steps) in watch {
            self.watch(state, peer, &steps);
        }
        for (peer, jobs) in cancel {
            if let Some(supervisor) = self.shared.pool.find(&peer) {
                tokio::spawn(cancel_jobs(supervisor, jobs));
            }
        }
        ended
    }

    fn job(&self, step: StepAttempt) -> JobId {
        let planned = self.live.plan.step(step.0);
        step_job_id(self.live.plan.workflow(), &planned.id, None, step.1, &planned.runner)
    }

    /// The jobs of an ended workflow that are still to be cancelled, and who may have them.
    pub(super) async fn left(&self) -> Vec<(PeerId, JobId)> {
        let state = self.live.state.read().await;
        let left = at_large(&self.live.plan, &state);
        left.into_iter().map(|(step, supervisor)| (supervisor, self.job(step))).collect()
    }

    /// After a restart: what supervisors may have is sent to them again, which changes nothing if they have it.
    pub(super) fn watch(&mut self, state: &State, peer: PeerId, steps: &[StepAttempt]) {
        let Some(supervisor) = self.shared.pool.find(&peer) else {
            tokio::spawn(find_again(Arc::clone(&self.shared), Arc::clone(&self.live), peer, steps.to_vec()));
            return;
        };
        for steps in steps.chunks(limits::BATCH_JOBS) {
            steps.iter().for_each(|_| supervisor.took());
            self.deliver(state, &supervisor, peer, steps, true);
        }
    }
}

/// Waits for a supervisor that is not known yet, as right after a start. Its steps count as unknown when it stays away.
async fn find_again(
    shared: Arc<crate::coordinator::Shared>,
    live: Arc<crate::coordinator::live::Live>,
    peer: PeerId,
    steps: Vec<StepAttempt>,
) {
    let mut changes = shared.pool.changes();
    let told_at = Instant::now() + crate::coordinator::pool::SILENCE;
    let mut told = false;
    while !live.inbox.is_closed() {
        if shared.pool.find(&peer).is_some() {
            let _ = live.inbox.send(Message::Found { peer, steps });
            return;
        }
        if !told && Instant::now() >= told_at {
            told = true;
            let reason = format!("supervisor {peer} may have the step, and this coordinator does not know where it is");
            let _ = live.inbox.send(Message::Unreachable { steps: steps.clone(), reason });
        }
        tokio::select! {
            _ = changes.changed() => {}
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
    }
}

/// Asks a supervisor to cancel jobs until it has heard it for each, as long as their workflow waits for that: one that is still on its way there
/// is not known yet.
async fn cancel_jobs(supervisor: Arc<Supervisor>, mut jobs: Vec<JobId>) {
    let until = Instant::now() + GRACE;
    let mut pause = CANCEL_AGAIN.0;
    while !jobs.is_empty() && Instant::now() < until {
        jobs = cancels::ask(&supervisor, &jobs).await;
        if !jobs.is_empty() {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(CANCEL_AGAIN.1);
        }
    }
    if !jobs.is_empty() {
        tracing::warn!(supervisor = %supervisor.address, jobs = jobs.len(), "jobs could not be cancelled yet");
    }
}
