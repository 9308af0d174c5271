//! Signs and stores results, many at a time: while one batch is on its way to Redis the next one gathers.

use std::sync::Arc;

use horus_keys::{Envelope, Identity, PayloadType, Timestamp};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{admit::Gate, held::Held, logs::LogFlusher};
use crate::{
    executor::Output,
    job::{JobError, JobStatus, LocalId, Receipt, ReceiptBatch},
    queue::{Finish, Lease, backoff},
};

/// Results in one envelope. Receipts have at most some 12 KiB each, so that an envelope stays below 1 MiB.
const BATCH: usize = 64;
/// Outputs in one call, in bytes.
const BATCH_BYTES: usize = 4 << 20;

/// A job that ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) id: LocalId,
    pub(crate) token: u64,
    pub(crate) status: JobStatus,
    pub(crate) finished_at: Timestamp,
    pub(crate) output: Option<Output>,
    pub(crate) error: Option<JobError>,
    pub(crate) receipt: Receipt,
}

impl Ended {
    fn size(&self) -> usize {
        self.output.as_ref().map_or(0, |output| output.get().len()) + self.error.as_ref().map_or(0, |e| e.message.len())
    }
}

pub(crate) struct Finisher {
    pub(crate) lease: Lease,
    pub(crate) held: Arc<Held>,
    pub(crate) gate: Gate,
    pub(crate) logs: Arc<LogFlusher>,
    pub(crate) identity: Identity,
    pub(crate) certificate: Option<Envelope>,
    /// Fires when nobody waits any longer for what could not be stored.
    pub(crate) abandon: CancellationToken,
}

impl Finisher {
    /// Stores what comes, until all senders are gone.
    pub(crate) async fn run(self, mut ended: mpsc::Receiver<Ended>) {
        let mut next: Option<Ended> = None;
        loop {
            let first = match next.take() {
                Some(first) => first,
                None => match ended.recv().await {
                    Some(first) => first,
                    None => return,
                },
            };
            // Jobs that end at the same moment travel together: let the others that are ready say so first.
            tokio::task::yield_now().await;
            let mut bytes = first.size();
            let mut batch = vec![first];
            while batch.len() < BATCH {
                let Ok(more) = ended.try_recv() else { break };
                bytes += more.size();
                if bytes > BATCH_BYTES {
                    next = Some(more);
                    break;
                }
                batch.push(more);
            }
            self.store(batch).await;
        }
    }

    async fn store(&self, batch: Vec<Ended>) {
        let mut jobs = Vec::with_capacity(batch.len());
        let mut receipts = Vec::with_capacity(batch.len());
        for (index, ended) in (0..).zip(batch) {
            let error = ended.error.map(|error| serde_json::to_string(&error).expect("two strings are always JSON"));
            jobs.push(Finish {
                id: ended.id,
                token: ended.token,
                status: ended.status,
                finished_at: ended.finished_at,
                output: ended.output.map(|output| output.get().to_owned()),
                error,
                index,
            });
            receipts.push(ended.receipt);
        }
        let receipts = ReceiptBatch { receipts, certificates: self.certificate.iter().cloned().collect() };
        let envelope = Envelope::sign_json(&self.identity, PayloadType::Receipts, &receipts);
        self.gate.signed(&envelope, self.identity.peer_id(), receipts);
        let mut failures = 0;
        let stored = loop {
            // Lines belong before the end. If they cannot be stored, the result is more important.
            let ids: Vec<(LocalId, u64)> = jobs.iter().map(|job| (job.id.clone(), job.token)).collect();
            self.logs.flush(&ids).await;
            match self.lease.finish(&jobs, &envelope).await {
                Ok(stored) => {
                    for (job, _) in jobs.iter().zip(&stored).filter(|(_, stored)| !**stored) {
                        tracing::warn!(job = %job.id, status = %job.status, "a result came too late: the job is no longer this worker's");
                    }
                    break true;
                }
                Err(e) if e.is_transient() => {
                    failures += 1;
                    tracing::warn!(jobs = jobs.len(), "cannot store results, and tries again: {e}");
                    tokio::select! {
                        () = tokio::time::sleep(backoff(failures)) => {}
                        () = self.abandon.cancelled() => break false,
                    }
                }
                Err(e) => {
                    // The jobs are let go of; they end as those of a dead worker do.
                    tracing::error!(jobs = jobs.len(), "cannot store results: {e}");
                    break false;
                }
            }
        };
        for job in &jobs {
            self.logs.forget(&job.id).await;
            if stored {
                self.held.remove(&job.id, job.token);
            } else {
                self.held.disown(&job.id, job.token);
            }
        }
    }
}
