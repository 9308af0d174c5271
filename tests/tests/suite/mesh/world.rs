//! Three hosts of an overlay: simulated daemons in this process, or real ones in network namespaces.

use std::{
    fs::{self, File},
    io::Write as _,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Mutex,
    time::Duration,
};

use horus_keys::PeerId;
use horus_tests::{binary, free_port};
use horus_transport::simulator::{Faults, MeshSimulator, SlowLink};

const BRIDGE: &str = "hwirebr";
/// How many hosts there are.
pub(super) const HOSTS: usize = 3;

/// The hosts and what lies between them.
pub(super) enum World {
    Simulated { mesh: MeshSimulator, runtime: tokio::runtime::Runtime },
    Real(RealMesh),
}

impl World {
    pub(super) fn simulated() -> Self {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let faults = Faults { delay: Duration::from_millis(1), ..Faults::default() };
        let mesh = runtime.block_on(MeshSimulator::start(HOSTS, faults)).unwrap();
        Self::Simulated { mesh, runtime }
    }

    /// `None` where real daemons cannot be run: without `MYCELIUM_BIN`, or without root.
    pub(super) fn real(tun: bool) -> Option<Self> {
        Self::real_over(tun, Duration::ZERO)
    }

    /// The same, over links with that round trip.
    pub(super) fn real_over(tun: bool, round_trip: Duration) -> Option<Self> {
        let mesh = RealMesh::up(tun, round_trip)?;
        (0..HOSTS).for_each(|host| mesh.spawn(host));
        Some(Self::Real(mesh))
    }

    /// Real hosts of which the last one alone has a daemon, which waits for others to connect to it.
    pub(super) fn real_with_public_node() -> Option<Self> {
        let mut mesh = RealMesh::up(true, Duration::ZERO)?;
        mesh.calls_others = false;
        mesh.spawn(HOSTS - 1);
        Some(Self::Real(mesh))
    }

    pub(super) fn is_real(&self) -> bool {
        matches!(self, Self::Real(_))
    }

    /// Whether the daemons themselves find each other within seconds of healing: real ones on kernels that let TCP be told so.
    pub(super) fn heals_soon(&self) -> bool {
        !self.is_real() || std::path::Path::new("/proc/sys/net/ipv4/tcp_rto_max_ms").exists()
    }

    /// The identity that the daemon's key of a host was made from.
    pub(super) fn host(&self, host: usize) -> PeerId {
        MeshSimulator::identity(host).peer_id()
    }

    /// The `horus` binary, to be run on a host.
    pub(super) fn horus(&self, host: usize) -> Command {
        self.program(host, &binary())
    }

    /// Any program, to be run on a host.
    pub(super) fn program(&self, host: usize, program: &Path) -> Command {
        let mut command = match self {
            Self::Simulated { mesh, .. } => {
                let mut command = Command::new(program);
                command.env("HORUS_MYCELIUM_RPC", mesh.node(host).rpc_url());
                command
            }
            Self::Real(_) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", &space(host)]).arg(program);
                command
            }
        };
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("HORUS_")) {
            if name != "HORUS_MYCELIUM_RPC" {
                command.env_remove(name);
            }
        }
        command.stdin(Stdio::null());
        command
    }

    /// The address of a host below the overlay.
    pub(super) fn underlay(&self, host: usize) -> String {
        if self.is_real() { underlay(host) } else { "127.0.0.1".to_owned() }
    }

    /// A port for a role: real hosts have all their ports to themselves.
    pub(super) fn port(&self, usual: u16) -> u16 {
        if self.is_real() { usual } else { free_port() }
    }

    pub(super) fn cut(&self, host: usize) {
        match self {
            Self::Simulated { mesh, .. } => mesh.node(host).cut(),
            Self::Real(_) => ip(&format!("link set hwirev{host} down")),
        }
    }

    pub(super) fn heal(&self, host: usize) {
        match self {
            Self::Simulated { mesh, .. } => mesh.node(host).heal(),
            Self::Real(_) => ip(&format!("link set hwirev{host} up")),
        }
    }

    /// Has a real host drop what it would send to another one over its TUN: HTTP over the overlay goes silent, while messages,
    /// which the daemons carry themselves, go on. Taken back by `unmute`.
    pub(super) fn mute(&self, host: usize, to: usize) {
        let address = self.host(to).overlay_address();
        ip(&format!("-n {} -6 route add blackhole {address}/128 metric 1", space(host)));
    }

    pub(super) fn unmute(&self, host: usize, to: usize) {
        let address = self.host(to).overlay_address();
        ip(&format!("-n {} -6 route del blackhole {address}/128 metric 1", space(host)));
    }

    pub(super) fn kill_daemon(&self, host: usize) {
        match self {
            Self::Simulated { mesh, runtime } => runtime.block_on(mesh.node(host).stop()),
            Self::Real(mesh) => mesh.kill(host),
        }
    }

    pub(super) fn start_daemon(&self, host: usize) {
        match self {
            Self::Simulated { mesh, runtime } => runtime.block_on(async { mesh.node(host).start() }).unwrap(),
            Self::Real(mesh) => mesh.spawn(host),
        }
    }

    /// Kills the daemon of a host and starts it again.
    pub(super) fn restart_daemon(&self, host: usize) {
        match self {
            Self::Simulated { mesh, runtime } => runtime.block_on(mesh.node(host).restart()).unwrap(),
            Self::Real(_) => {
                self.kill_daemon(host);
                self.start_daemon(host);
            }
        }
    }

    /// Messages that all daemons sent, where that is counted.
    pub(super) fn messages(&self) -> Option<u64> {
        match self {
            Self::Simulated { mesh, .. } => Some(mesh.messages()),
            Self::Real(_) => None,
        }
    }
}

/// Real daemons, each in a namespace of its own, joined by a bridge. Removed when it goes out of scope.
pub(super) struct RealMesh {
    binary: PathBuf,
    tun: bool,
    /// Whether daemons are told of the others.
    calls_others: bool,
    files: tempfile::TempDir,
    daemons: Mutex<Vec<Option<Child>>>,
    /// That of the links between hosts, beyond what the bridge has.
    round_trip: Duration,
    /// What leads from a host to those before it then.
    slow: Vec<SlowLink>,
    /// There is one such mesh on a machine at a time.
    _lock: File,
}

impl RealMesh {
    /// The hosts and their links, without daemons.
    fn up(tun: bool, round_trip: Duration) -> Option<Self> {
        let Some(binary) = std::env::var_os("MYCELIUM_BIN").map(PathBuf::from) else {
            eprintln!("skipped: set MYCELIUM_BIN to a mycelium binary to run this on real daemons");
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
        let daemons = Mutex::new((0..HOSTS).map(|_| None).collect());
        let files = tempfile::tempdir().unwrap();
        let slow = Vec::new();
        let mut mesh = Self { binary, tun, calls_others: true, files, daemons, round_trip, slow, _lock: lock };
        mesh.down();
        ip(&format!("link add {BRIDGE} type bridge"));
        ip(&format!("link set {BRIDGE} up"));
        if !round_trip.is_zero() {
            ip(&format!("addr add {}/24 dev {BRIDGE}", underlay(HOSTS)));
        }
        for host in 0..HOSTS {
            let space = space(host);
            ip(&format!("netns add {space}"));
            ip(&format!("-n {space} link set lo up"));
            ip(&format!("link add hwirev{host} type veth peer name eth0 netns {space}"));
            ip(&format!("link set hwirev{host} master {BRIDGE} up"));
            ip(&format!("-n {space} addr add {}/24 dev eth0", underlay(host)));
            ip(&format!("-n {space} link set eth0 up"));
            for peer in (0..host).filter(|_| !round_trip.is_zero()) {
                let (listen, target) = (slow_link(host, peer), format!("{}:9651", underlay(peer)));
                let link = SlowLink::start(listen.parse().unwrap(), target.parse().unwrap(), round_trip / 2);
                mesh.slow.push(link.unwrap());
            }
            // As docs/MESH.md advises: else TCP between the daemons waits longer and longer while a host is cut off, and as
            // long again when it is back. Kernels before 6.15 do not have it.
            try_ip(&format!("netns exec {space} sysctl -qw net.ipv4.tcp_rto_max_ms=2000"));
        }
        Some(mesh)
    }

    /// Runs the daemon with the same key in every life.
    fn spawn(&self, host: usize) {
        let key = self.files.path().join(format!("key{host}"));
        if !key.exists() {
            let mut file = File::options().write(true).create_new(true).mode(0o600).open(&key).unwrap();
            file.write_all(&MeshSimulator::identity(host).mesh_secret()[..]).unwrap();
        }
        let log = File::options().create(true).append(true).open(self.files.path().join(format!("log{host}"))).unwrap();
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &space(host)]).arg(&self.binary).arg("-k").arg(&key);
        command.args(["--disable-peer-discovery", "--disable-quic"]);
        command.args(if self.tun { ["--tun-name", "hwire0"].as_slice() } else { ["--no-tun"].as_slice() });
        let others = (0..HOSTS).filter(|peer| self.calls_others && *peer != host);
        let peers: Vec<_> = match self.round_trip.is_zero() {
            true => others.map(|peer| format!("tcp://{}:9651", underlay(peer))).collect(),
            false => (0..host).map(|peer| format!("tcp://{}", slow_link(host, peer))).collect(),
        };
        if !peers.is_empty() {
            command.arg("--peers").args(peers);
        }
        let child = command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        self.daemons.lock().unwrap()[host] = Some(child);
    }

    fn kill(&self, host: usize) {
        let child = self.daemons.lock().unwrap()[host].take();
        if let Some(mut child) = child {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Removes everything, also what a run that was killed left behind.
    fn down(&self) {
        for host in 0..HOSTS {
            self.kill(host);
            try_ip(&format!("netns del {}", space(host)));
            try_ip(&format!("link del hwirev{host}"));
        }
        try_ip(&format!("link del {BRIDGE}"));
    }
}

impl Drop for RealMesh {
    fn drop(&mut self) {
        self.down();
    }
}

fn space(host: usize) -> String {
    format!("hwire{host}")
}

/// The address of a real host below the overlay.
pub(super) fn underlay(host: usize) -> String {
    format!("10.81.0.{}", host + 1)
}

/// Where the slow link from a host to another one begins: on the machine itself, at the bridge.
fn slow_link(host: usize, peer: usize) -> String {
    format!("{}:{}", underlay(HOSTS), 9700 + 10 * host + peer)
}

fn ip(arguments: &str) {
    let done = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(done.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&done.stderr));
}

fn try_ip(arguments: &str) {
    _ = Command::new("ip").args(arguments.split(' ')).stderr(Stdio::null()).status();
}
