//! `horus bench`: measures a Horus that is up as a user would, with every check on: jobs are signed, verified by
//! supervisor and runner, and their receipts verified here.

mod jobs;
mod paths;
mod rpc;
mod stats;
mod workflow;

pub use jobs::{JobsPlan, jobs};
pub use paths::{OneWay, PathsPlan, paths};
pub use rpc::{RpcPlan, rpc};
pub use stats::{Environment, Latencies};
pub use workflow::{Shape, WorkflowPlan, workflow};
