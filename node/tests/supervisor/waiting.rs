//! The long poll.

use std::time::{Duration, Instant};

use horus_node::api::supervisor::*;
use horus_runners::job::{JobId, JobStatus};
use horus_transport::ErrorKind;

use crate::harness::*;

fn wait(ids: &[JobId], timeout_ms: u64) -> WaitJobsParams {
    WaitJobsParams { job_ids: ids.to_vec(), timeout_ms, any: false, share_receipts: false }
}

#[tokio::test]
async fn it_answers_as_soon_as_all_have_ended() {
    let place = Place::new().await;
    place.announce("fake").await;
    let jobs: Vec<_> = (0..60).map(|n| spec(&n.to_string())).collect();
    let envelope = place.sign(&place.alice, jobs);
    let ids: Vec<JobId> = place.create(&envelope).await.unwrap().jobs.into_iter().map(|job| job.job_id).collect();

    let nothing = place.call::<WaitJobs>(&place.alice, wait(&ids, 0)).await.unwrap();
    assert_eq!((nothing.done.len(), nothing.pending.len()), (0, 60));

    let client = place.client(&place.alice);
    let params = WaitJobsParams { share_receipts: true, ..wait(&ids, 15_000) };
    let waiting = tokio::spawn(async move { client.call::<WaitJobs>(&params).await });
    let _worker = place.work("fake").await;
    let waited = within(waiting).await.unwrap().unwrap();
    assert_eq!(waited.pending, []);
    assert_eq!(waited.done.iter().map(|result| result.job_id.clone()).collect::<Vec<_>>(), ids);
    assert!(waited.receipts.len() < 60, "receipts are signed in batches and travel once");
    for (n, result) in waited.done.iter().enumerate() {
        assert_eq!(result.output.as_ref().unwrap().get(), format!("\"{n}\""));
        let (envelope, _) = waited.receipt_of(result).unwrap();
        envelope.verify(horus_keys::PayloadType::Receipts).unwrap();
    }
}

#[tokio::test]
async fn any_answers_with_the_first_that_ends() {
    let place = Place::new().await;
    let _worker = place.work("fake").await;
    let hanging = place.submit(&place.alice, "hang").await;
    let quick = place.submit(&place.alice, "quick").await;
    let params = WaitJobsParams { any: true, ..wait(&[hanging.clone(), quick.clone()], 15_000) };
    let waited = place.call::<WaitJobs>(&place.alice, params).await.unwrap();
    assert_eq!(waited.done.len(), 1);
    assert_eq!((&waited.done[0].job_id, waited.done[0].status), (&quick, JobStatus::Succeeded));
    assert_eq!(waited.pending, std::slice::from_ref(&hanging));
}

#[tokio::test]
async fn it_is_woken_and_does_not_poll() {
    let place = Place::new().await;
    let _worker = place.work("fake").await;
    let mut slowest = Duration::ZERO;
    for n in 0..10 {
        let began = Instant::now();
        let id = place.submit(&place.alice, &n.to_string()).await;
        let waited = place.call::<WaitJobs>(&place.alice, wait(&[id], 10_000)).await.unwrap();
        assert_eq!(waited.done.len(), 1);
        slowest = slowest.max(began.elapsed());
    }
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
}

#[tokio::test]
async fn it_ends_at_its_timeout_and_at_shutdown() {
    let place = Place::new().await;
    place.announce("fake").await;
    let id = place.submit(&place.alice, "x").await;
    let began = Instant::now();
    let waited = place.call::<WaitJobs>(&place.alice, wait(std::slice::from_ref(&id), 300)).await.unwrap();
    assert_eq!(waited.pending, std::slice::from_ref(&id));
    assert!(began.elapsed() >= Duration::from_millis(300) && began.elapsed() < Duration::from_secs(3));

    let client = place.client(&place.alice);
    client.peer().await.unwrap();
    let waiting = tokio::spawn(async move { client.call::<WaitJobs>(&wait(&[id], 60_000)).await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    place.stop().await;
    match within(waiting).await.unwrap() {
        Ok(waited) => assert_eq!(waited.pending.len(), 1),
        Err(error) => assert!(matches!(error.kind, ErrorKind::ShuttingDown | ErrorKind::PeerUnreachable), "{error}"),
    }
}

#[tokio::test]
async fn bad_waits_are_refused() {
    let place = Place::new().await;
    place.announce("fake").await;
    let unknown: JobId = "fake-unknown".parse().unwrap();
    for who in [&place.alice, &place.observer] {
        is(&place.refused::<WaitJobs>(who, wait(std::slice::from_ref(&unknown), 0)).await, ErrorKind::JobNotFound);
    }
    is(&place.refused::<WaitJobs>(&place.alice, wait(&[], 0)).await, ErrorKind::InvalidParams);
    let many: Vec<JobId> = (0..=MAX_WAIT_JOBS).map(|n| format!("fake-{n}").parse().unwrap()).collect();
    is(&place.refused::<WaitJobs>(&place.alice, wait(&many, 0)).await, ErrorKind::InvalidParams);
}
