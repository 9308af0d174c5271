//! Three nodes, simulated or real, and servers behind their forward sockets.

use std::future::Future;
use std::path::{Path, PathBuf};

use horus_transport::simulator::{Faults, MeshSimulator};
use serde_json::json;
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;

use crate::client::Daemon;
use crate::real::RealMesh;

/// How many nodes a mesh has.
pub(crate) const NODES: usize = 3;

pub(crate) struct Mesh {
    pub(crate) nodes: Vec<Daemon>,
    kind: Kind,
    sockets: TempDir,
}

enum Kind {
    Simulated(MeshSimulator),
    Real(RealMesh),
}

impl Mesh {
    pub(crate) async fn simulated() -> Self {
        let mesh = MeshSimulator::start(NODES, Faults::default()).await.unwrap();
        Self::of_simulator(mesh)
    }

    pub(crate) fn of_simulator(mesh: MeshSimulator) -> Self {
        let nodes = mesh.nodes().iter();
        let nodes =
            nodes.map(|n| Daemon::new(n.rpc_url(), n.overlay_address(), n.mesh_public_key().to_string())).collect();
        Self { nodes, kind: Kind::Simulated(mesh), sockets: tempfile::tempdir().unwrap() }
    }

    /// None if there is no binary, or no way to run it here.
    pub(crate) async fn real() -> Option<Self> {
        let mesh = RealMesh::up(NODES).await?;
        Some(Self { nodes: mesh.daemons(), kind: Kind::Real(mesh), sockets: tempfile::tempdir().unwrap() })
    }

    pub(crate) fn simulator(&self) -> &MeshSimulator {
        match &self.kind {
            Kind::Simulated(mesh) => mesh,
            Kind::Real(_) => panic!("only for the simulator"),
        }
    }

    /// Empties all inboxes of what the check before left.
    pub(crate) async fn drain(&self) {
        for node in &self.nodes {
            while !node.call("popMessage", json!([])).await.is_null() {}
        }
    }

    pub(crate) fn cut(&self, node: usize) {
        match &self.kind {
            Kind::Simulated(mesh) => mesh.node(node).cut(),
            Kind::Real(mesh) => mesh.cut(node),
        }
    }

    pub(crate) fn heal(&self, node: usize) {
        match &self.kind {
            Kind::Simulated(mesh) => mesh.node(node).heal(),
            Kind::Real(mesh) => mesh.heal(node),
        }
    }

    pub(crate) async fn stop(&self, node: usize) {
        match &self.kind {
            Kind::Simulated(mesh) => mesh.node(node).stop().await,
            Kind::Real(mesh) => mesh.stop(node),
        }
    }

    pub(crate) async fn start(&self, node: usize) {
        match &self.kind {
            Kind::Simulated(mesh) => mesh.node(node).start().unwrap(),
            Kind::Real(mesh) => mesh.start(node).await,
        }
    }

    /// A path for a forward socket.
    pub(crate) fn socket(&self, name: &str) -> PathBuf {
        self.sockets.path().join(name)
    }

    /// Lets `handler` have every connection that the daemon makes to a socket of that name.
    pub(crate) fn listen<F>(&self, name: &str, handler: impl Fn(UnixStream) -> F + Send + 'static) -> Server
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let path = self.socket(name);
        let listener = UnixListener::bind(&path).unwrap();
        let task = tokio::spawn(async move {
            loop {
                let (connection, _) = listener.accept().await.unwrap();
                tokio::spawn(handler(connection));
            }
        });
        Server { path, task }
    }
}

/// Listens until it is dropped.
pub(crate) struct Server {
    path: PathBuf,
    task: JoinHandle<()>,
}

impl Server {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Reads a message up to its newline: the connection itself does not end.
pub(crate) async fn read_line(connection: &mut UnixStream) -> String {
    let mut line = Vec::new();
    loop {
        match connection.read_u8().await.unwrap() {
            b'\n' => return String::from_utf8(line).unwrap(),
            byte => line.push(byte),
        }
    }
}
