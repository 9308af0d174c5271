//! The script executors with real processes and real databases.
//!
//! This test has its own `main`, since the sal runner starts the running binary again as its fork server, which must have one thread: libtest's
//! harness would be in the way. Like libtest it takes a part of the test names as filter.

// Without libtest's harness clippy does not see that these are tests.
#![allow(clippy::unwrap_used)]

mod osiris;
mod postgres;
mod sal;
mod world;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
    time::{Duration, Instant},
};

use futures::future::LocalBoxFuture;

/// No test may take longer.
const TEST_TIMEOUT: Duration = Duration::from_secs(120);

/// First argument of the process that plays a runner which is killed.
pub(crate) const RUNNER: &str = "__runner";

/// Lists async functions as tests.
#[macro_export]
macro_rules! tests {
    ($($name:ident),* $(,)?) => {
        pub(crate) const TESTS: &[(&str, fn() -> futures::future::LocalBoxFuture<'static, ()>)] =
            &[$((concat!(module_path!(), "::", stringify!($name)), || Box::pin($name()))),*];
    };
}

fn main() -> ExitCode {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == horus_runners::sal::CHILD_COMMAND) {
        return horus_runners::sal::child_main();
    }
    if arguments.first().is_some_and(|first| first == RUNNER) {
        run(&|| Box::pin(async { sal::be_a_runner(&std::env::args().nth(2).expect("a script")).await }));
    }
    arguments.retain(|argument| !argument.starts_with("--"));
    let all = [sal::TESTS, osiris::TESTS, postgres::TESTS].concat();
    let chosen = |name: &str| arguments.is_empty() || arguments.iter().any(|part| name.contains(part.as_str()));
    let mut failed = Vec::new();
    let mut count = 0;
    for (name, test) in all.into_iter().filter(|(name, _)| chosen(name)) {
        let started = Instant::now();
        let passed = catch_unwind(AssertUnwindSafe(|| run(&test))).is_ok();
        count += 1;
        println!("test {name} ... {} ({:.2?})", if passed { "ok" } else { "FAILED" }, started.elapsed());
        if !passed {
            failed.push(name);
        }
    }
    println!("\n{count} tests, {} failed {failed:?}", failed.len());
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run(test: &dyn Fn() -> LocalBoxFuture<'static, ()>) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let done = runtime.block_on(async { tokio::time::timeout(TEST_TIMEOUT, test()).await });
    runtime.shutdown_timeout(Duration::from_secs(5));
    assert!(done.is_ok(), "not done after {TEST_TIMEOUT:?}");
}
