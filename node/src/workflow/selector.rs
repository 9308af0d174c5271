//! Which supervisors a step may go to: the `supervisor` key of a step.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv6Addr;

use horus_keys::{PeerId, Role};
use horus_transport::{Address, Host};

use crate::role::topic_of;

/// Labels of one supervisor.
const MAX_LABELS: usize = 64;
/// Bytes of one label, `=` included.
const MAX_LABEL: usize = 256;

/// A choice of supervisors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selector {
    /// The one with this key.
    Peer(PeerId),
    /// The one at this address, in whatever form the coordinator knows it.
    Address(Address),
    /// Those that carry all of these labels: `zone=eu,disk=ssd`.
    Labels(BTreeMap<String, String>),
    /// Nobody: what an earlier version accepted, but which names no supervisor. A step that says so waits.
    Nobody(String),
}

impl Selector {
    /// Reads the key's value: a PeerId, an address (it has `://` or starts with `topic:`), or labels.
    ///
    /// # Errors
    /// A text that is none of these, or an address with a mistake, with what was expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if let Ok(peer) = text.parse() {
            return Ok(Self::Peer(peer));
        }
        if text.contains("://") || text.starts_with("topic:") {
            return text.parse().map(Self::Address).map_err(|error| error.to_string());
        }
        let mut labels = BTreeMap::new();
        for pair in text.split(',') {
            let (key, value) = pair
                .split_once('=')
                .map(|(key, value)| (key.trim(), value.trim()))
                .filter(|(key, value)| !key.is_empty() && !value.is_empty())
                .ok_or_else(|| {
                    format!(
                        "`{text}` names no supervisor: write its PeerId, its address (`http://host:8080`), or labels \
                         (`zone=eu,disk=ssd`)"
                    )
                })?;
            labels.insert(key.to_owned(), value.to_owned());
        }
        Ok(Self::Labels(labels))
    }

    /// Whether a supervisor can carry these labels: whether a step can ask for each of them.
    ///
    /// # Errors
    /// What is wrong, and what to write instead.
    pub fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), String> {
        if labels.len() > MAX_LABELS {
            return Err(format!("{} labels are too many: at most {MAX_LABELS}", labels.len()));
        }
        for (key, value) in labels {
            let word = format!("{key}={value}");
            let asked = Self::parse(&word);
            let can_be_asked =
                matches!(&asked, Ok(Self::Labels(asked)) if asked.len() == 1 && asked.get(key) == Some(value));
            if !can_be_asked || word.len() > MAX_LABEL || word.chars().any(char::is_control) {
                return Err(format!(
                    "`{}` cannot be a supervisor's label: write KEY=VALUE as in zone=eu, {MAX_LABEL} bytes at most, without commas, \
                     `://` or spaces around them",
                    word.escape_debug()
                ));
            }
        }
        Ok(())
    }

    /// The same for a workflow that was accepted: a choice that cannot be read any more must not become none at all.
    #[must_use]
    pub fn accepted(text: &str) -> Self {
        Self::parse(text).unwrap_or_else(|_| Self::Nobody(text.to_owned()))
    }

    /// Whether a supervisor is among the chosen: its key, if it is known, the address that it is called at, and its labels.
    #[must_use]
    pub fn matches(&self, peer: Option<&PeerId>, address: &Address, labels: &BTreeMap<String, String>) -> bool {
        let peer = peer.copied().or_else(|| address.pin());
        match self {
            Self::Peer(wanted) => peer == Some(*wanted),
            // The step need not repeat the key that the address pins, but what it pins must be so.
            Self::Address(wanted) => wanted.pin().is_none_or(|pin| peer == Some(pin)) && is_same_place(wanted, address),
            Self::Labels(wanted) => wanted.iter().all(|(key, value)| labels.get(key) == Some(value)),
            Self::Nobody(_) => false,
        }
    }
}

/// Whether a supervisor called at `address` is meant by `wanted`, pins aside.
fn is_same_place(wanted: &Address, address: &Address) -> bool {
    match (wanted, address) {
        (Address::Http { url: wanted, .. }, Address::Http { url, .. }) => {
            wanted.as_str().trim_end_matches('/') == url.as_str().trim_end_matches('/')
        }
        (Address::Mycelium { host: wanted_host, .. }, Address::Mycelium { host, .. }) => {
            // One host has three names, and all of them make its overlay address.
            overlay_address(wanted_host) == overlay_address(host) && topic_at(wanted) == topic_at(address)
        }
        (Address::Topic { .. }, Address::Mycelium { .. } | Address::Topic { .. }) => {
            topic_at(wanted) == topic_at(address)
        }
        _ => false,
    }
}

fn overlay_address(host: &Host) -> Ipv6Addr {
    match host {
        Host::Peer(peer) => peer.overlay_address(),
        Host::Overlay(ip) => *ip,
        Host::Mesh(key) => key.overlay_address(),
    }
}

/// The topic that is called there: that of supervisors, if the address names none.
fn topic_at(address: &Address) -> Option<String> {
    match address {
        Address::Http { .. } => None,
        Address::Mycelium { topic, .. } => Some(topic.clone().unwrap_or_else(|| topic_of(Role::Supervisor, None))),
        Address::Topic { topic } => Some(topic.clone()),
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Peer(peer) => peer.fmt(f),
            Self::Address(address) => address.fmt(f),
            Self::Nobody(text) => f.write_str(text),
            Self::Labels(labels) => {
                for (place, (key, value)) in labels.iter().enumerate() {
                    write!(f, "{}{key}={value}", if place == 0 { "" } else { "," })?;
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use horus_keys::Identity;

    /// Whether a step with that `supervisor:` may go to a supervisor with that key, called at that address.
    fn goes_to(selector: &str, peer: Option<PeerId>, address: &str) -> bool {
        let selector = Selector::parse(selector).unwrap_or_else(|e| panic!("{e}"));
        selector.matches(peer.as_ref(), &address.parse().unwrap(), &BTreeMap::new())
    }

    #[test]
    fn an_http_address_matches_with_and_without_slash_and_pin() {
        let (role, other) = (Identity::generate().peer_id(), Identity::generate().peer_id());
        let pinned = format!("http://host:8080#{role}");
        for wanted in ["http://host:8080", "http://host:8080/", "http://HOST:8080"] {
            assert!(goes_to(wanted, None, "http://host:8080") && goes_to(wanted, None, "http://host:8080/"));
            assert!(goes_to(wanted, Some(role), &pinned) && goes_to(wanted, None, &pinned));
            assert!(!goes_to(wanted, None, "http://host:8081") && !goes_to(wanted, None, "https://host:8080"));
        }
        assert!(
            goes_to("https://host/a/", None, "https://host:443/a") && !goes_to("https://host/a", None, "https://host")
        );
        assert!(goes_to(&pinned, Some(role), "http://host:8080/"), "the key is known by now");
        assert!(!goes_to(&pinned, Some(other), "http://host:8080") && !goes_to(&pinned, None, "http://host:8080"));
        assert!(!goes_to(&format!("http://host:8080#{other}"), Some(role), &pinned));
    }

    #[test]
    fn a_host_of_the_mesh_matches_by_each_of_its_names() {
        let (host, role, other) =
            (Identity::generate().peer_id(), Identity::generate().peer_id(), Identity::generate().peer_id());
        let (ip, key) = (host.overlay_address(), host.mesh_public_key());
        let names = [format!("mycelium://{host}"), format!("mycelium://[{ip}]"), format!("mycelium://{key}")];
        for announced in &names {
            let announced = format!("{announced}/horus.supervisor#{role}");
            for name in &names {
                for wanted in ["", "/", "/horus.supervisor"].map(|topic| format!("{name}{topic}")) {
                    assert!(goes_to(&wanted, Some(role), &announced), "{wanted} {announced}");
                    assert!(goes_to(&wanted, None, name), "{wanted} {name}: given by flag, and not met yet");
                }
                assert!(goes_to(&format!("{name}#{role}"), None, &announced), "the address pins it too");
                assert!(!goes_to(&format!("{name}#{other}"), Some(role), &announced));
                assert!(!goes_to(&format!("{name}/horus.supervisor.b"), Some(role), &announced));
                assert!(!goes_to(name, Some(role), &format!("mycelium://{host}/horus.supervisor.b")));
                assert!(!goes_to(name, Some(role), &format!("mycelium://{other}/horus.supervisor")));
                assert!(!goes_to(name, Some(role), "http://host:8080"));
            }
            assert!(goes_to(&role.to_string(), Some(role), &announced) && goes_to(&role.to_string(), None, &announced));
            assert!(!goes_to(&host.to_string(), Some(role), &announced), "the host's key is not the role's");
            assert!(goes_to("topic:horus.supervisor", Some(role), &announced));
            assert!(!goes_to("topic:horus.supervisor.b", Some(role), &announced));
        }
    }

    #[test]
    fn a_wrong_address_is_refused() {
        for wrong in ["mycelium://nowhere", "ftp://host", "http://host:8080#me", "topic:"] {
            assert!(Selector::parse(wrong).is_err(), "{wrong}");
            let accepted = Selector::accepted(wrong);
            assert_eq!(accepted.to_string(), wrong);
            assert!(
                !accepted.matches(None, &"http://host:8080".parse().unwrap(), &BTreeMap::new()),
                "not just anybody"
            );
        }
    }

    #[test]
    fn labels_must_all_be_there() {
        let selector = Selector::parse("zone=eu, disk=ssd").unwrap();
        let mut labels = BTreeMap::from([("zone".to_owned(), "eu".to_owned())]);
        let address = "http://host:8080".parse().unwrap();
        assert!(!selector.matches(None, &address, &labels));
        labels.insert("disk".to_owned(), "ssd".to_owned());
        assert!(selector.matches(None, &address, &labels));
        assert_eq!(selector.to_string(), "disk=ssd,zone=eu");
    }

    #[test]
    fn a_supervisor_carries_only_labels_that_can_be_asked_for() {
        let check = |pairs: &[(&str, &str)]| {
            let labels = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            Selector::check_labels(&labels)
        };
        assert_eq!(check(&[("zone", "eu"), ("disk", "ssd"), ("version", "a=b")]), Ok(()));
        let long = "x".repeat(300);
        for bad in [
            ("zone", ""),
            ("", "eu"),
            ("zone", "eu,us"),
            (" zone", "eu"),
            ("zone", "e\nu"),
            ("a", "http://b"),
            ("topic:a", "b"),
        ]
        .into_iter()
        .chain([("zone", long.as_str())])
        {
            let error = check(&[bad]).unwrap_err();
            assert!(error.contains("zone=eu") && !error.contains('\n'), "{error}");
        }
        let many = (0..65).map(|n| (n.to_string(), "x".to_owned())).collect();
        assert!(Selector::check_labels(&many).unwrap_err().contains("64"));
    }

    #[test]
    fn what_is_neither_is_refused_with_the_three_ways() {
        let error = Selector::parse("my supervisor").unwrap_err();
        assert!(error.contains("PeerId") && error.contains("labels"), "{error}");
    }
}
