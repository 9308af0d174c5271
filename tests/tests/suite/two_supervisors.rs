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
fn a_coordinator_shares_the_load_between_two_supervisors() {
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
        let args = ["--port", &port, "--redis-url", &url];
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

    // One supervisor goes away: what is submitted then still ends.
    drop(running.remove(0));
    let again = me.run(&["workflow", "run", &file, "--json"]).ok().json();
    assert_eq!(again["counts"]["succeeded"], 300, "{}", again["counts"]);
}
