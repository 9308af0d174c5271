//! Names of the keys in Redis.
//!
//! All keys of one runner kind begin with `horus:{<runner>}`; the braces are the hash tag that keeps them in one slot of a cluster.
//!
//! | key | type | holds |
//! |---|---|---|
//! | `:pending:high`, `:pending:normal`, `:pending:low` | sorted set | ids of due jobs by sequence number |
//! | `:delayed` | sorted set | ids by `not_before` (ms) |
//! | `:active` | hash | id of a claimed or running job -> worker that holds it |
//! | `:done` | sorted set | ids of finished jobs by the time they ended (ms) |
//! | `:jobs` | sorted set | ids of all jobs by sequence number: order of acceptance, for listing |
//! | `:expiry` | sorted set | ids of waiting jobs by `run_until` (ms) |
//! | `:wake` | list | at most one element, on which idle workers block |
//! | `:seq` | integer | the last sequence number and fencing token |
//! | `:job:<id>` | hash | the job's record; after it is forgotten a stub with `spec`, `status`, `submitter`, `deleted`, until `run_until` + 1 h |
//! | `:log:<id>` | stream | lines of the log: `s` stream, `at` time (ms), `t` text |
//! | `:batch:<digest>` | hash | `envelope`, `needs` (documents its jobs need), `refs` (its unfinished jobs; it goes with the last) |
//! | `:wf:<digest>` | hash | `envelope` of a workflow, until `run_until` + 1 h |
//! | `:rc:<digest>` | hash | `envelope` of receipts, `refs` (finished jobs here that it is the result of), `until` (kept for jobs that need it) |
//! | `:workers` | set | ids of workers |
//! | `:worker:<id>` | hash | facts about a worker and `beat`, its heartbeat counter |
//!
//! Outside of any kind: `horus:kinds` (set of runner kinds), `horus:kinds:removed` (those whose last runner was removed), and the
//! pub/sub channels `horus:finished` (`<runner> <id> <id>...`, and after a line end the results, if they are short: see `events`) and
//! `horus:{<runner>}:cancel` (`<id> <id>...`).

use horus_keys::{Digest, RunnerKind};

/// Set of all runner kinds that have, or had, a queue here.
pub(crate) const KINDS: &str = "horus:kinds";
/// Those of them whose last runner was removed: jobs of these are accepted no more, until a runner comes.
pub(crate) const REMOVED: &str = "horus:kinds:removed";
/// Channel that tells which jobs finished.
pub(crate) const FINISHED: &str = "horus:finished";

/// The beginning of all keys of one kind.
pub(crate) fn base(kind: &RunnerKind) -> String {
    format!("horus:{{{}}}", kind.as_str())
}

pub(crate) fn key(kind: &RunnerKind, name: &str) -> String {
    format!("horus:{{{}}}:{name}", kind.as_str())
}

pub(crate) fn log(kind: &RunnerKind, id: &str) -> String {
    format!("horus:{{{}}}:log:{id}", kind.as_str())
}

/// A document beside the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Document {
    Batch(Digest),
    Workflow(Digest),
    Receipts(Digest),
}

impl Document {
    /// Its prefix in key names.
    pub(crate) const fn prefix(self) -> &'static str {
        match self {
            Self::Batch(_) => "batch",
            Self::Workflow(_) => "wf",
            Self::Receipts(_) => "rc",
        }
    }

    pub(crate) const fn digest(self) -> Digest {
        match self {
            Self::Batch(digest) | Self::Workflow(digest) | Self::Receipts(digest) => digest,
        }
    }

    /// `wf:<hex>`: the key without its base.
    pub(crate) fn name(self) -> String {
        format!("{}:{}", self.prefix(), self.digest().hex())
    }

    /// Reads [`Document::name`].
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let (prefix, hex) = name.split_once(':')?;
        let digest = digest_of_hex(hex)?;
        match prefix {
            "batch" => Some(Self::Batch(digest)),
            "wf" => Some(Self::Workflow(digest)),
            "rc" => Some(Self::Receipts(digest)),
            _ => None,
        }
    }
}

/// Digests are stored without their `sha256:`: 64 bytes still fit into Redis' compact encoding of small hashes.
pub(crate) fn digest_of_hex(hex: &str) -> Option<Digest> {
    format!("sha256:{hex}").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_a_kind_share_the_hash_tag() {
        let kind: RunnerKind = "hero".parse().unwrap();
        assert_eq!(base(&kind), "horus:{hero}");
        assert_eq!(log(&kind, "a-b"), "horus:{hero}:log:a-b");
        assert_eq!(key(&kind, "wake"), "horus:{hero}:wake");
    }

    #[test]
    fn names_of_documents_can_be_read_back() {
        let digest = Digest::of(b"x");
        for document in [Document::Batch(digest), Document::Workflow(digest), Document::Receipts(digest)] {
            assert_eq!(Document::parse(&document.name()), Some(document));
        }
        assert_eq!(Document::parse("wf:xyz"), None);
        assert_eq!(Document::parse("nothing"), None);
    }
}
