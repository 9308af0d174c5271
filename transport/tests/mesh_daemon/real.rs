//! Real daemons, each in a network namespace of its own, joined by a bridge. A second pair of interfaces
//! leads from every namespace to the test, which calls the daemon's API there, cut off or not.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use horus_transport::simulator::{MeshSimulator, SlowLink};
use serde_json::json;
use tempfile::TempDir;
use tokio::time::Instant;

use crate::client::Daemon;

const BRIDGE: &str = "hmeshbr";
/// How long daemons may take to start and to find each other.
const UP: Duration = Duration::from_secs(60);

pub(crate) struct RealMesh {
    binary: PathBuf,
    files: TempDir,
    running: Mutex<Vec<Option<Child>>>,
    nodes: usize,
    /// What leads from a node to those before it, if not the bridge.
    slow: Vec<SlowLink>,
    /// There is one such mesh on a machine at a time.
    _lock: File,
}

impl RealMesh {
    pub(crate) async fn up(nodes: usize) -> Option<Self> {
        Self::up_over(nodes, Duration::ZERO).await
    }

    /// The same, over links with that round trip.
    pub(crate) async fn up_over(nodes: usize, round_trip: Duration) -> Option<Self> {
        let Some(binary) = std::env::var_os("MYCELIUM_BIN").map(PathBuf::from) else {
            eprintln!("skipped: set MYCELIUM_BIN to a mycelium binary to run these checks on real daemons");
            return None;
        };
        if fs::metadata("/proc/self").map_or(true, |me| me.uid() != 0) {
            eprintln!("skipped: only root can make network namespaces");
            return None;
        }
        if Command::new("ip").arg("-V").stdout(Stdio::null()).status().is_err() {
            eprintln!("skipped: the command `ip` is missing; install iproute2");
            return None;
        }
        let lock = File::create(std::env::temp_dir().join("horus-mesh-daemon-test.lock")).unwrap();
        lock.lock().unwrap();
        let files = tempfile::tempdir().unwrap();
        let running = Mutex::new((0..nodes).map(|_| None).collect());
        let mut mesh = Self { binary, files, running, nodes, slow: Vec::new(), _lock: lock };
        mesh.down();
        ip(&format!("link add {BRIDGE} type bridge"));
        ip(&format!("link set {BRIDGE} up"));
        for node in 0..nodes {
            mesh.plug(node);
            for peer in (0..node).filter(|_| !round_trip.is_zero()) {
                let address = |ip: String, port: u16| format!("{ip}:{port}").parse().unwrap();
                let (listen, target) = (address(outside(node), 9700 + peer as u16), address(inside(peer), 9651));
                mesh.slow.push(SlowLink::start(listen, target, round_trip / 2).unwrap());
            }
            mesh.spawn(node);
        }
        mesh.await_routes().await;
        Some(mesh)
    }

    pub(crate) fn daemons(&self) -> Vec<Daemon> {
        let daemon = |node| {
            let key = MeshSimulator::identity(node).peer_id().mesh_public_key();
            Daemon::new(format!("http://{}:8990", inside(node)), key.overlay_address(), key.to_string())
        };
        (0..self.nodes).map(daemon).collect()
    }

    pub(crate) fn cut(&self, node: usize) {
        ip(&format!("link set hmeshv{node} down"));
    }

    pub(crate) fn heal(&self, node: usize) {
        ip(&format!("link set hmeshv{node} up"));
    }

    /// The time that the daemon has computed so far.
    pub(crate) fn cpu(&self, node: usize) -> Duration {
        let pid = self.running.lock().unwrap()[node].as_ref().expect("it runs").id();
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        // Fields 14 and 15 (proc(5)), counted after the name, in hundredths of a second.
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        Duration::from_millis(ticks * 10)
    }

    pub(crate) fn stop(&self, node: usize) {
        let child = self.running.lock().unwrap()[node].take();
        if let Some(mut child) = child {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub(crate) async fn start(&self, node: usize) {
        self.spawn(node);
        self.await_routes().await;
    }

    /// Makes the namespace of a node and its two ways out.
    fn plug(&self, node: usize) {
        let space = space(node);
        ip(&format!("netns add {space}"));
        ip(&format!("-n {space} link set lo up"));
        ip(&format!("link add hmeshv{node} type veth peer name eth0 netns {space}"));
        ip(&format!("link set hmeshv{node} master {BRIDGE} up"));
        ip(&format!("-n {space} addr add {}/24 dev eth0", underlay(node)));
        ip(&format!("-n {space} link set eth0 up"));
        ip(&format!("link add hmesha{node} type veth peer name api0 netns {space}"));
        ip(&format!("addr add {}/30 dev hmesha{node}", outside(node)));
        ip(&format!("link set hmesha{node} up"));
        ip(&format!("-n {space} addr add {}/30 dev api0", inside(node)));
        ip(&format!("-n {space} link set api0 up"));
    }

    /// Runs the daemon with the same key in every life, and all daemons before it as peers.
    fn spawn(&self, node: usize) {
        let key = self.files.path().join(format!("key{node}"));
        if !key.exists() {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&key).unwrap();
            file.write_all(&MeshSimulator::identity(node).mesh_secret()[..]).unwrap();
        }
        let log = File::create(self.files.path().join(format!("log{node}"))).unwrap();
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &space(node)]).arg(&self.binary).arg("-k").arg(&key);
        command.args(["--disable-peer-discovery", "--disable-quic", "--no-tun"]);
        command.args(["--jsonrpc-addr", &format!("{}:8990", inside(node))]);
        if node > 0 {
            command.arg("--peers").args((0..node).map(|peer| match self.slow.is_empty() {
                true => format!("tcp://{}:9651", underlay(peer)),
                false => format!("tcp://{}:{}", outside(node), 9700 + peer),
            }));
        }
        let log_too = log.try_clone().unwrap();
        let child = command.stdin(Stdio::null()).stdout(log).stderr(log_too).spawn().unwrap();
        self.running.lock().unwrap()[node] = Some(child);
    }

    /// Until every daemon that runs knows the way to every other that does.
    async fn await_routes(&self) {
        let deadline = Instant::now() + UP;
        let running: Vec<usize> = {
            let running = self.running.lock().unwrap();
            (0..self.nodes).filter(|node| running[*node].is_some()).collect()
        };
        let daemons = self.daemons();
        for from in &running {
            for to in running.iter().filter(|to| *to != from) {
                while !knows(&daemons[*from], &daemons[*to]).await {
                    assert!(Instant::now() < deadline, "daemon {from} finds no way to daemon {to}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    /// Removes everything, also what a run that was killed left behind.
    fn down(&self) {
        for node in 0..self.nodes {
            self.stop(node);
            for line in [format!("netns del {}", space(node)), format!("link del hmeshv{node}")] {
                try_ip(&line);
            }
            try_ip(&format!("link del hmesha{node}"));
        }
        try_ip(&format!("link del {BRIDGE}"));
    }
}

impl Drop for RealMesh {
    fn drop(&mut self) {
        self.down();
    }
}

async fn knows(from: &Daemon, to: &Daemon) -> bool {
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "getPublicKeyFromIp", "params": [to.address]});
    let response = tokio::time::timeout(Duration::from_secs(2), from.post(body.to_string())).await;
    matches!(response, Ok(Ok((200, text))) if text.contains(&to.key))
}

fn space(node: usize) -> String {
    format!("hmesh{node}")
}

fn underlay(node: usize) -> String {
    format!("10.78.0.{}", node + 1)
}

fn outside(node: usize) -> String {
    format!("10.79.{node}.1")
}

fn inside(node: usize) -> String {
    format!("10.79.{node}.2")
}

fn ip(arguments: &str) {
    let done = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(done.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&done.stderr));
}

fn try_ip(arguments: &str) {
    _ = Command::new("ip").args(arguments.split(' ')).stderr(Stdio::null()).status();
}
