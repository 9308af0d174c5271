//! Servers in trouble, and servers of another sort.

use std::{
    process::{Child, Command, Stdio},
    time::Duration,
};

use horus_runners::{
    job::JobStatus,
    queue::{Queue, QueueError, QueueOptions},
};

use crate::harness::*;

async fn config(redis: &Redis, name: &str, value: &str) {
    redis::cmd("CONFIG").arg(&["SET", name, value]).exec_async(&mut redis.raw().await).await.unwrap();
}

#[tokio::test]
async fn when_memory_is_full_new_jobs_are_refused_and_the_others_get_done() {
    let (redis, world) = (Redis::start().await, World::new());
    let queue = redis.queue().await;
    let ids = world.push(&queue, specs(20, "log 5")).await;
    config(&redis, "maxmemory", "1mb").await;
    let (jobs, envelope) = world.batch(specs(1, "ok"));
    match queue.push(&jobs, &envelope, &[], &[]).await.unwrap_err() {
        QueueError::Unavailable(text) => assert!(text.contains("maxmemory"), "{text}"),
        other => panic!("{other}"),
    }
    let worker = world.work(&queue, Fake::default(), world.options("w"));
    for id in &ids {
        assert_eq!(ended(&queue, id).await.status, JobStatus::Succeeded);
    }
    config(&redis, "maxmemory", "0").await;
    queue.push(&jobs, &envelope, &[], &[]).await.unwrap();
    assert_eq!(ended(&queue, &jobs[0].id).await.status, JobStatus::Succeeded);
    worker.stop().await;
    healthy(&queue).await;
}

#[tokio::test]
async fn a_read_only_replica_is_named_as_such_every_time() {
    let (redis, world) = (Redis::start().await, World::new());
    let queue = redis.queue().await;
    let mut raw = redis.raw().await;
    redis::cmd("REPLICAOF").arg("127.0.0.1").arg(1).exec_async(&mut raw).await.unwrap();
    // Each refusal asks whether the address leads to a primary by now: no call of another may suffer from that.
    let (jobs, envelope) = world.batch(specs(1, "ok"));
    for _ in 0..40 {
        let pushes = std::iter::repeat_with(|| queue.push(&jobs, &envelope, &[], &[])).take(4);
        for pushed in futures::future::join_all(pushes).await {
            match pushed.unwrap_err() {
                QueueError::Unavailable(text) => assert!(text.contains("read-only replica"), "{text}"),
                other => panic!("{other}"),
            }
            queue.ping().await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let clients: String = redis::cmd("CLIENT").arg("LIST").query_async(&mut raw).await.unwrap();
    assert!(clients.lines().count() < 10, "connections are left open: {clients}");
    redis::cmd("REPLICAOF").arg("NO").arg("ONE").exec_async(&mut raw).await.unwrap();
    queue.push(&jobs, &envelope, &[], &[]).await.unwrap();
}

#[tokio::test]
async fn a_redis_that_lost_its_data_is_put_to_use_again() {
    let (redis, world) = (Redis::start().await, World::new());
    let queue = redis.queue().await;
    let fake = Fake::default();
    let worker = world.work(&queue, fake.clone(), world.options("w"));
    let lost = world.push_one(&queue, spec("sleep 200")).await;
    eventually("it runs", async || (status(&queue, &lost).await == JobStatus::Running).then_some(())).await;
    redis::cmd("FLUSHALL").exec_async(&mut redis.raw().await).await.unwrap();
    redis::cmd("SCRIPT").arg("FLUSH").exec_async(&mut redis.raw().await).await.unwrap();
    let id = world.push_one(&queue, spec("ok")).await;
    assert_eq!(ended(&queue, &id).await.status, JobStatus::Succeeded);
    eventually("the worker is registered again", async || (queue.runners().await.unwrap().len() == 1).then_some(()))
        .await;
    assert!(queue.result(&lost).await.unwrap().is_none(), "its result found no job");
    worker.stop().await;
    healthy(&queue).await;
}

/// A cluster of one node.
struct Cluster {
    child: Child,
    port: u16,
    _dir: tempfile::TempDir,
}

impl Cluster {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for attempt in 0..20_u16 {
            // The port of the cluster's bus is 10,000 higher.
            let port = 20_000 + (u16::try_from(std::process::id() % 1000).unwrap() * 20 + attempt);
            let mut child = Command::new("redis-server")
                .args([
                    "--port",
                    &port.to_string(),
                    "--cluster-enabled",
                    "yes",
                    "--save",
                    "",
                    "--bind",
                    "127.0.0.1",
                    "--dir",
                ])
                .arg(dir.path())
                .stdout(Stdio::null())
                .spawn()
                .expect("no redis-server on PATH: install one, for example with `apt-get install redis-server`");
            let client = redis::Client::open(format!("redis://127.0.0.1:{port}")).unwrap();
            let link = eventually("it answers, or the port was taken", async || {
                if child.try_wait().unwrap().is_some() {
                    return Some(None);
                }
                Some(Some(client.get_multiplexed_async_connection().await.ok()?))
            });
            let Some(mut link) = link.await else { continue };
            redis::cmd("CLUSTER").arg(&["ADDSLOTSRANGE", "0", "16383"]).exec_async(&mut link).await.unwrap();
            eventually("the cluster is ready", async || {
                let info: String = redis::cmd("CLUSTER").arg("INFO").query_async(&mut link).await.unwrap();
                info.contains("cluster_state:ok").then_some(())
            })
            .await;
            return Self { child, port, _dir: dir };
        }
        panic!("no free port for a cluster");
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn a_cluster_serves_as_well() {
    let (cluster, world) = (Cluster::start().await, World::new());
    let url = format!("redis-cluster://127.0.0.1:{0},127.0.0.1:{0}", cluster.port);
    let queue = Queue::connect(&url, QueueOptions::default()).await.unwrap();
    let worker = world.work(&queue, Fake::default(), world.options("w"));
    let mut events = queue.finished().await.unwrap();
    let mut ids = world.push(&queue, specs(30, "log 2")).await;
    for id in &ids {
        assert_eq!(ended(&queue, id).await.status, JobStatus::Succeeded);
        assert_eq!(log(&queue, id).await.len(), 2);
    }
    while !ids.is_empty() {
        if let horus_runners::queue::FinishedEvent::Finished(finished) = within(events.next()).await {
            ids.retain(|id| !finished.jobs.contains(id));
        }
    }
    let hanging = world.push_one(&queue, spec("hang")).await;
    eventually("it runs", async || (status(&queue, &hanging).await == JobStatus::Running).then_some(())).await;
    queue.cancel(&hanging).await.unwrap();
    assert_eq!(ended(&queue, &hanging).await.status, JobStatus::Cancelled);
    assert_eq!(queue.runners().await.unwrap().len(), 1);
    worker.stop().await;
    healthy(&queue).await;
}
