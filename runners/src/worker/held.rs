//! The jobs that a worker holds, from claim to finish.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{executor::LogSink, job::LocalId, queue::Claimed};

/// Why a job is to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Stop {
    /// Somebody cancelled it.
    Cancelled = 1,
    /// It was given to another worker: nobody wants to hear of it any more.
    Gone = 2,
    /// The worker stops and its grace is over.
    Shutdown = 3,
}

/// What the other tasks of the worker know about a held job.
#[derive(Debug, Clone)]
pub(crate) struct HeldJob {
    pub(crate) token: u64,
    pub(crate) log: LogSink,
    pub(crate) cancel: CancellationToken,
    stop: Arc<AtomicU8>,
}

impl HeldJob {
    fn new(token: u64) -> Self {
        Self { token, log: LogSink::new(), cancel: CancellationToken::new(), stop: Arc::default() }
    }

    /// Asks the job to stop; the first reason counts.
    pub(crate) fn stop(&self, why: Stop) {
        let _ = self.stop.compare_exchange(0, why as u8, Ordering::AcqRel, Ordering::Acquire);
        self.cancel.cancel();
    }

    /// Why the job is to stop, if it is.
    pub(crate) fn why(&self) -> Option<Stop> {
        match self.stop.load(Ordering::Acquire) {
            1 => Some(Stop::Cancelled),
            2 => Some(Stop::Gone),
            3 => Some(Stop::Shutdown),
            _ => None,
        }
    }
}

/// All held jobs by id.
#[derive(Debug, Default)]
pub(crate) struct Held {
    jobs: Mutex<HashMap<LocalId, HeldJob>>,
    changed: Notify,
    /// Redis may believe that we hold jobs which are not here.
    uncertain: AtomicBool,
}

impl Held {
    /// The map is whole after every statement, so a panic elsewhere while it was locked does no harm.
    fn jobs(&self) -> MutexGuard<'_, HashMap<LocalId, HeldJob>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn insert(&self, claimed: &[Claimed]) {
        let mut jobs = self.jobs();
        for job in claimed {
            // A lease that lapsed unnoticed: the job came back to this very worker while its former delivery runs on.
            if let Some(former) = jobs.insert(job.id.clone(), HeldJob::new(job.token)) {
                former.stop(Stop::Gone);
            }
        }
        drop(jobs);
        self.changed.notify_waiters();
    }

    /// Lets go of a job, unless it was claimed again meanwhile.
    pub(crate) fn remove(&self, id: &LocalId, token: u64) {
        let mut jobs = self.jobs();
        if jobs.get(id).is_some_and(|job| job.token == token) {
            jobs.remove(id);
        }
        let empty = jobs.is_empty();
        drop(jobs);
        if empty {
            self.changed.notify_waiters();
        }
    }

    /// Lets go of a job of which Redis could not be told: the claimer sets it right before it claims again.
    pub(crate) fn disown(&self, id: &LocalId, token: u64) {
        self.remove(id, token);
        self.set_uncertain(true);
    }

    pub(crate) fn set_uncertain(&self, uncertain: bool) {
        self.uncertain.store(uncertain, Ordering::Release);
    }

    pub(crate) fn is_uncertain(&self) -> bool {
        self.uncertain.load(Ordering::Acquire)
    }

    pub(crate) fn get(&self, id: &LocalId, token: u64) -> Option<HeldJob> {
        self.jobs().get(id).filter(|job| job.token == token).cloned()
    }

    pub(crate) fn stop(&self, id: &str, why: Stop) {
        let job = self.jobs().get(id).cloned();
        if let Some(job) = job {
            job.stop(why);
        }
    }

    pub(crate) fn stop_all(&self, why: Stop) {
        for (_, job) in self.all() {
            job.stop(why);
        }
    }

    pub(crate) fn all(&self) -> Vec<(LocalId, HeldJob)> {
        self.jobs().iter().map(|(id, job)| (id.clone(), job.clone())).collect()
    }

    pub(crate) fn tokens(&self) -> Vec<(LocalId, u64)> {
        self.jobs().iter().map(|(id, job)| (id.clone(), job.token)).collect()
    }

    pub(crate) fn ids(&self) -> Vec<LocalId> {
        self.jobs().keys().cloned().collect()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.jobs().is_empty()
    }

    /// Waits until there are no jobs, or until there are some.
    pub(crate) async fn until(&self, empty: bool) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.is_empty() == empty {
                return;
            }
            changed.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use horus_keys::{Digest, Timestamp};

    use super::*;

    fn claimed(id: &str, token: u64) -> Claimed {
        Claimed {
            id: LocalId::new(id).unwrap(),
            token,
            batch: Digest::of(b""),
            index: 0,
            attempt: 0,
            running: false,
            run_until: Timestamp::now(),
        }
    }

    #[test]
    fn the_first_reason_to_stop_counts() {
        let held = Held::default();
        held.insert(&[claimed("a", 1)]);
        let job = held.get(&LocalId::new("a").unwrap(), 1).unwrap();
        assert_eq!(job.why(), None);
        held.stop("a", Stop::Gone);
        held.stop_all(Stop::Shutdown);
        assert!(job.cancel.is_cancelled() && job.why() == Some(Stop::Gone));
    }

    #[test]
    fn a_late_removal_does_not_hit_the_next_claim_of_the_same_job() {
        let (held, id) = (Held::default(), LocalId::new("a").unwrap());
        held.insert(&[claimed("a", 1)]);
        held.insert(&[claimed("a", 2)]);
        held.remove(&id, 1);
        assert!(held.get(&id, 1).is_none() && held.get(&id, 2).is_some());
    }

    #[test]
    fn a_former_delivery_of_a_job_that_comes_back_is_stopped() {
        let (held, id) = (Held::default(), LocalId::new("a").unwrap());
        held.insert(&[claimed("a", 1)]);
        let former = held.get(&id, 1).unwrap();
        held.insert(&[claimed("a", 2)]);
        assert_eq!(former.why(), Some(Stop::Gone));
        assert_eq!(held.get(&id, 2).unwrap().why(), None);
        assert!(!held.is_uncertain());
        held.disown(&id, 2);
        assert!(held.is_empty() && held.is_uncertain());
    }

    #[tokio::test]
    async fn one_can_wait_for_the_last_job() {
        let held = Arc::new(Held::default());
        held.until(true).await;
        held.insert(&[claimed("a", 1)]);
        held.until(false).await;
        let waiting = tokio::spawn({
            let held = held.clone();
            async move { held.until(true).await }
        });
        tokio::task::yield_now().await;
        held.remove(&LocalId::new("a").unwrap(), 1);
        tokio::time::timeout(std::time::Duration::from_secs(5), waiting).await.unwrap().unwrap();
    }
}
