//! `OsirisExecutor`: a script in, one transaction, an output out.

use std::{sync::Arc, time::Duration};

use horus_keys::{Digest, RunnerKind};
use rhai::Engine;
use tokio::{
    runtime::Handle,
    sync::{Mutex, oneshot},
};
use tokio_util::sync::CancellationToken;

use super::{
    commit::{Commit, Committer, Effects, Verdict},
    engine::{osiris_engine, with_session},
    options::OsirisOptions,
    recorded::Recorded,
    session::Session,
    store::Store,
    threads::ScriptThreads,
};
use crate::{
    executor::{Context, ExecutionError, Executor, Output},
    job::{Job, step_job_id},
    script::{Program, ScriptFailure, run},
};

/// How often a job is run when others keep changing what it reads.
const ATTEMPTS: u32 = 50;
/// How long after `run_until` a job id is remembered: a job that started in time may run for a day.
const REMEMBER: Duration = Duration::from_secs(25 * 3600);

/// Executes Rhai scripts with a record store. See the module's page.
///
/// Idempotent: a job delivered twice takes effect once.
pub struct OsirisExecutor {
    engine: Arc<Engine>,
    threads: ScriptThreads,
    store: Store,
    committer: Committer,
    recorded: Recorded,
    /// Jobs whose reads were outdated take turns, so that they do not outdate each other.
    turn: Mutex<()>,
    memory_bytes: u64,
}

/// How a script ended, before it is decided whether that counts.
struct Ran {
    result: Result<String, ScriptFailure>,
    effects: Effects,
}

impl OsirisExecutor {
    /// Opens the database, makes its tables if they are not there, and compiles the script library.
    ///
    /// # Errors
    /// `DATABASE_ERROR` if the database cannot be opened, `SCRIPT_INVALID` if the library cannot be used.
    pub async fn open(options: OsirisOptions) -> Result<Self, ExecutionError> {
        let engine = osiris_engine(&options).map_err(|e| ExecutionError::new("SCRIPT_INVALID", e))?;
        // One for each script, one for the committer, and one for those who ask whether they were stored before.
        let connections = u32::try_from(options.threads.clamp(1, 64) + 2).expect("at most 66");
        let store = Store::open(&options.url, connections).await?;
        Ok(Self {
            engine: Arc::new(engine),
            threads: ScriptThreads::new(options.threads),
            committer: Committer::start(store.clone()),
            recorded: Recorded::start(store.clone()),
            store,
            turn: Mutex::new(()),
            memory_bytes: options.memory_bytes,
        })
    }

    /// Runs the script on a thread of its own. Whatever waits for the answer may go away: the script is then stopped.
    async fn run(&self, job: &Arc<Job>, context: &Context, stop: &CancellationToken) -> Result<Ran, ExecutionError> {
        let session = Session::new(
            self.store.clone(),
            Handle::current(),
            context.log.clone(),
            stop.clone(),
            context.deadline,
            self.memory_bytes,
        );
        let (engine, job, secrets) = (self.engine.clone(), job.clone(), context.secrets.clone());
        let (reply, ran) = oneshot::channel();
        self.threads.run(move || {
            let job_id = job.id.to_string();
            let program = Program {
                script: &job.payload,
                input: job.input.as_deref(),
                env: &job.env,
                secrets: secrets.iter().map(|(name, secret)| (name.as_str(), secret.as_str())).collect(),
                job_id: &job_id,
            };
            let (result, session) = with_session(session, || run(&engine, &program, |value| value));
            let _ = reply.send(Ran { result, effects: session.into_effects() });
        });
        tokio::select! {
            biased;
            ran = ran => ran.map_err(|_| ExecutionError::new("SCRIPT_CRASHED", "the script's thread panicked: see the runner's standard error")),
            () = stop.cancelled() => Err(stopped(context)),
        }
    }
}

fn stopped(context: &Context) -> ExecutionError {
    if tokio::time::Instant::now() >= context.deadline {
        ExecutionError::new("TIMED_OUT", "the script ran out of time; nothing of it was stored")
    } else {
        ExecutionError::new("CANCELLED", "the job was cancelled; nothing of it was stored")
    }
}

impl Executor for OsirisExecutor {
    fn kind(&self) -> RunnerKind {
        "osiris".parse().expect("a valid runner kind")
    }

    fn idempotent(&self) -> bool {
        true
    }

    async fn execute(&self, job: &Job, context: &Context) -> Result<Output, ExecutionError> {
        let (job_id, content) = (effect_id(job), content(job));
        let before = tokio::select! {
            before = self.recorded.before(&job_id) => before?,
            () = context.cancel.cancelled() => return Err(stopped(context)),
        };
        if let Some(before) = before {
            let output = before.output_for(&job_id, &content)?;
            context.log.system("the job was stored before: its script is not run again, its output is the same");
            return Output::from_json_text(output);
        }
        // When this future is dropped, the script stops too.
        let stop = context.cancel.child_token();
        let _stop_when_dropped = stop.clone().drop_guard();
        let job = Arc::new(job.clone());
        let mut turn = None;
        for _ in 0..ATTEMPTS {
            let Ran { result, effects } = self.run(&job, context, &stop).await?;
            let (output, failed) = match result {
                // Checked before it is stored: an output over the limit must not leave its effects behind.
                Ok(text) => (Some(Output::from_json_text(text)?), None),
                Err(failure) => (None, Some(failure)),
            };
            let commit = Commit {
                job_id: job_id.clone(),
                content: content.clone(),
                output: output.as_ref().map(|output| output.get().to_owned()),
                keep_until: job.run_until.saturating_add(REMEMBER),
                effects,
            };
            match (self.committer.commit(commit).await?, output, failed) {
                (Verdict::Stored, Some(output), _) => return Ok(output),
                (Verdict::Stored, None, Some(failure)) => return Err(failure.into()),
                (Verdict::Already(before), ..) => {
                    return Output::from_json_text(before.output_for(&job_id, &content)?);
                }
                (Verdict::Stored | Verdict::Outdated, ..) => {
                    context.log.system("another job has changed what this one read: it is run again");
                }
            }
            if turn.is_none() {
                turn = tokio::select! {
                    turn = self.turn.lock() => Some(turn),
                    () = stop.cancelled() => return Err(stopped(context)),
                };
            }
        }
        let text = format!(
            "other jobs changed what this one reads {ATTEMPTS} times while it ran: read less, or run it when there is less to do"
        );
        Err(ExecutionError::new("CONFLICT", text))
    }
}

/// The id under which a job's effect is recorded. For a step that of the step, whichever attempt it is: an attempt that is
/// made because nobody knew what became of the one before must not take effect a second time.
fn effect_id(job: &Job) -> String {
    match &job.delegation {
        Some(step) => step_job_id(&step.workflow, &step.step, step.index, 0, job.id.runner()).to_string(),
        None => job.id.to_string(),
    }
}

/// A digest of what makes a job this one: who is responsible for it, and all that its script sees and that is the same when it is
/// sent again. Of a step the input is not in it: the id stands for its workflow, and a later attempt may bring the outputs of the
/// steps before in other words.
fn content(job: &Job) -> String {
    let input = job.input.as_ref().filter(|_| job.delegation.is_none()).map(|input| input.get());
    let all = serde_json::to_vec(&(&job.submitter, &job.payload, input, &job.env));
    Digest::of(&all.expect("texts, and a map of texts, are JSON")).to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        executor::LogSink,
        job::{Delegation, StepId},
    };

    #[tokio::test]
    async fn attempts_of_one_step_take_effect_once() {
        let dir = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}/osiris.db", dir.path().display());
        let osiris = OsirisExecutor::open(OsirisOptions::new(url)).await.unwrap();
        let run = async |workflow: &[u8], attempt: u32, payload: &str| {
            let mut job = Job::unsigned("osiris", payload);
            let (workflow, step) = (Digest::of(workflow), StepId::new("store").unwrap());
            job.id = step_job_id(&workflow, &step, None, attempt, job.id.runner());
            job.delegation = Some(Delegation { workflow, step, index: None, attempt });
            let context = Context {
                log: LogSink::collecting(),
                cancel: CancellationToken::new(),
                secrets: std::collections::BTreeMap::new(),
                deadline: tokio::time::Instant::now() + Duration::from_secs(60),
            };
            let output = osiris.execute(&job, &context).await.map(|output| output.get().to_owned());
            output.map(|text| serde_json::from_str::<serde_json::Value>(&text).unwrap())
        };
        let create = "osiris.model(\"m\").create(#{})";
        // A failed attempt leaves nothing behind, so the next one runs.
        run(b"w", 1, "osiris.model(\"m\").create(#{}); throw \"no\"").await.unwrap_err();
        let second = run(b"w", 2, create).await.unwrap();
        let third = run(b"w", 3, create).await.unwrap();
        assert_eq!(second["id"], third["id"], "the third attempt gives what the second stored");
        let other = run(b"another", 1, create).await.unwrap();
        assert_ne!(second["id"], other["id"]);
        assert_eq!(run(b"count", 1, "osiris.model(\"m\").count()").await.unwrap(), json!(2));
    }
}
