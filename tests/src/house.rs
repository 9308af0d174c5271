//! A whole Horus by `horus up`, in a directory of its own.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde::Deserialize;

use super::process::{Horus, Outcome, Running};

/// What the ready line says.
#[derive(Debug, Clone, Deserialize)]
pub struct Ready {
    /// Address of the supervisor, with its key.
    pub supervisor: String,
    /// Address of the coordinator, with its key.
    pub coordinator: String,
    /// The Redis in use.
    pub redis_url: String,
}

/// A Horus that is up.
#[derive(Debug)]
pub struct House {
    /// Calls the binary as the user whom this Horus trusts.
    pub horus: Horus,
    /// What the ready line said.
    pub ready: Ready,
    /// The process `horus up`.
    pub up: Running,
    args: Vec<String>,
    starts: u32,
    dir: tempfile::TempDir,
}

impl House {
    /// Starts one and waits until it is ready.
    ///
    /// # Panics
    /// It is not ready within a minute.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts one with further flags of `horus up`.
    ///
    /// # Panics
    /// It is not ready within a minute.
    pub fn start_with(flags: &[&str]) -> Self {
        Self::start_in(&[], flags)
    }

    /// Starts one with further flags, and further variables that its first start alone sees.
    ///
    /// # Panics
    /// It is not ready within a minute.
    pub fn start_in(env: &[(&str, &str)], flags: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut horus = Horus { env: vec![("HORUS_IDENTITY".into(), path(dir.path(), "me"))] };
        let data = path(dir.path(), "data");
        let mut args = vec![
            "up",
            "--data-dir",
            &data,
            "--supervisor-port",
            "0",
            "--coordinator-port",
            "0",
            "--mesh",
            "off",
            "--json",
        ];
        args.extend(flags);
        let log = dir.path().join("up.log");
        let args: Vec<String> = args.into_iter().map(str::to_owned).collect();
        let mut first = horus.clone();
        first.env.extend(env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let up = first.spawn(&args, &log);
        let ready = wait_until_ready(&up, Duration::from_secs(60));
        horus.env.extend(addresses(&ready));
        Self { horus, ready, up, args, starts: 1, dir }
    }

    /// Starts it again on the same data after it has ended, at new addresses.
    ///
    /// # Panics
    /// It is not ready within a minute.
    pub fn start_again(&mut self) {
        self.starts += 1;
        let log = self.dir.path().join(format!("up{}.log", self.starts));
        self.horus.env.truncate(1);
        self.up = self.horus.spawn(&self.args, &log);
        self.ready = wait_until_ready(&self.up, Duration::from_secs(60));
        self.horus.env.extend(addresses(&self.ready));
    }

    /// How many records a workflow of a [`Ledger`](crate::Ledger) has made in Osiris.
    ///
    /// # Panics
    /// Osiris does not say.
    pub fn records(&self, workflow: &str) -> usize {
        super::ledger::records(&self.horus, &self.ready.supervisor, workflow)
    }

    /// Runs a command as the trusted user.
    pub fn run(&self, args: &[&str]) -> Outcome {
        self.horus.run(args)
    }

    /// Writes a file and gives its path.
    ///
    /// # Panics
    /// It cannot be written.
    pub fn file(&self, name: &str, text: &str) -> String {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).expect("a file can be written");
        path.display().to_string()
    }

    /// The data directory of `horus up`.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// The process ids of everything that `up` started, by role.
    pub fn roles(&self) -> Vec<(String, i32)> {
        let children = format!("/proc/{0}/task/{0}/children", self.up.pid());
        let list = std::fs::read_to_string(children).unwrap_or_default();
        list.split_whitespace()
            .filter_map(|pid| {
                let cmdline = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
                let words: Vec<String> =
                    cmdline.split(|b| *b == 0).map(|w| String::from_utf8_lossy(w).into_owned()).collect();
                let name = match words.get(1).map(String::as_str) {
                    Some("runner") => format!("runner-{}", words.get(2)?),
                    Some(role @ ("supervisor" | "coordinator")) => role.to_owned(),
                    // About to become one of the others.
                    Some("__with-parent") => return None,
                    _ => "redis".to_owned(),
                };
                Some((name, pid.parse().ok()?))
            })
            .collect()
    }
}

/// Where the command line finds it.
fn addresses(ready: &Ready) -> [(String, String); 2] {
    [("HORUS_SUPERVISOR".into(), ready.supervisor.clone()), ("HORUS_COORDINATOR".into(), ready.coordinator.clone())]
}

fn path(dir: &Path, name: &str) -> String {
    dir.join(name).display().to_string()
}

fn wait_until_ready(up: &Running, patience: Duration) -> Ready {
    let deadline = Instant::now() + patience;
    loop {
        let log = up.log();
        if let Some(ready) = log.lines().find_map(|l| serde_json::from_str::<Ready>(l).ok()) {
            return ready;
        }
        assert!(Instant::now() < deadline, "horus up is not ready after {patience:?}:\n{log}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
