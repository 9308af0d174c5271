//! Workers in trouble: killed, told to stop, cut off from Redis.

use std::time::Duration;

use horus_runners::{job::JobStatus, queue::LeaseObserver, worker::Worker};
use tokio_util::sync::CancellationToken;

use crate::harness::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_worker_leaves_a_sound_queue() {
    let (redis, world) = (Redis::start().await, World::new());
    let queue = redis.queue().await;
    let fake = Fake { idempotent: true, ..Fake::default() };
    let mut ids = Vec::new();
    for round in 0..10 {
        ids.extend(world.push(&queue, specs(30, "sleep 3")).await);
        // A runtime of its own, which can be stopped between any two awaits: like a kill, for what Redis sees of it.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let url = redis.url();
        let (fake, verifier, options) = (fake.clone(), world.verifier.clone(), world.options("w"));
        runtime.spawn(async move {
            let queue = horus_runners::queue::Queue::connect(&url, Default::default()).await.unwrap();
            Worker::new(fake, queue, verifier, options).run(CancellationToken::new()).await
        });
        tokio::time::sleep(Duration::from_millis(5 + 7 * round)).await;
        runtime.shutdown_background();
        healthy(&queue).await;
    }
    let (mut observer, worker) = (LeaseObserver::new(), world.work(&queue, fake.clone(), world.options("last")));
    eventually("every job ends", async || {
        queue.reap(&[kind()], &mut observer).await.unwrap();
        let all = queue.statuses(&ids).await.unwrap();
        all.into_iter().all(|status| status.unwrap().is_final()).then_some(())
    })
    .await;
    for id in &ids {
        let result = queue.result(id).await.unwrap().unwrap();
        assert_eq!(result.status, JobStatus::Succeeded, "{:?} {:?}", result.error, log(&queue, id).await);
        assert!(fake.ledger.get(&id.to_string()) >= 1);
    }
    worker.stop().await;
    healthy(&queue).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_must_not_run_twice_does_not_when_workers_are_killed() {
    let (redis, world) = (Redis::start().await, World::new());
    let queue = redis.queue().await;
    let fake = Fake::default();
    let ids = world.push(&queue, specs(200, "sleep 2")).await;
    for round in 0..6 {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let url = redis.url();
        let (fake, verifier, options) = (fake.clone(), world.verifier.clone(), world.options("w"));
        runtime.spawn(async move {
            let queue = horus_runners::queue::Queue::connect(&url, Default::default()).await.unwrap();
            Worker::new(fake, queue, verifier, options).run(CancellationToken::new()).await
        });
        tokio::time::sleep(Duration::from_millis(8 + 5 * round)).await;
        runtime.shutdown_background();
    }
    let (mut observer, worker) = (LeaseObserver::new(), world.work(&queue, fake.clone(), world.options("last")));
    eventually("every job ends", async || {
        queue.reap(&[kind()], &mut observer).await.unwrap();
        let all = queue.statuses(&ids).await.unwrap();
        all.into_iter().all(|status| status.unwrap().is_final()).then_some(())
    })
    .await;
    for id in &ids {
        let result = queue.result(id).await.unwrap().unwrap();
        assert!(matches!(result.status, JobStatus::Succeeded | JobStatus::Lost), "{:?}", result.error);
        let runs = fake.ledger.get(&id.to_string());
        assert!(runs <= 1, "{id} ran {runs} times");
        assert!(result.status != JobStatus::Succeeded || runs == 1);
    }
    worker.stop().await;
    healthy(&queue).await;
}

#[tokio::test]
async fn a_worker_that_is_told_to_stop_drains() {
    let (redis, world) = (Redis::start().await, World::new());
    let queue = redis.queue().await;
    let worker = world.work(&queue, Fake::default(), world.options("w"));
    let running = world.push(&queue, specs(8, "sleep 300")).await;
    eventually("they run", async || {
        let all = queue.statuses(&running).await.unwrap();
        all.into_iter().all(|status| status == Some(JobStatus::Running)).then_some(())
    })
    .await;
    let waiting = world.push(&queue, specs(3, "ok")).await;
    worker.stop().await;
    for id in &running {
        assert_eq!(status(&queue, id).await, JobStatus::Succeeded, "what runs may end");
    }
    for id in &waiting {
        assert_eq!(status(&queue, id).await, JobStatus::Queued, "what waits is left to others");
    }
    healthy(&queue).await;
}

#[tokio::test]
async fn beyond_its_grace_a_worker_gives_back_or_says_what_it_broke_off() {
    for idempotent in [false, true] {
        let (redis, world) = (Redis::start().await, World::new());
        let queue = redis.queue().await;
        let mut options = world.options("w");
        options.grace = Duration::from_millis(100);
        let worker = world.work(&queue, Fake { idempotent, ..Fake::default() }, options);
        let id = world.push_one(&queue, spec("hang")).await;
        eventually("it runs", async || (status(&queue, &id).await == JobStatus::Running).then_some(())).await;
        worker.stop().await;
        if idempotent {
            assert_eq!(status(&queue, &id).await, JobStatus::Queued);
        } else {
            let result = queue.result(&id).await.unwrap().unwrap();
            assert_eq!((result.status, result.error.unwrap().code.as_str()), (JobStatus::Failed, "INTERRUPTED"));
        }
        healthy(&queue).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn results_survive_an_absence_of_redis() {
    let (mut redis, world) = (Redis::start().await, World::new());
    let queue = redis.queue().await;
    let mut link = redis.raw().await;
    redis::cmd("CONFIG").arg(&["SET", "appendfsync", "always"]).exec_async(&mut link).await.unwrap();
    let fake = Fake::default();
    let mut options = world.options("w");
    options.lease = Duration::from_secs(30);
    let worker = world.work(&queue, fake.clone(), options);
    let ids = world.push(&queue, specs(8, "sleep 400")).await;
    eventually("they run", async || {
        let all = queue.statuses(&ids).await.unwrap();
        all.into_iter().all(|status| status == Some(JobStatus::Running)).then_some(())
    })
    .await;
    redis.kill();
    // The jobs end while Redis is away.
    tokio::time::sleep(Duration::from_millis(700)).await;
    redis.restart().await;
    for id in &ids {
        let result =
            eventually("Redis is back", async || queue.result(id).await.ok().flatten().filter(|r| r.status.is_final()));
        assert_eq!(result.await.status, JobStatus::Succeeded);
        assert_eq!(fake.ledger.get(&id.to_string()), 1);
    }
    // And the worker goes on by itself.
    let more = eventually("the queue takes jobs again", async || {
        let (jobs, envelope) = world.batch(vec![spec("ok")]);
        queue.push(&jobs, &envelope, &[], &[]).await.ok().map(|pushed| pushed[0].job_id.clone())
    })
    .await;
    assert_eq!(ended(&queue, &more).await.status, JobStatus::Succeeded);
    worker.stop().await;
    healthy(&queue).await;
}

#[tokio::test]
async fn a_job_that_runs_too_long_is_timed_out() {
    let (redis, world) = (Redis::start().await, World::new());
    let queue = redis.queue().await;
    let worker = world.work(&queue, Fake::default(), world.options("w"));
    let mut job = spec("hang");
    job.timeout_ms = Some(100);
    let id = world.push_one(&queue, job).await;
    let result = ended(&queue, &id).await;
    assert_eq!((result.status, result.error.unwrap().code.as_str()), (JobStatus::TimedOut, "TIMED_OUT"));
    worker.stop().await;
}
