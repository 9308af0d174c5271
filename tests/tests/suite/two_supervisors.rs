//! Roles by hand, each with its own key: two supervisors with a Redis and runners each, and a coordinator that is called
//! by a link of that name.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use horus_tests::{Horus, Running, TestRedis, binary, free_port};
use serde_json::Value;

struct Scene {
    dir: tempfile::TempDir,
    horus: Horus,
    trust: String,
}

impl Scene {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let trust = dir.path().join("trust.toml").display().to_string();
        let scene = Self { dir, horus: Horus::default(), trust };
        scene.key("me", &["submitter"], "*");
        scene
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    fn key(&self, name: &str, roles: &[&str], runner: &str) -> String {
        let made = self.horus.run(&["keys", "generate", "--dir", &self.path(name), "--json"]).ok().json();
        let id = made["peer_id"].as_str().unwrap().to_owned();
        let roles = roles.join(",");
        let add =
            ["keys", "trust", "add", &id, "--role", &roles, "--runner", runner, "--name", name, "--trust", &self.trust];
        self.horus.run(&add).ok();
        id
    }

    fn role(&self, program: &Path, name: &str, args: &[&str]) -> Running {
        let identity = self.path(name);
        let mut all = args.to_vec();
        all.extend(["--identity", &identity, "--trust", &self.trust]);
        let log = self.dir.path().join(format!("{name}.log"));
        Running::start(Command::new(program).args(&all).stdin(Stdio::null()), &log)
    }
}

fn link(dir: &Path, name: &str) -> PathBuf {
    let path = dir.join(name);
    std::os::unix::fs::symlink(binary(), &path).unwrap();
    path
}

fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "not within 30 s: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_coordinator_shares_the_load_between_two_supervisors_and_heeds_their_labels() {
    let scene = Scene::new();
    let bin = scene.dir.path();
    let (supervisor, runner, coordinator) = (link(bin, "supervisor"), link(bin, "runner"), link(bin, "coordinator"));
    let mut running = Vec::new();
    let mut addresses = Vec::new();
    let mut stores = Vec::new();
    for n in ["1", "2"] {
        let redis = TestRedis::start();
        let (url, port) = (redis.url(), free_port().to_string());
        scene.key(&format!("s{n}"), &["supervisor"], "*");
        scene.key(&format!("r{n}"), &["runner"], "noop");
        let zone = format!("zone={n}");
        let args = ["--port", &port, "--redis-url", &url, "--label", &zone, "--label", "disk=ssd"];
        running.push(scene.role(&supervisor, &format!("s{n}"), &args));
        // Every role takes the network flags, for the sake of one configuration.
        let args = ["noop", "--redis-url", &url, "--listen", "127.0.0.1:0", "--transport", "http"];
        running.push(scene.role(&runner, &format!("r{n}"), &args));
        addresses.push(format!("http://localhost:{port}"));
        stores.push(redis);
    }
    scene.key("c", &["coordinator"], "*");
    let port = free_port().to_string();
    let redis = TestRedis::start();
    let url = redis.url();
    running.push(scene.role(
        &coordinator,
        "c",
        &["--port", &port, "--redis-url", &url, "--supervisor", &addresses[0], "--supervisor", &addresses[1]],
    ));

    let me = Horus {
        env: vec![
            ("HORUS_IDENTITY".into(), scene.path("me")),
            ("HORUS_TRUST".into(), scene.trust.clone()),
            ("HORUS_COORDINATOR".into(), format!("http://localhost:{port}")),
        ],
    };
    until("both supervisors are alive", || {
        let list = me.run(&["supervisors", "list", "--json"]);
        let list: Value = serde_json::from_str(&list.stdout).ok()?;
        let alive = list["supervisors"]
            .as_array()?
            .iter()
            .filter(|s| s["state"] == "alive" && s["runners"] != serde_json::json!([]));
        (alive.count() == 2).then_some(())
    });

    let mut text = "workflow:\n  name: wide\n  steps:\n".to_owned();
    for n in 0..300 {
        text += &format!("    - {{id: s{n}, runner: noop, payload: ''}}\n");
    }
    let file = scene.path("wide.yaml");
    std::fs::write(&file, text).unwrap();
    let done = me.run(&["workflow", "run", &file, "--json"]).ok().json();
    assert_eq!(done["counts"]["succeeded"], 300, "{}", done["counts"]);
    let mut share: BTreeMap<String, u32> = BTreeMap::new();
    for step in done["steps"].as_object().unwrap().values() {
        *share.entry(step["supervisor"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    assert_eq!(share.len(), 2, "{share:?}");
    assert!(share.values().all(|n| *n >= 60), "the load is shared: {share:?}");

    // A step may choose by labels.
    let list = me.run(&["supervisors", "list"]).ok().stdout;
    assert!(list.contains("LABELS") && list.contains("disk=ssd,zone=2"), "{list}");
    let chosen = scene.path("chosen.yaml");
    let mut text = "workflow:\n  name: chosen\n  steps:\n".to_owned();
    for n in 0..20 {
        text +=
            &format!("    - {{id: s{n}, runner: noop, payload: '', supervisor: \"zone={},disk=ssd\"}}\n", 1 + n % 2);
    }
    std::fs::write(&chosen, text).unwrap();
    let done = me.run(&["workflow", "run", &chosen, "--json"]).ok().json();
    for n in 0..20 {
        let at = &done["steps"][format!("s{n}")]["supervisor"];
        let first = &done["steps"][format!("s{}", n % 2)]["supervisor"];
        assert!(at == first && (n % 2 == 0 || *at != done["steps"]["s0"]["supervisor"]), "{n} {}", done["steps"]);
    }

    // One supervisor goes away: what is submitted then still ends.
    drop(running.remove(0));
    let again = me.run(&["workflow", "run", &file, "--json"]).ok().json();
    assert_eq!(again["counts"]["succeeded"], 300, "{}", again["counts"]);

    // A step waits for labels that nobody carries, until somebody does.
    let later = scene.path("later.yaml");
    let step = "workflow:\n  name: later\n  steps:\n    - {id: only, runner: noop, payload: '', supervisor: zone=3}\n";
    std::fs::write(&later, step).unwrap();
    let log = scene.dir.path().join("run.log");
    let watched = Running::start(
        Command::new(binary()).args(["workflow", "run", &later]).envs(me.env.clone()).stdin(Stdio::null()),
        &log,
    );
    until("who watches it is told what it waits for", || {
        let said = std::fs::read_to_string(&log).unwrap_or_default();
        said.contains("step only waits for a supervisor that matches `zone=3`").then_some(())
    });
    drop(watched);
    let id = me.run(&["workflow", "submit", &later, "--json"]).ok().json()["workflow_id"].as_str().unwrap().to_owned();
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(me.run(&["workflow", "status", &id, "--json"]).json()["status"], "running");
    let (port, url) = (addresses[0].rsplit_once(':').unwrap().1.to_owned(), stores[0].url());
    running.push(scene.role(&supervisor, "s1", &["--port", &port, "--redis-url", &url, "--label", "zone=3"]));
    until("the step went to the supervisor that carries the label now", || {
        (me.run(&["workflow", "status", &id, "--json"]).json()["status"] == "succeeded").then_some(())
    });
    let refused = Command::new(&supervisor).args(["--label", "zone"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(2), "{}", String::from_utf8_lossy(&refused.stderr));
}
