//! How many messages may wait for replies at the daemon at a time, by what they are for.
//!
//! The daemon takes 100 calls at a time, of all processes of the host. Peers that are gone must not hold up the living: what finds out
//! that a peer is gone, and what waits for it to come back, have places of their own.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Calls.
const CALLS: usize = 24;
/// Long polls, and what else lies at the peer.
const POLLS: usize = 44;
/// With fewer of their places left than that, calls and long polls must not take long.
const SCARCE: (usize, usize) = (12, 4);
/// Questions how far a message is, or whether the peer is there, which are answered at once or hardly at all.
const PROBES: usize = 12;
/// Pings that lie at the daemon until the peer comes back.
const PINGS: usize = 8;
/// No ping lies for a shorter time, however many there are.
const LEAST: Duration = Duration::from_secs(2);

/// What a message is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Call,
    Poll,
    Probe,
    Ping,
}

/// The places at one daemon.
pub(super) struct Places {
    calls: Arc<Semaphore>,
    polls: Arc<Semaphore>,
    probes: Arc<Semaphore>,
    pings: Arc<Semaphore>,
    /// Pings that lie or want to.
    pinging: AtomicUsize,
}

/// A place that is taken, until it is dropped.
pub(super) struct Place {
    _permit: OwnedSemaphorePermit,
}

impl Places {
    pub(super) fn new() -> Self {
        let [calls, polls, probes, pings] =
            [CALLS, POLLS, PROBES, PINGS].map(|places| Arc::new(Semaphore::new(places)));
        Self { calls, polls, probes, pings, pinging: AtomicUsize::new(0) }
    }

    /// Waits for a place.
    pub(super) async fn enter(&self, purpose: Purpose) -> Place {
        let places = match purpose {
            Purpose::Call => &self.calls,
            Purpose::Poll => &self.polls,
            Purpose::Probe => &self.probes,
            Purpose::Ping => &self.pings,
        };
        Place { _permit: Arc::clone(places).acquire_owned().await.expect("the semaphore is never closed") }
    }

    /// Waits for a place for a ping, and tells how long it may be kept instead of `wait`. Pings share their places: each has its turn about
    /// as often as if it were alone, and is the shorter.
    pub(super) async fn enter_ping(&self, wait: Duration) -> (Counted<'_>, Place, Duration) {
        let pinging = Counted::new(&self.pinging);
        let place = self.enter(Purpose::Ping).await;
        (pinging, place, share(wait, self.pinging.load(Ordering::Relaxed)))
    }

    /// Whether few more calls (or long polls) may wait.
    pub(super) fn is_crowded(&self, purpose: Purpose) -> bool {
        match purpose {
            Purpose::Call => self.calls.available_permits() < SCARCE.0,
            _ => self.polls.available_permits() < SCARCE.1,
        }
    }
}

/// How long each of so many pings may lie.
fn share(wait: Duration, pings: usize) -> Duration {
    let share = wait.mul_f64(PINGS as f64 / pings.max(PINGS) as f64);
    share.max(LEAST.min(wait))
}

/// Counts something for as long as it lives.
pub(super) struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    pub(super) fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pings_share_a_minute() {
        let minute = Duration::from_secs(60);
        assert_eq!([1, 8, 48, 4000].map(|pings| share(minute, pings).as_secs()), [60, 60, 10, 2]);
        assert_eq!(share(Duration::from_secs(1), 4000), Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn pings_have_their_turns_and_take_no_others_place() {
        let places = std::sync::Arc::new(Places::new());
        let minute = Duration::from_secs(60);
        let turns = std::sync::Arc::new(std::sync::Mutex::new(vec![0; 48]));
        let mut pings = tokio::task::JoinSet::new();
        for n in 0..48 {
            let (places, turns) = (std::sync::Arc::clone(&places), std::sync::Arc::clone(&turns));
            pings.spawn(async move {
                loop {
                    let (pinging, place, wait) = places.enter_ping(minute).await;
                    tokio::time::sleep(wait).await;
                    turns.lock().unwrap()[n] += 1;
                    drop((pinging, place));
                    tokio::time::sleep(LEAST).await;
                }
            });
        }
        let begin = tokio::time::Instant::now();
        tokio::task::yield_now().await;
        for (purpose, count) in [(Purpose::Poll, POLLS), (Purpose::Call, CALLS), (Purpose::Probe, PROBES)] {
            for _ in 0..count {
                std::mem::forget(places.enter(purpose).await);
            }
        }
        assert_eq!(begin.elapsed(), Duration::ZERO);
        assert!(places.is_crowded(Purpose::Poll) && places.is_crowded(Purpose::Call));
        // The first ones, which did not know of the others, lie for a minute.
        tokio::time::sleep(minute * 2).await;
        turns.lock().unwrap().fill(0);
        tokio::time::sleep(minute * 5).await;
        let turns = turns.lock().unwrap().clone();
        assert!(turns.iter().all(|turns| (4..=6).contains(turns)), "{turns:?}");
        pings.shutdown().await;
        assert_eq!(places.pinging.load(Ordering::Relaxed), 0);
    }
}
