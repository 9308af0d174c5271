//! Roles on the hosts of a mesh: simulated daemons always, real ones when `MYCELIUM_BIN` names a binary.

mod bench;
mod scene;
mod world;

use std::time::{Duration, Instant};

use serde_json::Value;

use scene::{Over, Scene};
use world::World;

/// What one run of 100 parallel steps may cost, replies counted.
const BUDGET: u64 = 40;

fn pipeline(scene: &Scene) {
    let url = format!("http://127.0.0.1:{}/healthz", scene.ports[1]);
    let text = format!(
        "workflow:\n  name: data-pipeline\n  steps:\n\
         \x20   - {{id: fetch, runner: hero, payload: \"!!http.get url:'{url}'\"}}\n\
         \x20   - {{id: process, runner: sal, depends_on: [fetch], payload: \"#{{state: input.fetch.status}}\"}}\n\
         \x20   - id: store\n      runner: osiris\n      depends_on: [process]\n      payload: |\n\
         \x20       let model = osiris.model(\"results\");\n        model.create(input.process)\n"
    );
    let done = scene.horus(0, Some("me"), &["workflow", "run", &scene.file("pipeline.yaml", &text), "--json"]);
    assert_eq!(done["outputs"]["store"]["state"], "ok", "{done:#}");
}

fn wide(steps: usize, step: &str) -> String {
    let mut text = "workflow:\n  name: wide\n  steps:\n".to_owned();
    for n in 0..steps {
        text += &format!("    - {{id: s{n}, {step}}}\n");
    }
    text
}

/// 200 steps; host 2 is cut while it has some of them, and comes back by itself afterwards.
fn fan_out_with_a_cut(scene: &Scene) {
    let step = "runner: sal, idempotent: true, on_unknown: retry, payload: 'sleep(0.1); 7'";
    let file = scene.file("cut.yaml", &wide(200, step));
    let begin = Instant::now();
    scene.horus(0, Some("me"), &["workflow", "submit", &file, "--id", "cut", "--json"]);
    let succeeded = |view: &Value| view["counts"]["succeeded"].as_u64().unwrap_or_default();
    let status = ["workflow", "status", "cut", "--json"];
    scene.until("a quarter has succeeded", Duration::from_secs(60), || {
        (succeeded(&scene.horus(0, Some("me"), &status)) >= 50).then_some(())
    });
    scene.world.cut(2);
    let cut_after = begin.elapsed();
    let done = scene.until("the workflow ends", Duration::from_secs(120), || {
        let view = scene.horus(0, Some("me"), &status);
        (view["status"] != "running" && view["status"] != "pending").then_some(view)
    });
    assert_eq!((&done["status"], succeeded(&done)), (&Value::from("succeeded"), 200), "{}", done["counts"]);
    eprintln!("200 steps: host 2 cut after {cut_after:.1?}, ended after {:.1?}", begin.elapsed());
    scene.world.heal(2);
    let healed = Instant::now();
    scene.until_alive(2);
    eprintln!("host 2 is back {:.1?} after healing", healed.elapsed());
    share(scene, "again");
}

/// 100 steps of which both supervisors get some.
fn share(scene: &Scene, id: &str) {
    let file = scene.file("share.yaml", &wide(100, "runner: noop, payload: ''"));
    let done = scene.horus(0, Some("me"), &["workflow", "run", &file, "--id", id, "--json"]);
    assert_eq!(done["counts"]["succeeded"], 100, "{}", done["counts"]);
    for host in [1, 2] {
        let name = scene.world.host(host).to_string();
        let its = done["steps"].as_object().unwrap().values().filter(|step| {
            let at = step["supervisor"].as_str().unwrap_or_default();
            at.contains(&name) || at.contains(&world::underlay(host)) || scene.key_of(host) == at
        });
        assert!(its.count() > 0, "host {host} had none of the steps");
    }
}

impl Scene {
    /// The key of a host's supervisor.
    fn key_of(&self, host: usize) -> String {
        let shown = self.horus(0, None, &["keys", "show", "--dir", &self.path(&format!("s{host}")), "--json"]);
        shown["peer_id"].as_str().unwrap().to_owned()
    }
}

fn workflows_run(world: World, over: Over) {
    let scene = Scene::start(world, over, 2);
    pipeline(&scene);
    fan_out_with_a_cut(&scene);
    pipeline(&scene);
}

#[test]
fn workflows_run_over_messages_and_survive_a_cut() {
    workflows_run(World::simulated(), Over::Messages);
}

#[test]
fn on_real_daemons_workflows_run_over_messages_and_survive_a_cut() {
    let Some(world) = World::real(false) else { return };
    workflows_run(world, Over::Messages);
}

#[test]
fn on_real_daemons_workflows_run_over_overlay_http_and_survive_a_cut() {
    let Some(world) = World::real(true) else { return };
    workflows_run(world, Over::Overlay);
}

#[test]
fn on_real_daemons_workflows_run_over_plain_http_and_survive_a_cut() {
    let Some(world) = World::real(true) else { return };
    workflows_run(world, Over::Plain);
}

#[test]
fn on_real_daemons_workflows_run_by_the_best_path_and_survive_a_cut() {
    let Some(world) = World::real(true) else { return };
    workflows_run(world, Over::Auto);
}

fn a_daemon_is_restarted(world: World) {
    let scene = Scene::start(world, Over::Messages, 2);
    for host in [2, 0] {
        scene.world.restart_daemon(host);
        let begin = Instant::now();
        share_until_both(&scene, host);
        eprintln!("after a restart of the daemon of host {host} both work again within {:.1?}", begin.elapsed());
    }
}

/// The first workflow after a restart must end; both hosts work again soon.
fn share_until_both(scene: &Scene, round: usize) {
    let file = scene.file("after.yaml", &wide(20, "runner: noop, payload: ''"));
    let id = format!("restart{round}");
    let done = scene.horus(0, Some("me"), &["workflow", "run", &file, "--id", &id, "--json"]);
    assert_eq!(done["counts"]["succeeded"], 20, "{}", done["counts"]);
    scene.until_alive(2);
    share(scene, &format!("shared{round}"));
}

#[test]
fn roles_survive_a_restart_of_their_daemons() {
    a_daemon_is_restarted(World::simulated());
}

#[test]
fn on_real_daemons_roles_survive_a_restart_of_their_daemons() {
    let Some(world) = World::real(false) else { return };
    a_daemon_is_restarted(world);
}

/// What a stranger gets from every method of a node, but for the open ones.
fn a_stranger_is_refused(world: World) {
    let scene = Scene::start(world, Over::Messages, 1);
    scene.key("stranger");
    let (h0, h1) = (scene.world.host(0), scene.world.host(1));
    for node in [format!("mycelium://{h0}/horus.coordinator"), format!("mycelium://{h1}/horus.supervisor")] {
        let document = scene.horus(2, Some("stranger"), &["discover", &node, "--json"]);
        let methods: Vec<&str> =
            document["methods"].as_array().unwrap().iter().map(|m| m["name"].as_str().unwrap()).collect();
        assert!(methods.len() > 10, "{methods:?}");
        for method in methods {
            let (ok, out) = scene.try_horus(2, Some("stranger"), &["call", &node, method, "--json"]);
            if ["rpc.discover", "get_node_info"].contains(&method) {
                assert!(ok, "{method} is open: {out}");
                continue;
            }
            let said: Value = serde_json::from_str(&out).unwrap_or_else(|e| panic!("{method}: {e}: {out}"));
            let kind = said.to_string();
            let clear = ["UNAUTHENTICATED", "UNTRUSTED_SIGNER", "NOT_ALLOWED", "INVALID_PARAMS", "INVALID_ENVELOPE"];
            assert!(!ok && clear.iter().any(|word| kind.contains(word)), "{method}: {out}");
        }
    }
    let job = ["job", "run", "--runner", "noop", "--payload", "1", "--json", "--supervisor"];
    let (ok, out) = scene.try_horus(2, Some("stranger"), &[&job[..], &[&format!("mycelium://{h1}")]].concat());
    assert!(!ok && out.contains("UNTRUSTED_SIGNER"), "{out}");
    let file = scene.file("one.yaml", &wide(1, "runner: noop, payload: ''"));
    let workflow = ["workflow", "run", &file, "--json", "--coordinator"];
    let (ok, out) = scene.try_horus(2, Some("stranger"), &[&workflow[..], &[&format!("mycelium://{h0}")]].concat());
    assert!(!ok && out.contains("UNTRUSTED_SIGNER"), "{out}");
    // The user's own call gets there the same way.
    let (ok, out) = scene.try_horus(2, Some("me"), &[&job[..], &[&format!("mycelium://{h1}")]].concat());
    assert!(ok, "{out}");
}

#[test]
fn a_stranger_gets_nothing_but_the_open_methods() {
    a_stranger_is_refused(World::simulated());
}

#[test]
fn on_real_daemons_a_stranger_gets_nothing_but_the_open_methods() {
    let Some(world) = World::real(false) else { return };
    a_stranger_is_refused(world);
}

fn hundred_steps_cost_few_messages(world: World) {
    let scene = Scene::start(world, Over::Messages, 1);
    let file = scene.file("hundred.yaml", &wide(100, "runner: noop, payload: ''"));
    for round in ["first", "second"] {
        let before = cost(&scene);
        let done = scene.horus(0, Some("me"), &["workflow", "run", &file, "--id", round, "--json"]);
        assert_eq!(done["counts"]["succeeded"], 100, "{}", done["counts"]);
        let spent = cost(&scene) - before;
        eprintln!("{round}: 100 parallel steps cost {spent} messages, replies counted");
        assert!(spent <= BUDGET, "100 steps took {spent} messages");
    }
}

/// Messages so far, as the simulator or the coordinator counts them.
fn cost(scene: &Scene) -> u64 {
    if let Some(messages) = scene.world.messages() {
        return messages;
    }
    let seen = scene.horus(0, Some("me"), &["mesh", "status", "--json"]);
    let status = &seen["coordinator"]["status"];
    let count = |name: &str| status[name].as_u64().unwrap();
    count("messages_sent") + count("replies_received")
}

#[test]
fn a_hundred_parallel_steps_cost_few_messages() {
    hundred_steps_cost_few_messages(World::simulated());
}

#[test]
fn on_real_daemons_a_hundred_parallel_steps_cost_few_messages() {
    let Some(world) = World::real(false) else { return };
    hundred_steps_cost_few_messages(world);
}

/// Nobody's policy names anybody but the owner; the supervisor is not named to the coordinator either.
fn a_new_machine_joins(world: World) {
    let mut scene = Scene::empty(world);
    let owner = scene.key("owner");
    for (name, role, runner) in [
        ("me", "submitter,operator", "*"),
        ("c", "coordinator", "*"),
        // One key for what one machine does.
        ("s1", "supervisor,runner", "*"),
    ] {
        let id = scene.key(name);
        let (ok, certificate) = scene.try_horus(
            0,
            None,
            &["keys", "certify", &id, "--role", role, "--runner", runner, "--dir", &scene.path("owner")],
        );
        assert!(ok, "{certificate}");
        scene.file(&format!("{name}/cert.json"), &certificate);
        let trust = scene.path(&format!("{name}/trust.toml"));
        let (ok, out) =
            scene.try_horus(0, None, &["keys", "trust", "add", &owner, "--role", "owner", "--trust", &trust]);
        assert!(ok, "{out}");
    }
    scene.coordinator(Over::Messages, &["--supervisor", "topic:horus.supervisor"]);
    let coordinator = format!("mycelium://{}", scene.world.host(0));
    scene.supervisor(1, Over::Messages, &["--coordinator", &coordinator]);
    scene.role(1, "s1", &["runner", "noop"]);
    scene.until("the supervisor has announced itself", Duration::from_secs(60), || {
        let list = scene.supervisors();
        let answers = |s: &Value| s["state"] == "alive" && s["runners"].to_string().contains("noop");
        (list.len() == 1 && answers(&list[0])).then_some(())
    });
    let file = scene.file("one.yaml", &wide(3, "runner: noop, payload: ''"));
    let done = scene.horus(0, Some("me"), &["workflow", "run", &file, "--json"]);
    assert_eq!(done["counts"]["succeeded"], 3, "{done:#}");
    let runners = scene.horus(0, Some("me"), &["call", "topic:horus.supervisor", "list_runners", "--json"]);
    assert_eq!(runners["runners"][0]["runner"], "noop", "{runners:#}");
    // A coordinator that starts again knows it at once.
    let stopped = scene.running.remove(0);
    drop(stopped);
    scene.coordinator(Over::Messages, &[]);
    scene.until("the supervisor is known again", Duration::from_secs(10), || {
        (scene.supervisors().first()?["state"] == "alive").then_some(())
    });
}

#[test]
fn a_new_machine_joins_with_the_owners_certificate() {
    a_new_machine_joins(World::simulated());
}

#[test]
fn on_real_daemons_a_new_machine_joins_with_the_owners_certificate() {
    let Some(world) = World::real(false) else { return };
    a_new_machine_joins(world);
}
