//! The runner `osiris`: Rhai with a record store, SQLite or PostgreSQL.
//!
//! One job is one transaction, and its id is recorded in it with its output: a job delivered twice takes effect once and returns the same output.
//!
//! A script never holds a lock. It runs on a thread of its own against what is committed; what it reads is noted, what it changes is kept aside
//! ([`session`]). When it has ended, the committer takes it together with the other jobs that ended meanwhile into one short transaction ([`commit`]):
//! if something that the job read has changed since, the job is not applied but run again; else its changes, its output and its id are
//! written. So jobs are serialisable, a script that loops for ever hinders nobody, and a thousand small jobs share a few commits.
//!
//! ```text
//! execute -> script threads (Rhai; reads by pool) -> committer (groups of jobs, one transaction each) -> output
//!    ^__________________ again, if a read is outdated _______________|
//! ```

mod api;
mod commit;
mod engine;
mod executor;
mod filter;
mod options;
mod record;
mod recorded;
mod session;
mod sql;
mod store;
mod threads;
mod trouble;

pub use executor::OsirisExecutor;
pub use options::OsirisOptions;
