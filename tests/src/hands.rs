//! Roles started by hand, each with a key of its own and one trust policy for all.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use horus_keys::{Identity, KeyDir, PeerId};

use super::{
    network::Node,
    process::{Horus, Running},
};

/// Keys, a trust policy and a place for logs.
#[derive(Debug)]
pub struct Hands {
    /// Calls the binary as the user `me`, a submitter.
    pub horus: Horus,
    dir: tempfile::TempDir,
    trust: String,
}

impl Default for Hands {
    fn default() -> Self {
        Self::new()
    }
}

impl Hands {
    /// A user whom all roles trust, and no role yet.
    ///
    /// # Panics
    /// Keys cannot be made.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let trust = dir.path().join("trust.toml").display().to_string();
        let me = dir.path().join("me").display().to_string();
        let horus = Horus { env: vec![("HORUS_IDENTITY".into(), me), ("HORUS_TRUST".into(), trust.clone())] };
        let hands = Self { horus, dir, trust };
        hands.key("me", "submitter,operator", "*");
        hands
    }

    /// A path in the directory of all this.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Makes a key and trusts it.
    ///
    /// # Panics
    /// It cannot be made.
    pub fn key(&self, name: &str, roles: &str, runner: &str) -> PeerId {
        let path = self.path(name).display().to_string();
        let made = self.horus.run(&["keys", "generate", "--dir", &path, "--json"]).ok().json();
        let id = made["peer_id"].as_str().expect("a key has a name").to_owned();
        let add =
            ["keys", "trust", "add", &id, "--role", roles, "--runner", runner, "--name", name, "--trust", &self.trust];
        self.horus.run(&add).ok();
        id.parse().expect("a valid name")
    }

    /// A key that was made, to sign with.
    ///
    /// # Panics
    /// It was not made.
    pub fn identity(&self, name: &str) -> Identity {
        KeyDir::load(&self.path(name), || Ok(None)).expect("the key was made").identity
    }

    /// Starts a role with the key of that name, and waits until it listens if `args` give it a port. Its log goes to
    /// `NAME.log`.
    ///
    /// # Panics
    /// It cannot be started, or does not listen within 30 seconds.
    pub fn role(&self, name: &str, args: &[&str]) -> Running {
        self.role_with(name, args, &[])
    }

    /// Starts a role as [`Hands::role`] does, with further environment variables.
    ///
    /// # Panics
    /// As [`Hands::role`].
    pub fn role_with(&self, name: &str, args: &[&str], env: &[(&str, String)]) -> Running {
        let identity = self.path(name).display().to_string();
        let mut all = args.to_vec();
        all.extend(["--identity", &identity, "--trust", &self.trust]);
        let mut command = self.horus.command(&all);
        command.envs(env.iter().map(|(name, value)| (name, value)));
        let mut role = Running::start(command.stdin(Stdio::null()), &self.path(&format!("{name}.log")));
        if let Some(port) = args.windows(2).find(|w| w[0] == "--port").and_then(|w| w[1].parse().ok()) {
            role.listens(port);
        }
        role
    }

    /// Starts a role on another machine of a [`Network`](crate::Network), and waits until it listens if `args` give it a port,
    /// on which it listens at the machine's address too.
    ///
    /// # Panics
    /// As [`Hands::role`].
    pub fn role_at(&self, node: &Node, name: &str, args: &[&str]) -> Running {
        let identity = self.path(name).display().to_string();
        let port = args.windows(2).find(|w| w[0] == "--port").map(|w| w[1].to_owned());
        let listen = port.map(|port| format!("{}:{port}", node.address()));
        let mut all = args.to_vec();
        all.extend(["--identity", &identity, "--trust", &self.trust]);
        all.extend(listen.iter().flat_map(|at| ["--listen", at]));
        let mut role = node.start(&self.horus.command(&all), &self.path(&format!("{name}.log")));
        if let Some(at) = listen {
            role.listens_at(&at);
        }
        role
    }

    /// Submits a job and gives its id.
    ///
    /// # Panics
    /// It is not accepted.
    pub fn submit(&self, supervisor: &str, runner: &str, payload: &str, flags: &[&str]) -> String {
        let args = ["job", "submit", "--runner", runner, "--payload", payload, "--supervisor", supervisor, "--json"];
        let submitted = self.horus.run(&[&args, flags].concat()).ok().json();
        submitted["job_id"].as_str().expect("a job has an id").to_owned()
    }

    /// A job's status.
    ///
    /// # Panics
    /// The supervisor does not know the job.
    pub fn status(&self, supervisor: &str, job: &str) -> String {
        let shown = self.horus.run(&["job", "status", job, "--supervisor", supervisor, "--json"]).ok().json();
        shown["status"].as_str().expect("a job has a status").to_owned()
    }

    /// How many records a workflow of a [`Ledger`](crate::Ledger) has made in Osiris behind that supervisor.
    ///
    /// # Panics
    /// Osiris does not say.
    pub fn records(&self, supervisor: &str, workflow: &str) -> usize {
        super::ledger::records(&self.horus, supervisor, workflow)
    }

    /// Waits until a job has that status.
    ///
    /// # Panics
    /// It has not within 30 seconds.
    pub fn becomes(&self, supervisor: &str, job: &str, status: &str) {
        Self::until(&format!("{job} is {status}"), Duration::from_secs(30), || {
            (self.status(supervisor, job) == status).then_some(())
        });
    }

    /// Waits until something is so.
    ///
    /// # Panics
    /// It is not within `patience`.
    pub fn until<T>(what: &str, patience: Duration, mut look: impl FnMut() -> Option<T>) -> T {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(found) = look() {
                return found;
            }
            assert!(Instant::now() < deadline, "not within {patience:?}: {what}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The directory of all this.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }
}
