//! Who waits for which job: a hint that a job has ended wakes exactly those who wait for it.
//!
//! A waiter registers first and looks at the truth then, so that a job which ends in between is either seen or hinted; and
//! it looks again from time to time, for a hint may be lost. It need not look first at jobs that this process itself has
//! queued and whose end it has not heard of: they are expected.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};

use horus_runners::job::JobId;
use horus_runners::queue::{Finished, JobResult};
use lru::LruCache;
use tokio::sync::Notify;

use super::owners::locked;

/// Most calls that may wait at a time.
pub(super) const MAX_WAITS: usize = 4096;
/// Most jobs that all of them may wait for together.
pub(super) const MAX_WAITED_JOBS: usize = 131_072;

/// Most jobs that are expected; of what is forgotten the truth is looked at.
const EXPECTED: NonZeroUsize = NonZeroUsize::new(16_384).expect("not zero");

/// Too many callers wait already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooManyWaits;

/// What a waiter was told.
#[derive(Debug, Default)]
pub(super) struct Hints {
    /// Hints may have been lost: look at every job.
    pub(super) all: bool,
    /// These jobs have ended, it is said.
    pub(super) jobs: Vec<JobId>,
    /// Results of jobs that have ended.
    pub(super) results: Vec<JobResult>,
}

/// One waiting call.
#[derive(Default)]
struct Slot {
    hints: Mutex<Hints>,
    notify: Notify,
}

impl Slot {
    fn add(&self, add: impl FnOnce(&mut Hints)) {
        add(&mut locked(&self.hints));
        self.notify.notify_one();
    }
}

struct Register {
    next: u64,
    waits: HashMap<u64, Arc<Slot>>,
    by_job: HashMap<JobId, Vec<u64>>,
    jobs: usize,
    expected: LruCache<JobId, ()>,
}

impl Default for Register {
    fn default() -> Self {
        let expected = LruCache::new(EXPECTED);
        Self { next: 0, waits: HashMap::new(), by_job: HashMap::new(), jobs: 0, expected }
    }
}

impl Register {
    /// Who waits for that job.
    fn waiting(&self, job: &JobId) -> impl Iterator<Item = &Arc<Slot>> {
        self.by_job.get(job).into_iter().flatten().filter_map(|number| self.waits.get(number))
    }
}

/// The waiting calls, by the jobs they wait for.
#[derive(Default)]
pub(super) struct Waiters {
    register: Mutex<Register>,
}

impl Waiters {
    /// Registers a wait for `jobs`. It ends when the [`Wait`] is dropped.
    pub(super) fn register(self: &Arc<Self>, jobs: &[JobId]) -> Result<Wait, TooManyWaits> {
        let mut register = locked(&self.register);
        if register.waits.len() >= MAX_WAITS || register.jobs + jobs.len() > MAX_WAITED_JOBS {
            return Err(TooManyWaits);
        }
        let number = register.next;
        register.next += 1;
        register.jobs += jobs.len();
        let slot = Arc::new(Slot::default());
        register.waits.insert(number, slot.clone());
        for job in jobs {
            register.by_job.entry(job.clone()).or_default().push(number);
        }
        let unknown = jobs.iter().filter(|job| !register.expected.contains(*job)).cloned().collect();
        Ok(Wait { number, slot, jobs: jobs.to_vec(), unknown, waiters: self.clone() })
    }

    /// These jobs are about to be queued: from now on their end will be heard.
    pub(super) fn expect(self: &Arc<Self>, jobs: Vec<JobId>) -> Expected {
        let mut register = locked(&self.register);
        for job in &jobs {
            register.expected.put(job.clone(), ());
        }
        drop(register);
        Expected { jobs, waiters: self.clone() }
    }

    /// Tells those who wait for one of these jobs that it has ended, and how, if that came along.
    pub(super) fn ended(&self, ended: &Finished) {
        let mut register = locked(&self.register);
        let mut waiting: Vec<(usize, Arc<Slot>)> = Vec::new();
        for (place, job) in ended.jobs.iter().enumerate() {
            register.expected.pop(job);
            waiting.extend(register.waiting(job).map(|slot| (place, Arc::clone(slot))));
        }
        drop(register);
        if waiting.is_empty() {
            return;
        }
        let results = ended.results();
        for (place, slot) in waiting {
            slot.add(|hints| match results.as_ref().and_then(|results| results.get(place)) {
                Some(result) => hints.results.push(result.clone()),
                None => hints.jobs.push(ended.jobs[place].clone()),
            });
        }
    }

    /// Tells everybody to look again, for hints may have been lost.
    pub(super) fn look_again(&self) {
        let mut register = locked(&self.register);
        register.expected.clear();
        for slot in register.waits.values() {
            slot.add(|hints| hints.all = true);
        }
    }

    /// How many calls wait now.
    #[cfg(test)]
    fn len(&self) -> usize {
        locked(&self.register).waits.len()
    }
}

/// Jobs that are being queued. Unless it turns out that they are new, whoever waits for them has to look, also if nobody
/// learns what became of the attempt.
pub(super) struct Expected {
    jobs: Vec<JobId>,
    waiters: Arc<Waiters>,
}

impl Expected {
    /// They were queued, except for some that were there before: `new` says which are new, in their order.
    pub(super) fn queued(mut self, new: impl IntoIterator<Item = bool>) {
        let mut new = new.into_iter();
        self.jobs.retain(|_| new.next() != Some(true));
    }
}

impl Drop for Expected {
    fn drop(&mut self) {
        if self.jobs.is_empty() {
            return;
        }
        let mut register = locked(&self.waiters.register);
        for job in &self.jobs {
            register.expected.pop(job);
            for slot in register.waiting(job) {
                slot.add(|hints| hints.jobs.push(job.clone()));
            }
        }
    }
}

/// A registered wait.
pub(super) struct Wait {
    number: u64,
    slot: Arc<Slot>,
    jobs: Vec<JobId>,
    /// Those of the jobs whose truth has to be looked at first.
    unknown: Vec<JobId>,
    waiters: Arc<Waiters>,
}

impl Wait {
    /// The jobs that may have ended before the wait began.
    pub(super) fn unknown(&self) -> &[JobId] {
        &self.unknown
    }

    /// Waits for the next hints. Hints that came before the call are returned at once; cancelling it loses none.
    pub(super) async fn hinted(&self) -> Hints {
        loop {
            let hints = std::mem::take(&mut *locked(&self.slot.hints));
            if hints.all || !hints.jobs.is_empty() || !hints.results.is_empty() {
                return hints;
            }
            self.slot.notify.notified().await;
        }
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        let mut register = locked(&self.waiters.register);
        register.waits.remove(&self.number);
        register.jobs -= self.jobs.len();
        for job in &self.jobs {
            if let Some(numbers) = register.by_job.get_mut(job) {
                numbers.retain(|number| *number != self.number);
                if numbers.is_empty() {
                    register.by_job.remove(job);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    fn job(id: &str) -> JobId {
        format!("noop-{id}").parse().unwrap()
    }

    fn ended(ids: &str) -> Finished {
        Finished::read(format!("noop {ids}"))
    }

    #[tokio::test]
    async fn a_hint_wakes_only_those_who_wait_for_that_job() {
        let waiters = Arc::new(Waiters::default());
        let first = waiters.register(&[job("a"), job("b")]).unwrap();
        let second = waiters.register(&[job("c")]).unwrap();
        waiters.ended(&ended("b x"));
        assert_eq!(first.hinted().await.jobs, [job("b")]);
        assert!(second.hinted().now_or_never().is_none());
        assert!(first.hinted().now_or_never().is_none(), "told once");
    }

    #[tokio::test]
    async fn only_jobs_that_were_just_queued_need_no_look() {
        let waiters = Arc::new(Waiters::default());
        let unknown = |jobs: &[JobId]| waiters.register(jobs).unwrap().unknown().to_vec();
        let all = [job("a"), job("b"), job("c")];
        waiters.expect(all.to_vec()).queued([true; 3]);
        assert!(unknown(&all).is_empty());
        waiters.ended(&ended("a"));
        assert_eq!(unknown(&all), [job("a")]);
        let wait = waiters.register(&all[1..]).unwrap();
        // It turns out that this one was there before.
        waiters.expect(vec![job("b")]).queued([false]);
        assert_eq!(wait.hinted().await.jobs, [job("b")]);
        // Nobody learns what became of this one.
        drop(waiters.expect(vec![job("c")]));
        assert_eq!(wait.hinted().await.jobs, [job("c")]);
        assert_eq!(unknown(&all), all);
        waiters.expect(all.to_vec()).queued([true; 3]);
        waiters.look_again();
        assert_eq!(unknown(&all), all);
    }

    #[tokio::test]
    async fn a_lost_connection_makes_everybody_look_again() {
        let waiters = Arc::new(Waiters::default());
        let wait = waiters.register(&[job("a")]).unwrap();
        waiters.look_again();
        assert!(wait.hinted().await.all);
    }

    #[test]
    fn a_wait_leaves_nothing_behind() {
        let waiters = Arc::new(Waiters::default());
        let one = waiters.register(&[job("a"), job("b")]).unwrap();
        let two = waiters.register(&[job("b")]).unwrap();
        drop(one);
        assert_eq!(waiters.len(), 1);
        drop(two);
        let register = locked(&waiters.register);
        assert!(register.by_job.is_empty() && register.waits.is_empty());
        assert_eq!(register.jobs, 0);
    }

    #[test]
    fn waits_are_bounded() {
        let waiters = Arc::new(Waiters::default());
        let held: Vec<Wait> = (0..MAX_WAITS).map(|_| waiters.register(&[job("a")]).unwrap()).collect();
        assert!(waiters.register(&[job("a")]).is_err());
        drop(held);
        assert!(waiters.register(&[job("a")]).is_ok());
        let many: Vec<JobId> = (0..MAX_WAITED_JOBS + 1).map(|n| job(&n.to_string())).collect();
        assert!(waiters.register(&many).is_err());
    }
}
