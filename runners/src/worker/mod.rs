//! The worker loop: what stands between the queue and an [`Executor`].
//!
//! It claims jobs in batches, verifies them from the signatures up, marks them started, executes them under timeout and cancellation, signs
//! receipts for all that ended meanwhile in one envelope, and stores results. Its lease on its jobs is kept by a heartbeat. When Redis is away
//! it backs off and goes on; results wait in memory until they can be stored.

mod admit;
mod claim;
mod execute;
mod finish;
mod held;
mod logs;
mod pulse;

use std::{sync::Arc, time::Duration};

use horus_keys::{Envelope, Identity, PeerId, SealingKey};
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    admit::Gate,
    claim::Claimer,
    finish::Finisher,
    held::{Held, Stop},
    logs::LogFlusher,
    pulse::Pulse,
};
use crate::{
    admission::Verifier,
    executor::{ExecutionError, Executor},
    queue::{Lease, LeaseOptions, Queue, QueueError, backoff},
};

/// How a worker works.
#[derive(Debug)]
pub struct WorkerOptions {
    /// Name for people, for example the host's; its first 48 characters count.
    pub name: String,
    /// Jobs executed at a time.
    pub concurrency: usize,
    /// Without a heartbeat for this long its jobs are given to others. A heartbeat comes every third of it.
    pub lease: Duration,
    /// How long a worker that is told to stop waits for its running jobs.
    pub grace: Duration,
    /// Signs receipts.
    pub identity: Identity,
    /// Opens the secrets of jobs.
    pub sealing: Option<Arc<SealingKey>>,
    /// The supervisors of this Redis: a batch must name one of them in `aud`. Empty: any that the trust policy holds as a supervisor.
    pub supervisors: Vec<PeerId>,
    /// An owner's certificate for `identity`, sent along with receipts.
    pub certificate: Option<Envelope>,
}

impl WorkerOptions {
    /// A name and an identity, everything else at its default: 4 jobs at a time, a lease of 15 s, a grace of 30 s.
    #[must_use]
    pub fn new(name: impl Into<String>, identity: Identity) -> Self {
        Self {
            name: name.into(),
            concurrency: 4,
            lease: Duration::from_secs(15),
            grace: Duration::from_secs(30),
            identity,
            sealing: None,
            supervisors: Vec::new(),
            certificate: None,
        }
    }
}

/// Why a worker could not work.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The executor could not get ready.
    #[error("the executor cannot start: {0}")]
    Prepare(#[from] ExecutionError),
    /// The queue refused the worker for a reason that does not go away by itself.
    #[error(transparent)]
    Queue(#[from] QueueError),
}

/// Serves the queue of one executor's kind.
pub struct Worker<E> {
    executor: Arc<E>,
    queue: Queue,
    verifier: Verifier,
    options: Arc<WorkerOptions>,
}

impl<E: Executor> std::fmt::Debug for Worker<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker")
            .field("kind", &self.executor.kind())
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// Results that wait to be stored, per job that runs at a time.
const ENDED_PER_SLOT: usize = 2;
/// How long the results of a stopped worker may still take to be stored.
const LAST_WORDS: Duration = Duration::from_secs(5);

impl<E: Executor> Worker<E> {
    /// A worker that does nothing yet.
    pub fn new(executor: E, queue: Queue, verifier: Verifier, mut options: WorkerOptions) -> Self {
        options.concurrency = options.concurrency.clamp(1, 4096);
        Self { executor: Arc::new(executor), queue, verifier, options: Arc::new(options) }
    }

    /// Works until `shutdown` fires, then drains: it claims nothing more, gives back what it has not started, and waits for running jobs up
    /// to its grace. What runs then is stopped: idempotent jobs go back to the queue, others end `failed` with the code `INTERRUPTED`.
    ///
    /// # Errors
    /// [`WorkerError::Prepare`] before the first job. Redis being away is no error: it waits.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), WorkerError> {
        self.executor.prepare().await?;
        let Some(lease) = self.register(&shutdown).await? else { return Ok(()) };
        tracing::info!(worker = lease.worker(), kind = %self.executor.kind(), "waits for jobs");
        let held = Arc::new(Held::default());
        let logs = Arc::new(LogFlusher::new(lease.clone(), held.clone()));
        let pulse = Arc::new(Pulse::new(lease.clone(), held.clone(), self.options.lease / 3));
        let (stop, abandon) = (CancellationToken::new(), CancellationToken::new());
        let background = TaskTracker::new();
        background.spawn({
            let (pulse, stop) = (pulse.clone(), stop.clone());
            async move { pulse.beat(stop).await }
        });
        background.spawn({
            let stop = stop.clone();
            async move { pulse.listen(stop).await }
        });
        background.spawn({
            let (logs, stop) = (logs.clone(), stop.clone());
            async move { logs.run(stop).await }
        });
        // Whatever happens here, the tasks above end with it.
        let _stop = stop.drop_guard_ref();

        let (ended, results) = mpsc::channel(ENDED_PER_SLOT * self.options.concurrency + 64);
        let gate = Gate::new(self.verifier, self.executor.kind(), self.options.supervisors.clone());
        let finisher = Finisher {
            lease: lease.clone(),
            held: held.clone(),
            gate: gate.clone(),
            logs,
            identity: self.options.identity.clone(),
            certificate: self.options.certificate.clone(),
            abandon: abandon.clone(),
        };
        let finisher = tokio::spawn(finisher.run(results));
        let tracker = TaskTracker::new();
        let claimer = Arc::new(Claimer {
            executor: self.executor,
            lease: lease.clone(),
            held: held.clone(),
            gate,
            options: self.options.clone(),
            ended,
            tracker: tracker.clone(),
            shutdown,
        });
        claimer.run().await;

        tracing::info!(jobs = held.ids().len(), "stops: waits for running jobs");
        // A hint that this worker took, but did not follow, goes to the others.
        let _ = lease.release(&[]).await;
        tracker.close();
        if tokio::time::timeout(self.options.grace, tracker.wait()).await.is_err() {
            held.stop_all(Stop::Shutdown);
            let _ = tokio::time::timeout(LAST_WORDS, tracker.wait()).await;
        }
        // All tasks that could send results have ended, or hang in an executor that does not let go.
        let stored = async {
            held.until(true).await;
        };
        if tokio::time::timeout(LAST_WORDS, stored).await.is_err() {
            tracing::warn!(jobs = held.ids().len(), "stops with jobs whose end could not be stored");
        }
        abandon.cancel();
        finisher.abort();
        stop.cancel();
        background.close();
        let _ = tokio::time::timeout(LAST_WORDS, background.wait()).await;
        if let Err(e) = lease.unregister().await {
            tracing::debug!("cannot leave the register: {e}");
        }
        Ok(())
    }

    /// None if the worker was told to stop before Redis answered.
    async fn register(&self, shutdown: &CancellationToken) -> Result<Option<Lease>, WorkerError> {
        let options = LeaseOptions {
            kind: self.executor.kind(),
            name: self.options.name.clone(),
            peer_id: self.options.identity.peer_id(),
            concurrency: u32::try_from(self.options.concurrency).unwrap_or(u32::MAX),
            lease: self.options.lease,
        };
        let mut failures = 0;
        loop {
            match Lease::register(&self.queue, options.clone()).await {
                Ok(lease) => return Ok(Some(lease)),
                Err(e) if e.is_transient() => {
                    failures += 1;
                    tracing::warn!("cannot register: {e}");
                    tokio::select! {
                        () = tokio::time::sleep(backoff(failures)) => {}
                        () = shutdown.cancelled() => return Ok(None),
                    }
                }
                Err(e) => return Err(e.into()),
            }
        }
    }
}
