//! Two coordinators on one Redis: one goes on for the other, and the other, should it wake up, writes nothing.

use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant},
};

use horus_keys::{Envelope, PeerId};
use horus_tests::{Calls, Hands, Ledger, Running, TestRedis, free_port};
use nix::sys::signal::Signal;
use serde_json::Value;

const TAKEN_OVER_WITHIN: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(60);

struct Scene {
    hands: Hands,
    redis: TestRedis,
    supervisor: String,
    _roles: Vec<Running>,
}

impl Scene {
    fn new() -> Self {
        let (hands, redis) = (Hands::new(), TestRedis::start());
        let (url, port) = (redis.url(), free_port().to_string());
        // All keys before the first role: a policy that changes is read again within seconds only.
        hands.key("supervisor", "supervisor", "*");
        ["a", "b"].iter().for_each(|name| _ = hands.key(name, "coordinator", "*"));
        ["noop", "sal", "osiris"].iter().for_each(|kind| _ = hands.key(kind, "runner", kind));
        let mut roles = vec![hands.role("supervisor", &["supervisor", "--port", &port, "--redis-url", &url])];
        for kind in ["noop", "sal", "osiris"] {
            roles.push(hands.role(kind, &["runner", kind, "--redis-url", &url]));
        }
        Self { hands, redis, supervisor: format!("http://127.0.0.1:{port}"), _roles: roles }
    }

    fn coordinator(&self, name: &str) -> (PeerId, Running, String) {
        let id = self.hands.identity(name).peer_id();
        let (runs, at) = self.another(name);
        (id, runs, at)
    }

    /// One more process with the key of that coordinator.
    fn another(&self, name: &str) -> (Running, String) {
        let (url, port) = (self.redis.url(), free_port().to_string());
        let args = ["coordinator", "--port", &port, "--redis-url", &url, "--supervisor", &self.supervisor];
        (self.hands.role(name, &args), format!("http://127.0.0.1:{port}"))
    }

    fn meta(&self, id: &str) -> BTreeMap<String, String> {
        let mut redis = self.redis.connection();
        redis::cmd("HGETALL").arg(format!("horus:wf:{{{id}}}:meta")).query(&mut redis).unwrap()
    }

    /// How long it takes until the workflow belongs to that coordinator.
    fn owned_within(&self, id: &str, owner: PeerId) -> Duration {
        let (since, owner) = (Instant::now(), owner.to_string());
        Hands::until("another coordinator has it", 2 * TAKEN_OVER_WITHIN, || {
            self.meta(id)["owner"].starts_with(&owner).then_some(())
        });
        since.elapsed()
    }

    fn status(&self, at: &str, id: &str) -> Option<Value> {
        let shown = self.hands.horus.run(&["workflow", "status", id, "--coordinator", at, "--json"]);
        (shown.code == 0).then(|| shown.json())
    }

    fn end(&self, at: &str, id: &str) -> Value {
        Hands::until(&format!("workflow {id} ends"), PATIENCE, || {
            self.status(at, id).filter(|view| matches!(view["status"].as_str(), Some("succeeded" | "failed")))
        })
    }

    fn check(&self, at: &str, ledger: &Ledger, ids: &[String]) {
        let mut problems = Vec::new();
        for id in ids {
            let view = self.end(at, id);
            // Nothing that runs steps died here: nothing is given up.
            assert_eq!(view["status"], "succeeded", "{view:#}");
            problems.extend(ledger.problems(&view, self.hands.records(&self.supervisor, id)));
        }
        assert!(problems.is_empty(), "{}", problems.join("\n"));
    }
}

fn submit(at: &str, envelopes: Vec<Envelope>) {
    let calls = Calls::to(at, None);
    envelopes.into_iter().for_each(|envelope| calls.submit_workflow(envelope, PATIENCE));
}

#[test]
fn a_coordinator_goes_on_for_another_that_then_writes_nothing() {
    let scene = Scene::new();
    let directory = scene.hands.path("ledger");
    std::fs::create_dir(&directory).unwrap();
    let (ledger, user) = (Ledger::new(Path::new(&directory)), scene.hands.identity("me"));
    let (a, a_runs, at_a) = scene.coordinator("a");
    let (b, b_runs, at_b) = scene.coordinator("b");
    let sign = |ids: &[String]| ids.iter().map(|id| ledger.sign(id, &user, &[a, b])).collect::<Vec<_>>();

    // The first stands still, past its lease.
    let first: Vec<String> = (0..20).map(|n| format!("first{n}")).collect();
    submit(&at_a, sign(&first));
    let running = |id: &&String| scene.meta(id)["status"] == "running";
    let last = first.iter().rev().find(running).expect("they take longer than it takes to submit them").clone();
    a_runs.signal(Signal::SIGSTOP);
    let took = scene.owned_within(&last, b);
    println!("taken over {took:?} after it was stopped");
    assert!(took < TAKEN_OVER_WITHIN, "{took:?}");
    scene.check(&at_b, &ledger, &first);
    let before: Vec<_> = first.iter().map(|id| scene.meta(id)).collect();

    // It wakes up, and learns that nothing of this is its own any more.
    a_runs.signal(Signal::SIGCONT);
    Hands::until("it lets go", PATIENCE, || a_runs.log().contains("another coordinator has taken over").then_some(()));
    let seen = scene.end(&at_a, &last);
    assert_eq!(seen["revision"], scene.end(&at_b, &last)["revision"], "it shows what the other one did");
    let after: Vec<_> = first.iter().map(|id| scene.meta(id)).collect();
    assert_eq!(before, after, "it wrote nothing");

    // The second dies.
    let second: Vec<String> = (0..20).map(|n| format!("second{n}")).collect();
    submit(&at_b, sign(&second));
    let last = second.iter().rev().find(running).expect("they take longer than it takes to submit them").clone();
    b_runs.signal(Signal::SIGKILL);
    let took = scene.owned_within(&last, a);
    println!("taken over {took:?} after it was killed");
    assert!(took < TAKEN_OVER_WITHIN, "{took:?}");
    scene.check(&at_a, &ledger, &second);
    let doctor = scene.hands.horus.run(&["doctor", "--redis-url", &scene.redis.url(), "--json"]);
    assert_eq!(doctor.code, 0, "{doctor:?}");
}

#[test]
fn two_coordinators_with_one_key_leave_each_other_alone_until_one_dies() {
    let scene = Scene::new();
    let directory = scene.hands.path("ledger");
    std::fs::create_dir(&directory).unwrap();
    let (ledger, user) = (Ledger::new(Path::new(&directory)), scene.hands.identity("me"));
    let (id, first_runs, at_first) = scene.coordinator("a");
    let (second_runs, at_second) = scene.another("a");
    let name = |part: &str| (0..30).map(|n| format!("{part}{n}")).collect::<Vec<String>>();
    let sign = |ids: &[String]| ids.iter().map(|n| ledger.sign(n, &user, &[id])).collect::<Vec<_>>();

    // Both work side by side, each on what it was given.
    let (ones, others) = (name("one"), name("other"));
    std::thread::scope(|scope| {
        scope.spawn(|| submit(&at_first, sign(&ones)));
        scope.spawn(|| submit(&at_second, sign(&others)));
    });
    scene.check(&at_second, &ledger, &ones);
    scene.check(&at_first, &ledger, &others);
    let owners = |ids: &[String]| {
        let mut owners: Vec<_> =
            ids.iter().map(|id| (scene.meta(id)["owner"].clone(), scene.meta(id)["epoch"].clone())).collect();
        owners.dedup();
        owners
    };
    let (one, other) = (owners(&ones), owners(&others));
    assert_eq!((one.len(), other.len(), &one[0].1, &other[0].1), (1, 1, &"1".to_owned(), &"1".to_owned()));
    assert_ne!(one, other, "each process is an owner of its own");
    assert!(one[0].0.starts_with(&id.to_string()) && other[0].0.starts_with(&id.to_string()));
    assert!(!second_runs.log().contains("taken over"), "{}", second_runs.log());

    // One dies: the other goes on for it, as for any other coordinator.
    let last = name("last");
    submit(&at_first, sign(&last));
    first_runs.signal(Signal::SIGKILL);
    let since = Instant::now();
    let left: Vec<&String> = last.iter().filter(|id| scene.meta(id)["status"] == "running").collect();
    assert!(!left.is_empty(), "they take longer than it takes to submit them");
    for id in left {
        Hands::until("the other one has it", 2 * TAKEN_OVER_WITHIN, || {
            (scene.meta(id)["owner"] == other[0].0).then_some(())
        });
    }
    println!("taken over {:?} after it was killed", since.elapsed());
    assert!(since.elapsed() < TAKEN_OVER_WITHIN);
    scene.check(&at_second, &ledger, &last);
    let doctor = scene.hands.horus.run(&["doctor", "--redis-url", &scene.redis.url(), "--json"]);
    assert_eq!(doctor.code, 0, "{doctor:?}");
}
