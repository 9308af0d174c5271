//! Who may send to which topic.

use serde_json::json;
use tokio::io::AsyncWriteExt;

use crate::client::{Daemon, payload, text};
use crate::mesh::{Mesh, read_line};

pub(crate) async fn topics_are_listed_and_removed(mesh: &Mesh) {
    let a = &mesh.nodes[0];
    let topic = text("listed");
    let is_listed = async || a.call("getTopics", json!([])).await.as_array().unwrap().contains(&json!(topic));
    assert!(!is_listed().await);
    for _ in 0..2 {
        assert_eq!(a.call("addTopic", json!([topic])).await, json!(true));
    }
    assert!(is_listed().await);
    assert_eq!(a.call("getTopicSources", json!([topic])).await, json!([]));
    for source in ["400::/7", "5c6:1::1", "5c6:1::1/64", "5c6:1::1/64"] {
        a.allow("listed", source).await;
    }
    let sources = async || a.call("getTopicSources", json!([topic])).await;
    assert_eq!(sources().await, json!(["400::/7", "5c6:1::1/128", "5c6:1::1/64", "5c6:1::1/64"]));
    a.call("removeTopicSource", json!([topic, "5c6:1::2/64"])).await;
    assert_eq!(sources().await, json!(["400::/7", "5c6:1::1/128"]), "a subnet is removed as often as it is there");
    for _ in 0..2 {
        assert_eq!(a.call("removeTopic", json!([topic])).await, json!(true));
    }
    assert!(!is_listed().await);
    assert_eq!(a.try_call("getTopicSources", json!([topic])).await, Err(-32030));
}

pub(crate) async fn a_topic_takes_from_its_sources_only(mesh: &Mesh) {
    let [a, b, c] = mesh.nodes.as_slice() else { unreachable!() };
    b.call("addTopic", json!([text("guarded")])).await;
    assert_eq!(arrives(a, b, "guarded").await, "pending", "a topic without sources takes from nobody");
    b.allow("guarded", &format!("{}/64", c.address)).await;
    assert_eq!(arrives(c, b, "guarded").await, "received");
    let pushed = a.request(b, "guarded", b"y", 1).await;
    assert_eq!(a.state(pushed["id"].as_str().unwrap()).await, "pending", "refused without a word");
    b.call("removeTopic", json!([text("guarded")])).await;
    assert_eq!(arrives(a, b, "guarded").await, "received");
}

pub(crate) async fn other_topics_are_taken_unless_told_otherwise(mesh: &Mesh) {
    let [a, b, ..] = mesh.nodes.as_slice() else { unreachable!() };
    assert_eq!(b.call("getDefaultTopicAction", json!([])).await, json!(true));
    assert_eq!(arrives(a, b, "never added").await, "received");
    assert_eq!(b.call("setDefaultTopicAction", json!([false])).await, json!(true));
    assert_eq!(b.call("getDefaultTopicAction", json!([])).await, json!(false));
    assert_eq!(arrives(a, b, "not added either").await, "pending");
    b.allow("added", "400::/7").await;
    assert_eq!(arrives(a, b, "added").await, "received");
    // What was refused is sent again and again, and taken as soon as it may.
    b.call("setDefaultTopicAction", json!([true])).await;
    assert_eq!(payload(&b.await_message("not added either").await), b"x");
}

pub(crate) async fn a_socket_can_be_set_for_known_topics_only(mesh: &Mesh) {
    let [a, b, ..] = mesh.nodes.as_slice() else { unreachable!() };
    let server = mesh.listen("known", |mut connection| async move {
        read_line(&mut connection).await;
        connection.write_all(b"served").await.unwrap();
    });
    let topic = text("known");
    let socket = async || b.call("getTopicForwardSocket", json!([topic])).await;
    assert_eq!(b.call("setTopicForwardSocket", json!([topic, server.path()])).await, json!(true));
    assert!(socket().await.is_null(), "the daemon said true, and did nothing");
    b.serve("known", server.path()).await;
    assert_eq!(socket().await, json!(server.path()));
    assert_eq!(payload(&a.request(b, "known", b"x\n", 20).await), b"served");
    assert_eq!(b.call("removeTopicForwardSocket", json!([topic])).await, json!(true));
    assert!(socket().await.is_null());
    assert_eq!(arrives(a, b, "known").await, "received");
    assert_eq!(payload(&b.await_message("known").await), b"x");
}

/// What becomes of a message within a second.
async fn arrives(from: &Daemon, to: &Daemon, topic: &str) -> String {
    let pushed = from.request(to, topic, b"x", 1).await;
    let state = from.state(pushed["id"].as_str().unwrap()).await;
    state.as_str().unwrap().to_owned()
}
