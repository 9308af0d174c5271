//! Trouble with Redis: said at once, recovered from by itself, nothing lost that was acknowledged.

use std::time::{Duration, Instant};

use horus_node::api::supervisor::*;
use horus_node::role::Health;
use horus_runners::job::JobStatus;
use horus_transport::{ErrorKind, RpcError};

use crate::harness::*;

async fn healthz(place: &Place) -> (u16, serde_json::Value) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(place.url.trim_start_matches("http://")).await.unwrap();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: horus\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap())
}

async fn create(place: &Place) -> Result<CreatedJobs, RpcError> {
    place.create(&place.sign(&place.alice, vec![spec("x")])).await
}

#[tokio::test]
async fn redis_dies_and_comes_back() {
    let mut place = Place::new().await;
    place.announce("fake").await;
    assert_eq!(healthz(&place).await.0, 200);
    let accepted = place.submit(&place.alice, "x").await;
    // `everysec`: what is a second old is on the disk.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    place.redis.kill();

    let error = create(&place).await.unwrap_err();
    is(&error, ErrorKind::RedisUnavailable);
    let began = Instant::now();
    for _ in 0..20 {
        is(&create(&place).await.unwrap_err(), ErrorKind::RedisUnavailable);
    }
    assert!(began.elapsed() < Duration::from_secs(2), "refused at once: {:?}", began.elapsed());
    let job = JobIdParams { job_id: accepted.clone() };
    is(&place.refused::<GetJob>(&place.alice, job.clone()).await, ErrorKind::RedisUnavailable);
    let report = eventually("/healthz says so", async || {
        let (status, report) = healthz(&place).await;
        (status == 503).then_some(report)
    })
    .await;
    assert!(report["troubles"]["redis"]["reason"].is_string(), "{report}");

    place.redis.restart().await;
    let began = Instant::now();
    within(place.health.untroubled(Health::REDIS)).await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    eventually("it goes on", async || create(&place).await.ok()).await;
    assert_eq!(place.call::<GetJob>(&place.alice, job).await.unwrap().status, JobStatus::Queued);
    eventually("/healthz says so", async || (healthz(&place).await.0 == 200).then_some(())).await;

    // Those who wait are woken again.
    let client = place.client(&place.alice);
    let params = WaitJobsParams { job_ids: vec![accepted], timeout_ms: 15_000, any: false, share_receipts: false };
    let waiting = tokio::spawn(async move { client.call::<WaitJobs>(&params).await });
    let _worker = place.work("fake").await;
    assert_eq!(within(waiting).await.unwrap().unwrap().done.len(), 1);
}

#[tokio::test]
async fn a_redis_that_takes_no_writes_is_trouble_too() {
    let place = Place::new().await;
    place.announce("fake").await;
    place.redis.command(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let error = create(&place).await.unwrap_err();
    is(&error, ErrorKind::RedisUnavailable);
    assert!(error.message.contains("maxmemory"), "{error}");
    eventually("/healthz says so", async || (healthz(&place).await.0 == 503).then_some(())).await;
    place.redis.command(&["CONFIG", "SET", "maxmemory", "0"]).await;
    eventually("it goes on", async || create(&place).await.ok()).await;

    place.redis.command(&["REPLICAOF", "127.0.0.1", "1"]).await;
    let error = create(&place).await.unwrap_err();
    is(&error, ErrorKind::RedisUnavailable);
    assert!(error.message.contains("replica"), "{error}");
    place.redis.command(&["REPLICAOF", "NO", "ONE"]).await;
    eventually("it goes on", async || create(&place).await.ok()).await;
}

#[tokio::test]
async fn trouble_is_noticed_although_nobody_calls() {
    let mut place = Place::new().await;
    place.redis.kill();
    within(place.health.troubled(Health::REDIS)).await;
    place.redis.restart().await;
    within(place.health.untroubled(Health::REDIS)).await;
}
