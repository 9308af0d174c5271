//! The ways to a node, and how each of them fares.

use std::fmt;
use std::net::{Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use horus_keys::{PeerId, Timestamp};
use reqwest::Url;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::peer::{Outcome, Peer};
use crate::carrier::{Carrier, Outbound};
use crate::client::{ClientOptions, HttpCarrier, RpcClient};
use crate::error::{ErrorKind, RpcError};
use crate::node_info::VerifiedNode;

/// A path that failed is tried again after so long, doubled each time up to the second value. Trying
/// by message costs two of them.
const SKIP_MESSAGES: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(30));
/// The same over HTTP.
const SKIP_HTTP: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));
/// How long a peer may take to answer a ping by message.
const PING: Duration = Duration::from_secs(2);
/// How long a ping lies at the daemon for a peer that cannot be reached: it sets out as soon as there is a route again, and
/// costs less than many short ones.
const LYING_PING: Duration = Duration::from_secs(60);
/// How long a node may take to say who it is over HTTP.
const PROBE: Duration = Duration::from_millis(1500);
/// An HTTP reply that takes longer makes one ask whether the host is still there.
const QUIET: Duration = Duration::from_millis(600);
/// How long the host may take to accept a connection then.
const CONNECT: Duration = Duration::from_millis(900);
/// A host that has not accepted one so soon, nor in the time of three calls, is in doubt.
const SOON: Duration = Duration::from_millis(150);
/// A reply by message that takes longer than this, and than three others took, puts the path in doubt.
const DOUBT: Duration = Duration::from_millis(700);
/// How often a call that waits asks again.
const AGAIN: Duration = Duration::from_secs(10);

/// Which paths may be used to `mycelium://` and `topic:` addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TransportMode {
    /// Overlay HTTP, else messages, else the HTTP fallback.
    #[default]
    Auto,
    /// Messages only.
    Messages,
    /// HTTP only, over the overlay or not.
    Http,
}

impl FromStr for TransportMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "messages" => Ok(Self::Messages),
            "http" => Ok(Self::Http),
            _ => Err(format!("`{text}` is no transport: auto, messages or http")),
        }
    }
}

impl fmt::Display for TransportMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Messages => "messages",
            Self::Http => "http",
        })
    }
}

/// The kind of a path, in the order of preference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PathKind {
    /// HTTP to the overlay address, which the overlay encrypts end to end.
    Overlay,
    /// Mycelium messages.
    Messages,
    /// HTTP to another address that the node announced.
    Http,
}

impl fmt::Display for PathKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Overlay => "overlay",
            Self::Messages => "messages",
            Self::Http => "http",
        })
    }
}

/// One way to a node.
pub(super) struct Path {
    pub(super) kind: PathKind,
    way: Way,
    health: Mutex<Health>,
}

enum Way {
    Messages(Arc<Peer>),
    Http { url: Url, carrier: Arc<HttpCarrier>, options: ClientOptions },
}

/// How a path fares.
#[derive(Debug, Clone)]
pub(super) struct Health {
    /// `None` if it was not tried.
    pub(super) is_up: Option<bool>,
    pub(super) latency: Option<Duration>,
    pub(super) error: Option<(Timestamp, RpcError)>,
    /// It is not tried again before.
    pub(super) retry_at: Option<Instant>,
    skip: Duration,
}

impl Path {
    pub(super) fn messages(peer: Arc<Peer>) -> Self {
        Self::new(PathKind::Messages, Way::Messages(peer))
    }

    pub(super) fn http(kind: PathKind, url: Url, options: &ClientOptions) -> Result<Self, RpcError> {
        // Addresses are asked who they are by a client that has no other way.
        let options = ClientOptions { identity: None, certificate: None, carriers: None, ..options.clone() };
        let carrier = Arc::new(HttpCarrier::new(&url, &options)?);
        Ok(Self::new(kind, Way::Http { url, carrier, options }))
    }

    fn new(kind: PathKind, way: Way) -> Self {
        let path = Health { is_up: None, latency: None, error: None, retry_at: None, skip: Duration::ZERO };
        Self { kind, way, health: Mutex::new(path) }
    }

    /// The URL, if it is HTTP.
    pub(super) fn url(&self) -> Option<&Url> {
        match &self.way {
            Way::Http { url, .. } => Some(url),
            Way::Messages(_) => None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(super) fn health(&self) -> Health {
        let mut health = self.lock().clone();
        if let Way::Messages(peer) = &self.way {
            health.latency = peer.latency().or(health.latency);
        }
        health
    }

    /// Tells the path whether there is another one to the node.
    pub(super) fn set_alternative(&self, exists: bool) {
        if let Way::Messages(peer) = &self.way {
            peer.set_alternative(exists);
        }
    }

    /// Whether calls may go there: one that failed is tried again in the background first.
    pub(super) fn is_usable(&self) -> bool {
        self.lock().is_up != Some(false)
    }

    /// Whether it must be asked who answers there before a call goes there. By message the topic tells.
    pub(super) fn needs_probe(&self) -> bool {
        matches!(self.way, Way::Http { .. }) && self.lock().is_up != Some(true)
    }

    /// Notes that it works. True if it did not before.
    pub(super) fn set_up(&self, latency: Option<Duration>) -> bool {
        let mut health = self.lock();
        let was_down = health.is_up == Some(false);
        health.is_up = Some(true);
        health.retry_at = None;
        health.skip = Duration::ZERO;
        if let Some(latency) = latency {
            health.latency = Some(health.latency.map_or(latency, |before| (before * 7 + latency) / 8));
        }
        was_down
    }

    pub(super) fn set_down(&self, error: &RpcError) {
        let mut health = self.lock();
        health.is_up = Some(false);
        health.error = Some((Timestamp::now(), error.clone()));
        let (least, most) = match (self.kind, error.kind) {
            // The next try takes long by itself.
            (PathKind::Messages, ErrorKind::PeerUnreachable) => (SKIP_MESSAGES.0, SKIP_MESSAGES.0),
            (PathKind::Messages, _) => SKIP_MESSAGES,
            _ => SKIP_HTTP,
        };
        health.skip = (health.skip * 2).clamp(least, most);
        health.retry_at = Some(Instant::now() + health.skip);
    }

    /// Takes a request there. A host that has gone silent is noticed within 1.5 s; that it may have is told by `doubt` before.
    pub(super) async fn send(&self, request: Outbound, doubt: &Notify) -> Outcome {
        match &self.way {
            Way::Messages(peer) if request.long_poll => peer.send(request).await,
            Way::Messages(peer) => {
                let patience = DOUBT.max(peer.latency().unwrap_or_default() * 3);
                let send = peer.send(request);
                tokio::pin!(send);
                if let Ok(outcome) = tokio::time::timeout(patience, &mut send).await {
                    return outcome;
                }
                doubt.notify_one();
                send.await
            }
            Way::Http { url, carrier, .. } => {
                tokio::select! {
                    biased;
                    outcome = carrier.send(request) => outcome,
                    error = gone_silent(url, self.soon(), doubt) => Err(error),
                }
            }
        }
    }

    /// How long the host may take to accept a connection before it is in doubt: on a long link that takes long.
    fn soon(&self) -> Duration {
        SOON.max(self.lock().latency.unwrap_or_default() * 3)
    }

    /// How long a ping may take: a peer whose daemon answers, but where nobody serves, is asked again soon.
    fn patience(&self) -> Duration {
        let health = self.lock();
        let cut_off = health.error.as_ref().is_some_and(|(_, error)| error.kind == ErrorKind::PeerUnreachable);
        if health.is_up == Some(false) && cut_off { LYING_PING } else { PING }
    }

    /// Asks whether the node is there, and over HTTP whether it is the right one.
    pub(super) async fn probe(&self, topic: &str, pin: Option<PeerId>) -> Result<Option<Arc<VerifiedNode>>, RpcError> {
        let begin = Instant::now();
        let outcome = match &self.way {
            Way::Messages(peer) => peer.ping(self.patience()).await.map(|_| None),
            Way::Http { url, carrier, options } => {
                let address = crate::Address::Http { url: url.clone(), pin };
                let options = ClientOptions { timeout: PROBE, ..options.clone() };
                let carrier: Arc<dyn Carrier> = Arc::clone(carrier) as _;
                let client = RpcClient::with_carrier(address, carrier, options);
                client.node().await.and_then(|node| serves(&node, topic, url).map(|()| Some(node)))
            }
        };
        match &outcome {
            Ok(_) => _ = self.set_up(matches!(self.way, Way::Http { .. }).then(|| begin.elapsed())),
            Err(e) => self.set_down(e),
        }
        outcome
    }
}

/// Whether the node that answers is the role that the topic names: several roles may share a host.
fn serves(node: &VerifiedNode, topic: &str, url: &Url) -> Result<(), RpcError> {
    let announced = &node.announcement.topics;
    let fits = if announced.is_empty() {
        topic.split('.').any(|part| part == node.role.as_str())
    } else {
        announced.iter().any(|served| served == topic)
    };
    if fits {
        return Ok(());
    }
    Err(RpcError::new(
        ErrorKind::NoService,
        format!("{url} is a {}, which does not serve the topic {topic}", node.role),
    ))
}

/// While a reply is waited for, asks now and then whether the host is there. Returns once it is not; `doubt` is told when it takes longer
/// than `soon` to say so.
async fn gone_silent(url: &Url, soon: Duration, doubt: &Notify) -> RpcError {
    let mut pause = QUIET;
    loop {
        tokio::time::sleep(pause).await;
        let accepts = accepts(url);
        tokio::pin!(accepts);
        let accepted = match tokio::time::timeout(soon, &mut accepts).await {
            Ok(accepted) => accepted,
            Err(_) => {
                doubt.notify_one();
                accepts.await
            }
        };
        if let Err(error) = accepted {
            return error;
        }
        pause = AGAIN;
    }
}

/// Whether the host still accepts connections; if not, nothing will come on the old one either.
async fn accepts(url: &Url) -> Result<(), RpcError> {
    let host = url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
    let port = url.port_or_known_default().unwrap_or(80);
    match tokio::time::timeout(CONNECT, TcpStream::connect((host, port))).await {
        Ok(Ok(_)) => Ok(()),
        _ => Err(RpcError::new(
            ErrorKind::PeerUnreachable,
            format!("{url} has gone silent: the host is cut off, or the node stopped"),
        )),
    }
}

/// Whether a failure lies in the path, so that another one may do better.
pub(super) fn is_path_failure(kind: ErrorKind) -> bool {
    use ErrorKind::{DaemonDown, InvalidReply, NoService, PeerUnreachable};
    matches!(kind, DaemonDown | InvalidReply | NoService | PeerUnreachable)
}

/// Whether this host has a TUN with that overlay address.
pub(super) fn has_tun(ip: Ipv6Addr) -> bool {
    std::net::UdpSocket::bind(SocketAddr::from((ip, 0))).is_ok()
}

/// The port that a role usually has, to try when the node announced none.
pub(super) fn usual_port(topic: &str) -> Option<u16> {
    let part = |name| topic.split('.').any(|part| part == name);
    if part("supervisor") {
        Some(8080)
    } else if part("coordinator") {
        Some(9090)
    } else {
        None
    }
}

/// The longest request that every path takes is that of messages; others take more.
pub(super) fn fits(kind: PathKind, body: &Bytes, authorization: Option<&str>) -> bool {
    kind != PathKind::Messages || body.len() + authorization.map_or(0, str::len) <= super::peer::MAX_REQUEST
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_read_and_written() {
        for mode in [TransportMode::Auto, TransportMode::Messages, TransportMode::Http] {
            assert_eq!(mode.to_string().parse(), Ok(mode));
        }
        assert!("tcp".parse::<TransportMode>().unwrap_err().contains("auto, messages or http"));
    }

    #[test]
    fn ports_follow_the_role() {
        assert_eq!(usual_port("horus.supervisor"), Some(8080));
        assert_eq!(usual_port("horus.coordinator.blue"), Some(9090));
        assert_eq!(usual_port("horus.other"), None);
    }

    #[test]
    fn a_long_link_raises_no_doubt() {
        let url = "http://127.0.0.1:1".parse().unwrap();
        let path = Path::http(PathKind::Overlay, url, &ClientOptions::default()).unwrap();
        assert_eq!(path.soon(), SOON);
        path.set_up(Some(Duration::from_millis(5)));
        assert_eq!(path.soon(), SOON);
        path.set_up(Some(Duration::from_millis(8 * 250)));
        assert!(path.soon() >= Duration::from_millis(750), "{:?}", path.soon());
    }

    #[tokio::test(start_paused = true)]
    async fn a_failing_path_is_tried_less_and_less_often() {
        let url = "http://127.0.0.1:1".parse().unwrap();
        let path = Path::http(PathKind::Http, url, &ClientOptions::default()).unwrap();
        let error = RpcError::new(ErrorKind::PeerUnreachable, "gone");
        assert!(path.is_usable() && path.needs_probe());
        let wait = || {
            path.set_down(&error);
            assert!(!path.is_usable());
            (path.health().retry_at.unwrap() - Instant::now()).as_secs()
        };
        assert_eq!([(); 5].map(|()| wait()), [1, 2, 4, 5, 5]);
        path.set_up(None);
        assert!(path.is_usable() && !path.needs_probe());
        assert_eq!(wait(), 1, "it starts anew after a success");
    }
}
