//! Nodes that are there, but take long.

use std::sync::Arc;
use std::time::Duration;

use horus_transport::*;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::service::{self, *};
use crate::world::World;

/// Clients of so many topics of the callee, each of which is a peer of its own to the caller.
async fn clients(world: &World, topics: usize) -> Vec<RpcClient> {
    let callee = world.callee.as_ref().unwrap();
    let mut clients = Vec::new();
    for n in 0..topics {
        let topic = format!("{TOPIC}.{n}");
        callee.serve(&topic, service::dispatcher(&world.state), CancellationToken::new()).await.unwrap();
        let address = format!("mycelium://{}/{topic}", callee.mesh_public_key().unwrap()).parse().unwrap();
        let carriers = Some(Arc::new(world.caller.clone().unwrap()) as Arc<dyn CarrierFactory>);
        let options = ClientOptions { identity: Some(service::friend()), carriers, ..ClientOptions::default() };
        clients.push(RpcClient::connect(address, options).unwrap());
    }
    world.served().await;
    clients
}

/// Makes so many calls that take so long, each in a message of its own.
fn call(client: &RpcClient, calls: u32, takes: Duration, timeout: Duration) -> JoinSet<Result<String, RpcError>> {
    let mut made = JoinSet::new();
    for n in 0..calls {
        let client = client.clone();
        made.spawn(async move {
            tokio::time::sleep(Duration::from_millis(200) * n).await;
            let pause_ms = takes.as_millis() as u64;
            client.call_with_timeout::<Echo>(&EchoParams { text: n.to_string(), pause_ms }, timeout).await
        });
    }
    made
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_take_long_are_answered_and_hold_up_no_other_peer() {
    let world = World::simulated().await;
    let mut clients = clients(&world, 8).await;
    for client in &clients {
        client.call::<Count>(&NoParams {}).await.unwrap();
    }
    let idle = clients.pop().unwrap();
    let poll = {
        let (client, params) = (clients[0].clone(), RingParams { rings: 1, timeout_ms: 60_000 });
        tokio::spawn(async move { client.call_with_timeout::<WaitBell>(&params, Duration::from_secs(60)).await })
    };
    let slow: Vec<_> =
        clients.iter().map(|client| call(client, 6, Duration::from_secs(12), Duration::from_secs(60))).collect();
    for n in 0..8 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let count = idle.call_with_timeout::<Count>(&NoParams {}, Duration::from_millis(1500)).await;
        assert_eq!(count.unwrap(), 9 + n, "a peer that is called little is not held up");
    }
    for mut calls in slow {
        while let Some(outcome) = calls.join_next().await {
            outcome.unwrap().unwrap();
        }
    }
    world.state.bell.send_replace(1);
    assert!(poll.await.unwrap().unwrap(), "nor is a long poll ended");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_take_long_hold_up_no_other_of_their_peer() {
    let world = World::simulated().await;
    let client = world.client();
    client.call::<Count>(&NoParams {}).await.unwrap();
    let stuck = call(&client, 6, Duration::from_secs(60), Duration::from_secs(60));
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let count = client.call_with_timeout::<Count>(&NoParams {}, Duration::from_secs(5)).await;
    assert_eq!(count.unwrap(), 2);
    drop(stuck);
    world.end().await;
}
