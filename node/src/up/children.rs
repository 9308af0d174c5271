//! Child processes: started so that they die with us, started again with back-off when they die alone.

use std::{
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};
use nix::{sys::signal::Signal, unistd::Pid};
use tokio::process::Command;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

/// Name of the hidden command that ties a program to its parent's life.
pub const WITH_PARENT: &str = "__with-parent";

const BACKOFF_FIRST: Duration = Duration::from_millis(200);
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// A child that has lived this long starts its back-off afresh: what killed it was not its start.
const HEALTHY_AFTER: Duration = Duration::from_secs(5);
/// So many starts in vain before everything answered for the first time mean that it will never start.
const HOPELESS_STARTS: u32 = 4;

/// What to run.
#[derive(Debug, Clone)]
pub(super) struct ChildSpec {
    /// Its name in logs.
    pub(super) name: String,
    /// The program.
    pub(super) program: PathBuf,
    /// Its arguments, which every user of the machine can read.
    pub(super) args: Vec<String>,
    /// The Redis that it is told of by `HORUS_REDIS_URL`: the address may hold a password.
    pub(super) redis_url: Option<String>,
}

/// A child and how it has fared.
#[derive(Debug)]
pub(super) struct Child {
    spec: ChildSpec,
    process: Option<tokio::process::Child>,
    started: Instant,
    failures: u32,
}

/// A set of children that are watched together.
#[derive(Debug, Default)]
pub(super) struct Children(Vec<Child>);

impl Children {
    /// Starts a child; a failure to start counts as its death.
    pub(super) fn start(&mut self, spec: ChildSpec) {
        let mut child = Child { spec, process: None, started: Instant::now(), failures: 0 };
        child.spawn();
        self.0.push(child);
    }

    /// Starts again whoever dies, for ever.
    pub(super) async fn supervise(&mut self) {
        if self.0.is_empty() {
            return std::future::pending().await;
        }
        futures::future::join_all(self.0.iter_mut().map(Child::keep_alive)).await;
    }

    /// Sends SIGTERM, waits for `patience`, then SIGKILL; `kill` leaves `last_words` of the patience.
    pub(super) async fn stop(&mut self, patience: Duration, kill: &CancellationToken, last_words: Duration) {
        for child in &self.0 {
            child.signal(Signal::SIGTERM);
        }
        let all_gone = futures::future::join_all(self.0.iter_mut().map(Child::wait));
        tokio::select! {
            _ = all_gone => return,
            () = tokio::time::sleep(patience) => warn!("not all processes stopped in time: killing them"),
            () = async { kill.cancelled().await; tokio::time::sleep(last_words).await } => {
                warn!("second signal: killing what is left");
            }
        }
        for child in &self.0 {
            child.signal(Signal::SIGKILL);
        }
        futures::future::join_all(self.0.iter_mut().map(Child::wait)).await;
    }

    /// Whether every child runs right now.
    pub(super) fn all_running(&mut self) -> bool {
        self.0.iter_mut().all(|c| matches!(c.process.as_mut().map(tokio::process::Child::try_wait), Some(Ok(None))))
    }
}

/// Keeps the children alive, and returns when one of them never comes up.
pub(super) async fn first_hopeless(children: &mut Children) -> anyhow::Error {
    let mut tasks: futures::stream::FuturesUnordered<_> = children.0.iter_mut().map(Child::hopeless).collect();
    match futures::StreamExt::next(&mut tasks).await {
        Some(error) => error,
        None => std::future::pending().await,
    }
}

impl Child {
    fn spawn(&mut self) {
        self.started = Instant::now();
        match command(&self.spec).spawn() {
            Ok(process) => {
                info!(role = %self.spec.name, pid = process.id(), "started");
                self.process = Some(process);
            }
            Err(error) => {
                error!(role = %self.spec.name, program = %self.spec.program.display(), %error, "cannot start");
                self.process = None;
            }
        }
    }

    async fn wait(&mut self) -> String {
        match self.process.as_mut() {
            Some(process) => match process.wait().await {
                Ok(status) => status.to_string(),
                Err(error) => error.to_string(),
            },
            None => "could not be started".to_owned(),
        }
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) =
            self.process.as_ref().and_then(tokio::process::Child::id).and_then(|id| i32::try_from(id).ok())
        {
            // A child that is gone already needs no signal.
            let _ = nix::sys::signal::kill(Pid::from_raw(pid), signal);
        }
    }

    /// Waits for the death, then for the back-off, then starts it again.
    async fn revive(&mut self) {
        let how = self.wait().await;
        if self.started.elapsed() >= HEALTHY_AFTER {
            self.failures = 0;
        }
        self.failures += 1;
        let pause = BACKOFF_FIRST.saturating_mul(1 << self.failures.min(10)).min(BACKOFF_MAX);
        warn!(role = %self.spec.name, %how, again_in_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX), "stopped: starting it again");
        tokio::time::sleep(pause).await;
        self.spawn();
    }

    async fn keep_alive(&mut self) {
        loop {
            self.revive().await;
        }
    }

    async fn hopeless(&mut self) -> anyhow::Error {
        while self.failures < HOPELESS_STARTS {
            self.revive().await;
        }
        anyhow!("{} does not start: its last words are above this line", self.spec.name)
    }
}

/// Stdout of `up` is for its ready line alone, so that of a child goes to our stderr.
fn command(spec: &ChildSpec) -> Command {
    let exe = std::env::current_exe().unwrap_or_else(|_| spec.program.clone());
    let mut command = Command::new(exe);
    command
        .arg(WITH_PARENT)
        .arg(std::process::id().to_string())
        .arg(&spec.program)
        .args(&spec.args)
        .stdin(Stdio::null())
        .stdout(std::io::stderr())
        .stderr(Stdio::inherit())
        // Ctrl-C in a terminal reaches the whole foreground group; the children are stopped by us, in order.
        .process_group(0)
        .kill_on_drop(true);
    for name in [
        "HORUS_IDENTITY",
        "HORUS_TRUST",
        "HORUS_REDIS_URL",
        "HORUS_COORDINATOR",
        "HORUS_SUPERVISOR",
        "HORUS_MYCELIUM_RPC",
        // The user's: the keys of the roles have none.
        "HORUS_PASSPHRASE",
    ] {
        command.env_remove(name);
    }
    if let Some(url) = &spec.redis_url {
        command.env("HORUS_REDIS_URL", url);
    }
    command
}

/// The hidden command: `__with-parent PPID PROGRAM ARGS...` becomes PROGRAM, which gets SIGTERM when its parent dies,
/// even by SIGKILL. It returns only on failure.
///
/// # Errors
/// Bad arguments, a parent that is gone already, or a program that cannot be executed.
pub fn with_parent(mut args: impl Iterator<Item = std::ffi::OsString>) -> Result<std::convert::Infallible> {
    use std::os::unix::process::CommandExt as _;
    let parent = args
        .next()
        .and_then(|a| a.to_str().and_then(|s| s.parse::<i32>().ok()))
        .ok_or_else(|| anyhow!("{WITH_PARENT} needs the parent's process id"))?;
    let program = args.next().ok_or_else(|| anyhow!("{WITH_PARENT} needs a program"))?;
    nix::sys::prctl::set_pdeathsig(Signal::SIGTERM)?;
    // The parent may have died before the line above took effect.
    if nix::unistd::getppid().as_raw() != parent {
        return Err(anyhow!("the parent process {parent} is gone"));
    }
    let error = std::process::Command::new(&program).args(args).exec();
    Err(anyhow!("cannot execute {}: {error}", program.display()))
}
