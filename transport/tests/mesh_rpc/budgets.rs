//! How many messages things cost.

use std::time::Duration;

use horus_transport::*;

use crate::frames::daemons;
use crate::service::*;
use crate::world::{World, until};

pub(crate) async fn a_thousand_calls_travel_in_forty_messages(world: &World) {
    let client = world.client();
    client.peer().await.unwrap();
    let before = world.messages().await;
    let calls: Vec<_> = (0..1000)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.call::<Count>(&NoParams {}).await })
        })
        .collect();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    let cost = world.messages().await - before;
    assert_eq!(world.counted(), 1000);
    assert!(cost <= 40, "{cost} messages");
    eprintln!("1000 calls cost {cost} messages");
}

/// A nudge may be parked for 20 s, then it has its reply too.
async fn all_answered(world: &World) -> bool {
    let status = world.caller.as_ref().unwrap().status().await;
    status.messages_sent == status.replies_received
}

pub(crate) async fn a_waiting_call_costs_nothing_until_it_ends(world: &World) {
    let client = world.client();
    client.call::<Count>(&NoParams {}).await.unwrap();
    // On a LAN that call leaves a nudge parked, and its reply is not what the poll costs.
    until("every message has its reply", || all_answered(world)).await;
    a_poll_costs(world, client, Duration::from_secs(12), 1).await;
}

pub(crate) async fn a_waiting_call_to_a_peer_that_was_silent_is_asked_after_once(world: &World) {
    let client = world.client();
    client.call::<Count>(&NoParams {}).await.unwrap();
    until("every message has its reply", || all_answered(world)).await;
    tokio::time::sleep(Duration::from_secs(11)).await;
    a_poll_costs(world, client, Duration::from_secs(24), 3).await;
}

/// A poll that waits for so long costs at most so many messages meanwhile, and one more.
async fn a_poll_costs(world: &World, client: RpcClient, wait: Duration, at_most: u64) {
    let before = world.messages().await;
    let poll = tokio::spawn(async move {
        let params = RingParams { rings: 1, timeout_ms: 50_000 };
        client.call_with_timeout::<WaitBell>(&params, Duration::from_secs(55)).await
    });
    until("the poll is on its way", || async { world.messages().await > before }).await;
    tokio::time::sleep(wait).await;
    let waiting = world.messages().await - before;
    assert!(waiting <= at_most, "{waiting} messages while it waits");
    world.state.bell.send_replace(1);
    assert!(poll.await.unwrap().unwrap());
    let cost = world.messages().await - before;
    assert!(cost <= at_most + 1, "{cost} messages");
}

pub(crate) async fn an_idle_mesh_sends_nothing(world: &World) {
    let client = world.client();
    client.call::<Count>(&NoParams {}).await.unwrap();
    // What a call leaves behind, such as a nudge that is parked, ends within that time.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = world.messages().await;
    tokio::time::sleep(Duration::from_secs(17)).await;
    let cost = world.messages().await - before;
    assert!(cost <= 1, "{cost} messages");
}

pub(crate) async fn nothing_is_left_in_any_inbox(world: &World) {
    let (caller, callee) = daemons(world).await;
    let client = world.client();
    for n in 0..20 {
        let params = EchoParams { text: n.to_string(), pause_ms: 0 };
        client.call::<Echo>(&params).await.unwrap();
    }
    // On a LAN some of these were nudged.
    until("every message has its reply", || all_answered(world)).await;
    assert_eq!(caller.pop_any(true).await, None);
    assert_eq!(callee.pop_any(true).await, None);
    // A late reply falls into the caller's inbox, and is taken out of it.
    let slow = EchoParams { text: "x".into(), pause_ms: 1500 };
    let _ = client.call_with_timeout::<Echo>(&slow, Duration::from_millis(200)).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    until("the inboxes are empty", || async {
        caller.pop_any(true).await.is_none() && callee.pop_any(true).await.is_none()
    })
    .await;
    if let Some(simulator) = world.simulator() {
        tokio::time::sleep(Duration::from_secs(22)).await;
        assert!(simulator.nodes().iter().all(|node| node.inbox_len() == 0));
        assert!(simulator.nodes().iter().all(|node| node.traffic().blocking_pops == 0));
    }
}

/// The median of how long so many calls take, a while apart.
async fn usual_time(client: &RpcClient, calls: usize) -> Duration {
    client.peer().await.unwrap();
    let mut took = Vec::new();
    for _ in 0..calls {
        tokio::time::sleep(Duration::from_millis(150)).await;
        let begin = std::time::Instant::now();
        client.call::<Count>(&NoParams {}).await.unwrap();
        took.push(begin.elapsed());
    }
    took.sort_unstable();
    took[calls / 2]
}

/// On a link where the daemon misses acknowledgements, as on a LAN.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_call_does_not_wait_for_the_tick_twice() {
    let faults = horus_transport::simulator::Faults {
        tick: true,
        delay: Duration::from_micros(200),
        ..horus_transport::simulator::Faults::default()
    };
    let world = World::simulated_with(faults).await;
    let (client, bare_client) = (world.client(), world.raw_client());
    for attempt in 1..=3 {
        let took = usual_time(&client, 20).await;
        if took < Duration::from_millis(104) {
            break;
        }
        // What a busy machine adds, it adds to bare messages too. They meet the tick twice, unless it is too busy for that.
        let bare = usual_time(&bare_client, 11).await;
        if took + Duration::from_millis(90) < bare {
            break;
        }
        assert!(attempt < 3, "{took:?}, by bare messages {bare:?}");
    }
    // What was parked is answered, and taken.
    tokio::time::sleep(Duration::from_secs(23)).await;
    let simulator = world.simulator().unwrap();
    assert!(simulator.nodes().iter().all(|node| node.inbox_len() == 0));
    world.end().await;
}
