//! Envelopes that were verified and read. What depends on time or on trust is not checked here, because these are kept.

use std::collections::HashSet;

use horus_keys::{Digest, Envelope, PayloadType, PeerId, check_json_depth};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    Refusal, RefusalKind,
    cache::{Accepted, Entry},
    shape,
};
use crate::{
    definition::{self, Definition, Step},
    job::{JobSpec, Receipt, ReceiptBatch, StepId, WorkflowSubmission, bounds, limits},
};

/// Levels of a document around a job's input: document, jobs, job, and the object that holds a step's inputs.
const WRAPPING: usize = 4;

/// A `jobs+json` envelope with good signature and shape.
#[derive(Debug)]
#[non_exhaustive]
pub struct SignedBatch {
    /// SHA-256 of the payload.
    pub digest: Digest,
    /// The key that signed.
    pub signer: PeerId,
    /// The supervisors that may take it.
    pub aud: Vec<PeerId>,
    /// The jobs, each with the SHA-256 of its exact text.
    pub jobs: Vec<(JobSpec, Digest)>,
    /// Certificates of the signer.
    pub certificates: Vec<Envelope>,
    /// The envelope, to store and to pass on.
    pub envelope: Envelope,
    pub(super) accepted: Accepted,
}

/// A `workflow+json` envelope with good signature, shape and definition.
#[derive(Debug)]
#[non_exhaustive]
pub struct SignedWorkflow {
    /// SHA-256 of the payload.
    pub digest: Digest,
    /// The key that signed: who is responsible for all its steps.
    pub signer: PeerId,
    /// The document.
    pub submission: WorkflowSubmission,
    /// What the YAML text means.
    pub definition: Definition,
    /// The envelope, to store and to pass on.
    pub envelope: Envelope,
    /// The workflow's inputs as the inside of a JSON object; empty if it has none.
    pub(super) inputs: String,
    pub(super) accepted: Accepted,
}

/// A `receipts+json` envelope with good signature and shape.
#[derive(Debug)]
#[non_exhaustive]
pub struct SignedReceipts {
    /// SHA-256 of the payload.
    pub digest: Digest,
    /// The key that signed.
    pub signer: PeerId,
    /// The receipts.
    pub receipts: Vec<Receipt>,
    /// Certificates of the signer.
    pub certificates: Vec<Envelope>,
    /// The envelope, to store and to pass on.
    pub envelope: Envelope,
    pub(super) accepted: Accepted,
}

impl SignedWorkflow {
    /// A step of the workflow.
    #[must_use]
    pub fn step(&self, id: &StepId) -> Option<&Step> {
        self.definition.step(id)
    }
}

/// Verifies the one signature; the payload may then be read.
fn open(envelope: &Envelope, expected: PayloadType, max_bytes: usize) -> Result<(PeerId, &[u8]), Refusal> {
    let payload = envelope.payload();
    if payload.len() > max_bytes {
        let is = payload.len();
        return Err(Refusal::too_large(format!(
            "the {expected} payload has {is} bytes, at most {max_bytes} are allowed"
        )));
    }
    let verified = envelope.verify(expected)?;
    match verified.signers() {
        [signer] => Ok((*signer, payload)),
        many => {
            let is = many.len();
            Err(Refusal::invalid(format!(
                "the envelope carries {is} signatures, but only one key can be responsible: sign it once"
            )))
        }
    }
}

/// Reads the payload as JSON.
fn read<'a, T: Deserialize<'a>>(payload: &'a [u8], expected: PayloadType) -> Result<T, Refusal> {
    if !check_json_depth(payload, limits::DEPTH + WRAPPING) {
        return Err(Refusal::too_large(format!("the {expected} payload is nested more than {} deep", limits::DEPTH)));
    }
    serde_json::from_slice(payload).map_err(|e| Refusal::invalid(format!("the payload is not valid {expected}: {e}")))
}

fn certificates(list: &[Envelope]) -> Result<(), Refusal> {
    let (is, max) = (list.len(), limits::CERTIFICATES);
    if is > max {
        return Err(Refusal::too_large(format!("{is} certificates, at most {max} are allowed")));
    }
    Ok(())
}

fn peers(what: &str, list: &[PeerId]) -> Result<(), Refusal> {
    let (is, max) = (list.len(), limits::AUDIENCE);
    if is > max {
        return Err(Refusal::too_large(format!("`{what}` names {is} keys, at most {max} are allowed")));
    }
    if is == 0 {
        return Err(Refusal::invalid(format!("`{what}` is empty: name at least one key by its PeerId")));
    }
    Ok(())
}

fn index_of(position: usize) -> u32 {
    u32::try_from(position).expect("limits::BATCH_JOBS is far below 2^32")
}

/// As [`crate::job::JobBatch`], but jobs keep their text.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawBatch<'a> {
    aud: Vec<PeerId>,
    #[serde(borrow)]
    jobs: Vec<&'a RawValue>,
    #[serde(default)]
    certificates: Vec<Envelope>,
}

impl SignedBatch {
    pub(super) fn verify(envelope: &Envelope) -> Result<Self, Refusal> {
        let (signer, payload) = open(envelope, PayloadType::Jobs, limits::BATCH_BYTES)?;
        let raw: RawBatch<'_> = read(payload, PayloadType::Jobs)?;
        certificates(&raw.certificates)?;
        peers("aud", &raw.aud)?;
        let (is, max) = (raw.jobs.len(), limits::BATCH_JOBS);
        match is {
            0 => return Err(Refusal::invalid("the batch has no jobs")),
            _ if is > max => {
                return Err(Refusal::too_large(format!("{is} jobs, at most {max} fit into one batch: sign several")));
            }
            _ => {}
        }
        // Only if the whole is too deep can any input be.
        let deep = !check_json_depth(payload, limits::DEPTH);
        let mut jobs = Vec::with_capacity(is);
        for (n, text) in raw.jobs.iter().enumerate() {
            let text = text.get();
            let spec = serde_json::from_str::<JobSpec>(text)
                .map_err(|e| Refusal::invalid(format!("this is not a JobSpec: {e}")))
                .and_then(|spec| shape::check(&spec, deep).map(|()| spec))
                .map_err(|refusal| refusal.at(index_of(n)))?;
            jobs.push((spec, Digest::of(text.as_bytes())));
        }
        let mut ids = HashSet::with_capacity(is);
        for (n, (spec, _)) in jobs.iter().enumerate() {
            if !ids.insert((&spec.runner, &spec.id)) {
                let message = format!("the id {} comes twice in this batch: every job needs its own", spec.job_id());
                return Err(Refusal::invalid(message).at(index_of(n)));
            }
        }
        let (digest, envelope) = (envelope.digest(), envelope.clone());
        Ok(Self {
            digest,
            signer,
            aud: raw.aud,
            jobs,
            certificates: raw.certificates,
            envelope,
            accepted: Accepted::default(),
        })
    }
}

impl SignedWorkflow {
    /// `ask` may refuse a signer before the definition, which can be long, is read.
    pub(super) fn verify(
        envelope: &Envelope,
        ask: impl FnOnce(PeerId, &[Envelope]) -> Result<(), Refusal>,
    ) -> Result<Self, Refusal> {
        let (signer, payload) = open(envelope, PayloadType::Workflow, limits::WORKFLOW_BYTES)?;
        let submission: WorkflowSubmission = read(payload, PayloadType::Workflow)?;
        certificates(&submission.certificates)?;
        peers("coordinators", &submission.coordinators)?;
        ask(signer, &submission.certificates)?;
        let definition = definition::parse(&submission.definition).map_err(Refusal::definition)?;
        let inputs = inputs(&submission, &definition)?;
        let (digest, envelope) = (envelope.digest(), envelope.clone());
        Ok(Self { digest, signer, submission, definition, envelope, inputs, accepted: Accepted::default() })
    }
}

/// The inputs of a workflow, written out once. Scripts see them beside the outputs of dependencies, so the names must differ.
fn inputs(submission: &WorkflowSubmission, definition: &Definition) -> Result<String, Refusal> {
    let mut text = String::new();
    for (name, value) in submission.inputs.iter().flatten() {
        bounds::name("input", name).map_err(|e| Refusal::new(RefusalKind::InvalidWorkflow, e.message))?;
        if StepId::new(name).is_ok_and(|id| definition.step(&id).is_some()) {
            let message = format!(
                "the input `{name}` has the name of a step: scripts could not tell `input.{name}` of one from the other, rename it"
            );
            return Err(Refusal::new(RefusalKind::InvalidWorkflow, message));
        }
        if !check_json_depth(value.get().as_bytes(), limits::DEPTH) {
            return Err(Refusal::too_large(format!("the input `{name}` is nested more than {} deep", limits::DEPTH)));
        }
        if !text.is_empty() {
            text.push(',');
        }
        text.push_str(&serde_json::to_string(name).expect("a string can be written as JSON"));
        text.push(':');
        text.push_str(value.get());
    }
    let (is, max) = (text.len(), limits::INPUT_BYTES);
    if is > max {
        return Err(Refusal::too_large(format!("the inputs have {is} bytes, at most {max} are allowed")));
    }
    Ok(text)
}

impl SignedReceipts {
    /// Receipts that this process has just signed itself: there is nothing to verify.
    pub(crate) fn own(envelope: &Envelope, signer: PeerId, batch: ReceiptBatch) -> Self {
        let ReceiptBatch { receipts, certificates } = batch;
        let (digest, envelope) = (envelope.digest(), envelope.clone());
        Self { digest, signer, receipts, certificates, envelope, accepted: Accepted::default() }
    }

    pub(super) fn verify(envelope: &Envelope) -> Result<Self, Refusal> {
        let (signer, payload) = open(envelope, PayloadType::Receipts, limits::RECEIPTS_BYTES)?;
        let ReceiptBatch { receipts, certificates: list } = read(payload, PayloadType::Receipts)?;
        certificates(&list)?;
        let (is, max) = (receipts.len(), limits::RECEIPT_BATCH);
        if is == 0 {
            return Err(Refusal::invalid("the envelope holds no receipts"));
        }
        if is > max {
            return Err(Refusal::too_large(format!("{is} receipts, at most {max} fit into one envelope")));
        }
        for (n, receipt) in receipts.iter().enumerate() {
            shape::check_receipt(receipt).map_err(|refusal| refusal.at(index_of(n)))?;
        }
        let (digest, envelope) = (envelope.digest(), envelope.clone());
        Ok(Self { digest, signer, receipts, certificates: list, envelope, accepted: Accepted::default() })
    }
}

impl Entry for SignedBatch {
    fn envelope(&self) -> &Envelope {
        &self.envelope
    }
    fn accepted(&self) -> &Accepted {
        &self.accepted
    }
    fn weight(&self) -> usize {
        2 * self.envelope.payload().len() + self.jobs.len() * size_of::<JobSpec>()
    }
}

impl Entry for SignedWorkflow {
    fn envelope(&self) -> &Envelope {
        &self.envelope
    }
    fn accepted(&self) -> &Accepted {
        &self.accepted
    }
    fn weight(&self) -> usize {
        3 * self.envelope.payload().len() + self.definition.steps.len() * (size_of::<Step>() + 128)
    }
}

impl Entry for SignedReceipts {
    fn envelope(&self) -> &Envelope {
        &self.envelope
    }
    fn accepted(&self) -> &Accepted {
        &self.accepted
    }
    fn weight(&self) -> usize {
        2 * self.envelope.payload().len() + self.receipts.len() * size_of::<Receipt>()
    }
}
