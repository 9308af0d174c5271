//! The fork server: what `horus __sal-child` does.

use std::{
    collections::HashMap,
    fs,
    io::{self, IoSliceMut},
    os::{
        fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::net::UnixStream,
    },
    process::ExitCode,
    time::Duration,
};

use nix::{
    cmsg_space,
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        prctl,
        signal::{SigSet, Signal, kill, killpg},
        signalfd::{SfdFlags, SignalFd},
        socket::{ControlMessageOwned, MsgFlags, recvmsg, send},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{ForkResult, Pid, dup2_stdin, fork, getpid},
};
use rhai::Engine;

use super::{
    engine::sal_engine,
    frame::{Ending, Event, Init, PACKET_BYTES, Request, packet},
    job_process::{self, Handover},
    processes::kill_strays,
};
use crate::script::load_library;

/// First argument of the hidden subcommand.
pub const CHILD_COMMAND: &str = "__sal-child";

/// How long the server tries to end what a dead job left.
const PATIENCE: Duration = Duration::from_secs(2);
/// File descriptors that come with `Request::Start`.
const START_FDS: usize = 3;

/// The fork server of the sal runner. `main` must call it before anything else, in particular before it starts a thread, when the first argument is
/// [`CHILD_COMMAND`]. Standard input is the runner's control socket; started by hand it says so and leaves.
#[must_use]
pub fn child_main() -> ExitCode {
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("horus {CHILD_COMMAND}: {e} (this subcommand is for the runner sal only)");
            ExitCode::FAILURE
        }
    }
}

fn start() -> io::Result<()> {
    if fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::other("threads are running already, so forking would not be sound"));
    }
    let control = io::stdin().as_fd().try_clone_to_owned()?;
    dup2_stdin(fs::File::open("/dev/null")?)?;
    // What ends the runner must not end the jobs before the runner has drained them: only the closed socket counts. The job processes undo this.
    let mut blocked = SigSet::empty();
    for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT] {
        blocked.add(signal);
    }
    blocked.thread_block()?;
    prctl::set_child_subreaper(true)?;
    let _ = prctl::set_name(c"horus-sal");

    let Some((Request::Init(init), _)) = receive(&control)? else {
        return Err(io::Error::other("the first message is not Init"));
    };
    let engine = match build(&init) {
        Ok((engine, functions)) => {
            tell(&control, &Event::Ready { functions })?;
            engine
        }
        Err(message) => return tell(&control, &Event::Unusable { message }),
    };
    let mut server = Server { control, jobs: HashMap::new() };
    // Both processes come back from here: the server when the runner is gone, and each job process right after its fork.
    match server.serve()? {
        Next::Serve(handover) => {
            drop(server);
            job_process::serve(&engine, &init.resources, handover)
        }
        Next::RunnerGone => {
            for process in server.jobs.keys() {
                end(*process);
            }
            server.jobs.clear();
            kill_strays(|_| false, PATIENCE);
            let _ = fs::remove_dir_all(&init.scratch);
            Ok(())
        }
    }
}

fn build(init: &Init) -> Result<(Engine, usize), String> {
    crate::tls::choose_provider();
    let mut engine = sal_engine(&init.script).map_err(|e| format!("the SAL modules cannot be registered: {e}"))?;
    let functions = match &init.script_lib {
        Some(dir) => load_library(&mut engine, dir).map_err(|e| e.to_string())?.len(),
        None => 0,
    };
    Ok((engine, functions))
}

struct Server {
    control: OwnedFd,
    jobs: HashMap<Pid, u64>,
}

/// Who the process is that comes back from [`Server::serve`].
enum Next {
    Serve(Handover),
    RunnerGone,
}

impl Server {
    fn serve(&mut self) -> io::Result<Next> {
        let mut child_ended = SigSet::empty();
        child_ended.add(Signal::SIGCHLD);
        let signals = SignalFd::with_flags(&child_ended, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        loop {
            let mut ready =
                [PollFd::new(self.control.as_fd(), PollFlags::POLLIN), PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
            match poll(&mut ready, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(e) => return Err(e.into()),
            }
            let [asked, ended] = ready.map(|fd| fd.any().unwrap_or(true));
            if ended {
                while matches!(signals.read_signal(), Ok(Some(_))) {}
                if self.reap().is_err() {
                    return Ok(Next::RunnerGone);
                }
            }
            if asked {
                match receive(&self.control) {
                    Ok(Some((Request::Start { job }, fds))) => match self.start(job, fds) {
                        Ok(Some(handover)) => return Ok(Next::Serve(handover)),
                        Ok(None) => {}
                        Err(_) => return Ok(Next::RunnerGone),
                    },
                    Ok(Some((Request::Kill { job }, _))) => {
                        if let Some((process, _)) = self.jobs.iter().find(|(_, j)| **j == job) {
                            end(*process);
                        }
                    }
                    Ok(Some((Request::Init(_), _))) => return Err(io::Error::other("a second Init")),
                    Ok(None) => return Ok(Next::RunnerGone),
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(_) => return Ok(Next::RunnerGone),
                }
            }
        }
    }

    /// Forks. In the job process it returns what that needs; in the server nothing.
    fn start(&mut self, job: u64, fds: Vec<OwnedFd>) -> io::Result<Option<Handover>> {
        let Ok([work, stdout, stderr]) = <[OwnedFd; START_FDS]>::try_from(fds) else {
            return Err(io::Error::other("a Start without its file descriptors"));
        };
        let server = getpid();
        // SAFETY: this process has one thread (checked at its start; nothing here starts another), so the child's memory is consistent, locks included.
        #[allow(unsafe_code)]
        match unsafe { fork() } {
            Ok(ForkResult::Child) => Ok(Some(Handover { work: UnixStream::from(work), stdout, stderr, server })),
            Ok(ForkResult::Parent { child }) => {
                self.jobs.insert(child, job);
                Ok(None)
            }
            Err(errno) => {
                tell(&self.control, &Event::Ended { job, ending: Ending::NotForked(errno as i32) })?;
                Ok(None)
            }
        }
    }

    /// Takes note of the processes that ended. What a job process leaves has fallen to this process by then, and is ended too.
    fn reap(&mut self) -> io::Result<()> {
        let mut endings = Vec::new();
        loop {
            let (process, ending) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(process, code)) => (process, Ending::Exited(code)),
                Ok(WaitStatus::Signaled(process, signal, _)) => (process, Ending::Signalled(signal as i32)),
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => break,
                Ok(_) | Err(Errno::EINTR) => continue,
                Err(e) => return Err(e.into()),
            };
            if let Some(job) = self.jobs.remove(&process) {
                // Its group may live on without it. The number stays taken as long as the group has members, so it cannot mean another one.
                let _ = killpg(process, Signal::SIGKILL);
                endings.push((job, ending));
            }
        }
        kill_strays(|process| self.jobs.contains_key(&process), PATIENCE);
        for (job, ending) in endings {
            tell(&self.control, &Event::Ended { job, ending })?;
        }
        Ok(())
    }
}

/// Kills a job process with its group; a process that has not yet made its group is killed alone, it has no children either.
fn end(process: Pid) {
    let _ = killpg(process, Signal::SIGKILL);
    let _ = kill(process, Signal::SIGKILL);
}

fn tell(control: &OwnedFd, event: &Event) -> io::Result<()> {
    loop {
        match send(control.as_raw_fd(), &packet(event), MsgFlags::MSG_NOSIGNAL) {
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// The next request and its file descriptors; none when the runner has closed the socket.
fn receive(control: &OwnedFd) -> io::Result<Option<(Request, Vec<OwnedFd>)>> {
    let mut bytes = [0; PACKET_BYTES];
    let mut space = cmsg_space!([RawFd; START_FDS]);
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let message = recvmsg::<()>(control.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let mut fds = Vec::new();
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(received) = part {
            // SAFETY: the kernel has just made these descriptors for this process, and nobody else owns them.
            #[allow(unsafe_code)]
            fds.extend(received.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    let length = message.bytes;
    if length == 0 {
        return Ok(None);
    }
    Ok(Some((serde_json::from_slice(&bytes[..length])?, fds)))
}
