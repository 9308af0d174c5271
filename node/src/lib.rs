//! The roles of Horus, their RPC methods, the workflow engine and the command line: everything that the binary does.
//!
//! - [`api`]: one type per RPC method. Roles meet here only.
//! - [`cli`], [`bench`], [`doctor`]: the command line and what it measures and examines.
//! - [`coordinator`]: accepts signed workflows and has their steps executed by supervisors.
//! - [`role`]: what every role has: keys, trust, health, logging, shutdown.
//! - [`runner_role`]: an executor, the queue of its machine, and a worker between them.
//! - [`store`]: the little that a role itself keeps in Redis.
//! - [`supervisor`]: admits signed jobs into the queue of its machine and answers for them.
//! - [`up`]: a whole Horus on one machine.
//! - [`workflow`]: plans, the pure engine, the checks on definitions.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod api;
pub mod bench;
pub mod cli;
pub mod coordinator;
pub mod doctor;
pub mod role;
pub mod runner_role;
pub mod store;
pub mod supervisor;
pub mod up;
pub mod workflow;
