//! Every method on jobs, as a submitter uses it.

use horus_keys::{PayloadType, Timestamp};
use horus_node::api::supervisor::*;
use horus_node::api::{GetNodeInfo, NoParams};
use horus_runners::admission::Verifier;
use horus_runners::job::JobStatus;
use horus_transport::ErrorKind;

use crate::harness::*;

#[tokio::test]
async fn a_job_is_accepted_executed_and_its_result_proven() {
    let place = Place::new().await;
    let _worker = place.work("fake").await;
    let mut spec = spec("say hello again");
    spec.labels.insert("team".into(), "core".into());
    let envelope = place.sign(&place.alice, vec![spec.clone()]);
    let params = CreateJobParams { envelope: (&envelope).into(), workflow: None, receipts: vec![] };
    let created = within(place.unsigned().call::<CreateJob>(&params)).await.unwrap();
    assert_eq!(created, CreatedJob { job_id: spec.job_id(), status: JobStatus::Queued, created: true });

    let result = place.ended(&place.alice, &created.job_id).await;
    assert_eq!(result.status, JobStatus::Succeeded);
    let output = result.output.as_ref().unwrap().get();
    assert_eq!(output, r#""say hello again""#);
    let at = result.receipt.as_ref().unwrap();
    let verifier = Verifier::new(horus_keys::Trust::open(&place.trust_file).unwrap());
    let receipt = verifier
        .check_result(
            at.envelope.as_ref().unwrap(),
            at.index,
            &created.job_id,
            None,
            Some(output.as_bytes()),
            Timestamp::now(),
        )
        .unwrap();
    assert_eq!(receipt.outcome, JobStatus::Succeeded);

    let id = || JobIdParams { job_id: created.job_id.clone() };
    let job = place.call::<GetJob>(&place.alice, id()).await.unwrap();
    assert_eq!((job.status, job.attempt, job.submitter), (JobStatus::Succeeded, 1, place.alice.peer_id()));
    assert!(job.created_at <= job.started_at.unwrap() && job.started_at <= job.finished_at);
    assert_eq!(job.labels["team"], "core");
    let state = place.call::<GetJobStatus>(&place.alice, id()).await.unwrap();
    assert_eq!(state, JobState { job_id: created.job_id.clone(), status: JobStatus::Succeeded });

    let logs = |cursor: Option<String>| LogParams { job_id: created.job_id.clone(), cursor, limit: Some(1) };
    let first = place.call::<GetJobLogs>(&place.alice, logs(None)).await.unwrap();
    let second = place.call::<GetJobLogs>(&place.alice, logs(Some(first.cursor.clone()))).await.unwrap();
    assert_eq!((first.lines[0].text.as_str(), second.lines[0].text.as_str()), ("hello", "again"));
    let end = place.call::<GetJobLogs>(&place.alice, logs(Some(second.cursor))).await.unwrap();
    // Not the whole log anew, and not nothing: a page that nobody gave is an error.
    for foreign in ["bogus", "../../etc", "1-x"] {
        let error = place.call::<GetJobLogs>(&place.alice, logs(Some(foreign.to_owned()))).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::InvalidParams, "{foreign}: {error}");
    }
    assert!(end.lines.is_empty());

    assert_eq!(place.call::<DeleteJob>(&place.alice, id()).await.unwrap(), Deleted { deleted: true });
    is(&place.refused::<GetJob>(&place.alice, id()).await, ErrorKind::JobNotFound);
    place.stop().await;
}

#[tokio::test]
async fn a_failed_job_says_why() {
    let place = Place::new().await;
    let _worker = place.work("fake").await;
    let id = place.submit(&place.alice, "fail").await;
    let result = place.ended(&place.alice, &id).await;
    assert_eq!((result.status, result.output.is_none()), (JobStatus::Failed, true));
    let error = result.error.unwrap();
    assert_eq!((error.code.as_str(), error.message.as_str()), ("NO_LUCK", "it was not to be"));
    assert!(result.receipt.is_some());
}

#[tokio::test]
async fn a_batch_is_accepted_in_order_and_sending_it_again_changes_nothing() {
    let place = Place::new().await;
    place.announce("fake").await;
    let mut jobs: Vec<_> = (0..50).map(|n| spec(&n.to_string())).collect();
    jobs[7].not_before = Some(later(600));
    let envelope = place.sign(&place.alice, jobs.clone());
    let created = place.create(&envelope).await.unwrap().jobs;
    let ids: Vec<_> = jobs.iter().map(horus_runners::job::JobSpec::job_id).collect();
    assert_eq!(created.iter().map(|job| job.job_id.clone()).collect::<Vec<_>>(), ids);
    assert!(created.iter().all(|job| job.created));
    assert_eq!(created[7].status, JobStatus::Delayed);
    let keys = place.redis.keys().await;
    let again = place.create(&envelope).await.unwrap().jobs;
    assert!(again.iter().all(|job| !job.created));
    assert_eq!(place.redis.keys().await, keys);
}

#[tokio::test]
async fn a_batch_for_several_kinds_comes_back_in_its_order() {
    let place = Place::new().await;
    let _workers = (place.work("fake").await, place.work("other").await);
    let jobs = vec![spec_of("other", "a"), spec_of("fake", "b"), spec_of("other", "c")];
    let created = place.create(&place.sign(&place.bob, jobs.clone())).await.unwrap().jobs;
    for (job, created) in jobs.iter().zip(&created) {
        assert_eq!(created.job_id, job.job_id());
        assert_eq!(place.ended(&place.bob, &created.job_id).await.status, JobStatus::Succeeded);
    }
}

#[tokio::test]
async fn jobs_are_listed_page_by_page_newest_first() {
    let place = Place::new().await;
    place.announce("fake").await;
    let mut ids = Vec::new();
    for n in 0..5 {
        ids.insert(0, place.submit(&place.alice, &n.to_string()).await);
    }
    let (mut seen, mut cursor) = (Vec::new(), None);
    loop {
        let params = ListJobsParams { limit: Some(2), cursor, ..ListJobsParams::default() };
        let page = place.call::<ListJobs>(&place.alice, params).await.unwrap();
        assert!(page.jobs.len() <= 2);
        seen.extend(page.jobs.into_iter().map(|job| job.job_id));
        cursor = page.cursor;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(seen, ids);
    let of = |status| ListJobsParams { status: Some(status), ..ListJobsParams::default() };
    assert_eq!(place.call::<ListJobs>(&place.alice, of(JobStatus::Queued)).await.unwrap().jobs.len(), 5);
    assert_eq!(place.call::<ListJobs>(&place.alice, of(JobStatus::Failed)).await.unwrap().jobs.len(), 0);
    let foreign = ["../../etc", "abc", "zork:", ""].map(|cursor| (Some(cursor.to_owned()), None));
    for (cursor, limit) in foreign.into_iter().chain([(None, Some(0))]) {
        let params = ListJobsParams { cursor, limit, ..ListJobsParams::default() };
        is(&place.refused::<ListJobs>(&place.alice, params).await, ErrorKind::InvalidParams);
    }
}

#[tokio::test]
async fn a_cancelled_job_stops_within_a_second_wherever_it_is() {
    let place = Place::new().await;
    place.announce("fake").await;
    let waiting = place.submit(&place.alice, "hang").await;
    let id = |id: &horus_runners::job::JobId| JobIdParams { job_id: id.clone() };
    let state = place.call::<CancelJob>(&place.alice, id(&waiting)).await.unwrap();
    assert_eq!(state.status, JobStatus::Cancelled);
    assert_eq!(place.ended(&place.alice, &waiting).await.status, JobStatus::Cancelled);

    let _worker = place.work("fake").await;
    let running = place.submit(&place.alice, "hang").await;
    eventually("it runs", async || {
        let job = place.call::<GetJobStatus>(&place.alice, id(&running)).await.unwrap();
        (job.status == JobStatus::Running).then_some(())
    })
    .await;
    let is_kept = place.call::<DeleteJob>(&place.alice, id(&running)).await.unwrap();
    assert!(!is_kept.deleted, "a running job is not deleted");
    let began = std::time::Instant::now();
    place.call::<CancelJob>(&place.alice, id(&running)).await.unwrap();
    let params = WaitJobsParams { job_ids: vec![running], timeout_ms: 5000, any: false, share_receipts: false };
    let waited = place.call::<WaitJobs>(&place.alice, params).await.unwrap();
    assert_eq!(waited.done[0].status, JobStatus::Cancelled);
    assert!(began.elapsed().as_millis() < 1000, "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_node_says_who_it_is_to_anybody() {
    let place = Place::new().await;
    place.announce("fake").await;
    let info = within(place.unsigned().call::<GetNodeInfo>(&NoParams {})).await.unwrap();
    assert_eq!((info.peer_id, info.role), (place.supervisor, horus_keys::Role::Supervisor));
    let (signer, said) = horus_keys::NodeAnnouncement::check(&info.envelope, Timestamp::now()).unwrap();
    assert_eq!(signer, place.supervisor);
    assert_eq!(said.addresses, std::slice::from_ref(&place.url));
    assert_eq!(said.runners, ["fake".parse().unwrap()]);
    assert_eq!(info.envelope.payload_type(), PayloadType::Node);

    let document = within(place.unsigned().call_raw("rpc.discover", &NoParams {})).await.unwrap();
    assert!(document.get().contains("\"create_jobs\""));
}
