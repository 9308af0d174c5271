//! The runner `noop`: its output is its payload. It measures everything around an execution.

use horus_keys::RunnerKind;

use crate::{
    executor::{Context, ExecutionError, Executor, Output},
    job::Job,
};

/// Returns the job's payload at once: as JSON if it parses, else as a string; null if it is empty. The input is ignored, so that
/// the outputs of a long chain do not grow.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoopExecutor;

impl Executor for NoopExecutor {
    fn kind(&self) -> RunnerKind {
        "noop".parse().expect("a valid runner kind")
    }

    /// It has no effect, so it may run any number of times.
    fn idempotent(&self) -> bool {
        true
    }

    async fn execute(&self, job: &Job, _context: &Context) -> Result<Output, ExecutionError> {
        if job.payload.is_empty() {
            return Ok(Output::null());
        }
        Output::from_json_text(job.payload.clone()).or_else(|_| Output::from_value(&job.payload))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn the_payload_comes_back() {
        let context = Context::detached(Duration::from_secs(1));
        for (payload, output) in [("", "null"), (r#"{"a": 1.0}"#, r#"{"a": 1.0}"#), ("some text", "\"some text\"")] {
            let job = Job::unsigned("noop", payload);
            assert_eq!(NoopExecutor.execute(&job, &context).await.unwrap().get(), output);
        }
    }
}
