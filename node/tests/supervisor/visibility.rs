//! Who sees and who steers whose jobs.

use std::time::Duration;

use horus_keys::{Certificate, Envelope, Identity, PayloadType, Role, Timestamp};
use horus_node::api::supervisor::*;
use horus_runners::job::{JobBatch, JobStatus};
use horus_transport::{ClientOptions, ErrorKind, RpcClient};

use crate::harness::*;

#[tokio::test]
async fn a_submitter_sees_and_steers_its_own_only() {
    let place = Place::new().await;
    place.announce("fake").await;
    let id = place.submit(&place.alice, "x").await;
    let job = || JobIdParams { job_id: id.clone() };
    let logs = || LogParams { job_id: id.clone(), cursor: None, limit: None };
    let wait = || WaitJobsParams { job_ids: vec![id.clone()], timeout_ms: 0, any: false, share_receipts: false };
    let unknown = JobIdParams { job_id: "fake-unknown".parse().unwrap() };
    for stranger in [&place.bob, &place.coordinator] {
        let missing = place.refused::<GetJob>(stranger, unknown.clone()).await;
        let hidden = place.refused::<GetJob>(stranger, job()).await;
        is(&hidden, ErrorKind::JobNotFound);
        assert_eq!(
            hidden.message.replace(&id.to_string(), ""),
            missing.message.replace("fake-unknown", ""),
            "the two must not be told apart"
        );
        is(&place.refused::<GetJobStatus>(stranger, job()).await, ErrorKind::JobNotFound);
        is(&place.refused::<GetJobResult>(stranger, job()).await, ErrorKind::JobNotFound);
        is(&place.refused::<GetJobLogs>(stranger, logs()).await, ErrorKind::JobNotFound);
        is(&place.refused::<WaitJobs>(stranger, wait()).await, ErrorKind::JobNotFound);
        is(&place.refused::<CancelJob>(stranger, job()).await, ErrorKind::JobNotFound);
        is(&place.refused::<DeleteJob>(stranger, job()).await, ErrorKind::JobNotFound);
        let listed = place.call::<ListJobs>(stranger, ListJobsParams::default()).await.unwrap();
        assert!(listed.jobs.is_empty() && listed.cursor.is_none());
    }
    let of_alice = ListJobsParams { submitter: Some(place.alice.peer_id()), ..ListJobsParams::default() };
    is(&place.refused::<ListJobs>(&place.bob, of_alice.clone()).await, ErrorKind::NotAllowed);
    assert_eq!(place.call::<ListJobs>(&place.alice, of_alice).await.unwrap().jobs.len(), 1);
    assert_eq!(place.call::<GetJobStatus>(&place.alice, job()).await.unwrap().status, JobStatus::Queued);
}

#[tokio::test]
async fn an_observer_sees_all_and_an_operator_steers_all() {
    let place = Place::new().await;
    place.announce("fake").await;
    let id = place.submit(&place.alice, "x").await;
    let job = || JobIdParams { job_id: id.clone() };
    for who in [&place.observer, &place.operator] {
        assert_eq!(place.call::<GetJob>(who, job()).await.unwrap().job_id, id);
        assert_eq!(place.call::<ListJobs>(who, ListJobsParams::default()).await.unwrap().jobs.len(), 1);
        let of_bob = ListJobsParams { submitter: Some(place.bob.peer_id()), ..ListJobsParams::default() };
        assert!(place.call::<ListJobs>(who, of_bob).await.unwrap().jobs.is_empty());
    }
    is(&place.refused::<CancelJob>(&place.observer, job()).await, ErrorKind::NotAllowed);
    let state = place.call::<CancelJob>(&place.operator, job()).await.unwrap();
    assert_eq!(state.status, JobStatus::Cancelled);
    assert!(place.call::<DeleteJob>(&place.operator, job()).await.unwrap().deleted);
}

#[tokio::test]
async fn who_is_certified_by_the_owner_needs_no_entry_in_the_policy() {
    let place = Place::new().await;
    place.announce("fake").await;
    let owner = Identity::generate();
    trust(&place.trust_file, &owner, Role::Owner, "*");
    let certify = |who: &Identity, expires_at| {
        let certificate = Certificate {
            peer_id: who.peer_id(),
            name: None,
            roles: vec![Role::Submitter],
            runners: vec!["fake".parse().unwrap()],
            expires_at,
        };
        certificate.sign(&owner).unwrap()
    };
    let carol = Identity::generate();
    let sign = |certificates: Vec<Envelope>, spec| {
        let batch = JobBatch { aud: vec![place.supervisor], jobs: vec![spec], certificates };
        Envelope::sign_json(&carol, PayloadType::Jobs, &batch)
    };
    is(&place.create(&sign(vec![], spec("x"))).await.unwrap_err(), ErrorKind::UntrustedSigner);
    let expired = certify(&carol, Timestamp::now().saturating_sub(Duration::from_secs(3600)));
    is(&place.create(&sign(vec![expired], spec("x"))).await.unwrap_err(), ErrorKind::UntrustedSigner);
    let certificate = certify(&carol, later(3600));
    let created =
        eventually("the owner is known", async || place.create(&sign(vec![certificate.clone()], spec("x"))).await.ok())
            .await;
    let other = place.create(&sign(vec![certificate.clone()], spec_of("other", "x"))).await.unwrap_err();
    is(&other, ErrorKind::NotAllowed);

    // Another machine of hers that the supervisor has never seen reads a job of its own.
    let dave = Identity::generate();
    let options = ClientOptions::signed(dave.clone(), Some(certify(&dave, later(3600))));
    let client = RpcClient::connect(place.url.parse().unwrap(), options).unwrap();
    let job = JobIdParams { job_id: created.jobs[0].job_id.clone() };
    is(&within(client.call::<GetJob>(&job)).await.unwrap_err(), ErrorKind::JobNotFound);
    assert!(within(client.call::<ListJobs>(&ListJobsParams::default())).await.unwrap().jobs.is_empty());
    assert!(place.call::<GetJob>(&carol, job).await.is_ok());
}
