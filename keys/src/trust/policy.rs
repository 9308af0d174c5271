//! `trust.toml`.

use std::collections::{HashMap, HashSet};
use std::io;
use std::ops::Range;
use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use toml_edit::{Document, Item};

use super::error::TrustError;
use crate::digest::Digest;
use crate::documents::is_valid_name;
use crate::files;
use crate::peer_id::PeerId;
use crate::role::Role;
use crate::runner_kind::RunnerPattern;

/// The largest `trust.toml` that is read, in bytes.
pub(super) const MAX_POLICY_BYTES: usize = 1 << 20;

/// The contents of `trust.toml`: `[[key]]` entries with `id`, `name`, `roles` and `runners`, and
/// `[[revoked]]` entries with either `id` or `certificate`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustPolicy {
    /// Whom we trust, each key once.
    pub keys: Vec<TrustedKey>,
    /// Whom or what we do not trust any more, whoever says otherwise.
    pub revoked: Vec<Revocation>,
}

/// One `[[key]]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrustedKey {
    /// The key.
    pub id: PeerId,
    /// How people call it; at most 128 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The roles it may act in.
    pub roles: Vec<Role>,
    /// The runner kinds it may submit to or run; `*` is all, none is none.
    #[serde(default)]
    pub runners: Vec<RunnerPattern>,
}

/// One `[[revoked]]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Revocation {
    /// `id`: a key. It may do nothing any more, and what it certified as an owner is void.
    Id(PeerId),
    /// `certificate`: one certificate, by the digest of its payload.
    Certificate(Digest),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPolicy {
    #[serde(default)]
    key: Vec<TrustedKey>,
    #[serde(default)]
    revoked: Vec<RawRevocation>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRevocation {
    id: Option<PeerId>,
    certificate: Option<Digest>,
}

impl TrustPolicy {
    /// Reads the text of a `trust.toml`. Strict, for a typing error must not widen or narrow trust
    /// silently: unknown keys, unknown roles and keys listed twice are errors.
    ///
    /// # Errors
    /// [`TrustError::Policy`], naming the line; also for more than 1 MiB of text.
    pub fn parse(text: &str) -> Result<Self, TrustError> {
        if text.len() > MAX_POLICY_BYTES {
            return Err(invalid(format!("it is longer than {MAX_POLICY_BYTES} bytes")));
        }
        let document = Document::parse(text.to_owned()).map_err(invalid)?;
        let raw: RawPolicy = toml_edit::de::from_document(document.clone()).map_err(invalid)?;
        let refuse = |table: &str, index: usize, reason: String| {
            let line = span_of(&document, table, index)
                .map(|span| text[..span.start].bytes().filter(|b| *b == b'\n').count() + 1);
            let place = line.map_or_else(|| format!("entry {}", index + 1), |l| format!("line {l}"));
            invalid(format!("{place}, [[{table}]]: {reason}"))
        };

        let mut ids = HashSet::new();
        for (index, key) in raw.key.iter().enumerate() {
            if !ids.insert(key.id) {
                return Err(refuse("key", index, format!("{} is listed twice; merge the entries", key.id)));
            }
            if key.name.as_deref().is_some_and(|name| !is_valid_name(name)) {
                let reason = "the name is longer than 128 bytes or has control characters";
                return Err(refuse("key", index, reason.into()));
            }
        }
        let mut seen = HashSet::new();
        let mut revoked = Vec::with_capacity(raw.revoked.len());
        for (index, entry) in raw.revoked.iter().enumerate() {
            let revocation = match (entry.id, entry.certificate) {
                (Some(id), None) => Revocation::Id(id),
                (None, Some(digest)) => Revocation::Certificate(digest),
                _ => {
                    let reason = "it needs either `id` or `certificate`";
                    return Err(refuse("revoked", index, reason.into()));
                }
            };
            if !seen.insert(revocation) {
                return Err(refuse("revoked", index, "it is listed twice".into()));
            }
            revoked.push(revocation);
        }
        Ok(Self { keys: raw.key, revoked })
    }

    /// Reads a `trust.toml`. A missing file trusts nobody.
    ///
    /// # Errors
    /// [`TrustError`] if it cannot be read, can be written by others than root and the current user, or is not valid.
    pub fn load(path: &Path) -> Result<Self, TrustError> {
        load(path).map(|(policy, _)| policy)
    }

    /// The entry of a key.
    #[must_use]
    pub fn key(&self, id: &PeerId) -> Option<&TrustedKey> {
        self.keys.iter().find(|key| key.id == *id)
    }
}

// By value, so that it fits `map_err`.
#[allow(clippy::needless_pass_by_value)]
fn invalid(reason: impl ToString) -> TrustError {
    TrustError::Policy { path: None, reason: reason.to_string() }
}

/// Where the entry begins in the text, whether it is a `[[table]]` or inline.
fn span_of(document: &Document<String>, table: &str, index: usize) -> Option<Range<usize>> {
    match document.as_table().get(table)? {
        Item::ArrayOfTables(tables) => tables.get(index)?.span(),
        Item::Value(value) => value.as_array()?.get(index)?.span(),
        _ => None,
    }
}

/// The text of the file: empty if there is none.
pub(super) fn read_text(path: &Path) -> Result<String, TrustError> {
    let contents = match files::read(path, MAX_POLICY_BYTES) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
        Err(source) => {
            return Err(TrustError::Io { action: "read", path: path.to_owned(), source });
        }
        Ok(contents) => contents,
    };
    if contents.mode & 0o022 != 0 {
        return Err(TrustError::Writable { path: path.to_owned(), mode: contents.mode });
    }
    owned(path, contents.owner, nix::unistd::geteuid().as_raw())?;
    String::from_utf8(contents.bytes.to_vec())
        .map_err(|_| TrustError::Policy { path: Some(path.to_owned()), reason: "it is not UTF-8 text".into() })
}

/// Whoever owns a file can change it whatever its mode: that may be root and the user that reads it, and nobody else.
pub(super) fn owned(path: &Path, owner: u32, user: u32) -> Result<(), TrustError> {
    if owner == 0 || owner == user {
        return Ok(());
    }
    Err(TrustError::Owned { path: path.to_owned(), owner, user })
}

/// The policy in the file, and the digest of its text.
pub(super) fn load(path: &Path) -> Result<(TrustPolicy, Digest), TrustError> {
    let text = read_text(path)?;
    let policy = parse_file(path, &text)?;
    Ok((policy, Digest::of(text.as_bytes())))
}

/// Parses, and names the file in the error.
pub(super) fn parse_file(path: &Path, text: &str) -> Result<TrustPolicy, TrustError> {
    TrustPolicy::parse(text).map_err(|error| match error {
        TrustError::Policy { reason, .. } => TrustError::Policy { path: Some(path.to_owned()), reason },
        other => other,
    })
}

/// A policy, arranged for asking.
#[derive(Debug)]
pub(super) struct Index {
    /// Positions in `TrustPolicy::keys`.
    pub(super) keys: HashMap<PeerId, usize>,
    pub(super) revoked_keys: HashSet<PeerId>,
    pub(super) revoked_certificates: HashSet<Digest>,
}

impl Index {
    pub(super) fn of(policy: &TrustPolicy) -> Self {
        let mut index = Self {
            keys: policy.keys.iter().enumerate().map(|(i, key)| (key.id, i)).collect(),
            revoked_keys: HashSet::new(),
            revoked_certificates: HashSet::new(),
        };
        for revocation in &policy.revoked {
            match revocation {
                Revocation::Id(id) => _ = index.revoked_keys.insert(*id),
                Revocation::Certificate(digest) => _ = index.revoked_certificates.insert(*digest),
            }
        }
        index
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Identity;
    use proptest::prelude::*;

    fn id(seed: u8) -> PeerId {
        Identity::from_seed(&[seed; 32]).peer_id()
    }

    #[test]
    fn a_policy_is_read() {
        let (a, b, c) = (id(1), id(2), id(3));
        let digest = Digest::of(b"x");
        let policy = TrustPolicy::parse(&format!(
            "# ours\n[[key]]\nid = \"{a}\"\nname = \"Alice\"\nroles = [\"owner\", \"submitter\"]\nrunners = [\"*\"]\n\n\
             [[key]]\nid = \"{b}\"\nroles = [\"runner\"]\n\n\
             [[revoked]]\nid = \"{c}\"\n[[revoked]]\ncertificate = \"{digest}\"\n"
        ))
        .unwrap();
        assert_eq!(policy.keys.len(), 2);
        let alice = policy.key(&a).unwrap();
        assert_eq!(alice.name.as_deref(), Some("Alice"));
        assert_eq!(
            (&alice.roles[..], &alice.runners[..]),
            (&[Role::Owner, Role::Submitter][..], &[RunnerPattern::Any][..])
        );
        assert!(policy.key(&b).unwrap().runners.is_empty());
        assert_eq!(policy.revoked, [Revocation::Id(c), Revocation::Certificate(digest)]);
        assert_eq!(TrustPolicy::parse("").unwrap(), TrustPolicy::default());
    }

    #[test]
    fn mistakes_are_refused_with_their_line() {
        let a = id(1);
        let key = format!("[[key]]\nid = \"{a}\"\nroles = [\"owner\"]\n");
        let digest = Digest::of(b"x");
        let long = "n".repeat(129);
        for (text, line, word) in [
            (format!("{key}\n{key}"), 5, "listed twice"),
            (format!("{key}role = [\"owner\"]\n"), 4, "unknown field `role`"),
            (format!("# x\n{key}[[keys]]\n"), 5, "unknown field `keys`"),
            ("[[key]]\nid = \"12D3\"\nroles = []\n".into(), 2, "not a PeerId"),
            (format!("[[key]]\nid = \"{a}\"\nroles = [\"admin\"]\n"), 3, "unknown variant `admin`"),
            (format!("[[key]]\nid = \"{a}\"\nroles = \"owner\"\n"), 3, "expected"),
            (format!("{key}runners = [\"a-b\"]\n"), 4, "not a runner kind"),
            (format!("{key}name = \"{long}\"\n"), 1, "128 bytes"),
            ("[[key]]\nroles = []\n".into(), 1, "missing field `id`"),
            (format!("{key}[[revoked]]\n"), 4, "either"),
            (format!("{key}[[revoked]]\nid = \"{a}\"\ncertificate = \"{digest}\"\n"), 4, "either"),
            (format!("[[revoked]]\nid = \"{a}\"\n[[revoked]]\nid = \"{a}\"\n"), 3, "listed twice"),
            (format!("{key}id = \"{a}\"\n"), 4, "duplicate key"),
            ("[[key]\n".into(), 1, "TOML"),
        ] {
            let error = TrustPolicy::parse(&text).unwrap_err().to_string();
            assert!(error.contains(&format!("line {line}")) && error.contains(word), "{text}\ngives\n{error}");
        }
        assert!(TrustPolicy::parse(&"#".repeat(MAX_POLICY_BYTES + 1)).is_err());
        let deep = format!("key = {}{}", "[".repeat(10_000), "]".repeat(10_000));
        assert!(TrustPolicy::parse(&deep).is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(text in "(\\[\\[key\\]\\]\n|[a-z]+ = |\"[^\"]{0,9}\"|\\[|\\]|\n|\\PC){0,30}") {
            let _ = TrustPolicy::parse(&text);
        }
    }
}
