//! A job by the `hero` command: `hero run -p FILE` in a process group of its own.

use super::executor::{stopped, tail, text_output};
use crate::executor::{Context, ExecutionError, LogStream, LogWriter, Output};
use crate::job::{Job, limits};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::ffi::OsString;
use std::path::Path;
use std::pin::pin;
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

/// What a job's processes get of the runner's environment. The rest stays out: passphrases and
/// addresses of the runner are not the job's business.
const INHERITED: [&str; 17] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "TZ",
    "TMPDIR",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "http_proxy",
    "https_proxy",
    "NO_PROXY",
];
/// How long processes have to end after SIGTERM; the worker drops the job 500 ms after cancelling it.
const TERM_GRACE: Duration = Duration::from_millis(300);
/// How long output is awaited after the command ended, if a process that left the group holds the pipe.
const DRAIN: Duration = Duration::from_secs(1);
/// How much of stderr an error shows.
const EXCERPT_BYTES: usize = 4 * 1024;

/// Runs the script of `job` with the command `cli`.
pub(super) async fn run(cli: &Path, job: &Job, context: &Context) -> Result<Output, ExecutionError> {
    let failed = |what: &str, error: &std::io::Error| {
        ExecutionError::new("HERO_CLI_UNAVAILABLE", format_args!("{what}: {error}"))
    };
    // Made with mode 0700; removed when this function returns or is dropped.
    let dir = tempfile::Builder::new()
        .prefix("horus-hero-")
        .tempdir()
        .map_err(|e| failed("no temporary directory for the script can be made", &e))?;
    let script = dir.path().join("script.hero");
    let input = dir.path().join("input.json");
    let input_text = job.input.as_ref().map_or("null", |input| input.get());
    for (path, text) in [(&script, job.payload.as_str()), (&input, input_text)] {
        tokio::fs::write(path, text).await.map_err(|e| failed("the script cannot be written to a file", &e))?;
    }

    let mut child = Command::new(cli)
        .args(["run", "-p"])
        .arg(&script)
        .current_dir(dir.path())
        .env_clear()
        .envs(environment(job, context))
        .env("HORUS_JOB_ID", job.id.to_string())
        .env("HORUS_INPUT_FILE", &input)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| failed(&format!("{} cannot be started", cli.display()), &e))?;
    let group = ProcessGroup::of(&child);

    let mut stdout = Kept::first(limits::OUTPUT_BYTES);
    let mut stderr = Kept::last(EXCERPT_BYTES);
    let out_pipe = child.stdout.take().expect("stdout is piped");
    let err_pipe = child.stderr.take().expect("stderr is piped");
    let exited = CancellationToken::new();
    let read_all = async {
        tokio::join!(
            pump(out_pipe, context.log.writer(LogStream::Stdout), &mut stdout),
            pump(err_pipe, context.log.writer(LogStream::Stderr), &mut stderr),
        );
    };
    let read = async {
        tokio::select! {
            () = read_all => {}
            () = async { exited.cancelled().await; tokio::time::sleep(DRAIN).await } => {}
        }
    };
    let wait = async {
        let status = child.wait().await;
        group.end();
        exited.cancel();
        status
    };
    let status = {
        let mut ended = pin!(async { tokio::join!(read, wait).1 });
        tokio::select! {
            status = &mut ended => status,
            () = context.cancel.cancelled() => {
                group.signal(Signal::SIGTERM);
                // Whatever it still says; `group` kills the rest when it is dropped.
                let _ = tokio::time::timeout(TERM_GRACE, &mut ended).await;
                return Err(stopped(context));
            }
        }
    };
    let status = status.map_err(|e| failed("the hero command cannot be waited for", &e))?;
    finish(status, &stdout, &stderr)
}

fn finish(status: ExitStatus, stdout: &Kept, stderr: &Kept) -> Result<Output, ExecutionError> {
    if !status.success() {
        let said = if stderr.bytes.is_empty() { stdout } else { stderr };
        let text = String::from_utf8_lossy(&said.bytes);
        let said = tail(text.trim(), EXCERPT_BYTES);
        let said = if said.is_empty() { "it printed nothing" } else { said };
        return Err(ExecutionError::new("HERO_CLI_FAILED", format_args!("hero run ended with {status}: {said}")));
    }
    if stdout.cut {
        let message = format!(
            "hero run printed more than {} bytes, which are its output: print less, or store it and print where it is",
            stdout.limit
        );
        return Err(ExecutionError::new("OUTPUT_TOO_LARGE", message));
    }
    let text = String::from_utf8_lossy(&stdout.bytes);
    text_output(text.trim_end_matches(['\r', '\n']))
}

/// The environment of the job's processes: some of the runner's, the job's, its secrets.
fn environment(job: &Job, context: &Context) -> Vec<(OsString, OsString)> {
    let inherited = INHERITED.iter().filter_map(|name| Some((OsString::from(name), std::env::var_os(name)?)));
    let env = job.env.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
    let secrets = context.secrets.iter().map(|(name, value)| (OsString::from(name), OsString::from(value.as_str())));
    inherited
        .chain(env)
        .chain(secrets)
        .filter(|(name, value)| {
            // A name or value that the system cannot take would fail the start with no word on why.
            let bytes = |text: &OsString| text.as_encoded_bytes().to_vec();
            !name.is_empty() && !bytes(name).contains(&b'=') && !bytes(name).contains(&0) && !bytes(value).contains(&0)
        })
        .collect()
}

/// The processes that a job started, killed when this is dropped.
struct ProcessGroup(AtomicI32);

/// Stands for a group that has ended.
const ENDED: i32 = 0;

impl ProcessGroup {
    fn of(child: &tokio::process::Child) -> Self {
        let id = child.id().and_then(|id| i32::try_from(id).ok());
        Self(AtomicI32::new(id.unwrap_or(ENDED)))
    }

    fn signal(&self, signal: Signal) {
        let id = self.0.load(Ordering::Relaxed);
        if id > ENDED {
            // It fails only if no process is left, which is what is wanted.
            let _ = killpg(Pid::from_raw(id), signal);
        }
    }

    /// Kills what is left. Later calls do nothing: the id may then belong to somebody else.
    fn end(&self) {
        self.signal(Signal::SIGKILL);
        self.0.store(ENDED, Ordering::Relaxed);
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        self.end();
    }
}

/// What is kept of a stream: its first or its last bytes.
struct Kept {
    bytes: Vec<u8>,
    limit: usize,
    from_end: bool,
    cut: bool,
}

impl Kept {
    fn first(limit: usize) -> Self {
        Self { bytes: Vec::new(), limit, from_end: false, cut: false }
    }

    fn last(limit: usize) -> Self {
        Self { bytes: Vec::new(), limit, from_end: true, cut: false }
    }

    fn add(&mut self, chunk: &[u8]) {
        if self.from_end {
            self.bytes.extend_from_slice(chunk);
            let excess = self.bytes.len().saturating_sub(self.limit);
            self.bytes.drain(..excess);
            self.cut |= excess > 0;
        } else {
            let room = (self.limit - self.bytes.len()).min(chunk.len());
            self.bytes.extend_from_slice(&chunk[..room]);
            self.cut |= room < chunk.len();
        }
    }
}

async fn pump(mut pipe: impl AsyncRead + Unpin, mut log: LogWriter, kept: &mut Kept) {
    let mut chunk = [0; 8 * 1024];
    // A pipe that cannot be read has ended, as far as the job is concerned.
    while let Ok(length @ 1..) = pipe.read(&mut chunk).await {
        log.write(&chunk[..length]);
        kept.add(&chunk[..length]);
    }
}

#[cfg(test)]
#[path = "cli_tests.rs"]
mod tests;
