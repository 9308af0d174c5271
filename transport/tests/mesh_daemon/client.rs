//! A plain caller of the daemon's JSON-RPC.

use std::net::Ipv6Addr;
use std::path::Path;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::time::Instant;

/// How long something that has to happen may take.
const SOON: Duration = Duration::from_secs(30);

/// One node's daemon, as its programs see it.
#[derive(Clone)]
pub(crate) struct Daemon {
    pub(crate) url: String,
    pub(crate) address: Ipv6Addr,
    pub(crate) key: String,
    http: reqwest::Client,
}

/// What a call brought: an HTTP status and the body.
pub(crate) type Response = Result<(u16, String), reqwest::Error>;

impl Daemon {
    pub(crate) fn new(url: String, address: Ipv6Addr, key: String) -> Self {
        // One connection each: a connection of a killed daemon must not be found in a pool.
        let http = reqwest::Client::builder().pool_max_idle_per_host(0).build().unwrap();
        Self { url, address, key, http }
    }

    pub(crate) async fn post(&self, body: String) -> Response {
        let request = self.http.post(&self.url).header("content-type", "application/json").body(body);
        let response = request.send().await?;
        Ok((response.status().as_u16(), response.text().await?))
    }

    /// The result of a call, or the code of its error.
    pub(crate) async fn try_call(&self, method: &str, params: Value) -> Result<Value, i64> {
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        let (status, text) = self.post(body.to_string()).await.unwrap();
        assert_eq!(status, 200, "{method}: {text}");
        let mut response: Value = serde_json::from_str(&text).unwrap();
        match response.get("error") {
            Some(error) => Err(error["code"].as_i64().unwrap()),
            None => Ok(response["result"].take()),
        }
    }

    pub(crate) async fn call(&self, method: &str, params: Value) -> Value {
        match self.try_call(method, params.clone()).await {
            Ok(result) => result,
            Err(code) => panic!("{method} {params}: error {code}"),
        }
    }

    /// Serves a topic for everybody by a socket.
    pub(crate) async fn serve(&self, topic: &str, socket: &Path) {
        self.allow(topic, "400::/7").await;
        self.call("setTopicForwardSocket", json!([text(topic), socket])).await;
    }

    pub(crate) async fn allow(&self, topic: &str, subnet: &str) {
        self.call("addTopicSource", json!([text(topic), subnet])).await;
    }

    /// Sends a message without waiting; its id.
    pub(crate) async fn push(&self, to: &Daemon, topic: &str, payload: &[u8]) -> String {
        let message = json!({"dst": {"ip": to.address}, "topic": text(topic), "payload": STANDARD.encode(payload)});
        let pushed = self.call("pushMessage", json!([message])).await;
        assert_eq!(pushed.as_object().unwrap().len(), 1, "{pushed}");
        pushed["id"].as_str().unwrap().to_owned()
    }

    /// Sends a message and waits for the reply: all that pushMessage says.
    pub(crate) async fn request(&self, to: &Daemon, topic: &str, payload: &[u8], timeout_s: u64) -> Value {
        let message = json!({"dst": {"pk": to.key}, "topic": text(topic), "payload": STANDARD.encode(payload)});
        self.call("pushMessage", json!([message, timeout_s])).await
    }

    /// Takes a message of that topic out of the inbox, if there is one.
    pub(crate) async fn pop(&self, topic: &str) -> Option<Value> {
        let message = self.call("popMessage", json!([false, 0, text(topic)])).await;
        (!message.is_null()).then_some(message)
    }

    /// Takes a message of any topic out of the inbox, or looks at it, if there is one.
    pub(crate) async fn pop_any(&self, peek: bool) -> Option<Value> {
        let message = self.call("popMessage", json!([peek, 0, null])).await;
        (!message.is_null()).then_some(message)
    }

    /// Takes a message of that topic out of the inbox, as soon as there is one.
    pub(crate) async fn await_message(&self, topic: &str) -> Value {
        let deadline = Instant::now() + SOON;
        loop {
            if let Some(message) = self.pop(topic).await {
                return message;
            }
            assert!(Instant::now() < deadline, "no message of topic {topic:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) async fn state(&self, id: &str) -> Value {
        self.call("getMessageInfo", json!([id])).await["state"].take()
    }

    pub(crate) async fn await_state(&self, id: &str, expected: &str) {
        let deadline = Instant::now() + SOON;
        loop {
            let state = self.state(id).await;
            if state == *expected {
                return;
            }
            assert!(Instant::now() < deadline, "the message is {state}, not {expected}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// A topic, as the API takes it.
pub(crate) fn text(topic: &str) -> String {
    STANDARD.encode(topic)
}

/// The payload of a message that was received.
pub(crate) fn payload(message: &Value) -> Vec<u8> {
    STANDARD.decode(message["payload"].as_str().unwrap_or_else(|| panic!("no payload in {message}"))).unwrap()
}
