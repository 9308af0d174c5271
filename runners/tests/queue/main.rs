//! The queue and the worker loop against a real Redis, which every test starts for itself.

#![allow(clippy::unwrap_used)]

mod cancel;
mod doctor;
mod harness;
mod leases;
mod lifecycle;
mod listing;
mod logs;
mod push;
mod server;
mod speed;
mod steps;
mod time;
mod trust;
mod worker;
