//! How the mesh looks from here, for `horus mesh status`.

use std::net::Ipv6Addr;
use std::sync::atomic::Ordering;

use horus_keys::{MeshPublicKey, PeerId, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Shared;
use super::path::{PathKind, TransportMode};
use super::route::Route;
use super::serve::ServiceState;

/// A snapshot. Serialises for `--json`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct MeshStatus {
    /// The local daemon.
    pub daemon: DaemonStatus,
    /// The links of the daemon to its neighbours.
    pub links: Vec<LinkStatus>,
    /// Which paths may be used.
    pub transport: TransportMode,
    /// The topics that this process serves.
    pub topics: Vec<TopicStatus>,
    /// The nodes that this process called or heard of.
    pub nodes: Vec<NodeStatus>,
    /// Messages that this process sent since it started.
    pub messages_sent: u64,
    /// Replies that it received.
    pub replies_received: u64,
}

/// The local daemon.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct DaemonStatus {
    /// Where its JSON-RPC is.
    pub url: String,
    /// Whether it answers.
    pub up: bool,
    /// Why it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// This host's overlay address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlay_ip: Option<Ipv6Addr>,
    /// The daemon's key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mesh_public_key: Option<MeshPublicKey>,
    /// When it started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// Whether this host has a network interface with the overlay address.
    pub tun: bool,
}

/// A link of the daemon to a neighbour.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct LinkStatus {
    /// The neighbour's endpoint, such as `tcp://192.0.2.1:9651`.
    pub endpoint: String,
    /// `alive`, `connecting` or `dead`, as the daemon says.
    pub state: String,
}

/// A topic that is served.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct TopicStatus {
    /// The topic.
    pub topic: String,
    /// The socket that the daemon hands messages to.
    pub socket: String,
    /// How messages come in.
    #[serde(flatten)]
    pub state: ServiceState,
}

/// A node, and the paths to it.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
pub struct NodeStatus {
    /// The role's key, if it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_id: Option<PeerId>,
    /// Its host; absent for a node that is called by its URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlay_ip: Option<Ipv6Addr>,
    /// Its topic; absent for a node that is called by its URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// The path that the next call takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathKind>,
    /// Calls that are under way.
    pub outstanding: usize,
    /// When its announcement expires, if one is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// All paths, the preferred first.
    pub paths: Vec<PathStatus>,
}

/// A path to a node.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct PathStatus {
    /// Its kind.
    pub path: PathKind,
    /// The URL, for HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Whether it works; absent if it was not tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub up: Option<bool>,
    /// How long a call takes on it, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<f64>,
    /// What failed last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// When that was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error_at: Option<Timestamp>,
}

impl NodeStatus {
    /// The path that the next call takes.
    #[must_use]
    pub fn in_use(&self) -> Option<&PathStatus> {
        self.paths.iter().find(|path| Some(path.path) == self.path)
    }

    /// What failed last on any path, and when.
    #[must_use]
    pub fn last_error(&self) -> Option<(Timestamp, &str)> {
        let errors = self.paths.iter().filter_map(|path| Some((path.last_error_at?, path.last_error.as_deref()?)));
        errors.max_by_key(|(at, _)| *at)
    }

    pub(super) fn of(route: &Route, shared: &Shared) -> Self {
        let now = Timestamp::now();
        let target = &route.target;
        let known = shared.known.at(target.ip, &target.topic, now);
        let node = known.iter().find(|node| target.pin.is_none_or(|pin| pin == node.peer_id));
        let paths = route.current_paths();
        let path = paths.iter().find(|path| path.is_usable()).map(|path| path.kind);
        Self {
            peer_id: target.pin.or(node.map(|node| node.peer_id)),
            overlay_ip: Some(target.ip),
            topic: Some(target.topic.clone()),
            path,
            outstanding: route.outstanding.load(Ordering::Relaxed),
            expires_at: node.map(|node| node.announcement.expires_at),
            paths: paths
                .iter()
                .map(|path| {
                    let health = path.health();
                    PathStatus {
                        path: path.kind,
                        url: path.url().map(ToString::to_string),
                        up: health.is_up,
                        latency_ms: health.latency.map(|latency| latency.as_secs_f64() * 1000.0),
                        last_error: health.error.as_ref().map(|(_, error)| error.to_string()),
                        last_error_at: health.error.map(|(at, _)| at),
                    }
                })
                .collect(),
        }
    }
}

impl LinkStatus {
    /// Reads the daemon's description of a link.
    pub(super) fn of(peer: &Value) -> Self {
        let endpoint = &peer["endpoint"];
        let proto = endpoint["proto"].as_str().unwrap_or("?");
        let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
        let address = match &endpoint["addr"] {
            Value::Object(forms) => forms.values().next().map_or_else(|| "?".to_owned(), text),
            other => text(other),
        };
        Self { endpoint: format!("{proto}://{address}"), state: text(&peer["connectionState"]) }
    }

    /// Whether the two are connected now.
    pub(super) fn is_alive(&self) -> bool {
        self.state == "alive"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_read_as_the_daemon_writes_them() {
        let peer = serde_json::json!({
            "endpoint": {"proto": "tcp", "addr": {"socket": "[::ffff:10.77.0.2]:40672"}},
            "type": "inbound", "connectionState": "alive", "txBytes": 68, "rxBytes": 68
        });
        let link = LinkStatus::of(&peer);
        assert_eq!((link.endpoint.as_str(), link.state.as_str()), ("tcp://[::ffff:10.77.0.2]:40672", "alive"));
        assert_eq!(LinkStatus::of(&Value::Null).state, "?");
    }
}
