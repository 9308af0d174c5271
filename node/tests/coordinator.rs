//! A coordinator, two supervisors with a Redis and workers of their own each, and a user: workflows end to end.

#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use horus_keys::{Envelope, Identity, KeyDir, PayloadType, Role, Timestamp, TrustPolicy, TrustedKey};
use horus_node::api::coordinator::{
    CancelWorkflow, GetWorkflowLogs, ListSupervisors, SubmitWorkflow, SubmitWorkflowParams, SupervisorState,
    WaitWorkflow, WaitWorkflowParams, WorkflowIdParams, WorkflowLogParams, WorkflowView,
};
use horus_node::coordinator::{self, CoordinatorConfig};
use horus_node::role::{Common, CommonOptions, Shutdown};
use horus_node::supervisor::{self, SupervisorConfig};
use horus_node::workflow::{StepStatus, WorkflowStatus};
use horus_runners::admission::Verifier;
use horus_runners::executor::{Context, ExecutionError, Executor, Output};
use horus_runners::job::{Job, WorkflowSubmission};
use horus_runners::noop::NoopExecutor;
use horus_runners::queue::{Queue, QueueOptions};
use horus_runners::worker::{Worker, WorkerOptions};
use horus_transport::{Address, ClientOptions, NoParams, RpcClient};
use tokio_util::sync::CancellationToken;

/// Redis on a Unix socket, until dropped.
struct Redis(Child, tempfile::TempDir);

impl Redis {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let start = |binary: &str| {
            Command::new(binary)
                .args(["--port", "0", "--save", "", "--appendonly", "yes", "--unixsocket"])
                .arg(&socket)
                .arg("--dir")
                .arg(dir.path())
                .stdout(Stdio::null())
                .spawn()
        };
        let child = start("redis-server").or_else(|_| start("valkey-server")).expect("redis-server is on PATH");
        let until = Instant::now() + Duration::from_secs(20);
        while std::os::unix::net::UnixStream::connect(&socket).is_err() {
            assert!(Instant::now() < until, "Redis does not start");
            std::thread::sleep(Duration::from_millis(10));
        }
        Self(child, dir)
    }

    fn url(&self) -> String {
        format!("unix://{}", self.1.path().join("s").display())
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Does what the payload says: `fail CODE`, `hang`, `slow MS`, `say WORDS`, `sum` of the numbers in its input, `input`; else the
/// payload is the output.
struct Script(&'static str, Arc<AtomicUsize>);

impl Executor for Script {
    fn kind(&self) -> horus_keys::RunnerKind {
        self.0.parse().unwrap()
    }

    async fn execute(&self, job: &Job, context: &Context) -> Result<Output, ExecutionError> {
        self.1.fetch_add(1, Ordering::SeqCst);
        let input = job.input.as_ref().map_or("null", |input| input.get());
        match job.payload.split_once(' ').unwrap_or((&job.payload, "")) {
            ("fail", code) => return Err(ExecutionError::new(code, "it was not to be")),
            ("hang", _) => std::future::pending().await,
            ("slow", ms) => tokio::time::sleep(Duration::from_millis(ms.parse().unwrap())).await,
            ("say", words) => words.split(' ').for_each(|word| context.log.stdout(word)),
            ("sum", _) => {
                let input: BTreeMap<String, i64> = serde_json::from_str(input).unwrap();
                return Output::from_value(&input.values().sum::<i64>());
            }
            ("input", _) => return Output::from_json_text(input.to_owned()),
            ("n", n) => return Output::from_value(&n.parse::<i64>().unwrap()),
            _ => {}
        }
        Output::from_value(&job.payload)
    }
}

struct Site {
    _redis: Redis,
    shutdown: Shutdown,
    workers: CancellationToken,
    address: Address,
    executed: Arc<AtomicUsize>,
}

impl Drop for Site {
    fn drop(&mut self) {
        self.workers.cancel();
        self.shutdown.stop();
    }
}

struct Place {
    dir: tempfile::TempDir,
    user: Identity,
    coordinator: Identity,
    sites: Vec<Site>,
    redis: Redis,
    shutdown: Shutdown,
    client: RpcClient,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shutdown.stop();
    }
}

fn trust(file: &Path, key: &Identity, role: Role) {
    let runners = vec!["*".parse().unwrap()];
    TrustPolicy::add(file, &TrustedKey { id: key.peer_id(), name: None, roles: vec![role], runners }).unwrap();
}

fn common(dir: &Path, name: &str, key: &Identity, redis: &Redis, shutdown: &Shutdown) -> Common {
    let keys = KeyDir::create(&dir.join(name), key.clone(), None, true).unwrap();
    let listen = vec!["127.0.0.1:0".parse().unwrap()];
    let options = CommonOptions::new(&dir.join(name), &dir.join("trust.toml"), &redis.url(), listen);
    Common::with_keys(&keys, options, shutdown.clone()).unwrap()
}

async fn site(dir: &Path, n: usize, key: &Identity, runner: &Identity, concurrency: u32) -> Site {
    let redis = Redis::start();
    let shutdown = Shutdown::new();
    let common = common(dir, &format!("supervisor{n}"), key, &redis, &shutdown);
    let trust = common.trust.clone();
    let running = supervisor::start(common, SupervisorConfig::default()).await.unwrap();
    let (workers, executed) = (CancellationToken::new(), Arc::new(AtomicUsize::new(0)));
    let noop_queue = Queue::connect(&redis.url(), QueueOptions::default()).await.unwrap();
    let noop_options = WorkerOptions::new(format!("noop-{n}"), runner.clone());
    let noop = Worker::new(NoopExecutor, noop_queue, Verifier::new(trust.clone()), noop_options);
    tokio::spawn(noop.run(workers.clone()));
    for kind in ["hero", "sal"] {
        let queue = Queue::connect(&redis.url(), QueueOptions::default()).await.unwrap();
        let mut options = WorkerOptions::new(format!("{kind}-{n}"), runner.clone());
        options.concurrency = concurrency.try_into().unwrap();
        options.supervisors = vec![running.peer_id()];
        let worker = Worker::new(Script(kind, Arc::clone(&executed)), queue, Verifier::new(trust.clone()), options);
        tokio::spawn(worker.run(workers.clone()));
    }
    let address = format!("http://{}", running.addresses()[0]).parse().unwrap();
    Site { _redis: redis, shutdown, workers, address, executed }
}

impl Place {
    async fn new(sites: usize, concurrency: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let [user, coordinator, runner] = [(); 3].map(|()| Identity::generate());
        let file = dir.path().join("trust.toml");
        for (key, role) in [(&user, Role::Submitter), (&coordinator, Role::Coordinator), (&runner, Role::Runner)] {
            trust(&file, key, role);
        }
        let keys: Vec<Identity> = (0..sites).map(|_| Identity::generate()).collect();
        keys.iter().for_each(|key| trust(&file, key, Role::Supervisor));
        let mut started = Vec::new();
        for (n, key) in keys.iter().enumerate() {
            started.push(site(dir.path(), n, key, &runner, concurrency).await);
        }
        let (redis, shutdown) = (Redis::start(), Shutdown::new());
        let common = common(dir.path(), "coordinator", &coordinator, &redis, &shutdown);
        let config = CoordinatorConfig {
            supervisors: started.iter().map(|site| site.address.clone()).collect(),
            ..CoordinatorConfig::default()
        };
        let running = coordinator::start(common, config).await.unwrap();
        let address: Address = format!("http://{}", running.addresses()[0]).parse().unwrap();
        let client = RpcClient::connect(address, ClientOptions::signed(user.clone(), None)).unwrap();
        let place = Self { dir, user, coordinator, sites: started, redis, shutdown, client };
        place.ready().await;
        place
    }

    async fn ready(&self) {
        for _ in 0..300 {
            let all = self.client.call::<ListSupervisors>(&NoParams {}).await.unwrap().supervisors;
            if all.iter().all(|known| known.state == SupervisorState::Alive && known.runners.len() == 3) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the supervisors do not come");
    }

    async fn submit(&self, id: &str, definition: &str, inputs: &[(&str, &str)]) -> Envelope {
        let now = Timestamp::now();
        let inputs = inputs.iter().map(|(name, text)| ((*name).to_owned(), serde_json::from_str(text).unwrap()));
        let submission = WorkflowSubmission {
            id: id.parse().unwrap(),
            definition: definition.to_owned(),
            inputs: Some(inputs.collect()),
            coordinators: vec![self.coordinator.peer_id()],
            submit_by: now.saturating_add(Duration::from_secs(60)),
            run_until: now.saturating_add(Duration::from_secs(3600)),
            certificates: vec![],
        };
        let envelope = Envelope::sign_json(&self.user, PayloadType::Workflow, &submission);
        let params = SubmitWorkflowParams { envelope: (&envelope).into() };
        assert!(self.client.call::<SubmitWorkflow>(&params).await.unwrap().created);
        envelope
    }

    async fn end(&self, id: &str) -> WorkflowView {
        let workflow_id = id.parse().unwrap();
        let params = WaitWorkflowParams { workflow_id, after_revision: None, timeout_ms: 100_000, steps: None };
        let view = self.client.call_with_timeout::<WaitWorkflow>(&params, Duration::from_secs(110)).await.unwrap();
        assert!(view.status.is_final(), "{view:?}");
        view
    }
}

fn output(view: &WorkflowView, name: &str) -> serde_json::Value {
    serde_json::from_str(view.outputs.as_ref().expect("it has outputs")[name].get()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_over_three_kinds_of_runners_with_inputs_logs_and_declared_outputs() {
    let place = Place::new(2, 4).await;
    let text = r#"
workflow:
  name: "data-pipeline"
  outputs: {stored: store, also: fetch, nothing: last}
  steps:
    - id: "fetch"
      runner: "hero"
      payload: "n 40"
    - id: "process"
      runner: "sal"
      depends_on: ["fetch"]
      payload: "sum of input.fetch and input.add"
    - id: "store"
      runner: "sal"
      depends_on: ["process"]
      payload: "input"
    - {id: last, runner: noop, payload: "", depends_on: [store]}
    - {id: talk, runner: sal, payload: "say one two three"}
"#;
    place.submit("pipeline", text, &[("add", "2")]).await;
    let view = place.end("pipeline").await;
    assert_eq!(view.status, WorkflowStatus::Succeeded, "{view:?}");
    assert_eq!(output(&view, "stored"), serde_json::json!({"add": 2, "process": 42}));
    assert_eq!(output(&view, "also"), 40);
    assert_eq!(output(&view, "nothing"), serde_json::Value::Null);
    let params = WorkflowLogParams { workflow_id: "pipeline".parse().unwrap(), step: None, cursor: None, limit: None };
    let page = place.client.call::<GetWorkflowLogs>(&params).await.unwrap();
    let said: Vec<&str> =
        page.lines.iter().filter(|line| line.step.as_str() == "talk").map(|line| line.text.as_str()).collect();
    assert_eq!(said, ["one", "two", "three"], "{page:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fan_in_of_hundreds_of_steps_that_ran_at_two_supervisors_with_a_receipt_each() {
    let place = Place::new(2, 2).await;
    let mut text = "workflow:\n  name: fan\n  steps:\n    - {id: start, runner: noop, payload: n 1}\n".to_owned();
    for n in 0..700 {
        text += &format!("    - {{id: s{n}, runner: hero, payload: n {n}, depends_on: [start]}}\n");
    }
    let all = (0..700).map(|n| format!("s{n}")).collect::<Vec<_>>().join(", ");
    text += &format!("    - {{id: end, runner: sal, payload: sum, depends_on: [{all}]}}\n");
    place.submit("fan", &text, &[]).await;
    let view = place.end("fan").await;
    assert_eq!(view.status, WorkflowStatus::Succeeded, "{:?}", view.error);
    assert_eq!(output(&view, "end"), 699 * 700 / 2);
    for site in &place.sites {
        assert!(site.executed.load(Ordering::SeqCst) > 200, "the load is shared");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_step_is_stopped_by_the_cancellation() {
    let place = Place::new(1, 4).await;
    let text = "workflow:\n  name: x\n  steps:\n    - {id: a, runner: sal, payload: hang}\n    - {id: b, runner: sal, payload: x, depends_on: [a]}\n";
    place.submit("stop", text, &[]).await;
    let workflow_id: horus_runners::job::WorkflowId = "stop".parse().unwrap();
    let mut after = 0;
    loop {
        let params = WaitWorkflowParams {
            workflow_id: workflow_id.clone(),
            after_revision: Some(after),
            timeout_ms: 10_000,
            steps: None,
        };
        let view = place.client.call::<WaitWorkflow>(&params).await.unwrap();
        if view.steps["a"].status == StepStatus::Running {
            break;
        }
        assert!(view.revision > after, "who waits is told that the step runs: {view:?}");
        after = view.revision;
    }
    place.client.call::<CancelWorkflow>(&WorkflowIdParams { workflow_id }).await.unwrap();
    let view = place.end("stop").await;
    assert_eq!(view.status, WorkflowStatus::Cancelled);
    // Without a word of its supervisor within the time that there is for it, the first would be unknown.
    assert!(view.steps.values().all(|step| step.status == StepStatus::Cancelled), "{view:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_costs_the_same_per_step_however_long_it_is() {
    let place = Place::new(1, 4).await;
    let mut per_step = Vec::new();
    for length in [10_u32, 100, 400] {
        let mut text = "workflow:\n  name: chain\n  steps:\n    - {id: s0, runner: noop, payload: ''}\n".to_owned();
        for n in 1..length {
            text += &format!("    - {{id: s{n}, runner: noop, payload: '', depends_on: [s{}]}}\n", n - 1);
        }
        let began = Instant::now();
        place.submit(&format!("chain{length}"), &text, &[]).await;
        let view = place.end(&format!("chain{length}")).await;
        assert_eq!(view.status, WorkflowStatus::Succeeded, "{:?}", view.error);
        per_step.push(began.elapsed() / length);
    }
    println!("per step: {per_step:?}");
    assert!(per_step[2] < per_step[0] * 3, "{per_step:?}");
    assert!(place.dir.path().exists() && place.redis.url().starts_with("unix:"));
}
