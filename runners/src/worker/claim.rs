//! Takes jobs from the queue whenever there is room, and sees them through: verify, start, execute.

use std::{panic::AssertUnwindSafe, sync::Arc};

use futures::FutureExt;
use horus_keys::Timestamp;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    WorkerOptions,
    admit::{Documents, Gate, Verdict},
    execute::{Outcome, execute},
    finish::Ended,
    held::Held,
};
use crate::{
    admission::Refusal,
    executor::Executor,
    job::{Ending, Job, JobError, JobId, JobStatus, LocalId, Receipt},
    queue::{Claim, Claimed, Document, Lease, QueueError, backoff},
};

pub(crate) struct Claimer<E> {
    pub(crate) executor: Arc<E>,
    pub(crate) lease: Lease,
    pub(crate) held: Arc<Held>,
    pub(crate) gate: Gate,
    pub(crate) options: Arc<WorkerOptions>,
    pub(crate) ended: mpsc::Sender<Ended>,
    pub(crate) tracker: TaskTracker,
    pub(crate) shutdown: CancellationToken,
}

/// From how many bytes of documents on, or from more than how many documents, verification leaves the async threads: below, handing
/// it over costs more than doing it.
const LARGE_BYTES: usize = 32 * 1024;
const FEW: usize = 4;

/// A job that may be executed.
struct Ready {
    claimed: Claimed,
    job: Job,
    permit: OwnedSemaphorePermit,
}

impl<E: Executor> Claimer<E> {
    /// Claims until it is told to stop.
    pub(crate) async fn run(self: Arc<Self>) {
        let slots = Arc::new(Semaphore::new(self.options.concurrency));
        let mut recovered = Instant::now();
        let (mut failures, mut waiter) = (0, None);
        loop {
            let permit = tokio::select! {
                permit = slots.clone().acquire_owned() => permit.expect("the semaphore is never closed"),
                () = self.shutdown.cancelled() => return,
            };
            let mut permits = vec![permit];
            while let Ok(permit) = slots.clone().try_acquire_owned() {
                permits.push(permit);
            }
            let want = permits.len();
            // A claim that was given up may be executed later, for example by a Redis that stood still; and the client for clusters repeats
            // commands by itself. Nothing else would ever notice such jobs: their worker lives.
            if recovered.elapsed() > self.options.lease {
                self.held.set_uncertain(true);
                recovered = Instant::now();
            }
            // Not to be dropped half-way: jobs would be claimed of which nobody knows.
            let claim = self.claim(want).await;
            let claim = match claim {
                Ok(claim) => claim,
                Err(e) => {
                    drop(permits);
                    failures += 1;
                    tracing::warn!("cannot claim jobs: {e}");
                    self.pause(failures).await;
                    continue;
                }
            };
            failures = 0;
            let full = claim.jobs.len() == want;
            permits.truncate(claim.jobs.len());
            if !claim.jobs.is_empty() {
                self.held.insert(&claim.jobs);
                let claimed: Vec<(LocalId, u64)> = claim.jobs.iter().map(|job| (job.id.clone(), job.token)).collect();
                self.spawn(claimed, self.clone().process(claim, permits));
            }
            if !full && let Err(e) = self.wait(&mut waiter).await {
                waiter = None;
                failures += 1;
                tracing::debug!("cannot wait for jobs: {e}");
                self.pause(failures).await;
            }
        }
    }

    async fn claim(&self, want: usize) -> Result<Claim, QueueError> {
        if self.held.is_uncertain() {
            // Cleared first: what becomes uncertain while we ask is asked about again.
            self.held.set_uncertain(false);
            let recovered = self.lease.recover(&self.held.ids()).await;
            let lost = recovered.inspect_err(|_| self.held.set_uncertain(true))?;
            if lost > 0 {
                tracing::info!(jobs = lost, "gave back jobs that this worker does not know of");
            }
        }
        // If the reply is lost, jobs may have been claimed of which we do not know.
        let (by_nature, known) = (self.executor.idempotent(), self.gate.known());
        self.lease.claim(want, by_nature, &known).await.inspect_err(|_| self.held.set_uncertain(true))
    }

    /// Runs a task that is responsible for jobs. Should it panic, they are let go of.
    fn spawn(self: &Arc<Self>, jobs: Vec<(LocalId, u64)>, task: impl Future<Output = ()> + Send + 'static) {
        let held = self.held.clone();
        self.tracker.spawn(async move {
            if AssertUnwindSafe(task).catch_unwind().await.is_err() {
                tracing::error!(jobs = jobs.len(), "a task of the worker panicked; its jobs are given up");
                jobs.iter().for_each(|(id, token)| held.disown(id, *token));
            }
        });
    }

    /// Waits until there may be jobs.
    async fn wait(&self, waiter: &mut Option<crate::queue::Waiter>) -> Result<(), QueueError> {
        if waiter.is_none() {
            *waiter = Some(self.lease.waiter().await?);
        }
        let Some(waiting) = waiter else { return Ok(()) };
        tokio::select! {
            waited = waiting.wait() => waited,
            () = self.shutdown.cancelled() => Ok(()),
        }
    }

    async fn pause(&self, failures: u32) {
        tokio::select! {
            () = tokio::time::sleep(backoff(failures)) => {}
            () = self.shutdown.cancelled() => {}
        }
    }

    /// Verifies claimed jobs, marks them as started, and executes them.
    async fn process(self: Arc<Self>, claim: Claim, permits: Vec<OwnedSemaphorePermit>) {
        let verdicts = self.verify(&claim.jobs, claim.documents).await;
        let (mut ready, mut released, mut unclear) = (Vec::new(), Vec::new(), Vec::new());
        for ((claimed, verdict), permit) in claim.jobs.into_iter().zip(verdicts).zip(permits) {
            match verdict {
                Some(Verdict::Admitted(job)) => ready.push(Ready { claimed, job: *job, permit }),
                Some(Verdict::Refused { refusal, spec }) => self.refuse(&claimed, &refusal, spec).await,
                Some(Verdict::Wants(_)) | None => unclear.push(claimed),
            }
        }
        if self.shutdown.is_cancelled() {
            released.extend(ready.drain(..).map(|ready| ready.claimed));
            released.append(&mut unclear);
        }
        if !released.is_empty() {
            self.release(&released, "").await;
        }
        if !unclear.is_empty() {
            let why = format!("worker {} could not verify the job", self.lease.worker());
            self.release(&unclear, &why).await;
        }
        let (running, ready): (Vec<Ready>, Vec<Ready>) = ready.into_iter().partition(|ready| ready.claimed.running);
        for ready in running {
            let attempt = ready.claimed.attempt + 1;
            self.launch(ready, attempt, claim.at);
        }
        if !ready.is_empty() {
            self.start(ready).await;
        }
    }

    /// None for a job whose documents could not be fetched.
    async fn verify(&self, claimed: &[Claimed], mut sent: Vec<(Document, String)>) -> Vec<Option<Verdict>> {
        let mut verdicts: Vec<Option<Verdict>> = claimed.iter().map(|_| None).collect();
        let mut open: Vec<usize> = (0..claimed.len()).collect();
        let (mut documents, mut failures) = (Documents::default(), 0);
        // Jobs name a batch, which names documents, which name no others: two rounds are enough, and one more for a cache that forgot.
        for _ in 0..3 {
            let jobs: Vec<Claimed> = open.iter().map(|at| claimed[*at].clone()).collect();
            let results;
            if sent.iter().map(|(_, text)| text.len()).sum::<usize>() < LARGE_BYTES && sent.len() <= FEW {
                results = self.gate.admit(&jobs, &std::mem::take(&mut sent), &mut documents);
            } else {
                let (gate, new, mut all) = (self.gate.clone(), std::mem::take(&mut sent), documents);
                // Signatures are work for another thread.
                let task = tokio::task::spawn_blocking(move || {
                    let results = gate.admit(&jobs, &new, &mut all);
                    (results, all)
                });
                let Ok(done) = task.await else { return verdicts };
                (results, documents) = done;
            }
            let mut wants = Vec::new();
            for (at, verdict) in open.iter().zip(results) {
                if let Verdict::Wants(documents) = &verdict {
                    wants.extend(documents.iter().copied());
                }
                verdicts[*at] = Some(verdict);
            }
            open.retain(|at| matches!(verdicts[*at], Some(Verdict::Wants(_))));
            if open.is_empty() {
                break;
            }
            wants.sort_unstable();
            wants.dedup();
            for document in wants {
                match self.fetch(document, &mut failures).await {
                    Some(Some(text)) => sent.push((document, text)),
                    Some(None) => documents.absent(document),
                    None => return verdicts,
                }
            }
        }
        verdicts
    }

    /// None if the worker stops; `Some(None)` if there is no such document.
    #[allow(clippy::option_option)]
    async fn fetch(&self, document: Document, failures: &mut u32) -> Option<Option<String>> {
        loop {
            match self.lease.document(document).await {
                Ok(found) => return Some(found),
                Err(e) if e.is_transient() => {
                    *failures += 1;
                    tracing::warn!("cannot fetch {}: {e}", document.name());
                    self.pause(*failures).await;
                    if self.shutdown.is_cancelled() {
                        return None;
                    }
                }
                Err(e) => {
                    tracing::warn!("cannot read {}: {e}", document.name());
                    return Some(None);
                }
            }
        }
    }

    /// A job that must not be executed ends as failed, with a receipt that says why.
    ///
    /// The receipt is of no workflow: a step that was refused was not attempted, so nothing may follow from that it failed. Else a
    /// coordinator could have a step refused at will, with a batch that is wrong, and go on without its output.
    async fn refuse(&self, claimed: &Claimed, refusal: &Refusal, spec: Option<horus_keys::Digest>) {
        let now = Timestamp::now();
        let error = JobError::new(refusal.kind.as_str(), &refusal.message);
        tracing::warn!(job = %claimed.id, kind = refusal.kind.as_str(), "refused a job: {}", refusal.message);
        if let Some(held) = self.held.get(&claimed.id, claimed.token) {
            held.log.system(&format!("the runner refused the job: {}: {}", error.code, error.message));
        }
        let kind = self.executor.kind();
        let receipt = Receipt {
            job_id: JobId::new(kind.clone(), claimed.id.clone()),
            spec: spec.unwrap_or_else(|| horus_keys::Digest::of(b"")),
            workflow: None,
            attempt: claimed.attempt + u32::from(claimed.running),
            runner: kind,
            started_at: now,
            finished_at: now,
            outcome: JobStatus::Failed,
            output: None,
            error: Some(error.clone()),
        };
        let (id, token) = (claimed.id.clone(), claimed.token);
        let ended =
            Ended { id, token, status: JobStatus::Failed, finished_at: now, output: None, error: Some(error), receipt };
        // The finisher outlives the senders.
        let _ = self.ended.send(ended).await;
    }

    /// Gives jobs back, because the worker stops or for another reason.
    async fn release(&self, jobs: &[Claimed], why: &str) {
        let ids: Vec<(&LocalId, u64)> = jobs.iter().map(|job| (&job.id, job.token)).collect();
        let released =
            if why.is_empty() { self.lease.release(&ids).await } else { self.lease.give_up(&ids, why).await };
        if let Err(e) = &released {
            tracing::warn!(jobs = jobs.len(), "cannot give jobs back yet: {e}");
        }
        for job in jobs {
            if released.is_ok() {
                self.held.remove(&job.id, job.token);
            } else {
                self.held.disown(&job.id, job.token);
            }
        }
    }

    /// Marks jobs as running, and executes them.
    async fn start(self: Arc<Self>, ready: Vec<Ready>) {
        let mut failures = 0;
        let (started_at, attempts) = loop {
            let jobs: Vec<(&LocalId, u64, bool)> =
                ready.iter().map(|r| (&r.claimed.id, r.claimed.token, r.job.idempotent)).collect();
            match self.lease.start(&jobs).await {
                Ok(started) => break started,
                Err(e) if e.is_transient() && !self.shutdown.is_cancelled() => {
                    failures += 1;
                    tracing::warn!("cannot start jobs: {e}");
                    self.pause(failures).await;
                }
                Err(e) => {
                    tracing::warn!("cannot start jobs, and gives them back: {e}");
                    let claimed: Vec<Claimed> = ready.into_iter().map(|ready| ready.claimed).collect();
                    let why = if self.shutdown.is_cancelled() {
                        String::new()
                    } else {
                        format!("the job could not be started: {e}")
                    };
                    self.release(&claimed, &why).await;
                    return;
                }
            }
        };
        for (ready, attempt) in ready.into_iter().zip(attempts) {
            if attempt == 0 {
                self.held.remove(&ready.claimed.id, ready.claimed.token);
                continue;
            }
            self.launch(ready, attempt, started_at);
        }
    }

    /// Executes a job that is marked as running.
    fn launch(self: &Arc<Self>, ready: Ready, attempt: u32, started_at: Timestamp) {
        let (this, job) = (self.clone(), vec![(ready.claimed.id.clone(), ready.claimed.token)]);
        self.spawn(job, async move { this.execute(ready, attempt, started_at).await });
    }

    async fn execute(&self, ready: Ready, attempt: u32, started_at: Timestamp) {
        let Ready { claimed, job, permit } = ready;
        let (id, token) = (claimed.id.clone(), claimed.token);
        let Some(held) = self.held.get(&id, token) else { return };
        let began = Instant::now();
        let outcome = execute(&*self.executor, &job, &held, self.options.sealing.as_deref()).await;
        let (status, output, error) = match outcome {
            Outcome::Ended { status, output, error } => (status, output, error),
            Outcome::Release => return self.release(&[claimed], "").await,
            Outcome::Abandon => return self.held.remove(&id, token),
        };
        // Measured, not read from a clock: a job cannot end before it began.
        let finished_at = started_at.saturating_add(began.elapsed());
        let text = output.as_ref().map(crate::executor::Output::get);
        let ending = Ending { attempt, started_at, finished_at, outcome: status, output: text, error: error.as_ref() };
        let receipt = Receipt::of(&job, &ending);
        let _ = self.ended.send(Ended { id, token, status, finished_at, output, error, receipt }).await;
        drop(permit);
    }
}
