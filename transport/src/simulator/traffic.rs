//! What a node was made to do, for tests that hold it to a budget.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::daemon::lock;

/// What one node sent, received and was asked, since the simulator started. Restarts do not reset it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Traffic {
    /// Messages that the node sent, replies included.
    pub messages: u64,
    /// Those of them that were replies.
    pub replies: u64,
    /// The bytes of their payloads.
    pub bytes: u64,
    /// Messages and replies that came out at this node.
    pub received: u64,
    /// Calls of the daemon's API, by method.
    pub calls: BTreeMap<&'static str, u64>,
    /// Calls of popMessage with a timeout, which hold up all other calls.
    pub blocking_pops: u64,
}

impl Traffic {
    /// How often that method of the daemon was called.
    #[must_use]
    pub fn calls(&self, method: &str) -> u64 {
        self.calls.get(method).copied().unwrap_or(0)
    }
}

#[derive(Default)]
pub(super) struct Counts {
    messages: AtomicU64,
    replies: AtomicU64,
    bytes: AtomicU64,
    received: AtomicU64,
    blocking_pops: AtomicU64,
    calls: Mutex<BTreeMap<&'static str, u64>>,
}

impl Counts {
    pub(super) fn sent(&self, is_reply: bool, bytes: usize) {
        self.messages.fetch_add(1, Ordering::Relaxed);
        self.replies.fetch_add(u64::from(is_reply), Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn received(&self) {
        self.received.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn called(&self, method: &'static str) {
        *lock(&self.calls).entry(method).or_default() += 1;
    }

    pub(super) fn blocking_pop(&self) {
        self.blocking_pops.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn traffic(&self) -> Traffic {
        Traffic {
            messages: self.messages.load(Ordering::Relaxed),
            replies: self.replies.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            received: self.received.load(Ordering::Relaxed),
            calls: lock(&self.calls).clone(),
            blocking_pops: self.blocking_pops.load(Ordering::Relaxed),
        }
    }
}
