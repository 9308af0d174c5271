//! A PostgreSQL cluster of the test's own, if the machine has the programs for one.

use std::{
    fs,
    os::unix::fs::chown,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use nix::{sys::signal::Signal, unistd::Pid};

use super::process::free_port;

/// A running cluster; stopped when it goes out of scope.
#[derive(Debug)]
pub struct Postgres {
    bin: PathBuf,
    dir: tempfile::TempDir,
    port: u16,
}

impl Postgres {
    /// Makes and starts a cluster of the newest version under `/usr/lib/postgresql`; `None` if there is none.
    ///
    /// # Panics
    /// There are programs, but they fail.
    pub fn start() -> Option<Self> {
        let versions = fs::read_dir("/usr/lib/postgresql").ok()?.flatten();
        let mut versions: Vec<PathBuf> = versions.map(|version| version.path().join("bin")).collect();
        versions.retain(|bin| bin.join("initdb").exists() && bin.join("postgres").exists());
        versions.sort();
        let (bin, dir) = (versions.pop()?, tempfile::Builder::new().prefix("pg").tempdir_in("/tmp").ok()?);
        if nix::unistd::geteuid().is_root() {
            // PostgreSQL refuses to run as root.
            let nobody = nix::unistd::User::from_name("nobody").ok()??;
            chown(dir.path(), Some(nobody.uid.as_raw()), Some(nobody.gid.as_raw())).expect("root may");
        }
        let cluster = Self { bin, dir, port: free_port() };
        let data = cluster.data();
        let made = cluster.call(
            "initdb",
            &["-D", &data, "-U", "horus", "-A", "trust", "--no-sync", "-E", "UTF8", "--locale", "C.UTF-8"],
        );
        assert!(made, "initdb failed");
        cluster.run();
        Some(cluster)
    }

    /// Where Osiris finds it.
    pub fn url(&self) -> String {
        format!("postgres://horus@127.0.0.1:{}/postgres", self.port)
    }

    /// kill -9 of the server; it stays away until [`Postgres::run`].
    ///
    /// # Panics
    /// It does not run.
    pub fn kill(&self) {
        let file = self.dir.path().join("data/postmaster.pid");
        let text = fs::read_to_string(file).expect("a server that runs says its process id");
        let pid = text.lines().next().and_then(|line| line.trim().parse().ok()).expect("a process id");
        nix::sys::signal::kill(Pid::from_raw(pid), Signal::SIGKILL).expect("it runs");
    }

    /// Starts the server, and waits until it answers.
    ///
    /// # Panics
    /// It does not within 30 seconds.
    pub fn run(&self) {
        let (data, port) = (self.data(), self.port);
        let sockets = self.dir.path().display().to_string();
        let options = format!("-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={sockets}");
        // The processes that a killed server leaves behind need a moment to notice.
        let deadline = Instant::now() + Duration::from_secs(30);
        while !self.call("pg_ctl", &["-D", &data, "-w", "-l", &format!("{data}.log"), "-o", &options, "start"]) {
            assert!(Instant::now() < deadline, "PostgreSQL does not start");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn data(&self) -> String {
        self.dir.path().join("data").display().to_string()
    }

    fn call(&self, program: &str, arguments: &[&str]) -> bool {
        let path = self.bin.join(program);
        let mut command = if nix::unistd::geteuid().is_root() {
            let mut command = Command::new("setpriv");
            command.args(["--reuid", "nobody", "--regid", "nogroup", "--clear-groups", "--"]).arg(path);
            command
        } else {
            Command::new(path)
        };
        command.args(arguments).current_dir(Path::new("/")).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let data = self.data();
        self.call("pg_ctl", &["-D", &data, "-w", "-m", "immediate", "stop"]);
    }
}
