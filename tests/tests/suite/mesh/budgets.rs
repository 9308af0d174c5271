//! What things cost in messages, replies counted.

use std::{sync::Arc, time::Duration};

use horus_node::api::supervisor::{ListRunners, ListRunnersParams};
use horus_transport::{CarrierFactory, ClientOptions, Mesh, MeshOptions, RpcClient};

use super::{
    scene::{Over, Scene},
    wide,
    world::World,
};

/// What one run of 100 parallel steps, or a thousand calls at once, may cost.
const BUDGET: u64 = 40;
/// How long is looked for what happens although nothing does.
const WATCHED: Duration = Duration::from_secs(45);

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

#[test]
fn a_thousand_calls_at_once_cost_few_messages() {
    let scene = Scene::start(World::simulated(), Over::Messages, 1);
    let World::Simulated { mesh, runtime } = &scene.world else { unreachable!("it is simulated") };
    let me = scene.identity("me");
    let sockets = scene.dir.path().join("me-mesh");
    let spent = runtime.block_on(async {
        let mut options = MeshOptions::new(sockets);
        options.daemon_url = mesh.node(0).rpc_url().parse().unwrap();
        let own = Mesh::start(options).await;
        let carriers: Arc<dyn CarrierFactory> = Arc::new(own.clone());
        let options = ClientOptions { identity: Some(me), carriers: Some(carriers), ..ClientOptions::default() };
        let address = format!("mycelium://{}/horus.supervisor", scene.world.host(1)).parse().unwrap();
        let client = RpcClient::connect(address, options).unwrap();
        client.peer().await.unwrap();
        let before = mesh.messages();
        let calls: Vec<_> = (0..1000)
            .map(|_| {
                let client = client.clone();
                tokio::spawn(async move {
                    let patience = Duration::from_secs(60);
                    client.call_with_timeout::<ListRunners>(&ListRunnersParams::default(), patience).await
                })
            })
            .collect();
        for call in calls {
            assert_eq!(call.await.unwrap().unwrap().runners.len(), 4);
        }
        let spent = mesh.messages() - before;
        own.shutdown().await;
        spent
    });
    eprintln!("1000 calls at once to one supervisor cost {spent} messages, replies counted");
    assert!(spent <= BUDGET, "{spent} messages");
}

/// A coordinator and two supervisors that have announced themselves, and that nobody wants anything of.
fn an_idle_mesh() {
    let mut scene = Scene::empty(World::simulated());
    scene.trust_all(2);
    let coordinator = format!("mycelium://{}", scene.world.host(0));
    for host in [1, 2] {
        scene.supervisor(host, Over::Messages, &["--coordinator", &coordinator]);
        scene.runners(host);
    }
    for host in [1, 2] {
        scene.until_runners(host);
    }
    scene.coordinator(Over::Messages, &[]);
    scene.until_alive(2);
    let before = scene.until_quiet();
    std::thread::sleep(WATCHED);
    let spent = scene.world.messages().unwrap() - before;
    eprintln!("an idle mesh of three nodes sent {spent} messages in {WATCHED:?}");
    assert!(spent <= WATCHED.as_secs() / 10, "{spent} messages in {WATCHED:?}");
}

/// A step that takes its time costs no more than an idle supervisor, and one renewed poll a minute.
fn a_waiting_job() {
    let scene = Scene::start(World::simulated(), Over::Messages, 1);
    let seconds = WATCHED.as_secs() + 5;
    let file = scene.file("slow.yaml", &wide(1, &format!("runner: sal, payload: 'sleep({seconds}); 1'")));
    scene.horus(0, Some("me"), &["workflow", "submit", &file, "--id", "slow", "--json"]);
    let status = ["workflow", "status", "slow", "--json"];
    scene.until("the step is with the supervisor", Duration::from_secs(30), || {
        let view = scene.horus(0, Some("me"), &status);
        (view["steps"]["s0"]["supervisor"].is_string()).then_some(())
    });
    let before = scene.until_quiet();
    std::thread::sleep(WATCHED - Duration::from_secs(4));
    let spent = scene.world.messages().unwrap() - before;
    eprintln!("a job that waits cost {spent} messages in {:?}", WATCHED - Duration::from_secs(4));
    // A poll that is renewed, and a look at the supervisor: one of each a minute.
    assert!(spent <= 4, "{spent} messages");
    let view = scene.until("the workflow ends", Duration::from_secs(60), || {
        let view = scene.horus(0, Some("me"), &status);
        (view["status"] != "running").then_some(view)
    });
    assert_eq!(view["status"], "succeeded", "{view:#}");
    // Its end: the reply of the poll.
    let all = scene.world.messages().unwrap() - before;
    assert!(all <= 6, "{all} messages to its end");
}

/// Both at once, for both do little but wait.
#[test]
fn waiting_costs_next_to_nothing() {
    std::thread::scope(|scope| {
        let idle = scope.spawn(an_idle_mesh);
        let waiting = scope.spawn(a_waiting_job);
        idle.join().unwrap();
        waiting.join().unwrap();
    });
}
