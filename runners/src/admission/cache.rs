//! What was verified once need not be verified again.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use horus_keys::{Digest, Envelope};
use lru::LruCache;

/// Whether a document was part of something that admission accepted.
#[derive(Debug, Default)]
pub(super) struct Accepted(AtomicBool);

impl Accepted {
    pub(super) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A verified document that can be kept.
pub(super) trait Entry {
    fn envelope(&self) -> &Envelope;
    fn accepted(&self) -> &Accepted;
    /// Roughly the memory it takes, in bytes.
    fn weight(&self) -> usize;
}

/// The documents used last, as many as fit into a number of bytes.
///
/// Two keys can sign one payload, so a digest alone does not say which envelope was verified: an entry is given for an envelope only if they
/// are equal to the last bit, and for a digest only once admission accepted it. So a stranger who signs somebody else's payload
/// can neither pass for him nor push him out.
pub(super) struct Cache<T> {
    state: Mutex<State<T>>,
    max_weight: usize,
}

struct State<T> {
    entries: LruCache<Digest, Arc<T>>,
    weight: usize,
}

impl<T: Entry> Cache<T> {
    pub(super) fn new(max_weight: usize) -> Self {
        Self { state: Mutex::new(State { entries: LruCache::unbounded(), weight: 0 }), max_weight }
    }

    /// The document of exactly this envelope.
    pub(super) fn verified(&self, envelope: &Envelope) -> Option<Arc<T>> {
        let digest = envelope.digest();
        self.lock().entries.get(&digest).filter(|entry| entry.envelope() == envelope).cloned()
    }

    /// The document with this payload, if admission accepted it.
    pub(super) fn accepted(&self, digest: &Digest) -> Option<Arc<T>> {
        self.lock().entries.get(digest).filter(|entry| entry.accepted().get()).cloned()
    }

    pub(super) fn insert(&self, entry: &Arc<T>) {
        let digest = entry.envelope().digest();
        let mut state = self.lock();
        if entry.weight() > self.max_weight || state.entries.peek(&digest).is_some_and(|known| known.accepted().get()) {
            return;
        }
        state.weight += entry.weight();
        if let Some(replaced) = state.entries.put(digest, entry.clone()) {
            state.weight -= replaced.weight();
        }
        while state.weight > self.max_weight {
            let Some((_, oldest)) = state.entries.pop_lru() else { break };
            state.weight -= oldest.weight();
        }
    }

    /// No code panics between two changes that belong together, so a poisoned lock guards a sound state.
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use horus_keys::{Identity, PayloadType};

    use super::*;

    struct Doc(Envelope, Accepted);

    impl Entry for Doc {
        fn envelope(&self) -> &Envelope {
            &self.0
        }
        fn accepted(&self) -> &Accepted {
            &self.1
        }
        fn weight(&self) -> usize {
            self.0.payload().len()
        }
    }

    fn doc(seed: u8, payload: &[u8]) -> Arc<Doc> {
        let identity = Identity::from_seed(&[seed; 32]);
        Arc::new(Doc(Envelope::sign(&identity, PayloadType::Jobs, payload.to_vec()), Accepted::default()))
    }

    #[test]
    fn another_signature_over_the_same_payload_is_another_envelope() {
        let cache = Cache::new(100);
        let (mine, theirs) = (doc(1, b"payload"), doc(2, b"payload"));
        cache.insert(&theirs);
        assert!(cache.verified(&mine.0).is_none());
        assert!(cache.accepted(&mine.0.digest()).is_none(), "nobody accepted it yet");

        mine.1.set();
        cache.insert(&mine);
        cache.insert(&theirs);
        assert!(cache.verified(&mine.0).is_some() && cache.verified(&theirs.0).is_none());
        assert!(cache.accepted(&mine.0.digest()).is_some());
    }

    #[test]
    fn memory_is_bounded() {
        let cache = Cache::new(100);
        let docs: Vec<_> = (0..20_u8).map(|n| doc(1, &[n; 30])).collect();
        docs.iter().for_each(|doc| cache.insert(doc));
        let kept = docs.iter().filter(|doc| cache.verified(&doc.0).is_some()).count();
        assert_eq!(kept, 3);
        assert!(cache.verified(&docs[19].0).is_some(), "the newest stay");
        cache.insert(&doc(1, &[7; 101]));
        assert!(cache.verified(&docs[19].0).is_some(), "what can never fit pushes nothing out");
    }
}
