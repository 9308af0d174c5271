//! Delayed jobs, expired jobs, and jobs that were finished long ago.

use std::time::Duration;

use horus_keys::Timestamp;
use horus_runners::{job::JobStatus, queue::QueueOptions};

use crate::harness::*;

fn soon(ms: u64) -> Timestamp {
    Timestamp::now().saturating_add(Duration::from_millis(ms))
}

#[tokio::test]
async fn a_delayed_job_waits_for_its_time() {
    let (redis, world) = (Redis::start().await, World::new());
    let queue = redis.queue().await;
    let mut job = spec("ok");
    job.not_before = Some(soon(400));
    let id = world.push_one(&queue, job).await;
    assert_eq!(status(&queue, &id).await, JobStatus::Delayed);
    let lease = world.lease(&queue, "w").await;
    assert!(lease.claim_jobs(1).await.unwrap().jobs.is_empty());
    let next = queue.sweep(&kind()).await.unwrap().next.unwrap();
    assert!(next <= Duration::from_millis(400), "{next:?}");
    healthy(&queue).await;
    tokio::time::sleep(next + Duration::from_millis(5)).await;
    assert_eq!(queue.sweep(&kind()).await.unwrap().due, 1);
    assert_eq!(status(&queue, &id).await, JobStatus::Queued);
    assert_eq!(lease.claim_jobs(1).await.unwrap().jobs.len(), 1);
    healthy(&queue).await;
}

#[tokio::test]
async fn workers_find_due_jobs_without_a_sweep() {
    let (redis, world) = (Redis::start().await, World::new());
    let queue = redis.queue().await;
    let mut job = spec("ok");
    job.not_before = Some(soon(50));
    world.push_one(&queue, job).await;
    tokio::time::sleep(Duration::from_millis(60)).await;
    let lease = world.lease(&queue, "w").await;
    assert_eq!(lease.claim_jobs(1).await.unwrap().jobs.len(), 1);
    healthy(&queue).await;
}

#[tokio::test]
async fn a_job_that_waited_too_long_expires() {
    let (redis, world) = (Redis::start().await, World::new());
    let queue = redis.queue().await;
    let short = |not_before| {
        let mut job = spec("ok");
        job.run_until = Some(soon(150));
        job.not_before = not_before;
        job
    };
    let ids = world.push(&queue, vec![short(None), short(Some(soon(140))), spec("ok")]).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let swept = queue.sweep(&kind()).await.unwrap();
    assert_eq!(swept.expired, 2);
    for id in &ids[..2] {
        let result = queue.result(id).await.unwrap().unwrap();
        assert_eq!((result.status, result.error.unwrap().code.as_str()), (JobStatus::Expired, "EXPIRED"));
    }
    assert_eq!(status(&queue, &ids[2]).await, JobStatus::Queued);
    healthy(&queue).await;
}

#[tokio::test]
async fn a_job_that_expired_after_it_was_claimed_is_not_started() {
    let (redis, world) = (Redis::start().await, World::new());
    let queue = redis.queue().await;
    let mut job = spec("ok");
    job.run_until = Some(soon(150));
    let id = world.push_one(&queue, job).await;
    let lease = world.lease(&queue, "w").await;
    let claimed = lease.claim_jobs(1).await.unwrap().jobs;
    // As if Redis had been away meanwhile.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let (_, attempts) = lease.start(&[(&claimed[0].id, claimed[0].token, false)]).await.unwrap();
    assert_eq!(attempts, [0]);
    let result = queue.result(&id).await.unwrap().unwrap();
    assert_eq!((result.status, result.error.unwrap().code.as_str()), (JobStatus::Expired, "EXPIRED"));
    healthy(&queue).await;
}

#[tokio::test]
async fn an_expired_job_is_never_delivered() {
    let (redis, world) = (Redis::start().await, World::new());
    let queue = redis.queue().await;
    let mut job = spec("ok");
    job.run_until = Some(soon(50));
    let ids = world.push(&queue, vec![job, spec("ok")]).await;
    tokio::time::sleep(Duration::from_millis(60)).await;
    let lease = world.lease(&queue, "w").await;
    let claim = lease.claim_jobs(1).await.unwrap().jobs;
    assert_eq!(claim.len(), 1, "it does not cost the next one its turn");
    assert_eq!(claim[0].id, *ids[1].local());
    assert_eq!(status(&queue, &ids[0]).await, JobStatus::Expired);
    healthy(&queue).await;
}

#[tokio::test]
async fn finished_jobs_are_forgotten_by_age_and_by_number() {
    let (redis, world) = (Redis::start().await, World::new());
    let options = QueueOptions { retention: Duration::from_millis(500), max_finished: 6, ..QueueOptions::default() };
    let queue = redis.queue_with(options).await;
    let fake = Fake::default();
    let worker = world.work(&queue, fake, world.options("w"));
    let ids = world.push(&queue, specs(10, "log 3")).await;
    for id in &ids {
        ended(&queue, id).await;
    }
    queue.sweep(&kind()).await.unwrap();
    let left = queue.statuses(&ids).await.unwrap().into_iter().flatten().count();
    assert_eq!(left, 6);
    healthy(&queue).await;
    let next = queue.sweep(&kind()).await.unwrap().next.unwrap();
    tokio::time::sleep(next + Duration::from_millis(50)).await;
    queue.sweep(&kind()).await.unwrap();
    assert_eq!(queue.statuses(&ids).await.unwrap().into_iter().flatten().count(), 0);
    worker.stop().await;
    healthy(&queue).await;
    // What stays are stubs against replay, the register, and counters: no outputs, logs, receipts or batches.
    let mut link = redis.raw().await;
    let keys: Vec<String> = redis::cmd("KEYS").arg("*").query_async(&mut link).await.unwrap();
    let rest: Vec<_> = keys.iter().filter(|key| !key.contains(":job:")).collect();
    assert_eq!(keys.len() - rest.len(), 10);
    assert!(rest.iter().all(|key| ["horus:kinds", "horus:{fake}:seq"].contains(&key.as_str())), "{rest:?}");
}
