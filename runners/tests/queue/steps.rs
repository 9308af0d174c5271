//! Steps of workflows: the signed workflow and the receipts of dependencies travel beside the queue.

use std::{sync::Arc, time::Duration};

use horus_keys::{Digest, Envelope, Identity, PayloadType, Role, Timestamp, Trust, TrustPolicy, TrustedKey};
use horus_runners::{
    admission::{Admission, Audience, SignedReceipts, Verifier},
    job::{Delegation, Job, JobBatch, JobId, JobSpec, JobStatus, ReceiptRef, WorkflowId, WorkflowSubmission},
    queue::{Queue, QueueError},
};
use serde_json::value::RawValue;

use crate::harness::*;

const DEFINITION: &str = r#"
workflow:
  name: two
  steps:
    - {id: first, runner: fake, payload: "one"}
    - {id: second, runner: fake, payload: "two", depends_on: [first]}
    - {id: other, runner: fake, payload: "three"}
"#;

struct Owner {
    world: World,
    coordinator: Identity,
    workflow: Envelope,
}

impl Owner {
    fn new() -> Self {
        let mut world = World::new();
        let coordinator = Identity::generate();
        let trusted = |identity: &Identity, role| TrustedKey {
            id: identity.peer_id(),
            name: None,
            roles: vec![role],
            runners: vec!["*".parse().unwrap()],
        };
        let keys = vec![
            trusted(&world.submitter, Role::Submitter),
            trusted(&world.runner, Role::Runner),
            trusted(&coordinator, Role::Coordinator),
        ];
        world.verifier = Verifier::new(Trust::new(TrustPolicy { keys, revoked: Vec::new() }));
        let later = Timestamp::now().saturating_add(Duration::from_secs(3600));
        let submission = WorkflowSubmission {
            id: WorkflowId::generate(),
            definition: DEFINITION.to_owned(),
            inputs: None,
            coordinators: vec![coordinator.peer_id()],
            submit_by: later,
            run_until: later,
            certificates: Vec::new(),
        };
        let workflow = Envelope::sign_json(&world.submitter, PayloadType::Workflow, &submission);
        Self { world, coordinator, workflow }
    }

    /// The same payload, signed by another submitter who is trusted as well.
    fn again(other: &Self) -> Self {
        let twin = Self::new();
        let keys = [&other.world.submitter, &twin.world.submitter, &other.coordinator];
        let roles = [Role::Submitter, Role::Submitter, Role::Coordinator];
        let trusted = |(key, role): (&Identity, Role)| TrustedKey {
            id: key.peer_id(),
            name: None,
            roles: vec![role],
            runners: vec!["*".parse().unwrap()],
        };
        let keys = keys.into_iter().zip(roles).map(trusted).collect();
        let mut world = twin.world;
        world.verifier = Verifier::new(Trust::new(TrustPolicy { keys, revoked: Vec::new() }));
        let payload = other.workflow.payload().to_vec();
        let workflow = Envelope::sign(&world.submitter, PayloadType::Workflow, payload);
        Self { world, coordinator: other.coordinator.clone(), workflow }
    }

    /// The job of a step as the coordinator sends it and the supervisor admits it.
    fn step(
        &self,
        step: &str,
        input: Option<&str>,
        receipts: Vec<ReceiptRef>,
        known: &[Envelope],
    ) -> (Vec<Job>, Envelope) {
        let delegation =
            Delegation { workflow: self.workflow.digest(), step: step.parse().unwrap(), index: None, attempt: 1 };
        let input = input.map(|text| RawValue::from_string(text.to_owned()).unwrap());
        let jobs = vec![JobSpec::step(kind(), delegation, input, receipts)];
        let batch = JobBatch { aud: vec![self.world.supervisor], jobs, certificates: Vec::new() };
        let envelope = Envelope::sign_json(&self.coordinator, PayloadType::Jobs, &batch);
        // A verifier of its own: what the supervisor has seen, the runner has not.
        let verifier = Verifier::new(self.world.verifier.trust().clone());
        let (workflow, batch) = (verifier.workflow(&self.workflow).unwrap(), verifier.batch(&envelope).unwrap());
        let known: Vec<Arc<SignedReceipts>> = known.iter().map(|e| verifier.receipts(e).unwrap()).collect();
        let admission = Admission {
            batch: &batch,
            audience: Audience::Supervisor(&self.world.supervisor),
            workflows: &|digest: &Digest| Some(workflow.clone()).filter(|found| found.digest == *digest),
            receipts: &|digest: &Digest| known.iter().find(|found| found.digest == *digest).cloned(),
            now: Timestamp::now(),
        };
        (verifier.admit(admission).unwrap(), envelope)
    }

    /// Executes the first step on a worker that stops again, and gives its receipts.
    async fn first(&self, queue: &Queue) -> Envelope {
        let (jobs, envelope) = self.step("first", None, Vec::new(), &[]);
        queue.push(&jobs, &envelope, &[&self.workflow], &[]).await.unwrap();
        let worker = self.world.work(queue, Fake::default(), self.world.options("first"));
        let result = succeeds(queue, &jobs[0].id).await;
        worker.stop().await;
        assert_eq!(result.0, r#""one""#);
        result.1
    }
}

async fn succeeds(queue: &Queue, id: &JobId) -> (String, Envelope) {
    let result = ended(queue, id).await;
    assert_eq!(result.status, JobStatus::Succeeded, "{:?}", result.error);
    (result.output.unwrap().get().to_owned(), result.receipt.unwrap().envelope)
}

const INPUT: &str = r#"{"first":"one"}"#;

#[tokio::test]
async fn a_runner_that_knows_nothing_finds_what_a_step_needs() {
    let owner = Owner::new();
    for inline in [false, true] {
        let redis = Redis::start().await;
        let queue = redis.queue().await;
        let receipts = owner.first(&queue).await;
        let reference = if inline {
            ReceiptRef::Envelope(Box::new(receipts.clone()))
        } else {
            ReceiptRef::Digest(receipts.digest())
        };
        let (jobs, envelope) = owner.step("second", Some(INPUT), vec![reference], std::slice::from_ref(&receipts));
        // The workflow is stored since the first step, and the receipts since a runner here signed them.
        queue.push(&jobs, &envelope, &[], &[]).await.unwrap();
        assert!(queue.workflow(&kind(), &owner.workflow.digest()).await.unwrap().is_some());
        let fresh = World { verifier: Verifier::new(owner.world.verifier.trust().clone()), ..world_of(&owner.world) };
        let worker = fresh.work(&queue, Fake::default(), fresh.options("second"));
        assert_eq!(succeeds(&queue, &jobs[0].id).await.0, r#""two""#);
        worker.stop().await;
        healthy(&queue).await;
    }
}

fn world_of(world: &World) -> World {
    let World { submitter, runner, supervisor, verifier } = world;
    World { submitter: submitter.clone(), runner: runner.clone(), supervisor: *supervisor, verifier: verifier.clone() }
}

#[tokio::test]
async fn what_a_step_needs_must_be_there_or_come_along() {
    let owner = Owner::new();
    let (there, here) = (Redis::start().await, Redis::start().await);
    let receipts = owner.first(&there.queue().await).await;
    let queue = here.queue().await;
    let reference = vec![ReceiptRef::Digest(receipts.digest())];
    let (jobs, envelope) = owner.step("second", Some(INPUT), reference, std::slice::from_ref(&receipts));
    let workflow = [&owner.workflow];
    for workflows in [&workflow[..0], &workflow] {
        let error = queue.push(&jobs, &envelope, workflows, &[]).await.unwrap_err();
        assert!(matches!(&error, QueueError::Missing { .. }), "{error}");
        assert!(error.to_string().contains("send the envelope along"), "{error}");
        assert!(queue.get(&jobs[0].id).await.unwrap().is_none(), "nothing is queued");
    }
    queue.push(&jobs, &envelope, &workflow, &[&receipts]).await.unwrap();
    healthy(&queue).await;

    // A Redis that lost its data gets the documents again, though they were stored from here before.
    redis::cmd("FLUSHALL").exec_async(&mut here.raw().await).await.unwrap();
    queue.push(&jobs, &envelope, &workflow, &[&receipts]).await.unwrap();
    let worker = owner.world.work(&queue, Fake::default(), owner.world.options("w"));
    succeeds(&queue, &jobs[0].id).await;
    worker.stop().await;
}

#[tokio::test]
async fn receipts_outlive_their_job_as_long_as_another_needs_them() {
    let owner = Owner::new();
    let redis = Redis::start().await;
    let queue = redis.queue().await;
    let receipts = owner.first(&queue).await;
    let reference = vec![ReceiptRef::Digest(receipts.digest())];
    let (jobs, envelope) = owner.step("second", Some(INPUT), reference, std::slice::from_ref(&receipts));
    queue.push(&jobs, &envelope, &[], &[]).await.unwrap();
    let (first, _) = owner.step("first", None, Vec::new(), &[]);
    assert!(queue.delete(&first[0].id).await.unwrap());
    assert!(queue.receipts(&kind(), &receipts.digest()).await.unwrap().is_some());
    let worker = owner.world.work(&queue, Fake::default(), owner.world.options("w"));
    succeeds(&queue, &jobs[0].id).await;
    worker.stop().await;
    healthy(&queue).await;
}

#[tokio::test]
async fn a_workflow_belongs_to_the_key_that_signed_it_first() {
    let owner = Owner::new();
    let redis = Redis::start().await;
    let queue = redis.queue().await;
    let (jobs, envelope) = owner.step("first", None, Vec::new(), &[]);
    queue.push(&jobs, &envelope, &[&owner.workflow], &[]).await.unwrap();

    // Another trusted submitter signs the same payload, and its step would run as the first one's.
    let twin = Owner::again(&owner);
    let (theirs, envelope) = twin.step("first", None, Vec::new(), &[]);
    assert_eq!(theirs[0].id, jobs[0].id);
    let conflict = queue.push(&theirs, &envelope, &[&twin.workflow], &[]).await.unwrap_err();
    assert!(matches!(conflict, QueueError::IdConflict { .. }), "{conflict}");
    let (other, envelope) = twin.step("other", None, Vec::new(), &[]);
    let conflict = queue.push(&other, &envelope, &[&twin.workflow], &[]).await.unwrap_err();
    assert!(matches!(conflict, QueueError::IdConflict { .. }), "{conflict}");
    let (other, envelope) = owner.step("other", None, Vec::new(), &[]);
    assert!(queue.push(&other, &envelope, &[&owner.workflow], &[]).await.unwrap()[0].created);
}

#[tokio::test]
async fn a_step_that_its_runner_refuses_proves_nothing() {
    let mut owner = Owner::new();
    let redis = Redis::start().await;
    let queue = redis.queue().await;
    let (jobs, envelope) = owner.step("first", None, Vec::new(), &[]);
    queue.push(&jobs, &envelope, &[&owner.workflow], &[]).await.unwrap();
    // The runner trusts neither submitter nor coordinator any more.
    let before = std::mem::replace(&mut owner.world.verifier, World::new().verifier);
    let worker = owner.world.work(&queue, Fake::default(), owner.world.options("strict"));
    let result = ended(&queue, &jobs[0].id).await;
    worker.stop().await;
    assert_eq!((result.status, result.error.unwrap().code.as_str()), (JobStatus::Failed, "UNTRUSTED_SIGNER"));
    let at = result.receipt.unwrap();
    // The coordinator takes it as the end of the step, and it says that no step was attempted.
    let (id, spec) = (&jobs[0].id, Some(&jobs[0].spec));
    let receipt = before.check_result(&at.envelope, at.index, id, spec, None, Timestamp::now()).unwrap();
    assert_eq!((receipt.outcome, receipt.workflow), (JobStatus::Failed, None));
}
