//! The receipts that a step's job brings along.

use std::{collections::HashMap, sync::Arc};

use horus_keys::{Digest, PeerId, Role};

use super::{Admission, Refusal, RefusalKind, Right, SignedReceipts, SignedWorkflow, Verifier};
use crate::{
    definition::Step,
    job::{JobId, JobSpec, JobStatus, LocalId, Receipt, ReceiptRef, step_job_id},
};

/// Receipts of one workflow, signed by runners that are trusted now.
pub(super) struct Proofs<'w> {
    workflow: &'w SignedWorkflow,
    sources: Vec<Arc<SignedReceipts>>,
    /// Position of the source and of the receipt within; several if a job was executed twice.
    by_id: HashMap<LocalId, Vec<(usize, usize)>>,
}

impl<'w> Proofs<'w> {
    /// Finds and verifies what the job refers to. Receipts of other workflows or by keys that are no runners are left out.
    pub(super) fn gather(
        verifier: &Verifier,
        at: Admission<'_>,
        spec: &JobSpec,
        workflow: &'w SignedWorkflow,
        step: &Step,
    ) -> Result<Self, Refusal> {
        let (is, max) = (spec.receipts.len(), step.depends_on.len() + 1);
        if is > max {
            return Err(Refusal::mismatch(format!(
                "{is} receipts envelopes, but step `{}` can need at most {max}",
                step.id
            )));
        }
        let mut proofs = Self { workflow, sources: Vec::with_capacity(is), by_id: HashMap::new() };
        for reference in &spec.receipts {
            let source = match reference {
                ReceiptRef::Envelope(envelope) => verifier.receipts(envelope)?,
                ReceiptRef::Digest(digest) => {
                    (at.receipts)(digest).filter(|found| found.digest == *digest).ok_or_else(|| {
                        let message = format!("the receipts {digest} are not known here: send their envelope along");
                        Refusal::new(RefusalKind::ReceiptUnknown, message)
                    })?
                }
            };
            proofs.add(verifier, at, source);
        }
        Ok(proofs)
    }

    fn add(&mut self, verifier: &Verifier, at: Admission<'_>, source: Arc<SignedReceipts>) {
        let position = self.sources.len();
        let mut asked: Option<(&horus_keys::RunnerKind, bool)> = None;
        for (n, receipt) in source.receipts.iter().enumerate() {
            if receipt.workflow != Some(self.workflow.digest) {
                continue;
            }
            // An envelope mostly holds receipts of one runner kind: ask once.
            let trusted = match asked {
                Some((runner, answer)) if *runner == receipt.runner => answer,
                _ => is_runner(verifier, at, source.signer, &source, receipt),
            };
            asked = Some((&receipt.runner, trusted));
            if trusted {
                self.by_id.entry(receipt.job_id.local().clone()).or_default().push((position, n));
            }
        }
        self.sources.push(source);
    }

    /// Receipts of one attempt of a step.
    pub(super) fn of(&self, step: &Step, attempt: u32) -> impl Iterator<Item = &Receipt> {
        let id: JobId = step_job_id(&self.workflow.digest, &step.id, None, attempt, &step.runner);
        let found = self.by_id.get(id.local()).map_or(&[][..], Vec::as_slice);
        let receipts = found.iter().map(|(source, n)| &self.sources[*source].receipts[*n]);
        receipts.filter(move |receipt| receipt.job_id == id)
    }

    /// Whether some attempt of the step gave this output.
    pub(super) fn attest(&self, step: &Step, output: &Digest) -> bool {
        let succeeded = |receipt: &Receipt| receipt.outcome == JobStatus::Succeeded && receipt.output == Some(*output);
        (1..=step.last_attempt()).any(|attempt| self.of(step, attempt).any(succeeded))
    }

    /// Whether the step failed, and the signed workflow allows no further attempt.
    ///
    /// A step that was cancelled is not one that failed: nothing proves that the cancel came from anybody but the coordinator, which
    /// could leave out any input that it likes in this way.
    pub(super) fn failed_for_good(&self, step: &Step) -> bool {
        (1..=step.last_attempt()).any(|attempt| {
            self.of(step, attempt).any(|receipt| match receipt.outcome {
                JobStatus::Failed | JobStatus::TimedOut => {
                    attempt >= step.max_attempts()
                        || !step.is_retryable(receipt.error.as_ref().map(|e| e.code.as_str()))
                }
                _ => false,
            })
        })
    }

    /// The job was admitted: what it relied on may be found by digest from now on.
    pub(super) fn accept(self) -> Vec<Digest> {
        for (source, _) in self.by_id.values().flatten() {
            self.sources[*source].accepted.set();
        }
        self.sources.iter().map(|source| source.digest).collect()
    }
}

fn is_runner(
    verifier: &Verifier,
    at: Admission<'_>,
    signer: PeerId,
    source: &SignedReceipts,
    receipt: &Receipt,
) -> bool {
    let right = Right::For(Role::Runner, &receipt.runner);
    verifier.require(signer, right, &source.certificates, at.now).is_ok()
}
