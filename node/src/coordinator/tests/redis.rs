//! A Redis of its own for a test: on a Unix socket in a directory that goes with it.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// A server that stops when it is dropped.
pub(crate) struct TestRedis {
    directory: TempDir,
    server: Child,
}

impl TestRedis {
    pub(crate) fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let server = Self::spawn(&directory);
        Self { directory, server }
    }

    fn spawn(directory: &TempDir) -> Child {
        let socket = directory.path().join("redis.sock");
        let _ = std::fs::remove_file(&socket);
        let server = ["redis-server", "valkey-server"].into_iter().find_map(|program| {
            Command::new(program)
                .args(["--port", "0", "--save", "", "--appendonly", "yes", "--appendfsync", "always", "--unixsocket"])
                .arg(&socket)
                .arg("--dir")
                .arg(directory.path())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .ok()
        });
        let server = server.expect("this test needs redis-server or valkey-server on the PATH");
        let until = Instant::now() + Duration::from_secs(20);
        while std::os::unix::net::UnixStream::connect(&socket).is_err() {
            assert!(Instant::now() < until, "redis-server does not start");
            std::thread::sleep(Duration::from_millis(10));
        }
        server
    }

    pub(crate) fn url(&self) -> String {
        format!("unix://{}", self.directory.path().join("redis.sock").display())
    }

    /// Keeps what is on its disk now.
    pub(crate) fn remember(&self) {
        let saved = self.directory.path().join("saved");
        std::fs::create_dir_all(&saved).unwrap();
        for entry in std::fs::read_dir(self.directory.path().join("appendonlydir")).unwrap().flatten() {
            std::fs::copy(entry.path(), saved.join(entry.file_name())).unwrap();
        }
    }

    /// Forgets what was written since then, as a disk may that was not asked to sync. To be called while it is dead.
    pub(crate) fn rewind(&self) {
        let appended = self.directory.path().join("appendonlydir");
        std::fs::remove_dir_all(&appended).unwrap();
        std::fs::rename(self.directory.path().join("saved"), appended).unwrap();
    }

    /// As kill -9 does.
    pub(crate) fn kill(&mut self) {
        self.server.kill().unwrap();
        self.server.wait().unwrap();
    }

    pub(crate) fn start_again(&mut self) {
        self.server = Self::spawn(&self.directory);
    }
}

impl Drop for TestRedis {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
