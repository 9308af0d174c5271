//! Outputs and receipts at hand: those used lately in memory, all of them in Redis.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use horus_keys::{Digest, Envelope};
use horus_runners::job::WorkflowId;
use lru::LruCache;

use super::store::{Store, StoreError};

/// Bytes of outputs that are kept in memory.
const OUTPUT_BYTES: usize = 32 << 20;
/// Batches of receipts that are kept in memory.
const RECEIPTS: usize = 2048;
/// Values that one command asks Redis for.
const AT_ONCE: usize = 256;

/// Outputs and receipts by digest. What has the same digest is the same, whichever workflow it came from; but only what a
/// workflow stored is read from Redis for it.
pub(crate) struct Vault {
    store: Store,
    outputs: Mutex<Outputs>,
    receipts: Mutex<LruCache<Digest, Envelope>>,
}

struct Outputs {
    texts: LruCache<Digest, Arc<str>>,
    bytes: usize,
}

impl Vault {
    pub(crate) fn new(store: Store) -> Self {
        Self {
            store,
            outputs: Mutex::new(Outputs { texts: LruCache::unbounded(), bytes: 0 }),
            receipts: Mutex::new(LruCache::new(NonZeroUsize::new(RECEIPTS).expect("it is not zero"))),
        }
    }

    /// Keeps an output in memory.
    pub(crate) fn keep_output(&self, digest: Digest, text: Arc<str>) {
        lock(&self.outputs).keep(digest, text);
    }

    /// Keeps a batch of receipts in memory.
    pub(crate) fn keep_receipt(&self, envelope: &Envelope) {
        let digest = envelope.digest();
        let mut receipts = lock(&self.receipts);
        if receipts.get(&digest).is_none() {
            receipts.put(digest, envelope.clone());
        }
    }

    /// The outputs with those digests: all of them.
    pub(crate) async fn outputs(
        &self,
        id: &WorkflowId,
        wanted: &[Digest],
    ) -> Result<HashMap<Digest, Arc<str>>, StoreError> {
        let mut found = HashMap::with_capacity(wanted.len());
        let mut missing = Vec::new();
        {
            let mut outputs = lock(&self.outputs);
            for digest in wanted {
                match outputs.texts.get(digest) {
                    Some(text) => {
                        found.insert(*digest, Arc::clone(text));
                    }
                    None => missing.push(*digest),
                }
            }
        }
        missing.sort_unstable();
        missing.dedup();
        for some in missing.chunks(AT_ONCE) {
            for (digest, text) in some.iter().zip(self.store.outputs(id, some).await?) {
                let text: Arc<str> = text.ok_or_else(|| absent(id, "output", digest))?.into();
                self.keep_output(*digest, Arc::clone(&text));
                found.insert(*digest, text);
            }
        }
        Ok(found)
    }

    /// The batches of receipts with those digests, in their order.
    pub(crate) async fn receipts(&self, id: &WorkflowId, wanted: &[Digest]) -> Result<Vec<Envelope>, StoreError> {
        let mut found: HashMap<Digest, Envelope> = HashMap::with_capacity(wanted.len());
        let mut missing = Vec::new();
        {
            let mut receipts = lock(&self.receipts);
            for digest in wanted {
                match receipts.get(digest) {
                    Some(envelope) => {
                        found.insert(*digest, envelope.clone());
                    }
                    None => missing.push(*digest),
                }
            }
        }
        for some in missing.chunks(AT_ONCE) {
            for (digest, envelope) in some.iter().zip(self.store.receipts(id, some).await?) {
                let envelope = envelope.ok_or_else(|| absent(id, "receipt", digest))?;
                self.keep_receipt(&envelope);
                found.insert(*digest, envelope);
            }
        }
        Ok(wanted.iter().filter_map(|digest| found.get(digest).cloned()).collect())
    }
}

impl Outputs {
    fn keep(&mut self, digest: Digest, text: Arc<str>) {
        if self.texts.get(&digest).is_some() {
            return;
        }
        self.bytes += text.len();
        self.texts.put(digest, text);
        while self.bytes > OUTPUT_BYTES || self.texts.len() > OUTPUT_BYTES / 256 {
            let Some((_, oldest)) = self.texts.pop_lru() else { return };
            self.bytes -= oldest.len();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn absent(id: &WorkflowId, what: &str, digest: &Digest) -> StoreError {
    StoreError::Corrupt { id: id.clone(), reason: format!("its {what} {digest} is missing") }
}
