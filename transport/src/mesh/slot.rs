//! When messages with many calls leave: at certain points of time only.
//!
//! The daemon keeps a task for every message for ten minutes, and each wakes up ten times a second,
//! counted from when its message was sent. What that costs is mostly the waking: 50 messages sent at
//! any time are 500 wake-ups a second, 1,600 are the 1,000 that a timer of milliseconds allows, and an
//! idle daemon then burns 7.7 % of a core. If they were sent at few different milliseconds of the tenth
//! of a second their tasks wake up together, and it is 4.4 %. So requests and replies that hold many
//! calls wait for the next slot, which takes half of one on average; single calls do not.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// So many calls are worth it.
pub(super) const MANY: usize = 16;
/// From one slot to the next: a whole number of them makes the daemon's 100 ms.
const SLOT: Duration = Duration::from_millis(5);

/// Waits for the next slot. All processes of a host have the same, those that its clock tells.
pub(super) async fn next() {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    tokio::time::sleep(until_next(since)).await;
}

fn until_next(since: Duration) -> Duration {
    let into = since.as_micros() % SLOT.as_micros();
    SLOT - Duration::from_micros(u64::try_from(into).expect("less than a slot"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_never_far() {
        assert_eq!(until_next(Duration::ZERO), SLOT);
        assert_eq!(until_next(Duration::from_micros(1_000_004_999)), Duration::from_micros(1));
        assert_eq!(until_next(SLOT * 7 + Duration::from_millis(1)), Duration::from_millis(4));
        assert_eq!(100 % SLOT.as_millis(), 0);
    }
}
