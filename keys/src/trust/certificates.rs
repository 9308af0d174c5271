//! The certificates seen so far: bounded, and cheap to look up.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::digest::Digest;
use crate::documents::Certificate;
use crate::peer_id::PeerId;
use crate::timestamp::Timestamp;

/// Only owners make certificates, so this is a bound on memory and not a line of defence.
const MAX_SEEN: usize = 4096;

/// A certificate whose signatures were verified.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) certificate: Certificate,
    pub(super) digest: Digest,
    pub(super) signers: Vec<PeerId>,
    last_used: AtomicU64,
}

impl Seen {
    pub(super) fn new(certificate: Certificate, digest: Digest, signers: Vec<PeerId>) -> Self {
        Self { certificate, digest, signers, last_used: AtomicU64::new(0) }
    }
}

#[derive(Debug, Default)]
pub(super) struct Certificates {
    by_digest: HashMap<Digest, Arc<Seen>>,
    by_peer: HashMap<PeerId, Vec<Arc<Seen>>>,
    uses: AtomicU64,
}

impl Certificates {
    pub(super) fn find(&self, digest: &Digest) -> Option<&Seen> {
        self.by_digest.get(digest).map(Arc::as_ref)
    }

    /// All certificates of a key, good or not.
    pub(super) fn of(&self, peer: &PeerId) -> &[Arc<Seen>] {
        self.by_peer.get(peer).map_or(&[], Vec::as_slice)
    }

    /// Notes that a certificate was of use.
    pub(super) fn touch(&self, seen: &Seen) {
        seen.last_used.store(self.uses.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
    }

    /// Remembers a certificate; when full, forgets those expired at `now`, else the least recently used.
    pub(super) fn insert(&mut self, seen: Seen, now: Timestamp) {
        if self.by_digest.contains_key(&seen.digest) {
            return;
        }
        if self.by_digest.len() >= MAX_SEEN {
            self.make_room(now);
        }
        self.touch(&seen);
        let seen = Arc::new(seen);
        self.by_peer.entry(seen.certificate.peer_id).or_default().push(Arc::clone(&seen));
        self.by_digest.insert(seen.digest, seen);
    }

    fn make_room(&mut self, now: Timestamp) {
        let expired = |seen: &Seen| seen.certificate.expires_at <= now;
        let mut victims: Vec<Digest> =
            self.by_digest.values().filter(|seen| expired(seen)).map(|seen| seen.digest).collect();
        if victims.is_empty() {
            let oldest = self.by_digest.values().min_by_key(|s| s.last_used.load(Ordering::Relaxed));
            victims.extend(oldest.map(|seen| seen.digest));
        }
        for digest in victims {
            let Some(seen) = self.by_digest.remove(&digest) else {
                continue;
            };
            let peer = seen.certificate.peer_id;
            if let Some(list) = self.by_peer.get_mut(&peer) {
                list.retain(|other| other.digest != digest);
                if list.is_empty() {
                    self.by_peer.remove(&peer);
                }
            }
        }
    }
}
