//! Why something was refused.

use std::fmt;

use horus_keys::EnvelopeError;

use crate::{
    definition::Problem,
    job::{JobError, bounds::OutOfBounds},
};

/// What kind of refusal it is: `data.kind` of an RPC error, and the error code of a job that a runner refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RefusalKind {
    /// The envelope or the document inside is malformed.
    InvalidEnvelope,
    /// A signature does not match.
    BadSignature,
    /// The key that signed is not known here.
    UntrustedSigner,
    /// The key that signed is known, but may not do this.
    NotAllowed,
    /// It came too late.
    Expired,
    /// A limit was exceeded.
    TooLarge,
    /// The workflow of a step is needed: send its envelope along.
    WorkflowUnknown,
    /// A receipts envelope that a job refers to is needed: send it along. On the wire it is a `DELEGATION_MISMATCH`.
    ReceiptUnknown,
    /// A step's job is not what the signed workflow allows.
    DelegationMismatch,
    /// The workflow's definition or inputs are wrong.
    InvalidWorkflow,
}

impl RefusalKind {
    /// The name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidEnvelope => "INVALID_ENVELOPE",
            Self::BadSignature => "BAD_SIGNATURE",
            Self::UntrustedSigner => "UNTRUSTED_SIGNER",
            Self::NotAllowed => "NOT_ALLOWED",
            Self::Expired => "EXPIRED",
            Self::TooLarge => "TOO_LARGE",
            Self::WorkflowUnknown => "WORKFLOW_UNKNOWN",
            Self::ReceiptUnknown | Self::DelegationMismatch => "DELEGATION_MISMATCH",
            Self::InvalidWorkflow => "INVALID_WORKFLOW",
        }
    }
}

impl fmt::Display for RefusalKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Why a batch, a workflow, a receipt or one job of a batch was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{message}", self.prefix())]
pub struct Refusal {
    /// What kind of refusal it is.
    pub kind: RefusalKind,
    /// What is wrong and what to do.
    pub message: String,
    /// Position in the batch of the job at fault, from 0.
    pub index: Option<u32>,
    /// Of [`RefusalKind::InvalidWorkflow`]: all that is wrong with the definition.
    pub problems: Vec<Problem>,
}

impl Refusal {
    /// A refusal of the whole.
    #[must_use]
    pub fn new(kind: RefusalKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), index: None, problems: Vec::new() }
    }

    /// The same refusal, of one job.
    #[must_use]
    pub fn at(mut self, index: u32) -> Self {
        self.index = Some(index);
        self
    }

    fn prefix(&self) -> String {
        self.index.map_or_else(String::new, |index| format!("job {index}: "))
    }

    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(RefusalKind::InvalidEnvelope, message)
    }

    pub(super) fn mismatch(message: impl Into<String>) -> Self {
        Self::new(RefusalKind::DelegationMismatch, message)
    }

    pub(super) fn too_large(message: impl Into<String>) -> Self {
        Self::new(RefusalKind::TooLarge, message)
    }

    pub(super) fn definition(problems: Vec<Problem>) -> Self {
        let message = match problems.as_slice() {
            [] => "the definition is not valid".to_owned(),
            [only] => format!("the definition is not valid: {only}"),
            [first, rest @ ..] => format!("the definition is not valid: {first} (and {} more problems)", rest.len()),
        };
        Self { problems, ..Self::new(RefusalKind::InvalidWorkflow, message) }
    }
}

impl From<EnvelopeError> for Refusal {
    fn from(error: EnvelopeError) -> Self {
        let kind = match error {
            EnvelopeError::BadSignature { .. } => RefusalKind::BadSignature,
            EnvelopeError::TooLarge { .. } => RefusalKind::TooLarge,
            _ => RefusalKind::InvalidEnvelope,
        };
        Self::new(kind, error.to_string())
    }
}

impl From<OutOfBounds> for Refusal {
    fn from(error: OutOfBounds) -> Self {
        if error.too_large { Self::too_large(error.message) } else { Self::invalid(error.message) }
    }
}

impl From<Refusal> for JobError {
    fn from(refusal: Refusal) -> Self {
        Self::new(refusal.kind.as_str(), &refusal.message)
    }
}
