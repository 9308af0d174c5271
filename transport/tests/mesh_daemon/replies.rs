//! Replies: late ones, missing ones, and those of others.

use std::time::Duration;

use serde_json::json;
use tokio::io::AsyncWriteExt;

use crate::client::{Daemon, payload, text};
use crate::mesh::{Mesh, read_line};

pub(crate) async fn without_a_reply_in_time_there_is_the_id_and_no_error(mesh: &Mesh) {
    let [a, b, ..] = mesh.nodes.as_slice() else { unreachable!() };
    let pushed = a.request(b, "nobody answers here", b"x", 1).await;
    assert_eq!(pushed.as_object().unwrap().len(), 1, "{pushed}");
    let id = pushed["id"].as_str().unwrap();
    assert_eq!(a.state(id).await, "received", "it waits in the inbox of the other");
    let nowhere = json!({"dst": {"ip": "400::1"}, "topic": text("x"), "payload": ""});
    let pushed = a.call("pushMessage", json!([nowhere, 1])).await;
    assert_eq!(a.state(pushed["id"].as_str().unwrap()).await, "pending", "nobody has that address");
}

pub(crate) async fn a_late_reply_falls_into_the_inbox_under_the_empty_topic(mesh: &Mesh) {
    let [a, b, ..] = mesh.nodes.as_slice() else { unreachable!() };
    let server = mesh.listen("late", |mut connection| async move {
        read_line(&mut connection).await;
        tokio::time::sleep(Duration::from_millis(2500)).await;
        connection.write_all(b"late").await.unwrap();
    });
    b.serve("late", server.path()).await;
    let pushed = a.request(b, "late", b"x\n", 1).await;
    assert_eq!(pushed.get("payload"), None);
    let late = a.await_message("").await;
    assert_eq!(late["id"], pushed["id"]);
    assert_eq!(late["srcPk"], json!(b.key));
    assert_eq!(payload(&late), b"late");
}

pub(crate) async fn a_popped_message_can_be_answered_by_its_id(mesh: &Mesh) {
    let [a, b, ..] = mesh.nodes.as_slice() else { unreachable!() };
    // Replies come in whatever the receiver's topics say.
    a.call("setDefaultTopicAction", json!([false])).await;
    let (asking, asked) = (a.clone(), b.clone());
    let request = tokio::spawn(async move { asking.request(&asked, "polled", b"question", 20).await });
    let message = b.await_message("polled").await;
    answer(b, a, &message["id"], "answer").await;
    let reply = request.await.unwrap();
    assert_eq!(payload(&reply), b"answer");
    assert_eq!(reply["id"], message["id"]);
    a.call("setDefaultTopicAction", json!([true])).await;
}

pub(crate) async fn a_reply_is_taken_from_anybody_but_says_who_sent_it(mesh: &Mesh) {
    let [a, b, c] = mesh.nodes.as_slice() else { unreachable!() };
    let (asking, asked) = (a.clone(), b.clone());
    let request = tokio::spawn(async move { asking.request(&asked, "guessed", b"question", 20).await });
    let id = b.await_message("guessed").await["id"].clone();
    answer(c, a, &id, "from a stranger").await;
    let reply = request.await.unwrap();
    assert_eq!(payload(&reply), b"from a stranger");
    assert_eq!(reply["srcPk"], json!(c.key));
    answer(b, a, &id, "from the right one").await;
    let second = a.await_message("").await;
    assert_eq!(second["srcPk"], json!(b.key), "the second reply to a message lands in the inbox");
}

async fn answer(from: &Daemon, to: &Daemon, id: &serde_json::Value, text_of_reply: &str) {
    let message = json!({"dst": {"ip": to.address}, "payload": text(text_of_reply)});
    assert_eq!(from.call("pushMessageReply", json!([id, message])).await, json!(true));
}
