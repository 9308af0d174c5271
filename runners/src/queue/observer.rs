//! Tells by its own clock which workers are dead.

use std::{
    collections::{HashMap, hash_map::Entry},
    time::{Duration, Instant},
};

use horus_keys::RunnerKind;

/// Watches heartbeat counters. A lease lapses when its counter was seen unchanged for the whole of it, by the monotonic clock of this process:
/// a wall clock that jumps lapses none.
///
/// Between two looks at most a third of the lease counts, however long it was: while this process was stopped, or Redis was away, no worker
/// could show life either, and each has time to do so before the next look.
#[derive(Debug, Default)]
pub struct LeaseObserver {
    seen: HashMap<(RunnerKind, String), Seen>,
    last_look: HashMap<RunnerKind, Instant>,
}

#[derive(Debug)]
struct Seen {
    beat: String,
    /// How long the counter stood still while we looked.
    still: Duration,
}

/// A worker and its counter, as Redis has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    /// Its id.
    pub worker: String,
    /// Its heartbeat counter: any text, another one after every sign of life. Empty if the worker is not registered.
    pub beat: String,
    /// How long it may be silent.
    pub lease: Duration,
}

impl LeaseObserver {
    /// An observer that has seen nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in one look at all workers of a kind, and gives those whose lease has lapsed. [`Queue::reap`](super::Queue::reap) does both.
    pub fn look(&mut self, kind: &RunnerKind, workers: Vec<Observed>, now: Instant) -> Vec<Observed> {
        let since = self.last_look.insert(kind.clone(), now).map_or(Duration::ZERO, |last| now.duration_since(last));
        self.seen.retain(|(of, worker), _| of != kind || workers.iter().any(|observed| observed.worker == *worker));
        let mut lapsed = Vec::new();
        for observed in workers {
            match self.seen.entry((kind.clone(), observed.worker.clone())) {
                Entry::Occupied(mut entry) if entry.get().beat == observed.beat => {
                    let seen = entry.get_mut();
                    seen.still += since.min(observed.lease / 3);
                    if seen.still >= observed.lease {
                        lapsed.push(observed);
                    }
                }
                entry => {
                    entry.insert_entry(Seen { beat: observed.beat, still: Duration::ZERO });
                }
            }
        }
        lapsed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(10);

    fn kind() -> RunnerKind {
        "noop".parse().unwrap()
    }

    fn worker(beat: u32) -> Vec<Observed> {
        vec![Observed { worker: "w".to_owned(), beat: beat.to_string(), lease: LEASE }]
    }

    #[test]
    fn a_counter_that_stands_still_lapses_after_the_lease() {
        let (mut observer, start) = (LeaseObserver::new(), Instant::now());
        for second in 0..10 {
            assert!(observer.look(&kind(), worker(5), start + Duration::from_secs(second)).is_empty(), "{second}");
        }
        assert_eq!(observer.look(&kind(), worker(5), start + LEASE), worker(5));
    }

    #[test]
    fn a_counter_that_moves_never_lapses() {
        let (mut observer, start) = (LeaseObserver::new(), Instant::now());
        for second in 0..100 {
            let beat = u32::try_from(second / 8).unwrap();
            assert!(observer.look(&kind(), worker(beat), start + Duration::from_secs(second)).is_empty());
        }
    }

    #[test]
    fn time_without_a_look_hardly_counts() {
        let (mut observer, start) = (LeaseObserver::new(), Instant::now());
        observer.look(&kind(), worker(5), start);
        observer.look(&kind(), worker(5), start + Duration::from_secs(3));
        // The observer was stopped, or Redis was away, for an hour. A live worker beats every third of its lease.
        let back = start + Duration::from_secs(3600);
        for second in 0..=3 {
            assert!(observer.look(&kind(), worker(5), back + Duration::from_secs(second)).is_empty(), "{second}");
        }
        assert_eq!(observer.look(&kind(), worker(5), back + LEASE).len(), 1);
    }

    #[test]
    fn a_lease_shorter_than_the_pause_between_looks_lapses_all_the_same() {
        let (mut observer, start) = (LeaseObserver::new(), Instant::now());
        let looks = (0..10).map(|n| observer.look(&kind(), worker(5), start + 5 * n * LEASE).len());
        assert_eq!(looks.take_while(|lapsed| *lapsed == 0).count(), 4);
    }

    #[test]
    fn a_restarted_counter_is_a_sign_of_life() {
        let (mut observer, start) = (LeaseObserver::new(), Instant::now());
        for second in 0..9 {
            observer.look(&kind(), worker(5), start + Duration::from_secs(second));
        }
        assert!(observer.look(&kind(), worker(1), start + Duration::from_secs(9)).is_empty());
        assert!(observer.look(&kind(), worker(1), start + Duration::from_secs(12)).is_empty());
    }

    #[test]
    fn workers_that_are_gone_are_forgotten() {
        let (mut observer, start) = (LeaseObserver::new(), Instant::now());
        observer.look(&kind(), worker(5), start);
        observer.look(&kind(), Vec::new(), start + Duration::from_secs(1));
        assert!(observer.seen.is_empty());
    }
}
