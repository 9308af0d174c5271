//! The states of steps and workflows, and which change into which.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where a step is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StepStatus {
    /// Waits for the steps that it depends on.
    Pending,
    /// Nothing holds it but the choice of a supervisor.
    Ready,
    /// Handed to a supervisor, which queues it.
    Dispatched,
    /// A runner executes it.
    Running,
    /// An attempt ended without success; the next one waits for its back-off.
    Retrying,
    /// Ended with an output that a receipt covers.
    Succeeded,
    /// Ended without success.
    Failed,
    /// Never ran, because a step that it depends on did not succeed.
    Skipped,
    /// Stopped, or never started, on request.
    Cancelled,
    /// Its supervisor has the job, or may have it, and cannot be asked.
    Unknown,
}

impl StepStatus {
    /// How many there are.
    pub const COUNT: usize = 10;

    /// All of them, in the order of their declaration.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Pending,
        Self::Ready,
        Self::Dispatched,
        Self::Running,
        Self::Retrying,
        Self::Succeeded,
        Self::Failed,
        Self::Skipped,
        Self::Cancelled,
        Self::Unknown,
    ];

    /// Whether nothing changes it any more.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Skipped | Self::Cancelled)
    }

    /// Whether a supervisor has a job for the step, or may have one.
    #[must_use]
    pub const fn has_job(self) -> bool {
        matches!(self, Self::Dispatched | Self::Running | Self::Unknown)
    }

    /// The one table of legal changes.
    #[must_use]
    pub const fn may_become(self, next: Self) -> bool {
        use StepStatus::{
            Cancelled, Dispatched, Failed, Pending, Ready, Retrying, Running, Skipped, Succeeded, Unknown,
        };
        match self {
            Pending => matches!(next, Ready | Skipped | Cancelled),
            // A result can arrive for a job that was believed not to have been taken.
            Ready => matches!(next, Dispatched | Succeeded | Retrying | Failed | Cancelled),
            Dispatched => matches!(next, Ready | Running | Retrying | Succeeded | Failed | Cancelled | Unknown),
            Running => matches!(next, Retrying | Succeeded | Failed | Cancelled | Unknown),
            // A late success of the attempt that was given up counts: the first accepted attempt wins.
            Retrying => matches!(next, Ready | Succeeded | Failed | Cancelled),
            Unknown => matches!(next, Ready | Dispatched | Running | Retrying | Succeeded | Failed | Cancelled),
            Succeeded | Failed | Skipped | Cancelled => false,
        }
    }

    /// Its name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Ready => "ready",
            Self::Dispatched => "dispatched",
            Self::Running => "running",
            Self::Retrying => "retrying",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
            Self::Cancelled => "cancelled",
            Self::Unknown => "unknown",
        }
    }
}

/// Where a workflow is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WorkflowStatus {
    /// Accepted; no step has been looked at yet.
    Pending,
    /// Its steps are being worked on.
    Running,
    /// Held by an operator: no further step is started.
    Paused,
    /// Every step ended well, or was allowed not to.
    Succeeded,
    /// A step that mattered did not succeed, or the time was over.
    Failed,
    /// Stopped on request.
    Cancelled,
}

impl WorkflowStatus {
    /// Whether nothing changes it any more.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }

    /// Its name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// The status of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Pending, Self::Running, Self::Paused, Self::Succeeded, Self::Failed, Self::Cancelled]
            .into_iter()
            .find(|status| status.as_str() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_final_status_becomes_nothing() {
        for status in StepStatus::ALL.into_iter().filter(|s| s.is_final()) {
            for next in StepStatus::ALL {
                assert!(!status.may_become(next), "{status:?} -> {next:?}");
            }
        }
    }

    #[test]
    fn every_status_that_is_not_final_can_end() {
        for status in StepStatus::ALL.into_iter().filter(|s| !s.is_final()) {
            assert!(status.may_become(StepStatus::Cancelled), "{status:?}");
        }
    }

    #[test]
    fn names_are_those_on_the_wire() {
        for (place, status) in StepStatus::ALL.into_iter().enumerate() {
            assert_eq!(serde_json::to_value(status).unwrap(), status.as_str());
            assert_eq!(status as usize, place);
        }
        assert_eq!(WorkflowStatus::from_name("paused"), Some(WorkflowStatus::Paused));
    }
}
