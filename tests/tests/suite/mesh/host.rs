//! What one host does with its daemon: `horus up`, subnets, topics.

use std::time::Duration;

use horus_tests::{Running, free_port};
use serde_json::Value;

use super::{
    scene::{Over, Scene},
    world::World,
};

/// How long a command or a start that must fail may take.
const SOON: Duration = Duration::from_secs(30);

impl Scene {
    /// Calls `get_node_info`, which is open: whether it was answered, and what was printed.
    fn who(&self, from: usize, address: &str) -> (bool, String) {
        self.try_horus(from, None, &["call", address, "get_node_info", "--transport", "messages", "--json"])
    }

    fn until_answered(&self, from: usize, address: &str) -> Value {
        self.until(&format!("{address} answers host {from}"), SOON, || {
            let (ok, out) = self.who(from, address);
            ok.then(|| serde_json::from_str(&out).unwrap())
        })
    }

    /// `horus up` on the first host.
    fn up(&self, mesh: &str, more: &[&str]) -> Running {
        let ports = [self.world.port(9090), self.world.port(8080)].map(|port| port.to_string());
        let mut command = self.world.horus(0);
        command.args(["up", "--data-dir", &self.path("up"), "--identity", &self.path("user"), "--mesh", mesh]);
        command.args(["--coordinator-port", &ports[0], "--supervisor-port", &ports[1]]).args(more);
        Running::start(&mut command, &self.dir.path().join(format!("up-{mesh}-{}.log", more.len())))
    }
}

fn up_uses_a_daemon(world: World) {
    let scene = Scene::empty(world);
    let host = scene.world.host(0);
    for mesh in ["require", "auto"] {
        let up = scene.up(mesh, &[]);
        scene.until("up is ready", Duration::from_secs(90), || {
            let log = up.log();
            assert!(!log.contains("horus: "), "{log}");
            log.lines().any(|line| line.starts_with("ready")).then_some(())
        });
        for role in ["supervisor", "coordinator"] {
            let info = scene.until_answered(1, &format!("mycelium://{host}/horus.{role}"));
            assert_eq!(info["role"], role, "{info:#}");
        }
        // Its user works with it from another host.
        let policy = scene.path("up/trust.toml");
        let job = ["job", "run", "--runner", "noop", "--payload", "1", "--json", "--trust", &policy, "--supervisor"];
        let (ok, out) = scene.try_horus(1, Some("user"), &[&job[..], &[&format!("mycelium://{host}")]].concat());
        assert!(ok && out.contains("succeeded"), "{out}\n{}", up.log());
    }
}

#[test]
fn up_uses_the_daemon() {
    up_uses_a_daemon(World::simulated());
}

#[test]
fn on_real_daemons_up_uses_the_daemon() {
    for tun in [false, true] {
        let Some(world) = World::real(tun) else { return };
        up_uses_a_daemon(world);
    }
}

/// Nothing starts where a daemon is required and none is there, and it says how to get one.
#[test]
fn a_daemon_that_is_required_must_be_there() {
    let mut scene = Scene::empty(World::simulated());
    scene.key("alone");
    let mut up = scene.up("require", &["--mycelium-rpc", "http://127.0.0.1:1"]);
    assert_eq!(up.wait(SOON), Some(1), "{}", up.log());
    let port = free_port().to_string();
    let require = ["supervisor", "--port", &port, "--mesh", "require", "--mycelium-rpc", "http://127.0.0.1:1"];
    scene.trusted("me", "submitter", "*");
    scene.role(1, "alone", &require);
    let mut role = scene.running.remove(0);
    assert_eq!(role.wait(SOON), Some(1), "{}", role.log());
    for log in [up.log(), role.log()] {
        assert!(log.contains("install mycelium") && log.contains("mycelium -k"), "{log}");
    }
}

fn subnets_and_topics(world: World) {
    let mut scene = Scene::empty(world);
    scene.trust_all(2);
    let friend = format!("{}/128", scene.world.host(0).overlay_address());
    scene.supervisor(1, Over::Messages, &["--mesh-allow", &friend, "--topic", "blue"]);
    let host = scene.world.host(1);
    let address = format!("mycelium://{host}/horus.supervisor.blue");
    let blue = scene.until_answered(0, &address);
    assert_eq!(blue["peer_id"], scene.identity("s1").peer_id().to_string());

    // Nobody serves the topic without the suffix.
    let (ok, out) = scene.who(0, &format!("mycelium://{host}"));
    assert!(!ok && out.contains("NO_SERVICE") && out.contains("horus.supervisor"), "{out}");
    // A host outside the subnet is told what may be the matter, in time.
    let (ok, out) = scene.who(2, &address);
    assert!(!ok && out.contains("PEER_UNREACHABLE") && out.contains("--mesh-allow"), "{out}");

    // Another role with the same topic does not take it away.
    let port = free_port().to_string();
    scene.role(1, "s2", &["supervisor", "--port", &port, "--topic", "blue"]);
    let mut second = scene.running.pop().unwrap();
    assert_eq!(second.wait(SOON), Some(1), "{}", second.log());
    let log = second.log();
    assert!(log.contains("the topic horus.supervisor.blue") && log.contains("--topic SUFFIX"), "{log}");
    drop(second);
    let blue_still = scene.until_answered(0, &address);
    assert_eq!(blue_still["peer_id"], blue["peer_id"]);

    // With a topic of its own it serves beside the first.
    scene.role(1, "s2", &["supervisor", "--port", &port, "--topic", "green"]);
    let green = scene.until_answered(0, &format!("mycelium://{host}/horus.supervisor.green"));
    assert_eq!(green["peer_id"], scene.identity("s2").peer_id().to_string());

    // What a role that was killed left registered is nobody's.
    let first = scene.running.remove(0);
    first.signal(nix::sys::signal::Signal::SIGKILL);
    drop(first);
    scene.role(1, "s2", &["supervisor", "--port", &free_port().to_string(), "--topic", "blue"]);
    scene.until("the topic has a new owner", SOON, || {
        let (ok, out) = scene.who(0, &address);
        (ok && out.contains(green["peer_id"].as_str().unwrap())).then_some(())
    });
}

#[test]
fn subnets_and_topics_are_kept_apart() {
    subnets_and_topics(World::simulated());
}

#[test]
fn on_real_daemons_subnets_and_topics_are_kept_apart() {
    let Some(world) = World::real(false) else { return };
    subnets_and_topics(world);
}
