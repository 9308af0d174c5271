//! Two hosts and what lies between them: plain HTTP, a simulated mesh, or real daemons.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use horus_transport::simulator::{Faults, MeshSimulator};
use horus_transport::*;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::real::RealMesh;
use crate::service::{self, State, TOPIC};

pub(crate) struct World {
    pub(crate) state: Arc<State>,
    pub(crate) address: Address,
    kind: Kind,
    pub(crate) caller: Option<Mesh>,
    pub(crate) callee: Option<Mesh>,
    stop: CancellationToken,
    files: TempDir,
}

enum Kind {
    Http,
    Simulated(MeshSimulator),
    Real(Arc<RealMesh>),
}

impl World {
    pub(crate) async fn http() -> Self {
        let state = Arc::new(service::state(10));
        let options = ServerOptions { listen: vec!["127.0.0.1:0".parse().unwrap()], ..ServerOptions::default() };
        let server = RpcServer::bind(service::dispatcher(&state), options).await.unwrap();
        let address = format!("http://{}", server.local_addrs()[0]).parse().unwrap();
        let stop = CancellationToken::new();
        tokio::spawn(server.serve(stop.clone()));
        let files = tempfile::tempdir().unwrap();
        Self { state, address, kind: Kind::Http, caller: None, callee: None, stop, files }
    }

    pub(crate) async fn simulated() -> Self {
        Self::simulated_with(Faults { delay: Duration::from_millis(2), ..Faults::default() }).await
    }

    pub(crate) async fn simulated_with(faults: Faults) -> Self {
        Self::simulated_among(2, faults).await
    }

    /// On the first two hosts of a mesh of so many.
    pub(crate) async fn simulated_among(hosts: usize, faults: Faults) -> Self {
        let simulator = MeshSimulator::start(hosts, faults).await.unwrap();
        let urls = simulator.nodes().iter().map(horus_transport::simulator::SimulatedNode::rpc_url).collect();
        Self::over(Kind::Simulated(simulator), urls, true).await
    }

    /// A callee whose daemon is polled, since it cannot reach the socket.
    pub(crate) async fn polled() -> Self {
        let simulator = MeshSimulator::start(2, Faults::default()).await.unwrap();
        let urls = simulator.nodes().iter().map(horus_transport::simulator::SimulatedNode::rpc_url).collect();
        Self::over(Kind::Simulated(simulator), urls, false).await
    }

    pub(crate) async fn real(mesh: &Arc<RealMesh>) -> Self {
        let urls = mesh.daemons().into_iter().map(|daemon| daemon.url).collect();
        Self::over(Kind::Real(Arc::clone(mesh)), urls, true).await
    }

    async fn over(kind: Kind, urls: Vec<String>, forward: bool) -> Self {
        let files = tempfile::tempdir().unwrap();
        let options = |node: usize| MeshOptions {
            daemon_url: urls[node].parse().unwrap(),
            forward: Some(forward),
            mode: TransportMode::Messages,
            trust: service::policy(&service::state(10).me),
            ..MeshOptions::new(files.path().join(node.to_string()))
        };
        let (caller, callee) = (Mesh::start(options(0)).await, Mesh::start(options(1)).await);
        let mut state = service::state(10);
        state.mesh_public_key = callee.mesh_public_key();
        let state = Arc::new(state);
        let stop = CancellationToken::new();
        callee.serve(TOPIC, service::dispatcher(&state), stop.clone()).await.unwrap();
        let address = format!("mycelium://{}/{TOPIC}", callee.mesh_public_key().unwrap()).parse().unwrap();
        let world = Self { state, address, kind, caller: Some(caller), callee: Some(callee), stop, files };
        world.served().await;
        world
    }

    /// Until the topic is registered.
    pub(crate) async fn served(&self) {
        let callee = self.callee.as_ref().unwrap();
        until("the topic is served", || async {
            callee
                .status()
                .await
                .topics
                .iter()
                .any(|topic| matches!(topic.state, ServiceState::Forwarded | ServiceState::Polled))
        })
        .await;
    }

    pub(crate) fn client(&self) -> RpcClient {
        self.client_of(Some(service::friend()))
    }

    /// One that pushes a message a call.
    pub(crate) fn raw_client(&self) -> RpcClient {
        let carriers: Arc<dyn CarrierFactory> = Arc::new(self.caller.as_ref().unwrap().raw());
        let options = ClientOptions { identity: Some(service::friend()), ..ClientOptions::default() };
        RpcClient::connect(self.address.clone(), ClientOptions { carriers: Some(carriers), ..options }).unwrap()
    }

    pub(crate) fn client_of(&self, identity: Option<horus_keys::Identity>) -> RpcClient {
        self.client_with(ClientOptions { identity, ..ClientOptions::default() })
    }

    pub(crate) fn client_with(&self, options: ClientOptions) -> RpcClient {
        let carriers = self.caller.clone().map(|mesh| Arc::new(mesh) as Arc<dyn CarrierFactory>);
        RpcClient::connect(self.address.clone(), ClientOptions { carriers, ..options }).unwrap()
    }

    pub(crate) fn simulator(&self) -> Option<&MeshSimulator> {
        match &self.kind {
            Kind::Simulated(simulator) => Some(simulator),
            _ => None,
        }
    }

    /// Messages and replies so far, of the caller and of the callee.
    pub(crate) async fn messages(&self) -> u64 {
        match &self.kind {
            Kind::Simulated(simulator) => simulator.messages(),
            _ => {
                let status = self.caller.as_ref().unwrap().status().await;
                status.messages_sent + status.replies_received
            }
        }
    }

    pub(crate) fn cut(&self) {
        match &self.kind {
            Kind::Simulated(simulator) => simulator.node(1).cut(),
            Kind::Real(mesh) => mesh.cut(1),
            Kind::Http => panic!("HTTP is not cut"),
        }
    }

    pub(crate) fn heal(&self) {
        match &self.kind {
            Kind::Simulated(simulator) => simulator.node(1).heal(),
            Kind::Real(mesh) => mesh.heal(1),
            Kind::Http => {}
        }
    }

    pub(crate) async fn stop_daemon(&self, node: usize) {
        match &self.kind {
            Kind::Simulated(simulator) => simulator.node(node).stop().await,
            Kind::Real(mesh) => mesh.stop(node),
            Kind::Http => panic!("HTTP has no daemon"),
        }
    }

    pub(crate) async fn start_daemon(&self, node: usize) {
        match &self.kind {
            Kind::Simulated(simulator) => simulator.node(node).start().unwrap(),
            Kind::Real(mesh) => mesh.start(node).await,
            Kind::Http => panic!("HTTP has no daemon"),
        }
    }

    /// The socket that the callee's daemon hands messages to.
    pub(crate) fn socket(&self) -> std::path::PathBuf {
        self.files.path().join("1").join(format!("{TOPIC}.sock"))
    }

    pub(crate) fn counted(&self) -> u32 {
        self.state.counted.load(Ordering::SeqCst)
    }

    pub(crate) async fn end(self) {
        self.stop.cancel();
        for mesh in [&self.caller, &self.callee].into_iter().flatten() {
            mesh.shutdown().await;
        }
    }
}

/// Waits until something is so, for 30 s at most.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, is_so: impl Fn() -> F) {
    for _ in 0..600 {
        if is_so().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{what}: not within 30 s");
}
