//! A supervisor that only knows its coordinator: it is found by steps in whatever form they name it, and it gets through to a
//! coordinator that comes later.

use std::time::{Duration, Instant};

use horus_transport::simulator::MeshSimulator;

use super::{
    scene::{Over, Scene},
    wide,
    world::World,
};

/// How long the coordinator cannot be reached after the first announcement failed. A supervisor that paused twice as long after every
/// try, up to 30 s, and did not hear that the way works again, would try 12 s and 20 s after it.
const AWAY: Duration = Duration::from_secs(13);
/// How soon the coordinator knows the supervisor once it can, and the supervisor that it does.
const SOON: Duration = Duration::from_secs(5);

impl Scene {
    /// A supervisor on host 1 that is told where the coordinator is, and its runners.
    fn announcing(&mut self) {
        let coordinator = format!("mycelium://{}", self.world.host(0));
        self.supervisor(1, Over::Messages, &["--coordinator", &coordinator]);
        self.runners(1);
        self.until_runners(1);
    }
}

#[test]
fn a_step_names_an_announced_supervisor_in_any_form() {
    let mut scene = Scene::empty(World::simulated());
    scene.trust_all(1);
    // In this order, for a coordinator looks at a supervisor once a minute over messages: the runners are to be there.
    scene.announcing();
    scene.coordinator(Over::Messages, &[]);
    scene.until_alive(1);
    let (host, role) = (MeshSimulator::identity(1).peer_id(), scene.identity("s1").peer_id());
    let (ip, key) = (host.overlay_address(), host.mesh_public_key());
    let hosts = [host.to_string(), format!("[{ip}]"), key.to_string()];
    let mut forms = vec![role.to_string(), "topic:horus.supervisor".to_owned()];
    for host in &hosts {
        for rest in ["", "/", "/horus.supervisor"] {
            forms.push(format!("mycelium://{host}{rest}"));
            forms.push(format!("mycelium://{host}{rest}#{role}"));
        }
    }
    let mut text = wide(0, "");
    for (n, form) in forms.iter().enumerate() {
        text += &format!("    - {{id: s{n}, runner: noop, payload: '', supervisor: '{form}'}}\n");
    }
    let file = scene.file("forms.yaml", &text);
    scene.horus(0, Some("me"), &["workflow", "submit", &file, "--id", "forms", "--json"]);
    let look = || scene.horus(0, Some("me"), &["workflow", "status", "forms", "--json"]);
    scene.until("all steps have succeeded", Duration::from_secs(30), || {
        let view = look();
        assert_ne!(view["status"], "failed", "{view:#}");
        (view["counts"]["succeeded"] == forms.len()).then_some(())
    });
}

/// The coordinator cannot be reached while the supervisor announces itself first, and can be later.
fn the_coordinator_comes_later(leave: impl Fn(&World), come: impl Fn(&World)) {
    let mut scene = Scene::empty(World::simulated());
    scene.trust_all(1);
    leave(&scene.world);
    scene.coordinator(Over::Messages, &[]);
    let coordinator = format!("mycelium://{}", scene.world.host(0));
    scene.supervisor(1, Over::Messages, &["--coordinator", &coordinator]);
    scene.until("the first announcement has failed", Duration::from_secs(30), || {
        scene.running[1].log().contains("cannot announce this supervisor").then_some(())
    });
    let failed = Instant::now();
    scene.runners(1);
    scene.until_runners(1);
    std::thread::sleep(AWAY.saturating_sub(failed.elapsed()));
    assert!(scene.supervisors().is_empty());
    come(&scene.world);
    let back = Instant::now();
    scene.until_alive(1);
    let known = back.elapsed();
    scene.until("the supervisor is told so", Duration::from_secs(60), || {
        scene.running[1].log().contains("announced to the coordinator").then_some(())
    });
    let told = back.elapsed();
    eprintln!("the supervisor is known {known:.1?} after the coordinator came, and told so after {told:.1?}");
    assert!(told < SOON, "{told:?}");
}

#[test]
fn a_supervisor_gets_through_to_a_coordinator_that_was_cut_off() {
    the_coordinator_comes_later(|world| world.cut(0), |world| world.heal(0));
}

#[test]
fn a_supervisor_gets_through_to_a_coordinator_whose_daemon_comes_later() {
    the_coordinator_comes_later(|world| world.kill_daemon(0), |world| world.start_daemon(0));
}

#[test]
fn a_supervisor_gets_through_once_its_own_daemon_comes() {
    the_coordinator_comes_later(|world| world.kill_daemon(1), |world| world.start_daemon(1));
}
