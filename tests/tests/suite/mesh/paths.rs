//! The path in use is shown, another one takes over when it fails, and it is taken up again when it heals.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::{
    scene::{Over, Scene},
    wide,
    world::World,
};

/// How soon new calls go by another path, as promised.
const FAILOVER: Duration = Duration::from_secs(2);
/// What starting the commands and running the step may take besides, on a busy machine.
const COMMANDS: Duration = Duration::from_secs(2);

impl Scene {
    /// The first supervisor as the coordinator sees it.
    fn first(&self) -> Value {
        self.supervisors().first().cloned().unwrap_or_default()
    }

    fn until_path(&self, path: &str, patience: Duration) -> Duration {
        let begin = Instant::now();
        self.until(&format!("calls go by {path}"), patience, || {
            let seen = self.first();
            (seen["path"] == path && seen["state"] == "alive").then_some(())
        });
        begin.elapsed()
    }

    /// Runs one step, and says how long that took from submitting to its end.
    fn one_step(&self, id: &str) -> Duration {
        let file = self.file("step.yaml", &wide(1, "runner: noop, payload: ''"));
        let begin = Instant::now();
        let done = self.horus(0, Some("me"), &["workflow", "run", &file, "--id", id, "--json"]);
        assert_eq!(done["status"], "succeeded", "{done:#}");
        begin.elapsed()
    }
}

/// `supervisors list` and `mesh status` show path, latency and last error of each supervisor, as JSON and as tables.
fn paths_are_shown(world: World, over: Over, path: &str) {
    let scene = Scene::start(world, over, 2);
    let supervisors = scene.supervisors();
    assert_eq!(supervisors.len(), 2);
    for seen in &supervisors {
        assert_eq!((&seen["path"], &seen["state"]), (&path.into(), &"alive".into()), "{seen:#}");
        assert!(seen["latency_ms"].is_u64(), "{seen:#}");
    }
    let (ok, table) = scene.try_horus(0, Some("me"), &["supervisors", "list"]);
    let head = table.lines().next().unwrap_or_default();
    assert!(ok && ["PATH", "LATENCY", "LAST ERROR"].iter().all(|title| head.contains(title)), "{table}");
    assert_eq!(table.lines().filter(|line| line.contains(path)).count(), 2, "{table}");

    let status = scene.horus(0, Some("me"), &["mesh", "status", "--json"]);
    let report = &status["coordinator"];
    let nodes = if over == Over::Plain { &report["others"] } else { &report["status"]["nodes"] };
    let nodes: Vec<_> = nodes.as_array().unwrap().iter().filter(|node| node["path"] == path).collect();
    assert_eq!(nodes.len(), 2, "{status:#}");
    for node in nodes {
        let used = node["paths"].as_array().unwrap().iter().find(|used| used["path"] == path).unwrap();
        assert!(used["latency_ms"].is_number() && used["up"] == true && node["peer_id"].is_string(), "{node:#}");
    }
    let (ok, table) = scene.try_horus(0, Some("me"), &["mesh", "status"]);
    assert!(ok && table.contains("LAST ERROR") && table.matches(&format!(" {path} ")).count() >= 2, "{table}");

    scene.world.cut(2);
    if over == Over::Plain && !scene.world.is_real() {
        return;
    }
    let file = scene.file("retry.yaml", &wide(20, "runner: noop, payload: '', idempotent: true, on_unknown: retry"));
    scene.horus(0, Some("me"), &["workflow", "run", &file, "--json"]);
    let seen = scene.until("the failure is shown", Duration::from_secs(60), || {
        scene.supervisors().into_iter().find(|seen| seen["state"] == "gone")
    });
    assert!(seen["path"].is_null() && seen["error"].is_string() && seen["last_error_at"].is_string(), "{seen:#}");
    scene.world.heal(2);
    scene.until_alive(2);
    scene.until("its path is in use again, and the error remembered", Duration::from_secs(30), || {
        let seen = scene.supervisors().into_iter().find(|seen| seen["last_error"].is_string())?;
        (seen["path"] == path && seen["error"].is_null()).then_some(())
    });
}

#[test]
fn the_path_in_use_is_shown() {
    paths_are_shown(World::simulated(), Over::Messages, "messages");
    paths_are_shown(World::simulated(), Over::Plain, "http");
}

#[test]
fn on_real_daemons_the_path_in_use_is_shown() {
    for (tun, over, path) in
        [(false, Over::Messages, "messages"), (true, Over::Auto, "overlay"), (true, Over::Plain, "http")]
    {
        let Some(world) = World::real(tun) else { return };
        paths_are_shown(world, over, path);
    }
}

/// A coordinator that may use any path, and a supervisor that announces an address outside the overlay too.
fn with_fallback(world: World) -> Scene {
    let mut scene = Scene::empty(world);
    scene.trust_all(1);
    let listen = format!("{}:{}", scene.world.underlay(1), scene.ports[1]);
    let more: &[&str] = if scene.world.is_real() { &["--listen", &listen] } else { &[] };
    scene.supervisor(1, Over::Auto, more);
    scene.runners(1);
    scene.until_runners(1);
    let address = format!("mycelium://{}", scene.world.host(1));
    scene.coordinator(Over::Auto, &["--supervisor", &address, "--allow-plain"]);
    scene.until_alive(1);
    scene
}

/// Breaks the path, and sees the next one used for a call made at once.
fn fails_over(scene: &Scene, what: &str, from: &str, to: &str, id: &str, break_it: impl FnOnce()) {
    scene.until_path(from, Duration::from_secs(30));
    break_it();
    let took = scene.one_step(id);
    let seen = scene.first();
    assert_eq!(seen["path"], to, "{what}: {seen:#}");
    assert!(seen["last_error"].is_string(), "{what}: {seen:#}");
    eprintln!("{what}: a workflow of one step, submitted at once, went by {to} and ended after {took:.1?}");
    assert!(took < FAILOVER + COMMANDS, "{what}: {took:?}");
}

fn heals(scene: &Scene, what: &str, to: &str) {
    let took = scene.until_path(to, Duration::from_secs(60));
    eprintln!("{what}: {to} is in use again {took:.1?} after healing");
    assert!(took < Duration::from_secs(10), "{what}: {took:?}");
    scene.one_step(&format!("after-{}", what.replace(' ', "-")));
}

#[test]
fn new_calls_go_by_another_path_and_back_again() {
    let scene = with_fallback(World::simulated());
    fails_over(&scene, "cut", "messages", "http", "one", || scene.world.cut(1));
    scene.world.heal(1);
    heals(&scene, "cut", "messages");
    fails_over(&scene, "daemon killed", "messages", "http", "two", || scene.world.kill_daemon(1));
    scene.world.start_daemon(1);
    heals(&scene, "daemon killed", "messages");
}

#[test]
fn on_real_daemons_new_calls_go_by_another_path_and_back_again() {
    let Some(world) = World::real(true) else { return };
    let scene = with_fallback(world);
    fails_over(&scene, "overlay silent", "overlay", "messages", "one", || scene.world.mute(1, 0));
    scene.world.unmute(1, 0);
    heals(&scene, "overlay silent", "overlay");
    fails_over(&scene, "its daemon killed", "overlay", "http", "two", || scene.world.kill_daemon(1));
    scene.world.start_daemon(1);
    heals(&scene, "its daemon killed", "overlay");
    fails_over(&scene, "own daemon killed", "overlay", "http", "three", || scene.world.kill_daemon(0));
    scene.world.start_daemon(0);
    heals(&scene, "own daemon killed", "overlay");
}

/// A supervisor whose daemon comes later than itself announces itself again, and is called there from then on.
#[test]
fn a_supervisor_is_called_where_it_says_that_it_is_now() {
    let mut scene = Scene::empty(World::simulated());
    scene.trust_all(1);
    scene.world.kill_daemon(1);
    let coordinator = format!("http://127.0.0.1:{}", scene.ports[0]);
    scene.supervisor(1, Over::Auto, &["--coordinator", &coordinator]);
    scene.runners(1);
    scene.until_runners(1);
    scene.coordinator(Over::Auto, &[]);
    scene.until_alive(1);
    let seen = scene.first();
    assert!(seen["address"].as_str().unwrap().starts_with("http://") && seen["path"] == "http", "{seen:#}");
    scene.world.start_daemon(1);
    scene.until_path("messages", Duration::from_secs(30));
    let seen = scene.supervisors();
    let address = format!("mycelium://{}/horus.supervisor", scene.world.host(1));
    assert!(seen.len() == 1 && seen[0]["address"].as_str().unwrap().starts_with(&address), "{seen:#?}");
    scene.until_alive(1);
    scene.one_step("moved");
}
