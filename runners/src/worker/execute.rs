//! Runs one job under its timeout, and sees that it stops when it is told to.

use std::{collections::BTreeMap, panic::AssertUnwindSafe, time::Duration};

use futures::FutureExt;
use horus_keys::{SealingKey, SecretContext};
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::held::{HeldJob, Stop};
use crate::{
    executor::{Context, ExecutionError, Executor, Output},
    job::{Job, JobError, JobStatus},
};

/// How long an execution may take to return after it was told to stop; then its future is dropped.
const STOP_GRACE: Duration = Duration::from_millis(500);

/// How an execution ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// It has a result.
    Ended { status: JobStatus, output: Option<Output>, error: Option<JobError> },
    /// It may run again elsewhere: give it back to the queue.
    Release,
    /// The job is no longer ours: say nothing.
    Abandon,
}

impl Outcome {
    fn failed(status: JobStatus, error: impl Into<JobError>) -> Self {
        Self::Ended { status, output: None, error: Some(error.into()) }
    }
}

/// Executes a job that was marked as started.
pub(crate) async fn execute<E: Executor>(
    executor: &E,
    job: &Job,
    held: &HeldJob,
    sealing: Option<&SealingKey>,
) -> Outcome {
    let secrets = match open_secrets(job, sealing) {
        Ok(secrets) => secrets,
        Err(error) => return Outcome::failed(JobStatus::Failed, error),
    };
    let deadline = Instant::now() + job.timeout;
    let context = Context { log: held.log.clone(), cancel: held.cancel.clone(), secrets, deadline };
    let mut run = Box::pin(AssertUnwindSafe(executor.execute(job, &context)).catch_unwind());
    let timed_out = tokio::select! {
        biased;
        () = held.cancel.cancelled() => false,
        result = &mut run => return ended(result, Instant::now() >= deadline),
        () = tokio::time::sleep_until(deadline) => true,
    };
    if timed_out {
        held.cancel.cancel();
    }
    // A result that comes now is not taken: half of what the job meant to do may be missing from it.
    let _ = tokio::time::timeout(STOP_GRACE, &mut run).await;
    drop(run);
    if timed_out {
        let message = format!("the job ran longer than its timeout of {} ms and was stopped", job.timeout.as_millis());
        return Outcome::failed(JobStatus::TimedOut, ExecutionError::new("TIMED_OUT", message));
    }
    match held.why() {
        Some(Stop::Gone) => Outcome::Abandon,
        Some(Stop::Shutdown) if executor.idempotent() || job.idempotent => Outcome::Release,
        Some(Stop::Shutdown) => Outcome::failed(
            JobStatus::Failed,
            ExecutionError::new(
                "INTERRUPTED",
                "the runner had to stop before the job ended; what it did until then stays",
            ),
        ),
        Some(Stop::Cancelled) | None => Outcome::failed(
            JobStatus::Cancelled,
            ExecutionError::new("CANCELLED", "the job was cancelled while it ran"),
        ),
    }
}

/// An executor may see by itself that the time is up, a moment before we do: its words say more than ours.
fn ended(result: Result<Result<Output, ExecutionError>, Box<dyn std::any::Any + Send>>, late: bool) -> Outcome {
    match result {
        Ok(Ok(output)) => Outcome::Ended { status: JobStatus::Succeeded, output: Some(output), error: None },
        Ok(Err(error)) if late => {
            let error = ExecutionError { code: "TIMED_OUT".to_owned(), ..error };
            Outcome::failed(JobStatus::TimedOut, error)
        }
        Ok(Err(error)) => Outcome::failed(JobStatus::Failed, error),
        Err(panic) => {
            let text = panic.downcast_ref::<&str>().map(ToString::to_string);
            let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
            let message = format!("the executor panicked: {text}; this is a fault in the runner, please report it");
            Outcome::failed(JobStatus::Failed, ExecutionError::new("PANIC", message))
        }
    }
}

fn open_secrets(
    job: &Job,
    sealing: Option<&SealingKey>,
) -> Result<BTreeMap<String, Zeroizing<String>>, ExecutionError> {
    if job.secrets.is_empty() {
        return Ok(BTreeMap::new());
    }
    let key = sealing.ok_or_else(|| {
        ExecutionError::new(
            "SECRET_UNREADABLE",
            "the job has secrets, but this runner has no sealing key: start it with --identity",
        )
    })?;
    let scope = job.secret_scope();
    let open = |(name, sealed): (&String, &horus_keys::SealedSecret)| {
        let context = SecretContext { submitter: job.submitter, runner: job.id.runner(), scope: &scope, name };
        let failed = |why: String| ExecutionError::new("SECRET_UNREADABLE", format_args!("secret {name:?}: {why}"));
        let bytes = key.open(sealed, &context).map_err(|e| failed(e.to_string()))?;
        let text = std::str::from_utf8(&bytes).map_err(|_| failed("it is not UTF-8 text".to_owned()))?;
        Ok((name.clone(), Zeroizing::new(text.to_owned())))
    };
    job.secrets.iter().map(open).collect()
}

#[cfg(test)]
mod tests {
    use horus_keys::{Digest, RunnerKind, Timestamp};

    use super::*;
    use crate::{job::LocalId, queue::Claimed, worker::held::Held};

    /// Does what the payload says.
    struct Fake;

    impl Executor for Fake {
        fn kind(&self) -> RunnerKind {
            "fake".parse().unwrap()
        }

        async fn execute(&self, job: &Job, context: &Context) -> Result<Output, ExecutionError> {
            match job.payload.as_str() {
                "hang" => std::future::pending().await,
                "stop" => {
                    context.cancel.cancelled().await;
                    Ok(Output::null())
                }
                "panic" => panic!("oh"),
                "fail" => Err(ExecutionError::new("NO", "no")),
                _ => Ok(Output::null()),
            }
        }
    }

    fn held() -> HeldJob {
        let (all, id) = (Held::default(), LocalId::new("a").unwrap());
        let run_until = Timestamp::now();
        all.insert(&[Claimed {
            id: id.clone(),
            token: 1,
            batch: Digest::of(b""),
            index: 0,
            attempt: 0,
            running: false,
            run_until,
        }]);
        all.get(&id, 1).unwrap()
    }

    fn status(outcome: Outcome) -> (JobStatus, String) {
        match outcome {
            Outcome::Ended { status, error, .. } => (status, error.map(|e| e.code).unwrap_or_default()),
            other => panic!("{other:?}"),
        }
    }

    async fn run(payload: &str) -> (JobStatus, String) {
        status(execute(&Fake, &Job::unsigned("fake", payload), &held(), None).await)
    }

    #[tokio::test(start_paused = true)]
    async fn every_end_has_its_status() {
        assert_eq!(run("ok").await, (JobStatus::Succeeded, String::new()));
        assert_eq!(run("fail").await, (JobStatus::Failed, "NO".to_owned()));
        assert_eq!(run("panic").await, (JobStatus::Failed, "PANIC".to_owned()));
        assert_eq!(run("hang").await, (JobStatus::TimedOut, "TIMED_OUT".to_owned()));
        assert_eq!(run("stop").await, (JobStatus::TimedOut, "TIMED_OUT".to_owned()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_cancelled_job_stops_within_a_second() {
        for payload in ["hang", "stop"] {
            let held = held();
            let (start, stopper) = (Instant::now(), held.clone());
            let stop = async move {
                tokio::time::sleep(Duration::from_secs(3)).await;
                stopper.stop(Stop::Cancelled);
            };
            let job = Job::unsigned("fake", payload);
            let (outcome, ()) = tokio::join!(execute(&Fake, &job, &held, None), stop);
            assert_eq!(status(outcome).0, JobStatus::Cancelled);
            assert!(start.elapsed() < Duration::from_secs(4));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_stopping_worker_does_depends_on_the_job() {
        let mut job = Job::unsigned("fake", "hang");
        for idempotent in [false, true] {
            job.idempotent = idempotent;
            let held = held();
            held.stop(Stop::Shutdown);
            match execute(&Fake, &job, &held, None).await {
                Outcome::Release => assert!(idempotent),
                other => {
                    assert_eq!((status(other), idempotent), ((JobStatus::Failed, "INTERRUPTED".to_owned()), false));
                }
            }
        }
        let held = held();
        held.stop(Stop::Gone);
        assert!(matches!(execute(&Fake, &job, &held, None).await, Outcome::Abandon));
    }

    #[tokio::test]
    async fn secrets_are_opened_for_this_job_only() {
        let (key, mut job) = (SealingKey::generate(), Job::unsigned("fake", "ok"));
        let (scope, kind) = (job.secret_scope(), job.id.runner().clone());
        let context = SecretContext { submitter: job.submitter, runner: &kind, scope: &scope, name: "TOKEN" };
        job.secrets.insert("TOKEN".to_owned(), horus_keys::seal(b"s3cret", &[key.public()], &context).unwrap());
        assert_eq!(**open_secrets(&job, Some(&key)).unwrap()["TOKEN"], *"s3cret");
        assert_eq!(open_secrets(&job, None).unwrap_err().code, "SECRET_UNREADABLE");
        job.id = crate::job::JobId::new(kind.clone(), LocalId::generate());
        assert_eq!(open_secrets(&job, Some(&key)).unwrap_err().code, "SECRET_UNREADABLE");
    }
}
