//! Whose jobs they are, remembered so that not every poll for a result asks Redis: it can be forgotten at any moment.

use std::num::NonZeroUsize;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use horus_keys::PeerId;
use horus_runners::job::{Job, JobId};
use horus_runners::queue::JobView;
use lru::LruCache;

/// Most owners of jobs that are kept.
const OWNERS: NonZeroUsize = NonZeroUsize::new(16_384).expect("not zero");
/// How long an owner is believed. It never changes while a job exists; this bounds what is said of one that does not any more.
const OWNER_LIFE: Duration = Duration::from_secs(60);

/// Whose job it is.
///
/// Any coordinator that the signed workflow names may take the workflow over, and has to see to the jobs that another one sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) submitter: PeerId,
    /// The coordinator that delegated it, and the others that its workflow names.
    pub(super) coordinators: Vec<PeerId>,
}

impl Owner {
    /// Whether the job is this key's own, to see and to steer.
    pub(super) fn is(&self, peer: PeerId) -> bool {
        self.submitter == peer || self.coordinators.contains(&peer)
    }
}

impl From<&JobView> for Owner {
    fn from(view: &JobView) -> Self {
        let coordinators = view.delegate.iter().chain(&view.coordinators).copied().collect();
        Self { submitter: view.submitter, coordinators }
    }
}

impl From<&Job> for Owner {
    fn from(job: &Job) -> Self {
        Self { submitter: job.submitter, coordinators: job.coordinators.clone() }
    }
}

/// The owners of jobs that were asked for lately.
pub(super) struct Owners(Mutex<LruCache<JobId, (Owner, Instant)>>);

impl Owners {
    pub(super) fn new() -> Self {
        Self(Mutex::new(LruCache::new(OWNERS)))
    }

    pub(super) fn get(&self, id: &JobId) -> Option<Owner> {
        let mut owners = locked(&self.0);
        let (owner, since) = owners.get(id)?;
        if since.elapsed() < OWNER_LIFE {
            return Some(owner.clone());
        }
        owners.pop(id);
        None
    }

    pub(super) fn insert(&self, id: &JobId, owner: Owner) {
        locked(&self.0).put(id.clone(), (owner, Instant::now()));
    }

    /// After trouble with Redis: it may have come back without what it held.
    pub(super) fn forget_all(&self) {
        locked(&self.0).clear();
    }

    pub(super) fn forget(&self, id: &JobId) {
        locked(&self.0).pop(id);
    }
}

/// The lock's content. Nothing here panics while it is held, so a poisoned lock holds a sound value all the same.
pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_forgotten() {
        let owners = Owners::new();
        let id: JobId = "noop-a".parse().unwrap();
        let submitter = horus_keys::Identity::generate().peer_id();
        let owner = Owner { submitter, coordinators: Vec::new() };
        owners.insert(&id, owner.clone());
        assert_eq!(owners.get(&id), Some(owner));
        owners.forget(&id);
        assert_eq!(owners.get(&id), None);
    }
}
