//! The osiris runner on PostgreSQL: a cluster of its own, if the machine has the programs for one.

use std::{
    fs,
    os::unix::fs::chown,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use tempfile::TempDir;

use crate::osiris::{Store, api_works, counters_lose_nothing, ids_are_not_mixed_up};

crate::tests!(osiris_works_on_postgresql);

struct Cluster {
    bin: PathBuf,
    dir: TempDir,
    port: u16,
}

/// Newest installed version.
fn binaries() -> Option<PathBuf> {
    let mut versions: Vec<PathBuf> =
        fs::read_dir("/usr/lib/postgresql").ok()?.flatten().map(|version| version.path().join("bin")).collect();
    versions.retain(|bin| bin.join("initdb").exists() && bin.join("postgres").exists());
    versions.sort();
    versions.pop()
}

impl Cluster {
    fn start(bin: PathBuf) -> Self {
        let dir = tempfile::Builder::new().prefix("pg").tempdir_in("/tmp").unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let cluster = Self { bin, dir, port };
        if nix::unistd::geteuid().is_root() {
            // PostgreSQL refuses to run as root.
            let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap();
            chown(cluster.dir.path(), Some(nobody.uid.as_raw()), Some(nobody.gid.as_raw())).unwrap();
        }
        let data = cluster.data();
        cluster.call(
            "initdb",
            &["-D", &data, "-U", "horus", "-A", "trust", "--no-sync", "-E", "UTF8", "--locale", "C.UTF-8"],
        );
        let options = format!(
            "-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={}",
            cluster.dir.path().display()
        );
        cluster.call("pg_ctl", &["-D", &data, "-w", "-l", &format!("{data}.log"), "-o", &options, "start"]);
        cluster
    }

    fn data(&self) -> String {
        self.dir.path().join("data").display().to_string()
    }

    fn call(&self, program: &str, arguments: &[&str]) {
        let path = self.bin.join(program);
        let mut command = if nix::unistd::geteuid().is_root() {
            let mut command = Command::new("setpriv");
            command.args(["--reuid", "nobody", "--regid", "nogroup", "--clear-groups", "--"]).arg(path);
            command
        } else {
            Command::new(path)
        };
        let status =
            command.args(arguments).current_dir(Path::new("/")).stdout(Stdio::null()).stderr(Stdio::null()).status();
        assert!(status.unwrap().success(), "{program} failed");
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let data = self.data();
        self.call("pg_ctl", &["-D", &data, "-w", "-m", "immediate", "stop"]);
    }
}

async fn osiris_works_on_postgresql() {
    let Some(bin) = binaries() else {
        println!("skipped: no PostgreSQL server programs under /usr/lib/postgresql");
        return;
    };
    let cluster = Cluster::start(bin);
    let url = format!("postgres://horus@127.0.0.1:{}/postgres", cluster.port);
    let one = Store::on(&url).await;
    let two = Store::on(&url).await;
    api_works(&one).await;
    counters_lose_nothing(&[&one, &two]).await;
    drop((one, two));
    ids_are_not_mixed_up(&url).await;
}
