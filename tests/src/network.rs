//! Machines that are network namespaces, joined by a bridge, whose connections can be cut: nothing arrives any more, and nobody
//! is told.
//!
//! A namespace lives as long as the process that was started in it, which ends when the test does, however that ends: nothing is
//! left behind. Only root may make any.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use super::process::Running;

/// A MAC address that nobody has.
const NOBODY: &str = "02:00:00:00:00:99";

/// Some machines on one bridge, which the test reaches too.
#[derive(Debug)]
pub struct Network {
    bridge: Node,
    subnet: String,
    nodes: u32,
}

/// A machine.
#[derive(Debug)]
pub struct Node {
    holder: Child,
    address: String,
}

impl Network {
    /// A network without machines; `None` where one may not make namespaces, or there is no `ip`.
    ///
    /// # Panics
    /// It can be begun but not finished.
    pub fn new() -> Option<Self> {
        let bridge = Node::hold(String::new())?;
        if !bridge.ip(&["link", "add", "br0", "type", "bridge"]) {
            return None;
        }
        assert!(bridge.ip(&["link", "set", "dev", "br0", "up"]));
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let (me, taken) = (std::process::id(), Command::new("ip").args(["-4", "-br", "addr"]).output().ok()?);
        let taken = String::from_utf8_lossy(&taken.stdout).into_owned();
        // A range that RFC 2544 sets apart for tests.
        let subnet = (0..200).map(|k| format!("198.18.{}", 1 + (me.wrapping_mul(7) + n * 41 + k) % 250));
        let subnet = subnet.into_iter().find(|subnet| !taken.contains(&format!("{subnet}.")))?;
        let network = Self { bridge, subnet, nodes: 0 };
        let (name, address) = (format!("hs{me}x{n}"), format!("{}.254/24", network.subnet));
        let pid = me.to_string();
        assert!(network.bridge.ip(&["link", "add", "test", "type", "veth", "peer", "name", &name, "netns", &pid]));
        assert!(network.bridge.ip(&["link", "set", "dev", "test", "master", "br0", "up"]));
        assert!(run(Command::new("ip").args(["addr", "add", &address, "dev", &name])));
        assert!(run(Command::new("ip").args(["link", "set", "dev", &name, "up"])));
        Some(network)
    }

    /// One more machine.
    ///
    /// # Panics
    /// It cannot be made.
    pub fn node(&mut self) -> Node {
        self.nodes += 1;
        let (port, address) = (format!("n{}", self.nodes), format!("{}.{}", self.subnet, self.nodes));
        let node = Node::hold(address).expect("a namespace could be made before");
        let pid = node.holder.id().to_string();
        assert!(self.bridge.ip(&["link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &pid]));
        assert!(self.bridge.ip(&["link", "set", "dev", &port, "master", "br0", "up"]));
        assert!(node.ip(&["addr", "add", &format!("{}/24", node.address), "dev", "eth0"]));
        assert!(node.ip(&["link", "set", "dev", "eth0", "up"]));
        assert!(node.ip(&["link", "set", "dev", "lo", "up"]));
        node
    }

    /// Cuts the connection between two machines, in both directions.
    ///
    /// # Panics
    /// It cannot be cut.
    pub fn cut(&self, a: &Node, b: &Node) {
        for (from, to) in [(a, b), (b, a)] {
            // What is sent goes to a machine that does not exist, as far as anybody can see.
            let gone = from.ip(&["neigh", "replace", &to.address, "lladdr", NOBODY, "dev", "eth0", "nud", "permanent"]);
            assert!(gone, "{} is cut off from {}", from.address, to.address);
        }
    }

    /// Joins them again.
    ///
    /// # Panics
    /// They cannot be joined.
    pub fn mend(&self, a: &Node, b: &Node) {
        for (from, to) in [(a, b), (b, a)] {
            assert!(from.ip(&["neigh", "del", &to.address, "dev", "eth0"]));
        }
    }
}

impl Node {
    fn hold(address: String) -> Option<Self> {
        let mut unshare = Command::new("unshare");
        // It ends when its standard input does.
        unshare.args(["--net", "cat"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut node = Self { holder: unshare.spawn().ok()?, address };
        let deadline = Instant::now() + Duration::from_secs(10);
        let (own, pid) = (std::fs::read_link("/proc/self/ns/net").ok()?, node.holder.id());
        while std::fs::read_link(format!("/proc/{pid}/ns/net")).is_ok_and(|ns| ns == own) {
            if node.holder.try_wait().is_ok_and(|ended| ended.is_some()) || Instant::now() >= deadline {
                return None;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        node.holder.try_wait().is_ok_and(|ended| ended.is_none()).then_some(node)
    }

    /// Its address.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The command, to be run on this machine.
    pub fn command(&self, command: &Command) -> Command {
        let mut inside = Command::new("nsenter");
        inside.args(["--target", &self.holder.id().to_string(), "--net", "--"]);
        inside.arg(command.get_program()).args(command.get_args()).stdin(Stdio::null());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => inside.env(name, value),
                None => inside.env_remove(name),
            };
        }
        inside
    }

    /// Starts a command there and leaves it running.
    ///
    /// # Panics
    /// It cannot be started.
    pub fn start(&self, command: &Command, log: &Path) -> Running {
        Running::start(&mut self.command(command), log)
    }

    fn ip(&self, args: &[&str]) -> bool {
        run(&mut self.command(Command::new("ip").args(args)))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

fn run(command: &mut Command) -> bool {
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}
