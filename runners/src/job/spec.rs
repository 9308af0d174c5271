//! What a submitter or a coordinator signs: jobs and batches of them.

use std::{collections::BTreeMap, fmt};

use horus_keys::{Digest, Envelope, PeerId, RunnerKind, SealedSecret, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, de};
use serde_json::value::RawValue;

use super::{
    id::{JobId, LocalId, StepId, step_job_id},
    json,
    status::Priority,
};

/// One job as it is signed.
///
/// A plain job has a `payload` and a `run_until`. The job of a workflow step has a `delegation` and nothing else but `id`, `runner`, `input`
/// and `receipts`: the rest is taken from the signed workflow.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JobSpec {
    /// Unique within the runner kind, accepted once.
    pub id: LocalId,
    /// The kind of runner that executes it.
    pub runner: RunnerKind,
    /// The script, in the runner's language.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<String>,
    /// Any JSON value; the script sees it as `input`. Of a step: an object `{dependency: output}`.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "json::present")]
    #[schemars(with = "serde_json::Value")]
    pub input: Option<Box<RawValue>>,
    /// Environment variables of the script.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "json::unique_or_null")]
    pub env: BTreeMap<String, String>,
    /// Secrets by name, sealed to the runners that may open them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "json::unique_or_null")]
    pub secrets: BTreeMap<String, SealedSecret>,
    /// How long it may run, in milliseconds; 5 minutes if not given, at most 24 hours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// Whether it may safely run twice if its runner dies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotent: Option<bool>,
    /// Which waiting jobs go first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<Priority>,
    /// It is not started before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// It is not started after this time, at most 7 days ahead; required for a plain job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_until: Option<Timestamp>,
    /// Free text by name, for those who list jobs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "json::unique_or_null")]
    pub labels: BTreeMap<String, String>,
    /// The step of a signed workflow that this job executes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delegation: Option<Delegation>,
    /// Proofs of what the dependencies of the step gave.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "json::or_null")]
    pub receipts: Vec<ReceiptRef>,
}

impl JobSpec {
    /// A plain job; the fields are public, so that more can be set.
    #[must_use]
    pub fn new(id: LocalId, runner: RunnerKind, payload: impl Into<String>, run_until: Timestamp) -> Self {
        Self { payload: Some(payload.into()), run_until: Some(run_until), ..Self::empty(id, runner) }
    }

    /// The job of one attempt of a workflow's step; its id is derived.
    #[must_use]
    pub fn step(
        runner: RunnerKind,
        delegation: Delegation,
        input: Option<Box<RawValue>>,
        receipts: Vec<ReceiptRef>,
    ) -> Self {
        let id = delegation.job_id(&runner).local().clone();
        Self { input, delegation: Some(delegation), receipts, ..Self::empty(id, runner) }
    }

    fn empty(id: LocalId, runner: RunnerKind) -> Self {
        Self {
            id,
            runner,
            payload: None,
            input: None,
            env: BTreeMap::new(),
            secrets: BTreeMap::new(),
            timeout_ms: None,
            idempotent: None,
            priority: None,
            not_before: None,
            run_until: None,
            labels: BTreeMap::new(),
            delegation: None,
            receipts: Vec::new(),
        }
    }

    /// The full id.
    #[must_use]
    pub fn job_id(&self) -> JobId {
        JobId::new(self.runner.clone(), self.id.clone())
    }
}

/// Which attempt of which step of which workflow a job is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Delegation {
    /// SHA-256 of the payload of the workflow's envelope.
    pub workflow: Digest,
    /// The step.
    pub step: StepId,
    /// The element of a `for_each` step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<u32>,
    /// From 1.
    pub attempt: u32,
}

impl Delegation {
    /// The id of the job of this attempt: [`step_job_id`].
    #[must_use]
    pub fn job_id(&self, runner: &RunnerKind) -> JobId {
        step_job_id(&self.workflow, &self.step, self.index, self.attempt, runner)
    }
}

/// A `receipts+json` envelope, or the digest of one that travels beside the batch or is known already.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum ReceiptRef {
    /// SHA-256 of the envelope's payload.
    Digest(Digest),
    /// The envelope itself.
    Envelope(Box<Envelope>),
}

impl ReceiptRef {
    /// SHA-256 of the envelope's payload.
    #[must_use]
    pub fn digest(&self) -> Digest {
        match self {
            Self::Digest(digest) => *digest,
            Self::Envelope(envelope) => envelope.digest(),
        }
    }
}

/// By hand: serde's untagged enums read everything into a buffer first and lose the message of an error.
impl<'de> Deserialize<'de> for ReceiptRef {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> de::Visitor<'de> for Either {
            type Value = ReceiptRef;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the digest of a receipts envelope, or the envelope")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<ReceiptRef, E> {
                text.parse().map(ReceiptRef::Digest).map_err(E::custom)
            }
            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<ReceiptRef, A::Error> {
                Envelope::deserialize(de::value::MapAccessDeserializer::new(map))
                    .map(|e| ReceiptRef::Envelope(Box::new(e)))
            }
        }
        d.deserialize_any(Either)
    }
}

/// The payload of a `jobs+json` envelope.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JobBatch {
    /// The supervisors that may take it.
    pub aud: Vec<PeerId>,
    /// 1 to 256 jobs.
    pub jobs: Vec<JobSpec>,
    /// Certificates of the signer, at most 4.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub certificates: Vec<Envelope>,
}
