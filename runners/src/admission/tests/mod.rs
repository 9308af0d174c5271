//! A small world with a submitter, a coordinator, a supervisor and runners, for the tests of the rules.

mod plain;
mod steps;
mod trust;

use std::{collections::BTreeMap, time::Duration};

use horus_keys::{Identity, PayloadType, Role, TrustPolicy, TrustedKey};
use serde_json::{json, value::RawValue};

use super::*;
use crate::job::{
    Delegation, JobBatch, JobSpec, JobStatus, LocalId, Receipt, ReceiptBatch, ReceiptRef, StepId, WorkflowId,
    WorkflowSubmission,
};

pub(super) struct World {
    pub(super) owner: Identity,
    pub(super) alice: Identity,
    pub(super) coordinator: Identity,
    pub(super) supervisor: Identity,
    pub(super) hero: Identity,
    pub(super) stranger: Identity,
    me: PeerId,
    pub(super) now: Timestamp,
    pub(super) verifier: Verifier,
}

fn key(identity: &Identity, roles: &[Role], runners: &[&str]) -> TrustedKey {
    let runners = runners.iter().map(|r| r.parse().unwrap()).collect();
    TrustedKey { id: identity.peer_id(), name: None, roles: roles.to_vec(), runners }
}

impl World {
    pub(super) fn new() -> Self {
        let id = |n: u8| Identity::from_seed(&[n; 32]);
        let (owner, alice, coordinator, supervisor, hero) = (id(1), id(2), id(3), id(4), id(5));
        let keys = vec![
            key(&owner, &[Role::Owner], &[]),
            key(&alice, &[Role::Submitter], &["hero", "sal"]),
            key(&coordinator, &[Role::Coordinator], &[]),
            key(&supervisor, &[Role::Supervisor], &[]),
            key(&hero, &[Role::Runner], &["hero", "sal"]),
        ];
        let policy = TrustPolicy { keys, ..TrustPolicy::default() };
        let verifier = Verifier::new(Trust::new(policy));
        let me = supervisor.peer_id();
        Self { me, owner, alice, coordinator, supervisor, hero, stranger: id(9), now: Timestamp::now(), verifier }
    }

    pub(super) fn later(&self, seconds: u64) -> Timestamp {
        self.now.saturating_add(Duration::from_secs(seconds))
    }

    pub(super) fn job(&self, id: &str) -> JobSpec {
        JobSpec::new(LocalId::new(id).unwrap(), "hero".parse().unwrap(), "!!play.echo text:hi", self.later(3600))
    }

    pub(super) fn batch(&self, signer: &Identity, jobs: Vec<JobSpec>) -> Envelope {
        let batch = JobBatch { aud: vec![self.supervisor.peer_id()], jobs, certificates: vec![] };
        Envelope::sign_json(signer, PayloadType::Jobs, &batch)
    }

    /// What the supervisor says to a batch without workflow.
    pub(super) fn admit(&self, envelope: &Envelope) -> Result<Vec<Job>, Refusal> {
        let batch = self.verifier.batch(envelope)?;
        self.verifier.admit(self.ask(&batch, &|_| None, &|_| None))
    }

    pub(super) fn ask<'a>(
        &'a self,
        batch: &'a SignedBatch,
        workflows: &'a dyn Fn(&Digest) -> Option<Arc<SignedWorkflow>>,
        receipts: &'a dyn Fn(&Digest) -> Option<Arc<SignedReceipts>>,
    ) -> Admission<'a> {
        Admission { batch, audience: Audience::Supervisor(&self.me), workflows, receipts, now: self.now }
    }

    pub(super) fn refused(&self, envelope: &Envelope) -> RefusalKind {
        self.admit(envelope).expect_err("a refusal").kind
    }
}

pub(super) const PIPELINE: &str = r"
workflow:
  name: pipeline
  env: {SHARED: workflow, OVER: workflow}
  steps:
    - {id: fetch, runner: hero, payload: fetch it, retry: {max_attempts: 2, non_retryable: [GONE]}}
    - {id: check, runner: hero, payload: check it, continue_on_error: true}
    - id: process
      runner: sal
      payload: process it
      depends_on: [fetch, check]
      env: {OVER: step}
      timeout: 10s
      idempotent: true
      labels: {team: core}
    - {id: store, runner: sal, payload: store it, depends_on: [process]}
";

/// A signed workflow and what a coordinator does with it.
pub(super) struct Case {
    pub(super) world: World,
    pub(super) workflow: Envelope,
    pub(super) digest: Digest,
}

impl Case {
    pub(super) fn new() -> Self {
        Self::with(|_, _| {})
    }

    pub(super) fn with(change: impl FnOnce(&World, &mut WorkflowSubmission)) -> Self {
        let world = World::new();
        let mut submission = WorkflowSubmission {
            id: WorkflowId::new("nightly").unwrap(),
            definition: PIPELINE.to_owned(),
            inputs: None,
            coordinators: vec![world.coordinator.peer_id()],
            submit_by: world.later(600),
            run_until: world.later(3600),
            certificates: vec![],
        };
        change(&world, &mut submission);
        let workflow = Envelope::sign_json(&world.alice, PayloadType::Workflow, &submission);
        Self { digest: workflow.digest(), workflow, world }
    }

    pub(super) fn delegation(&self, step: &str, attempt: u32) -> Delegation {
        Delegation { workflow: self.digest, step: StepId::new(step).unwrap(), index: None, attempt }
    }

    pub(super) fn job_id(&self, step: &str, attempt: u32) -> crate::job::JobId {
        let runner = if matches!(step, "fetch" | "check") { "hero" } else { "sal" };
        self.delegation(step, attempt).job_id(&runner.parse().unwrap())
    }

    pub(super) fn step(&self, step: &str, attempt: u32, input: Option<&str>, receipts: &[&Envelope]) -> JobSpec {
        let runner = self.job_id(step, attempt).runner().clone();
        let refs = receipts.iter().map(|e| ReceiptRef::Envelope(Box::new((*e).clone()))).collect();
        JobSpec::step(runner, self.delegation(step, attempt), input.map(raw), refs)
    }

    pub(super) fn receipt(&self, step: &str, attempt: u32, outcome: JobStatus, output: Option<&str>) -> Receipt {
        let job_id = self.job_id(step, attempt);
        Receipt {
            runner: job_id.runner().clone(),
            job_id,
            spec: Digest::of(b"its spec"),
            workflow: Some(self.digest),
            attempt: 1,
            started_at: self.world.now,
            finished_at: self.world.now,
            outcome,
            output: output.map(|text| Digest::of(text.as_bytes())),
            error: None,
        }
    }

    pub(super) fn signed(&self, receipts: Vec<Receipt>) -> Envelope {
        let batch = ReceiptBatch { receipts, certificates: vec![] };
        Envelope::sign_json(&self.world.hero, PayloadType::Receipts, &batch)
    }

    /// Receipts with which `process` may run.
    pub(super) fn done(&self) -> Envelope {
        self.signed(vec![
            self.receipt("fetch", 1, JobStatus::Succeeded, Some("[1, 2]")),
            self.receipt("check", 1, JobStatus::Succeeded, Some("null")),
        ])
    }

    pub(super) fn admit(&self, spec: JobSpec) -> Result<Job, Refusal> {
        self.admit_signed(&self.world.batch(&self.world.coordinator, vec![spec]))
    }

    pub(super) fn admit_signed(&self, batch: &Envelope) -> Result<Job, Refusal> {
        let verifier = &self.world.verifier;
        let (workflow, batch) = (verifier.workflow(&self.workflow)?, verifier.batch(batch)?);
        verifier.admit_one(self.world.ask(&batch, &|_| Some(workflow.clone()), &|_| None), 0)
    }

    /// The refusal is a mismatch, and its message holds `part`.
    pub(super) fn mismatch(&self, spec: JobSpec, part: &str) {
        let refusal = self.admit(spec).expect_err(part);
        assert_eq!(refusal.kind, RefusalKind::DelegationMismatch, "{refusal}");
        assert!(refusal.message.contains(part), "{refusal}");
    }
}

pub(super) const GOOD_INPUT: &str = r#"{"fetch": [1, 2], "check": null}"#;

pub(super) fn raw(text: &str) -> Box<RawValue> {
    RawValue::from_string(text.to_owned()).unwrap()
}
