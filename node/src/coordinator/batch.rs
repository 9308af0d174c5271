//! From ready steps to signed batches of jobs. The same step and attempt always gives the same bytes, from this coordinator or
//! another, so that a job sent twice is one job.

use std::collections::{BTreeMap, HashSet};

use horus_keys::{Digest, Envelope, Identity, PayloadType, PeerId};
use horus_runners::job::{Delegation, JobError, JobId, JobSpec, ReceiptRef, limits};
use serde::Serialize;
use serde_json::value::RawValue;

use super::live::Live;
use super::store::StoreError;
use super::vault::Vault;
use crate::workflow::{ReceiptPlace, State, StepAttempt, StepStatus};

/// What the payload of a batch takes beside its jobs, certificates not counted.
const FRAME: usize = 512;

/// A step that is to be sent, with what its job refers to.
pub(crate) struct Ticket {
    /// The step.
    pub(crate) step: StepAttempt,
    /// The outputs that its script sees, by the id of their step.
    outputs: Vec<(u32, Digest)>,
    /// The batches of receipts that prove them, and that another attempt is due.
    receipts: Vec<Digest>,
}

/// Notes what the job of a step refers to. Its dependencies have ended.
pub(crate) fn ticket(live: &Live, state: &State, step: StepAttempt) -> Ticket {
    let mut outputs = Vec::new();
    let mut places: Vec<ReceiptPlace> = Vec::new();
    for dependency in &live.plan.step(step.0).dependencies {
        let at = state.step(*dependency);
        if let (StepStatus::Succeeded, Some(output)) = (at.status, at.output) {
            outputs.push((*dependency, output));
        }
        places.extend(at.receipt);
    }
    places.extend(state.step(step.0).previous);
    let mut receipts = Vec::with_capacity(places.len());
    let mut seen = HashSet::new();
    for place in places {
        if seen.insert(place.batch) {
            receipts.push(place.batch);
        }
    }
    Ticket { step, outputs, receipts }
}

/// A job as it is signed.
#[derive(Clone)]
pub(crate) struct Written {
    /// The step.
    pub(crate) step: StepAttempt,
    /// Its id.
    pub(crate) job: JobId,
    /// SHA-256 of `text`.
    pub(crate) spec: Digest,
    /// The JobSpec.
    text: Box<RawValue>,
    receipts: Vec<Digest>,
}

/// A step whose job cannot be written, and why.
pub(crate) type Unwritable = (StepAttempt, JobError);

/// Writes the jobs of those steps. Outputs that the vault does not hold are read from Redis.
pub(crate) async fn write(
    live: &Live,
    vault: &Vault,
    tickets: &[Ticket],
) -> Result<(Vec<Written>, Vec<Unwritable>), StoreError> {
    let wanted: Vec<Digest> = tickets.iter().flat_map(|ticket| &ticket.outputs).map(|(_, digest)| *digest).collect();
    let outputs = vault.outputs(&live.id, &wanted).await?;
    let (mut written, mut unwritable) = (Vec::with_capacity(tickets.len()), Vec::new());
    for ticket in tickets {
        let planned = live.plan.step(ticket.step.0);
        let mut input: BTreeMap<&str, &str> = BTreeMap::new();
        for (dependency, digest) in &ticket.outputs {
            let text = outputs.get(digest).expect("the vault gave all that it was asked for");
            input.insert(live.plan.step(*dependency).id.as_str(), text);
        }
        let input = match object(&input) {
            Ok(input) => input,
            Err(error) => {
                unwritable.push((ticket.step, error));
                continue;
            }
        };
        let delegation = Delegation {
            workflow: *live.plan.workflow(),
            step: planned.id.clone(),
            index: None,
            attempt: ticket.step.1,
        };
        let receipts = ticket.receipts.iter().copied().map(ReceiptRef::Digest).collect();
        let spec = JobSpec::step(planned.runner.clone(), delegation, input, receipts);
        let job = spec.job_id();
        let text = serde_json::value::to_raw_value(&spec).expect("a spec has string keys only");
        if text.get().len() + FRAME > limits::BATCH_BYTES {
            let message = format!(
                "its job has {} bytes, and a batch at most {}: let it depend on fewer steps, or on smaller outputs",
                text.get().len(),
                limits::BATCH_BYTES
            );
            unwritable.push((ticket.step, JobError::new("TOO_LARGE", &message)));
            continue;
        }
        let spec = Digest::of(text.get().as_bytes());
        written.push(Written { step: ticket.step, job, spec, text, receipts: ticket.receipts.clone() });
    }
    Ok((written, unwritable))
}

/// `{"a": ..., "b": ...}` with the values as they are, byte for byte; nothing if there are none.
fn object(members: &BTreeMap<&str, &str>) -> Result<Option<Box<RawValue>>, JobError> {
    if members.is_empty() {
        return Ok(None);
    }
    let size: usize = members.iter().map(|(name, value)| name.len() + value.len() + 4).sum::<usize>() + 1;
    if size > limits::INPUT_BYTES {
        let message = format!(
            "its input, the outputs of the {} steps that it depends on, has {size} bytes; {} are allowed: let those steps \
             store what is large, and return where it is",
            members.len(),
            limits::INPUT_BYTES
        );
        return Err(JobError::new("TOO_LARGE", &message));
    }
    let mut text = String::with_capacity(size);
    text.push('{');
    for (place, (name, value)) in members.iter().enumerate() {
        if place > 0 {
            text.push(',');
        }
        text.push_str(&serde_json::to_string(name).expect("a string is JSON"));
        text.push(':');
        text.push_str(value);
    }
    text.push('}');
    let broken = |error| JobError::new("INTERNAL", &format!("a stored output is not JSON: {error}"));
    RawValue::from_string(text).map(Some).map_err(broken)
}

#[derive(Serialize)]
struct Payload<'a> {
    aud: [PeerId; 1],
    jobs: Vec<&'a RawValue>,
    #[serde(skip_serializing_if = "<[Envelope]>::is_empty")]
    certificates: &'a [Envelope],
}

/// A signed batch, ready to be sent.
pub(crate) struct Batch {
    /// The jobs, in their order in the batch.
    pub(crate) jobs: Vec<Written>,
    /// The batch.
    pub(crate) envelope: Envelope,
}

impl Batch {
    /// The batches of receipts that the jobs refer to, each once.
    pub(crate) fn receipts(&self) -> Vec<Digest> {
        let mut seen = HashSet::new();
        let all = self.jobs.iter().flat_map(|job| job.receipts.iter().copied());
        all.filter(|digest| seen.insert(*digest)).collect()
    }
}

/// Signs jobs for one supervisor, in as many batches as the limits ask for.
pub(crate) fn sign(identity: &Identity, certificate: Option<&Envelope>, to: PeerId, jobs: Vec<Written>) -> Vec<Batch> {
    let certificates: Vec<Envelope> = certificate.into_iter().cloned().collect();
    let frame = FRAME + certificates.iter().map(|certificate| certificate.to_json().len()).sum::<usize>();
    let mut batches = Vec::new();
    let mut portion: Vec<Written> = Vec::new();
    let mut receipts: HashSet<Digest> = HashSet::new();
    let mut size = frame;
    let mut close = |portion: &mut Vec<Written>| {
        let jobs = std::mem::take(portion);
        if jobs.is_empty() {
            return;
        }
        let specs = jobs.iter().map(|job| &*job.text).collect();
        let payload = Payload { aud: [to], jobs: specs, certificates: &certificates };
        let payload = serde_json::to_vec(&payload).expect("a batch has string keys only");
        batches.push(Batch { envelope: Envelope::sign(identity, PayloadType::Jobs, payload), jobs });
    };
    for job in jobs {
        let more = job.text.get().len() + 1;
        let others = job.receipts.iter().filter(|digest| !receipts.contains(*digest)).count();
        let full = portion.len() == limits::BATCH_JOBS
            || size + more > limits::BATCH_BYTES
            || receipts.len() + others > limits::RECEIPT_REFS;
        if full {
            close(&mut portion);
            receipts.clear();
            size = frame;
        }
        size += more;
        receipts.extend(&job.receipts);
        portion.push(job);
    }
    close(&mut portion);
    batches
}
