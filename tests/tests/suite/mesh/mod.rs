//! Roles on the hosts of a mesh: simulated daemons always, real ones when `MYCELIUM_BIN` names a binary.

mod announcing;
mod bench;
mod budgets;
mod guide;
mod host;
mod paths;
mod scene;
mod strangers;
mod world;

use std::time::{Duration, Instant};

use serde_json::Value;

use scene::{Over, Scene};
use world::World;

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

/// What befalls host 2 in the middle of a workflow.
#[derive(Debug, Clone, Copy)]
enum Harm {
    /// Its cable is pulled.
    Cut,
    /// Its daemon is killed.
    Killed,
}

impl Harm {
    fn strike(self, world: &World) {
        match self {
            Self::Cut => world.cut(2),
            Self::Killed => world.kill_daemon(2),
        }
    }

    fn mend(self, world: &World) {
        match self {
            Self::Cut => world.heal(2),
            Self::Killed => world.start_daemon(2),
        }
    }
}

/// 200 steps. Host 2 is lost while it has some of them: 180 may move, the others wait for it. It comes back by itself.
fn fan_out(scene: &Scene, harm: Harm) {
    let moving = "runner: sal, idempotent: true, on_unknown: retry, payload: 'sleep(0.1); 7'";
    let mut text = wide(180, moving);
    for n in 0..20 {
        text += &format!("    - {{id: w{n}, runner: sal, on_unknown: wait, payload: 'sleep(0.1); 7'}}\n");
    }
    let file = scene.file("fan.yaml", &text);
    let begin = Instant::now();
    scene.horus(0, Some("me"), &["workflow", "submit", &file, "--id", "fan", "--json"]);
    let succeeded = |view: &Value| view["counts"]["succeeded"].as_u64().unwrap_or_default();
    let look = || scene.horus(0, Some("me"), &["workflow", "status", "fan", "--json"]);
    scene.until("some have succeeded", Duration::from_secs(60), || (succeeded(&look()) >= 20).then_some(()));
    harm.strike(&scene.world);
    let lost_after = begin.elapsed();
    let moved = scene.until("what may move has ended", Duration::from_secs(120), || {
        let view = look();
        let done = (0..180).all(|n| view["steps"][format!("s{n}")]["status"] == "succeeded");
        done.then_some(view)
    });
    let moved_after = begin.elapsed();
    let waiting = 200 - succeeded(&moved);
    assert!(waiting > 0 && moved["status"] == "running", "{}", moved["counts"]);
    harm.mend(&scene.world);
    let mended = Instant::now();
    scene.until_alive(2);
    let back = mended.elapsed();
    let done = scene.until("the workflow ends", Duration::from_secs(60), || {
        let view = look();
        (view["status"] != "running").then_some(view)
    });
    assert_eq!((&done["status"], succeeded(&done)), (&Value::from("succeeded"), 200), "{}", done["counts"]);
    for n in 0..20 {
        assert_eq!(done["steps"][format!("w{n}")]["attempt"], 1, "what must wait ran once: {}", done["steps"]);
    }
    eprintln!(
        "200 steps, {harm:?}: host 2 lost after {lost_after:.1?}, those that may move ended after {moved_after:.1?}, {waiting} \
         waited; host 2 in use {back:.1?} after it was mended, all ended after {:.1?}",
        begin.elapsed()
    );
    assert!(back < Duration::from_secs(5) || !scene.world.heals_soon(), "host 2 was back only after {back:?}");
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
            at.contains(&name)
                || at.contains(&format!("{}:{}", scene.world.underlay(host), scene.ports[host]))
                || scene.key_of(host) == at
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

fn workflows_run(world: World, over: Over, harm: Harm) {
    let scene = Scene::start(world, over, 2);
    pipeline(&scene);
    fan_out(&scene, harm);
    pipeline(&scene);
}

#[test]
fn workflows_run_over_messages_and_survive_a_cut() {
    workflows_run(World::simulated(), Over::Messages, Harm::Cut);
}

/// On a mesh of its own for each, with a TUN on every host or with none.
fn on_real_daemons(over: Over, harm: Harm, tuns: &[bool]) {
    for tun in tuns {
        let Some(world) = World::real(*tun) else { return };
        eprintln!("{over:?}, {}:", if *tun { "with TUN" } else { "without TUN" });
        workflows_run(world, over, harm);
    }
}

#[test]
fn on_real_daemons_workflows_run_over_messages_and_survive_a_cut() {
    on_real_daemons(Over::Messages, Harm::Cut, &[false, true]);
}

#[test]
fn on_real_daemons_workflows_run_over_overlay_http_and_survive_a_cut() {
    on_real_daemons(Over::Overlay, Harm::Cut, &[true]);
}

#[test]
fn on_real_daemons_workflows_run_over_plain_http_and_survive_a_cut() {
    on_real_daemons(Over::Plain, Harm::Cut, &[false, true]);
}

#[test]
fn on_real_daemons_workflows_run_by_the_best_path_and_survive_a_cut() {
    on_real_daemons(Over::Auto, Harm::Cut, &[false, true]);
}

#[test]
fn on_real_daemons_workflows_run_over_messages_and_survive_a_killed_daemon() {
    on_real_daemons(Over::Messages, Harm::Killed, &[false, true]);
}

#[test]
fn on_real_daemons_workflows_run_over_overlay_http_and_survive_a_killed_daemon() {
    on_real_daemons(Over::Overlay, Harm::Killed, &[true]);
}

#[test]
fn on_real_daemons_workflows_run_by_the_best_path_and_survive_a_killed_daemon() {
    on_real_daemons(Over::Auto, Harm::Killed, &[false, true]);
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
    let seen = scene.supervisors();
    assert!(seen[0]["address"].as_str().unwrap().starts_with("mycelium://"), "{seen:#?}");
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
