//! What a step's definition says about trouble: attempts, back-off, unknown outcomes.

use std::time::Duration;

use horus_keys::Digest;
use horus_runners::job::{StepId, limits};

/// What to do when nobody can say whether a job ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unknown {
    /// Wait for the supervisor to come back, as long as the step's timeout.
    Wait,
    /// Run it again, elsewhere if there is an elsewhere.
    Retry,
    /// Give the step up.
    Fail,
}

/// Attempts that a step gets at least when its outcome is unknown and its policy is to run it again. Runners accept a
/// further attempt without a receipt of the one before up to here, whatever `retry` says.
pub const UNKNOWN_ATTEMPTS: u32 = limits::UNKNOWN_ATTEMPTS;

/// A step's policies, with every default filled in.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// Attempts in all, from 1.
    pub max_attempts: u32,
    /// Back-off before the second attempt.
    pub initial_interval: Duration,
    /// By how much every further back-off is longer than the one before.
    pub multiplier: f64,
    /// Longest back-off.
    pub max_interval: Duration,
    /// The share of the back-off that is left to chance, 0 to 1.
    pub jitter: f64,
    /// Error codes that are not tried again.
    pub non_retryable: Box<[String]>,
    /// How long a runner may execute the step, and how long an unknown outcome is waited for.
    pub timeout: Duration,
    /// What to do when nobody can say whether the job ran.
    pub on_unknown: Unknown,
    /// Whether the step's author says that running it twice does no harm.
    pub idempotent: bool,
    /// Whether those that depend on the step run although it failed.
    pub continue_on_error: bool,
}

impl Policy {
    /// Whether an attempt that failed with this code is followed by another.
    #[must_use]
    pub fn retries(&self, attempt: u32, code: Option<&str>) -> bool {
        attempt < self.max_attempts && !code.is_some_and(|code| self.non_retryable.iter().any(|other| other == code))
    }

    /// Whether an attempt with an unknown outcome is followed by another.
    #[must_use]
    pub fn retries_unknown(&self, attempt: u32) -> bool {
        self.on_unknown == Unknown::Retry && attempt < self.max_attempts.max(UNKNOWN_ATTEMPTS)
    }

    /// Whether an attempt that its supervisor gave up as `lost` is followed by another. There is nothing to wait for.
    #[must_use]
    pub fn retries_lost(&self, attempt: u32) -> bool {
        (self.on_unknown == Unknown::Retry || (self.idempotent && self.on_unknown != Unknown::Fail))
            && attempt < self.max_attempts.max(UNKNOWN_ATTEMPTS)
    }

    /// Whether those that depend on the step run also if nobody can say what became of it: its author says both that it may fail, and that an
    /// unknown outcome is a failure. Admission follows the same rule (`Step::tolerates_unknown`).
    #[must_use]
    pub fn tolerates_unknown(&self) -> bool {
        self.continue_on_error && self.on_unknown == Unknown::Fail
    }

    /// How long to wait after this attempt (from 1). The chance in it is drawn from the ids, so that a replay of the
    /// journal, and another coordinator, come to the same time.
    #[must_use]
    pub fn backoff(&self, workflow: &Digest, step: &StepId, attempt: u32) -> Duration {
        let exponent = i32::try_from(attempt.saturating_sub(1)).unwrap_or(i32::MAX);
        let longest = self.max_interval.as_secs_f64();
        let grown = self.initial_interval.as_secs_f64() * self.multiplier.max(1.0).powi(exponent);
        // A product beyond what f64 holds is infinite, and min() takes it to the cap.
        let capped = grown.min(longest);
        let chance = chance(workflow, step, attempt);
        let seconds = capped * (1.0 - self.jitter.clamp(0.0, 1.0) * chance);
        Duration::try_from_secs_f64(seconds).unwrap_or(self.max_interval)
    }
}

/// A number in [0, 1) that depends on nothing but its arguments.
fn chance(workflow: &Digest, step: &StepId, attempt: u32) -> f64 {
    let mut text = Vec::with_capacity(100);
    text.extend_from_slice(b"horus backoff v1\0");
    text.extend_from_slice(workflow.as_bytes());
    text.extend_from_slice(step.as_str().as_bytes());
    text.extend_from_slice(&attempt.to_be_bytes());
    let digest = Digest::of(&text);
    let mut first = [0; 4];
    first.copy_from_slice(&digest.as_bytes()[..4]);
    f64::from(u32::from_be_bytes(first)) / (f64::from(u32::MAX) + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> Policy {
        Policy {
            max_attempts: 5,
            initial_interval: Duration::from_millis(100),
            multiplier: 2.0,
            max_interval: Duration::from_millis(450),
            jitter: 0.0,
            non_retryable: Box::new(["SCRIPT_ERROR".to_owned()]),
            timeout: Duration::from_secs(1),
            on_unknown: Unknown::Retry,
            idempotent: false,
            continue_on_error: false,
        }
    }

    fn step() -> StepId {
        "fetch".parse().unwrap()
    }

    #[test]
    fn the_back_off_doubles_up_to_its_cap() {
        let workflow = Digest::of(b"w");
        let waits: Vec<u128> = (1..=5).map(|n| policy().backoff(&workflow, &step(), n).as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 450, 450]);
        assert_eq!(policy().backoff(&workflow, &step(), u32::MAX).as_millis(), 450);
    }

    #[test]
    fn jitter_is_the_same_every_time_and_differs_between_steps() {
        let policy = Policy { jitter: 0.5, ..policy() };
        let workflow = Digest::of(b"w");
        let mut seen = std::collections::BTreeSet::new();
        for n in 0..50 {
            let step: StepId = format!("s{n}").parse().unwrap();
            let wait = policy.backoff(&workflow, &step, 1);
            assert_eq!(wait, policy.backoff(&workflow, &step, 1));
            assert!(wait <= Duration::from_millis(100) && wait >= Duration::from_millis(50));
            seen.insert(wait);
        }
        assert!(seen.len() > 40);
    }

    #[test]
    fn some_errors_are_not_tried_again() {
        assert!(policy().retries(1, Some("HTTP_STATUS")));
        assert!(!policy().retries(1, Some("SCRIPT_ERROR")));
        assert!(!policy().retries(5, None));
        assert!(policy().retries_unknown(4));
        assert!(!policy().retries_unknown(5));
        assert!(Policy { max_attempts: 1, ..policy() }.retries_unknown(2));
    }
}
