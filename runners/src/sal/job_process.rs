//! The process of one job: forked with the engine ready, it serves the job and is gone.

use std::{
    env, fs,
    io::{self, Write},
    os::{fd::OwnedFd, unix::net::UnixStream},
    panic::{AssertUnwindSafe, catch_unwind},
};

use nix::{
    sys::{
        prctl,
        resource::{Resource, getrlimit, rlim_t, setrlimit},
        signal::{SigSet, Signal},
    },
    unistd::{Pid, dup2_stderr, dup2_stdout, getppid, setsid},
};
use rhai::Engine;

use super::{
    engine::plain,
    frame::{Report, Work, read_frame, write_frame},
    options::ResourceLimits,
    processes::has_living_children,
};
use crate::{
    executor::{ExecutionError, Output},
    script::{Program, ScriptFailure, run},
};

/// What the fork server hands to a job process.
pub(super) struct Handover {
    pub(super) work: UnixStream,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
    pub(super) server: Pid,
}

/// Exit code of a job process that could not even report.
const NO_REPORT: i32 = 70;

/// Serves one job and ends the process.
pub(super) fn serve(engine: &Engine, resources: &ResourceLimits, handover: Handover) -> ! {
    let Handover { work, stdout, stderr, server } = handover;
    let code = match settle(resources, stdout, stderr, server).and_then(|()| read_frame::<Work>(&work)) {
        Ok(job) => {
            // Within limits before it is sent: what a frame does not take would be told as a crash.
            let outcome = execute(engine, &job).map_err(ExecutionError::from);
            let outcome = outcome.and_then(|text| Output::bounded(&text).map(|()| text)).map_err(ScriptFailure::from);
            // The pipes must be at their end when the report arrives: it is the sign that the log is complete.
            let _ = io::stdout().flush();
            let _ = silence();
            let report = Report { outcome, left_children: has_living_children() };
            if write_frame(&work, &report).is_ok() { 0 } else { NO_REPORT }
        }
        Err(e) => {
            eprintln!("the job process cannot start: {e}");
            NO_REPORT
        }
    };
    leave(code)
}

/// Becomes a process that is easy to end and cannot take the machine with it.
fn settle(resources: &ResourceLimits, stdout: OwnedFd, stderr: OwnedFd, server: Pid) -> io::Result<()> {
    setsid()?;
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    if getppid() != server {
        // The server died before the line above took effect.
        leave(NO_REPORT);
    }
    prctl::set_child_subreaper(true)?;
    SigSet::empty().thread_set_mask()?;
    dup2_stdout(stdout)?;
    dup2_stderr(stderr)?;
    // If memory runs out, the kernel should take a script and not the runner. Not allowed everywhere, and only a preference.
    let _ = fs::write("/proc/self/oom_score_adj", "500");
    limit(Resource::RLIMIT_CORE, Some(0))?;
    limit(Resource::RLIMIT_AS, resources.address_space_bytes)?;
    limit(Resource::RLIMIT_FSIZE, resources.file_bytes)?;
    limit(Resource::RLIMIT_NPROC, resources.processes)?;
    limit(Resource::RLIMIT_NOFILE, resources.open_files)
}

/// Sets soft and hard limit; never above the hard limit that is there.
fn limit(resource: Resource, value: Option<u64>) -> io::Result<()> {
    let Some(value) = value else { return Ok(()) };
    let (_, hard) = getrlimit(resource)?;
    let value = rlim_t::from(value).min(hard);
    Ok(setrlimit(resource, value, value)?)
}

fn execute(engine: &Engine, job: &Work) -> Result<String, ScriptFailure> {
    surroundings(job)?;
    let program = Program {
        script: &job.script,
        input: job.input.as_deref(),
        env: &job.env,
        secrets: job.secrets.iter().map(|(name, secret)| (name.as_str(), secret.as_str())).collect(),
        job_id: &job.job_id,
    };
    catch_unwind(AssertUnwindSafe(|| run(engine, &program, plain))).unwrap_or_else(|_| {
        let text =
            "a SAL module panicked: see the job's log for where. This is a defect of the module, not of Horus's limits";
        Err(ScriptFailure::new("SCRIPT_CRASHED", text))
    })
}

/// The job's environment variables and its scratch directory.
fn surroundings(job: &Work) -> Result<(), ScriptFailure> {
    env::set_current_dir(&job.scratch)
        .map_err(|e| ScriptFailure::error(format!("cannot enter the scratch directory {}: {e}", job.scratch)))?;
    let own = [("TMPDIR", job.scratch.as_str()), ("HORUS_JOB_ID", job.job_id.as_str())];
    for (name, value) in own.into_iter().chain(job.env.iter().map(|(k, v)| (k.as_str(), v.as_str()))) {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return Err(ScriptFailure::error(format!(
                "the environment variable {name:?} cannot be: no '=' or NUL in names"
            )));
        }
        // SAFETY: this process was forked from a single-threaded one and has started no thread yet, so nobody reads the environment meanwhile.
        #[allow(unsafe_code)]
        unsafe {
            env::set_var(name, value);
        }
    }
    Ok(())
}

/// Closes the log pipes by putting `/dev/null` in their place.
fn silence() -> io::Result<()> {
    let null = fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    dup2_stdout(&null)?;
    dup2_stderr(&null)?;
    Ok(())
}

/// Ends the process at once: destructors and exit handlers of the fork server are not this process's to run.
fn leave(code: i32) -> ! {
    // SAFETY: _exit takes any status, returns to nobody and touches no memory.
    #[allow(unsafe_code)]
    unsafe {
        nix::libc::_exit(code)
    }
}
