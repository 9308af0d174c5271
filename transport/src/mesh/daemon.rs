//! The Mycelium daemon's JSON-RPC, as far as it is needed.
//!
//! The daemon holds one lock while `popMessage` waits, and every call of everybody waits behind it:
//! here it is never called with a timeout.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use horus_keys::MeshPublicKey;
use reqwest::{Client, Url};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::places::{Place, Places, Purpose};
use super::slot::Slots;

/// How long the daemon may take for anything that does not wait for the mesh.
const QUICK: Duration = Duration::from_secs(4);
/// How long connecting to it may take.
const CONNECT: Duration = Duration::from_secs(2);
/// How long an answer that waits for a reply may come after the reply was due.
const SLACK: Duration = Duration::from_secs(3);
/// How often a call is tried that the daemon has no room for.
const TRIES: u32 = 6;

/// A client of one daemon.
pub(super) struct Daemon {
    url: Url,
    /// With HTTP/2 all calls wait on one connection.
    http2: Client,
    http1: Client,
    /// Whether the daemon (or what stands before it) knows HTTP/1 only.
    old: AtomicBool,
    places: Places,
    pub(super) counts: Counts,
    pub(super) slots: Slots,
}

/// How many messages went each way.
#[derive(Default)]
pub(super) struct Counts {
    /// Messages sent, replies to others included if they were sent through the API.
    pub(super) sent: AtomicU64,
    /// Replies that came back.
    pub(super) replies: AtomicU64,
}

/// Why the daemon did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum DaemonError {
    /// Nothing answers, or not in time.
    #[error("{0}")]
    Down(String),
    /// It answered with an error.
    #[error("the mycelium daemon refuses: {message} ({code})")]
    Refused {
        /// The JSON-RPC code.
        code: i64,
        /// What it says.
        message: String,
    },
    /// The topic is served by another role of this host.
    #[error("{0}")]
    Taken(String),
    /// It answered something else than its API promises.
    #[error("what answers is no mycelium daemon of a version that Horus knows: {0}")]
    Strange(String),
}

/// The answer of `getInfo`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct DaemonInfo {
    /// Its overlay address.
    pub(super) node_ip: Ipv6Addr,
    /// Its key.
    pub(super) node_pubkey: MeshPublicKey,
    /// When it started, in seconds since the epoch.
    #[serde(default)]
    pub(super) node_start_time: u64,
}

/// A message that arrived.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Message {
    /// 16 hexadecimal digits.
    pub(super) id: String,
    /// Whom it is from.
    pub(super) src_ip: Ipv6Addr,
    /// The key of whom it is from, which the daemon has checked.
    pub(super) src_pk: MeshPublicKey,
    /// The content.
    #[serde(deserialize_with = "from_base64")]
    pub(super) payload: Bytes,
}

/// What `pushMessage` came to.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Pushed {
    /// A reply came.
    Reply(Message),
    /// No reply came in time; the id of the message, to ask why.
    Id {
        /// 16 hexadecimal digits.
        id: String,
    },
}

/// How far a message of ours is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// The peer's daemon never answered.
    Pending,
    /// It is taking it.
    Sending,
    /// It has taken it.
    Received,
    /// It was given up.
    Aborted,
}

fn from_base64<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
    let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
    STANDARD.decode(text.as_bytes()).map(Bytes::from).map_err(serde::de::Error::custom)
}

fn client(http2: bool) -> Client {
    let builder = Client::builder()
        .connect_timeout(CONNECT)
        .tcp_nodelay(true)
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .tls_certs_only([]);
    let builder = if http2 {
        let window = 4 << 20;
        builder
            .http2_prior_knowledge()
            .http2_initial_stream_window_size(window)
            .http2_initial_connection_window_size(4 * window)
    } else {
        builder.http1_only()
    };
    builder.build().expect("an HTTP client without TLS needs nothing from the system")
}

impl Daemon {
    /// A client of the daemon at that URL. Connects to nothing yet.
    pub(super) fn new(url: Url) -> Self {
        Self {
            url,
            http2: client(true),
            http1: client(false),
            old: AtomicBool::new(false),
            places: Places::new(),
            counts: Counts::default(),
            slots: Slots::new(),
        }
    }

    pub(super) fn url(&self) -> &Url {
        &self.url
    }

    /// Whether it runs on this machine, so that it can reach our sockets.
    pub(super) fn is_local(&self) -> bool {
        let host = self.url.host_str().unwrap_or_default();
        let ip = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback())
    }

    /// Who the daemon is. Also finds out which HTTP it speaks.
    pub(super) async fn info(&self) -> Result<DaemonInfo, DaemonError> {
        let first = self.call("getInfo", json!([])).await;
        if matches!(first, Err(DaemonError::Strange(_))) && !self.old.swap(true, Ordering::Relaxed) {
            let second = self.call("getInfo", json!([])).await;
            self.old.store(second.is_ok(), Ordering::Relaxed);
            return second;
        }
        first
    }

    /// The links to its neighbours, as the daemon describes them.
    pub(super) async fn peers(&self) -> Result<Vec<Value>, DaemonError> {
        self.call("getPeers", json!([])).await
    }

    /// Whether few more messages of that purpose may wait.
    pub(super) fn is_crowded(&self, purpose: Purpose) -> bool {
        self.places.is_crowded(purpose)
    }

    /// Waits for a place for a message of that purpose: to be had before it is sent.
    pub(super) async fn place(&self, purpose: Purpose) -> Place {
        self.places.enter(purpose).await
    }

    /// Sends a ping once there is a place for it. Pings share the time that they are given.
    pub(super) async fn ping(
        &self,
        ip: Ipv6Addr,
        topic: &str,
        payload: &[u8],
        wait: Duration,
    ) -> Result<Pushed, DaemonError> {
        let (_pinging, _place, wait) = self.places.enter_ping(wait).await;
        self.push(ip, topic, payload, wait).await
    }

    /// Sends a message and waits so long for a reply, rounded up to seconds. Whoever may be one of many has a place first.
    pub(super) async fn push(
        &self,
        ip: Ipv6Addr,
        topic: &str,
        payload: &[u8],
        wait: Duration,
    ) -> Result<Pushed, DaemonError> {
        self.counts.sent.fetch_add(1, Ordering::Relaxed);
        let seconds = wait.as_millis().div_ceil(1000) as u64;
        let message = json!({"dst": {"ip": ip}, "topic": STANDARD.encode(topic), "payload": STANDARD.encode(payload)});
        let limit = Duration::from_secs(seconds) + SLACK;
        let pushed = self.post("pushMessage", json!([message, seconds]), limit).await?;
        if matches!(pushed, Pushed::Reply(_)) {
            self.counts.replies.fetch_add(1, Ordering::Relaxed);
        }
        Ok(pushed)
    }

    /// Sends a reply to a message that was taken out of the inbox.
    pub(super) async fn reply(&self, to: &Message, payload: &[u8]) -> Result<(), DaemonError> {
        self.counts.sent.fetch_add(1, Ordering::Relaxed);
        let message = json!({"dst": {"ip": to.src_ip}, "payload": STANDARD.encode(payload)});
        self.call::<bool>("pushMessageReply", json!([to.id, message])).await.map(|_| ())
    }

    /// Takes a message of that topic out of the inbox, or looks at it, if there is one.
    pub(super) async fn pop(&self, topic: &str, peek: bool) -> Result<Option<Message>, DaemonError> {
        self.call("popMessage", json!([peek, 0, STANDARD.encode(topic)])).await
    }

    /// How far a message of ours is; `None` if the daemon has forgotten it.
    pub(super) async fn progress(&self, id: &str) -> Result<Option<Progress>, DaemonError> {
        #[derive(Deserialize)]
        struct Info {
            state: Value,
        }
        let info: Info = match self.call("getMessageInfo", json!([id])).await {
            Ok(info) => info,
            Err(DaemonError::Refused { .. }) => return Ok(None),
            Err(e) => return Err(e),
        };
        Ok(Some(match info.state.as_str() {
            Some("pending") => Progress::Pending,
            Some("received" | "read") => Progress::Received,
            Some("aborted") => Progress::Aborted,
            _ => Progress::Sending,
        }))
    }

    /// Adds a topic; nobody may send to it before sources are added.
    pub(super) async fn add_topic(&self, topic: &str) -> Result<(), DaemonError> {
        self.call::<bool>("addTopic", json!([STANDARD.encode(topic)])).await.map(|_| ())
    }

    /// Who may send to the topic.
    pub(super) async fn sources(&self, topic: &str) -> Result<Vec<String>, DaemonError> {
        self.call("getTopicSources", json!([STANDARD.encode(topic)])).await
    }

    /// Lets a subnet send to the topic.
    pub(super) async fn add_source(&self, topic: &str, subnet: &str) -> Result<(), DaemonError> {
        self.call::<bool>("addTopicSource", json!([STANDARD.encode(topic), subnet])).await.map(|_| ())
    }

    /// Lets it no more.
    pub(super) async fn remove_source(&self, topic: &str, subnet: &str) -> Result<(), DaemonError> {
        self.call::<bool>("removeTopicSource", json!([STANDARD.encode(topic), subnet])).await.map(|_| ())
    }

    /// The socket that messages of the topic are handed to.
    pub(super) async fn socket(&self, topic: &str) -> Result<Option<String>, DaemonError> {
        self.call("getTopicForwardSocket", json!([STANDARD.encode(topic)])).await
    }

    /// Sets it.
    pub(super) async fn set_socket(&self, topic: &str, path: &str) -> Result<(), DaemonError> {
        self.call::<bool>("setTopicForwardSocket", json!([STANDARD.encode(topic), path])).await.map(|_| ())
    }

    /// Hands messages of the topic to no socket any more.
    pub(super) async fn remove_socket(&self, topic: &str) -> Result<(), DaemonError> {
        self.call::<bool>("removeTopicForwardSocket", json!([STANDARD.encode(topic)])).await.map(|_| ())
    }

    /// Forgets a topic.
    pub(super) async fn remove_topic(&self, topic: &str) -> Result<(), DaemonError> {
        self.call::<bool>("removeTopic", json!([STANDARD.encode(topic)])).await.map(|_| ())
    }

    async fn call<T: DeserializeOwned>(&self, method: &str, params: Value) -> Result<T, DaemonError> {
        self.post(method, params, QUICK).await
    }

    /// Calls the daemon, and again while it has no room for the call.
    async fn post<T: DeserializeOwned>(&self, method: &str, params: Value, limit: Duration) -> Result<T, DaemonError> {
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).to_string();
        let body = Bytes::from(body);
        for attempt in 1..TRIES {
            match self.post_once(method, body.clone(), limit).await {
                Ok(Some(result)) => return Ok(result),
                Ok(None) => tokio::time::sleep(Duration::from_millis(20) * (1 << attempt)).await,
                Err(e) => return Err(e),
            }
        }
        let none = || self.down("it has 100 calls to answer already and takes no more");
        self.post_once(method, body, limit).await?.ok_or_else(none)
    }

    async fn post_once<T: DeserializeOwned>(
        &self,
        method: &str,
        body: Bytes,
        limit: Duration,
    ) -> Result<Option<T>, DaemonError> {
        #[derive(Deserialize)]
        struct Answer {
            result: Option<Box<RawValue>>,
            error: Option<Fault>,
        }
        #[derive(Deserialize)]
        struct Fault {
            code: i64,
            message: String,
        }
        let client = if self.old.load(Ordering::Relaxed) { &self.http1 } else { &self.http2 };
        let exchange = async {
            let post = client.post(self.url.clone()).header("content-type", "application/json").body(body);
            let response = post.send().await?;
            let status = response.status();
            response.bytes().await.map(|body| (status, body))
        };
        let (status, body) = match tokio::time::timeout(limit, exchange).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(e)) if e.is_connect() || e.is_timeout() => return Err(self.down(&e.to_string())),
            // An HTTP/1 server looks like this to an HTTP/2 client; `info` tries the other.
            Ok(Err(e)) if method == "getInfo" => return Err(DaemonError::Strange(causes(&e))),
            Ok(Err(e)) => return Err(self.down(&causes(&e))),
            Err(_) => {
                return Err(self.down(
                    "it does not answer in time; a program that calls its popMessage with a timeout \
                     stalls it for everybody",
                ));
            }
        };
        if status == reqwest::StatusCode::TOO_MANY_REQUESTS {
            return Ok(None);
        }
        let answer: Answer = serde_json::from_slice(&body)
            .map_err(|e| DaemonError::Strange(format!("HTTP {status}, which is no JSON-RPC ({e})")))?;
        if let Some(Fault { code, message }) = answer.error {
            return Err(DaemonError::Refused { code, message });
        }
        let result = answer.result.as_deref().map_or("null", RawValue::get);
        serde_json::from_str(result).map(Some).map_err(|e| DaemonError::Strange(format!("{method}: {e}")))
    }

    fn down(&self, why: &str) -> DaemonError {
        DaemonError::Down(format!(
            "the mycelium daemon does not answer at {}: start it, or give its address by --mycelium-rpc ({why})",
            self.url
        ))
    }
}

impl fmt::Debug for Daemon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Daemon({})", self.url)
    }
}

/// The innermost causes, which reqwest's own message leaves out.
fn causes(e: &reqwest::Error) -> String {
    let mut text = e.to_string();
    let mut cause = std::error::Error::source(e);
    while let Some(e) = cause {
        text = format!("{text}: {e}");
        cause = e.source();
    }
    text
}
