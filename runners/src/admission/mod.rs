//! Who may have what executed. Supervisor and runner ask the same [`Verifier`] the same questions, so that neither has to believe the other.
//!
//! - A plain job is allowed if the key that signed its batch is trusted as submitter for the runner.
//! - The job of a workflow's step is allowed if the key that signed the *workflow* is, and the key that signed the batch is a trusted coordinator
//!   which the workflow names. Script, environment, secrets and timeout come from the signed workflow; the id is computed; the input must
//!   be the outputs that receipts of trusted runners attest. What is left to the coordinator is when a step runs, and where.
//!
//! Signatures and shapes are checked once per envelope and kept; trust, time and the rules are asked again on every use.

mod cache;
mod proofs;
mod refusal;
mod result;
mod rules;
mod shape;
mod signed;
mod step;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use horus_keys::{Digest, Envelope, PeerId, Role, RunnerKind, Timestamp, Trust};

use crate::job::Job;
use cache::Cache;

pub use refusal::{Refusal, RefusalKind};
pub use signed::{SignedBatch, SignedReceipts, SignedWorkflow};

/// Memory for verified batches, and as much again for receipts.
const BATCHES_WEIGHT: usize = 64 << 20;
/// Memory for verified workflows: two of the largest.
const WORKFLOWS_WEIGHT: usize = 256 << 20;
/// Definitions longer than this are read one at a time: whoever waits finds the result of the first.
const LONG_WORKFLOW_BYTES: usize = 256 << 10;

/// Verifies envelopes and admits jobs. Cheap to clone; all clones share one memory.
///
/// Nothing here waits for anything but a lock, but a workflow of 100,000 steps takes most of a second to read: call
/// [`Verifier::workflow`] where blocking is allowed.
#[derive(Clone)]
pub struct Verifier(Arc<Inner>);

struct Inner {
    trust: Trust,
    batches: Cache<SignedBatch>,
    workflows: Cache<SignedWorkflow>,
    receipts: Cache<SignedReceipts>,
    long_workflow: Mutex<()>,
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Verifier(..)")
    }
}

/// What is asked of [`Verifier::admit`].
#[derive(Clone, Copy)]
pub struct Admission<'a> {
    /// The batch.
    pub batch: &'a SignedBatch,
    /// Who asks.
    pub audience: Audience<'a>,
    /// Finds the workflow of a step by the digest of its payload.
    pub workflows: &'a dyn Fn(&Digest) -> Option<Arc<SignedWorkflow>>,
    /// Finds receipts that travelled beside the batch, or were stored before, by the digest of their payload.
    pub receipts: &'a dyn Fn(&Digest) -> Option<Arc<SignedReceipts>>,
    /// The time at which it is asked.
    pub now: Timestamp,
}

/// Whom the batch has to name in `aud`.
#[derive(Debug, Clone, Copy)]
pub enum Audience<'a> {
    /// A supervisor asks: this one.
    Supervisor(&'a PeerId),
    /// A runner asks, which serves these supervisors: any of them.
    Any(&'a [PeerId]),
    /// A runner asks that was not told which supervisors it serves: any that the trust policy holds as one.
    Trusted,
}

impl Verifier {
    /// A verifier that remembers nothing yet.
    #[must_use]
    pub fn new(trust: Trust) -> Self {
        Self::with_memory(trust, BATCHES_WEIGHT, BATCHES_WEIGHT, WORKFLOWS_WEIGHT)
    }

    /// As [`Verifier::new`], with other bounds than 64, 64 and 256 MiB on the memory that it takes, in bytes.
    #[must_use]
    pub fn with_memory(trust: Trust, batches: usize, receipts: usize, workflows: usize) -> Self {
        Self(Arc::new(Inner {
            trust,
            batches: Cache::new(batches),
            workflows: Cache::new(workflows),
            receipts: Cache::new(receipts),
            long_workflow: Mutex::new(()),
        }))
    }

    /// Whom it trusts.
    #[must_use]
    pub fn trust(&self) -> &Trust {
        &self.0.trust
    }

    /// Verifies and reads a `jobs+json` envelope.
    ///
    /// # Errors
    /// A malformed or wrongly signed envelope, a job of wrong shape or beyond the limits. Says nothing about trust: see [`Verifier::admit`].
    pub fn batch(&self, envelope: &Envelope) -> Result<Arc<SignedBatch>, Refusal> {
        self.0.batches.verified(envelope).map_or_else(
            || {
                let batch = Arc::new(SignedBatch::verify(envelope)?);
                self.0.batches.insert(&batch);
                Ok(batch)
            },
            Ok,
        )
    }

    /// Verifies and reads a `workflow+json` envelope.
    ///
    /// # Errors
    /// A malformed or wrongly signed envelope, a signer of whom nothing is known (his definition is not even read), or a definition with problems.
    pub fn workflow(&self, envelope: &Envelope) -> Result<Arc<SignedWorkflow>, Refusal> {
        self.read_workflow(envelope, |signer, certificates| {
            self.require(signer, Right::Known, certificates, Timestamp::now())
        })
    }

    /// Verifies and reads a `workflow+json` envelope that was accepted before, whatever has become of its signer since: what a coordinator asks
    /// that is to bring it to an end. Its steps are admitted by supervisors and runners, as ever.
    ///
    /// # Errors
    /// A malformed or wrongly signed envelope, or a definition with problems.
    pub fn accepted_workflow(&self, envelope: &Envelope) -> Result<Arc<SignedWorkflow>, Refusal> {
        self.read_workflow(envelope, |_, _| Ok(()))
    }

    fn read_workflow(
        &self,
        envelope: &Envelope,
        ask: impl FnOnce(PeerId, &[Envelope]) -> Result<(), Refusal>,
    ) -> Result<Arc<SignedWorkflow>, Refusal> {
        if let Some(known) = self.0.workflows.verified(envelope) {
            return Ok(known);
        }
        let long = envelope.payload().len() > LONG_WORKFLOW_BYTES;
        let _turn = long.then(|| self.0.long_workflow.lock().unwrap_or_else(PoisonError::into_inner));
        if long && let Some(known) = self.0.workflows.verified(envelope) {
            return Ok(known);
        }
        let workflow = Arc::new(SignedWorkflow::verify(envelope, ask)?);
        self.0.workflows.insert(&workflow);
        Ok(workflow)
    }

    /// Verifies and reads a `receipts+json` envelope.
    ///
    /// # Errors
    /// A malformed or wrongly signed envelope, or a receipt of wrong shape. Says nothing about trust.
    pub fn receipts(&self, envelope: &Envelope) -> Result<Arc<SignedReceipts>, Refusal> {
        self.0.receipts.verified(envelope).map_or_else(
            || {
                let receipts = Arc::new(SignedReceipts::verify(envelope)?);
                self.0.receipts.insert(&receipts);
                Ok(receipts)
            },
            Ok,
        )
    }

    /// A batch in memory of which some job was admitted before: no need to load its envelope.
    #[must_use]
    pub fn known_batch(&self, digest: &Digest) -> Option<Arc<SignedBatch>> {
        self.0.batches.accepted(digest)
    }

    /// A workflow in memory of which some step was admitted before.
    #[must_use]
    pub fn known_workflow(&self, digest: &Digest) -> Option<Arc<SignedWorkflow>> {
        self.0.workflows.accepted(digest)
    }

    /// Receipts in memory that some admission relied on before.
    #[must_use]
    pub fn known_receipts(&self, digest: &Digest) -> Option<Arc<SignedReceipts>> {
        self.0.receipts.accepted(digest)
    }

    /// Admits all jobs of a batch, or none: what a supervisor asks.
    ///
    /// # Errors
    /// The first refusal, with the index of its job.
    pub fn admit(&self, at: Admission<'_>) -> Result<Vec<Job>, Refusal> {
        (0..at.batch.jobs.len()).map(|n| self.admit_one(at, u32::try_from(n).unwrap_or(u32::MAX))).collect()
    }

    /// Admits one job of a batch: what a runner asks, right before it executes it.
    ///
    /// # Errors
    /// Why it must not be executed.
    pub fn admit_one(&self, at: Admission<'_>, index: u32) -> Result<Job, Refusal> {
        rules::admit(self, at, index).map_err(|refusal| refusal.at(index))
    }

    /// Whether the key that signed a submission may have every runner kind of its workflow executed: what a coordinator asks when it is submitted,
    /// so that a workflow does not fail at its last step.
    ///
    /// # Errors
    /// `EXPIRED` after `submit_by` or `run_until`, `NOT_ALLOWED` or `UNTRUSTED_SIGNER` if the signer may not, or if `coordinator` is not named.
    pub fn check_submission(
        &self,
        workflow: &SignedWorkflow,
        coordinator: &PeerId,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        rules::submission(self, workflow, coordinator, now)
    }

    /// Whether a coordinator may send steps of that kind: what a supervisor asks that is to keep a workflow for it. `submit_by` has no say here.
    ///
    /// # Errors
    /// `NOT_ALLOWED` or `UNTRUSTED_SIGNER` if the signer may not have such jobs executed, or if `coordinator` is not named; `EXPIRED` after `run_until`, `TOO_LARGE` if that is too far ahead.
    pub fn check_delegation(
        &self,
        workflow: &SignedWorkflow,
        coordinator: &PeerId,
        kind: &RunnerKind,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let submission = &workflow.submission;
        self.require(workflow.signer, Right::For(Role::Submitter, kind), &submission.certificates, now)?;
        if !submission.coordinators.contains(coordinator) {
            let message = format!("the workflow {} does not name you as one of its coordinators", submission.id);
            return Err(Refusal::new(RefusalKind::NotAllowed, message));
        }
        rules::window(submission.run_until, now)
    }

    /// Whether receipts are signed by a runner of one of their kinds: what a supervisor asks that is to keep them.
    ///
    /// # Errors
    /// `UNTRUSTED_SIGNER` or `NOT_ALLOWED` if the signer is none.
    pub fn check_receipts(&self, receipts: &SignedReceipts, now: Timestamp) -> Result<(), Refusal> {
        let kinds: BTreeSet<&RunnerKind> = receipts.receipts.iter().map(|receipt| &receipt.runner).collect();
        let mut refusal = Refusal::mismatch("there are no receipts in the envelope");
        for kind in kinds {
            let right = Right::For(Role::Runner, kind);
            match self.require(receipts.signer, right, &receipts.certificates, now) {
                Ok(()) => return Ok(()),
                Err(refused) => refusal = refused,
            }
        }
        Err(refusal)
    }

    /// Whether a key has a right, after looking at its certificates if need be.
    fn require(
        &self,
        signer: PeerId,
        right: Right<'_>,
        certificates: &[Envelope],
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let trust = &self.0.trust;
        let holds = || match right {
            Right::Known => trust.known(signer, now),
            Right::Role(role) => trust.allows(signer, role, now),
            Right::For(role, runner) => trust.allows_runner(signer, role, runner, now),
        };
        if holds() {
            return Ok(());
        }
        let errors: Vec<String> =
            certificates.iter().filter_map(|c| trust.present(c, now).err()).map(|e| e.to_string()).collect();
        if !certificates.is_empty() && holds() {
            return Ok(());
        }
        let refused = if errors.is_empty() {
            String::new()
        } else {
            format!(" (its certificate was refused: {})", errors.join("; "))
        };
        let advice = "add it to trust.toml with `horus keys trust add`, or have an owner certify it";
        if !trust.known(signer, now) {
            return Err(Refusal::new(
                RefusalKind::UntrustedSigner,
                format!("{signer} signed this, and nothing is known of that key here{refused}: {advice}"),
            ));
        }
        let may = match right {
            Right::Known => String::new(),
            Right::Role(role) => format!("act as {role}"),
            Right::For(role, runner) => format!("act as {role} for runner {runner}"),
        };
        Err(Refusal::new(RefusalKind::NotAllowed, format!("{signer} may not {may}{refused}: {advice}")))
    }
}

/// What may be asked of a key.
#[derive(Clone, Copy)]
enum Right<'a> {
    /// Anything at all.
    Known,
    /// A role.
    Role(Role),
    /// A role for one kind of runner.
    For(Role, &'a RunnerKind),
}
