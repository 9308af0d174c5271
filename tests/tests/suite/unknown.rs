//! A supervisor that was given steps and cannot be asked any more, killed or cut off: whether they ran is unknown. What each
//! policy promises for that, the effects themselves say.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use horus_keys::{Envelope, Identity, PeerId};
use horus_tests::{Calls, Cut, Hands, Running, TestRedis, Valid, free_port, sign_workflow};
use nix::sys::signal::Signal;
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);
/// Workflows, each with a step of every policy.
const WORKFLOWS: usize = 12;
/// Steps, and what they say about trouble.
const POLICIES: [(&str, &str); 5] = [
    ("wait", "on_unknown: wait"),
    ("plain", "continue_on_error: false"),
    ("short", "on_unknown: wait, timeout: 4s"),
    ("fail", "on_unknown: fail, idempotent: true"),
    ("retry", "on_unknown: retry"),
];
const IDEMPOTENT: (&str, &str) = ("idempotent", "idempotent: true");

fn sign(turn: usize, effects: &Path, me: &Identity, coordinator: PeerId) -> Envelope {
    let id = format!("w{turn}");
    let mut definition = "workflow:\n  name: unknown\n  steps:\n".to_owned();
    let mut steps: Vec<_> = POLICIES.iter().chain([&IDEMPOTENT]).collect();
    // The supervisors take turns: let each step come to both.
    steps.rotate_left(turn % POLICIES.len());
    for (step, policy) in steps {
        let script =
            format!("file_write_append(\"{}\", \"{id} {step} \" + place() + \"\\n\"); sleep(1); 1", effects.display());
        writeln!(definition, "    - {{id: {step}, runner: sal, {policy}, payload: '{script}'}}").unwrap();
    }
    sign_workflow(me, &id, definition, &[coordinator], Valid::LONG)
}

/// A supervisor with a Redis and a runner of its own, which the coordinator reaches by a cable.
struct Machine {
    redis: TestRedis,
    port: String,
    name: &'static str,
    cable: Cut,
    supervisor: Running,
    _runner: Running,
}

impl Machine {
    fn new(hands: &Hands, name: &'static str) -> Self {
        let (redis, port) = (TestRedis::start(), free_port());
        let runner = format!("{name}-sal");
        let library = hands.path(&format!("lib-{name}"));
        std::fs::create_dir(&library).unwrap();
        std::fs::write(library.join("place.rhai"), format!("fn place() {{ \"{name}\" }}\n")).unwrap();
        let (url, library) = (redis.url(), library.display().to_string());
        let args = ["runner", "sal", "--redis-url", &url, "--script-lib", &library, "--concurrency", "8"];
        let runs = hands.role(&runner, &args);
        let supervisor = Self::supervise(hands, name, port, &url);
        let cable = Cut::before(port);
        Self { redis, port: port.to_string(), name, cable, supervisor, _runner: runs }
    }

    fn supervise(hands: &Hands, name: &str, port: u16, url: &str) -> Running {
        hands.role(name, &["supervisor", "--port", &port.to_string(), "--redis-url", url])
    }

    fn address(&self) -> String {
        format!("http://127.0.0.1:{}", self.cable.port())
    }
}

/// Lines of the effects: how often each step ran at each place.
fn effects(file: &Path) -> BTreeMap<String, BTreeMap<String, usize>> {
    let mut count: BTreeMap<String, BTreeMap<String, usize>> = BTreeMap::new();
    for line in std::fs::read_to_string(file).unwrap_or_default().lines() {
        let (step, place) = line.rsplit_once(' ').unwrap();
        *count.entry(step.to_owned()).or_default().entry(place.to_owned()).or_default() += 1;
    }
    count
}

/// What is wrong about one step, if anything; and whether its supervisor was missed.
fn judge(step: &str, view: &Value, ran: &BTreeMap<String, usize>, gone: &str) -> (Option<String>, bool) {
    let (status, attempt) = (view["status"].as_str().unwrap(), view["attempt"].as_u64().unwrap());
    let times: usize = ran.values().sum();
    let unknown = status == "failed" && view["error"]["code"] == "UNKNOWN_OUTCOME";
    let again = attempt > 1;
    let holds = match step {
        // They wait until the supervisor is back: run once, and told so.
        "wait" | "plain" => status == "succeeded" && attempt == 1 && times == 1,
        // Given up, each in its time, and never run anywhere else.
        "short" | "fail" => attempt == 1 && times <= 1 && (unknown || (status == "succeeded" && times == 1)),
        // Run elsewhere, so twice at most here, where one supervisor is away once.
        _ => {
            let elsewhere = !again || ran.keys().any(|place| place != gone);
            status == "succeeded" && (1..=2).contains(&times) && (times == 1 || again) && attempt <= 2 && elsewhere
        }
    };
    let problem = (!holds).then(|| format!("{step} is {status}, attempt {attempt}, and ran {ran:?}: {view}"));
    (problem, unknown || again)
}

/// One of two supervisors goes away while it has steps, and comes back.
fn check(leave: impl FnOnce(&mut Machine), come_back: impl FnOnce(&Hands, &mut Machine)) {
    let hands = Hands::new();
    // All keys before the first role: a policy that changes is read again within seconds only.
    for name in ["a", "b"] {
        hands.key(name, "supervisor", "*");
        hands.key(&format!("{name}-sal"), "runner", "sal");
    }
    let coordinator = hands.key("coordinator", "coordinator", "*");
    let (mut a, b) = (Machine::new(&hands, "a"), Machine::new(&hands, "b"));
    let (own, port) = (TestRedis::start(), free_port().to_string());
    let (url, (at_a, at_b)) = (own.url(), (a.address(), b.address()));
    let args = ["coordinator", "--port", &port, "--redis-url", &url, "--supervisor", &at_a, "--supervisor", &at_b];
    let runs = hands.role("coordinator", &args);
    Hands::until("both supervisors answer", PATIENCE, || {
        (runs.log().matches("supervisor answers").count() >= 2).then_some(())
    });
    let (me, file) = (hands.identity("me"), hands.path("effects"));
    let calls = Calls::to(&format!("http://127.0.0.1:{port}"), Some(me.clone()));
    let ids: Vec<String> = (0..WORKFLOWS).map(|n| format!("w{n}")).collect();
    for turn in 0..WORKFLOWS {
        calls.submit_workflow(sign(turn, &file, &me, coordinator), PATIENCE);
    }
    let places = || effects(&file).into_values().flat_map(BTreeMap::into_keys).collect::<BTreeSet<_>>();
    Hands::until("both have begun", PATIENCE, || (places().len() == 2).then_some(()));
    leave(&mut a);
    let left = Instant::now();
    // Away until the last of those that do not wait for ever has given up: all that can be decided is.
    let given_up = |id: &String| {
        let view = serde_json::to_value(calls.workflow(id).ok()?).ok()?;
        (view["steps"]["short"]["error"]["code"] == "UNKNOWN_OUTCOME" && view["steps"]["short"]["status"] == "failed")
            .then_some(())
    };
    Hands::until("a step is given up", PATIENCE, || ids.iter().find_map(given_up));
    thread::sleep(Duration::from_secs(2));
    come_back(&hands, &mut a);
    let views = calls.ended(&ids, PATIENCE);
    println!("all had ended {:?} after it left", left.elapsed());

    let (effects, mut problems, mut missed) = (effects(&file), Vec::new(), BTreeMap::<&str, usize>::new());
    for (id, view) in ids.iter().zip(&views) {
        for (step, _) in POLICIES.iter().chain([&IDEMPOTENT]) {
            let ran = effects.get(&format!("{id} {step}")).cloned().unwrap_or_default();
            let (problem, was_missed) = judge(step, &view["steps"][step], &ran, a.name);
            problems.extend(problem.map(|problem| format!("{id}: {problem}")));
            *missed.entry(step).or_default() += usize::from(was_missed);
        }
    }
    println!("steps whose supervisor was missed: {missed:?}");
    assert!(problems.is_empty(), "{}\n{}\n{}", runs.log(), a.supervisor.log(), problems.join("\n"));
    for step in ["short", "fail", "retry", "idempotent"] {
        assert!(missed[step] > 0, "{step} was never put to the test: {missed:?}");
    }
    for redis in [&a.redis, &b.redis, &own] {
        let doctor = hands.horus.run(&["doctor", "--redis-url", &redis.url(), "--json"]);
        assert_eq!(doctor.code, 0, "{doctor:?}");
    }
}

#[test]
fn a_supervisor_that_is_killed_with_steps_keeps_what_on_unknown_promises() {
    check(
        |machine| machine.supervisor.signal(Signal::SIGKILL),
        |hands, machine| {
            let (port, url) = (machine.port.parse().unwrap(), machine.redis.url());
            machine.supervisor = Machine::supervise(hands, machine.name, port, &url);
        },
    );
}

#[test]
fn a_supervisor_that_is_cut_off_with_steps_keeps_what_on_unknown_promises() {
    check(|machine| machine.cable.cut(), |_, machine| machine.cable.mend());
}
