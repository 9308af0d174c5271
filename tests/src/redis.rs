//! A Redis server of the test's own, on a Unix socket and a port of its own.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use nix::{sys::signal::Signal, unistd::Pid};

use super::{network::Node, process::free_port};

/// A running server; stopped when it goes out of scope.
#[derive(Debug)]
pub struct TestRedis {
    child: Child,
    host: String,
    port: u16,
    appendfsync: &'static str,
    dir: tempfile::TempDir,
}

impl TestRedis {
    /// Starts valkey-server or redis-server with the append-only file on.
    ///
    /// # Panics
    /// Neither is installed, or it does not come up within ten seconds.
    pub fn start() -> Self {
        Self::start_in(&std::env::temp_dir(), "always")
    }

    /// Starts one whose data lie in a directory of its own under `parent`, with that setting of `appendfsync`.
    ///
    /// # Panics
    /// As [`TestRedis::start`].
    pub fn start_in(parent: &Path, appendfsync: &'static str) -> Self {
        let dir = tempfile::tempdir_in(parent).expect("a temporary directory");
        let port = free_port();
        let host = "127.0.0.1".to_owned();
        let child = spawn(command(&host, port, dir.path(), appendfsync));
        let redis = Self { child, host, port, appendfsync, dir };
        redis.wait_until_up();
        redis
    }

    /// Starts one on a machine of a [`Network`](crate::Network), with `appendfsync always`. It cannot be restarted.
    ///
    /// # Panics
    /// As [`TestRedis::start`].
    pub fn start_at(node: &Node) -> Self {
        let (dir, port) = (tempfile::tempdir().expect("a temporary directory"), 6379);
        let host = node.address().to_owned();
        let inside = |program: &str| node.command(&command(&host, port, dir.path(), "always")(program));
        let child = spawn(inside);
        let redis = Self { child, host, port, appendfsync: "always", dir };
        redis.wait_until_up();
        redis
    }

    /// Sends the server a signal.
    pub fn signal(&self, signal: Signal) {
        if let Ok(pid) = i32::try_from(self.child.id()) {
            let _ = nix::sys::signal::kill(Pid::from_raw(pid), signal);
        }
    }

    /// Its port on loopback.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its address.
    pub fn url(&self) -> String {
        format!("redis://{}:{}", self.host, self.port)
    }

    /// Its address as a socket, which is the same in every network namespace.
    pub fn socket_url(&self) -> String {
        format!("redis+unix://{}", self.dir.path().join("redis.sock").display())
    }

    /// A connection.
    ///
    /// # Panics
    /// There is none.
    pub fn connection(&self) -> redis::Connection {
        let client = redis::Client::open(self.url()).expect("a valid address");
        client.get_connection().expect("the server answers")
    }

    /// Makes it a replica of the server at that port, and waits until it has its data.
    ///
    /// # Panics
    /// It does not get them within twenty seconds.
    pub fn follow(&self, port: u16) {
        let mut connection = self.connection();
        redis::cmd("REPLICAOF").arg("127.0.0.1").arg(port).exec(&mut connection).expect("it becomes a replica");
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let info: String =
                redis::cmd("INFO").arg("replication").query(&mut connection).expect("the server answers");
            if info.contains("master_link_status:up") {
                return;
            }
            assert!(Instant::now() < deadline, "the replica is not in step: {info}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Makes it a primary.
    ///
    /// # Panics
    /// It does not answer.
    pub fn lead(&self) {
        redis::cmd("REPLICAOF").arg("NO").arg("ONE").exec(&mut self.connection()).expect("it becomes a primary");
    }

    /// kill -9.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// kill -9, then a new server on the same data.
    ///
    /// # Panics
    /// It does not come up again.
    pub fn crash_and_restart(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.child = spawn(command(&self.host, self.port, self.dir.path(), self.appendfsync));
        self.wait_until_up();
    }

    fn wait_until_up(&self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        let client = redis::Client::open(self.url()).expect("a valid address");
        loop {
            if let Ok(mut connection) = client.get_connection()
                && redis::cmd("PING").query::<String>(&mut connection).is_ok()
            {
                return;
            }
            assert!(Instant::now() < deadline, "the Redis server does not come up");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for TestRedis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The command that starts a server, by the name of its program.
fn command(host: &str, port: u16, dir: &Path, appendfsync: &str) -> impl Fn(&str) -> Command {
    let (host, dir, appendfsync) = (host.to_owned(), dir.to_owned(), appendfsync.to_owned());
    move |program| {
        let mut command = Command::new(program);
        command
            .args(["--port", &port.to_string(), "--bind", &host, "--protected-mode", "no"])
            .args(["--save", "", "--appendonly", "yes", "--appendfsync", &appendfsync, "--dir"])
            .arg(&dir)
            .arg("--unixsocket")
            .arg(dir.join("redis.sock"));
        command
    }
}

fn spawn(command: impl Fn(&str) -> Command) -> Child {
    for name in ["valkey-server", "redis-server"] {
        if !is_installed(name) {
            continue;
        }
        if let Ok(child) = command(name).stdout(Stdio::null()).stderr(Stdio::null()).spawn() {
            return child;
        }
    }
    panic!("neither valkey-server nor redis-server is on PATH: run tests/run.sh, which installs one")
}

fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}
