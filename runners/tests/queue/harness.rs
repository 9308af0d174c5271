//! A Redis of one's own, people and machines that trust each other, and an executor that does what its payload says.

use std::{
    collections::HashMap,
    future::Future,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use horus_keys::{
    Digest, Envelope, Identity, PayloadType, PeerId, Role, RunnerKind, Timestamp, Trust, TrustPolicy, TrustedKey,
};
use horus_runners::{
    admission::{Admission, Audience, Verifier},
    executor::{Context, ExecutionError, Executor, Output},
    job::{Job, JobBatch, JobId, JobSpec, JobStatus, LocalId},
    queue::{JobResult, Lease, LeaseOptions, Queue, QueueOptions},
    worker::{Worker, WorkerOptions},
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// How long anything may take that a test waits for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Redis {
    child: Child,
    dir: tempfile::TempDir,
    binary: &'static str,
}

impl Redis {
    pub(crate) async fn start() -> Self {
        let runs = |name: &&str| {
            Command::new(name)
                .arg("--version")
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .is_ok_and(|s| s.success())
        };
        let binary = ["redis-server", "valkey-server"].into_iter().find(runs).expect(
            "no redis-server or valkey-server on PATH: install one, for example with `apt-get install redis-server`",
        );
        let dir = tempfile::tempdir().unwrap();
        let child = Self::spawn(binary, dir.path());
        let redis = Self { child, dir, binary };
        redis.ready().await;
        redis
    }

    fn spawn(binary: &str, dir: &std::path::Path) -> Child {
        Command::new(binary)
            .args(["--port", "0", "--save", "", "--appendonly", "yes", "--appendfsync", "everysec", "--unixsocket"])
            .arg(dir.join("s"))
            .arg("--dir")
            .arg(dir)
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    }

    async fn ready(&self) {
        let client = redis::Client::open(self.url()).unwrap();
        eventually("Redis answers", async || {
            let mut link = client.get_multiplexed_async_connection().await.ok()?;
            redis::cmd("PING").query_async::<String>(&mut link).await.ok()
        })
        .await;
    }

    /// Kill -9.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) async fn restart(&mut self) {
        let socket: PathBuf = self.dir.path().join("s");
        let _ = std::fs::remove_file(socket);
        self.child = Self::spawn(self.binary, self.dir.path());
        self.ready().await;
    }

    pub(crate) fn url(&self) -> String {
        format!("unix://{}", self.dir.path().join("s").display())
    }

    pub(crate) async fn queue(&self) -> Queue {
        self.queue_with(QueueOptions::default()).await
    }

    pub(crate) async fn queue_with(&self, options: QueueOptions) -> Queue {
        Queue::connect(&self.url(), options).await.unwrap()
    }

    /// A plain connection, to look at keys or to tamper with them.
    pub(crate) async fn raw(&self) -> redis::aio::MultiplexedConnection {
        redis::Client::open(self.url()).unwrap().get_multiplexed_async_connection().await.unwrap()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks again until there is an answer.
pub(crate) async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let end = tokio::time::Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(tokio::time::Instant::now() < end, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it takes too long")
}

pub(crate) fn kind() -> RunnerKind {
    "fake".parse().unwrap()
}

/// Who takes part.
pub(crate) struct World {
    pub(crate) submitter: Identity,
    pub(crate) runner: Identity,
    pub(crate) supervisor: PeerId,
    pub(crate) verifier: Verifier,
}

fn trusted(identity: &Identity, role: Role) -> TrustedKey {
    TrustedKey { id: identity.peer_id(), name: None, roles: vec![role], runners: vec!["*".parse().unwrap()] }
}

impl World {
    pub(crate) fn new() -> Self {
        let (submitter, runner) = (Identity::generate(), Identity::generate());
        let keys = vec![trusted(&submitter, Role::Submitter), trusted(&runner, Role::Runner)];
        let verifier = Verifier::new(Trust::new(TrustPolicy { keys, revoked: Vec::new() }));
        Self { submitter, runner, supervisor: Identity::generate().peer_id(), verifier }
    }

    /// Signs a batch and has it admitted.
    pub(crate) fn batch(&self, jobs: Vec<JobSpec>) -> (Vec<Job>, Envelope) {
        let envelope = self.sign(jobs);
        (self.admit(&envelope), envelope)
    }

    pub(crate) fn sign(&self, jobs: Vec<JobSpec>) -> Envelope {
        let batch = JobBatch { aud: vec![self.supervisor], jobs, certificates: Vec::new() };
        Envelope::sign_json(&self.submitter, PayloadType::Jobs, &batch)
    }

    pub(crate) fn admit(&self, envelope: &Envelope) -> Vec<Job> {
        let batch = self.verifier.batch(envelope).unwrap();
        let admission = Admission {
            batch: &batch,
            audience: Audience::Supervisor(&self.supervisor),
            workflows: &|_: &Digest| None,
            receipts: &|_: &Digest| None,
            now: Timestamp::now(),
        };
        self.verifier.admit(admission).unwrap()
    }

    /// Pushes jobs and gives their ids.
    pub(crate) async fn push(&self, queue: &Queue, jobs: Vec<JobSpec>) -> Vec<JobId> {
        let (jobs, envelope) = self.batch(jobs);
        let pushed = queue.push(&jobs, &envelope, &[], &[]).await.unwrap();
        assert!(pushed.iter().all(|job| job.created));
        pushed.into_iter().map(|job| job.job_id).collect()
    }

    pub(crate) async fn push_one(&self, queue: &Queue, job: JobSpec) -> JobId {
        self.push(queue, vec![job]).await.remove(0)
    }

    pub(crate) async fn lease(&self, queue: &Queue, name: &str) -> Lease {
        let options = LeaseOptions {
            kind: kind(),
            name: name.to_owned(),
            peer_id: self.runner.peer_id(),
            concurrency: 8,
            lease: Duration::from_secs(1),
        };
        Lease::register(queue, options).await.unwrap()
    }

    pub(crate) fn options(&self, name: &str) -> WorkerOptions {
        let mut options = WorkerOptions::new(name, self.runner.clone());
        options.supervisors = vec![self.supervisor];
        options.lease = Duration::from_secs(1);
        options.concurrency = 8;
        options
    }

    /// Starts a worker in this runtime.
    pub(crate) fn work(&self, queue: &Queue, fake: Fake, options: WorkerOptions) -> Running {
        let shutdown = CancellationToken::new();
        let worker = Worker::new(fake, queue.clone(), self.verifier.clone(), options);
        let task = tokio::spawn(worker.run(shutdown.clone()));
        Running { shutdown, task: Some(task) }
    }
}

pub(crate) struct Running {
    shutdown: CancellationToken,
    task: Option<JoinHandle<Result<(), horus_runners::worker::WorkerError>>>,
}

impl Running {
    pub(crate) async fn stop(mut self) {
        self.shutdown.cancel();
        within(self.task.take().unwrap()).await.unwrap().unwrap();
    }
}

pub(crate) fn spec(payload: &str) -> JobSpec {
    let run_until = Timestamp::now().saturating_add(Duration::from_secs(3600));
    JobSpec::new(LocalId::generate(), kind(), payload, run_until)
}

pub(crate) fn specs(count: usize, payload: &str) -> Vec<JobSpec> {
    (0..count).map(|_| spec(payload)).collect()
}

/// What jobs did, by payload or id.
#[derive(Clone, Default)]
pub(crate) struct Ledger(Arc<Mutex<HashMap<String, u32>>>);

impl Ledger {
    pub(crate) fn add(&self, name: &str) {
        *self.0.lock().unwrap().entry(name.to_owned()).or_default() += 1;
    }

    pub(crate) fn get(&self, name: &str) -> u32 {
        self.0.lock().unwrap().get(name).copied().unwrap_or(0)
    }

    pub(crate) fn all(&self) -> HashMap<String, u32> {
        self.0.lock().unwrap().clone()
    }
}

/// Does what the payload says: `ok`, `fail`, `hang`, `panic`, `log N`, `sleep MS`, anything else is the output as a string.
#[derive(Clone, Default)]
pub(crate) struct Fake {
    pub(crate) ledger: Ledger,
    pub(crate) idempotent: bool,
}

impl Executor for Fake {
    fn kind(&self) -> RunnerKind {
        kind()
    }

    fn idempotent(&self) -> bool {
        self.idempotent
    }

    async fn execute(&self, job: &Job, context: &Context) -> Result<Output, ExecutionError> {
        self.ledger.add(&job.id.to_string());
        let mut words = job.payload.split(' ');
        let (verb, number) = (words.next().unwrap_or(""), words.next().and_then(|n| n.parse().ok()).unwrap_or(0));
        match verb {
            "fail" => return Err(ExecutionError::new("NO_LUCK", "it was not to be")),
            "hang" => std::future::pending().await,
            "panic" => panic!("by order"),
            "sleep" => tokio::time::sleep(Duration::from_millis(number)).await,
            "log" => (0..number).for_each(|n| context.log.stdout(&format!("line {n}"))),
            "flood" => {
                for n in 0..number {
                    context.log.stdout(&format!("line {n}"));
                    if n % 5000 == 4999 {
                        tokio::time::sleep(Duration::from_millis(250)).await;
                    }
                }
            }
            _ => {}
        }
        Output::from_value(&job.payload)
    }
}

/// Waits until a job has ended.
pub(crate) async fn ended(queue: &Queue, id: &JobId) -> JobResult {
    eventually(&format!("{id} ends"), async || {
        queue.result(id).await.unwrap().filter(|result| result.status.is_final())
    })
    .await
}

pub(crate) async fn status(queue: &Queue, id: &JobId) -> JobStatus {
    queue.get(id).await.unwrap().expect("the job is known").status
}

/// The queue is sound.
pub(crate) async fn healthy(queue: &Queue) {
    let findings = queue.doctor().await.unwrap();
    assert!(findings.is_empty(), "{findings:#?}");
}

/// All lines of a job's log.
pub(crate) async fn log(queue: &Queue, id: &JobId) -> Vec<String> {
    let page = queue.logs(id, None, 10_000).await.unwrap().expect("the job is known");
    page.lines.into_iter().map(|line| line.text).collect()
}
