//! Many hosts that are cut off, and one that is not.

use std::time::Duration;

use horus_transport::simulator::{Faults, MeshSimulator};
use horus_transport::*;
use tokio::task::JoinSet;

use crate::service::{self, *};
use crate::world::World;

/// A mesh in which all hosts but the first two are cut off.
async fn world(silent: usize) -> World {
    let world = World::simulated_among(silent + 2, Faults::default()).await;
    simulator(&world).nodes()[2..].iter().for_each(horus_transport::simulator::SimulatedNode::cut);
    world
}

fn simulator(world: &World) -> &MeshSimulator {
    world.simulator().expect("it is simulated")
}

/// Calls every host that is cut off so often, a while apart; the outcomes.
fn call_the_silent(world: &World, times: u32, timeout: Duration) -> JoinSet<Result<u32, RpcError>> {
    let mut calls = JoinSet::new();
    for node in &simulator(world).nodes()[2..] {
        let carriers = world.caller.clone().map(|mesh| std::sync::Arc::new(mesh) as std::sync::Arc<dyn CarrierFactory>);
        let options = ClientOptions { identity: Some(service::friend()), carriers, ..ClientOptions::default() };
        let peer = service::state(10).me.peer_id();
        let address = format!("mycelium://{}/{TOPIC}#{peer}", node.mesh_public_key()).parse().unwrap();
        let client = RpcClient::connect(address, options).unwrap();
        for n in 0..times {
            let client = client.clone();
            calls.spawn(async move {
                tokio::time::sleep(Duration::from_millis(160) * n).await;
                client.call_with_timeout::<Count>(&NoParams {}, timeout).await
            });
        }
    }
    calls
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_to_many_silent_hosts_hold_up_no_other() {
    let world = world(40).await;
    let client = world.client();
    assert_eq!(client.call::<Count>(&NoParams {}).await.unwrap(), 1);
    let calls = call_the_silent(&world, 2, Duration::from_secs(30));
    tokio::time::sleep(Duration::from_millis(600)).await;
    let count = client.call_with_timeout::<Count>(&NoParams {}, Duration::from_secs(10)).await;
    assert_eq!(count.unwrap(), 2);
    drop(calls);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pings_of_many_silent_hosts_hold_up_no_long_poll() {
    let world = world(52).await;
    let client = world.client();
    assert_eq!(client.call::<Count>(&NoParams {}).await.unwrap(), 1);
    for outcome in call_the_silent(&world, 1, Duration::from_secs(30)).join_all().await {
        assert_eq!(outcome.unwrap_err().kind, ErrorKind::PeerUnreachable);
    }
    // By then the hosts are pinged in the background.
    tokio::time::sleep(Duration::from_secs(3)).await;
    world.state.bell.send_replace(1);
    let params = RingParams { rings: 1, timeout_ms: 1000 };
    let poll = client.call_with_timeout::<WaitBell>(&params, Duration::from_secs(10)).await;
    assert!(poll.unwrap());
    world.end().await;
}
