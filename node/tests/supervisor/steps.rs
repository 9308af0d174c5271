//! Steps of signed workflows, as a coordinator brings them.

use std::collections::BTreeMap;

use horus_keys::{Digest, Envelope, PayloadType};
use horus_node::api::supervisor::*;
use horus_runners::job::{
    Delegation, JobBatch, JobSpec, JobStatus, ReceiptRef, StepId, WorkflowId, WorkflowSubmission,
};
use horus_transport::{ErrorKind, RpcError};

use crate::harness::*;

const DEFINITION: &str = r#"
workflow:
  name: "two"
  steps:
    - id: "first"
      runner: "fake"
      payload: "one"
    - id: "second"
      runner: "other"
      depends_on: ["first"]
      payload: "two"
"#;

struct Case {
    place: Place,
    workflow: Envelope,
}

impl Case {
    async fn new() -> Self {
        let place = Place::new().await;
        let coordinators = vec![place.coordinator.peer_id()];
        Self::with(place, coordinators)
    }

    fn with(place: Place, coordinators: Vec<horus_keys::PeerId>) -> Self {
        let submission = WorkflowSubmission {
            id: WorkflowId::generate(),
            definition: DEFINITION.into(),
            inputs: None,
            coordinators,
            submit_by: later(60),
            run_until: later(3600),
            certificates: Vec::new(),
        };
        let workflow = Envelope::sign_json(&place.bob, PayloadType::Workflow, &submission);
        Self { place, workflow }
    }

    fn step(&self, step: &str, runner: &str, input: Option<&str>, receipts: Vec<ReceiptRef>) -> JobSpec {
        let workflow = self.workflow.digest();
        let delegation = Delegation { workflow, step: StepId::new(step).unwrap(), index: None, attempt: 1 };
        let input = input.map(|text| serde_json::value::RawValue::from_string(text.to_owned()).unwrap());
        JobSpec::step(runner.parse().unwrap(), delegation, input, receipts)
    }

    async fn send(
        &self,
        jobs: Vec<JobSpec>,
        workflow: Option<&Envelope>,
        receipts: &[Envelope],
    ) -> Result<CreatedJobs, RpcError> {
        let envelope = self.place.sign(&self.place.coordinator, jobs);
        let receipts = receipts.iter().map(Into::into).collect();
        let params = CreateJobsParams { envelope: envelope.into(), workflow: workflow.map(Into::into), receipts };
        within(self.place.unsigned().call::<CreateJobs>(&params)).await
    }
}

#[tokio::test]
async fn a_workflow_is_sent_once_and_receipts_made_here_are_known_by_digest() {
    let case = Case::new().await;
    let place = &case.place;
    let _workers = (place.work("fake").await, place.work("other").await);

    let first = case.step("first", "fake", None, vec![]);
    is(&case.send(vec![first.clone()], None, &[]).await.unwrap_err(), ErrorKind::WorkflowUnknown);
    assert!(case.send(vec![first.clone()], Some(&case.workflow), &[]).await.unwrap().jobs[0].created);
    assert!(!case.send(vec![first.clone()], None, &[]).await.unwrap().jobs[0].created);

    // The submitter of the workflow and the coordinator both see the step; who else submits does not.
    let result = place.ended(&place.bob, &first.job_id()).await;
    assert_eq!(result.status, JobStatus::Succeeded, "{:?}", result.error);
    assert_eq!(place.ended(&place.coordinator, &first.job_id()).await.status, JobStatus::Succeeded);
    let id = JobIdParams { job_id: first.job_id() };
    is(&place.refused::<GetJob>(&place.alice, id.clone()).await, ErrorKind::JobNotFound);
    let job = place.call::<GetJob>(&place.coordinator, id).await.unwrap();
    assert_eq!((job.submitter, job.delegate), (place.bob.peer_id(), Some(place.coordinator.peer_id())));
    let listed = place.call::<ListJobs>(&place.coordinator, ListJobsParams::default()).await.unwrap();
    assert_eq!(listed.jobs.len(), 1);

    // The receipt lies with the queue of `fake`; the step of `other` refers to it by digest, without the workflow again.
    let receipts = result.receipt.unwrap().envelope.unwrap();
    let input = format!("{{\"first\":{}}}", result.output.unwrap().get());
    let second = case.step("second", "other", Some(&input), vec![ReceiptRef::Digest(receipts.digest())]);
    assert!(case.send(vec![second.clone()], None, &[]).await.unwrap().jobs[0].created);
    let result = place.ended(&place.bob, &second.job_id()).await;
    assert_eq!(result.status, JobStatus::Succeeded, "{:?}", result.error);
}

#[tokio::test]
async fn receipts_from_elsewhere_come_beside_the_batch_or_in_it() {
    let case = Case::new().await;
    let place = &case.place;
    place.announce("other").await;
    let elsewhere = receipt_of_first(&case);
    let input = r#"{"first":"one"}"#;
    let by_digest = || case.step("second", "other", Some(input), vec![ReceiptRef::Digest(elsewhere.digest())]);
    let unknown = case.send(vec![by_digest()], Some(&case.workflow), &[]).await.unwrap_err();
    is(&unknown, ErrorKind::DelegationMismatch);
    let beside = case.send(vec![by_digest()], Some(&case.workflow), std::slice::from_ref(&elsewhere)).await.unwrap();
    assert!(beside.jobs[0].created);

    let case = Case::new().await;
    case.place.announce("other").await;
    let inline = ReceiptRef::Envelope(Box::new(receipt_of_first(&case)));
    let inside = case.step("second", "other", Some(input), vec![inline]);
    let _worker = case.place.work("other").await;
    assert!(case.send(vec![inside.clone()], Some(&case.workflow), &[]).await.unwrap().jobs[0].created);
    let result = case.place.ended(&case.place.bob, &inside.job_id()).await;
    assert_eq!(result.status, JobStatus::Succeeded, "{:?}", result.error);
}

#[tokio::test]
async fn a_coordinator_that_takes_over_sees_what_the_one_before_it_sent() {
    let place = Place::new().await;
    let [second, unnamed] = [(); 2].map(|()| horus_keys::Identity::generate());
    trust(&place.trust_file, &second, horus_keys::Role::Coordinator, "*");
    trust(&place.trust_file, &unnamed, horus_keys::Role::Coordinator, "*");
    let named = vec![place.coordinator.peer_id(), second.peer_id()];
    let case = Case::with(place, named);
    let place = &case.place;
    place.announce("fake").await;
    let step = case.step("first", "fake", None, vec![]);
    let first = case.send(vec![step.clone()], Some(&case.workflow), &[]).await.unwrap();
    assert!(first.jobs[0].created);
    let id = JobIdParams { job_id: step.job_id() };

    // Without sending it again, and after: the one that sent it first does not lose sight of it either.
    let seen =
        eventually("the policy is read again", async || place.call::<GetJob>(&second, id.clone()).await.ok()).await;
    assert_eq!(seen.delegate, Some(place.coordinator.peer_id()));
    let envelope = place.sign(&second, vec![step.clone()]);
    let params = CreateJobsParams { envelope: envelope.into(), workflow: None, receipts: vec![] };
    assert!(!within(place.unsigned().call::<CreateJobs>(&params)).await.unwrap().jobs[0].created);
    for coordinator in [&place.coordinator, &second] {
        place.call::<GetJobResult>(coordinator, id.clone()).await.unwrap();
        let listed = place.call::<ListJobs>(coordinator, ListJobsParams::default()).await.unwrap();
        assert_eq!(listed.jobs.len(), 1);
    }
    is(&place.refused::<GetJob>(&unnamed, id.clone()).await, ErrorKind::JobNotFound);
    is(&place.refused::<CancelJob>(&unnamed, id.clone()).await, ErrorKind::JobNotFound);
    assert_eq!(place.call::<CancelJob>(&second, id).await.unwrap().status, JobStatus::Cancelled);
}

/// A receipt for the step `first`, as a trusted runner of another machine signs it.
#[tokio::test]
async fn documents_can_come_ahead_of_the_steps_that_need_them() {
    let case = Case::new().await;
    let place = &case.place;
    place.announce("other").await;
    let params = |workflow: Option<&Envelope>, receipts: &[&Envelope]| StoreDocumentsParams {
        runner: "other".parse().unwrap(),
        workflow: workflow.map(Into::into),
        receipts: receipts.iter().copied().map(Into::into).collect(),
    };
    let receipts = receipt_of_first(&case);

    // Only a coordinator may, only what names it, and only for a kind that is served.
    let keys = place.redis.keys().await;
    for who in [&place.alice, &place.bob, &place.stranger] {
        let error = place.refused::<StoreDocuments>(who, params(Some(&case.workflow), &[])).await;
        assert!(matches!(error.kind, ErrorKind::NotAllowed | ErrorKind::UntrustedSigner), "{error}");
    }
    let other = horus_keys::Identity::generate();
    trust(&place.trust_file, &other, horus_keys::Role::Coordinator, "*");
    let unnamed = eventually("the policy is read again", async || {
        let error = place.refused::<StoreDocuments>(&other, params(Some(&case.workflow), &[])).await;
        error.message.contains("does not name you").then_some(error)
    })
    .await;
    is(&unnamed, ErrorKind::NotAllowed);
    // The same workflow signed by a key that may submit nothing would keep out the one that its submitter signed.
    let usurped = Envelope::sign(&place.coordinator, PayloadType::Workflow, case.workflow.payload().to_vec());
    let error = place.refused::<StoreDocuments>(&place.coordinator, params(Some(&usurped), &[])).await;
    assert!(matches!(error.kind, ErrorKind::NotAllowed | ErrorKind::UntrustedSigner), "{error}");
    let unserved = StoreDocumentsParams { runner: "nobody".parse().unwrap(), ..params(None, &[&receipts]) };
    is(&place.refused::<StoreDocuments>(&place.coordinator, unserved).await, ErrorKind::UnknownRunner);
    let broken = params(Some(&receipts), &[]);
    is(&place.refused::<StoreDocuments>(&place.coordinator, broken).await, ErrorKind::InvalidEnvelope);
    assert_eq!(place.redis.keys().await, keys, "what is refused leaves nothing behind");

    // Receipts of a key that is no runner are left out, and the rest is kept for a while.
    let forged = Envelope::sign(&other, PayloadType::Receipts, receipts.payload().to_vec());
    let stored = place.call::<StoreDocuments>(&place.coordinator, params(None, &[&forged])).await.unwrap();
    assert_eq!(stored.stored, 0);
    let all = params(Some(&case.workflow), &[&receipts]);
    let stored = place.call::<StoreDocuments>(&place.coordinator, all).await.unwrap();
    assert_eq!(stored.stored, 2);
    let left = async || {
        let key = format!("horus:{{other}}:rc:{}", receipts.digest().hex());
        match place.redis.command(&["PTTL", &key]).await {
            redis::Value::Int(left) => left,
            other => panic!("{other:?}"),
        }
    };
    assert!((1..=600_000).contains(&left().await), "{}", left().await);

    let step = case.step("second", "other", Some(r#"{"first":"one"}"#), vec![ReceiptRef::Digest(receipts.digest())]);
    let created = case.send(vec![step.clone()], None, &[]).await.unwrap();
    assert!(created.jobs[0].created);
    assert!(left().await > 3_600_000, "as long as the job may need it");
    let _worker = place.work("other").await;
    let result = place.ended(&place.bob, &step.job_id()).await;
    assert_eq!(result.status, JobStatus::Succeeded, "{:?}", result.error);
}

fn receipt_of_first(case: &Case) -> Envelope {
    let first = case.step("first", "fake", None, vec![]);
    let now = horus_keys::Timestamp::now();
    let receipt = serde_json::json!({
        "job_id": first.job_id(),
        "spec": Digest::of(b"spec"),
        "workflow": case.workflow.digest(),
        "attempt": 1,
        "runner": "fake",
        "started_at": now,
        "finished_at": now,
        "outcome": "succeeded",
        "output": Digest::of(br#""one""#),
    });
    let batch = BTreeMap::from([("receipts", vec![receipt])]);
    Envelope::sign_json(&case.place.runner, PayloadType::Receipts, &batch)
}

#[tokio::test]
async fn a_coordinator_cannot_go_beyond_the_signed_workflow() {
    let case = Case::new().await;
    let place = &case.place;
    place.announce("fake").await;
    place.announce("other").await;
    let keys = place.redis.keys().await;
    let send = async |jobs: Vec<JobSpec>| case.send(jobs, Some(&case.workflow), &[]).await.unwrap_err();

    is(&send(vec![spec("rm -rf")]).await, ErrorKind::NotAllowed);
    is(&send(vec![case.step("third", "fake", None, vec![])]).await, ErrorKind::DelegationMismatch);
    let mut own_script = case.step("first", "fake", None, vec![]);
    own_script.payload = Some("rm -rf".into());
    is(&send(vec![own_script]).await, ErrorKind::DelegationMismatch);
    let invented = case.step("second", "other", Some(r#"{"first":"two"}"#), vec![]);
    is(&send(vec![invented]).await, ErrorKind::DelegationMismatch);

    // A coordinator that the workflow does not name.
    let other = horus_keys::Identity::generate();
    trust(&place.trust_file, &other, horus_keys::Role::Coordinator, "*");
    let envelope = place.sign(&other, vec![case.step("first", "fake", None, vec![])]);
    let params =
        || CreateJobsParams { envelope: (&envelope).into(), workflow: Some((&case.workflow).into()), receipts: vec![] };
    let error = eventually("the policy is read again", async || {
        let error = place.unsigned().call::<CreateJobs>(&params()).await.unwrap_err();
        (error.kind != ErrorKind::UntrustedSigner).then_some(error)
    })
    .await;
    assert!(matches!(error.kind, ErrorKind::NotAllowed | ErrorKind::DelegationMismatch), "{error}");
    // A supervisor that the batch does not name.
    let batch = JobBatch {
        aud: vec![other.peer_id()],
        jobs: vec![case.step("first", "fake", None, vec![])],
        certificates: Vec::new(),
    };
    let params = CreateJobsParams {
        envelope: Envelope::sign_json(&place.coordinator, PayloadType::Jobs, &batch).into(),
        workflow: Some((&case.workflow).into()),
        receipts: vec![],
    };
    is(&within(place.unsigned().call::<CreateJobs>(&params)).await.unwrap_err(), ErrorKind::NotAllowed);
    assert_eq!(place.redis.keys().await, keys, "nothing was queued");
}

#[tokio::test]
async fn documents_are_sent_again_when_redis_lost_them() {
    let case = Case::new().await;
    let place = &case.place;
    place.announce("fake").await;
    case.send(vec![case.step("first", "fake", None, vec![])], Some(&case.workflow), &[]).await.unwrap();
    place.redis.command(&["FLUSHALL"]).await;
    place.announce("fake").await;
    let _worker = place.work("fake").await;
    let step = case.step("first", "fake", None, vec![]);
    let created = case.send(vec![step.clone()], None, &[]).await.unwrap();
    assert!(created.jobs[0].created, "the supervisor still knows the workflow and stores it again");
    assert_eq!(place.ended(&place.bob, &step.job_id()).await.status, JobStatus::Succeeded);
}
