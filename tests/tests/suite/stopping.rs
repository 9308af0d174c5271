//! SIGTERM drains, a second one stops at once: either way nothing is lost, and nothing runs twice that must not.

use std::time::{Duration, Instant};

use horus_tests::{Hands, Running, TestRedis, free_port};
use nix::sys::signal::Signal;

struct Scene {
    hands: Hands,
    redis: TestRedis,
    at: String,
    _supervisor: Running,
}

impl Scene {
    fn new() -> Self {
        let (hands, redis, port) = (Hands::new(), TestRedis::start(), free_port().to_string());
        hands.key("supervisor", "supervisor", "*");
        hands.key("sal", "runner", "sal");
        let args = ["supervisor", "--port", &port, "--redis-url", &redis.url(), "--lease", "2s"];
        let supervisor = hands.role("supervisor", &args);
        Self { hands, redis, at: format!("http://127.0.0.1:{port}"), _supervisor: supervisor }
    }

    fn runner(&self, grace: &str) -> Running {
        let url = self.redis.url();
        let runner = self.hands.role("sal", &["runner", "sal", "--redis-url", &url, "--lease", "2s", "--grace", grace]);
        Hands::until("the runner is there", Duration::from_secs(20), || {
            let list = self.hands.horus.run(&["runners", "list", "--supervisor", &self.at, "--json"]);
            list.stdout.contains("alive").then_some(())
        });
        runner
    }

    /// A job that writes its name, waits, and writes it again.
    fn job(&self, name: &str, seconds: u32, flags: &[&str]) -> String {
        let file = self.hands.path("effects").display().to_string();
        let script = format!(
            "file_write_append(\"{file}\", \"{name}\\n\"); sleep({seconds}); file_write_append(\"{file}\", \"{name} end\\n\")"
        );
        self.hands.submit(&self.at, "sal", &script, &[&["--id", name], flags].concat())
    }

    fn wrote(&self, line: &str) -> usize {
        let text = std::fs::read_to_string(self.hands.path("effects")).unwrap_or_default();
        text.lines().filter(|written| *written == line).count()
    }

    fn begins(&self, name: &str) {
        Hands::until(&format!("{name} begins"), Duration::from_secs(20), || (self.wrote(name) > 0).then_some(()));
    }

    fn healthy(&self) {
        let doctor = self.hands.horus.run(&["doctor", "--redis-url", &self.redis.url(), "--json"]);
        assert_eq!(doctor.code, 0, "{doctor:?}");
    }
}

#[test]
fn a_runner_that_is_told_to_stop_finishes_what_runs_and_leaves_the_rest_to_others() {
    let scene = Scene::new();
    let mut runner = scene.runner("20s");
    let jobs: Vec<String> = (0..12).map(|n| scene.job(&format!("j{n}"), 2, &[])).collect();
    scene.begins("j0");
    runner.signal(Signal::SIGTERM);
    let told = Instant::now();
    assert_eq!(runner.wait(Duration::from_secs(15)), Some(0), "{}", runner.log());
    assert!(told.elapsed() < Duration::from_secs(8), "it waits for what runs, not for its whole grace");
    let ended = jobs.iter().filter(|job| scene.hands.status(&scene.at, job) == "succeeded").count();
    assert!((1..12).contains(&ended), "{ended} jobs had ended: it took nothing new");
    let _next = scene.runner("20s");
    for (n, job) in jobs.iter().enumerate() {
        scene.hands.becomes(&scene.at, job, "succeeded");
        assert_eq!((scene.wrote(&format!("j{n}")), scene.wrote(&format!("j{n} end"))), (1, 1), "each ran once, whole");
    }
    scene.healthy();
}

#[test]
fn what_outlasts_the_grace_is_handed_back_if_it_may_run_twice_and_else_ends_as_interrupted() {
    let scene = Scene::new();
    let mut runner = scene.runner("1s");
    let once = scene.job("once", 20, &[]);
    let again = scene.job("again", 4, &["--idempotent"]);
    scene.begins("once");
    scene.begins("again");
    runner.signal(Signal::SIGTERM);
    assert_eq!(runner.wait(Duration::from_secs(8)), Some(0), "{}", runner.log());
    assert_eq!(scene.hands.status(&scene.at, &once), "failed");
    let told = scene.hands.horus.run(&["job", "result", &once, "--supervisor", &scene.at, "--json"]);
    assert!(told.stdout.contains("INTERRUPTED"), "{told:?}");
    assert_eq!(scene.hands.status(&scene.at, &again), "queued", "it need not wait until a lease lapses");
    let _next = scene.runner("1s");
    scene.hands.becomes(&scene.at, &again, "succeeded");
    assert_eq!((scene.wrote("once"), scene.wrote("again"), scene.wrote("again end")), (1, 2, 1));
    scene.healthy();
}

#[test]
fn a_second_signal_stops_at_once_and_leaves_what_a_crash_would_leave() {
    let scene = Scene::new();
    let mut runner = scene.runner("60s");
    let once = scene.job("once", 30, &[]);
    let again = scene.job("again", 3, &["--idempotent"]);
    scene.begins("once");
    scene.begins("again");
    runner.signal(Signal::SIGTERM);
    Hands::until("it drains", Duration::from_secs(5), || runner.log().contains("stopping").then_some(()));
    runner.signal(Signal::SIGTERM);
    assert!(runner.wait(Duration::from_secs(3)).is_some(), "it stops at once: {}", runner.log());
    let _next = scene.runner("1s");
    scene.hands.becomes(&scene.at, &once, "lost");
    scene.hands.becomes(&scene.at, &again, "succeeded");
    assert_eq!(scene.wrote("once"), 1, "what must not run twice did not");
    assert_eq!(scene.wrote("once end"), 0, "its process ended with the runner");
    scene.healthy();
}
