//! Fencing tokens, lost replies, and workers that die.

use std::time::Duration;

use horus_keys::{Envelope, PayloadType, Timestamp};
use horus_runners::{
    job::{JobId, JobStatus, LocalId},
    queue::{Claimed, Finish, Lease, LeaseObserver, Queue},
};

use crate::harness::*;

fn finish(job: &Claimed, status: JobStatus) -> Vec<Finish> {
    let finished_at = Timestamp::now();
    vec![Finish {
        id: job.id.clone(),
        token: job.token,
        status,
        finished_at,
        output: Some("1".to_owned()),
        error: None,
        index: 0,
    }]
}

fn receipts(world: &World, text: &str) -> Envelope {
    Envelope::sign(&world.runner, PayloadType::Receipts, text.as_bytes().to_vec())
}

async fn claim_one(lease: &Lease) -> Claimed {
    lease.claim_jobs(1).await.unwrap().jobs.remove(0)
}

async fn start(lease: &Lease, job: &Claimed, idempotent: bool) -> u32 {
    lease.start(&[(&job.id, job.token, idempotent)]).await.unwrap().1[0]
}

/// Reaps until somebody's lease has lapsed.
async fn reap(queue: &Queue, observer: &mut LeaseObserver) -> Vec<(JobId, JobStatus)> {
    eventually("a lease lapses", async || {
        let reaped = queue.reap(&[kind()], observer).await.unwrap();
        (!reaped.is_empty()).then(|| reaped.into_iter().map(|r| (r.job_id, r.status)).collect())
    })
    .await
}

#[tokio::test]
async fn calls_whose_reply_was_lost_can_be_repeated() {
    let (redis, world) = (Redis::start().await, World::new());
    let queue = redis.queue().await;
    let id = world.push_one(&queue, spec("ok")).await;
    let lease = world.lease(&queue, "w").await;
    let job = claim_one(&lease).await;
    assert_eq!(start(&lease, &job, false).await, 1);
    assert_eq!(start(&lease, &job, false).await, 1, "it started once");
    let receipts = receipts(&world, "r");
    for _ in 0..2 {
        assert_eq!(lease.finish(&finish(&job, JobStatus::Succeeded), &receipts).await.unwrap(), [true]);
    }
    assert!(log(&queue, &id).await.is_empty(), "nothing was refused");
    assert_eq!(start(&lease, &job, false).await, 0, "what has ended does not start");
    assert_eq!(status(&queue, &id).await, JobStatus::Succeeded);
    healthy(&queue).await;
}

#[tokio::test]
async fn a_claim_whose_reply_was_lost_is_given_back() {
    let (redis, world) = (Redis::start().await, World::new());
    let queue = redis.queue().await;
    world.push(&queue, specs(5, "ok")).await;
    let lease = world.lease(&queue, "w").await;
    let known = lease.claim_jobs(2).await.unwrap().jobs;
    lease.claim_jobs(2).await.unwrap();
    let held: Vec<LocalId> = known.iter().map(|job| job.id.clone()).collect();
    assert_eq!(lease.recover(&held).await.unwrap(), 2);
    assert_eq!(lease.recover(&held).await.unwrap(), 0);
    let depth = queue.depth(&kind()).await.unwrap();
    assert_eq!((depth.queued, depth.active), (3, 2));
    healthy(&queue).await;
}

#[tokio::test]
async fn a_job_that_never_started_is_delivered_again_three_times() {
    let (redis, world) = (Redis::start().await, World::new());
    let queue = redis.queue().await;
    let id = world.push_one(&queue, spec("ok")).await;
    let mut tokens = Vec::new();
    for delivery in 1..=4 {
        let lease = world.lease(&queue, "w").await;
        let job = claim_one(&lease).await;
        tokens.push(job.token);
        let mut observer = LeaseObserver::new();
        let expected = if delivery < 4 { JobStatus::Queued } else { JobStatus::Failed };
        assert_eq!(reap(&queue, &mut observer).await, [(id.clone(), expected)]);
        assert_eq!(start(&lease, &job, false).await, 0, "the token is void");
        healthy(&queue).await;
    }
    assert!(tokens.is_sorted() && tokens.windows(2).all(|pair| pair[0] != pair[1]));
    let result = queue.result(&id).await.unwrap().unwrap();
    assert_eq!(result.error.unwrap().code, "NOT_DELIVERED");
    assert_eq!(log(&queue, &id).await.len(), 4, "its history is told");
}

#[tokio::test]
async fn an_idempotent_job_that_no_runner_ever_finishes_is_lost_after_four_deliveries() {
    let (redis, world) = (Redis::start().await, World::new());
    let queue = redis.queue().await;
    let mut declared = spec("ok");
    declared.idempotent = Some(true);
    let id = world.push_one(&queue, declared).await;
    for delivery in 1..=4 {
        let lease = world.lease(&queue, "w").await;
        let job = claim_one(&lease).await;
        assert!(job.running, "its claim is its start");
        let expected = if delivery < 4 { JobStatus::Queued } else { JobStatus::Lost };
        assert_eq!(reap(&queue, &mut LeaseObserver::new()).await, [(id.clone(), expected)]);
        healthy(&queue).await;
    }
    let result = queue.result(&id).await.unwrap().unwrap();
    assert_eq!(result.status, JobStatus::Lost);
    assert_eq!(
        result.error.unwrap().code,
        "LEASE_LAPSED",
        "it may have run, so it is not said that it was not delivered"
    );
}

#[tokio::test]
async fn a_started_job_is_lost_unless_it_is_idempotent() {
    let (redis, world) = (Redis::start().await, World::new());
    let queue = redis.queue().await;
    let mut declared = spec("ok");
    declared.idempotent = Some(true);
    let ids = world.push(&queue, vec![spec("ok"), spec("ok"), declared]).await;
    let lease = world.lease(&queue, "w").await;
    let claim = lease.claim_jobs(3).await.unwrap().jobs;
    for (job, by_nature) in claim.iter().zip([false, true, false]) {
        assert_eq!(start(&lease, job, by_nature).await, 1);
    }
    let mut reaped = reap(&queue, &mut LeaseObserver::new()).await;
    reaped.sort();
    let expected = [JobStatus::Lost, JobStatus::Queued, JobStatus::Queued];
    let mut all: Vec<_> = ids.iter().cloned().zip(expected).collect();
    all.sort();
    assert_eq!(reaped, all);
    assert_eq!(queue.result(&ids[0]).await.unwrap().unwrap().error.unwrap().code, "LEASE_LAPSED");

    // The dead worker comes back: its results are refused, and the logs say so.
    let receipts = receipts(&world, "late");
    for job in &claim {
        assert_eq!(lease.finish(&finish(job, JobStatus::Succeeded), &receipts).await.unwrap(), [false]);
    }
    assert_eq!(status(&queue, &ids[0]).await, JobStatus::Lost);
    for id in &ids {
        let lines = log(&queue, id).await;
        assert!(lines.iter().any(|line| line.contains("late result") && line.contains("refused")), "{lines:?}");
    }

    // Whoever takes the job now starts it for the second time.
    let next = world.lease(&queue, "next").await;
    let job = claim_one(&next).await;
    assert_eq!(start(&next, &job, true).await, 2);
    assert_eq!(lease.finish(&finish(&claim[1], JobStatus::Failed), &receipts).await.unwrap(), [false]);
    assert_eq!(next.finish(&finish(&job, JobStatus::Succeeded), &receipts).await.unwrap(), [true]);
    healthy(&queue).await;
}

#[tokio::test]
async fn a_worker_that_shows_life_keeps_its_jobs() {
    let (redis, world) = (Redis::start().await, World::new());
    let queue = redis.queue().await;
    let id = world.push_one(&queue, spec("ok")).await;
    let lease = world.lease(&queue, "w").await;
    let job = claim_one(&lease).await;
    let held = [(job.id.clone(), job.token)];
    let mut observer = LeaseObserver::new();
    for _ in 0..20 {
        lease.heartbeat(1, &held).await.unwrap();
        assert!(queue.reap(&[kind()], &mut observer).await.unwrap().is_empty());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(status(&queue, &id).await, JobStatus::Queued);
    assert_eq!(start(&lease, &job, false).await, 1);
}

#[tokio::test]
async fn a_worker_may_give_back_what_it_has_not_started() {
    let (redis, world) = (Redis::start().await, World::new());
    let queue = redis.queue().await;
    let ids = world.push(&queue, specs(4, "ok")).await;
    let lease = world.lease(&queue, "w").await;
    for _ in 0..10 {
        let jobs = lease.claim_jobs(4).await.unwrap().jobs;
        let order: Vec<_> = jobs.iter().map(|job| job.id.as_str()).collect();
        assert_eq!(order, ids.iter().map(|id| id.local().as_str()).collect::<Vec<_>>(), "they keep their places");
        let back: Vec<_> = jobs.iter().map(|job| (&job.id, job.token)).collect();
        assert_eq!(lease.release(&back).await.unwrap(), [true; 4], "and it counts as no delivery");
        assert_eq!(lease.release(&back).await.unwrap(), [false; 4]);
    }
    let jobs = lease.claim_jobs(4).await.unwrap().jobs;
    start(&lease, &jobs[0], false).await;
    start(&lease, &jobs[1], true).await;
    let back: Vec<_> = jobs.iter().map(|job| (&job.id, job.token)).collect();
    assert_eq!(lease.release(&back).await.unwrap(), [false, true, true, true]);
    healthy(&queue).await;
}

#[tokio::test]
async fn a_job_that_no_worker_can_handle_does_not_go_round_for_ever() {
    let (redis, world) = (Redis::start().await, World::new());
    let queue = redis.queue().await;
    let id = world.push_one(&queue, spec("ok")).await;
    let lease = world.lease(&queue, "w").await;
    for _ in 0..4 {
        let job = claim_one(&lease).await;
        assert_eq!(lease.give_up(&[(&job.id, job.token)], "it cannot be read").await.unwrap(), [true]);
        assert_eq!(lease.give_up(&[(&job.id, job.token)], "it cannot be read").await.unwrap(), [false]);
        healthy(&queue).await;
    }
    let result = queue.result(&id).await.unwrap().unwrap();
    assert_eq!((result.status, result.error.unwrap().code.as_str()), (JobStatus::Failed, "NOT_DELIVERED"));
    assert!(log(&queue, &id).await.iter().all(|line| line.contains("it cannot be read")));
}

#[tokio::test]
async fn the_register_knows_who_lives() {
    let (redis, world) = (Redis::start().await, World::new());
    let queue = redis.queue().await;
    world.push(&queue, specs(3, "ok")).await;
    let lease = world.lease(&queue, "host one").await;
    lease.claim_jobs(1).await.unwrap();
    lease.heartbeat(1, &[]).await.unwrap();
    let view = queue.runners().await.unwrap().remove(0);
    assert_eq!((view.name.as_str(), view.running, view.concurrency, view.queued), ("host one", 1, 8, 2));
    assert_eq!(view.peer_id, world.runner.peer_id());
    assert_eq!(view.state, horus_runners::queue::RunnerState::Alive);
    assert_eq!(queue.remove_runner("host one").await.unwrap(), 0, "it lives");
    eventually("it is gone", async || {
        let view = queue.runners().await.unwrap().remove(0);
        (view.state == horus_runners::queue::RunnerState::Gone).then_some(())
    })
    .await;
    assert_eq!(queue.remove_runner("host one").await.unwrap(), 0, "it holds a job");
    reap(&queue, &mut LeaseObserver::new()).await;
    assert_eq!(queue.remove_runner("host one").await.unwrap(), 1);
    assert!(queue.runners().await.unwrap().is_empty());
}
