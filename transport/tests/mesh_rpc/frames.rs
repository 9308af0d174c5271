//! What comes through the socket, from friends and others.

use std::time::Duration;

use horus_transport::*;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::client::Daemon;
use crate::service::*;
use crate::world::{World, until};

/// The caller's daemon, as any program may call it.
fn raw(mesh: &Mesh, url: &str) -> Daemon {
    let key = mesh.mesh_public_key().unwrap();
    Daemon::new(url.to_owned(), key.overlay_address(), key.to_string())
}

pub(crate) async fn daemons(world: &World) -> (Daemon, Daemon) {
    let (caller, callee) = (world.caller.as_ref().unwrap(), world.callee.as_ref().unwrap());
    (raw(caller, &caller.status().await.daemon.url), raw(callee, &callee.status().await.daemon.url))
}

fn payload(reply: &Value) -> String {
    use base64::Engine;
    let text = reply["payload"].as_str().unwrap_or_else(|| panic!("no reply: {reply}"));
    String::from_utf8(base64::engine::general_purpose::STANDARD.decode(text).unwrap()).unwrap()
}

pub(crate) async fn any_mycelium_client_can_call_with_bare_json(world: &World) {
    let (caller, callee) = daemons(world).await;
    let request = json!({"jsonrpc": "2.0", "id": "a", "method": "echo", "params": {"text": "hi"}}).to_string();
    let reply: Value =
        serde_json::from_str(&payload(&caller.request(&callee, TOPIC, request.as_bytes(), 10).await)).unwrap();
    assert_eq!(reply, json!({"jsonrpc": "2.0", "id": "a", "result": "hi"}));
    let request = json!([{"jsonrpc": "2.0", "id": 1, "method": "count", "params": {}}]).to_string();
    let reply: Value =
        serde_json::from_str(&payload(&caller.request(&callee, TOPIC, request.as_bytes(), 10).await)).unwrap();
    assert_eq!(reply[0]["error"]["data"]["kind"], "UNAUTHENTICATED");
}

pub(crate) async fn every_message_gets_an_answer(world: &World) {
    let (caller, callee) = daemons(world).await;
    let notification = json!({"jsonrpc": "2.0", "method": "note", "params": {}}).to_string();
    let frame = b"HRS1\0\0\0\x03{}\n";
    for (message, expected) in [
        (notification.as_bytes(), ""),
        (b"hello".as_slice(), "PARSE_ERROR"),
        (b"[]", "INVALID_REQUEST"),
        (b"[1,", "PARSE_ERROR"),
        (b"HRS1\0\0\0", "PARSE_ERROR"),
        (b"HRS1\xff\0\0\0", "TOO_LARGE"),
        (frame, "INVALID_REQUEST"),
    ] {
        let reply = caller.request(&callee, TOPIC, message, 15).await;
        let text = payload(&reply);
        assert!(!text.is_empty() && text.contains(expected), "{}: {text:?}", String::from_utf8_lossy(message));
    }
    assert_eq!(caller.pop(TOPIC).await, None);
    assert_eq!(callee.pop(TOPIC).await, None, "no message fell into the inbox");
}

pub(crate) async fn slow_and_broken_peers_of_the_socket_do_no_harm(world: &World) {
    let path = world.socket();
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    // Some say nothing, some half of it, some do not read the reply, some go away.
    let mut open = Vec::new();
    for n in 0..100 {
        let mut stream = UnixStream::connect(&path).await.unwrap();
        match n % 4 {
            0 => {}
            1 => stream.write_all(b"HRS1\0\0\x10\0{").await.unwrap(),
            2 => {
                let ask = json!({"jsonrpc": "2.0", "id": 1, "method": "big", "params": {"bytes": 900_000}});
                stream.write_all(ask.to_string().as_bytes()).await.unwrap();
            }
            _ => {
                stream.write_all(b"{\"jsonrpc\"").await.unwrap();
                drop(stream);
                continue;
            }
        }
        open.push(stream);
    }
    let client = world.client();
    assert_eq!(client.call::<Count>(&NoParams {}).await.unwrap(), 1);
    let mut slow = UnixStream::connect(&path).await.unwrap();
    let request = json!({"jsonrpc": "2.0", "id": 1, "method": "echo", "params": {"text": "x}{"}}).to_string();
    for byte in request.as_bytes() {
        slow.write_all(&[*byte]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut reply = String::new();
    slow.read_to_string(&mut reply).await.unwrap();
    assert!(reply.contains("\"result\":\"x}{\""), "{reply}");
    // Who does not come to an end is told so, and closed.
    let mut reply = String::new();
    tokio::time::timeout(Duration::from_secs(10), open[1].read_to_string(&mut reply)).await.unwrap().unwrap();
    assert!(reply.contains("within 5 s"), "{reply}");
}

pub(crate) async fn a_flood_from_strangers_is_held_off(world: &World) {
    const FLOOD: usize = 400;
    let (caller, callee) = daemons(world).await;
    let client = world.client();
    assert_eq!(client.call::<Count>(&NoParams {}).await.unwrap(), 1);
    let request = json!({"jsonrpc": "2.0", "id": 1, "method": "get_node_info", "params": {}}).to_string();
    // The daemon itself takes 100 calls at a time.
    let places = std::sync::Arc::new(tokio::sync::Semaphore::new(32));
    let flood: Vec<_> = (0..FLOOD)
        .map(|_| {
            let (caller, callee, request) = (caller.clone(), callee.clone(), request.clone());
            let places = std::sync::Arc::clone(&places);
            tokio::spawn(async move {
                let _place = places.acquire().await.unwrap();
                payload(&caller.request(&callee, TOPIC, request.as_bytes(), 30).await)
            })
        })
        .collect();
    // Whom the node trusts is served meanwhile.
    for n in 2..7 {
        assert_eq!(client.call::<Count>(&NoParams {}).await.unwrap(), n);
    }
    let (mut served, mut limited) = (0, 0);
    for reply in flood {
        let reply = reply.await.unwrap();
        if reply.contains("RATE_LIMITED") {
            limited += 1;
        } else {
            assert!(reply.contains("\"result\""), "{reply}");
            served += 1;
        }
    }
    assert!(limited > 0 && served >= 200, "{served} served, {limited} held off");
    assert_eq!(callee.pop(TOPIC).await, None, "every message was answered");
}

/// A message that wants to be parked, of a caller that nobody knows.
fn nudge(n: usize) -> Vec<u8> {
    let session = format!("{n:032x}");
    frame(&json!({"session": session, "sent_at": now_ms(), "hold_ms": 20_000, "nudge": true, "entries": []}), "")
}

pub(crate) async fn few_messages_are_parked_for_strangers(world: &World) {
    let mut open = tokio::task::JoinSet::new();
    for n in 0..200 {
        let mut stream = UnixStream::connect(world.socket()).await.unwrap();
        open.spawn(async move {
            stream.write_all(&nudge(n)).await.unwrap();
            let mut reply = Vec::new();
            stream.read_to_end(&mut reply).await.unwrap();
            reply
        });
    }
    let answered = async {
        for _ in 0..136 {
            assert!(open.join_next().await.unwrap().unwrap().starts_with(b"HRS1"));
        }
    };
    tokio::time::timeout(Duration::from_secs(15), answered).await.expect("what is too much is answered at once");
    assert_eq!(world.client().call::<Count>(&NoParams {}).await.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_that_were_polled_for_are_not_parked() {
    let world = World::polled().await;
    let (caller, callee) = daemons(&world).await;
    for n in 0..64 {
        caller.push(&callee, TOPIC, &nudge(n)).await;
    }
    let count = world.client().call_with_timeout::<Count>(&NoParams {}, Duration::from_secs(10)).await;
    assert_eq!(count.unwrap(), 1);
    world.end().await;
}

pub(crate) async fn an_entry_that_comes_twice_runs_once(world: &World) {
    let (caller, callee) = daemons(world).await;
    let body = json!({"jsonrpc": "2.0", "method": "note", "params": {}}).to_string();
    let entry = json!({"n": 1, "len": body.len(), "wait_ms": 5000});
    let head = json!({"session": "ab".repeat(16), "sent_at": now_ms(), "hold_ms": 5000, "entries": [entry]});
    let frame = frame(&head, &body);
    for _ in 0..3 {
        let reply = payload(&caller.request(&callee, TOPIC, &frame, 10).await);
        assert!(reply.starts_with("HRS1") && reply.contains("\"state\":\"silent\""), "{reply:?}");
    }
    assert_eq!(world.state.noted.load(std::sync::atomic::Ordering::SeqCst), 1);
}

pub(crate) async fn requests_that_waited_in_the_inbox_are_served_if_they_are_fresh(world: &World) {
    let (caller, callee) = daemons(world).await;
    // The registration is lost, and messages fall into the inbox.
    callee.call("removeTopicForwardSocket", json!([base64_of(TOPIC)])).await;
    let message = |n: u64, age_ms: i64| {
        let body = json!({"jsonrpc": "2.0", "method": "note", "params": {}}).to_string();
        let entry = json!({"n": n, "len": body.len(), "wait_ms": 30_000});
        let sent_at = now_ms() - age_ms;
        frame(&json!({"session": "cd".repeat(16), "sent_at": sent_at, "hold_ms": 30_000, "entries": [entry]}), &body)
    };
    caller.push(&callee, TOPIC, &message(1, 0)).await;
    caller.push(&callee, TOPIC, &message(2, 3_600_000)).await;
    let noted = || world.state.noted.load(std::sync::atomic::Ordering::SeqCst);
    until("the registration is made anew and the inbox served", || async { noted() > 0 }).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(noted(), 1, "the old one is discarded");
    assert_eq!(callee.pop(TOPIC).await, None);
    assert_eq!(world.client().call::<Count>(&NoParams {}).await.unwrap(), 1);
}

fn base64_of(text: &str) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(text)
}

fn now_ms() -> i64 {
    horus_keys::Timestamp::now().as_millis()
}

fn frame(head: &Value, body: &str) -> Vec<u8> {
    let head = head.to_string();
    let mut frame = b"HRS1".to_vec();
    frame.extend_from_slice(&u32::try_from(head.len() + 1 + body.len()).unwrap().to_be_bytes());
    frame.extend_from_slice(format!("{head}\n{body}").as_bytes());
    frame
}
