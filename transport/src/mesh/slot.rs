//! When messages with many calls leave: under load, at certain points of time only.
//!
//! The daemon keeps a task for every message for ten minutes, and each wakes up ten times a second,
//! counted from when its message was sent. What that costs is mostly the waking: 50 messages sent at
//! any time are 500 wake-ups a second, 1,600 are the 1,000 that a timer of milliseconds allows, and an
//! idle daemon then burns 7.7 % of a core. If they were sent at few different milliseconds of the tenth
//! of a second their tasks wake up together, and it is 4.4 %. So requests and replies that hold many
//! calls wait for the next slot, once there were some of them lately; single calls never do.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// So many calls are worth it.
pub(super) const MANY: usize = 16;
/// From one slot to the next: a whole number of them makes the daemon's 100 ms.
const SLOT: Duration = Duration::from_millis(20);
/// Messages that leave at once: who calls many now and then does not wait.
const AT_ONCE: Rate = Rate { per_s: 1.0 / 60.0, burst: 10.0 };

/// The slots of one daemon.
pub(super) struct Slots(Mutex<Allowance>);

impl Slots {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Allowance::new(AT_ONCE)))
    }

    /// Waits for the next slot, if a message with so many calls should. All processes of a host have
    /// the same slots, those that its clock tells.
    pub(super) async fn next(&self, calls: usize) {
        if calls < MANY || self.0.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now()) {
            return;
        }
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        tokio::time::sleep(until_next(since)).await;
    }
}

fn until_next(since: Duration) -> Duration {
    let into = since.as_micros() % SLOT.as_micros();
    SLOT - Duration::from_micros(u64::try_from(into).expect("less than a slot"))
}

/// How often something may be done.
pub(super) struct Rate {
    pub(super) per_s: f64,
    /// So often at once.
    pub(super) burst: f64,
}

/// What is left of a rate.
pub(super) struct Allowance {
    rate: Rate,
    tokens: f64,
    refilled: Instant,
}

impl Allowance {
    pub(super) fn new(rate: Rate) -> Self {
        Self { tokens: rate.burst, rate, refilled: Instant::now() }
    }

    /// Whether it may be done now; then it is.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let since = (now - self.refilled).as_secs_f64();
        self.tokens = (self.tokens + self.rate.per_s * since).min(self.rate.burst);
        self.refilled = now;
        let may = self.tokens >= 1.0;
        self.tokens -= f64::from(u8::from(may));
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_never_far() {
        assert_eq!(until_next(Duration::ZERO), SLOT);
        assert_eq!(until_next(Duration::from_micros(1_000_019_999)), Duration::from_micros(1));
        assert_eq!(until_next(SLOT * 7 + Duration::from_millis(1)), SLOT - Duration::from_millis(1));
        assert_eq!(100 % SLOT.as_millis(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn only_many_messages_with_many_calls_wait() {
        let slots = Slots::new();
        let begin = Instant::now();
        for _ in 0..1000 {
            slots.next(MANY - 1).await;
        }
        for _ in 0..10 {
            slots.next(MANY).await;
        }
        assert_eq!(begin.elapsed(), Duration::ZERO);
        slots.next(MANY).await;
        assert!(begin.elapsed() > Duration::ZERO && begin.elapsed() <= SLOT + Duration::from_millis(1));
    }
}
