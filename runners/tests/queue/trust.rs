//! A runner believes nobody: not the supervisor, and not Redis.

use horus_keys::{Envelope, PayloadType};
use horus_runners::{
    job::{JobBatch, JobStatus},
    queue::Queue,
};

use crate::harness::*;

/// Puts a job into Redis by hand, behind the supervisor's back, as one who can write there would.
async fn smuggle(redis: &Redis, queue: &Queue, id: &str, envelope: &Envelope, text: &str) {
    let digest = envelope.digest().hex();
    let mut link = redis.raw().await;
    let key = |name: &str| format!("horus:{{fake}}:{name}");
    let later = horus_keys::Timestamp::now().as_millis() + 3_600_000;
    let submitter = horus_keys::Identity::generate().peer_id().to_string();
    redis::pipe()
        .cmd("SADD")
        .arg("horus:kinds")
        .arg("fake")
        .cmd("HSET")
        .arg(key(&format!("batch:{digest}")))
        .arg("envelope")
        .arg(text)
        .arg("refs")
        .arg(1)
        .cmd("HSET")
        .arg(key(&format!("job:{id}")))
        .arg("status")
        .arg("queued")
        .arg("batch")
        .arg(&digest)
        .arg("index")
        .arg(0)
        .arg("spec")
        .arg("00")
        .arg("submitter")
        .arg(submitter)
        .arg("created")
        .arg(1)
        .arg("run_until")
        .arg(later)
        .cmd("ZADD")
        .arg(key("jobs"))
        .arg(1)
        .arg(id)
        .cmd("ZADD")
        .arg(key("expiry"))
        .arg(later)
        .arg(id)
        .cmd("ZADD")
        .arg(key("pending:normal"))
        .arg(1)
        .arg(id)
        .cmd("RPUSH")
        .arg(key("wake"))
        .arg(1)
        .exec_async(&mut link)
        .await
        .unwrap();
    healthy(queue).await;
}

#[tokio::test]
async fn a_smuggled_job_is_not_executed() {
    let world = World::new();
    let good = spec("ok");
    let id = good.id.as_str().to_owned();
    let signed = world.sign(vec![good.clone()]);
    let stranger = World::new();
    let theirs = Envelope::sign_json(
        &stranger.submitter,
        PayloadType::Jobs,
        &JobBatch { aud: vec![world.supervisor], jobs: vec![good.clone()], certificates: Vec::new() },
    );
    let elsewhere = Envelope::sign_json(
        &world.submitter,
        PayloadType::Jobs,
        &JobBatch { aud: vec![stranger.supervisor], jobs: vec![good], certificates: Vec::new() },
    );
    let flipped = signed.to_json().replacen("\"sig\":\"", "\"sig\":\"A", 1);
    let cases = [
        (&theirs, theirs.to_json(), id.as_str(), "UNTRUSTED_SIGNER"),
        (&elsewhere, elsewhere.to_json(), id.as_str(), "NOT_ALLOWED"),
        (&signed, flipped, id.as_str(), ""),
        (&signed, theirs.to_json(), id.as_str(), ""),
        (&signed, "rubbish".to_owned(), id.as_str(), ""),
        (&signed, signed.to_json(), "another-id", "NOT_ALLOWED"),
    ];
    for (envelope, text, id, code) in cases {
        let redis = Redis::start().await;
        let queue = redis.queue().await;
        let fake = Fake::default();
        smuggle(&redis, &queue, id, envelope, &text).await;
        let worker = world.work(&queue, fake.clone(), world.options("w"));
        let job_id = format!("fake-{id}").parse().unwrap();
        let result = ended(&queue, &job_id).await;
        assert_eq!(result.status, JobStatus::Failed);
        let error = result.error.unwrap();
        assert!(code.is_empty() || error.code == code, "{error:?}");
        assert!(fake.ledger.all().is_empty(), "{error:?}");
        assert!(log(&queue, &job_id).await.iter().any(|line| line.contains("refused the job")));
        worker.stop().await;
        healthy(&queue).await;
    }
}

#[tokio::test]
async fn a_strangers_signature_over_the_same_batch_does_not_spoil_the_real_one() {
    let (redis, world) = (Redis::start().await, World::new());
    let queue = redis.queue().await;
    let (jobs, envelope) = world.batch(vec![spec("ok"), spec("ok")]);
    let stranger = World::new();
    let theirs = Envelope::sign(&stranger.submitter, PayloadType::Jobs, envelope.payload().to_vec());
    smuggle(&redis, &queue, "other", &theirs, &theirs.to_json()).await;
    let worker = world.work(&queue, Fake::default(), world.options("w"));
    assert_eq!(ended(&queue, &"fake-other".parse().unwrap()).await.status, JobStatus::Failed);
    queue.push(&jobs, &envelope, &[], &[]).await.unwrap();
    for job in &jobs {
        assert_eq!(ended(&queue, &job.id).await.status, JobStatus::Succeeded);
    }
    worker.stop().await;
}
