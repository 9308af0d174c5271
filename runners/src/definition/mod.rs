//! Workflow definitions: the YAML text that a user signs, and what it means.
//!
//! [`parse`] finds every problem of shape at once, each with line and column. It does not look for cycles among the steps and does not know which
//! runner kinds exist: the coordinator does.

mod fields;
mod steps;
#[cfg(test)]
mod tests;
mod tree;
mod workflow;

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    time::Duration,
};

use horus_keys::{RunnerKind, SealedSecret};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::job::{StepId, limits};

/// A workflow as its YAML text declares it: at least one step, unique ids, dependencies that exist, everything within the limits.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Definition {
    /// Name for people, 1 to 256 bytes.
    pub name: String,
    /// The steps in the order of the text.
    pub steps: Vec<Step>,
    /// Environment of all steps; a step's own comes over it.
    pub env: BTreeMap<String, String>,
    /// How long the whole workflow may take.
    pub timeout: Option<Duration>,
    /// Output name to the step that gives it. If not declared: the steps on which no other depends.
    pub outputs: Option<BTreeMap<String, StepId>>,
    index: HashMap<StepId, u32>,
}

impl Definition {
    /// The step of that id.
    #[must_use]
    pub fn step(&self, id: &StepId) -> Option<&Step> {
        self.position(id).map(|position| &self.steps[position])
    }

    /// Where in [`Definition::steps`] a step is.
    #[must_use]
    pub fn position(&self, id: &StepId) -> Option<usize> {
        self.index.get(id).map(|position| *position as usize)
    }

    /// Where in the text a step begins.
    #[must_use]
    pub fn span_of(&self, id: &StepId) -> Option<Position> {
        self.step(id).map(|step| step.at)
    }
}

/// One step.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Step {
    /// Unique within the workflow.
    pub id: StepId,
    /// The kind of runner that executes it.
    pub runner: RunnerKind,
    /// The script.
    pub payload: String,
    /// Steps whose outputs it needs, each once.
    pub depends_on: Vec<StepId>,
    /// Its own environment: [`Step::environment`] has the workflow's too.
    pub env: BTreeMap<String, String>,
    /// How long one attempt may run.
    pub timeout: Option<Duration>,
    /// Whether it may safely run twice.
    pub idempotent: Option<bool>,
    /// What to do when nobody knows whether an attempt took effect.
    pub on_unknown: Option<OnUnknown>,
    /// What to do when an attempt failed.
    pub retry: Option<RetryPolicy>,
    /// Which supervisor takes it: an address, a `PeerId` or a label selector, not interpreted here.
    pub supervisor: Option<String>,
    /// Free text by name.
    pub labels: BTreeMap<String, String>,
    /// Sealed secrets by name, for the scope of the workflow's id.
    pub secrets: BTreeMap<String, SealedSecret>,
    /// Whether the steps that depend on it run even if it failed. With `on_unknown: fail` also if nobody knows whether it did.
    pub continue_on_error: bool,
    /// Where the step begins in the text.
    pub at: Position,
}

impl Step {
    /// The environment of the step's job: its own variables over those of the workflow.
    #[must_use]
    pub fn environment(&self, workflow: &Definition) -> BTreeMap<String, String> {
        let mut all = workflow.env.clone();
        all.extend(self.env.iter().map(|(name, value)| (name.clone(), value.clone())));
        all
    }

    /// How often it may be tried after failures: 1 without a retry policy.
    #[must_use]
    pub fn max_attempts(&self) -> u32 {
        self.retry.as_ref().map_or(1, |retry| retry.max_attempts)
    }

    /// Whether it may be tried again when nobody knows whether an attempt took effect.
    #[must_use]
    pub fn may_repeat_unknown(&self) -> bool {
        self.idempotent == Some(true) || self.on_unknown == Some(OnUnknown::Retry)
    }

    /// Whether the steps that depend on it run also if nobody knows what became of it: it may fail, and an unknown outcome is a failure.
    #[must_use]
    pub fn tolerates_unknown(&self) -> bool {
        self.continue_on_error && self.on_unknown == Some(OnUnknown::Fail)
    }

    /// The highest attempt that admission can ever accept.
    #[must_use]
    pub fn last_attempt(&self) -> u32 {
        if self.may_repeat_unknown() { self.max_attempts().max(limits::UNKNOWN_ATTEMPTS) } else { self.max_attempts() }
    }

    /// Whether a failure with this code may be followed by another attempt.
    #[must_use]
    pub fn is_retryable(&self, code: Option<&str>) -> bool {
        let policy = self.retry.as_ref();
        !policy.is_some_and(|retry| code.is_some_and(|code| retry.non_retryable.iter().any(|known| known == code)))
    }
}

/// What to do when nobody knows whether an attempt of a step took effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnUnknown {
    /// Wait for its supervisor to come back, or for an operator.
    Wait,
    /// Try again: it may happen twice.
    Retry,
    /// The step fails.
    Fail,
}

/// What to do when an attempt of a step failed. Attempt `n` waits `initial_interval * multiplier^(n - 2)`, at most `max_interval`.
#[derive(Debug, Clone, PartialEq)]
pub struct RetryPolicy {
    /// How often the step is tried in all, 1 to 100; 3 if not given.
    pub max_attempts: u32,
    /// The wait before attempt 2; 1 s if not given.
    pub initial_interval: Duration,
    /// How much longer every further wait is, 1 to 100; 2 if not given.
    pub multiplier: f64,
    /// No wait is longer; 1 min if not given.
    pub max_interval: Duration,
    /// The share of a wait that is left to chance, 0 to 1; 0.1 if not given, and `true` stands for 0.5, `false` for 0.
    pub jitter: f64,
    /// Error codes after which the step is not tried again.
    pub non_retryable: Vec<String>,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            max_attempts: 3,
            initial_interval: Duration::from_secs(1),
            multiplier: 2.0,
            max_interval: Duration::from_secs(60),
            jitter: 0.1,
            non_retryable: Vec::new(),
        }
    }
}

/// A place in the text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// From 1.
    pub line: u32,
    /// In characters, from 1.
    pub column: u32,
}

/// Something that is wrong with a definition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Problem {
    /// What is wrong and what to write instead.
    pub message: String,
    /// Line in the text, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// Where in the structure, for example `workflow.steps[3].runner`.
    pub path: String,
}

impl Problem {
    pub(crate) fn new(at: Position, path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { message: message.into(), line: at.line as usize, column: at.column as usize, path: path.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.line, self.column)?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

/// How many problems are reported; of the others only the number.
pub const MAX_PROBLEMS: usize = 100;

/// Reads a definition.
///
/// # Errors
/// All problems of shape, in the order of the text, never none: text that is not YAML (then the first error only), unknown or repeated keys,
/// wrong types, bad ids, kinds or durations, repeated ids, unknown dependencies, and whatever exceeds [`limits`]. Beyond 100 problems
/// the last one says how many more there are.
pub fn parse(text: &str) -> Result<Definition, Vec<Problem>> {
    if text.len() > limits::WORKFLOW_BYTES {
        let (is, max) = (text.len(), limits::WORKFLOW_BYTES);
        let message =
            format!("the definition has {is} bytes, at most {max} are allowed: split it into several workflows");
        return Err(vec![Problem::new(Position { line: 1, column: 1 }, "", message)]);
    }
    let tree = tree::Tree::parse(text).map_err(|problem| vec![problem])?;
    match workflow::read(&tree) {
        (Some(definition), problems) if problems.is_empty() => Ok(definition),
        (_, problems) => Err(problems),
    }
}

/// Reads as much of a definition as can be read, with all problems of its shape: for those who look for further ones, such as circles.
#[must_use]
pub fn examine(text: &str) -> (Option<Definition>, Vec<Problem>) {
    match (text.len() <= limits::WORKFLOW_BYTES).then(|| tree::Tree::parse(text)) {
        Some(Ok(tree)) => workflow::read(&tree),
        _ => (None, parse(text).err().unwrap_or_default()),
    }
}

/// As [`parse`], for bytes that may not be text.
///
/// # Errors
/// As [`parse`]; also if the bytes are not UTF-8.
pub fn parse_bytes(bytes: &[u8]) -> Result<Definition, Vec<Problem>> {
    let text = std::str::from_utf8(bytes).map_err(|e| {
        let good = &bytes[..e.valid_up_to()];
        let line = good.iter().filter(|b| **b == b'\n').count() + 1;
        let start = good.iter().rposition(|b| *b == b'\n').map_or(0, |newline| newline + 1);
        let column = String::from_utf8_lossy(&good[start..]).chars().count() + 1;
        let message = "this is not UTF-8: save the file as UTF-8".to_owned();
        vec![Problem { message, line, column, path: String::new() }]
    })?;
    parse(text)
}
