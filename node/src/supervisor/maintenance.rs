//! What nobody asks for and must happen all the same: lapsed leases, due and expired jobs, retention, and the hints that wake
//! those who wait.

use std::sync::Arc;
use std::time::Duration;

use horus_runners::queue::{FinishedEvent, FinishedEvents, LeaseObserver, QueueError};
use tokio::time::Instant;

use super::Supervisor;
use crate::role::Health;

/// Longest sleep between two sweeps: another supervisor on the same Redis may have queued something that is due earlier.
const LONGEST_SLEEP: Duration = Duration::from_secs(5);
/// Shortest: a due time that lies in the past by the clock of Redis must not become a busy loop.
const SHORTEST_SLEEP: Duration = Duration::from_millis(20);
/// How many looks the reaper takes in the time of a lease.
const LOOKS_PER_LEASE: u32 = 5;

/// How often the register of runners is looked through for those that are long gone.
const TIDY_EVERY: Duration = Duration::from_secs(3600);

/// Keeps the queues moving until the process stops. Several supervisors on one Redis do no harm to each other.
pub(super) async fn keep_up(supervisor: Arc<Supervisor>) {
    let look = (supervisor.queue.options().lease / LOOKS_PER_LEASE).clamp(SHORTEST_SLEEP, LONGEST_SLEEP);
    let mut observer = LeaseObserver::new();
    let (mut next_look, mut next_tidy) = (Instant::now(), Instant::now());
    loop {
        if supervisor.gate.check().is_err() {
            tokio::select! {
                () = supervisor.health.untroubled(Health::REDIS) => {}
                () = supervisor.shutdown.draining() => return,
            }
            // It may have come back without what it held, and hints were lost.
            supervisor.owners.forget_all();
            supervisor.waiters.look_again();
        }
        let now = Instant::now();
        let reap = now >= next_look;
        if reap {
            next_look = now + look;
        }
        if now >= next_tidy {
            next_tidy = now + TIDY_EVERY;
            // Whoever lists the runners drops those that have been gone for a day.
            if let Err(error) = supervisor.queue.runners().await {
                supervisor.gate.note(&error);
            }
        }
        let sleep = match round(&supervisor, &mut observer, reap).await {
            Ok(due) => due.unwrap_or(LONGEST_SLEEP).clamp(SHORTEST_SLEEP, LONGEST_SLEEP),
            Err(error) => {
                supervisor.gate.note(&error);
                if !error.is_transient() {
                    tracing::error!(%error, "maintenance of the queue failed");
                }
                LONGEST_SLEEP
            }
        };
        tokio::select! {
            () = tokio::time::sleep_until(next_look.min(now + sleep)) => {}
            () = supervisor.due.notified() => {}
            () = supervisor.health.troubled(Health::REDIS) => {}
            () = supervisor.shutdown.draining() => return,
        }
    }
}

/// One round over all queues. Gives when the next thing is due.
async fn round(
    supervisor: &Supervisor,
    observer: &mut LeaseObserver,
    reap: bool,
) -> Result<Option<Duration>, QueueError> {
    let kinds = supervisor.queue.kinds().await?;
    supervisor.kinds.set(supervisor.queue.served(kinds.clone()).await?.into_iter().collect());
    if reap {
        for reaped in supervisor.queue.reap(&kinds, observer).await? {
            tracing::warn!(job = %reaped.job_id, worker = %reaped.worker, status = %reaped.status, "its runner gave no sign of life");
        }
    }
    let mut due: Option<Duration> = None;
    for kind in &kinds {
        let swept = supervisor.queue.sweep(kind).await?;
        if swept.due + swept.expired + swept.forgotten > 0 {
            tracing::debug!(%kind, due = swept.due, expired = swept.expired, forgotten = swept.forgotten, "swept");
        }
        due = due.into_iter().chain(swept.next).min();
    }
    Ok(due)
}

/// Passes the hints of Redis on to those who wait, until the process stops.
pub(super) async fn pass_hints(supervisor: Arc<Supervisor>, mut events: FinishedEvents) {
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            () = supervisor.shutdown.stopped() => return,
        };
        match event {
            FinishedEvent::Finished(ended) => supervisor.waiters.ended(&ended),
            FinishedEvent::Resync => supervisor.waiters.look_again(),
        }
    }
}
