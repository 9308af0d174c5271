//! All hosts, and the wires between them.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use horus_keys::MeshPublicKey;
use tokio::net::{TcpListener, TcpSocket};

use super::api;
use super::daemon::{Daemon, lock};
use super::faults::{Fate, Faults};
use super::traffic::Counts;

/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;

pub(super) struct Mesh {
    hosts: Vec<Host>,
    /// By the upper half of the address: a daemon owns all of its /64.
    by_subnet: HashMap<u64, usize>,
    faults: Mutex<Faults>,
    cut: Mutex<Cuts>,
    /// How many messages went from one host to another.
    sent: Mutex<HashMap<(usize, usize), u64>>,
}

#[derive(Default)]
struct Cuts {
    hosts: HashSet<usize>,
    /// The lower number first.
    links: HashSet<(usize, usize)>,
}

/// A machine with a daemon, that may be running or not.
pub(super) struct Host {
    pub(super) key: MeshPublicKey,
    pub(super) address: Ipv6Addr,
    pub(super) traffic: Counts,
    /// Where the daemon's API is, in every life of it.
    pub(super) api: SocketAddr,
    /// Keeps the port from being given to others while the daemon is down; it never listens.
    _reserved: TcpSocket,
    daemon: Mutex<Option<Arc<Daemon>>>,
    /// When the daemon started last, in seconds since the epoch.
    started: AtomicU64,
}

impl Mesh {
    pub(super) fn new(keys: &[MeshPublicKey], faults: Faults) -> io::Result<Self> {
        let hosts = keys.iter().map(|key| Host::new(*key)).collect::<io::Result<Vec<_>>>()?;
        let by_subnet: HashMap<_, _> =
            hosts.iter().enumerate().map(|(index, host)| (subnet(host.address), index)).collect();
        if by_subnet.len() < hosts.len() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "two hosts of the mesh have the same key"));
        }
        let faults = Mutex::new(faults);
        Ok(Self { hosts, by_subnet, faults, cut: Mutex::default(), sent: Mutex::default() })
    }

    pub(super) fn host(&self, index: usize) -> &Host {
        &self.hosts[index]
    }

    pub(super) fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    pub(super) fn faults(&self) -> Faults {
        lock(&self.faults).clone()
    }

    pub(super) fn set_faults(&self, faults: Faults) {
        *lock(&self.faults) = faults;
    }

    /// The host with that address, or with another of the same /64.
    pub(super) fn find(&self, address: IpAddr) -> Option<usize> {
        match address {
            IpAddr::V4(_) => None,
            IpAddr::V6(ip) => self.by_subnet.get(&subnet(ip)).copied(),
        }
    }

    /// The fate of the next message from one host to another.
    pub(super) fn fate(&self, from: usize, to: usize) -> Fate {
        let number = {
            let mut sent = lock(&self.sent);
            let count = sent.entry((from, to)).or_default();
            *count += 1;
            *count
        };
        Fate::of(&lock(&self.faults), from, to, number)
    }

    /// The daemon over there, if both are running and no wire between them is cut.
    pub(super) fn reachable(&self, from: usize, to: usize) -> Option<Arc<Daemon>> {
        let connected = {
            let cut = lock(&self.cut);
            !cut.hosts.contains(&from) && !cut.hosts.contains(&to) && !cut.links.contains(&link(from, to))
        };
        if connected && self.hosts[from].is_running() { self.hosts[to].daemon() } else { None }
    }

    pub(super) fn cut_host(&self, index: usize, is_cut: bool) {
        let hosts = &mut lock(&self.cut).hosts;
        _ = if is_cut { hosts.insert(index) } else { hosts.remove(&index) };
    }

    pub(super) fn cut_link(&self, a: usize, b: usize, is_cut: bool) {
        let links = &mut lock(&self.cut).links;
        _ = if is_cut { links.insert(link(a, b)) } else { links.remove(&link(a, b)) };
    }

    /// Starts the daemon of a host, unless it is running.
    pub(super) fn start(self: &Arc<Self>, index: usize) -> io::Result<()> {
        let host = &self.hosts[index];
        let mut slot = lock(&host.daemon);
        if slot.is_some() {
            return Ok(());
        }
        let listener = host.listen()?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        // Every life begins in a second of its own, so that a restart shows.
        let started = now.max(host.started.load(Ordering::Relaxed) + 1);
        host.started.store(started, Ordering::Relaxed);
        let daemon = Daemon::start(Arc::clone(self), index, started);
        api::serve(&daemon, listener);
        *slot = Some(daemon);
        Ok(())
    }

    /// Kills the daemon of a host, with all its connections.
    pub(super) fn kill(&self, index: usize) -> Option<Arc<Daemon>> {
        let daemon = lock(&self.hosts[index].daemon).take()?;
        daemon.kill();
        Some(daemon)
    }
}

impl Host {
    fn new(key: MeshPublicKey) -> io::Result<Self> {
        let reserved = TcpSocket::new_v4()?;
        reserved.set_reuseaddr(true)?;
        reserved.bind((Ipv4Addr::LOCALHOST, 0).into())?;
        Ok(Self {
            key,
            address: key.overlay_address(),
            traffic: Counts::default(),
            api: reserved.local_addr()?,
            _reserved: reserved,
            daemon: Mutex::default(),
            started: AtomicU64::new(0),
        })
    }

    fn listen(&self) -> io::Result<TcpListener> {
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind(self.api)?;
        socket.listen(BACKLOG)
    }

    pub(super) fn daemon(&self) -> Option<Arc<Daemon>> {
        lock(&self.daemon).clone()
    }

    pub(super) fn is_running(&self) -> bool {
        lock(&self.daemon).is_some()
    }
}

fn subnet(address: Ipv6Addr) -> u64 {
    (address.to_bits() >> 64) as u64
}

fn link(a: usize, b: usize) -> (usize, usize) {
    (a.min(b), a.max(b))
}
