//! States of a job, and which may follow which.

use std::{fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobStatus {
    /// Waits for its `not_before`.
    Delayed,
    /// Waits for a runner, or was taken by one that has not started it yet.
    Queued,
    /// A runner executes it.
    Running,
    /// It ended with an output.
    Succeeded,
    /// It ended with an error, or could not be started.
    Failed,
    /// It was cancelled before or while it ran.
    Cancelled,
    /// It ran longer than its timeout.
    TimedOut,
    /// Its runner died while it ran, and running it twice could do harm: what it did is unknown.
    Lost,
    /// Its `run_until` passed before it started.
    Expired,
}

impl JobStatus {
    /// All states, in the order of a job's life.
    pub const ALL: [Self; 9] = [
        Self::Delayed,
        Self::Queued,
        Self::Running,
        Self::Succeeded,
        Self::Failed,
        Self::Cancelled,
        Self::TimedOut,
        Self::Lost,
        Self::Expired,
    ];

    /// The name on the wire and in Redis.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Delayed => "delayed",
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::TimedOut => "timed_out",
            Self::Lost => "lost",
            Self::Expired => "expired",
        }
    }

    /// Whether nothing can follow.
    #[must_use]
    pub const fn is_final(self) -> bool {
        !matches!(self, Self::Delayed | Self::Queued | Self::Running)
    }

    /// The one rule of legal transitions. A state does not follow itself.
    ///
    /// `queued -> failed` is a job that a runner refused or that no runner managed to start; `running -> queued` is an idempotent job whose
    /// runner died.
    #[must_use]
    pub const fn may_become(self, next: Self) -> bool {
        match self {
            Self::Delayed => matches!(next, Self::Queued | Self::Cancelled | Self::Expired),
            Self::Queued => matches!(next, Self::Running | Self::Failed | Self::Cancelled | Self::Expired),
            Self::Running => matches!(
                next,
                Self::Queued | Self::Succeeded | Self::Failed | Self::Cancelled | Self::TimedOut | Self::Lost
            ),
            _ => false,
        }
    }
}

impl fmt::Display for JobStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A text that names no state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown job status: use one of delayed, queued, running, succeeded, failed, cancelled, timed_out, lost, expired"
)]
pub struct UnknownStatus;

impl FromStr for JobStatus {
    type Err = UnknownStatus;
    fn from_str(text: &str) -> Result<Self, UnknownStatus> {
        Self::ALL.into_iter().find(|status| status.as_str() == text).ok_or(UnknownStatus)
    }
}

/// Which of the waiting jobs of a runner kind go first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// Before all others.
    High,
    /// If a job does not say.
    #[default]
    Normal,
    /// When nothing else waits.
    Low,
}

impl Priority {
    /// All priorities, the first to be served first.
    pub const ALL: [Self; 3] = [Self::High, Self::Normal, Self::Low];

    /// The name on the wire and in Redis.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::High => "high",
            Self::Normal => "normal",
            Self::Low => "low",
        }
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_contract() {
        for status in JobStatus::ALL {
            assert_eq!(serde_json::to_string(&status).unwrap(), format!("\"{status}\""));
            assert_eq!(status.as_str().parse::<JobStatus>(), Ok(status));
        }
        assert!("done".parse::<JobStatus>().is_err());
    }

    #[test]
    fn what_is_final_stays() {
        for from in JobStatus::ALL {
            for to in JobStatus::ALL {
                assert!(!(from.is_final() && from.may_become(to)), "{from} -> {to}");
            }
            assert!(!from.may_become(from), "{from} -> {from}");
        }
    }

    #[test]
    fn every_state_can_be_reached_and_left() {
        for status in JobStatus::ALL {
            assert_eq!(JobStatus::ALL.iter().any(|next| status.may_become(*next)), !status.is_final(), "{status}");
            let reached = JobStatus::ALL.iter().any(|before| before.may_become(status));
            assert_eq!(reached, status != JobStatus::Delayed, "{status}");
        }
        assert!(!JobStatus::Queued.may_become(JobStatus::Lost), "a job that never started is not lost");
        assert!(!JobStatus::Running.may_become(JobStatus::Expired), "run_until is checked before the start");
    }
}
