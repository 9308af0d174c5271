//! What a runner believes: it checks every job again, from the signatures up, before it executes it.

use std::{
    collections::HashMap,
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use horus_keys::{Digest, Envelope, PeerId, RunnerKind, Timestamp};
use lru::LruCache;

use crate::{
    admission::{Admission, Audience, Refusal, RefusalKind, SignedBatch, SignedReceipts, SignedWorkflow, Verifier},
    job::{Job, JobId, JobSpec, ReceiptBatch, ReceiptRef},
    queue::{Claimed, Document},
};

/// How many documents a claim names, so that Redis does not send them again.
const NAMED: NonZeroUsize = NonZeroUsize::new(24).expect("it is not zero");
/// Of how many batches of receipts that it signed lately a worker knows what they say, and of how many receipts in each.
const OWN: (NonZeroUsize, usize) = (NonZeroUsize::new(16).expect("it is not zero"), 8);

/// Turns claimed jobs into jobs that may be executed.
#[derive(Clone)]
pub(crate) struct Gate(Arc<Inner>);

struct Inner {
    verifier: Verifier,
    kind: RunnerKind,
    supervisors: Vec<PeerId>,
    /// Documents that admission relied on lately: the verifier remembers them.
    lately: Mutex<LruCache<Document, ()>>,
    /// Receipts of steps that this worker has just executed: the steps after them often come back to it.
    own: Mutex<LruCache<Digest, Arc<SignedReceipts>>>,
}

/// What became of a claimed job at the gate.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// It may be executed.
    Admitted(Box<Job>),
    /// It may not. `spec` is what its batch says, if that may be believed.
    Refused { refusal: Refusal, spec: Option<Digest> },
    /// Documents must be fetched first.
    Wants(Vec<Document>),
}

impl Verdict {
    fn refused(refusal: Refusal) -> Self {
        Self::Refused { refusal, spec: None }
    }
}

/// Documents of one claim.
///
/// They are not kept by their digest for the next one before admission has accepted them: anybody can sign somebody else's payload.
#[derive(Default)]
pub(crate) struct Documents {
    batches: HashMap<Digest, Arc<SignedBatch>>,
    workflows: HashMap<Digest, Arc<SignedWorkflow>>,
    receipts: HashMap<Digest, Arc<SignedReceipts>>,
    refused: HashMap<Document, Refusal>,
    absent: Vec<Document>,
}

impl Documents {
    /// Remembers that Redis does not have a document.
    pub(crate) fn absent(&mut self, document: Document) {
        self.absent.push(document);
    }

    fn is_settled(&self, document: Document) -> bool {
        self.refused.contains_key(&document) || self.absent.contains(&document)
    }

    /// Verifies documents. Expensive: signatures, parsing.
    fn learn(&mut self, verifier: &Verifier, sent: &[(Document, String)]) {
        for (document, text) in sent {
            let envelope = match Envelope::from_json(text.as_bytes()) {
                Ok(envelope) => envelope,
                Err(e) => {
                    self.refused.insert(*document, e.into());
                    continue;
                }
            };
            let digest = envelope.digest();
            let result = match document {
                // The name is what Redis says; only the digest of what was sent counts.
                _ if digest != document.digest() => Err(Refusal::new(
                    RefusalKind::InvalidEnvelope,
                    format!("Redis holds another document under the name {}", document.name()),
                )),
                Document::Batch(_) => verifier.batch(&envelope).map(|batch| drop(self.batches.insert(digest, batch))),
                Document::Workflow(_) => {
                    verifier.workflow(&envelope).map(|found| drop(self.workflows.insert(digest, found)))
                }
                Document::Receipts(_) => {
                    verifier.receipts(&envelope).map(|found| drop(self.receipts.insert(digest, found)))
                }
            };
            if let Err(refusal) = result {
                self.refused.insert(*document, refusal);
            }
        }
    }
}

impl Gate {
    pub(crate) fn new(verifier: Verifier, kind: RunnerKind, supervisors: Vec<PeerId>) -> Self {
        let (lately, own) = (Mutex::new(LruCache::new(NAMED)), Mutex::new(LruCache::new(OWN.0)));
        Self(Arc::new(Inner { verifier, kind, supervisors, lately, own }))
    }

    /// Takes note of receipts that this worker has signed.
    pub(crate) fn signed(&self, envelope: &Envelope, signer: PeerId, batch: ReceiptBatch) {
        if batch.receipts.len() > OWN.1 || batch.receipts.iter().all(|receipt| receipt.workflow.is_none()) {
            return;
        }
        let receipts = Arc::new(SignedReceipts::own(envelope, signer, batch));
        self.lately().put(Document::Receipts(receipts.digest), ());
        self.own().put(receipts.digest, receipts);
    }

    /// The documents that were used last.
    pub(crate) fn known(&self) -> Vec<Document> {
        self.lately().iter().map(|(document, ())| *document).collect()
    }

    /// The cache is whole after every statement, so a panic elsewhere while it was locked does no harm.
    fn lately(&self) -> MutexGuard<'_, LruCache<Document, ()>> {
        self.0.lately.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As [`Self::lately`].
    fn own(&self) -> MutexGuard<'_, LruCache<Digest, Arc<SignedReceipts>>> {
        self.0.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Checks claimed jobs. `sent` came with the claim, or was fetched.
    pub(crate) fn admit(
        &self,
        claimed: &[Claimed],
        sent: &[(Document, String)],
        documents: &mut Documents,
    ) -> Vec<Verdict> {
        documents.learn(&self.0.verifier, sent);
        let now = Timestamp::now();
        let verdicts: Vec<Verdict> = claimed.iter().map(|job| self.admit_one(job, documents, now)).collect();
        let mut lately = self.lately();
        for verdict in &verdicts {
            let Verdict::Admitted(job) = verdict else { continue };
            lately.put(Document::Batch(job.batch), ());
            if let Some((digest, _)) = &job.workflow {
                lately.put(Document::Workflow(*digest), ());
            }
            for digest in &job.receipts {
                lately.put(Document::Receipts(*digest), ());
            }
        }
        verdicts
    }

    fn admit_one(&self, claimed: &Claimed, documents: &Documents, now: Timestamp) -> Verdict {
        let verifier = &self.0.verifier;
        let document = Document::Batch(claimed.batch);
        let known = documents.batches.get(&claimed.batch).cloned().or_else(|| verifier.known_batch(&claimed.batch));
        let Some(batch) = known else {
            if let Some(refusal) = documents.refused.get(&document) {
                return Verdict::refused(refusal.clone());
            }
            if !documents.is_settled(document) {
                return Verdict::Wants(vec![document]);
            }
            let message = "the signed batch of the job is not in Redis: it was removed, or never was there";
            return Verdict::refused(Refusal::new(RefusalKind::InvalidEnvelope, message));
        };
        let found = batch.jobs.get(claimed.index as usize);
        let wanted = found.map(|(spec, _)| self.wanted(spec, documents)).unwrap_or_default();
        if !wanted.is_empty() {
            return Verdict::Wants(wanted);
        }
        let supervisors = &self.0.supervisors;
        let admission = Admission {
            batch: &batch,
            audience: if supervisors.is_empty() { Audience::Trusted } else { Audience::Any(supervisors) },
            workflows: &|digest| self.workflow(digest, documents),
            receipts: &|digest| self.receipts(digest, documents),
            now,
        };
        match verifier.admit_one(admission, claimed.index) {
            Ok(job) if job.id == JobId::new(self.0.kind.clone(), claimed.id.clone()) => {
                Verdict::Admitted(Box::new(job))
            }
            Ok(job) => {
                let message = format!("the signed batch has {} where Redis says {}", job.id, claimed.id);
                Verdict::refused(Refusal::new(RefusalKind::NotAllowed, message))
            }
            Err(refusal) => {
                let right = found.filter(|(spec, _)| spec.id == claimed.id && spec.runner == self.0.kind);
                Verdict::Refused { refusal, spec: right.map(|(_, digest)| *digest) }
            }
        }
    }

    fn workflow(&self, digest: &Digest, documents: &Documents) -> Option<Arc<SignedWorkflow>> {
        documents.workflows.get(digest).cloned().or_else(|| self.0.verifier.known_workflow(digest))
    }

    fn receipts(&self, digest: &Digest, documents: &Documents) -> Option<Arc<SignedReceipts>> {
        let known = documents.receipts.get(digest).cloned().or_else(|| self.0.verifier.known_receipts(digest));
        known.or_else(|| self.own().get(digest).cloned())
    }

    /// Documents that a job refers to and that are not at hand, but may be in Redis.
    fn wanted(&self, spec: &JobSpec, documents: &Documents) -> Vec<Document> {
        let workflow = spec.delegation.iter().map(|delegation| Document::Workflow(delegation.workflow));
        let receipts = spec.receipts.iter().filter_map(|receipt| match receipt {
            ReceiptRef::Digest(digest) => Some(Document::Receipts(*digest)),
            ReceiptRef::Envelope(_) => None,
        });
        let at_hand = |document: &Document| match document {
            Document::Batch(_) => true,
            Document::Workflow(digest) => self.workflow(digest, documents).is_some(),
            Document::Receipts(digest) => self.receipts(digest, documents).is_some(),
        };
        workflow.chain(receipts).filter(|document| !documents.is_settled(*document) && !at_hand(document)).collect()
    }
}
