//! A Redis of one's own, a supervisor on a free port, people who call it over HTTP, and a worker that does what its payload says.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use horus_keys::{
    Envelope, Identity, KeyDir, PayloadType, PeerId, Role, RunnerKind, Timestamp, TrustPolicy, TrustedKey,
};
use horus_node::api::supervisor::{CreateJobs, CreateJobsParams, CreatedJobs, GetJobResult, JobIdParams, JobResult};
use horus_node::role::{Common, CommonOptions, Health, Shutdown};
use horus_node::supervisor::{Running, SupervisorConfig, start};
use horus_runners::admission::Verifier;
use horus_runners::executor::{Context, ExecutionError, Executor, Output};
use horus_runners::job::{Job, JobBatch, JobId, JobSpec, LocalId};
use horus_runners::queue::{Queue, QueueOptions};
use horus_runners::worker::{Worker, WorkerOptions};
use horus_transport::{ClientOptions, ErrorKind, Method, RpcClient, RpcError};
use tokio_util::sync::CancellationToken;

/// How long anything may take that a test waits for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Redis {
    child: Child,
    dir: tempfile::TempDir,
}

impl Redis {
    pub(crate) async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let redis = Self { child: Self::spawn(dir.path()), dir };
        redis.ready().await;
        redis
    }

    fn spawn(dir: &Path) -> Child {
        let start = |binary: &str| {
            Command::new(binary)
                .args(["--port", "0", "--save", "", "--appendonly", "yes", "--unixsocket"])
                .arg(dir.join("s"))
                .arg("--dir")
                .arg(dir)
                .stdout(Stdio::null())
                .spawn()
        };
        start("redis-server").or_else(|_| start("valkey-server")).expect(
            "no redis-server or valkey-server on PATH: install one, for example with `apt-get install redis-server`",
        )
    }

    async fn ready(&self) {
        eventually("Redis answers", async || {
            redis::cmd("PING").query_async::<String>(&mut self.raw().await?).await.ok()
        })
        .await;
    }

    /// Kill -9.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) async fn restart(&mut self) {
        let _ = std::fs::remove_file(self.dir.path().join("s"));
        self.child = Self::spawn(self.dir.path());
        self.ready().await;
    }

    pub(crate) fn url(&self) -> String {
        format!("unix://{}", self.dir.path().join("s").display())
    }

    async fn raw(&self) -> Option<redis::aio::MultiplexedConnection> {
        redis::Client::open(self.url()).unwrap().get_multiplexed_async_connection().await.ok()
    }

    pub(crate) async fn command(&self, words: &[&str]) -> redis::Value {
        let mut command = redis::cmd(words[0]);
        for word in &words[1..] {
            command.arg(*word);
        }
        command.query_async(&mut self.raw().await.unwrap()).await.unwrap()
    }

    /// The keys of jobs, batches and queues: what a refused call must not add to.
    pub(crate) async fn keys(&self) -> Vec<String> {
        let mut raw = self.raw().await.unwrap();
        let mut keys: Vec<String> = redis::cmd("KEYS").arg("horus:{*").query_async(&mut raw).await.unwrap();
        keys.retain(|key| !key.contains(":worker"));
        keys.sort();
        keys
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
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it takes too long")
}

/// A supervisor, and everybody who has to do with it.
pub(crate) struct Place {
    pub(crate) redis: Redis,
    pub(crate) supervisor: PeerId,
    pub(crate) shutdown: Shutdown,
    pub(crate) health: Health,
    pub(crate) url: String,
    pub(crate) trust_file: PathBuf,
    /// Submits to `fake` only.
    pub(crate) alice: Identity,
    /// Submits to everything.
    pub(crate) bob: Identity,
    pub(crate) observer: Identity,
    pub(crate) operator: Identity,
    pub(crate) coordinator: Identity,
    pub(crate) runner: Identity,
    pub(crate) stranger: Identity,
    running: Option<Running>,
    _dir: tempfile::TempDir,
}

impl Place {
    pub(crate) async fn new() -> Self {
        Self::with(QueueOptions { lease: Duration::from_secs(2), ..QueueOptions::default() }).await
    }

    pub(crate) async fn with(queue: QueueOptions) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let redis = Redis::start().await;
        let [alice, bob, observer, operator, coordinator, runner, stranger] = [(); 7].map(|()| Identity::generate());
        let trust_file = dir.path().join("trust.toml");
        for (key, role, runners) in [
            (&alice, Role::Submitter, "fake"),
            (&bob, Role::Submitter, "*"),
            (&observer, Role::Observer, "*"),
            (&operator, Role::Operator, "*"),
            (&coordinator, Role::Coordinator, "*"),
            (&runner, Role::Runner, "*"),
        ] {
            trust(&trust_file, key, role, runners);
        }
        let keys = KeyDir::create(&dir.path().join("keys"), Identity::generate(), None, false).unwrap();
        let listen = vec!["127.0.0.1:0".parse().unwrap()];
        let options = CommonOptions::new(&dir.path().join("keys"), &trust_file, &redis.url(), listen);
        let shutdown = Shutdown::new();
        let common = Common::with_keys(&keys, options, shutdown.clone()).unwrap();
        let health = common.health.clone();
        let running = start(common, SupervisorConfig { queue, ..SupervisorConfig::default() }).await.unwrap();
        let url = format!("http://{}", running.addresses()[0]);
        let supervisor = running.peer_id();
        let running = Some(running);
        Self {
            redis,
            supervisor,
            shutdown,
            health,
            url,
            trust_file,
            alice,
            bob,
            observer,
            operator,
            coordinator,
            runner,
            stranger,
            running,
            _dir: dir,
        }
    }

    pub(crate) async fn stop(mut self) {
        self.shutdown.drain();
        within(self.running.take().unwrap().stopped()).await;
    }

    pub(crate) fn client(&self, who: &Identity) -> RpcClient {
        RpcClient::connect(self.url.parse().unwrap(), ClientOptions::signed(who.clone(), None)).unwrap()
    }

    pub(crate) fn unsigned(&self) -> RpcClient {
        RpcClient::connect(self.url.parse().unwrap(), ClientOptions::default()).unwrap()
    }

    pub(crate) async fn call<M: Method>(&self, who: &Identity, params: M::Params) -> Result<M::Result, RpcError> {
        within(self.client(who).call::<M>(&params)).await
    }

    pub(crate) async fn refused<M: Method>(&self, who: &Identity, params: M::Params) -> RpcError
    where
        M::Result: std::fmt::Debug,
    {
        self.call::<M>(who, params).await.unwrap_err()
    }

    pub(crate) fn sign(&self, who: &Identity, jobs: Vec<JobSpec>) -> Envelope {
        let batch = JobBatch { aud: vec![self.supervisor], jobs, certificates: Vec::new() };
        Envelope::sign_json(who, PayloadType::Jobs, &batch)
    }

    pub(crate) async fn create(&self, envelope: &Envelope) -> Result<CreatedJobs, RpcError> {
        let params = CreateJobsParams { envelope: envelope.into(), workflow: None, receipts: Vec::new() };
        within(self.unsigned().call::<CreateJobs>(&params)).await
    }

    /// Submits a job that must be accepted.
    pub(crate) async fn submit(&self, who: &Identity, payload: &str) -> JobId {
        self.create(&self.sign(who, vec![spec(payload)])).await.unwrap().jobs.remove(0).job_id
    }

    /// The result of a job, once it has ended.
    pub(crate) async fn ended(&self, who: &Identity, id: &JobId) -> JobResult {
        eventually(&format!("{id} ends"), async || {
            let result = self.call::<GetJobResult>(who, JobIdParams { job_id: id.clone() }).await.unwrap();
            result.status.is_final().then_some(result)
        })
        .await
    }

    /// Starts a worker for the kind, and waits until it has registered.
    pub(crate) async fn work(&self, kind: &str) -> Working {
        let queue = Queue::connect(&self.redis.url(), QueueOptions::default()).await.unwrap();
        let trust = horus_keys::Trust::open(&self.trust_file).unwrap();
        let mut options = WorkerOptions::new(format!("{kind}-1"), self.runner.clone());
        options.lease = Duration::from_secs(2);
        options.supervisors = vec![self.supervisor];
        let shutdown = CancellationToken::new();
        let fake = Fake(kind.parse().unwrap());
        tokio::spawn(Worker::new(fake, queue.clone(), Verifier::new(trust), options).run(shutdown.clone()));
        let kind: RunnerKind = kind.parse().unwrap();
        eventually("the worker registers", async || (!queue.runners_of(&kind).await.unwrap().is_empty()).then_some(()))
            .await;
        Working(shutdown)
    }

    /// Lets the kind be known without anybody who works.
    pub(crate) async fn announce(&self, kind: &str) {
        let params = horus_node::api::supervisor::RegisterRunnerParams { runner: kind.parse().unwrap(), name: None };
        self.call::<horus_node::api::supervisor::RegisterRunner>(&self.operator, params).await.unwrap();
    }
}

/// A worker, until dropped.
pub(crate) struct Working(CancellationToken);

impl Drop for Working {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

pub(crate) fn trust(file: &Path, key: &Identity, role: Role, runners: &str) {
    let runners = vec![runners.parse().unwrap()];
    TrustPolicy::add(file, &TrustedKey { id: key.peer_id(), name: None, roles: vec![role], runners }).unwrap();
}

pub(crate) fn later(seconds: u64) -> Timestamp {
    Timestamp::now().saturating_add(Duration::from_secs(seconds))
}

/// A job for the worker [`Fake`] of kind `fake`.
pub(crate) fn spec(payload: &str) -> JobSpec {
    spec_of("fake", payload)
}

pub(crate) fn spec_of(kind: &str, payload: &str) -> JobSpec {
    JobSpec::new(LocalId::generate(), kind.parse().unwrap(), payload, later(3600))
}

/// The kinds of errors agree, and the message says something.
#[track_caller]
pub(crate) fn is(error: &RpcError, kind: ErrorKind) {
    assert_eq!(error.kind, kind, "{error}");
    assert!(error.message.len() > 15, "{error}");
}

/// Does what the payload says: `fail`, `hang`, `say WORDS` into the log; the output is the payload, or the input if there is one.
struct Fake(RunnerKind);

impl Executor for Fake {
    fn kind(&self) -> RunnerKind {
        self.0.clone()
    }

    async fn execute(&self, job: &Job, context: &Context) -> Result<Output, ExecutionError> {
        match job.payload.split_once(' ').unwrap_or((&job.payload, "")) {
            ("fail", _) => return Err(ExecutionError::new("NO_LUCK", "it was not to be")),
            ("hang", _) => std::future::pending().await,
            ("say", words) => words.split(' ').for_each(|word| context.log.stdout(word)),
            _ => {}
        }
        match &job.input {
            Some(input) if job.delegation.is_some() => Output::from_value(input),
            _ => Output::from_value(&job.payload),
        }
    }
}
