//! The API itself.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::client::{Daemon, payload, text};
use crate::mesh::{Mesh, read_line};

pub(crate) async fn a_node_says_who_it_is(mesh: &Mesh) {
    for node in &mesh.nodes {
        let info = node.call("getInfo", json!([])).await;
        assert_eq!(info["nodeIp"], json!(node.address));
        assert_eq!(info["nodePubkey"], json!(node.key));
        let subnet = info["nodeSubnet"].as_str().unwrap().strip_suffix("::/64").unwrap();
        assert!(node.address.to_string().starts_with(subnet), "{info}");
        assert!(info["nodeStartTime"].as_u64().unwrap() > 1_700_000_000);
        let peers = node.call("getPeers", json!([])).await;
        let peers = peers.as_array().unwrap();
        assert_eq!(peers.len(), mesh.nodes.len() - 1);
        for peer in peers {
            assert_eq!(peer["connectionState"], "alive");
            assert!(peer["endpoint"]["addr"]["socket"].is_string() && peer["type"].is_string(), "{peer}");
        }
    }
}

pub(crate) async fn keys_of_others_are_known_by_their_addresses(mesh: &Mesh) {
    let [a, b, ..] = mesh.nodes.as_slice() else { unreachable!() };
    let key = |ip: String| a.try_call("getPublicKeyFromIp", json!([ip]));
    assert_eq!(key(b.address.to_string()).await, Ok(json!(b.key)));
    assert_eq!(key(a.address.to_string()).await, Err(-32008), "a node has no route to itself");
    assert_eq!(key("400::1".to_owned()).await, Err(-32008));
    assert_eq!(key("nonsense".to_owned()).await, Err(-32007));
}

pub(crate) async fn parameters_go_by_position_and_by_name(mesh: &Mesh) {
    let [a, b, ..] = mesh.nodes.as_slice() else { unreachable!() };
    let server = mesh.listen("named", |mut connection| async move {
        let request = read_line(&mut connection).await;
        connection.write_all(request.as_bytes()).await.unwrap();
    });
    let topic = text("named");
    b.call("addTopic", json!({"topic": topic})).await;
    b.call("addTopicSource", json!({"topic": topic, "subnet": "400::/7"})).await;
    b.call("setTopicForwardSocket", json!({"topic": topic, "socketPath": server.path()})).await;
    b.call("setTopicForwardSocket", json!({"topic": topic, "socket_path": server.path()})).await;
    assert_eq!(b.call("getTopicForwardSocket", json!([topic])).await, json!(server.path()));
    let message = json!({"dst": {"ip": b.address}, "topic": topic, "payload": text("x\n")});
    for params in [
        json!([message, 20]),
        json!({"message": message, "replyTimeout": 20}),
        json!({"message": message, "reply_timeout": 20}),
    ] {
        assert_eq!(payload(&a.call("pushMessage", params).await), b"x");
    }
    assert!(a.call("popMessage", json!({})).await.is_null());
    assert!(a.call("popMessage", json!({"peek": true, "timeout": 0, "topic": topic})).await.is_null());
}

pub(crate) async fn wrong_parameters_are_refused(mesh: &Mesh) {
    let a = &mesh.nodes[0];
    let destination = json!({"ip": mesh.nodes[1].address});
    let refused = async |method: &str, params: Value, code: i64| {
        assert_eq!(a.try_call(method, params.clone()).await, Err(code), "{method} {params}");
    };
    let invalid = -32602;
    refused("pushMessage", json!([]), invalid).await;
    refused("pushMessage", json!([{"dst": {"ip": "x"}, "payload": ""}]), invalid).await;
    refused("pushMessage", json!([{"dst": {"pk": "07"}, "payload": ""}]), invalid).await;
    refused("pushMessage", json!([{"dst": destination, "payload": "***"}]), invalid).await;
    refused("pushMessage", json!([{"dst": destination}]), invalid).await;
    refused("pushMessage", json!([{"dst": destination, "topic": text(&"x".repeat(256)), "payload": ""}]), -32015).await;
    refused("pushMessageReply", json!(["x", {"dst": destination, "payload": ""}]), -32018).await;
    refused("getMessageInfo", json!(["x"]), -32020).await;
    refused("getMessageInfo", json!(["0123456789abcdef"]), -32019).await;
    refused("popMessage", json!([false, 0, "***"]), -32013).await;
    refused("addTopic", json!(["***"]), -32021).await;
    refused("addTopicSource", json!([text("t"), "nonsense"]), -32023).await;
    refused("getTopicSources", json!([text("never added")]), -32030).await;
    refused("noSuchMethod", json!([]), -32601).await;
}

pub(crate) async fn a_batch_of_calls_is_answered(mesh: &Mesh) {
    let batch = json!([
        {"jsonrpc": "2.0", "id": 1, "method": "getInfo"},
        {"jsonrpc": "2.0", "id": 2, "method": "getDefaultTopicAction"},
    ]);
    let (status, body) = mesh.nodes[0].post(batch.to_string()).await.unwrap();
    let responses: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(status, 200);
    assert_eq!(responses[0]["result"]["nodePubkey"], json!(mesh.nodes[0].key));
    assert_eq!(responses[1]["result"], json!(true));
}

pub(crate) async fn a_waiting_pop_holds_up_every_other_call_of_its_node(mesh: &Mesh) {
    let [a, b, ..] = mesh.nodes.as_slice() else { unreachable!() };
    let waiting = a.clone();
    let pop = tokio::spawn(async move { waiting.call("popMessage", json!([false, 3, text("nothing comes")])).await });
    let elsewhere = async |calls: &mut Vec<Duration>| {
        while !pop.is_finished() {
            calls.push(timed(b).await);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let mut calls = Vec::new();
    let here = async {
        let mut longest = Duration::ZERO;
        while !pop.is_finished() {
            longest = longest.max(timed(a).await);
        }
        longest
    };
    let (longest, ()) = tokio::join!(here, elsewhere(&mut calls));
    assert!(longest > Duration::from_secs(2), "getInfo did not have to wait: {longest:?}");
    assert!(calls.iter().all(|took| *took < longest / 2), "other nodes are not held up: {calls:?}");
    assert!(pop.await.unwrap().is_null());
}

async fn timed(node: &Daemon) -> Duration {
    let began = Instant::now();
    node.call("getInfo", json!([])).await;
    began.elapsed()
}

pub(crate) async fn a_body_over_ten_mebibytes_is_refused(mesh: &Mesh) {
    let a = &mesh.nodes[0];
    let payload = "A".repeat(11 << 20);
    let message = json!({"dst": {"ip": mesh.nodes[1].address}, "payload": payload});
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "pushMessage", "params": [message]});
    // Whether the refusal can still be read is a matter of luck.
    if let Ok((status, text)) = a.post(body.to_string()).await {
        assert_eq!(status, 413, "{text}");
    }
    a.call("getInfo", json!([])).await;
}

pub(crate) async fn a_hundred_requests_at_a_time_are_served(mesh: &Mesh) {
    let [a, b, ..] = mesh.nodes.as_slice() else { unreachable!() };
    let (arrived, mut arrivals) = mpsc::unbounded_channel();
    let (release, released) = watch::channel(false);
    let server = mesh.listen("hold", move |mut connection| {
        let (arrived, mut released) = (arrived.clone(), released.clone());
        async move {
            read_line(&mut connection).await;
            arrived.send(()).unwrap();
            released.wait_for(|released| *released).await.unwrap();
            connection.write_all(b"held").await.unwrap();
        }
    });
    b.serve("hold", server.path()).await;
    let mut held = JoinSet::new();
    for _ in 0..100 {
        let (a, b) = (a.clone(), b.clone());
        held.spawn(async move { a.request(&b, "hold", b"x\n", 60).await });
    }
    for _ in 0..100 {
        arrivals.recv().await.unwrap();
    }
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "getInfo"}).to_string();
    let (status, _) = a.post(body.clone()).await.unwrap();
    assert_eq!(status, 429, "the hundred and first is turned away, whatever it asks");
    release.send(true).unwrap();
    for reply in held.join_all().await {
        assert_eq!(payload(&reply), b"held");
    }
    assert_eq!(a.post(body).await.unwrap().0, 200);
}
