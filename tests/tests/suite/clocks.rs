//! Wall clocks that jump by hours while everything works: what has a lease keeps it, and what depends on the time says so.

use std::time::Duration;

use horus_tests::{Hands, Running, TestRedis, WallClock, free_port};

/// Without a sign of life for so long a runner loses its jobs. The clocks stay wrong for longer.
const LEASE: &str = "2s";
const WRONG: Duration = Duration::from_millis(2_500);

struct Scene {
    hands: Hands,
    redis: TestRedis,
    at: String,
    gate: String,
    clocks: [WallClock; 3],
    _roles: Vec<Running>,
}

impl Scene {
    /// Supervisor, runner and coordinator, each with a clock of its own. `None` without libfaketime.
    fn new() -> Option<Self> {
        let (hands, redis) = (Hands::new(), TestRedis::start());
        let clock = |name| WallClock::new(hands.dir(), name);
        let (Some(first), Some(second), Some(third)) = (clock("supervisor"), clock("sal"), clock("coordinator")) else {
            println!("skipped: libfaketime is not installed (Debian: apt-get install libfaketime)");
            return None;
        };
        hands.key("supervisor", "supervisor", "*");
        hands.key("sal", "runner", "sal");
        hands.key("coordinator", "coordinator", "*");
        let (url, port, gate) = (redis.url(), free_port().to_string(), free_port().to_string());
        let (at, gate_at) = (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{gate}"));
        let supervisor = ["supervisor", "--port", &port, "--redis-url", &url, "--lease", LEASE];
        let runner = ["runner", "sal", "--redis-url", &url, "--lease", LEASE];
        let coordinator = ["coordinator", "--port", &gate, "--redis-url", &url, "--supervisor", &at];
        let roles = vec![
            hands.role_with("supervisor", &supervisor, &first.env()),
            hands.role_with("sal", &runner, &second.env()),
            hands.role_with("coordinator", &coordinator, &third.env()),
        ];
        Hands::until("the runner is there", Duration::from_secs(30), || {
            roles[1].log().contains("waits for jobs").then_some(())
        });
        Some(Self { hands, redis, at, gate: gate_at, clocks: [first, second, third], _roles: roles })
    }

    /// Sets the clocks of supervisor, runner and coordinator.
    fn set(&self, offsets: [&str; 3]) {
        for (clock, offset) in self.clocks.iter().zip(offsets) {
            clock.set(offset);
        }
    }

    fn effects(&self) -> String {
        self.hands.path("effects").display().to_string()
    }

    fn script(&self, name: &str, seconds: u32) -> String {
        let file = self.effects();
        format!("file_write_append(\"{file}\", \"{name}\\n\"); sleep({seconds}); 1")
    }

    fn wrote(&self, name: &str) -> usize {
        let text = std::fs::read_to_string(self.effects()).unwrap_or_default();
        text.lines().filter(|line| *line == name).count()
    }
}

#[test]
fn clocks_that_jump_by_hours_lapse_no_lease_and_lose_nothing() {
    let Some(scene) = Scene::new() else { return };
    let hands = &scene.hands;
    let once = hands.submit(&scene.at, "sal", &scene.script("once", 8), &["--id", "once"]);
    let again = hands.submit(&scene.at, "sal", &scene.script("again", 8), &["--id", "again", "--idempotent"]);
    let step = |id: &str, seconds, needs: &str| {
        let script = scene.script(id, seconds).replace('\'', "");
        format!("    - {{id: {id}, runner: sal, payload: '{script}', depends_on: [{needs}]}}\n")
    };
    let text = format!("workflow:\n  name: long\n  steps:\n{}{}", step("a", 8, ""), step("b", 0, "a"));
    let file = hands.path("long.yaml");
    std::fs::write(&file, text).unwrap();
    let submit = ["workflow", "submit", file.to_str().unwrap(), "--id", "long", "--coordinator", &scene.gate, "--json"];
    hands.horus.run(&submit).ok();
    Hands::until("all three run", Duration::from_secs(30), || {
        (scene.wrote("once") + scene.wrote("again") + scene.wrote("a") == 3).then_some(())
    });
    for offsets in [["-3h", "+5h", "+6h"], ["+7h", "-4h", "-2h"]] {
        scene.set(offsets);
        std::thread::sleep(WRONG);
    }
    scene.set(["+0"; 3]);
    for job in [&once, &again] {
        hands.becomes(&scene.at, job, "succeeded");
        let log = hands.horus.run(&["job", "logs", job, "--supervisor", &scene.at]).stdout;
        assert!(!log.contains("no sign of life"), "{log}");
    }
    let view = Hands::until("the workflow ends", Duration::from_secs(60), || {
        let view = hands.horus.run(&["workflow", "status", "long", "--coordinator", &scene.gate, "--json"]).ok().json();
        ["succeeded", "failed"].contains(&view["status"].as_str().unwrap()).then_some(view)
    });
    assert_eq!(view["status"], "succeeded", "{view:#}");
    for step in ["a", "b"] {
        assert_eq!(view["steps"][step]["attempt"], 1, "{view:#}");
    }
    assert_eq!(["once", "again", "a", "b"].map(|name| scene.wrote(name)), [1; 4], "nothing ran twice");
    let doctor = hands.horus.run(&["doctor", "--redis-url", &scene.redis.url(), "--json"]);
    assert_eq!(doctor.code, 0, "{doctor:?}");
}

#[test]
fn a_wrong_clock_is_named_where_it_matters() {
    let Some(scene) = Scene::new() else { return };
    let hands = &scene.hands;
    let submit = |id: &str| {
        let args =
            ["job", "submit", "--runner", "sal", "--payload", "1", "--id", id, "--supervisor", &scene.at, "--json"];
        hands.horus.run(&args)
    };
    let job = submit("right").ok().json()["job_id"].as_str().unwrap().to_owned();
    hands.becomes(&scene.at, &job, "succeeded");

    // A call is good for a minute: what is wrong with the clocks is said, and by how much.
    scene.set(["+5h", "+0", "+0"]);
    let refused = hands.horus.run(&["job", "status", &job, "--supervisor", &scene.at, "--json"]);
    let told = format!("{}{}", refused.stdout, refused.stderr);
    assert!(refused.code != 0 && told.contains("UNAUTHENTICATED"), "{refused:?}");
    assert!((told.contains("4h59m") || told.contains("are 5h")) && told.contains("NTP"), "{told}");

    // A supervisor whose clock is far ahead takes no job: its time seems to be over.
    scene.set(["+20d", "+0", "+0"]);
    let refused = submit("late");
    assert!(refused.code != 0 && refused.stdout.contains("EXPIRED"), "{refused:?}");
    assert!(refused.stdout.contains("ago: by the clock of this machine it is"), "{refused:?}");

    // Neither does a runner.
    scene.set(["+0", "+20d", "+0"]);
    let job = submit("refused").ok().json()["job_id"].as_str().unwrap().to_owned();
    hands.becomes(&scene.at, &job, "failed");
    let told = hands.horus.run(&["job", "result", &job, "--supervisor", &scene.at, "--json"]).stdout;
    assert!(told.contains("EXPIRED") && told.contains("by the clock of this machine it is"), "{told}");

    scene.set(["+0"; 3]);
    let job = submit("again").ok().json()["job_id"].as_str().unwrap().to_owned();
    hands.becomes(&scene.at, &job, "succeeded");
}
