//! Everything that crosses a process: real `horus` processes, a real Redis.

#![allow(clippy::unwrap_used)] // Tests: what fails here is to panic.

mod busy_month;
mod cancelled;
mod cli_keys;
mod cli_output;
mod clocks;
mod custom_runner;
mod draining;
mod failover;
mod faults;
mod hostile_coordinator;
mod hostile_input;
mod house_rules;
mod main_job;
mod mesh;
mod osiris_postgres;
mod partition;
mod runaway;
mod stopping;
mod takeover;
mod trouble;
mod two_supervisors;
mod unknown;
mod up;
