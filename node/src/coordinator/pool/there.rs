//! What lies at which supervisor already, and need not be sent there again.

use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};

use horus_keys::{Digest, PeerId, RunnerKind};
use lru::LruCache;

/// Documents that are remembered; of the others it is found out by trying.
const REMEMBERED: usize = 64 << 10;

#[derive(PartialEq, Eq, Hash)]
enum Document {
    /// Workflows lie beside the queue of each kind.
    Workflow(Digest, RunnerKind),
    Receipts(Digest),
}

/// Documents that supervisors were sent, or gave.
pub(crate) struct There {
    seen: Mutex<LruCache<(PeerId, Document), ()>>,
}

impl There {
    pub(super) fn new() -> Self {
        Self { seen: Mutex::new(LruCache::new(NonZeroUsize::new(REMEMBERED).expect("it is not zero"))) }
    }

    fn has(&self, peer: PeerId, document: Document) -> bool {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).get(&(peer, document)).is_some()
    }

    fn note(&self, peer: PeerId, document: Document) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).put((peer, document), ());
    }

    /// Whether a workflow lies beside the queue of that kind.
    pub(crate) fn has_workflow(&self, peer: PeerId, workflow: Digest, kind: &RunnerKind) -> bool {
        self.has(peer, Document::Workflow(workflow, kind.clone()))
    }

    /// Notes that it does.
    pub(crate) fn note_workflow(&self, peer: PeerId, workflow: Digest, kind: &RunnerKind) {
        self.note(peer, Document::Workflow(workflow, kind.clone()));
    }

    /// Whether a batch of receipts is there: it was made there, or sent there.
    pub(crate) fn has_receipts(&self, peer: PeerId, receipts: Digest) -> bool {
        self.has(peer, Document::Receipts(receipts))
    }

    /// Notes that it is.
    pub(crate) fn note_receipts(&self, peer: PeerId, receipts: Digest) {
        self.note(peer, Document::Receipts(receipts));
    }
}
