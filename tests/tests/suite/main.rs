//! Everything that crosses a process: real `horus` processes, a real Redis.

mod cli_keys;
mod hostile_coordinator;
mod house_rules;
mod main_job;
mod runaway;
