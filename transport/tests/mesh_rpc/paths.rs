//! The choice of a path, and what is done when one fails.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use horus_keys::{NodeAnnouncement, Role, Timestamp, Trust, TrustPolicy, TrustedKey};
use horus_transport::simulator::{Faults, MeshSimulator};
use horus_transport::*;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::service::{self, Count, RingParams, WaitBell, Who};
use crate::world::until;

const TOPIC: &str = service::TOPIC;
/// New calls go by another path within that time: docs/MESH.md.
const FAILOVER: Duration = Duration::from_secs(2);

/// A caller on host 0, and nodes on the others that serve messages and plain HTTP.
struct Hosts {
    simulator: MeshSimulator,
    caller: Mesh,
    nodes: Vec<Node>,
    _files: TempDir,
}

struct Node {
    mesh: Mesh,
    state: Arc<service::State>,
    http: SocketAddr,
    stop_http: CancellationToken,
    stop_topic: CancellationToken,
}

impl Hosts {
    async fn start(count: usize, mode: TransportMode) -> Self {
        let faults = Faults { delay: Duration::from_millis(2), ..Faults::default() };
        let simulator = MeshSimulator::start(count + 1, faults).await.unwrap();
        let files = tempfile::tempdir().unwrap();
        let keys = (0..count).map(|n| TrustedKey {
            id: service::state(100 + n as u8).me.peer_id(),
            name: None,
            roles: vec![Role::Supervisor],
            runners: Vec::new(),
        });
        let trust = Trust::new(TrustPolicy { keys: keys.collect(), ..TrustPolicy::default() });
        let options = |n: usize| MeshOptions {
            daemon_url: simulator.node(n).rpc_url().parse().unwrap(),
            mode,
            trust: trust.clone(),
            http: ClientOptions { allow_plain: true, ..ClientOptions::default() },
            ..MeshOptions::new(files.path().join(n.to_string()))
        };
        let caller = Mesh::start(options(0)).await;
        let mut nodes = Vec::new();
        for n in 0..count {
            let mesh = Mesh::start(options(n + 1)).await;
            let mut state = service::state(100 + n as u8);
            state.mesh_public_key = mesh.mesh_public_key();
            let state = Arc::new(state);
            let dispatcher = service::dispatcher(&state);
            let listen = vec!["127.0.0.1:0".parse().unwrap()];
            let server = RpcServer::bind(dispatcher.clone(), ServerOptions { listen, ..ServerOptions::default() });
            let server = server.await.unwrap();
            let http = server.local_addrs()[0];
            let (stop_http, stop_topic) = (CancellationToken::new(), CancellationToken::new());
            tokio::spawn(server.serve(stop_http.clone()));
            mesh.serve(TOPIC, dispatcher, stop_topic.clone()).await.unwrap();
            let served = mesh.clone();
            until("the topic is served", || async {
                served.status().await.topics.iter().any(|topic| topic.state == ServiceState::Forwarded)
            })
            .await;
            nodes.push(Node { mesh, state, http, stop_http, stop_topic });
        }
        Self { simulator, caller, nodes, _files: files }
    }

    /// The caller learns the announcements of all nodes.
    fn announce(&self, with_http: bool) {
        for node in &self.nodes {
            let addresses = if with_http { vec![format!("http://{}", node.http)] } else { Vec::new() };
            node.state.addresses.set(addresses.clone()).unwrap();
            let announcement = NodeAnnouncement {
                roles: vec![Role::Supervisor],
                topics: vec![TOPIC.into()],
                runners: Vec::new(),
                addresses,
                mesh_public_key: node.mesh.mesh_public_key(),
                sealing_public_key: None,
                expires_at: Timestamp::now() + Duration::from_secs(600),
            };
            let peer = self.caller.learn(&announcement.sign(&node.state.me)).unwrap();
            assert_eq!(peer, node.state.me.peer_id());
        }
    }

    fn client(&self, address: &str) -> RpcClient {
        let carriers = Some(Arc::new(self.caller.clone()) as Arc<dyn CarrierFactory>);
        let options = ClientOptions { identity: Some(service::friend()), carriers, ..ClientOptions::default() };
        RpcClient::connect(address.parse().unwrap(), options).unwrap()
    }

    fn address(&self, node: usize) -> String {
        format!("mycelium://{}/{TOPIC}", self.nodes[node].mesh.mesh_public_key().unwrap())
    }

    async fn path(&self) -> Option<PathKind> {
        self.caller.status().await.nodes[0].path
    }

    async fn end(self) {
        self.caller.shutdown().await;
        for node in self.nodes {
            node.stop_http.cancel();
            node.mesh.shutdown().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_go_by_http_while_messages_fail_and_come_back_by_themselves() {
    let hosts = Hosts::start(1, TransportMode::Auto).await;
    hosts.announce(true);
    let client = hosts.client(&hosts.address(0));
    client.call::<Count>(&NoParams {}).await.unwrap();
    assert_eq!(hosts.path().await, Some(PathKind::Messages), "messages are preferred to plain HTTP");
    // The shortest of some times is the path's; what a busy machine adds is not.
    for attempt in 1..=3 {
        tokio::time::sleep(Duration::from_secs(4)).await;
        hosts.simulator.node(1).cut();
        let begin = Instant::now();
        client.call::<Count>(&NoParams {}).await.unwrap();
        let took = begin.elapsed();
        // The other path is called while there is doubt; later there is none.
        until("the path that failed is given up", || async { hosts.path().await == Some(PathKind::Http) }).await;
        if took < FAILOVER {
            break;
        }
        assert!(attempt < 3, "{took:?}");
        hosts.simulator.node(1).heal();
        until("calls go by message again", || async { hosts.path().await == Some(PathKind::Messages) }).await;
    }
    let mut skipped = Vec::new();
    for _ in 0..5 {
        let begin = Instant::now();
        client.call::<Count>(&NoParams {}).await.unwrap();
        skipped.push(begin.elapsed());
    }
    // Sooner than there could be doubt about it.
    assert!(skipped.iter().min() < Some(&Duration::from_millis(700)), "the path that failed is skipped: {skipped:?}");
    let status = hosts.caller.status().await;
    let failed = status.nodes[0].paths.iter().find(|path| path.path == PathKind::Messages).unwrap();
    assert_eq!(failed.up, Some(false));
    assert!(failed.last_error.as_ref().unwrap().contains("PEER_UNREACHABLE"), "{failed:?}");
    hosts.simulator.node(1).heal();
    until("calls go by message again", || async { hosts.path().await == Some(PathKind::Messages) }).await;
    let before = hosts.simulator.messages();
    client.call::<Count>(&NoParams {}).await.unwrap();
    assert!(hosts.simulator.messages() > before);
    hosts.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_local_daemon_that_dies_is_no_matter_where_http_works() {
    let hosts = Hosts::start(1, TransportMode::Auto).await;
    hosts.announce(true);
    let client = hosts.client(&hosts.address(0));
    client.call::<Count>(&NoParams {}).await.unwrap();
    for attempt in 1..=3 {
        hosts.simulator.node(0).stop().await;
        let begin = Instant::now();
        client.call::<Count>(&NoParams {}).await.unwrap();
        let took = begin.elapsed();
        if took < FAILOVER {
            break;
        }
        assert!(attempt < 3, "{took:?}");
        hosts.simulator.node(0).start().unwrap();
        until("calls go by message again", || async { hosts.path().await == Some(PathKind::Messages) }).await;
    }
    hosts.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forced_transport_is_kept_to() {
    let hosts = Hosts::start(1, TransportMode::Http).await;
    hosts.announce(true);
    let client = hosts.client(&hosts.address(0));
    let before = hosts.simulator.messages();
    client.call::<Count>(&NoParams {}).await.unwrap();
    assert_eq!(hosts.simulator.messages(), before);
    hosts.end().await;

    let hosts = Hosts::start(1, TransportMode::Messages).await;
    hosts.announce(true);
    let client = hosts.client(&hosts.address(0));
    hosts.nodes[0].stop_topic.cancel();
    until("the topic is served no more", || async { hosts.nodes[0].mesh.status().await.topics.is_empty() }).await;
    assert_eq!(client.call::<Count>(&NoParams {}).await.unwrap_err().kind, ErrorKind::NoService);
    hosts.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_large_for_messages_goes_by_http() {
    let hosts = Hosts::start(1, TransportMode::Auto).await;
    hosts.announce(true);
    let client = hosts.client(&hosts.address(0));
    let text = "x".repeat(3 << 20);
    let params = service::EchoParams { text: text.clone(), pause_ms: 0 };
    assert_eq!(client.call::<service::Echo>(&params).await.unwrap(), text);
    hosts.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_role_of_the_host_is_not_taken_for_the_one_that_is_meant() {
    let hosts = Hosts::start(2, TransportMode::Http).await;
    // The first node announces the HTTP address of the second one.
    let announcement = NodeAnnouncement {
        roles: vec![Role::Supervisor],
        topics: vec![TOPIC.into()],
        runners: Vec::new(),
        addresses: vec![format!("http://{}", hosts.nodes[1].http)],
        mesh_public_key: hosts.nodes[0].mesh.mesh_public_key(),
        sealing_public_key: None,
        expires_at: Timestamp::now() + Duration::from_secs(600),
    };
    hosts.caller.learn(&announcement.sign(&hosts.nodes[0].state.me)).unwrap();
    let pinned = format!("{}#{}", hosts.address(0), hosts.nodes[0].state.me.peer_id());
    let error = hosts.client(&pinned).call::<Count>(&NoParams {}).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::UntrustedSigner, "{error}");
    hosts.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_reaches_a_live_node_and_another_when_that_dies() {
    let hosts = Hosts::start(3, TransportMode::Auto).await;
    let client = hosts.client(&format!("topic:{TOPIC}"));
    assert_eq!(client.call::<Who>(&NoParams {}).await.unwrap_err().kind, ErrorKind::NoService);
    hosts.announce(false);
    assert_eq!(hosts.caller.serving(TOPIC).len(), 3);
    client.call::<Count>(&NoParams {}).await.unwrap();
    let first = client.peer().await.unwrap();
    for _ in 0..5 {
        client.call::<Count>(&NoParams {}).await.unwrap();
    }
    let at = hosts.nodes.iter().position(|node| node.state.me.peer_id() == first).unwrap();
    assert_eq!(hosts.nodes[at].state.counted.load(std::sync::atomic::Ordering::SeqCst), 6, "it keeps to one");
    hosts.simulator.node(at + 1).cut();
    client.call::<Count>(&NoParams {}).await.unwrap();
    assert_ne!(client.peer().await.unwrap(), first);
    hosts.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_one_path_may_have_brought_is_not_said_to_have_stayed_here() {
    let mut hosts = Hosts::start(1, TransportMode::Auto).await;
    // Where it says that it listens, nobody does.
    hosts.nodes[0].http = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    hosts.announce(true);
    let client = hosts.client(&hosts.address(0));
    client.call::<Count>(&NoParams {}).await.unwrap();
    assert_eq!(hosts.path().await, Some(PathKind::Messages));
    let before = hosts.simulator.messages();
    let call = tokio::spawn(async move {
        client
            .call_with_timeout::<WaitBell>(&RingParams { rings: 1, timeout_ms: 60_000 }, Duration::from_secs(60))
            .await
    });
    until("the call is there", || async { hosts.simulator.messages() > before }).await;
    hosts.simulator.node(0).stop().await;
    let error = call.await.unwrap().unwrap_err();
    assert_ne!(error.get("sent"), Some(&false.into()), "{error:?}");
    hosts.end().await;
}
