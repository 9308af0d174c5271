//! Nothing is lost, and nothing runs twice that must not: shown under one seed at a time.
//!
//! | module | simulates | with |
//! |---|---|---|
//! | `engine` | thousands of random workflows on invented supervisors | the workflow engine itself |
//! | `queue` | one queue with submitters, supervisors and workers | the scripts of the queue themselves, in a Redis whose clock is set |
//! | `joined` | coordinators that drive random workflows over such queues | both, and the scripts of the coordinator's store |
//!
//! One generator of chance decides who takes the next step and what goes wrong. A failing seed says so and replays to the letter:
//!
//!     HORUS_SIM_SEED=42 cargo test -p horus-tests --test simulation joined -- --nocapture      one seed, told step by step
//!     HORUS_SIM_SEEDS=20000 cargo test -p horus-tests --test simulation joined                 many seeds

#![allow(clippy::unwrap_used)]

mod engine;
mod joined;
mod plan;
mod queue;
mod seeds;
mod server;
