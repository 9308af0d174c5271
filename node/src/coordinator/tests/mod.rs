//! The coordinator as a whole, on a real Redis, with supervisors that can be told to make trouble.

mod doctor;
mod ends;
mod fake;
mod life;
mod redis;
mod stopped;
mod store;
mod takeover;
mod trouble;
mod trust;
mod ways;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use horus_keys::{Envelope, Identity, KeyDir, PayloadType, Timestamp, Trust, TrustPolicy};
use horus_runners::job::WorkflowSubmission;
use horus_transport::{Address, ClientOptions, ErrorKind, RpcClient, RpcError};
use tempfile::TempDir;

use super::{CoordinatorConfig, RETENTION, Running, start};
use crate::api::coordinator::{
    GetWorkflowStatus, SubmitWorkflow, SubmitWorkflowParams, Submitted, WaitWorkflow, WaitWorkflowParams,
    WorkflowStatusParams, WorkflowView,
};
use crate::role::{Common, CommonOptions, Shutdown};
use crate::workflow::StepStatus;
use fake::Serving;
use redis::TestRedis;

fn key(n: u8) -> Identity {
    Identity::from_seed(&[n; 32])
}

/// Keys, trust, Redis and supervisors for coordinators.
struct World {
    directory: TempDir,
    redis: TestRedis,
    trust: Trust,
    user: Identity,
    supervisors: Vec<Serving>,
}

/// A coordinator of the world.
struct Node {
    running: Running,
    shutdown: Shutdown,
    address: Address,
}

impl World {
    async fn new(supervisors: u8) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut policy = String::new();
        let mut add = |identity: &Identity, roles: &str| {
            let id = identity.peer_id();
            policy += &format!("[[key]]\nid = \"{id}\"\nname = \"x\"\nroles = [{roles}]\nrunners = [\"*\"]\n");
        };
        add(&key(1), "\"submitter\"");
        add(&key(2), "\"submitter\"");
        add(&key(3), "\"observer\"");
        add(&key(4), "\"operator\"");
        add(&key(10), "\"coordinator\"");
        add(&key(11), "\"coordinator\"");
        add(&key(20), "\"runner\"");
        for n in 0..supervisors {
            add(&key(30 + n), "\"supervisor\"");
        }
        let file = directory.path().join("trust.toml");
        std::fs::write(&file, &policy).unwrap();
        let trust = Trust::open(&file).unwrap();
        let mut serving = Vec::new();
        for n in 0..supervisors {
            serving.push(fake::serve(&key(30 + n), &key(20), &trust).await);
        }
        Self { directory, redis: TestRedis::start(), trust, user: key(1), supervisors: serving }
    }

    async fn start(&self) -> Node {
        self.start_as(10).await
    }

    async fn start_as(&self, n: u8) -> Node {
        self.start_with(n, &self.redis.url()).await
    }

    async fn start_with(&self, n: u8, redis: &str) -> Node {
        self.start_keeping(n, redis, RETENTION).await
    }

    async fn start_keeping(&self, n: u8, redis: &str, retention: Duration) -> Node {
        let keys = self.directory.path().join(format!("keys{n}"));
        let keys = KeyDir::create(&keys, key(n), None, true).unwrap();
        let listen: Vec<SocketAddr> = vec!["127.0.0.1:0".parse().unwrap()];
        let trust = self.directory.path().join("trust.toml");
        let options = CommonOptions::new(self.directory.path(), &trust, redis, listen);
        let shutdown = Shutdown::new();
        let common = Common::with_keys(&keys, options, shutdown.clone()).unwrap();
        let config = CoordinatorConfig {
            supervisors: self.supervisors.iter().map(|serving| serving.address.clone()).collect(),
            retention,
            ..CoordinatorConfig::default()
        };
        let running = start(common, config).await.unwrap();
        let address = format!("http://{}", running.addresses()[0]).parse().unwrap();
        Node { running, shutdown, address }
    }

    /// Takes a key out of the trust policy: supervisors follow at once, coordinators that are started afterwards.
    fn distrust(&self, who: &Identity) {
        TrustPolicy::remove(&self.directory.path().join("trust.toml"), who.peer_id()).unwrap();
        self.trust.reload().unwrap();
    }

    fn client(&self, node: &Node, who: &Identity) -> RpcClient {
        RpcClient::connect(node.address.clone(), ClientOptions::signed(who.clone(), None)).unwrap()
    }

    fn submission(id: &str, definition: &str) -> WorkflowSubmission {
        let now = Timestamp::now();
        WorkflowSubmission {
            id: id.parse().unwrap(),
            definition: definition.to_owned(),
            inputs: None,
            coordinators: vec![key(10).peer_id(), key(11).peer_id()],
            submit_by: now.saturating_add(Duration::from_secs(60)),
            run_until: now.saturating_add(Duration::from_secs(3600)),
            certificates: vec![],
        }
    }

    fn sign(&self, submission: &WorkflowSubmission) -> Envelope {
        Envelope::sign_json(&self.user, PayloadType::Workflow, submission)
    }

    async fn send(&self, node: &Node, envelope: &Envelope) -> Result<Submitted, RpcError> {
        let client = RpcClient::connect(node.address.clone(), ClientOptions::default()).unwrap();
        client.call::<SubmitWorkflow>(&SubmitWorkflowParams { envelope: envelope.into() }).await
    }

    async fn submit(&self, node: &Node, id: &str, definition: &str) -> Envelope {
        let envelope = self.sign(&Self::submission(id, definition));
        let answer = self.send(node, &envelope).await.unwrap();
        assert!(answer.created && answer.workflow_id.as_str() == id);
        envelope
    }

    /// Waits for the end of a workflow.
    async fn end(&self, node: &Node, id: &str) -> WorkflowView {
        let params = WaitWorkflowParams {
            workflow_id: id.parse().unwrap(),
            after_revision: None,
            timeout_ms: 25_000,
            steps: None,
        };
        let client = self.client(node, &self.user);
        let view = client.call_with_timeout::<WaitWorkflow>(&params, Duration::from_secs(29)).await.unwrap();
        assert!(view.status.is_final(), "{view:?}");
        view
    }

    async fn status(&self, node: &Node, id: &str) -> WorkflowView {
        let params = WorkflowStatusParams { workflow_id: id.parse().unwrap(), steps: None };
        self.client(node, &self.user).call::<GetWorkflowStatus>(&params).await.unwrap()
    }

    /// Waits until that is true of the workflow.
    async fn until(&self, node: &Node, id: &str, is: impl Fn(&WorkflowView) -> bool) -> WorkflowView {
        let client = self.client(node, &self.user);
        let mut after = 0;
        let deadline = std::time::Instant::now() + Duration::from_secs(90);
        while std::time::Instant::now() < deadline {
            let params = WaitWorkflowParams {
                workflow_id: id.parse().unwrap(),
                after_revision: Some(after),
                timeout_ms: 500,
                steps: None,
            };
            match client.call::<WaitWorkflow>(&params).await {
                Ok(view) if is(&view) => return view,
                Ok(view) => after = view.revision,
                // Its Redis may be away: that is answered at once.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
        panic!("it never came to that: {:?}", self.status(node, id).await);
    }

    /// Waits until the coordinator has met its supervisors.
    async fn ready(&self, node: &Node) {
        use crate::api::coordinator::{ListSupervisors, SupervisorState};
        let client = self.client(node, &self.user);
        for _ in 0..200 {
            let all = client.call::<ListSupervisors>(&horus_transport::NoParams {}).await.unwrap().supervisors;
            if all.iter().all(|known| known.state == SupervisorState::Alive) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("the supervisors do not come");
    }
}

impl Node {
    async fn stop(self) {
        self.shutdown.stop();
        tokio::time::timeout(Duration::from_secs(10), self.running.stopped()).await.unwrap();
    }
}

fn status_of(view: &WorkflowView, step: &str) -> StepStatus {
    view.steps[step].status
}

fn output(view: &WorkflowView, name: &str) -> serde_json::Value {
    serde_json::from_str(view.outputs.as_ref().unwrap()[name].get()).unwrap()
}

fn kind<T: std::fmt::Debug>(result: Result<T, RpcError>) -> ErrorKind {
    result.unwrap_err().kind
}

/// The steps `lines`, each `id kind payload <- a b`.
fn workflow(lines: &[&str]) -> String {
    let mut text = "workflow:\n  name: test\n  steps:\n".to_owned();
    for line in lines {
        let (line, needs) = line.split_once(" <- ").unwrap_or((line, ""));
        let mut parts = line.splitn(3, ' ');
        let (id, kind, payload) = (parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap());
        let (payload, rest) = payload.split_once(" | ").unwrap_or((payload, ""));
        let needs = needs.split_whitespace().collect::<Vec<_>>().join(", ");
        text += &format!("    - {{id: {id}, runner: {kind}, payload: \"{payload}\", depends_on: [{needs}]{rest}}}\n");
    }
    text
}

type Shared<T> = Arc<T>;
