//! The life of jobs in the hands of a worker.

use std::time::Duration;

use horus_keys::{Digest, Timestamp};
use horus_runners::{
    job::{JobStatus, Priority},
    queue::FinishedEvent,
};

use crate::harness::*;

#[tokio::test]
async fn jobs_end_as_their_scripts_do_and_the_receipts_say_so() {
    let (redis, world) = (Redis::start().await, World::new());
    let queue = redis.queue().await;
    let worker = world.work(&queue, Fake::default(), world.options("w"));
    let (jobs, envelope) = world.batch(vec![spec("hello"), spec("fail"), spec("panic")]);
    queue.push(&jobs, &envelope, &[], &[]).await.unwrap();
    let expected =
        [(JobStatus::Succeeded, None), (JobStatus::Failed, Some("NO_LUCK")), (JobStatus::Failed, Some("PANIC"))];
    for (job, (status, code)) in jobs.iter().zip(expected) {
        let result = ended(&queue, &job.id).await;
        assert_eq!((result.status, result.error.as_ref().map(|e| e.code.as_str())), (status, code));
        let receipt = result.receipt.expect("a runner finished it");
        let output = result.output.as_ref().map(|raw| raw.get().as_bytes());
        let receipt = world
            .verifier
            .check_result(&receipt.envelope, receipt.index, &job.id, Some(&job.spec), output, Timestamp::now())
            .unwrap();
        assert_eq!((receipt.outcome, receipt.attempt), (status, 1));
        assert_eq!(receipt.output, output.map(Digest::of));
        let view = queue.get(&job.id).await.unwrap().unwrap();
        assert_eq!((view.started_at, view.finished_at), (Some(receipt.started_at), Some(receipt.finished_at)));
        assert_eq!((view.attempt, view.submitter), (1, world.submitter.peer_id()));
    }
    worker.stop().await;
    assert!(queue.runners().await.unwrap().is_empty(), "a worker that stops leaves the register");
    healthy(&queue).await;
}

#[tokio::test]
async fn the_batch_goes_with_its_last_unfinished_job() {
    let (redis, world) = (Redis::start().await, World::new());
    let queue = redis.queue().await;
    let ids = world.push(&queue, specs(3, "ok")).await;
    let mut link = redis.raw().await;
    let mut batches = async || {
        redis::cmd("KEYS").arg("horus:{fake}:batch:*").query_async::<Vec<String>>(&mut link).await.unwrap().len()
    };
    assert_eq!(batches().await, 1);
    let worker = world.work(&queue, Fake::default(), world.options("w"));
    for id in &ids {
        ended(&queue, id).await;
    }
    assert_eq!(batches().await, 0);
    worker.stop().await;
}

#[tokio::test]
async fn urgent_jobs_go_first_and_equals_in_their_order() {
    let (redis, world) = (Redis::start().await, World::new());
    let queue = redis.queue().await;
    let with = |priority| {
        let mut job = spec("ok");
        job.priority = Some(priority);
        job
    };
    let ids = world
        .push(
            &queue,
            [Priority::Low, Priority::Normal, Priority::High, Priority::Normal, Priority::High].map(with).into(),
        )
        .await;
    let lease = world.lease(&queue, "w").await;
    let mut order = Vec::new();
    for want in [2, 2, 9] {
        let claim = lease.claim_jobs(want).await.unwrap();
        order.extend(claim.jobs.into_iter().map(|job| ids.iter().position(|id| *id.local() == job.id).unwrap()));
    }
    assert_eq!(order, [2, 4, 1, 3, 0]);
    healthy(&queue).await;
}

#[tokio::test]
async fn who_waits_for_results_is_told() {
    let (redis, world) = (Redis::start().await, World::new());
    let queue = redis.queue().await;
    let mut events = queue.finished().await.unwrap();
    let worker = world.work(&queue, Fake::default(), world.options("w"));
    let mut ids = world.push(&queue, specs(5, "ok")).await;
    while !ids.is_empty() {
        match within(events.next()).await {
            FinishedEvent::Finished(ended) => {
                ids.retain(|id| !ended.jobs.contains(id));
                // Short results come along, and are what the keys hold.
                let told = ended.results().expect("the results are short");
                let read = queue.results(&ended.jobs).await.unwrap();
                let read: Vec<_> = read.into_iter().map(|result| result.expect("the job is there")).collect();
                assert_eq!(serde_json::to_string(&told).unwrap(), serde_json::to_string(&read).unwrap());
            }
            FinishedEvent::Resync => panic!("the connection was never lost"),
        }
    }
    worker.stop().await;
}

#[tokio::test]
async fn listeners_are_told_when_they_may_have_missed_something() {
    let (mut redis, world) = (Redis::start().await, World::new());
    let queue = redis.queue().await;
    let mut events = queue.finished().await.unwrap();
    redis.kill();
    redis.restart().await;
    assert_eq!(within(events.next()).await, FinishedEvent::Resync);
    let id = eventually("the queue takes jobs again", async || {
        let (jobs, envelope) = world.batch(vec![spec("ok")]);
        queue.push(&jobs, &envelope, &[], &[]).await.ok().map(|pushed| pushed[0].job_id.clone())
    })
    .await;
    queue.cancel(&id).await.unwrap();
    match within(events.next()).await {
        FinishedEvent::Finished(ended) => assert_eq!(ended.jobs, [id]),
        FinishedEvent::Resync => panic!("the connection was not lost again"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_workers_execute_no_job_twice() {
    let (redis, world) = (Redis::start().await, World::new());
    let queue = redis.queue().await;
    let fake = Fake::default();
    let workers =
        [world.work(&queue, fake.clone(), world.options("a")), world.work(&queue, fake.clone(), world.options("b"))];
    let mut ids = Vec::new();
    for _ in 0..20 {
        ids.extend(world.push(&queue, specs(50, "ok")).await);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for id in &ids {
        assert_eq!(ended(&queue, id).await.status, JobStatus::Succeeded);
    }
    let all = fake.ledger.all();
    assert_eq!(all.len(), ids.len());
    assert!(all.values().all(|count| *count == 1));
    let names: std::collections::BTreeSet<_> = futures_names(&queue, &ids).await;
    assert_eq!(names.len(), 2, "both took part: {names:?}");
    for worker in workers {
        worker.stop().await;
    }
    healthy(&queue).await;
}

async fn futures_names(
    queue: &horus_runners::queue::Queue,
    ids: &[horus_runners::job::JobId],
) -> std::collections::BTreeSet<String> {
    let mut names = std::collections::BTreeSet::new();
    for id in ids {
        names.extend(queue.get(id).await.unwrap().unwrap().worker);
    }
    names
}
