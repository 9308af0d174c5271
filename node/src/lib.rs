//! The roles of Horus, their RPC methods, the workflow engine and the command line: everything that the binary does.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod workflow;
