//! SIGTERM under load: supervisor, coordinator and `horus up` take nothing new, answer who waits, finish what was begun, and
//! nothing that they have accepted is lost or done twice once they run again. (Runners: `stopping`.)

use std::{
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use horus_keys::{Envelope, Identity, KeyDir, PayloadType, PeerId, Timestamp};
use horus_node::api::{
    coordinator::{SubmitWorkflow, SubmitWorkflowParams, WaitWorkflow, WaitWorkflowParams},
    supervisor::{CreateJobs, CreateJobsParams, WaitJobs, WaitJobsParams},
};
use horus_runners::job::{JobBatch, JobSpec, JobStatus};
use horus_tests::{Calls, Hands, House, Ledger, Running, TestRedis, Valid, free_port, sign_workflow};
use nix::sys::signal::Signal;

const PATIENCE: Duration = Duration::from_secs(60);
/// What is meant by at once, on a machine with much else to do.
const AT_ONCE: Duration = Duration::from_secs(3);

struct Scene {
    hands: Hands,
    redis: TestRedis,
    port: String,
    at: String,
    supervisor: PeerId,
    coordinator: PeerId,
    _runners: Vec<Running>,
}

impl Scene {
    fn new(kinds: &[&str]) -> Self {
        let (hands, redis, port) = (Hands::new(), TestRedis::start(), free_port().to_string());
        // All keys before the first role: a policy that changes is read again within seconds only.
        let supervisor = hands.key("supervisor", "supervisor", "*");
        let coordinator = hands.key("coordinator", "coordinator", "*");
        kinds.iter().for_each(|kind| _ = hands.key(kind, "runner", kind));
        let url = redis.url();
        let runner = |kind: &&str| hands.role(kind, &["runner", kind, "--redis-url", &url]);
        let runners = kinds.iter().map(runner).collect();
        let at = format!("http://127.0.0.1:{port}");
        Self { hands, redis, at, port, supervisor, coordinator, _runners: runners }
    }

    fn supervisor(&self, grace: &str) -> Running {
        let url = self.redis.url();
        let args = ["supervisor", "--port", &self.port, "--redis-url", &url, "--grace", grace];
        self.hands.role("supervisor", &args)
    }

    fn jobs(&self, name: &str, count: usize, change: impl Fn(&mut JobSpec, usize)) -> Envelope {
        let until = Timestamp::now() + Duration::from_secs(7200);
        let job = |n: usize| {
            let id = format!("{name}-{n}").parse().unwrap();
            let mut spec = JobSpec::new(id, "noop".parse().unwrap(), "1", until);
            change(&mut spec, n);
            spec
        };
        let jobs = (0..count).map(job).collect();
        let batch = JobBatch { aud: vec![self.supervisor], jobs, certificates: Vec::new() };
        Envelope::sign_json(&self.hands.identity("me"), PayloadType::Jobs, &batch)
    }

    fn healthy(&self) {
        let doctor = self.hands.horus.run(&["doctor", "--redis-url", &self.redis.url(), "--json"]);
        assert_eq!(doctor.code, 0, "{doctor:?}");
    }
}

/// Tells it to stop, and checks that it does so well.
fn drains(mut role: Running, within: Duration) {
    role.signal(Signal::SIGTERM);
    let told = Instant::now();
    assert_eq!(role.wait(within), Some(0), "not stopped {:?} after SIGTERM:\n{}", told.elapsed(), role.log());
}

#[test]
fn a_supervisor_that_is_told_to_stop_answers_who_waits_and_keeps_what_it_has_accepted() {
    let scene = Scene::new(&["noop", "sal"]);
    let supervisor = scene.supervisor("30s");
    let effects = scene.hands.path("effects").display().to_string();
    let me = scene.hands.identity("me");

    let later = scene.jobs("later", 1, |spec, _| spec.not_before = Some(Timestamp::now() + Duration::from_secs(3600)));
    Calls::to(&scene.at, None).submit_jobs(later, PATIENCE);
    let (load_is_over, draining) = (AtomicBool::new(false), AtomicBool::new(false));
    let submit = |thread: usize| {
        let (calls, mut batches) = (Calls::to(&scene.at, None), 0);
        while !load_is_over.load(Ordering::SeqCst) {
            let name = format!("t{thread}-{batches}");
            let envelope = scene.jobs(&name, 4, |spec, n| {
                spec.runner = "sal".parse().unwrap();
                spec.payload = Some(format!("file_write_append(\"{effects}\", \"{name}-{n}\\n\"); 1"));
            });
            calls.submit_jobs(envelope, PATIENCE);
            batches += 1;
        }
        batches
    };
    let wait = || {
        let job_ids = vec!["noop-later-0".parse().unwrap()];
        let params = WaitJobsParams { job_ids, timeout_ms: 300_000, any: false, share_receipts: false };
        let answer = Calls::to(&scene.at, Some(me.clone())).call::<WaitJobs>(&params, Duration::from_secs(300));
        assert!(draining.load(Ordering::SeqCst), "it waits until the supervisor stops");
        (answer, Instant::now())
    };
    let (submitted, answers, told) = thread::scope(|scope| {
        let load: Vec<_> = (0..3).map(|n| scope.spawn(move || submit(n))).collect();
        let waiting: Vec<_> = (0..8).map(|_| scope.spawn(wait)).collect();
        thread::sleep(Duration::from_millis(1500));
        draining.store(true, Ordering::SeqCst);
        let told = Instant::now();
        drains(supervisor, Duration::from_secs(8));
        let answers: Vec<_> = waiting.into_iter().map(|waiting| waiting.join().unwrap()).collect();
        let _again = scene.supervisor("30s");
        thread::sleep(Duration::from_millis(500));
        load_is_over.store(true, Ordering::SeqCst);
        let submitted: Vec<usize> = load.into_iter().map(|load| load.join().unwrap()).collect();
        // Everything that was answered is there, once, and gets done.
        let calls = Calls::to(&scene.at, Some(me.clone()));
        for (thread, batches) in submitted.iter().enumerate() {
            for job in (0..*batches * 4).map(|n| format!("sal-t{thread}-{}-{}", n / 4, n % 4)) {
                assert_eq!(calls.job_ended(&job, PATIENCE).status, JobStatus::Succeeded, "{job}");
            }
        }
        (submitted, answers, told)
    });
    for (answer, at) in answers {
        let waited = answer.expect("a long poll is answered, not broken off");
        assert_eq!((waited.done.len(), waited.pending.len()), (0, 1));
        assert!(at - told < AT_ONCE, "answered {:?} after SIGTERM", at - told);
    }
    let text = std::fs::read_to_string(&effects).unwrap();
    let mut lines: Vec<&str> = text.lines().collect();
    let all = lines.len();
    lines.sort_unstable();
    lines.dedup();
    assert_eq!((all, lines.len()), (submitted.iter().sum::<usize>() * 4, all), "each once");
    scene.healthy();
}

#[test]
fn a_supervisor_that_cannot_finish_stops_within_its_grace_and_at_once_when_told_again() {
    let scene = Scene::new(&["noop"]);
    for (name, grace) in [("grace", "2s"), ("twice", "60s")] {
        let mut supervisor = scene.supervisor(grace);
        let params =
            CreateJobsParams { envelope: scene.jobs(name, 1, |_, _| {}).into(), workflow: None, receipts: Vec::new() };
        let before = scene.jobs(&format!("before-{name}"), 1, |_, _| {});
        Calls::to(&scene.at, None).submit_jobs(before, PATIENCE);
        thread::scope(|scope| {
            scene.redis.signal(Signal::SIGSTOP);
            let hangs = scope.spawn(|| Calls::to(&scene.at, None).call::<CreateJobs>(&params, Duration::from_secs(30)));
            thread::sleep(Duration::from_millis(500));
            assert!(!hangs.is_finished(), "Redis does not answer, so neither does the supervisor");
            stops_though_it_hangs(&mut supervisor, name);
            scene.redis.signal(Signal::SIGCONT);
            assert!(hangs.join().unwrap().is_err(), "nobody has heard of this job");
        });
        // Whether Redis has it or not: the same batch again settles it.
        let _again = scene.supervisor("10s");
        Calls::to(&scene.at, None).insist::<CreateJobs>(&params, PATIENCE);
        scene.hands.becomes(&scene.at, &format!("noop-{name}-0"), "succeeded");
    }
    scene.healthy();
}

/// Of two roles that wait for Redis, one has a short grace, the other is told twice.
fn stops_though_it_hangs(role: &mut Running, name: &str) {
    let told = Instant::now();
    role.signal(Signal::SIGTERM);
    if name == "twice" {
        Hands::until("it drains", AT_ONCE, || role.log().contains("stopping").then_some(()));
        assert_eq!(role.wait(Duration::from_millis(700)), None, "it tries to finish what it has begun");
        role.signal(Signal::SIGTERM);
        assert!(role.wait(AT_ONCE).is_some(), "told twice it stops at once:\n{}", role.log());
    } else {
        assert!(role.wait(Duration::from_secs(2) + AT_ONCE).is_some(), "its grace is over:\n{}", role.log());
        assert!(told.elapsed() > Duration::from_millis(1500), "it uses its grace: {:?}", told.elapsed());
    }
}

fn sign_slow(me: &Identity, id: &str, effects: &Path, coordinator: PeerId) -> Envelope {
    let effects = effects.display();
    let definition = format!(
        "workflow:\n  name: slow\n  steps:\n    - id: only\n      runner: sal\n      payload: 'file_write_append(\"{effects}\", \"{id}\\n\"); sleep(5); 1'\n"
    );
    sign_workflow(me, id, definition, &[coordinator], Valid::LONG)
}

#[test]
fn a_coordinator_that_is_told_to_stop_answers_who_waits_and_goes_on_when_it_runs_again() {
    let scene = Scene::new(&["noop", "sal", "osiris"]);
    let _supervisor = scene.supervisor("10s");
    let (port, url, coordinator) = (free_port().to_string(), scene.redis.url(), scene.coordinator);
    let at = format!("http://127.0.0.1:{port}");
    let start = |grace: &str| {
        let args = ["coordinator", "--port", &port, "--redis-url", &url, "--supervisor", &scene.at, "--grace", grace];
        scene.hands.role("coordinator", &args)
    };
    let directory = scene.hands.path("ledger");
    std::fs::create_dir(&directory).unwrap();
    let (ledger, me, effects) = (Ledger::new(&directory), scene.hands.identity("me"), scene.hands.path("slow"));
    let first = start("30s");
    Calls::to(&at, None).submit_workflow(sign_slow(&me, "slow", &effects, coordinator), PATIENCE);
    Hands::until("the slow step begins", PATIENCE, || effects.exists().then_some(()));

    let (load_is_over, draining) = (AtomicBool::new(false), AtomicBool::new(false));
    let submit = |thread: usize| {
        let (calls, mut ids) = (Calls::to(&at, None), Vec::new());
        while !load_is_over.load(Ordering::SeqCst) {
            let id = format!("w{thread}-{}", ids.len());
            calls.submit_workflow(ledger.sign(&id, &me, &[coordinator]), PATIENCE);
            ids.push(id);
            thread::sleep(Duration::from_millis(60));
        }
        ids
    };
    let wait = || {
        let workflow_id = "slow".parse().unwrap();
        let params = WaitWorkflowParams { workflow_id, after_revision: None, timeout_ms: 300_000, steps: None };
        let answer = Calls::to(&at, Some(me.clone())).call::<WaitWorkflow>(&params, Duration::from_secs(300));
        assert!(draining.load(Ordering::SeqCst), "it waits until the coordinator stops");
        (answer, Instant::now())
    };
    let (ids, _runs) = thread::scope(|scope| {
        let load: Vec<_> = (0..2).map(|n| scope.spawn(move || submit(n))).collect();
        let waiting: Vec<_> = (0..8).map(|_| scope.spawn(wait)).collect();
        thread::sleep(Duration::from_millis(1500));
        draining.store(true, Ordering::SeqCst);
        let told = Instant::now();
        drains(first, Duration::from_secs(8));
        for waiting in waiting {
            let (answer, at) = waiting.join().unwrap();
            assert!(!answer.expect("a long poll is answered, not broken off").status.is_final());
            assert!(at - told < AT_ONCE, "answered {:?} after SIGTERM", at - told);
        }
        let again = start("30s");
        thread::sleep(Duration::from_millis(500));
        load_is_over.store(true, Ordering::SeqCst);
        (load.into_iter().flat_map(|load| load.join().unwrap()).collect::<Vec<_>>(), again)
    });
    let calls = Calls::to(&at, Some(me));
    let slow = calls.ended(&["slow".to_owned()], PATIENCE);
    assert_eq!(slow[0]["status"], "succeeded", "{slow:#?}");
    assert_eq!(std::fs::read_to_string(&effects).unwrap(), "slow\n", "it ran once");
    matches(&ledger, &calls.ended(&ids, PATIENCE), |id| scene.hands.records(&scene.at, id));
    scene.healthy();
}

/// Nothing that runs steps died: everything succeeded, and took effect once.
fn matches(ledger: &Ledger, views: &[serde_json::Value], records: impl Fn(&str) -> usize) {
    let mut problems = Vec::new();
    for view in views {
        let id = view["workflow_id"].as_str().unwrap();
        problems.extend(ledger.problems(view, records(id)));
        if view["status"] != "succeeded" || ledger.count("mark").get(id) != Some(&1) {
            problems.push(format!("{id} is to succeed with each step once: {view:#}"));
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn a_coordinator_that_cannot_finish_stops_within_its_grace_and_at_once_when_told_again() {
    let scene = Scene::new(&["noop"]);
    let _supervisor = scene.supervisor("10s");
    let coordinator = scene.coordinator;
    // A Redis of its own: only the coordinator has to do without.
    let (port, own) = (free_port().to_string(), TestRedis::start());
    let (at, url, me) = (format!("http://127.0.0.1:{port}"), own.url(), scene.hands.identity("me"));
    let start = |grace: &str| {
        let args = ["coordinator", "--port", &port, "--redis-url", &url, "--supervisor", &scene.at, "--grace", grace];
        scene.hands.role("coordinator", &args)
    };
    for (name, grace) in [("grace", "2s"), ("twice", "60s")] {
        let mut role = start(grace);
        let definition = "workflow:\n  name: short\n  steps:\n    - {id: a, runner: noop, payload: '1'}\n".to_owned();
        let envelope = sign_workflow(&me, name, definition, &[coordinator], Valid::LONG);
        let params = SubmitWorkflowParams { envelope: envelope.into() };
        thread::scope(|scope| {
            own.signal(Signal::SIGSTOP);
            let call = || Calls::to(&at, None).call::<SubmitWorkflow>(&params, Duration::from_secs(30));
            let hangs = scope.spawn(call);
            thread::sleep(Duration::from_millis(500));
            assert!(!hangs.is_finished(), "Redis does not answer, so neither does the coordinator");
            stops_though_it_hangs(&mut role, name);
            own.signal(Signal::SIGCONT);
            assert!(hangs.join().unwrap().is_err(), "nobody has heard of this workflow");
        });
        let _again = start("10s");
        let calls = Calls::to(&at, Some(me.clone()));
        calls.insist::<SubmitWorkflow>(&params, PATIENCE);
        assert_eq!(calls.ended(&[name.to_owned()], PATIENCE)[0]["status"], "succeeded");
        // Asked while it runs: killed at once, it would leave to the next one to note that the workflow has ended.
        let doctor = scene.hands.horus.run(&["doctor", "--redis-url", &url, "--json"]);
        assert_eq!(doctor.code, 0, "{doctor:?}");
    }
}

#[test]
fn horus_up_drains_under_load_stops_at_once_when_told_twice_and_goes_on_when_started_again() {
    let mut house = House::start_with(&["--grace", "20s"]);
    let load = house.file("effects", "");
    let directory = Path::new(&load).parent().unwrap().join("ledger");
    std::fs::create_dir(&directory).unwrap();
    let key = |dir: &Path| KeyDir::load(dir, || Ok(None)).unwrap().identity;
    let me = key(&house.data_dir().parent().unwrap().join("me"));
    let coordinator = key(&house.data_dir().join("keys/coordinator")).peer_id();
    let ledger = Ledger::new(&directory);
    let mut ids: Vec<String> = Vec::new();
    for (round, twice) in [("drained", false), ("stopped", true)] {
        let calls = Calls::to(&house.ready.coordinator, Some(me.clone()));
        let more: Vec<String> = (0..40).map(|n| format!("{round}{n}")).collect();
        for id in &more {
            calls.submit_workflow(ledger.sign(id, &me, &[coordinator]), PATIENCE);
        }
        let told = Instant::now();
        house.up.signal(Signal::SIGTERM);
        if twice {
            Hands::until("it drains", AT_ONCE, || house.up.log().contains("stopping").then_some(()));
            house.up.signal(Signal::SIGTERM);
            assert!(house.up.wait(2 * AT_ONCE).is_some(), "told twice it stops at once:\n{}", house.up.log());
        } else {
            assert_eq!(house.up.wait(Duration::from_secs(15)), Some(0), "{}", house.up.log());
        }
        println!("{round} within {:?}", told.elapsed());
        house.start_again();
        let views = Calls::to(&house.ready.coordinator, Some(me.clone())).ended(&more, PATIENCE);
        if !twice {
            matches(&ledger, &views, |id| house.records(id));
        }
        ids.extend(more);
    }
    let views = Calls::to(&house.ready.coordinator, Some(me)).ended(&ids, PATIENCE);
    let problems: Vec<String> = views
        .iter()
        .flat_map(|view| ledger.problems(view, house.records(view["workflow_id"].as_str().unwrap())))
        .collect();
    assert!(problems.is_empty(), "{}\n{}", problems.join("\n"), house.up.log());
    house.run(&["doctor", "--redis-url", &house.ready.redis_url, "--json"]).ok();
}
