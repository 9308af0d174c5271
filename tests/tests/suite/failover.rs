//! Redis with a replica: its primary dies, or gives its place up; or it does not answer for a while; or a firewall forgets the
//! connections that lead there.

use std::time::{Duration, Instant};

use horus_tests::{Cut, Hands, Outcome, Running, TestRedis, free_port};

/// Longer than roles wait for an answer.
const PAUSE_MS: u64 = 8_000;

struct Scene {
    hands: Hands,
    /// Where the primary is to be found.
    address: Cut,
    at: String,
    gate: String,
    _roles: Vec<Running>,
}

impl Scene {
    fn new(primary: &TestRedis) -> Self {
        let hands = Hands::new();
        let address = Cut::before(primary.port());
        hands.key("supervisor", "supervisor", "*");
        hands.key("sal", "runner", "sal");
        hands.key("noop", "runner", "noop");
        hands.key("coordinator", "coordinator", "*");
        let (port, gate) = (free_port().to_string(), free_port().to_string());
        let url = format!("redis://127.0.0.1:{}", address.port());
        let (at, gate_at) = (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{gate}"));
        let roles = vec![
            hands.role("supervisor", &["supervisor", "--port", &port, "--redis-url", &url, "--lease", "3s"]),
            hands.role("sal", &["runner", "sal", "--redis-url", &url, "--lease", "3s"]),
            hands.role("noop", &["runner", "noop", "--redis-url", &url, "--lease", "3s"]),
            hands.role("coordinator", &["coordinator", "--port", &gate, "--redis-url", &url, "--supervisor", &at]),
        ];
        for runner in &roles[1..3] {
            Hands::until("the runners are there", Duration::from_secs(30), || {
                runner.log().contains("waits for jobs").then_some(())
            });
        }
        Self { hands, address, at, gate: gate_at, _roles: roles }
    }

    fn try_submit(&self, id: &str) -> Outcome {
        let args =
            ["job", "submit", "--runner", "noop", "--payload", "1", "--id", id, "--supervisor", &self.at, "--json"];
        self.hands.horus.run(&args)
    }

    /// Submits until it is accepted, and waits for the result.
    fn works(&self, id: &str) {
        Hands::until("jobs are accepted", Duration::from_secs(40), || (self.try_submit(id).code == 0).then_some(()));
        self.has_succeeded(&format!("noop-{id}"));
    }

    /// Waits for a job, also while the supervisor has no answer.
    fn has_succeeded(&self, job: &str) {
        Hands::until(&format!("{job} has succeeded"), Duration::from_secs(40), || {
            let outcome = self.hands.horus.run(&["job", "status", job, "--supervisor", &self.at, "--json"]);
            (outcome.code == 0 && outcome.json()["status"] == "succeeded").then_some(())
        });
    }

    /// A job that takes a while, must not run twice, and tells when it began.
    fn long_job(&self, id: &str, seconds: u32) -> String {
        let file = self.hands.path("effects").display().to_string();
        let script = format!("file_write_append(\"{file}\", \"{id}\\n\"); sleep({seconds}); 1");
        let job = self.hands.submit(&self.at, "sal", &script, &["--id", id]);
        Hands::until("it begins", Duration::from_secs(20), || (self.began(id) == 1).then_some(()));
        job
    }

    fn began(&self, id: &str) -> usize {
        let text = std::fs::read_to_string(self.hands.path("effects")).unwrap_or_default();
        text.lines().filter(|line| *line == id).count()
    }

    /// Status and text of `/healthz`.
    fn health(&self, at: &str) -> (u16, String) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let Ok(answer) = reqwest::get(format!("{at}/healthz")).await else { return (0, String::new()) };
            (answer.status().as_u16(), answer.text().await.unwrap_or_default())
        })
    }

    fn is_told(&self, what: &str) {
        for at in [&self.at, &self.gate] {
            Hands::until(&format!("/healthz of {at} says {what}"), Duration::from_secs(30), || {
                let (status, text) = self.health(at);
                (status == 503 && text.contains(what)).then_some(())
            });
        }
    }

    fn is_well(&self) {
        for at in [&self.at, &self.gate] {
            Hands::until(&format!("{at} is well"), Duration::from_secs(40), || {
                (self.health(at).0 == 200).then_some(())
            });
        }
    }

    /// Submits a workflow of a step that takes a while, and another one.
    fn workflow(&self, id: &str) {
        let text = "workflow:\n  name: w\n  steps:\n    - {id: a, runner: sal, payload: 'sleep(3); 1'}\n    \
                    - {id: b, runner: noop, payload: '2', depends_on: [a]}\n";
        let file = self.hands.path(&format!("{id}.yaml"));
        std::fs::write(&file, text).unwrap();
        let args = ["workflow", "submit", file.to_str().unwrap(), "--id", id, "--coordinator", &self.gate, "--json"];
        self.hands.horus.run(&args).ok();
    }

    fn succeeds(&self, workflow: &str) {
        Hands::until("the workflow succeeds", Duration::from_secs(60), || {
            let args = ["workflow", "status", workflow, "--coordinator", &self.gate, "--json"];
            let outcome = self.hands.horus.run(&args);
            (outcome.code == 0 && outcome.json()["status"] == "succeeded").then_some(())
        });
    }

    fn healthy(&self, redis: &TestRedis) {
        let doctor = self.hands.horus.run(&["doctor", "--redis-url", &redis.url(), "--json"]);
        assert_eq!(doctor.code, 0, "{doctor:?}");
    }
}

/// Waits until all that was acknowledged so far is on the replica.
fn replicated(primary: &TestRedis) {
    let mut link = primary.connection();
    redis::cmd("INCR").arg("test:mark").exec(&mut link).unwrap();
    let replicas: i64 = redis::cmd("WAIT").arg(1).arg(10_000).query(&mut link).unwrap();
    assert_eq!(replicas, 1);
}

#[test]
fn a_failover_is_lived_through_and_so_is_a_primary_that_gives_its_place_up() {
    let (mut first, second) = (TestRedis::start(), TestRedis::start());
    second.follow(first.port());
    let scene = Scene::new(&first);
    scene.works("before");
    let job = scene.long_job("once", 6);
    scene.workflow("failed-over");
    replicated(&first);

    // The primary dies. Until there is another one nothing new is accepted, and everybody says why.
    first.kill();
    scene.is_told("redis");
    let refused = scene.try_submit("refused");
    assert!(refused.code != 0 && refused.stdout.contains("REDIS_UNAVAILABLE"), "{refused:?}");
    scene.address.turn_to(second.port());
    scene.is_told("read-only replica");
    let refused = scene.try_submit("refused");
    assert!(refused.code != 0 && refused.stdout.contains("read-only replica"), "{refused:?}");

    // The replica takes its place, and everything goes on by itself.
    second.lead();
    scene.is_well();
    scene.works("after");
    scene.has_succeeded(&job);
    scene.has_succeeded("noop-before");
    scene.succeeds("failed-over");
    assert_eq!(scene.began("once"), 1);
    scene.healthy(&second);

    // The first comes back, and is given its place again. The second lives on as a replica, and keeps the connections that it has.
    first.crash_and_restart();
    first.follow(second.port());
    scene.workflow("given-back");
    replicated(&second);
    scene.address.turn_to(first.port());
    first.lead();
    second.follow(first.port());
    scene.works("again");
    scene.succeeds("given-back");
    scene.is_well();
    scene.healthy(&first);
}

#[test]
fn a_redis_that_does_not_answer_for_a_while_is_waited_for() {
    let redis = TestRedis::start();
    let scene = Scene::new(&redis);
    scene.works("before");
    let job = scene.long_job("once", 4);
    scene.workflow("paused");
    let mut link = redis.connection();
    redis::cmd("CLIENT").arg("PAUSE").arg(PAUSE_MS).arg("ALL").exec(&mut link).unwrap();
    let refused = scene.try_submit("refused");
    assert!(refused.code != 0 && refused.stdout.contains("REDIS_UNAVAILABLE"), "{refused:?}");
    scene.works("after");
    scene.has_succeeded(&job);
    scene.succeeds("paused");
    assert_eq!(scene.began("once"), 1, "nobody could show life meanwhile, and nobody lost a lease");
    scene.is_well();
    scene.healthy(&redis);
}

#[test]
fn connections_to_redis_that_are_dead_and_say_nothing_are_made_anew() {
    let redis = TestRedis::start();
    let scene = Scene::new(&redis);
    scene.works("before");
    scene.workflow("forgotten");
    let forgotten = Instant::now();
    scene.address.forget();
    scene.works("after");
    scene.succeeds("forgotten");
    scene.is_well();
    // Nothing is late any more either: also the connections that only listen have been made anew.
    let args = ["job", "run", "--runner", "noop", "--payload", "1", "--supervisor", &scene.at, "--json"];
    Hands::until("who waits for a job is told at once that it has ended", Duration::from_secs(60), || {
        let began = Instant::now();
        (scene.hands.horus.run(&args).code == 0 && began.elapsed() < Duration::from_secs(2)).then_some(())
    });
    let within = forgotten.elapsed();
    assert!(within < Duration::from_secs(60), "{within:?}");
    scene.healthy(&redis);
}
