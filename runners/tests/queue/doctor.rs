//! The doctor finds what is wrong, and nothing where all is well.

use crate::harness::*;

/// Breaks a queue with one command and gives what the doctor says.
async fn diagnosis(command: &str) -> Vec<String> {
    let (redis, world) = (Redis::start().await, World::new());
    let queue = redis.queue().await;
    let mut jobs = specs(4, "ok");
    let names = ["pending", "delayed", "active", "done"];
    for (job, name) in jobs.iter_mut().zip(names) {
        job.id = name.parse().unwrap();
    }
    jobs[1].not_before = Some(horus_keys::Timestamp::now().saturating_add(std::time::Duration::from_secs(60)));
    let (first, last) = (jobs.remove(2), jobs.remove(2));
    world.push(&queue, vec![first]).await;
    let lease = world.lease(&queue, "w").await;
    assert_eq!(lease.claim_jobs(1).await.unwrap().jobs.len(), 1);
    let done = world.push_one(&queue, last).await;
    queue.cancel(&done).await.unwrap();
    world.push(&queue, jobs).await;
    healthy(&queue).await;
    let mut link = redis.raw().await;
    let mut words = command.split(' ');
    let mut break_it = redis::cmd(words.next().unwrap());
    for word in words {
        break_it.arg(word.replace('@', "horus:{fake}:"));
    }
    break_it.exec_async(&mut link).await.unwrap();
    queue.doctor().await.unwrap().into_iter().map(|finding| format!("{} {}", finding.about, finding.problem)).collect()
}

#[tokio::test]
async fn what_is_wrong_is_named() {
    let cases = [
        ("ZREM @pending:normal pending", "fake-pending is queued, but in no list; it belongs in pending:normal"),
        (
            "ZADD @pending:high 1 pending",
            "fake-pending is queued and belongs in pending:normal, but is in pending:high and pending:normal",
        ),
        ("ZADD @done 1 active", "fake-active is queued and belongs in active, but is in done and active"),
        ("HDEL @active active", "fake-active is queued, but in no list; it belongs in active"),
        ("HSET @active active somebody", "fake-active is held by somebody, but its record says w."),
        ("ZREM @done done", "fake-done is cancelled, but in no list; it belongs in done"),
        ("ZREM @jobs delayed", "fake-delayed is not in the index of jobs"),
        ("ZREM @expiry delayed", "fake-delayed waits, but nothing would expire it"),
        ("ZADD @expiry 1 done", "fake-done does not wait, but is planned to expire"),
        ("DEL @job:pending", "fake-pending has no record, but is in pending:normal"),
        ("ZADD @pending:low 1 ghost", "fake-ghost has no record, but is in pending:low"),
        ("HSET @job:done status weird", "fake-done has the unknown status weird"),
        ("HSET @job:done receipt abc", "fake-done points to receipts that are gone: abc"),
        ("RPUSH @wake 1 1 1", "wake has "),
    ];
    for (command, expected) in cases {
        let found = diagnosis(command).await;
        assert!(found.iter().any(|text| text.starts_with(expected)), "{command}: {found:?}");
    }
}

#[tokio::test]
async fn a_batch_that_is_gone_or_left_over_is_found() {
    let (redis, world) = (Redis::start().await, World::new());
    let queue = redis.queue().await;
    let (jobs, envelope) = world.batch(specs(1, "ok"));
    queue.push(&jobs, &envelope, &[], &[]).await.unwrap();
    let mut link = redis.raw().await;
    let key = format!("horus:{{fake}}:batch:{}", envelope.digest().hex());
    redis::cmd("RENAME").arg(&key).arg("horus:{fake}:batch:elsewhere").exec_async(&mut link).await.unwrap();
    let found = queue.doctor().await.unwrap();
    assert!(found.iter().any(|finding| finding.problem.contains("its signed batch")), "{found:?}");
    redis::cmd("RENAME").arg("horus:{fake}:batch:elsewhere").arg(&key).exec_async(&mut link).await.unwrap();
    healthy(&queue).await;
    queue.cancel(&jobs[0].id).await.unwrap();
    redis::cmd("HSET").arg("horus:{fake}:batch:left").arg("refs").arg(2).exec_async(&mut link).await.unwrap();
    let found = queue.doctor().await.unwrap();
    assert_eq!(found.len(), 1);
    assert!(found[0].about == "batch left" && found[0].problem.contains("2 unfinished jobs"), "{found:?}");
}
