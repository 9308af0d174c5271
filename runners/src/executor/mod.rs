//! What turns a job into an output. The worker loop does the rest: claim, verify, heartbeat, timeout, receipt.

mod log;
mod output;

use std::{collections::BTreeMap, fmt, future::Future};

use horus_keys::RunnerKind;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use crate::job::Job;

pub use log::{LogLine, LogSink, LogStream, LogWriter};
pub use output::{ExecutionError, Output};

/// Executes jobs of one kind.
///
/// The worker calls [`Executor::execute`] from several tasks at once, up to its concurrency. Implement it to make a runner of your own.
pub trait Executor: Send + Sync + 'static {
    /// The kind whose queue it serves.
    fn kind(&self) -> RunnerKind;

    /// Whether every job of this kind may run twice with the effect of once. If so, a job whose runner died while it ran is delivered again;
    /// else it ends `lost`, unless the job itself says that it is idempotent.
    fn idempotent(&self) -> bool {
        false
    }

    /// Called once before the first job: warm pools, open databases.
    ///
    /// # Errors
    /// The worker does not start, and shows the error.
    fn prepare(&self) -> impl Future<Output = Result<(), ExecutionError>> + Send {
        async { Ok(()) }
    }

    /// Executes one job.
    ///
    /// When `context.cancel` fires (cancelled, or out of time) it should stop and return soon: the future is dropped some 500 ms later, and
    /// dropping it must end all that it started, processes included.
    ///
    /// # Errors
    /// The job ends `failed` with this error, or `cancelled` or `timed_out` if that came first.
    fn execute(&self, job: &Job, context: &Context) -> impl Future<Output = Result<Output, ExecutionError>> + Send;
}

/// What a job gets from its surroundings.
#[derive(Clone)]
pub struct Context {
    /// Lines that the job prints, stored as they come.
    pub log: LogSink,
    /// Fires on cancel and on timeout.
    pub cancel: CancellationToken,
    /// Opened secrets by name; wiped from memory when the context is dropped.
    pub secrets: BTreeMap<String, Zeroizing<String>>,
    /// When `cancel` fires at the latest.
    pub deadline: tokio::time::Instant,
}

/// Names the secrets, never their values.
impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("secrets", &self.secrets.keys())
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}

impl Context {
    /// A context without secrets, whose log is kept in memory: for tests and for running a script outside of any queue.
    #[must_use]
    pub fn detached(timeout: std::time::Duration) -> Self {
        Self {
            log: LogSink::collecting(),
            cancel: CancellationToken::new(),
            secrets: BTreeMap::new(),
            deadline: tokio::time::Instant::now() + timeout,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn secrets_are_never_printed() {
        let mut context = Context::detached(std::time::Duration::from_secs(1));
        context.secrets.insert("TOKEN".to_owned(), Zeroizing::new("hunter2".to_owned()));
        let shown = format!("{context:?}");
        assert!(shown.contains("TOKEN") && !shown.contains("hunter2"));
    }
}
