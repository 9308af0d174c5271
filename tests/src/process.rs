//! The `horus` binary as a child: one that is run to its end, and one that is left running.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use nix::{sys::signal::Signal, unistd::Pid};

/// The binary under test, next to the test's own executable.
///
/// # Panics
/// It has not been built.
pub fn binary() -> PathBuf {
    let exe = std::env::current_exe().expect("a test knows its executable");
    let dir = exe.ancestors().find(|d| d.join("horus").is_file());
    dir.map(|d| d.join("horus")).expect("build the binary first: cargo build -p horus-node")
}

/// A port on loopback that was free a moment ago, below those that systems give to outgoing connections: nobody else's
/// connection takes it before a role listens there.
///
/// # Panics
/// There is none.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    const FIRST: u32 = 12_000;
    const COUNT: u32 = 20_000;
    for _ in 0..COUNT {
        // Test programs that run at the same time start at different places.
        let n = NEXT.fetch_add(1, Ordering::Relaxed).wrapping_add(std::process::id().wrapping_mul(97));
        let port = u16::try_from(FIRST + n % COUNT).expect("below 65536");
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port between {FIRST} and {}", FIRST + COUNT);
}

/// What a command printed and how it ended.
#[derive(Debug)]
pub struct Outcome {
    /// Exit status, or -1 when it was killed.
    pub code: i32,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Outcome {
    /// The JSON value on stdout.
    ///
    /// # Panics
    /// Stdout is anything but one JSON value.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(self.stdout.trim())
            .unwrap_or_else(|e| panic!("stdout is not one JSON value: {e}\n{self:?}"))
    }

    /// This outcome, if the command succeeded.
    ///
    /// # Panics
    /// It did not.
    pub fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{self:?}");
        self
    }
}

/// How the binary is called.
#[derive(Debug, Clone, Default)]
pub struct Horus {
    /// Environment variables beside the cleaned inherited ones.
    pub env: Vec<(String, String)>,
}

impl Horus {
    /// Runs a command to its end, at most 60 seconds.
    ///
    /// # Panics
    /// It cannot be started, or does not end.
    pub fn run<S: AsRef<OsStr>>(&self, args: &[S]) -> Outcome {
        self.run_for(args, Duration::from_secs(60))
    }

    /// Runs a command to its end within `patience`.
    ///
    /// # Panics
    /// It cannot be started, or does not end.
    pub fn run_for<S: AsRef<OsStr>>(&self, args: &[S], patience: Duration) -> Outcome {
        let shown: Vec<_> = args.iter().map(|a| a.as_ref().to_string_lossy().into_owned()).collect();
        let mut child = self.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("horus starts");
        let stdout = read_all(child.stdout.take());
        let stderr = read_all(child.stderr.take());
        let Some(code) = wait_for(&mut child, patience) else {
            let _ = child.kill();
            let _ = child.wait();
            panic!(
                "`horus {}` did not end within {patience:?}\n{}",
                shown.join(" "),
                stderr.join().unwrap_or_default()
            );
        };
        Outcome { code, stdout: stdout.join().unwrap_or_default(), stderr: stderr.join().unwrap_or_default() }
    }

    /// A command ready to be spawned.
    pub fn command<S: AsRef<OsStr>>(&self, args: &[S]) -> Command {
        let mut command = Command::new(binary());
        command.args(args).stdin(Stdio::null());
        for (name, _) in std::env::vars().filter(|(n, _)| n.starts_with("HORUS_")) {
            command.env_remove(name);
        }
        for (name, value) in &self.env {
            command.env(name, value);
        }
        command
    }

    /// Leaves a command running; its output goes to `log`.
    ///
    /// # Panics
    /// It cannot be started.
    pub fn spawn<S: AsRef<OsStr>>(&self, args: &[S], log: &Path) -> Running {
        Running::start(&mut self.command(args), log)
    }
}

/// A process that is killed when it goes out of scope.
#[derive(Debug)]
pub struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    /// Starts a command; its output goes to `log`.
    ///
    /// # Panics
    /// It cannot be started.
    pub fn start(command: &mut Command, log: &Path) -> Self {
        let out = std::fs::File::options().create(true).append(true).open(log).expect("the log can be written");
        let err = out.try_clone().expect("a file can be cloned");
        let child = command.stdout(out).stderr(err).spawn().expect("the program starts");
        Self { child, log: log.to_owned() }
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        if let Ok(pid) = i32::try_from(self.child.id()) {
            let _ = nix::sys::signal::kill(Pid::from_raw(pid), signal);
        }
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it listens on a port on loopback, or has ended.
    ///
    /// # Panics
    /// Neither within 30 seconds.
    pub fn listens(&mut self, port: u16) {
        self.listens_at(&format!("127.0.0.1:{port}"));
    }

    /// Waits until it listens at an address, or has ended.
    ///
    /// # Panics
    /// Neither within 30 seconds.
    pub fn listens_at(&mut self, address: &str) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while std::net::TcpStream::connect(address).is_err() {
            if self.wait(Duration::from_millis(20)).is_some() {
                return;
            }
            assert!(Instant::now() < deadline, "nothing listens at {address}:\n{}", self.log());
        }
    }

    /// Waits for the end: exit status, or `None` after `patience`.
    pub fn wait(&mut self, patience: Duration) -> Option<i32> {
        wait_for(&mut self.child, patience)
    }

    /// What it has printed.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.signal(Signal::SIGTERM);
        if wait_for(&mut self.child, Duration::from_secs(15)).is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn wait_for(child: &mut Child, patience: Duration) -> Option<i32> {
    let deadline = Instant::now() + patience;
    loop {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status.code().unwrap_or(-1));
        }
        if Instant::now() >= deadline {
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn read_all(pipe: Option<impl std::io::Read + Send + 'static>) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            let _ = pipe.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}
