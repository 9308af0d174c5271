//! What happens to a workflow, as the journal records it, and what is to be done about it.

use horus_keys::{Digest, PeerId, Timestamp};
use horus_runners::job::{JobError, JobStatus};
use serde::{Deserialize, Serialize};

/// A step of the plan, by its place in the definition.
pub type StepIndex = u32;

/// One attempt of one step. Events name both, so that a late or repeated one is known for what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StepAttempt(pub StepIndex, pub u32);

/// Where a step's receipt is: in which signed batch, and at which place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiptPlace {
    /// Digest of the `receipts+json` payload.
    #[serde(rename = "b")]
    pub batch: Digest,
    /// Place in the batch, from 0.
    #[serde(rename = "i")]
    pub index: u32,
}

/// How an attempt ended, as far as it has been checked: what needs a receipt has a valid one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// A final job status.
    #[serde(rename = "s")]
    pub status: JobStatus,
    /// SHA-256 of the output's JSON text. Present if and only if the job succeeded.
    #[serde(rename = "o", default, skip_serializing_if = "Option::is_none")]
    pub output: Option<Digest>,
    /// Why it did not succeed.
    #[serde(rename = "e", default, skip_serializing_if = "Option::is_none")]
    pub error: Option<JobError>,
    /// The runner's receipt. Lost, expired and cancelled jobs may have none.
    #[serde(rename = "r", default, skip_serializing_if = "Option::is_none")]
    pub receipt: Option<ReceiptPlace>,
    /// When the runner started it.
    #[serde(rename = "b", default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When the runner finished it.
    #[serde(rename = "f", default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
}

/// Something that happened. Those about steps hold for the attempt that they name, and are ignored for any other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// The workflow was accepted and begins.
    Started,
    /// These steps are about to be sent to this supervisor: from here on it may have them.
    Dispatched {
        /// The supervisor's key.
        #[serde(rename = "to")]
        supervisor: PeerId,
        /// The steps.
        steps: Vec<StepAttempt>,
    },
    /// Their supervisor says that a runner executes them.
    Running {
        /// The steps.
        steps: Vec<StepAttempt>,
    },
    /// Their supervisor certainly did not take them.
    Returned {
        /// The steps.
        steps: Vec<StepAttempt>,
    },
    /// No supervisor takes the step, for a reason that another attempt does not cure.
    Refused {
        /// The step.
        step: StepAttempt,
        /// The reason.
        error: JobError,
    },
    /// The attempt ended.
    Finished {
        /// The step.
        step: StepAttempt,
        /// How.
        outcome: Outcome,
    },
    /// Their supervisor cannot be asked, or answers what cannot be believed.
    Unreachable {
        /// The steps.
        steps: Vec<StepAttempt>,
        /// What is wrong, for the reader of the step's status.
        reason: String,
    },
    /// Their supervisor answers again, and has them.
    Reached {
        /// The steps.
        steps: Vec<StepAttempt>,
    },
    /// The time that the step waited for has come.
    Woken {
        /// The step.
        step: StepAttempt,
        /// The time, as the [`Command::Wake`] said it.
        due: Timestamp,
    },
    /// Somebody who may do so wants the workflow stopped.
    CancelRequested {
        /// Who.
        by: PeerId,
    },
    /// The workflow's time is over.
    DeadlinePassed,
    /// The time to stop what still runs is over as well.
    GraceOver,
}

impl Event {
    /// The steps for whose jobs nobody may need to wait any more: they ended, went on to another attempt, or are not where they were sent.
    #[must_use]
    pub fn may_let_go(&self) -> &[StepAttempt] {
        match self {
            Self::Finished { step, .. } | Self::Refused { step, .. } | Self::Woken { step, .. } => {
                std::slice::from_ref(step)
            }
            Self::Returned { steps } | Self::Unreachable { steps, .. } => steps,
            _ => &[],
        }
    }
}

/// An event and when it happened: an entry of the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Wall-clock time of the coordinator that wrote it.
    #[serde(rename = "t")]
    pub at: Timestamp,
    /// What happened.
    #[serde(rename = "e")]
    pub event: Event,
}

/// What a timer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Timer {
    /// A step's back-off or wait is over: answer with [`Event::Woken`].
    Step(StepAttempt),
    /// The workflow's time is over: answer with [`Event::DeadlinePassed`].
    Deadline,
    /// The time to stop is over: answer with [`Event::GraceOver`].
    Grace,
}

/// Something to be done, once the event that led to it is in the journal. All of them may be done twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Command {
    /// Choose a supervisor for the step, record [`Event::Dispatched`], and send it.
    Dispatch(StepAttempt),
    /// After a restart: the supervisor may have this job. Send it again (the same job, by its id) and wait for it.
    Watch(StepAttempt, PeerId),
    /// Ask the supervisor to cancel this job.
    Cancel(StepAttempt, PeerId),
    /// Wake the engine at that time.
    Wake(Timer, Timestamp),
    /// The workflow has ended: write the last snapshot, tell who waits.
    Ended,
}
