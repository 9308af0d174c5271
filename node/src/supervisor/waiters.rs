//! Who waits for which job: a hint that a job has ended wakes exactly those who wait for it.
//!
//! Hints carry no truth. A waiter registers first and looks at the truth then, so that a job which ends in between is
//! either seen or hinted; and it looks again from time to time, for a hint may be lost.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use horus_runners::job::JobId;
use tokio::sync::Notify;

use super::owners::locked;

/// Most calls that may wait at a time.
pub(super) const MAX_WAITS: usize = 4096;
/// Most jobs that all of them may wait for together.
pub(super) const MAX_WAITED_JOBS: usize = 131_072;

/// Too many callers wait already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooManyWaits;

/// What a waiter was told.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Hints {
    /// Hints may have been lost: look at every job.
    pub(super) all: bool,
    /// These jobs have ended, it is said.
    pub(super) jobs: Vec<JobId>,
}

/// One waiting call.
#[derive(Default)]
struct Slot {
    hints: Mutex<Hints>,
    notify: Notify,
}

#[derive(Default)]
struct Register {
    next: u64,
    waits: HashMap<u64, Arc<Slot>>,
    by_job: HashMap<JobId, Vec<u64>>,
    jobs: usize,
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
        Ok(Wait { number, slot, jobs: jobs.to_vec(), waiters: self.clone() })
    }

    /// Tells those who wait for one of `jobs` that it has ended.
    pub(super) fn hint(&self, jobs: &[JobId]) {
        let register = locked(&self.register);
        for job in jobs {
            for number in register.by_job.get(job).into_iter().flatten() {
                if let Some(slot) = register.waits.get(number) {
                    locked(&slot.hints).jobs.push(job.clone());
                    slot.notify.notify_one();
                }
            }
        }
    }

    /// Tells everybody to look again, for hints may have been lost.
    pub(super) fn look_again(&self) {
        for slot in locked(&self.register).waits.values() {
            locked(&slot.hints).all = true;
            slot.notify.notify_one();
        }
    }

    /// How many calls wait now.
    #[cfg(test)]
    fn len(&self) -> usize {
        locked(&self.register).waits.len()
    }
}

/// A registered wait.
pub(super) struct Wait {
    number: u64,
    slot: Arc<Slot>,
    jobs: Vec<JobId>,
    waiters: Arc<Waiters>,
}

impl Wait {
    /// Waits for the next hints. Hints that came before the call are returned at once; cancelling it loses none.
    pub(super) async fn hinted(&self) -> Hints {
        loop {
            let hints = std::mem::take(&mut *locked(&self.slot.hints));
            if hints.all || !hints.jobs.is_empty() {
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

    #[tokio::test]
    async fn a_hint_wakes_only_those_who_wait_for_that_job() {
        let waiters = Arc::new(Waiters::default());
        let first = waiters.register(&[job("a"), job("b")]).unwrap();
        let second = waiters.register(&[job("c")]).unwrap();
        waiters.hint(&[job("b"), job("x")]);
        assert_eq!(first.hinted().await.jobs, [job("b")]);
        assert!(second.hinted().now_or_never().is_none());
        assert!(first.hinted().now_or_never().is_none(), "told once");
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
