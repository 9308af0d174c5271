//! Where a node is reached.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use horus_keys::{MeshPublicKey, PeerId};
use reqwest::Url;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// No address is longer, in bytes.
const MAX_ADDRESS: usize = 512;
/// No topic is longer, in bytes (the Mycelium daemon takes at most 255).
const MAX_TOPIC: usize = 128;

/// The address of a node, in one of the forms
///
/// - `http://host:8080`, `https://host:8080`, optionally with a path prefix;
/// - `mycelium://12D3KooW...`, `mycelium://[5c6:...]`, `mycelium://<64 hex digits>`: a host of the
///   Mycelium overlay by PeerId, overlay IP or mesh key, optionally with `/topic`;
/// - `topic:horus.supervisor`: any live node that serves the topic.
///
/// The first two may end in `#PeerId`, which pins the key of the role behind the address: a node with
/// another key is refused.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// Plain HTTP, or HTTPS.
    Http {
        /// Scheme, host, port and path; no user, query or fragment.
        url: Url,
        /// The only key that may answer.
        pin: Option<PeerId>,
    },
    /// A host of the Mycelium overlay.
    Mycelium {
        /// The host.
        host: Host,
        /// The topic that the role serves; the caller's default if there is none.
        topic: Option<String>,
        /// The only key that may answer.
        pin: Option<PeerId>,
    },
    /// Any live node that serves the topic.
    Topic {
        /// The topic, such as `horus.supervisor`.
        topic: String,
    },
}

/// A host of the Mycelium overlay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Host {
    /// By the identity that its daemon's key was made from.
    Peer(PeerId),
    /// By its overlay address, in `400::/7`.
    Overlay(Ipv6Addr),
    /// By its daemon's X25519 key.
    Mesh(MeshPublicKey),
}

/// Why a text is no [`Address`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{address}` is no address: {problem}")]
pub struct AddressError {
    /// The beginning of the text.
    pub address: String,
    /// What is wrong, and what would be right.
    pub problem: String,
}

impl Address {
    /// The key that the address pins.
    #[must_use]
    pub fn pin(&self) -> Option<PeerId> {
        match self {
            Self::Http { pin, .. } | Self::Mycelium { pin, .. } => *pin,
            Self::Topic { .. } => None,
        }
    }

    /// The same address with that key pinned, if it has none yet. A topic stays as it is: any node
    /// may serve it.
    #[must_use]
    pub fn pinned(mut self, peer: PeerId) -> Self {
        match &mut self {
            Self::Http { pin, .. } | Self::Mycelium { pin, .. } => {
                pin.get_or_insert(peer);
            }
            Self::Topic { .. } => {}
        }
        self
    }

    /// The same address with that topic, if it names a host of the overlay and no topic: the role that
    /// is meant.
    #[must_use]
    pub fn with_default_topic(mut self, default: &str) -> Self {
        if let Self::Mycelium { topic, .. } = &mut self {
            topic.get_or_insert_with(|| default.to_owned());
        }
        self
    }

    fn parse(text: &str) -> Result<Self, String> {
        if text.len() > MAX_ADDRESS {
            return Err(format!("longer than {MAX_ADDRESS} bytes"));
        }
        if let Some(topic) = text.strip_prefix("topic:") {
            return Ok(Self::Topic { topic: parse_topic(topic)? });
        }
        let (rest, pin) = match text.split_once('#') {
            None => (text, None),
            Some((rest, pin)) => {
                let pin = pin.parse().map_err(|e| format!("the part after `#`: {e}"))?;
                (rest, Some(pin))
            }
        };
        if let Some(rest) = rest.strip_prefix("mycelium://") {
            let (host, topic) = match rest.split_once('/') {
                None | Some((_, "")) => (rest.trim_end_matches('/'), None),
                Some((host, topic)) => (host, Some(parse_topic(topic)?)),
            };
            return Ok(Self::Mycelium { host: parse_host(host)?, topic, pin });
        }
        if rest.starts_with("http://") || rest.starts_with("https://") {
            return Ok(Self::Http { url: parse_url(rest)?, pin });
        }
        Err("it must start with `http://`, `https://`, `mycelium://` or `topic:`, \
             such as http://localhost:8080"
            .into())
    }
}

fn parse_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|e| format!("not a URL: {e}"))?;
    if url.host_str().is_none_or(str::is_empty) {
        return Err("it names no host".into());
    }
    if url.port() == Some(0) {
        return Err("port 0 cannot be called".into());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("it must not hold a user or password: calls are signed by key".into());
    }
    if url.query().is_some() {
        return Err("it must not hold a query (`?...`)".into());
    }
    Ok(url)
}

fn parse_host(text: &str) -> Result<Host, String> {
    if let Some(ip) = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
        let ip: Ipv6Addr = ip.parse().map_err(|_| format!("`{ip}` is no IPv6 address"))?;
        if !is_overlay(ip) {
            return Err(format!("{ip} is not an overlay address: those lie in 400::/7"));
        }
        return Ok(Host::Overlay(ip));
    }
    if text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return text.parse().map(Host::Mesh).map_err(|e| format!("the mesh key: {e}"));
    }
    text.parse().map(Host::Peer).map_err(|_| {
        "the host must be a PeerId (12D3KooW...), an overlay IP in brackets ([5c6:...]) \
         or a mesh public key (64 hex digits)"
            .into()
    })
}

fn parse_topic(text: &str) -> Result<String, String> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if text.is_empty() || text.len() > MAX_TOPIC || !text.bytes().all(fits) {
        return Err(format!(
            "a topic is 1 to {MAX_TOPIC} characters of A-Z, a-z, 0-9, `.`, `_` and `-`, \
             such as horus.supervisor"
        ));
    }
    Ok(text.to_owned())
}

/// Whether the address lies in Mycelium's `400::/7`.
#[must_use]
pub fn is_overlay(ip: Ipv6Addr) -> bool {
    ip.octets()[0] & 0xfe == 0x04
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        Self::parse(text).map_err(|problem| AddressError { address: text.chars().take(100).collect(), problem })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http { url, .. } => {
                let text = url.as_str();
                let bare = url.path() == "/";
                f.write_str(if bare { text.trim_end_matches('/') } else { text })?;
            }
            Self::Mycelium { host, topic, .. } => {
                write!(f, "mycelium://{host}")?;
                if let Some(topic) = topic {
                    write!(f, "/{topic}")?;
                }
            }
            Self::Topic { topic } => write!(f, "topic:{topic}")?,
        }
        match self.pin() {
            Some(pin) => write!(f, "#{pin}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Peer(peer) => write!(f, "{peer}"),
            Self::Overlay(ip) => write!(f, "[{ip}]"),
            Self::Mesh(key) => write!(f, "{key}"),
        }
    }
}

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Address {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Address".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "description": "http://host:port, https://host:port, mycelium://host[/topic] (each optionally #PeerId) or topic:name",
            "maxLength": MAX_ADDRESS,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PEER: &str = "12D3KooWRawPbxPtP1eZaJpumGnyWX2DcUyd3RQnydr3eAto4Az7";
    const MESH: &str = "761d88ec830413919dfe9d4d1d56f17e653c8c994082df5b137b90a0ae6edf74";
    const OVERLAY: &str = "5c6:4896:5bc7:a56f:1510:c6d1:f1a5:e9e2";

    fn same(text: &str) -> Address {
        let address: Address = text.parse().unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(address.to_string(), text);
        let json = serde_json::to_string(&address).unwrap();
        assert_eq!(serde_json::from_str::<Address>(&json).unwrap(), address);
        address
    }

    #[test]
    fn every_form_round_trips() {
        same("http://localhost:8080");
        same("http://[::1]:8080");
        same("https://example.org/horus/a");
        same(&format!("http://127.0.0.1:8080#{PEER}"));
        for host in [PEER, MESH, &format!("[{OVERLAY}]")] {
            same(&format!("mycelium://{host}"));
            same(&format!("mycelium://{host}/horus.supervisor.b#{PEER}"));
        }
        same("topic:horus.supervisor");
        assert_eq!(same(&format!("http://h:1#{PEER}")).pin(), Some(PEER.parse().unwrap()));
        let pinned = same("http://h:1").pinned(PEER.parse().unwrap());
        assert_eq!(pinned.to_string(), format!("http://h:1#{PEER}"));
    }

    #[test]
    fn the_forms_of_one_host_are_told_apart() {
        let host = |text: String| match text.parse().unwrap() {
            Address::Mycelium { host, .. } => host,
            other => panic!("{other}"),
        };
        let Host::Peer(peer) = host(format!("mycelium://{PEER}")) else { panic!() };
        assert_eq!(Host::Overlay(peer.overlay_address()), host(format!("mycelium://[{OVERLAY}]")));
        assert_eq!(Host::Mesh(peer.mesh_public_key()), host(format!("mycelium://{MESH}/")));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let cases: &[(&str, &str)] = &[
            ("", "must start with"),
            ("localhost:8080", "such as http://localhost:8080"),
            ("ftp://x", "must start with"),
            ("http://", "not a URL"),
            ("http://user:secret@h:1", "user or password"),
            ("http://h:1?x=1", "query"),
            ("http://h:99999", "not a URL"),
            ("http://h:0", "port 0"),
            ("http://h:1#", "after `#`"),
            ("http://h:1#12D3KooWx", "after `#`"),
            ("mycelium://", "must be a PeerId"),
            ("mycelium://example.org", "must be a PeerId"),
            ("mycelium://[2001:db8::1]", "400::/7"),
            ("mycelium://[::g]", "no IPv6 address"),
            ("topic:", "a topic is"),
            ("topic:a b", "a topic is"),
            ("topic:a#b", "a topic is"),
        ];
        for (text, expected) in cases {
            let problem = text.parse::<Address>().unwrap_err().to_string();
            assert!(problem.contains(expected), "{text}: {problem}");
        }
        let long = format!("http://{}", "a".repeat(MAX_ADDRESS));
        assert!(long.parse::<Address>().unwrap_err().to_string().len() < 300);
    }

    proptest! {
        #[test]
        fn parsing_never_panics_and_display_is_a_fixed_point(text in ".{0,80}") {
            for prefix in ["", "http://", "mycelium://", "topic:"] {
                if let Ok(address) = format!("{prefix}{text}").parse::<Address>() {
                    let again: Address = address.to_string().parse().unwrap();
                    prop_assert_eq!(again, address);
                }
            }
        }
    }
}
