//! The calls that bring a batch: what its steps refer to goes along while that is little, else ahead and in portions, so that a wide
//! fan-in fits into a request, and into a message of the mesh.

use std::collections::BTreeSet;
use std::time::Duration;

use horus_keys::{Envelope, RunnerKind};
use horus_runners::job::JobStatus;
use horus_transport::{ErrorKind, RpcError};

use super::{Courier, is_partly_taken};
use crate::api::supervisor::{CreateJobs, CreateJobsParams, StoreDocuments, StoreDocumentsParams};
use crate::coordinator::batch::Batch;
use crate::workflow::StepAttempt;

/// So many batches of receipts go along even if the supervisor has them: that spares it from looking for them.
const FEW_RECEIPTS: usize = 8;
/// How long a call may take to be answered.
const PATIENCE: Duration = Duration::from_secs(20);
/// Bytes of payloads that go along with a batch, and in one call ahead of it: in text a third more, which beside a job with the largest
/// input still fits into a message of 1 MiB.
const PORTION: usize = 192 << 10;

impl Courier {
    /// One call that brings the batch, and others for the workflow or the receipts that the supervisor turns out not to have.
    pub(super) async fn create(&self, batch: &Batch) -> Result<(), RpcError> {
        let digests = batch.receipts();
        let receipts = self.shared.vault.receipts(&self.live.id, &digests).await.map_err(|error| {
            // Nothing was sent: the pause and the next try are the same.
            self.shared.redis_trouble(&error);
            RpcError::new(ErrorKind::TimedOut, error.to_string())
        })?;
        let there = &self.shared.pool.there;
        let kinds: BTreeSet<&RunnerKind> = batch.jobs.iter().map(|job| job.job.runner()).collect();
        let known = kinds.iter().all(|kind| there.has_workflow(self.peer, self.live.digest(), kind));
        let few = receipts.len() <= FEW_RECEIPTS;
        let mut workflow = (!known).then_some(&self.live.signed.envelope);
        let mut along: Vec<&Envelope> =
            receipts.iter().filter(|envelope| few || !there.has_receipts(self.peer, envelope.digest())).collect();
        let (mut tries, mut sent_all) = (0, along.len() == receipts.len());
        // Whether it may have taken jobs by a call that is repeated below: what becomes of the repetition says nothing about that.
        let mut may_be_there = false;
        let created = loop {
            tries += 1;
            if size(workflow, &along) > PORTION {
                let ahead = self.send_ahead(batch, workflow.take(), std::mem::take(&mut along)).await;
                // No job went with that.
                ahead.map_err(|error| error.with("sent", may_be_there))?;
            }
            let params = CreateJobsParams {
                envelope: (&batch.envelope).into(),
                workflow: workflow.map(Into::into),
                receipts: along.iter().copied().map(Into::into).collect(),
            };
            let error = match self.supervisor.client.call_with_timeout::<CreateJobs>(&params, PATIENCE).await {
                Ok(created) => break created,
                Err(error) => error,
            };
            // What it was believed to have it may have lost since.
            match error.kind {
                ErrorKind::WorkflowUnknown if tries < 4 => workflow = Some(&self.live.signed.envelope),
                ErrorKind::DelegationMismatch if !sent_all => {
                    sent_all = true;
                    along = receipts.iter().collect();
                }
                _ if may_be_there => return Err(error.with("sent", true)),
                _ => return Err(error),
            }
            may_be_there |= error.was_sent() == Some(true) || is_partly_taken(&batch.jobs, &error);
        };
        for kind in kinds {
            there.note_workflow(self.peer, self.live.digest(), kind);
        }
        receipts.iter().for_each(|envelope| there.note_receipts(self.peer, envelope.digest()));
        let fits = created.jobs.len() == batch.jobs.len()
            && created.jobs.iter().zip(&batch.jobs).all(|(created, job)| created.job_id == job.job);
        if !fits {
            return Err(RpcError::new(ErrorKind::InvalidReply, "it confirms other jobs than those that it was sent"));
        }
        let running = created.jobs.iter().zip(&batch.jobs).filter(|(created, _)| created.status == JobStatus::Running);
        let running: Vec<StepAttempt> = running.map(|(_, job)| job.step).collect();
        if !running.is_empty() {
            self.tell(super::Message::Running(running));
        }
        Ok(())
    }

    /// Has the supervisor keep documents, in as many calls as it takes.
    async fn send_ahead(
        &self,
        batch: &Batch,
        workflow: Option<&Envelope>,
        receipts: Vec<&Envelope>,
    ) -> Result<(), RpcError> {
        let Some(runner) = batch.jobs.first().map(|job| job.job.runner()) else { return Ok(()) };
        let send = async |workflow: Option<&Envelope>, receipts: &[&Envelope]| {
            let params = StoreDocumentsParams {
                runner: runner.clone(),
                workflow: workflow.map(Into::into),
                receipts: receipts.iter().copied().map(Into::into).collect(),
            };
            self.supervisor.client.call_with_timeout::<StoreDocuments>(&params, PATIENCE).await
        };
        if workflow.is_some() {
            send(workflow, &[]).await?;
        }
        let mut rest = &receipts[..];
        while !rest.is_empty() {
            let mut bytes = 0;
            let fit = rest.iter().take_while(|envelope| {
                bytes += envelope.payload().len();
                bytes <= PORTION
            });
            // One that is larger than a portion goes alone.
            let (portion, later) = rest.split_at(fit.count().max(1));
            send(None, portion).await?;
            rest = later;
        }
        Ok(())
    }
}

fn size(workflow: Option<&Envelope>, receipts: &[&Envelope]) -> usize {
    workflow.into_iter().chain(receipts.iter().copied()).map(|envelope| envelope.payload().len()).sum()
}
