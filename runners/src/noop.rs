//! The runner `noop`: its output is its input. It measures everything around an execution.

use horus_keys::RunnerKind;

use crate::{
    executor::{Context, ExecutionError, Executor, Output},
    job::Job,
};

/// Returns the job's input, or null, at once; the payload is ignored.
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
        match &job.input {
            Some(input) => Output::from_json_text(input.get().to_owned()),
            None => Ok(Output::null()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::value::RawValue;

    use super::*;

    #[tokio::test]
    async fn the_input_comes_back_to_the_byte() {
        let context = Context::detached(Duration::from_secs(1));
        let mut job = Job::unsigned("noop", "anything");
        assert_eq!(NoopExecutor.execute(&job, &context).await.unwrap().get(), "null");
        job.input = Some(RawValue::from_string(r#"{"a": 1.0}"#.to_owned()).unwrap());
        assert_eq!(NoopExecutor.execute(&job, &context).await.unwrap().get(), r#"{"a": 1.0}"#);
    }
}
