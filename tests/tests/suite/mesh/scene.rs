//! A coordinator on host 0, supervisors with runners on hosts 1 and 2, and a user on host 0.

use std::{
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use horus_keys::{Identity, KeyDir};
use horus_tests::{Running, TestRedis};
use horus_transport::simulator::MeshSimulator;
use serde_json::Value;
use tempfile::TempDir;

use super::world::{HOSTS, World};

const KINDS: [&str; 4] = ["noop", "hero", "sal", "osiris"];

/// How the coordinator's calls reach the supervisors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Over {
    /// `--transport messages`.
    Messages,
    /// `--transport http` to overlay addresses.
    Overlay,
    /// `http://` addresses below the overlay.
    Plain,
    /// The best path.
    Auto,
}

pub(super) struct Scene {
    pub(super) world: World,
    pub(super) running: Vec<Running>,
    /// The ports of coordinator and supervisors, by host.
    pub(super) ports: Vec<u16>,
    pub(super) dir: TempDir,
    pub(super) stores: Vec<TestRedis>,
}

impl Scene {
    /// Hosts with a Redis and an identity each, and nothing that runs.
    pub(super) fn empty(world: World) -> Self {
        let ports = (0..HOSTS).map(|host| world.port(if host == 0 { 9090 } else { 8080 })).collect();
        let stores = (0..HOSTS).map(|_| TestRedis::start()).collect();
        let scene = Self { world, running: Vec::new(), ports, dir: tempfile::tempdir().unwrap(), stores };
        for host in 0..HOSTS {
            let dir = scene.dir.path().join(format!("h{host}"));
            KeyDir::create(&dir, MeshSimulator::identity(host), None, false).unwrap();
        }
        scene
    }

    /// Everything started with `supervisors` of them, addressed as `over` says.
    pub(super) fn start(world: World, over: Over, supervisors: usize) -> Self {
        let mut scene = Self::empty(world);
        scene.trust_all(supervisors);
        let mut addresses = Vec::new();
        for host in 1..=supervisors {
            scene.supervisor(host, over, &[]);
            scene.runners(host);
            addresses.push(match over {
                Over::Plain => format!("http://{}:{}", scene.world.underlay(host), scene.ports[host]),
                _ => format!("mycelium://{}", scene.world.host(host)),
            });
        }
        for host in 1..=supervisors {
            scene.until_runners(host);
        }
        let mut flags = Vec::new();
        for address in &addresses {
            flags.extend(["--supervisor", address]);
        }
        scene.coordinator(over, &flags);
        scene.until_alive(supervisors);
        scene
    }

    /// Keys for a user, a coordinator, and so many supervisors with their runners, which all know each other.
    pub(super) fn trust_all(&self, supervisors: usize) {
        self.trusted("me", "submitter,operator", "*");
        self.trusted("c", "coordinator", "*");
        for host in 1..=supervisors {
            self.trusted(&format!("s{host}"), "supervisor", "*");
            for kind in KINDS {
                self.trusted(&format!("{kind}{host}"), "runner", kind);
            }
        }
    }

    /// A runner of each kind on a host.
    pub(super) fn runners(&mut self, host: usize) {
        for kind in KINDS {
            self.role(host, &format!("{kind}{host}"), &["runner", kind]);
        }
    }

    pub(super) fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    pub(super) fn file(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Makes a key.
    pub(super) fn key(&self, name: &str) -> String {
        let made = self.horus(0, None, &["keys", "generate", "--dir", &self.path(name), "--json"]);
        made["peer_id"].as_str().unwrap().to_owned()
    }

    /// Makes a key that everybody trusts.
    pub(super) fn trusted(&self, name: &str, roles: &str, runner: &str) {
        let id = self.key(name);
        let policy = self.path("trust.toml");
        let args = ["keys", "trust", "add", &id, "--role", roles, "--runner", runner, "--trust", &policy];
        let done = self.world.horus(0).args(args).output().unwrap();
        assert!(done.status.success(), "{done:?}");
    }

    pub(super) fn role(&mut self, host: usize, name: &str, args: &[&str]) {
        let url = self.stores[host].socket_url();
        let mut command = self.world.horus(host);
        command.args(args).args(["--identity", &self.path(name), "--redis-url", &url]);
        let policy = self.path("trust.toml");
        if std::path::Path::new(&policy).exists() {
            command.args(["--trust", &policy]);
        }
        let log = self.dir.path().join(format!("{name}.log"));
        self.running.push(Running::start(&mut command, &log));
    }

    pub(super) fn supervisor(&mut self, host: usize, over: Over, more: &[&str]) {
        let (port, identity) = (self.ports[host].to_string(), self.path(&format!("h{host}")));
        let listen = format!("{}:{port}", self.world.underlay(host));
        let mut args = vec!["supervisor", "--port", &port, "--host-identity", &identity];
        args.extend(transport(over));
        if over == Over::Plain && self.world.is_real() {
            args.extend(["--listen", &listen]);
        }
        args.extend(more);
        self.role(host, &format!("s{host}"), &args);
    }

    pub(super) fn coordinator(&mut self, over: Over, more: &[&str]) {
        let (port, identity) = (self.ports[0].to_string(), self.path("h0"));
        let mut args = vec!["coordinator", "--port", &port, "--host-identity", &identity];
        args.extend(transport(over));
        args.extend(more);
        self.role(0, "c", &args);
    }

    /// Runs a command of `who` on a host: its JSON.
    pub(super) fn horus(&self, host: usize, who: Option<&str>, args: &[&str]) -> Value {
        let (ok, out) = self.try_horus(host, who, args);
        assert!(ok, "horus {args:?}: {out}\n{}", self.logs());
        serde_json::from_str(&out).unwrap_or_else(|e| panic!("horus {args:?}: {e}: {out}"))
    }

    /// Runs a command: whether it succeeded, and what it printed.
    pub(super) fn try_horus(&self, host: usize, who: Option<&str>, args: &[&str]) -> (bool, String) {
        let mut command: Command = self.world.horus(host);
        if let Some(who) = who {
            command.env("HORUS_IDENTITY", self.path(who));
            let policy = self.path("trust.toml");
            if std::path::Path::new(&policy).exists() {
                command.env("HORUS_TRUST", policy);
            }
        }
        command.env("HORUS_COORDINATOR", format!("http://127.0.0.1:{}", self.ports[0]));
        command.env("HORUS_SUPERVISOR", format!("http://127.0.0.1:{}", self.ports[1]));
        let done = command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).output().unwrap();
        let text = if done.stdout.is_empty() { done.stderr } else { done.stdout };
        (done.status.success(), String::from_utf8_lossy(&text).into_owned())
    }

    /// The supervisors as the coordinator sees them.
    pub(super) fn supervisors(&self) -> Vec<Value> {
        let (ok, out) = self.try_horus(0, Some("me"), &["supervisors", "list", "--json"]);
        let list: Value = if ok { serde_json::from_str(&out).unwrap() } else { Value::Null };
        list["supervisors"].as_array().cloned().unwrap_or_default()
    }

    /// Until all runners of a host are alive. A coordinator looks at a supervisor once a minute over messages: they are to be
    /// there when it comes.
    pub(super) fn until_runners(&self, host: usize) {
        let address = format!("http://127.0.0.1:{}", self.ports[host]);
        self.until("all runners are alive", Duration::from_secs(60), || {
            let list = ["runners", "list", "--supervisor", &address, "--json"];
            let (ok, out) = self.try_horus(host, Some("me"), &list);
            (ok && out.matches("\"alive\"").count() == KINDS.len()).then_some(())
        });
    }

    /// The identity of somebody who was made a key.
    pub(super) fn identity(&self, who: &str) -> Identity {
        KeyDir::load(&self.dir.path().join(who), || Ok(None)).unwrap().identity
    }

    /// Waits until no message was sent for a while, and tells how many were in all.
    pub(super) fn until_quiet(&self) -> u64 {
        let (mut count, mut since) = (0, Instant::now());
        self.until("the mesh is quiet", Duration::from_secs(60), || {
            let now = self.world.messages().unwrap();
            if now != count {
                (count, since) = (now, Instant::now());
            }
            (since.elapsed() > Duration::from_secs(2)).then_some(count)
        })
    }

    /// Until so many supervisors answer, with all their runners.
    pub(super) fn until_alive(&self, count: usize) {
        self.until(&format!("{count} supervisors answer"), Duration::from_secs(60), || {
            let alive =
                |s: &Value| s["state"] == "alive" && s["runners"].as_array().is_some_and(|r| r.len() >= KINDS.len());
            (self.supervisors().iter().filter(|s| alive(s)).count() >= count).then_some(())
        });
    }

    /// Looks again and again until there is something to see.
    pub(super) fn until<T>(&self, what: &str, patience: Duration, mut look: impl FnMut() -> Option<T>) -> T {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(found) = look() {
                return found;
            }
            assert!(Instant::now() < deadline, "not within {patience:?}: {what}\n{}", self.logs());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The ends of all logs, for a test that fails.
    pub(super) fn logs(&self) -> String {
        let end = |running: &Running| {
            let log = running.log();
            let lines: Vec<&str> = log.lines().collect();
            lines[lines.len().saturating_sub(12)..].join("\n")
        };
        self.running.iter().map(end).collect::<Vec<_>>().join("\n---\n")
    }
}

fn transport(over: Over) -> [&'static str; 2] {
    match over {
        Over::Messages => ["--transport", "messages"],
        Over::Overlay | Over::Plain => ["--transport", "http"],
        Over::Auto => ["--transport", "auto"],
    }
}
