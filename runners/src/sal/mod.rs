//! The runner `sal`: Rhai with the SAL modules, each job in a process of its own.
//!
//! SAL calls block, start programs and change the machine, so no script runs inside the runner. The runner starts one **fork server**: the same
//! binary again with a hidden subcommand, a single-threaded process that builds the engine and compiles the script library once. For each job it
//! forks; the child has everything ready a fraction of a millisecond later, shares the server's memory until it writes, serves this one job
//! and is gone. (A pool of warm processes was the alternative: each costs an `exec`, an engine and its memory while it waits.)
//!
//! ```text
//! runner ---- control socket (start + fds, kill / ended) ---- fork server
//!    \                                                          | fork
//!     +-- work socket (job / result), log pipes ----------- job process -- programs that the script starts
//! ```
//!
//! What a script or its programs print goes through pipes into the job's log and cannot touch the protocol: both sockets are close-on-exec.
//!
//! Ending a job ends all that it started. The job process leads a session of its own and is a *child subreaper*: whatever daemonises itself below it
//! becomes its child. At the end of a job it kills what is left. When it dies itself, the orphans fall to the fork server, which forks nothing but
//! job processes and so kills every other child. If the runner dies, the server sees its socket close, kills all jobs and leaves;
//! if the server is killed, the kernel kills the job processes with it.

mod engine;
mod executor;
mod frame;
mod job_process;
mod options;
mod processes;
mod server;
mod server_main;

pub use executor::SalExecutor;
pub use options::{ResourceLimits, SalOptions};
pub use server_main::{CHILD_COMMAND, child_main};
