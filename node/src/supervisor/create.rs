//! `create_jobs`: from a signed batch to queued jobs.
//!
//! The order matters. Form, limits and signatures come first and need no Redis; then trust, audience, expiry and what
//! follows from a signed workflow; then whether anybody can run the jobs; then room in the queue. Nothing is written before
//! all of it has passed, so a refused batch leaves nothing behind.

use std::sync::Arc;

use horus_keys::{Envelope, RunnerKind, Timestamp};
use horus_runners::admission::{Admission, Audience, SignedBatch};
use horus_runners::job::{Job, limits};
use horus_transport::{Caller, ErrorKind, RpcError};

use super::documents::Documents;
use super::owners::Owner;
use super::{Supervisor, errors};
use crate::api::EnvelopeText;
use crate::api::supervisor::{CreateJobParams, CreateJobsParams, CreatedJob, CreatedJobs};

/// From how many bytes on verification leaves the async threads: below, handing it over costs more than doing it.
pub(super) const LARGE_BYTES: usize = 32 * 1024;
/// From how many jobs on deriving and checking them leaves the async threads.
const LARGE_JOBS: usize = 32;

/// Refuses more receipts than any step can need.
pub(super) fn within_limit(receipts: &[EnvelopeText]) -> Result<(), RpcError> {
    if receipts.len() <= limits::RECEIPT_REFS {
        return Ok(());
    }
    let message = format!("{} batches of receipts: at most {} go with a call", receipts.len(), limits::RECEIPT_REFS);
    Err(RpcError::new(ErrorKind::TooLarge, message))
}

impl Supervisor {
    pub(super) async fn create_job(
        self: Arc<Self>,
        _caller: Caller,
        params: CreateJobParams,
    ) -> Result<CreatedJob, RpcError> {
        let CreateJobParams { envelope, workflow, receipts } = params;
        let batch = self.verified_batch(envelope.read()?).await?;
        if batch.jobs.len() != 1 {
            return Err(errors::invalid(format!(
                "create_job takes a batch of one job, this has {}: use create_jobs",
                batch.jobs.len()
            )));
        }
        let created = self.accept(batch, workflow, receipts).await?;
        created.jobs.into_iter().next().ok_or_else(|| RpcError::internal("the queue answered for no job"))
    }

    pub(super) async fn create_jobs(
        self: Arc<Self>,
        _caller: Caller,
        params: CreateJobsParams,
    ) -> Result<CreatedJobs, RpcError> {
        let CreateJobsParams { envelope, workflow, receipts } = params;
        let batch = self.verified_batch(envelope.read()?).await?;
        self.accept(batch, workflow, receipts).await
    }

    async fn verified_batch(&self, envelope: Envelope) -> Result<Arc<SignedBatch>, RpcError> {
        let verifier = self.verifier.clone();
        let large = envelope.payload().len() >= LARGE_BYTES;
        self.compute(large, move || verifier.batch(&envelope)).await?.map_err(|refusal| errors::refused(&refusal))
    }

    async fn accept(
        &self,
        batch: Arc<SignedBatch>,
        workflow: Option<EnvelopeText>,
        receipts: Vec<EnvelopeText>,
    ) -> Result<CreatedJobs, RpcError> {
        self.gate.check()?;
        within_limit(&receipts)?;
        let workflow = workflow.map(EnvelopeText::read).transpose()?;
        let receipts = receipts.into_iter().map(EnvelopeText::read).collect::<Result<_, _>>()?;
        let documents = if self.knows_signer(&batch) {
            self.documents(&batch, workflow, receipts).await?
        } else {
            // Admission refuses it; a stranger makes nobody look for anything.
            Arc::default()
        };
        let jobs = self.admitted(&batch, documents.clone()).await?;
        self.require_runners(&jobs).await?;
        self.enqueue(&batch, jobs, &documents).await
    }

    fn knows_signer(&self, batch: &SignedBatch) -> bool {
        let now = Timestamp::now();
        let known = || self.trust.known(batch.signer, now);
        known() || batch.certificates.iter().any(|c| self.trust.present(c, now).is_ok()) && known()
    }

    /// Admits every job of the batch, or none.
    async fn admitted(&self, batch: &Arc<SignedBatch>, documents: Arc<Documents>) -> Result<Vec<Job>, RpcError> {
        let (verifier, me) = (self.verifier.clone(), self.me);
        let batch = batch.clone();
        let large = batch.jobs.len() >= LARGE_JOBS || batch.envelope.payload().len() >= LARGE_BYTES;
        let admit = move || {
            verifier.admit(Admission {
                batch: &batch,
                audience: Audience::Supervisor(&me),
                workflows: &|digest| documents.workflows.get(digest).cloned(),
                receipts: &|digest| documents.receipts.get(digest).cloned(),
                now: Timestamp::now(),
            })
        };
        self.compute(large, admit).await?.map_err(|refusal| errors::refused(&refusal))
    }

    /// Refuses jobs of a kind that no runner has ever registered for.
    async fn require_runners(&self, jobs: &[Job]) -> Result<(), RpcError> {
        for job in jobs {
            self.require_kind(job.id.runner(), Some(job.index)).await?;
        }
        Ok(())
    }

    /// Refuses a kind that no runner has ever registered for.
    pub(super) async fn require_kind(&self, kind: &RunnerKind, index: Option<u32>) -> Result<(), RpcError> {
        if self.kinds.has(kind) {
            return Ok(());
        }
        let known = self.kinds_now().await?;
        if known.contains(kind) { Ok(()) } else { Err(errors::unknown_kind(kind, &known, index)) }
    }

    /// Runs `work` here when it is small; else on a thread for blocking work, as many at a time as there are processors.
    pub(super) async fn compute<T: Send + 'static>(
        &self,
        large: bool,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, RpcError> {
        if !large {
            return Ok(work());
        }
        let _turn = self.large.acquire().await.map_err(RpcError::internal)?;
        tokio::task::spawn_blocking(work).await.map_err(RpcError::internal)
    }

    /// Queues admitted jobs: one script call for each runner kind, after a look at all kinds if there are several, so that a
    /// batch which does not fit leaves nothing behind.
    async fn enqueue(
        &self,
        batch: &SignedBatch,
        jobs: Vec<Job>,
        documents: &Documents,
    ) -> Result<CreatedJobs, RpcError> {
        let one_kind = jobs.iter().all(|job| job.id.runner() == jobs[0].id.runner());
        if !one_kind {
            self.gate.pass(self.queue.check(&jobs).await)?;
        }
        let (workflows, receipts) = documents.envelopes();
        // Before they are there: whoever waits for them must not miss their end.
        let expected = self.waiters.expect(jobs.iter().map(|job| job.id.clone()).collect());
        let pushed = self.queue.push(&jobs, &batch.envelope, &workflows, &receipts).await;
        let pushed = self.gate.pass(pushed)?;
        expected.queued(pushed.iter().map(|pushed| pushed.created));
        for job in &jobs {
            // Also if it was there already: whoever delegated it, the workflow names the same coordinators.
            self.owners.insert(&job.id, Owner::from(job));
        }
        if jobs.iter().any(|job| job.not_before.is_some()) {
            self.due.notify_one();
        }
        let jobs = pushed
            .into_iter()
            .map(|pushed| CreatedJob { job_id: pushed.job_id, status: pushed.status, created: pushed.created })
            .collect();
        Ok(CreatedJobs { jobs })
    }
}
