//! Workflows as data: the plan, the pure engine that moves them, and the checks on their definitions. Nothing here does IO.
//!
//! | file | holds |
//! |---|---|
//! | `validate` | everything that can be wrong with a definition, all at once, each with line and column |
//! | `dag` | circles among dependencies |
//! | `plan` | the definition with ids resolved to numbers |
//! | `policy`, `selector` | what a step says about trouble, and about supervisors |
//! | `status` | the states of steps and workflows, and the one table of legal changes |
//! | `event`, `state`, `engine` | (state, event) -> (state, commands) |
//! | `resume` | the commands that a state calls for after a restart |

mod dag;
mod engine;
mod event;
mod plan;
mod policy;
mod resume;
mod selector;
mod state;
mod status;
mod validate;

pub use engine::{GRACE, apply};
pub use event::{Command, Event, Outcome, ReceiptPlace, Record, StepAttempt, StepIndex, Timer};
pub use plan::{Deadline, Plan, PlannedStep};
pub use policy::{Policy, UNKNOWN_ATTEMPTS, Unknown};
pub use resume::{at_large, resume, still_wanted, time_until};
pub use selector::Selector;
pub use state::{Dispatch, Snapshot, SnapshotError, State, StepState, Stop};
pub use status::{StepStatus, WorkflowStatus};
pub use validate::{all_problems, plan, problems};
