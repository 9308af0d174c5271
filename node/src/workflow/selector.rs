//! Which supervisors a step may go to: the `supervisor` key of a step.

use std::collections::BTreeMap;
use std::fmt;

use horus_keys::PeerId;

/// A choice of supervisors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selector {
    /// The one with this key.
    Peer(PeerId),
    /// The one at this address, as the coordinator was told it.
    Address(String),
    /// Those that carry all of these labels: `zone=eu,disk=ssd`.
    Labels(BTreeMap<String, String>),
}

impl Selector {
    /// Reads the key's value: a PeerId, an address (it has `://` or starts with `topic:`), or labels.
    ///
    /// # Errors
    /// A text that is none of these, with what was expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if let Ok(peer) = text.parse() {
            return Ok(Self::Peer(peer));
        }
        if text.contains("://") || text.starts_with("topic:") {
            return Ok(Self::Address(text.trim_end_matches('/').to_owned()));
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

    /// Whether a supervisor is among the chosen.
    #[must_use]
    pub fn matches(&self, peer: Option<&PeerId>, address: &str, labels: &BTreeMap<String, String>) -> bool {
        match self {
            Self::Peer(wanted) => peer == Some(wanted),
            Self::Address(wanted) => {
                // An address may pin a key behind `#`; the step need not repeat it.
                let address = address.trim_end_matches('/');
                let bare = address.split('#').next().unwrap_or(address).trim_end_matches('/');
                wanted == address || wanted == bare
            }
            Self::Labels(wanted) => wanted.iter().all(|(key, value)| labels.get(key) == Some(value)),
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Peer(peer) => peer.fmt(f),
            Self::Address(address) => f.write_str(address),
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

    #[test]
    fn an_address_matches_with_and_without_its_pin() {
        let selector = Selector::parse("http://host:8080/").unwrap();
        let none = BTreeMap::new();
        assert!(selector.matches(None, "http://host:8080", &none));
        assert!(selector.matches(None, "http://host:8080#12D3KooW", &none));
        assert!(!selector.matches(None, "http://host:8081", &none));
    }

    #[test]
    fn labels_must_all_be_there() {
        let selector = Selector::parse("zone=eu, disk=ssd").unwrap();
        let mut labels = BTreeMap::from([("zone".to_owned(), "eu".to_owned())]);
        assert!(!selector.matches(None, "", &labels));
        labels.insert("disk".to_owned(), "ssd".to_owned());
        assert!(selector.matches(None, "", &labels));
        assert_eq!(selector.to_string(), "disk=ssd,zone=eu");
    }

    #[test]
    fn what_is_neither_is_refused_with_the_three_ways() {
        let error = Selector::parse("my supervisor").unwrap_err();
        assert!(error.contains("PeerId") && error.contains("labels"), "{error}");
    }
}
