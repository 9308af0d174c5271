//! What only the simulator can be told to do.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use horus_transport::simulator::{Faults, MeshSimulator};
use serde_json::json;
use tokio::io::AsyncWriteExt;

use crate::client::{Daemon, payload};
use crate::mesh::{Mesh, Server, read_line};

/// A mesh whose second node echoes under the topic `echo`.
async fn echoing(faults: Faults) -> (Mesh, Server) {
    let mesh = Mesh::of_simulator(MeshSimulator::start(3, faults).await.unwrap());
    let server = mesh.listen("echo", |mut connection| async move {
        let request = read_line(&mut connection).await;
        // The daemon may have been killed meanwhile.
        _ = connection.write_all(request.as_bytes()).await;
    });
    mesh.nodes[1].serve("echo", server.path()).await;
    (mesh, server)
}

async fn round_trip(a: &Daemon, b: &Daemon) -> Duration {
    let began = Instant::now();
    assert_eq!(payload(&a.request(b, "echo", b"x\n", 20).await), b"x");
    began.elapsed()
}

async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done().await {
        assert!(Instant::now() < deadline, "{what}: it does not come to pass");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn messages_are_counted_with_their_replies() {
    let (mesh, _server) = echoing(Faults::default()).await;
    let [a, b, _] = mesh.nodes.as_slice() else { unreachable!() };
    for _ in 0..5 {
        round_trip(a, b).await;
    }
    a.call("popMessage", json!([])).await;
    a.call("popMessage", json!([false, 1])).await;
    let simulator = mesh.simulator();
    assert_eq!(simulator.messages(), 10);
    let (asked, answered) = (simulator.node(0).traffic(), simulator.node(1).traffic());
    assert_eq!((asked.messages, asked.replies, asked.received, asked.bytes), (5, 0, 5, 10));
    assert_eq!((answered.messages, answered.replies, answered.received, answered.bytes), (5, 5, 5, 5));
    assert_eq!((asked.calls("pushMessage"), asked.calls("popMessage"), asked.blocking_pops), (5, 2, 1));
    assert_eq!(simulator.node(0).inbox_len(), 0);
}

#[tokio::test]
async fn a_single_call_waits_for_two_ticks_unless_others_are_under_way() {
    let (mesh, _server) = echoing(Faults { tick: true, ..Faults::default() }).await;
    let [a, b, _] = mesh.nodes.as_slice() else { unreachable!() };
    let alone = round_trip(a, b).await;
    assert!(alone >= Duration::from_millis(195) && alone < Duration::from_secs(2), "{alone:?}");
    let first = {
        let (a, b) = (a.clone(), b.clone());
        tokio::spawn(async move { round_trip(&a, &b).await })
    };
    tokio::time::sleep(Duration::from_millis(20)).await;
    round_trip(a, b).await;
    let first = first.await.unwrap();
    assert!(first < alone, "the second one's acknowledgement wakes the first: {first:?}, alone {alone:?}");
    mesh.simulator().set_faults(Faults::default());
    let quick = round_trip(a, b).await;
    assert!(quick < alone, "{quick:?}");
}

#[tokio::test]
async fn delay_counts_for_every_packet() {
    let (mesh, _server) = echoing(Faults { delay: Duration::from_millis(20), ..Faults::default() }).await;
    let took = round_trip(&mesh.nodes[0], &mesh.nodes[1]).await;
    assert!(took >= Duration::from_millis(200) && took < Duration::from_secs(3), "{took:?}");
}

#[tokio::test]
async fn lost_packets_are_sent_again() {
    let (mesh, _server) = echoing(Faults { seed: 1, packet_loss: 0.2, ..Faults::default() }).await;
    let mut replies = 0;
    for _ in 0..10 {
        let reply = mesh.nodes[0].request(&mesh.nodes[1], "echo", b"x\n", 10).await;
        replies += usize::from(reply.get("payload").is_some());
    }
    assert_eq!(replies, 10);
}

#[tokio::test]
async fn lost_and_doubled_messages_follow_the_seed() {
    let fates = async |seed: u64| {
        let faults = Faults { seed, loss: 0.3, duplication: 0.3, ..Faults::default() };
        let mesh = Mesh::of_simulator(MeshSimulator::start(2, faults).await.unwrap());
        let [a, b] = mesh.nodes.as_slice() else { unreachable!() };
        for n in 0..40u8 {
            let id = a.push(b, "n", &[n]).await;
            a.await_state(&id, "received").await;
        }
        let mut arrived = Vec::new();
        while let Some(message) = b.pop("n").await {
            arrived.push(payload(&message)[0]);
        }
        arrived
    };
    let arrived = fates(7).await;
    let distinct: HashSet<_> = arrived.iter().collect();
    assert!(distinct.len() < 40, "some are lost");
    assert!(arrived.len() > distinct.len(), "some come twice");
    assert_eq!(fates(7).await, arrived);
    assert_ne!(fates(8).await, arrived);
}

#[tokio::test]
async fn held_messages_are_overtaken() {
    let faults = Faults { reordering: 0.5, hold: Duration::from_millis(200), ..Faults::default() };
    let mesh = Mesh::of_simulator(MeshSimulator::start(2, faults).await.unwrap());
    let [a, b] = mesh.nodes.as_slice() else { unreachable!() };
    for n in 0..20u8 {
        a.push(b, "n", &[n]).await;
    }
    until("all arrive", async || mesh.simulator().node(1).inbox_len() == 20).await;
    let mut arrived = Vec::new();
    while let Some(message) = b.pop("n").await {
        arrived.push(payload(&message)[0]);
    }
    assert!(!arrived.is_sorted(), "{arrived:?}");
}

#[tokio::test]
async fn a_message_is_given_up_and_then_forgotten() {
    let faults = Faults { give_up: Duration::from_millis(300), ..Faults::default() };
    let mesh = Mesh::of_simulator(MeshSimulator::start(2, faults).await.unwrap());
    let [a, b] = mesh.nodes.as_slice() else { unreachable!() };
    mesh.cut(1);
    let id = a.push(b, "x", b"x").await;
    assert_eq!(a.state(&id).await, "pending");
    a.await_state(&id, "aborted").await;
    mesh.heal(1);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(b.pop("x").await, None);
}

#[tokio::test]
async fn two_nodes_can_be_parted_without_the_third() {
    let (mesh, _server) = echoing(Faults::default()).await;
    let [a, b, c] = mesh.nodes.as_slice() else { unreachable!() };
    let simulator = mesh.simulator();
    simulator.cut(simulator.node(0), simulator.node(1));
    let request = {
        let (a, b) = (a.clone(), b.clone());
        tokio::spawn(async move { a.request(&b, "echo", b"x\n", 20).await })
    };
    round_trip(c, b).await;
    assert!(!request.is_finished());
    simulator.heal(simulator.node(0), simulator.node(1));
    assert_eq!(payload(&request.await.unwrap()), b"x");
}

#[tokio::test]
async fn stopping_breaks_connections_and_keeps_the_port() {
    let (mesh, _server) = echoing(Faults::default()).await;
    let a = &mesh.nodes[0];
    let node = mesh.simulator().node(0);
    for _ in 0..5 {
        let url = node.rpc_url();
        let pop = {
            let a = a.clone();
            let body = json!({"jsonrpc": "2.0", "id": 1, "method": "popMessage", "params": [false, 60]});
            tokio::spawn(async move { a.post(body.to_string()).await })
        };
        let pops = node.traffic().blocking_pops;
        until("the pop waits", async || node.traffic().blocking_pops > pops || pop.is_finished()).await;
        node.stop().await;
        assert!(pop.await.unwrap().is_err(), "the call ends with the daemon");
        assert!(a.post("{}".to_owned()).await.unwrap_err().is_connect());
        node.restart().await.unwrap();
        assert_eq!(node.rpc_url(), url);
        a.call("getInfo", json!([])).await;
    }
}

#[tokio::test]
async fn a_reply_too_large_for_the_api_is_lost_with_an_error() {
    let mesh = Mesh::simulated().await;
    let [a, b, ..] = mesh.nodes.as_slice() else { unreachable!() };
    let server = mesh.listen("huge", |mut connection| async move {
        read_line(&mut connection).await;
        connection.write_all(&vec![b'x'; 8 << 20]).await.unwrap();
    });
    b.serve("huge", server.path()).await;
    let message = json!({"dst": {"ip": b.address}, "topic": crate::client::text("huge"), "payload": "eAo="});
    assert_eq!(a.try_call("pushMessage", json!([message, 20])).await, Err(-32008));
    assert_eq!(mesh.simulator().node(0).inbox_len(), 0);
}
