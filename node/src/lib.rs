//! The roles of Horus, their RPC methods, the workflow engine and the command line: everything that the binary does.
//!
//! - [`api`]: one type per RPC method. Roles meet here only.
//! - [`coordinator`]: accepts signed workflows and has their steps executed by supervisors.
//! - [`role`]: what every role has: keys, trust, health, logging, shutdown.
//! - [`store`]: the little that a role itself keeps in Redis.
//! - [`supervisor`]: admits signed jobs into the queue of its machine and answers for them.
//! - [`workflow`]: plans, the pure engine, and the checks on definitions.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod api;
pub mod coordinator;
pub mod role;
pub mod store;
pub mod supervisor;
pub mod workflow;
