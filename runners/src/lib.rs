//! Job model, Redis queue, worker loop and the executors of Horus.
//!
//! A job is signed by somebody, checked by [`admission`], queued, checked again by the runner, and executed by an [`executor::Executor`].
//! This crate opens no network connection but Redis and what an executor needs.

pub mod admission;
pub mod definition;
pub mod executor;
pub mod hero;
pub mod job;
pub mod link;
pub mod noop;
pub mod osiris;
pub mod queue;
pub mod sal;
pub mod script;
mod tls;
pub mod worker;
