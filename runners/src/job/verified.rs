//! A job that passed admission.

use std::{collections::BTreeMap, time::Duration};

use horus_keys::{Digest, PeerId, SealedSecret, Timestamp};
use serde_json::value::RawValue;

use super::{
    id::{JobId, WorkflowId},
    spec::Delegation,
    status::Priority,
};

/// A job that passed admission: what executors and the queue work with.
///
/// Only [`crate::admission`] builds one (the struct is non-exhaustive and has no public constructor), so whoever holds one need not check again.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Job {
    /// The full id.
    pub id: JobId,
    /// SHA-256 of the exact text of the `JobSpec` inside the batch's payload.
    pub spec: Digest,
    /// SHA-256 of the batch's payload.
    pub batch: Digest,
    /// Position within the batch, from 0.
    pub index: u32,
    /// Who is responsible: signer of the plain job, or of the workflow.
    pub submitter: PeerId,
    /// The coordinator that sent the step.
    pub delegate: Option<PeerId>,
    /// The coordinators that the signed workflow of the step names: each of them may have to see to the job. Empty for a plain job.
    pub coordinators: Vec<PeerId>,
    /// The script.
    pub payload: String,
    /// JSON value that the script sees as `input`.
    pub input: Option<Box<RawValue>>,
    /// Environment of the script: a step's own over its workflow's.
    pub env: BTreeMap<String, String>,
    /// Sealed secrets by name; opened only in the runner, for [`Job::secret_scope`].
    pub secrets: BTreeMap<String, SealedSecret>,
    /// How long it may run.
    pub timeout: Duration,
    /// Whether it may run twice, as declared: an executor may be idempotent by nature.
    pub idempotent: bool,
    /// Which waiting jobs go first.
    pub priority: Priority,
    /// Not started before.
    pub not_before: Option<Timestamp>,
    /// Not started after.
    pub run_until: Timestamp,
    /// Free text by name.
    pub labels: BTreeMap<String, String>,
    /// The step that this job executes.
    pub delegation: Option<Delegation>,
    /// The signed workflow of the step: digest of its payload, and id.
    pub workflow: Option<(Digest, WorkflowId)>,
    /// The receipts envelopes that admission relied on, by digest.
    pub receipts: Vec<Digest>,
}

impl Job {
    /// What secrets are sealed to, besides submitter, runner kind and name: the workflow's id, or the full id of a plain job.
    #[must_use]
    pub fn secret_scope(&self) -> String {
        self.workflow.as_ref().map_or_else(|| self.id.to_string(), |(_, id)| id.to_string())
    }
}

#[cfg(test)]
impl Job {
    /// A job for the tests of executors and queue, which was never signed: `kind` and `payload`, everything else empty or at its default.
    pub(crate) fn unsigned(kind: &str, payload: &str) -> Self {
        use super::{id::LocalId, limits};
        Self {
            id: JobId::new(kind.parse().unwrap(), LocalId::generate()),
            spec: Digest::of(payload.as_bytes()),
            batch: Digest::of(b"no batch"),
            index: 0,
            submitter: horus_keys::Identity::from_seed(&[7; 32]).peer_id(),
            delegate: None,
            coordinators: Vec::new(),
            payload: payload.to_owned(),
            input: None,
            env: BTreeMap::new(),
            secrets: BTreeMap::new(),
            timeout: limits::DEFAULT_TIMEOUT,
            idempotent: false,
            priority: Priority::Normal,
            not_before: None,
            run_until: Timestamp::from_millis(Timestamp::now().as_millis() + 3_600_000),
            labels: BTreeMap::new(),
            delegation: None,
            workflow: None,
            receipts: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_of_a_step_belong_to_its_workflow() {
        let mut job = Job::unsigned("hero", "");
        assert_eq!(job.secret_scope(), job.id.to_string());
        job.workflow = Some((Digest::of(b"w"), WorkflowId::new("nightly").unwrap()));
        assert_eq!(job.secret_scope(), "nightly");
    }
}
