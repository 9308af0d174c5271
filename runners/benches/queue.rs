//! What admission costs, the first time and from the cache, and what the queue's scripts cost on a real Redis of their own.
#![allow(missing_docs, reason = "criterion's macros make public items")]

use std::{
    hint::black_box,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use horus_keys::{
    Envelope, Identity, PayloadType, PeerId, Role, RunnerKind, Timestamp, Trust, TrustPolicy, TrustedKey,
};
use horus_runners::{
    admission::{Admission, Audience, Verifier},
    job::{Job, JobBatch, JobSpec, JobStatus, LocalId, ReceiptBatch},
    queue::{Claimed, Finish, Lease, LeaseOptions, Queue, QueueOptions},
};
use tokio::runtime::Runtime;

/// Jobs of a batch, of a claim and of a finish.
const BATCH: usize = 50;

struct World {
    submitter: Identity,
    runner: Identity,
    supervisor: PeerId,
    trust: Trust,
}

impl World {
    fn new() -> Self {
        let (submitter, runner) = (Identity::generate(), Identity::generate());
        let key = |who: &Identity, role| TrustedKey {
            id: who.peer_id(),
            name: None,
            roles: vec![role],
            runners: vec!["*".parse().expect("a pattern")],
        };
        let keys = vec![key(&submitter, Role::Submitter), key(&runner, Role::Runner)];
        let trust = Trust::new(TrustPolicy { keys, revoked: Vec::new() });
        Self { submitter, runner, supervisor: Identity::generate().peer_id(), trust }
    }

    fn batch(&self) -> Envelope {
        let run_until = Timestamp::now() + Duration::from_secs(3600);
        let job = |_| JobSpec::new(LocalId::generate(), kind(), String::new(), run_until);
        let batch =
            JobBatch { aud: vec![self.supervisor], jobs: (0..BATCH).map(job).collect(), certificates: Vec::new() };
        Envelope::sign_json(&self.submitter, PayloadType::Jobs, &batch)
    }

    fn admit(&self, verifier: &Verifier, envelope: &Envelope) -> Vec<Job> {
        let batch = verifier.batch(envelope).expect("it is signed by a trusted key");
        let admission = Admission {
            batch: &batch,
            audience: Audience::Supervisor(&self.supervisor),
            workflows: &|_| None,
            receipts: &|_| None,
            now: Timestamp::now(),
        };
        verifier.admit(admission).expect("its jobs are in order")
    }
}

fn kind() -> RunnerKind {
    "bench".parse().expect("a kind")
}

fn admission(c: &mut Criterion) {
    let world = World::new();
    let envelope = world.batch();
    let mut group = c.benchmark_group("admission");
    group.throughput(Throughput::Elements(BATCH as u64));
    group.bench_function("first", |b| {
        b.iter(|| world.admit(&Verifier::new(world.trust.clone()), black_box(&envelope)));
    });
    let verifier = Verifier::new(world.trust.clone());
    world.admit(&verifier, &envelope);
    group.bench_function("known_digest", |b| b.iter(|| world.admit(&verifier, black_box(&envelope))));
    group.finish();
}

/// A Redis that ends with this.
struct Redis(Child);

impl Redis {
    fn start(dir: &Path) -> Option<Self> {
        let spawn = |name: &&str| {
            Command::new(name)
                .args(["--port", "0", "--save", "", "--appendonly", "yes", "--appendfsync", "everysec"])
                .arg("--unixsocket")
                .arg(dir.join("s"))
                .arg("--dir")
                .arg(dir)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .ok()
        };
        ["redis-server", "valkey-server"].iter().find_map(spawn).map(Self)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn connect(dir: &Path) -> Queue {
    let url = format!("unix://{}", dir.join("s").display());
    let begun = Instant::now();
    loop {
        match Queue::connect(&url, QueueOptions::default()).await {
            Ok(queue) => return queue,
            Err(e) if begun.elapsed() > Duration::from_secs(10) => panic!("no Redis: {e}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// The life of a batch, step by step; each step is timed by itself while the others run beside the clock.
struct Line {
    world: World,
    verifier: Verifier,
    queue: Queue,
    lease: Lease,
}

#[derive(Clone, Copy, PartialEq)]
enum Stage {
    Push,
    Claim,
    Start,
    Finish,
}

impl Line {
    async fn open(dir: &Path) -> Self {
        let (world, queue) = (World::new(), connect(dir).await);
        let options = LeaseOptions {
            kind: kind(),
            name: "bench".to_owned(),
            peer_id: world.runner.peer_id(),
            concurrency: u32::try_from(BATCH).expect("it is small"),
            lease: Duration::from_secs(15),
        };
        let lease = Lease::register(&queue, options).await.expect("Redis answers");
        Self { verifier: Verifier::new(world.trust.clone()), world, queue, lease }
    }

    /// One batch from push to finish: how long that stage took.
    async fn batch(&self, stage: Stage) -> Duration {
        let mut took = Duration::ZERO;
        let mut note = |which, begun: Instant| {
            if which == stage {
                took = begun.elapsed();
            }
        };
        let envelope = self.world.batch();
        let jobs = self.world.admit(&self.verifier, &envelope);
        let begun = Instant::now();
        self.queue.push(&jobs, &envelope, &[], &[]).await.expect("Redis answers");
        note(Stage::Push, begun);
        let begun = Instant::now();
        let claimed = self.lease.claim_jobs(BATCH).await.expect("Redis answers").jobs;
        note(Stage::Claim, begun);
        let starts: Vec<_> = claimed.iter().map(|job| (&job.id, job.token, true)).collect();
        let begun = Instant::now();
        self.lease.start(&starts).await.expect("Redis answers");
        note(Stage::Start, begun);
        let receipts = ReceiptBatch { receipts: Vec::new(), certificates: Vec::new() };
        let receipts = Envelope::sign_json(&self.world.runner, PayloadType::Receipts, &receipts);
        let ends: Vec<Finish> = (0..).zip(&claimed).map(|(index, job)| end(job, index)).collect();
        let begun = Instant::now();
        self.lease.finish(&ends, &receipts).await.expect("Redis answers");
        note(Stage::Finish, begun);
        took
    }
}

fn end(job: &Claimed, index: u32) -> Finish {
    Finish {
        id: job.id.clone(),
        token: job.token,
        status: JobStatus::Succeeded,
        finished_at: Timestamp::now(),
        output: Some("null".to_owned()),
        error: None,
        index,
    }
}

fn scripts(c: &mut Criterion) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let Some(_redis) = Redis::start(dir.path()) else {
        eprintln!("no redis-server or valkey-server on PATH: the scripts are not measured");
        return;
    };
    let runtime = Runtime::new().expect("threads");
    let line = runtime.block_on(Line::open(dir.path()));
    let mut group = c.benchmark_group("script");
    group.throughput(Throughput::Elements(BATCH as u64));
    let stages = [("push", Stage::Push), ("claim", Stage::Claim), ("start", Stage::Start), ("finish", Stage::Finish)];
    for (name, stage) in stages {
        group.bench_function(name, |b| {
            b.iter_custom(|rounds| {
                runtime.block_on(async {
                    let mut took = Duration::ZERO;
                    for _ in 0..rounds {
                        took += line.batch(stage).await;
                    }
                    took
                })
            });
        });
    }
    group.finish();
}

criterion_group!(benches, admission, scripts);
criterion_main!(benches);
