//! Cancelled jobs stop, wherever they are.

use std::time::{Duration, Instant};

use horus_runners::{job::JobStatus, queue::LeaseObserver};

use crate::harness::*;

#[tokio::test]
async fn a_waiting_job_is_cancelled_at_once() {
    let (redis, world) = (Redis::start().await, World::new());
    let queue = redis.queue().await;
    let mut later = spec("ok");
    later.not_before = Some(horus_keys::Timestamp::now().saturating_add(Duration::from_secs(60)));
    let ids = world.push(&queue, vec![spec("ok"), later, spec("claimed")]).await;
    let lease = world.lease(&queue, "w").await;
    queue.cancel(&ids[0]).await.unwrap();
    let claim = lease.claim_jobs(5).await.unwrap().jobs;
    assert_eq!(claim.len(), 1, "the cancelled one and the delayed one are not delivered");
    for id in &ids {
        assert_eq!(queue.cancel(id).await.unwrap(), Some(JobStatus::Cancelled));
        assert_eq!(status(&queue, id).await, JobStatus::Cancelled);
    }
    let job = &claim[0];
    assert_eq!(
        lease.start(&[(&job.id, job.token, false)]).await.unwrap().1,
        [0],
        "a claimed job does not start any more"
    );
    assert_eq!(queue.cancel(&"fake-unknown".parse().unwrap()).await.unwrap(), None);
    let result = queue.result(&ids[0]).await.unwrap().unwrap();
    assert!(result.receipt.is_none() && result.error.unwrap().code == "CANCELLED");
    healthy(&queue).await;
}

#[tokio::test]
async fn a_running_job_is_cancelled_without_waiting_for_its_heartbeat() {
    let (redis, world) = (Redis::start().await, World::new());
    let queue = redis.queue().await;
    // The heartbeat, which would tell too, comes far too late.
    let mut options = world.options("w");
    options.lease = Duration::from_secs(600);
    let worker = world.work(&queue, Fake::default(), options);
    let id = world.push_one(&queue, spec("hang")).await;
    eventually("it runs", async || (status(&queue, &id).await == JobStatus::Running).then_some(())).await;
    let asked = Instant::now();
    assert_eq!(queue.cancel(&id).await.unwrap(), Some(JobStatus::Running));
    let result = ended(&queue, &id).await;
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    assert_eq!(result.status, JobStatus::Cancelled);
    assert!(result.receipt.is_some());
    assert_eq!(queue.cancel(&id).await.unwrap(), Some(JobStatus::Cancelled), "again does no harm");
    worker.stop().await;
    healthy(&queue).await;
}

#[tokio::test]
async fn a_cancelled_job_of_a_dead_worker_is_not_delivered_again() {
    let (redis, world) = (Redis::start().await, World::new());
    let queue = redis.queue().await;
    let mut job = spec("ok");
    job.idempotent = Some(true);
    let id = world.push_one(&queue, job).await;
    let lease = world.lease(&queue, "w").await;
    let claimed = lease.claim_jobs(1).await.unwrap().jobs.remove(0);
    lease.start(&[(&claimed.id, claimed.token, true)]).await.unwrap();
    assert_eq!(queue.cancel(&id).await.unwrap(), Some(JobStatus::Running));
    assert!(queue.get(&id).await.unwrap().unwrap().cancel_requested);
    let mut observer = LeaseObserver::new();
    eventually("its lease lapses", async || {
        (!queue.reap(&[kind()], &mut observer).await.unwrap().is_empty()).then_some(())
    })
    .await;
    assert_eq!(status(&queue, &id).await, JobStatus::Cancelled);
    healthy(&queue).await;
}
