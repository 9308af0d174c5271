//! How fast the queue is: printed, and held against a bound that only a change for the much worse breaks.

use std::time::{Duration, Instant};

use horus_runners::queue::FinishedEvent;

use crate::harness::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn throughput_and_latency() {
    let (redis, world) = (Redis::start().await, World::new());
    let queue = redis.queue().await;
    let mut options = world.options("w");
    options.concurrency = 32;
    options.lease = Duration::from_secs(15);
    let worker = world.work(&queue, Fake { idempotent: true, ..Fake::default() }, options);

    let count = 5000;
    let batches: Vec<_> = (0..count / 50).map(|_| world.batch(specs(50, "ok"))).collect();
    let mut events = queue.finished().await.unwrap();
    let start = Instant::now();
    let pusher = tokio::spawn({
        let queue = queue.clone();
        async move {
            for (jobs, envelope) in &batches {
                queue.push(jobs, envelope, &[], &[]).await.unwrap();
            }
        }
    });
    let mut done = 0;
    while done < count {
        if let FinishedEvent::Finished(ended) = within(events.next()).await {
            done += ended.jobs.len();
        }
    }
    pusher.await.unwrap();
    let per_second = f64::from(u32::try_from(count).unwrap()) / start.elapsed().as_secs_f64();

    let mut latencies = Vec::new();
    for _ in 0..200 {
        let (jobs, envelope) = world.batch(vec![spec("ok")]);
        let start = Instant::now();
        queue.push(&jobs, &envelope, &[], &[]).await.unwrap();
        while let FinishedEvent::Finished(ended) = within(events.next()).await {
            if ended.jobs.contains(&jobs[0].id) {
                break;
            }
        }
        queue.result(&jobs[0].id).await.unwrap().unwrap();
        latencies.push(start.elapsed());
    }
    latencies.sort();
    println!(
        "{per_second:.0} jobs per second end to end; one at a time p50 {:?}, p99 {:?}",
        latencies[100], latencies[197]
    );
    assert!(per_second > 500.0, "{per_second}");
    assert!(latencies[100] < Duration::from_millis(50), "{:?}", latencies[100]);
    worker.stop().await;
    healthy(&queue).await;
}
