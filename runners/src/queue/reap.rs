//! What keeps a queue moving when nobody else does: the reaper, and the sweep of what time brings.

use std::time::{Duration, Instant};

use horus_keys::RunnerKind;

use super::{LeaseObserver, Queue, QueueError, connection::Args, keys, observer::Observed, scripts};
use crate::job::{JobId, JobStatus};

/// A job whose worker's lease lapsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reaped {
    /// The job.
    pub job_id: JobId,
    /// The worker that held it.
    pub worker: String,
    /// What became of it: queued again, lost, failed (it never started in four deliveries), or cancelled.
    pub status: JobStatus,
}

/// What a sweep did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Delayed jobs that became due.
    pub due: u64,
    /// Jobs whose `run_until` passed while they waited.
    pub expired: u64,
    /// Finished jobs that were forgotten.
    pub forgotten: u64,
    /// When to sweep again at the latest; none if nothing is planned.
    pub next: Option<Duration>,
}

/// Jobs of each sort that one call of the sweeping script handles.
const SWEEP_LIMIT: usize = 500;
/// Calls of the sweeping script in one go.
const SWEEPS: usize = 200;

impl Queue {
    /// Looks at all workers of the kinds, and takes their jobs from those whose lease has lapsed. To be called a few times per lease.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`]
    pub async fn reap(&self, kinds: &[RunnerKind], observer: &mut LeaseObserver) -> Result<Vec<Reaped>, QueueError> {
        let mut reaped = Vec::new();
        for kind in kinds {
            let rows: Vec<(String, String, u64)> =
                self.connection.run(&scripts::OBSERVE, &keys::base(kind), &Args::new()).await?;
            let observed = |(worker, beat, lease_ms): (String, String, u64)| {
                let lease = if lease_ms == 0 { self.options.lease } else { Duration::from_millis(lease_ms) };
                Observed { worker, beat, lease }
            };
            let lapsed = observer.look(kind, rows.into_iter().map(observed).collect(), Instant::now());
            for worker in lapsed {
                reaped.extend(self.reap_worker(kind, &worker).await?);
            }
        }
        Ok(reaped)
    }

    async fn reap_worker(&self, kind: &RunnerKind, worker: &Observed) -> Result<Vec<Reaped>, QueueError> {
        let mut args = Args::new();
        args.push(&worker.worker).push(&worker.beat);
        args.push(&format!("worker {} gave no sign of life for {} s", worker.worker, worker.lease.as_secs()));
        let reply: Vec<String> = self.connection.run(&scripts::REAP, &keys::base(kind), &args).await?;
        let mut reaped = Vec::new();
        for pair in reply.as_chunks::<2>().0 {
            // `none` is an id without a record: there is no job that anything could become of.
            if let (Ok(id), Ok(status)) = (pair[0].parse(), pair[1].parse()) {
                reaped.push(Reaped { job_id: JobId::new(kind.clone(), id), worker: worker.worker.clone(), status });
            }
        }
        Ok(reaped)
    }

    /// Does what time brings: delayed jobs become due, waiting ones expire, finished ones are forgotten.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`]
    pub async fn sweep(&self, kind: &RunnerKind) -> Result<Swept, QueueError> {
        let mut args = Args::new();
        args.number(self.options.retention.as_millis()).number(self.options.max_finished).number(SWEEP_LIMIT);
        let mut swept = Swept::default();
        for _ in 0..SWEEPS {
            let (due, expired, forgotten, next): (u64, u64, u64, i64) =
                self.connection.run(&scripts::SWEEP, &keys::base(kind), &args).await?;
            swept.due += due;
            swept.expired += expired;
            swept.forgotten += forgotten;
            swept.next = u64::try_from(next).ok().map(Duration::from_millis);
            if next != 0 {
                break;
            }
        }
        Ok(swept)
    }
}
