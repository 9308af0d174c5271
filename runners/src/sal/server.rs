//! The runner's side of the fork server.

use std::{
    collections::HashMap,
    fs, io,
    os::fd::{AsRawFd, OwnedFd, RawFd},
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    sys::socket::{
        AddressFamily, ControlMessage, MsgFlags, Shutdown, SockFlag, SockType, recv, send, sendmsg, shutdown,
        socketpair,
    },
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    process::{Child, Command},
    sync::oneshot,
};

use super::{
    frame::{Ending, Event, Init, PACKET_BYTES, Request, packet},
    options::SalOptions,
    server_main::CHILD_COMMAND,
};
use crate::executor::ExecutionError;

/// How long the server may take to build its engine.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// A running fork server. Dropping it closes the control socket: the server then ends all jobs and leaves.
pub(super) struct ForkServer {
    shared: Arc<Shared>,
    next_job: AtomicU64,
    /// Reaped by tokio when it ends.
    _process: Child,
}

struct Shared {
    control: AsyncFd<OwnedFd>,
    /// Who waits for the end of which job; none once the server is gone.
    waiting: Mutex<Option<HashMap<u64, oneshot::Sender<Ending>>>>,
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Option<HashMap<u64, oneshot::Sender<Ending>>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn receive(&self) -> io::Result<Option<Event>> {
        let mut bytes = vec![0; PACKET_BYTES];
        let length = self
            .control
            .async_io(Interest::READABLE, |fd| Ok(recv(fd.as_raw_fd(), &mut bytes, MsgFlags::empty())?))
            .await?;
        if length == 0 { Ok(None) } else { Ok(Some(serde_json::from_slice(&bytes[..length])?)) }
    }

    async fn send(&self, request: &Request, fds: &[RawFd]) -> io::Result<()> {
        let bytes = packet(request);
        let rights = [ControlMessage::ScmRights(fds)];
        let rights = if fds.is_empty() { &[][..] } else { &rights[..] };
        self.control
            .async_io(Interest::WRITABLE, |fd| {
                let parts = [io::IoSlice::new(&bytes)];
                Ok(sendmsg::<()>(fd.as_raw_fd(), &parts, rights, MsgFlags::MSG_NOSIGNAL, None)?)
            })
            .await
            .map(drop)
    }

    /// Hands the endings to those who wait, until the server is gone; then nobody needs to wait any more.
    async fn listen(self: Arc<Self>) {
        while let Ok(Some(event)) = self.receive().await {
            if let Event::Ended { job, ending } = event
                && let Some(waiting) = self.waiting().as_mut()
                && let Some(waiter) = waiting.remove(&job)
            {
                // Whoever had a report in time does not wait for the ending.
                let _ = waiter.send(ending);
            }
        }
        *self.waiting() = None;
    }
}

impl ForkServer {
    /// Starts the server and waits until its engine is built.
    pub(super) async fn start(options: &SalOptions, scratch: &Path) -> Result<(Self, usize), ExecutionError> {
        let unusable = |e: io::Error| {
            ExecutionError::new(
                "SAL_UNUSABLE",
                format!("cannot start {} {CHILD_COMMAND}: {e}", options.program.display()),
            )
        };
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
            .map_err(|e| unusable(e.into()))?;
        fcntl(&ours, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(|e| unusable(e.into()))?;
        let process = Command::new(&options.program)
            .arg0("horus")
            .arg(CHILD_COMMAND)
            .env_clear()
            .envs(
                options
                    .pass_env
                    .iter()
                    .filter(|n| !n.starts_with("HORUS_"))
                    .filter_map(|n| Some((n, std::env::var_os(n)?))),
            )
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            // Its own group: Ctrl-C in the runner's terminal drains the runner, and must not kill the jobs first.
            .process_group(0)
            .spawn()
            .map_err(unusable)?;
        // SAFETY: an OwnedFd is an open descriptor, always the same, until it is dropped, and the AsyncFd never gives it away.
        #[allow(unsafe_code)]
        let control = unsafe { AsyncFd::register(ours) }.map_err(|e| unusable(e.into()))?;
        let shared = Arc::new(Shared { control, waiting: Mutex::new(Some(HashMap::new())) });
        let init = Init {
            script: options.script.clone(),
            resources: options.resources.clone(),
            script_lib: options.script_lib.clone(),
            scratch: scratch.to_owned(),
        };
        shared.send(&Request::Init(Box::new(init)), &[]).await.map_err(unusable)?;
        let functions = match tokio::time::timeout(START_TIMEOUT, shared.receive()).await {
            Ok(Ok(Some(Event::Ready { functions }))) => functions,
            Ok(Ok(Some(Event::Unusable { message }))) => return Err(ExecutionError::new("SAL_UNUSABLE", message)),
            Ok(Ok(_)) => return Err(unusable(io::Error::other("it left at once: see the runner's standard error"))),
            Ok(Err(e)) => return Err(unusable(e)),
            Err(_) => return Err(unusable(io::Error::other(format!("it was not ready after {START_TIMEOUT:?}")))),
        };
        tokio::spawn(shared.clone().listen());
        Ok((Self { shared, next_job: AtomicU64::new(1), _process: process }, functions))
    }

    pub(super) fn is_alive(&self) -> bool {
        self.shared.waiting().is_some()
    }

    /// Forks a job process that holds these descriptors (work socket, stdout, stderr), with a scratch directory of its own.
    pub(super) async fn fork(&self, scratch: &Path, fds: &[OwnedFd; 3]) -> Result<JobProcess, ExecutionError> {
        let job = self.next_job.fetch_add(1, Ordering::Relaxed);
        let scratch = scratch.join(format!("job{job}"));
        fs::create_dir(&scratch).map_err(|e| {
            ExecutionError::new("SAL_UNUSABLE", format!("cannot make the scratch directory {}: {e}", scratch.display()))
        })?;
        let (tell, ended) = oneshot::channel();
        if let Some(waiting) = self.shared.waiting().as_mut() {
            waiting.insert(job, tell);
        }
        let process = JobProcess { shared: self.shared.clone(), job, ended: Some(ended), scratch };
        let raw = fds.each_ref().map(AsRawFd::as_raw_fd);
        self.shared.send(&Request::Start { job }, &raw).await.map_err(|e| lost(&e))?;
        Ok(process)
    }
}

impl Drop for ForkServer {
    fn drop(&mut self) {
        // The listening task holds the socket too: this ends both it and the server.
        let _ = shutdown(self.shared.control.as_raw_fd(), Shutdown::Both);
    }
}

/// A forked job process. Dropping it before its end is known kills it and all that it started.
pub(super) struct JobProcess {
    shared: Arc<Shared>,
    job: u64,
    /// None once it is known that nothing of the job lives.
    ended: Option<oneshot::Receiver<Ending>>,
    scratch: PathBuf,
}

impl JobProcess {
    pub(super) fn scratch(&self) -> &Path {
        &self.scratch
    }

    /// The job process has reported and left nothing behind.
    pub(super) fn is_done(&mut self) {
        self.ended = None;
    }

    /// Waits until the process and all that it started are gone.
    pub(super) async fn ended(&mut self) -> Result<Ending, ExecutionError> {
        let Some(ended) = self.ended.as_mut() else { return Ok(Ending::Exited(0)) };
        let ending = ended.await;
        self.ended = None;
        ending.map_err(|_| lost(&"its fork server was killed"))
    }

    pub(super) fn kill(&self) {
        kill_job(&self.shared, self.job);
    }
}

impl Drop for JobProcess {
    fn drop(&mut self) {
        let scratch = std::mem::take(&mut self.scratch);
        let Some(ended) = self.ended.take() else {
            remove(scratch);
            return;
        };
        self.kill();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let _ = ended.await;
                remove(scratch);
            });
        }
    }
}

/// Removes a scratch directory aside, since it may be large.
fn remove(scratch: PathBuf) {
    let work = move || {
        if let Err(e) = fs::remove_dir_all(&scratch) {
            tracing::warn!(path = %scratch.display(), error = %e, "cannot remove a job's scratch directory: remove it by hand");
        }
    };
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => drop(runtime.spawn_blocking(work)),
        Err(_) => work(),
    }
}

fn kill_job(shared: &Arc<Shared>, job: u64) {
    let bytes = packet(&Request::Kill { job });
    let try_once = move |shared: &Shared| match send(
        shared.control.as_raw_fd(),
        &bytes,
        MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT,
    ) {
        Err(Errno::EAGAIN | Errno::EINTR) => false,
        // Sent, or the server is gone and its jobs with it.
        _ => true,
    };
    if !try_once(shared) {
        // The server is behind with its messages; this thread may be one that must not wait.
        let shared = shared.clone();
        std::thread::spawn(move || {
            while !try_once(&shared) {
                std::thread::sleep(Duration::from_millis(5));
            }
        });
    }
}

fn lost(why: &dyn std::fmt::Display) -> ExecutionError {
    ExecutionError::new(
        "SAL_PROCESS_LOST",
        format!("the job process is lost: {why}. What the script had done by then is done"),
    )
}
