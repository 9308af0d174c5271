//! From the sender's pushMessage to the receiver's socket or inbox.

use std::net::Ipv6Addr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use crate::client::{payload, text};
use crate::mesh::{Mesh, read_line};

pub(crate) async fn a_request_is_answered_by_the_forward_socket(mesh: &Mesh) {
    let [a, b, ..] = mesh.nodes.as_slice() else { unreachable!() };
    let server = mesh.listen("echo", |mut connection| async move {
        let request = read_line(&mut connection).await;
        connection.write_all(format!("you said {request}").as_bytes()).await.unwrap();
    });
    b.serve("echo", server.path()).await;
    let reply = a.request(b, "echo", b"hello\n", 20).await;
    assert_eq!(payload(&reply), b"you said hello");
    assert_eq!(reply["srcIp"], json!(b.address));
    assert_eq!(reply["srcPk"], json!(b.key));
    assert_eq!(reply["dstIp"], json!(a.address));
    assert_eq!(reply["dstPk"], json!(a.key));
    assert_eq!(reply.get("topic"), None, "replies have no topic");
    let id = reply["id"].as_str().unwrap();
    assert_eq!(id.len(), 16);
    let info = a.call("getMessageInfo", json!([id])).await;
    assert_eq!(info["state"], "received", "a socket that read it does not make it `read`");
    assert_eq!(info["msgLen"], 6);
    assert_eq!(info["dst"], json!(b.address));
    assert_eq!(info["deadline"].as_u64().unwrap() - info["created"].as_u64().unwrap(), 300);
}

pub(crate) async fn payloads_and_topics_are_any_bytes(mesh: &Mesh) {
    let [a, b, ..] = mesh.nodes.as_slice() else { unreachable!() };
    let bytes: Vec<u8> = (0..=255).collect();
    let topic = "t".repeat(255);
    a.push(b, &topic, &bytes).await;
    let message = b.await_message(&topic).await;
    assert_eq!(payload(&message), bytes);
    assert_eq!(message["topic"], json!(text(&topic)));
    a.push(b, "nothing in it", b"").await;
    assert_eq!(payload(&b.await_message("nothing in it").await), b"");
    let no_topic = json!({"dst": {"ip": b.address}, "payload": text("no topic")});
    a.call("pushMessage", json!([no_topic])).await;
    let message = b.await_message("").await;
    assert_eq!(payload(&message), b"no topic");
    assert_eq!(message.get("topic"), None);
}

pub(crate) async fn the_socket_sees_no_end_of_the_message(mesh: &Mesh) {
    let [a, b, ..] = mesh.nodes.as_slice() else { unreachable!() };
    let server = mesh.listen("open", |mut connection| async move {
        let request = read_line(&mut connection).await;
        let end = tokio::time::timeout(Duration::from_millis(500), connection.read_u8()).await;
        let answer = if end.is_err() { "still open" } else { "closed" };
        connection.write_all(format!("{request}: {answer}").as_bytes()).await.unwrap();
    });
    b.serve("open", server.path()).await;
    assert_eq!(payload(&a.request(b, "open", b"it is\n", 20).await), b"it is: still open");
}

pub(crate) async fn a_socket_may_take_its_time(mesh: &Mesh) {
    let [a, b, ..] = mesh.nodes.as_slice() else { unreachable!() };
    let server = mesh.listen("slow", |mut connection| async move {
        read_line(&mut connection).await;
        connection.write_all(b"be").await.unwrap();
        tokio::time::sleep(Duration::from_secs(7)).await;
        connection.write_all(b"fore").await.unwrap();
    });
    b.serve("slow", server.path()).await;
    assert_eq!(payload(&a.request(b, "slow", b"x\n", 30).await), b"before");
}

pub(crate) async fn messages_reach_a_socket_side_by_side(mesh: &Mesh) {
    let [a, b, ..] = mesh.nodes.as_slice() else { unreachable!() };
    let all_here = Arc::new(Barrier::new(30));
    let server = mesh.listen("parallel", move |mut connection| {
        let all_here = Arc::clone(&all_here);
        async move {
            let request = read_line(&mut connection).await;
            all_here.wait().await;
            connection.write_all(request.as_bytes()).await.unwrap();
        }
    });
    b.serve("parallel", server.path()).await;
    let mut requests = JoinSet::new();
    for n in 0..30 {
        let (a, b) = (a.clone(), b.clone());
        requests.spawn(async move {
            let reply = a.request(&b, "parallel", format!("{n}\n").as_bytes(), 30).await;
            assert_eq!(payload(&reply), n.to_string().as_bytes());
        });
    }
    requests.join_all().await;
}

pub(crate) async fn what_no_socket_answers_falls_into_the_inbox(mesh: &Mesh) {
    let [a, b, ..] = mesh.nodes.as_slice() else { unreachable!() };
    b.serve("nobody", &mesh.socket("missing")).await;
    let server = mesh.listen("mute", |mut connection| async move {
        read_line(&mut connection).await;
    });
    b.serve("mute", server.path()).await;
    for topic in ["nobody", "mute"] {
        let id = a.push(b, topic, b"x\n").await;
        a.await_state(&id, "received").await;
        let message = b.await_message(topic).await;
        assert_eq!(message["id"], json!(id));
        assert_eq!(payload(&message), b"x\n");
        assert_eq!(message["srcPk"], json!(a.key));
        a.await_state(&id, "read").await;
    }
}

pub(crate) async fn the_inbox_gives_the_oldest_first(mesh: &Mesh) {
    let [a, b, ..] = mesh.nodes.as_slice() else { unreachable!() };
    for payload in ["1", "2", "3"] {
        let id = a.push(b, if payload == "2" { "odd" } else { "even" }, payload.as_bytes()).await;
        a.await_state(&id, "received").await;
    }
    for _ in 0..2 {
        assert_eq!(payload(&b.call("popMessage", json!([true])).await), b"1", "peeking takes nothing");
    }
    assert_eq!(payload(&b.pop("odd").await.unwrap()), b"2");
    assert_eq!(b.pop("odd").await, None);
    assert_eq!(payload(&b.call("popMessage", json!([])).await), b"1");
    assert_eq!(payload(&b.call("popMessage", json!([])).await), b"3");
    assert!(b.call("popMessage", json!([])).await.is_null());
}

pub(crate) async fn a_daemon_answers_for_all_addresses_of_its_subnet(mesh: &Mesh) {
    let [a, b, ..] = mesh.nodes.as_slice() else { unreachable!() };
    let other = Ipv6Addr::from_bits(b.address.to_bits() ^ 1);
    let message = json!({"dst": {"ip": other}, "topic": text("neighbour"), "payload": text("x")});
    a.call("pushMessage", json!([message])).await;
    let message = b.await_message("neighbour").await;
    assert_eq!(message["dstIp"], json!(other));
    assert_eq!(message["dstPk"], json!(b.key));
}

pub(crate) async fn a_message_to_oneself_never_arrives(mesh: &Mesh) {
    let a = &mesh.nodes[0];
    let reply = a.request(a, "myself", b"x", 1).await;
    let id = reply["id"].as_str().unwrap();
    assert_eq!(reply.get("payload"), None);
    assert_eq!(a.state(id).await, "pending");
    assert_eq!(a.pop("myself").await, None);
}

pub(crate) async fn a_mebibyte_arrives(mesh: &Mesh) {
    let [a, b, ..] = mesh.nodes.as_slice() else { unreachable!() };
    let server = mesh.listen("large", |mut connection| async move {
        let mut bytes = vec![0; 1 << 20];
        connection.read_exact(&mut bytes).await.unwrap();
        bytes.reverse();
        connection.write_all(&bytes).await.unwrap();
    });
    b.serve("large", server.path()).await;
    let mut bytes: Vec<u8> = (0..1u32 << 20).map(|n| (n % 251) as u8).collect();
    let reply = payload(&a.request(b, "large", &bytes, 60).await);
    bytes.reverse();
    assert!(reply == bytes);
}
