//! Accepting jobs: all or nothing, once, and only as many as fit.

use horus_runners::{
    job::{JobStatus, LocalId},
    queue::{QueueError, QueueOptions},
};

use crate::harness::*;

#[tokio::test]
async fn the_same_job_is_accepted_once_and_another_under_its_id_never() {
    let (redis, world) = (Redis::start().await, World::new());
    let queue = redis.queue().await;
    let first = spec("one");
    let (jobs, envelope) = world.batch(vec![first.clone()]);
    let created = queue.push(&jobs, &envelope, &[], &[]).await.unwrap();
    assert!(created[0].created && created[0].status == JobStatus::Queued);
    let again = queue.push(&jobs, &envelope, &[], &[]).await.unwrap();
    assert!(!again[0].created && again[0].job_id == created[0].job_id);

    // The same job in another batch is the same job; a new one beside it is accepted.
    let (more, envelope) = world.batch(vec![first.clone(), spec("two")]);
    queue.check(&more).await.unwrap();
    let pushed = queue.push(&more, &envelope, &[], &[]).await.unwrap();
    assert_eq!(pushed.iter().map(|job| job.created).collect::<Vec<_>>(), [false, true]);

    let mut other = first.clone();
    other.payload = Some("other".to_owned());
    let (jobs, envelope) = world.batch(vec![spec("three"), other]);
    for result in [queue.check(&jobs).await, queue.push(&jobs, &envelope, &[], &[]).await.map(drop)] {
        let error = result.unwrap_err();
        assert!(matches!(error, QueueError::IdConflict { index: 1, .. }), "{error}");
    }
    assert!(queue.get(&jobs[0].id).await.unwrap().is_none(), "one refusal refuses the batch");
    assert_eq!(queue.depth(&kind()).await.unwrap().queued, 2);

    // Another submitter may not adopt it, not even with the same bytes.
    let mut stranger = World::new();
    stranger.supervisor = world.supervisor;
    let (jobs, envelope) = stranger.batch(vec![first]);
    let error = queue.push(&jobs, &envelope, &[], &[]).await.unwrap_err();
    assert!(matches!(error, QueueError::IdConflict { index: 0, .. }), "{error}");
    healthy(&queue).await;
}

#[tokio::test]
async fn a_full_queue_refuses_new_jobs_and_knows_the_old_ones() {
    let (redis, world) = (Redis::start().await, World::new());
    let queue = redis.queue_with(QueueOptions { max_queue: 10, ..QueueOptions::default() }).await;
    let (jobs, envelope) = world.batch(specs(8, "ok"));
    queue.push(&jobs, &envelope, &[], &[]).await.unwrap();
    let (more, other) = world.batch(specs(3, "ok"));
    for result in [queue.check(&more).await, queue.push(&more, &other, &[], &[]).await.map(drop)] {
        assert!(matches!(result.unwrap_err(), QueueError::Full { queued: 8, max: 10, .. }));
    }
    assert!(queue.push(&jobs, &envelope, &[], &[]).await.unwrap().iter().all(|job| !job.created));
    world.push(&queue, specs(2, "ok")).await;
    healthy(&queue).await;
}

#[tokio::test]
async fn a_deleted_job_cannot_be_replayed() {
    let (redis, world) = (Redis::start().await, World::new());
    let queue = redis.queue().await;
    let (jobs, envelope) = world.batch(vec![spec("one")]);
    let id = &jobs[0].id;
    queue.push(&jobs, &envelope, &[], &[]).await.unwrap();
    assert!(!queue.delete(id).await.unwrap(), "only finished jobs can be deleted");
    assert_eq!(queue.cancel(id).await.unwrap(), Some(JobStatus::Cancelled));
    assert!(queue.delete(id).await.unwrap());
    assert!(queue.get(id).await.unwrap().is_none() && queue.result(id).await.unwrap().is_none());
    assert_eq!(queue.cancel(id).await.unwrap(), None);
    assert!(!queue.delete(id).await.unwrap());

    let again = queue.push(&jobs, &envelope, &[], &[]).await.unwrap();
    assert!(!again[0].created && again[0].status == JobStatus::Cancelled);
    let mut other = spec("other");
    other.id = LocalId::new(id.local().as_str()).unwrap();
    let (jobs, envelope) = world.batch(vec![other]);
    assert!(matches!(queue.push(&jobs, &envelope, &[], &[]).await.unwrap_err(), QueueError::IdConflict { .. }));
    healthy(&queue).await;
}

#[tokio::test]
async fn what_was_accepted_survives_a_kill_of_redis() {
    let (mut redis, world) = (Redis::start().await, World::new());
    let queue = redis.queue().await;
    let mut link = redis.raw().await;
    redis::cmd("CONFIG").arg(&["SET", "appendfsync", "always"]).exec_async(&mut link).await.unwrap();
    let ids = world.push(&queue, specs(20, "ok")).await;
    redis.kill();
    assert!(matches!(queue.get(&ids[0]).await.unwrap_err(), QueueError::Unavailable(_)));
    redis.restart().await;
    let found = eventually("the queue reconnects", async || queue.statuses(&ids).await.ok()).await;
    assert_eq!(found, vec![Some(JobStatus::Queued); 20]);
    healthy(&queue).await;
}

#[tokio::test]
async fn a_queued_job_costs_little_beside_its_envelope() {
    let (redis, world) = (Redis::start().await, World::new());
    let queue = redis.queue().await;
    let mut link = redis.raw().await;
    let mut used = async || {
        let info: String = redis::cmd("INFO").arg("memory").query_async(&mut link).await.unwrap();
        let line = info.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap();
        line.trim().parse::<i64>().unwrap()
    };
    // Scripts and buffers are there from the first push on.
    world.push(&queue, specs(1, "ok")).await;
    let before = used().await;
    let (mut envelopes, count) = (0, 40 * 100);
    for _ in 0..40 {
        let (jobs, envelope) = world.batch(specs(100, "ok"));
        envelopes += envelope.to_json().len();
        queue.push(&jobs, &envelope, &[], &[]).await.unwrap();
    }
    let each = (used().await - before - i64::try_from(envelopes).unwrap()) / count;
    println!("{each} bytes per queued job over its envelope");
    assert!(each < 1200, "{each}");
}
