//! Daemons that restart, wires that break.

use std::time::Duration;

use serde_json::json;
use tokio::io::AsyncWriteExt;

use crate::client::{payload, text};
use crate::mesh::{Mesh, read_line};

pub(crate) async fn a_restarted_daemon_has_forgotten_all_but_its_key(mesh: &Mesh) {
    let [a, b, ..] = mesh.nodes.as_slice() else { unreachable!() };
    let server = mesh.listen("forgotten", |mut connection| async move {
        read_line(&mut connection).await;
        connection.write_all(b"served").await.unwrap();
    });
    b.serve("forgotten", server.path()).await;
    let id = a.push(b, "left in the inbox", b"x").await;
    a.await_state(&id, "received").await;
    let before = b.call("getInfo", json!([])).await;
    mesh.stop(1).await;
    mesh.start(1).await;
    let after = b.call("getInfo", json!([])).await;
    assert_eq!(after["nodePubkey"], before["nodePubkey"]);
    assert!(after["nodeStartTime"].as_u64() > before["nodeStartTime"].as_u64());
    assert!(!b.call("getTopics", json!([])).await.as_array().unwrap().contains(&json!(text("forgotten"))));
    assert!(b.call("popMessage", json!([])).await.is_null());
    b.serve("forgotten", server.path()).await;
    assert_eq!(payload(&a.request(b, "forgotten", b"x\n", 30).await), b"served");
}

pub(crate) async fn a_message_waits_for_a_cut_wire(mesh: &Mesh) {
    let [a, b, ..] = mesh.nodes.as_slice() else { unreachable!() };
    mesh.cut(1);
    let id = a.push(b, "cut off", b"x").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(a.state(&id).await, "pending");
    assert_eq!(b.pop("cut off").await, None);
    assert_eq!(a.call("getPublicKeyFromIp", json!([b.address])).await, json!(b.key), "nobody noticed yet");
    mesh.heal(1);
    a.await_state(&id, "received").await;
    assert_eq!(b.await_message("cut off").await["id"], json!(id));
}

pub(crate) async fn a_message_waits_for_a_daemon_that_is_down(mesh: &Mesh) {
    let [a, b, ..] = mesh.nodes.as_slice() else { unreachable!() };
    mesh.stop(1).await;
    assert!(b.post("{}".to_owned()).await.unwrap_err().is_connect());
    let pushed = a.request(b, "down", b"x", 1).await;
    let id = pushed["id"].as_str().unwrap();
    assert_eq!(a.state(id).await, "pending");
    mesh.start(1).await;
    a.await_state(id, "received").await;
    assert_eq!(b.await_message("down").await["id"], json!(id));
}
