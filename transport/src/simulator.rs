//! A mesh of simulated mycelium daemons in one process, for tests.
//!
//! Every node speaks the daemon's JSON-RPC 2.0 over HTTP at a loopback port of its own, delivers
//! messages to the others, and behaves as mycelium 0.7.10 was read and measured to, with its quirks:
//!
//! - A popMessage that waits holds up every other API call of that node. At most 100 API requests are
//!   served at a time; more get HTTP 429, whatever they ask. Bodies are limited to 10 MiB.
//! - A forward socket gets the bare payload and no end of file; what it answers until it closes is the
//!   reply. If it is missing or closes without a word, the message falls into the inbox.
//! - A reply that comes too late falls into the inbox under the empty topic. pushMessage then says
//!   nothing but the message's id.
//! - A message that the topic's sources refuse looks like one that never got there: `pending`. So does
//!   one to the node's own address.
//! - A reply is taken from anybody who knows the message's id.
//! - Topics, sockets and inbox are gone after a restart.
//!
//! What goes wrong is told by [`Faults`] and by the nodes' methods. Not simulated: the daemon's growing
//! slowness with the number of messages, overlay IP traffic, peers that come and go, the REST API, and
//! that the real daemon takes seconds to notice that another is gone.
//!
//! ```
//! # #[tokio::main] async fn main() -> std::io::Result<()> {
//! use horus_transport::simulator::{Faults, MeshSimulator};
//!
//! let mesh = MeshSimulator::start(2, Faults::default()).await?;
//! let [a, b] = mesh.nodes() else { unreachable!("two were asked for") };
//! println!("the daemon of {} listens at {}", a.overlay_address(), a.rpc_url());
//! b.cut();
//! # Ok(()) }
//! ```

mod api;
mod daemon;
mod faults;
mod mesh;
mod params;
mod slow_link;
mod topics;
mod traffic;
mod transmit;
mod wire;

use std::fmt;
use std::io;
use std::net::Ipv6Addr;
use std::sync::Arc;

use horus_keys::{Identity, MeshPublicKey};

pub use faults::Faults;
pub use slow_link::SlowLink;
pub use traffic::Traffic;

use daemon::lock;
use mesh::{Host, Mesh};

/// A mesh whose nodes all reach each other. Dropping it stops all daemons.
pub struct MeshSimulator {
    mesh: Arc<Mesh>,
    nodes: Vec<SimulatedNode>,
}

/// A host of the mesh with its daemon. Cheap to clone; all clones are the same node.
#[derive(Clone)]
pub struct SimulatedNode {
    mesh: Arc<Mesh>,
    index: usize,
}

impl MeshSimulator {
    /// Starts a mesh of that many nodes, with the keys of [`MeshSimulator::identity`]. Needs a tokio
    /// runtime.
    ///
    /// # Errors
    /// If no port can be had on 127.0.0.1.
    pub async fn start(nodes: usize, faults: Faults) -> io::Result<Self> {
        let keys: Vec<_> = (0..nodes).map(|index| Self::identity(index).peer_id().mesh_public_key()).collect();
        Self::start_with_keys(&keys, faults).await
    }

    /// Starts a mesh with a node for every key.
    ///
    /// # Errors
    /// If no port can be had on 127.0.0.1, or a key is there twice.
    #[expect(clippy::unused_async, reason = "it has to run inside a tokio runtime, and callers await it like the rest")]
    pub async fn start_with_keys(keys: &[MeshPublicKey], faults: Faults) -> io::Result<Self> {
        let mesh = Arc::new(Mesh::new(keys, faults)?);
        let nodes = (0..keys.len()).map(|index| SimulatedNode { mesh: Arc::clone(&mesh), index }).collect();
        let simulator = Self { mesh, nodes };
        for index in 0..keys.len() {
            simulator.mesh.start(index)?;
        }
        Ok(simulator)
    }

    /// The identity of the host with that number in a mesh without keys of its own: no secret at all.
    #[must_use]
    pub fn identity(index: usize) -> Identity {
        let mut seed = *b"horus simulated mesh    ........";
        seed[24..].copy_from_slice(&(index as u64).to_be_bytes());
        Identity::from_seed(&seed)
    }

    /// All nodes.
    #[must_use]
    pub fn nodes(&self) -> &[SimulatedNode] {
        &self.nodes
    }

    /// The node with that number, from 0.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn node(&self, index: usize) -> &SimulatedNode {
        &self.nodes[index]
    }

    /// Other faults for messages sent from now on. The seed of message ids stays.
    pub fn set_faults(&self, faults: Faults) {
        self.mesh.set_faults(faults);
    }

    /// Cuts the wire between two nodes; both still reach all others.
    pub fn cut(&self, a: &SimulatedNode, b: &SimulatedNode) {
        self.mesh.cut_link(a.index, b.index, true);
    }

    /// Mends the wire between two nodes.
    pub fn heal(&self, a: &SimulatedNode, b: &SimulatedNode) {
        self.mesh.cut_link(a.index, b.index, false);
    }

    /// How many messages all nodes sent, replies included.
    #[must_use]
    pub fn messages(&self) -> u64 {
        self.nodes.iter().map(|node| node.traffic().messages).sum()
    }
}

impl Drop for MeshSimulator {
    fn drop(&mut self) {
        for node in &self.nodes {
            self.mesh.kill(node.index);
        }
    }
}

impl SimulatedNode {
    /// Where the daemon's JSON-RPC is: `http://127.0.0.1:PORT`. It stays the same over restarts.
    #[must_use]
    pub fn rpc_url(&self) -> String {
        format!("http://{}", self.host().api)
    }

    /// The address of the host on the overlay. No packet gets there, only messages.
    #[must_use]
    pub fn overlay_address(&self) -> Ipv6Addr {
        self.host().address
    }

    /// The public key of the daemon.
    #[must_use]
    pub fn mesh_public_key(&self) -> MeshPublicKey {
        self.host().key
    }

    /// Kills the daemon: its connections break, its topics, sockets, inbox and unsent messages are
    /// gone, its port refuses connections.
    pub async fn stop(&self) {
        if let Some(daemon) = self.mesh.kill(self.index) {
            daemon.gone().await;
        }
    }

    /// Starts the daemon again, with nothing in its memory. Does nothing if it is running.
    ///
    /// # Errors
    /// If its port cannot be had.
    pub fn start(&self) -> io::Result<()> {
        self.mesh.start(self.index)
    }

    /// Kills the daemon and starts it again.
    ///
    /// # Errors
    /// As [`SimulatedNode::start`].
    pub async fn restart(&self) -> io::Result<()> {
        self.stop().await;
        self.start()
    }

    /// Unplugs the host: nothing gets in or out. Its own programs still reach its daemon.
    pub fn cut(&self) {
        self.mesh.cut_host(self.index, true);
    }

    /// Plugs the host in again. What was sent meanwhile, and not given up, arrives within 100 ms.
    pub fn heal(&self) {
        self.mesh.cut_host(self.index, false);
    }

    /// What the node was made to do so far.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        self.host().traffic.traffic()
    }

    /// How many messages lie in the inbox and wait for a popMessage.
    #[must_use]
    pub fn inbox_len(&self) -> usize {
        self.host().daemon().map_or(0, |daemon| lock(&daemon.inbox).messages.len())
    }

    fn host(&self) -> &Host {
        self.mesh.host(self.index)
    }
}

impl fmt::Debug for SimulatedNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimulatedNode({}, {})", self.overlay_address(), self.host().api)
    }
}

impl fmt::Debug for MeshSimulator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.nodes).finish()
    }
}
