//! Listing jobs.

use horus_runners::{
    job::{JobId, JobStatus},
    queue::JobFilter,
};

use crate::harness::*;

#[tokio::test]
async fn pages_hold_every_job_once_newest_first() {
    let (redis, world) = (Redis::start().await, World::new());
    let queue = redis.queue().await;
    let mut ids = Vec::new();
    for round in 0..6 {
        let mut jobs = specs(5, "ok");
        if round % 2 == 1 {
            jobs.iter_mut().for_each(|job| job.runner = "other".parse().unwrap());
        }
        ids.extend(world.push(&queue, jobs).await);
        tokio::time::sleep(std::time::Duration::from_millis(3)).await;
    }
    ids.reverse();
    for limit in [1, 4, 7, 100] {
        let (mut found, mut cursor): (Vec<JobId>, _) = (Vec::new(), None);
        loop {
            let page = queue.list(&JobFilter::default(), cursor.as_deref(), limit).await.unwrap();
            assert!(page.jobs.len() <= limit);
            found.extend(page.jobs.into_iter().map(|job| job.job_id));
            cursor = page.cursor;
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!(found, ids, "limit {limit}");
    }
    let filter = JobFilter { runner: Some("other".parse().unwrap()), ..JobFilter::default() };
    assert_eq!(queue.list(&filter, None, 100).await.unwrap().jobs.len(), 15);
}

#[tokio::test]
async fn filters_find_the_needle() {
    let (redis, world) = (Redis::start().await, World::new());
    let queue = redis.queue().await;
    let mut other = World::new();
    other.supervisor = world.supervisor;
    let needle = other.push_one(&queue, spec("ok")).await;
    for _ in 0..15 {
        world.push(&queue, specs(100, "ok")).await;
    }
    let filter = JobFilter { submitter: Some(other.submitter.peer_id()), ..JobFilter::default() };
    let page = queue.list(&filter, None, 10).await.unwrap();
    assert_eq!(page.jobs.iter().map(|job| &job.job_id).collect::<Vec<_>>(), [&needle]);
    assert_eq!(page.cursor, None);
    let filter = JobFilter { status: Some(JobStatus::Cancelled), ..JobFilter::default() };
    assert!(queue.list(&filter, None, 10).await.unwrap().jobs.is_empty());
    queue.cancel(&needle).await.unwrap();
    assert_eq!(queue.list(&filter, None, 10).await.unwrap().jobs.len(), 1);
    assert!(queue.list(&filter, Some("rubbish"), 10).await.unwrap().jobs.is_empty());
}
