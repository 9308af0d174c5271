//! A supervisor in this process on a real Redis, called over HTTP, with a worker that executes.

#![allow(clippy::unwrap_used, missing_docs)]

mod harness;
mod methods;
mod refusals;
mod runners;
mod steps;
mod trouble;
mod visibility;
mod waiting;
