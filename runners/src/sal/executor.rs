//! `SalExecutor`: a job in, a forked process, an output out.

use std::{io, os::fd::OwnedFd, os::unix::net::UnixStream as StdUnixStream, pin::pin, sync::Arc, time::Duration};

use futures::future::join;
use horus_keys::RunnerKind;
use nix::{fcntl::OFlag, sys::signal::Signal, unistd::pipe2};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixStream, unix::pipe},
    sync::Mutex,
};

use super::{
    frame::{Ending, Report, WorkRef, frame, frame_length},
    options::SalOptions,
    server::{ForkServer, JobProcess},
};
use crate::{
    executor::{Context, ExecutionError, Executor, LogSink, LogStream, Output},
    job::Job,
};

/// How long the log pipes may stay open after the report: only a process that cannot be killed holds them.
const LOG_PATIENCE: Duration = Duration::from_secs(1);
/// Bytes read from a log pipe at once.
const LOG_CHUNK: usize = 16 * 1024;

/// Executes Rhai scripts with the SAL modules, each in a process of its own. See the module's page.
///
/// Not idempotent: a script may have done anything by the time its runner dies.
pub struct SalExecutor {
    options: SalOptions,
    state: Mutex<Option<State>>,
}

struct State {
    server: Arc<ForkServer>,
    scratch: Arc<TempDir>,
}

impl SalExecutor {
    /// Starts nothing yet: [`Executor::prepare`] does.
    #[must_use]
    pub fn new(options: SalOptions) -> Self {
        Self { options, state: Mutex::new(None) }
    }

    /// The fork server; a new one if there is none or if it was killed.
    async fn server(&self) -> Result<(Arc<ForkServer>, Arc<TempDir>), ExecutionError> {
        let mut state = self.state.lock().await;
        if let Some(State { server, scratch }) = state.as_ref().filter(|state| state.server.is_alive()) {
            return Ok((server.clone(), scratch.clone()));
        }
        let dir = &self.options.scratch_dir;
        let scratch = tempfile::Builder::new().prefix("horus-sal-").tempdir_in(dir).map_err(|e| {
            ExecutionError::new("SAL_UNUSABLE", format!("cannot make a scratch directory in {}: {e}", dir.display()))
        })?;
        let (server, functions) = ForkServer::start(&self.options, scratch.path()).await?;
        tracing::info!(functions, "the sal runner is ready; functions counts those of the script library");
        let (server, scratch) = (Arc::new(server), Arc::new(scratch));
        *state = Some(State { server: server.clone(), scratch: scratch.clone() });
        Ok((server, scratch))
    }
}

impl Executor for SalExecutor {
    fn kind(&self) -> RunnerKind {
        "sal".parse().expect("a valid runner kind")
    }

    async fn prepare(&self) -> Result<(), ExecutionError> {
        self.server().await.map(drop)
    }

    async fn execute(&self, job: &Job, context: &Context) -> Result<Output, ExecutionError> {
        let (server, scratch) = self.server().await?;
        let (pipes, theirs) = Pipes::new().map_err(|e| {
            ExecutionError::new(
                "SAL_UNUSABLE",
                format!("cannot make the job's pipes: {e}. Is the limit of open files too low?"),
            )
        })?;
        let mut process = server.fork(scratch.path(), &theirs).await?;
        drop(theirs);
        let report = tokio::select! {
            biased;
            () = context.cancel.cancelled() => None,
            report = pipes.serve(&mut process, job, context) => Some(report),
        };
        match report {
            Some(report) => Output::from_json_text(report?.outcome?),
            None => Err(stop(process, context).await),
        }
    }
}

/// Ends a job that ran out of time or was cancelled, and waits until nothing of it lives.
async fn stop(mut process: JobProcess, context: &Context) -> ExecutionError {
    process.kill();
    let _ = process.ended().await;
    if tokio::time::Instant::now() >= context.deadline {
        ExecutionError::new("TIMED_OUT", "the script was killed with all that it started, since its time was over")
    } else {
        ExecutionError::new("CANCELLED", "the script was killed with all that it started, since the job was cancelled")
    }
}

/// The runner's ends of what connects it to one job process.
struct Pipes {
    work: UnixStream,
    stdout: pipe::Receiver,
    stderr: pipe::Receiver,
}

impl Pipes {
    fn new() -> io::Result<(Self, [OwnedFd; 3])> {
        let (work, their_work) = StdUnixStream::pair()?;
        work.set_nonblocking(true)?;
        let (stdout, their_stdout) = pipe2(OFlag::O_CLOEXEC)?;
        let (stderr, their_stderr) = pipe2(OFlag::O_CLOEXEC)?;
        let pipes = Self {
            work: UnixStream::from_std(work)?,
            stdout: pipe::Receiver::from_owned_fd(stdout)?,
            stderr: pipe::Receiver::from_owned_fd(stderr)?,
        };
        Ok((pipes, [their_work.into(), their_stdout, their_stderr]))
    }

    /// Sends the job, and passes on what it prints until it has reported and its log is complete.
    async fn serve(self, process: &mut JobProcess, job: &Job, context: &Context) -> Result<Report, ExecutionError> {
        let Self { mut work, stdout, stderr } = self;
        let mut logs =
            pin!(join(pump(stdout, &context.log, LogStream::Stdout), pump(stderr, &context.log, LogStream::Stderr),));
        let mut logs_open = true;
        let report = {
            let mut report = pin!(report(&mut work, process, job, context));
            loop {
                tokio::select! {
                    report = &mut report => break report,
                    _ = &mut logs, if logs_open => logs_open = false,
                }
            }
        };
        if logs_open && tokio::time::timeout(LOG_PATIENCE, logs).await.is_err() {
            context
                .log
                .system("a process that the script started still holds the log: what it prints from now on is lost");
        }
        report
    }
}

async fn report(
    work: &mut UnixStream,
    process: &mut JobProcess,
    job: &Job,
    context: &Context,
) -> Result<Report, ExecutionError> {
    match exchange(work, process, job, context).await {
        Ok(report) => {
            if report.left_children {
                process.ended().await?;
                context.log.system("the script left processes running: they were ended with the job");
            } else {
                process.is_done();
            }
            Ok(report)
        }
        Err(e) => Err(crashed(process.ended().await?, &e)),
    }
}

async fn exchange(work: &mut UnixStream, process: &JobProcess, job: &Job, context: &Context) -> io::Result<Report> {
    let job_id = job.id.to_string();
    let scratch =
        process.scratch().to_str().ok_or_else(|| io::Error::other("the scratch directory's path is not UTF-8"))?;
    let bytes = frame(&WorkRef {
        job_id: &job_id,
        script: &job.payload,
        input: job.input.as_deref(),
        env: &job.env,
        secrets: context.secrets.iter().map(|(name, secret)| (name.as_str(), secret.as_str())).collect(),
        scratch,
    })?;
    work.write_all(&bytes).await?;
    drop(bytes);
    let mut header = [0; 4];
    work.read_exact(&mut header).await?;
    let mut bytes = vec![0; frame_length(header)?];
    work.read_exact(&mut bytes).await?;
    Ok(serde_json::from_slice(&bytes)?)
}

async fn pump(mut from: pipe::Receiver, log: &LogSink, stream: LogStream) {
    let mut writer = log.writer(stream);
    let mut chunk = vec![0; LOG_CHUNK];
    while let Ok(length @ 1..) = from.read(&mut chunk).await {
        writer.write(&chunk[..length]);
    }
}

/// The process ended without a report.
fn crashed(ending: Ending, error: &io::Error) -> ExecutionError {
    let message = match ending {
        Ending::NotForked(errno) => {
            let errno = nix::errno::Errno::from_raw(errno);
            format!("no process could be made for the job: {errno}. Is the limit of processes or the memory used up?")
        }
        Ending::Exited(code) => {
            format!("the job process left with code {code} before it reported ({error}): see the job's log")
        }
        Ending::Signalled(number) => match Signal::try_from(number) {
            Ok(signal) => format!("the job process was ended by {signal}: {}", likely(signal)),
            Err(_) => format!("the job process was ended by signal {number}"),
        },
    };
    ExecutionError::new("SCRIPT_CRASHED", message)
}

fn likely(signal: Signal) -> &'static str {
    match signal {
        Signal::SIGABRT => "most likely it asked for more memory than its limit of address space",
        Signal::SIGXFSZ => "it wrote a file larger than the limit",
        Signal::SIGSEGV | Signal::SIGBUS => "most likely the stack overflowed, or a native library failed",
        Signal::SIGKILL => "the machine ran out of memory, or somebody killed it",
        _ => "somebody sent it",
    }
}
