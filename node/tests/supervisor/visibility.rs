//! Who sees and who steers whose jobs.

use horus_node::api::supervisor::*;
use horus_runners::job::JobStatus;
use horus_transport::ErrorKind;

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
