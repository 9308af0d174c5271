//! What every role of a node has: its keys, the trust policy, where it listens, how it says who it is and how it is, and how
//! it stops.
//!
//! A role is an adapter: it takes a [`Common`], its own configuration, and starts. What it does lives elsewhere.

mod announce;
mod common;
mod health;
mod log;
mod mesh;
mod running;
mod shutdown;

pub use announce::Announcer;
pub(crate) use common::present_own;
pub use common::{Common, CommonOptions, RoleError, follow_trust};
pub use health::Health;
pub use log::{LogFormat, start_logging};
pub use mesh::{HOW_TO_GET_A_DAEMON, MeshConfig, MeshUse, RoleMesh, topic_of};
pub(crate) use mesh::{Serving, known_nodes};
pub use running::Running;
pub use shutdown::Shutdown;
