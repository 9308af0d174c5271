//! What a coordinator's key alone cannot do: the supervisor refuses it where it can know, and the runner refuses it also when
//! the job is written into Redis behind the supervisor's back.

use std::time::{Duration, Instant};

use horus_keys::{Digest, Envelope, Identity, KeyDir, PayloadType, PeerId, RunnerKind, Timestamp};
use horus_node::api::supervisor::{CreateJobs, CreateJobsParams};
use horus_runners::job::{Delegation, JobBatch, JobSpec, LocalId, ReceiptRef, StepId};
use horus_tests::{House, Valid, sign_workflow};
use horus_transport::{ClientOptions, RpcClient};
use serde_json::{Value, value::RawValue};

const DEFINITION: &str = "workflow:\n  name: w\n  steps:\n    - {id: a, runner: sal, payload: '1 + 1'}\n    - {id: b, runner: sal, payload: 'input.a', depends_on: [a]}\n";

/// The jobs of a batch as the very bytes that were signed.
#[derive(serde::Deserialize)]
struct RawBatch<'a> {
    #[serde(borrow)]
    jobs: Vec<&'a RawValue>,
}

struct Scene {
    house: House,
    user: Identity,
    coordinator: Identity,
    supervisor: PeerId,
    kind: RunnerKind,
}

impl Scene {
    fn new() -> Self {
        let house = House::start();
        let load = |dir: std::path::PathBuf| KeyDir::load(&dir, || Ok(None)).unwrap().identity;
        let data = house.data_dir();
        Self {
            user: load(data.parent().unwrap().join("me")),
            coordinator: load(data.join("keys/coordinator")),
            supervisor: load(data.join("keys/supervisor")).peer_id(),
            kind: "sal".parse().unwrap(),
            house,
        }
    }

    fn workflow(&self, coordinators: &[PeerId]) -> Envelope {
        let id = format!("w-{}", LocalId::generate());
        sign_workflow(&self.user, &id, DEFINITION.to_owned(), coordinators, Valid::LONG)
    }

    fn step(&self, workflow: &Envelope, step: &str, input: Option<&str>, receipts: Vec<ReceiptRef>) -> JobSpec {
        let delegation =
            Delegation { workflow: workflow.digest(), step: StepId::new(step).unwrap(), index: None, attempt: 1 };
        let input = input.map(|i| RawValue::from_string(i.to_owned()).unwrap());
        JobSpec::step(self.kind.clone(), delegation, input, receipts)
    }

    fn batch(&self, aud: PeerId, spec: JobSpec) -> Envelope {
        let batch = JobBatch { aud: vec![aud], jobs: vec![spec], certificates: vec![] };
        Envelope::sign_json(&self.coordinator, PayloadType::Jobs, &batch)
    }

    /// What the supervisor says.
    fn send(&self, batch: &Envelope, workflow: Option<&Envelope>) -> Result<(), String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let address = self.house.ready.supervisor.parse().unwrap();
            let client = RpcClient::connect(address, ClientOptions::default()).unwrap();
            let params = CreateJobsParams {
                envelope: batch.clone().into(),
                workflow: workflow.cloned().map(Into::into),
                receipts: Vec::new(),
            };
            client.call::<CreateJobs>(&params).await.map(drop).map_err(|e| e.kind.as_str().to_owned())
        })
    }

    /// Writes a job into the queue as push would, and gives how it ends.
    fn plant(&self, batch: &Envelope, spec: &JobSpec, workflow: Option<&Envelope>) -> Value {
        let mut redis = redis::Client::open(self.house.ready.redis_url.as_str()).unwrap().get_connection().unwrap();
        let base = format!("horus:{{{}}}", self.kind);
        let id = spec.id.to_string();
        let parsed: RawBatch<'_> = serde_json::from_slice(batch.payload()).unwrap();
        let raw = parsed.jobs[0].get().as_bytes();
        let mut needs = Vec::new();
        if let Some(workflow) = workflow {
            let name = format!("wf:{}", workflow.digest().hex());
            let _: () = redis::cmd("HSET")
                .arg(format!("{base}:{name}"))
                .arg("envelope")
                .arg(workflow.to_json())
                .query(&mut redis)
                .unwrap();
            needs.push(name);
        }
        let batch_key = format!("{base}:batch:{}", batch.digest().hex());
        let _: () = redis::cmd("HSET")
            .arg(&batch_key)
            .arg(
                &["envelope", &batch.to_json(), "refs", "1", "needs", &needs.join(" ")]
                    [..4 + 2 * usize::from(!needs.is_empty())],
            )
            .query(&mut redis)
            .unwrap();
        let seq: u64 = redis::cmd("INCR").arg(format!("{base}:seq")).query(&mut redis).unwrap();
        let now = Timestamp::now().as_millis();
        let _: () = redis::cmd("HSET")
            .arg(format!("{base}:job:{id}"))
            .arg("status")
            .arg("queued")
            .arg("spec")
            .arg(Digest::of(raw).hex())
            .arg("batch")
            .arg(batch.digest().hex())
            .arg("index")
            .arg(0)
            .arg("submitter")
            .arg(self.user.peer_id().to_string())
            .arg("created")
            .arg(now)
            .arg("run_until")
            .arg(now + 3_600_000)
            .query(&mut redis)
            .unwrap();
        for (list, score) in
            [("jobs", seq), ("pending:normal", seq), ("expiry", u64::try_from(now).unwrap() + 3_600_000)]
        {
            let _: () = redis::cmd("ZADD").arg(format!("{base}:{list}")).arg(score).arg(&id).query(&mut redis).unwrap();
        }
        let _: () = redis::cmd("RPUSH").arg(format!("{base}:wake")).arg(1).query(&mut redis).unwrap();
        let job = format!("{}-{id}", self.kind);
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let status = self.house.run(&["job", "status", &job, "--json"]).ok().json();
            if !matches!(status["status"].as_str().unwrap(), "queued" | "running") {
                return status;
            }
            assert!(Instant::now() < deadline, "{status}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Nothing but what was planted is in the queue.
    fn jobs(&self) -> usize {
        self.house.run(&["job", "list", "--json"]).ok().json()["jobs"].as_array().unwrap().len()
    }

    fn refused(&self, what: &str, kinds: &[&str], batch: &Envelope, spec: &JobSpec, workflow: Option<&Envelope>) {
        let before = self.jobs();
        let said = self.send(batch, workflow).expect_err(what);
        assert!(kinds.contains(&said.as_str()), "{what}: the supervisor says {said}");
        assert_eq!(self.jobs(), before, "{what}: the supervisor queued it");
        let end = self.plant(batch, spec, workflow);
        assert_eq!(end["status"], "failed", "{what}: the runner let it pass: {end}");
        let code = end["error"]["code"].as_str().unwrap_or_default().to_owned();
        assert!(kinds.contains(&code.as_str()), "{what}: the runner says {end}");
    }
}

#[test]
fn a_coordinators_key_alone_can_submit_nothing() {
    let scene = Scene::new();
    let me = scene.coordinator.peer_id();
    let other = Identity::generate().peer_id();
    let not_mine = &["NOT_ALLOWED", "UNTRUSTED_SIGNER"][..];
    let mismatch = &["DELEGATION_MISMATCH"][..];
    let run_until = Timestamp::now() + Duration::from_secs(600);

    let spec = JobSpec::new(LocalId::generate(), scene.kind.clone(), "6 * 7".to_owned(), run_until);
    scene.refused("a script of its own", not_mine, &scene.batch(scene.supervisor, spec.clone()), &spec, None);

    let mine = scene.workflow(&[me]);
    let spec = scene.step(&mine, "nowhere", None, vec![]);
    scene.refused(
        "a step that is not there",
        mismatch,
        &scene.batch(scene.supervisor, spec.clone()),
        &spec,
        Some(&mine),
    );

    let mut spec = scene.step(&mine, "a", None, vec![]);
    spec.id = LocalId::generate();
    scene.refused(
        "a step under another id",
        mismatch,
        &scene.batch(scene.supervisor, spec.clone()),
        &spec,
        Some(&mine),
    );

    let spec = scene.step(&mine, "b", Some("{\"a\":3}"), vec![]);
    scene.refused(
        "an input without receipt",
        mismatch,
        &scene.batch(scene.supervisor, spec.clone()),
        &spec,
        Some(&mine),
    );

    let theirs = scene.workflow(&[other]);
    let spec = scene.step(&theirs, "a", None, vec![]);
    let kinds = &["DELEGATION_MISMATCH", "NOT_ALLOWED"][..];
    scene.refused(
        "a workflow that names another",
        kinds,
        &scene.batch(scene.supervisor, spec.clone()),
        &spec,
        Some(&theirs),
    );

    let spec = scene.step(&mine, "a", None, vec![]);
    let kinds = &["NOT_ALLOWED", "DELEGATION_MISMATCH"][..];
    scene.refused("a supervisor outside aud", kinds, &scene.batch(other, spec.clone()), &spec, Some(&mine));
}

#[test]
fn a_finished_step_does_not_run_again_and_what_is_right_runs() {
    let scene = Scene::new();
    let mine = scene.workflow(&[scene.coordinator.peer_id()]);
    let spec = scene.step(&mine, "a", None, vec![]);
    let batch = scene.batch(scene.supervisor, spec.clone());
    assert_eq!(scene.send(&batch, None).unwrap_err(), "WORKFLOW_UNKNOWN", "the workflow has to come with it once");
    scene.send(&batch, Some(&mine)).unwrap();
    let job = format!("sal-{}", spec.id);
    let done = scene.house.run(&["job", "result", &job, "--wait", "--json"]).ok().json();
    assert_eq!(done["output"], 2, "{done}");

    // The same bytes: the same job. Another attempt without a failure before it: refused.
    scene.send(&batch, Some(&mine)).unwrap();
    assert_eq!(scene.jobs(), 1);
    let again = Delegation { workflow: mine.digest(), step: StepId::new("a").unwrap(), index: None, attempt: 2 };
    let spec = JobSpec::step(scene.kind.clone(), again, None, vec![]);
    assert_eq!(scene.send(&scene.batch(scene.supervisor, spec), Some(&mine)).unwrap_err(), "DELEGATION_MISMATCH");
    assert_eq!(scene.jobs(), 1);
}
