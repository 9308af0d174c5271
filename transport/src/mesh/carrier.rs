//! The client's side: from an address to a route, call by call.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use futures::FutureExt;
use futures::future::BoxFuture;
use horus_keys::{PeerId, Timestamp};
use tokio::time::Instant;

use super::Shared;
use super::known::KnownNode;
use super::path::is_path_failure;
use super::peer::Outcome;
use super::route::{Route, Target};
use crate::address::{Address, Host};
use crate::carrier::{Carrier, Outbound};
use crate::error::{ErrorKind, RpcError};
use crate::mesh::NodeStatus;

/// Nodes of a topic that are tried for one call.
const MAX_NODES: usize = 3;

/// Takes requests to one host.
pub(super) struct HostCarrier {
    pub(super) shared: Arc<Shared>,
    pub(super) host: Host,
    pub(super) topic: String,
    pub(super) pin: Option<PeerId>,
}

impl HostCarrier {
    /// Where the host is, as of what is announced now.
    pub(super) fn target(&self) -> Target {
        let (ip, key) = match self.host {
            Host::Overlay(ip) => (ip, None),
            Host::Mesh(key) => (key.overlay_address(), Some(key)),
            Host::Peer(peer) => {
                // A node's announcement names the daemon that it lives at; the key of a host makes it.
                let node = self.shared.known.node(peer, Timestamp::now());
                let key = node.and_then(|node| node.announcement.mesh_public_key);
                let key = key.unwrap_or_else(|| peer.mesh_public_key());
                (key.overlay_address(), Some(key))
            }
        };
        Target { ip, key, topic: self.topic.clone(), pin: self.pin }
    }
}

impl Carrier for HostCarrier {
    fn send(&self, request: Outbound) -> BoxFuture<'_, Outcome> {
        async move { self.shared.route(self.target()).send(request).await }.boxed()
    }

    fn status(&self) -> Option<NodeStatus> {
        Some(NodeStatus::of(&self.shared.route(self.target()), &self.shared))
    }

    fn recovered(&self) -> BoxFuture<'_, ()> {
        let route = self.shared.route(self.target());
        async move { route.recovered().await }.boxed()
    }
}

/// Takes requests to any node that serves a topic: always the same, until it fails, since calls are
/// signed for one.
pub(super) struct TopicCarrier {
    pub(super) shared: Arc<Shared>,
    pub(super) topic: String,
    pub(super) chosen: Mutex<Option<PeerId>>,
}

impl TopicCarrier {
    fn chosen(&self) -> Option<PeerId> {
        *self.chosen.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn choose(&self, peer: Option<PeerId>) {
        *self.chosen.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = peer;
    }

    /// The nodes to try: the one that was chosen, then the least loaded ones first.
    fn candidates(&self) -> Vec<(Arc<KnownNode>, Arc<Route>)> {
        let nodes = self.shared.known.serving(&self.topic, Timestamp::now());
        let chosen = self.chosen();
        let mut candidates: Vec<_> = nodes
            .into_iter()
            .filter_map(|node| {
                let key = node.announcement.mesh_public_key?;
                let (topic, pin) = (self.topic.clone(), Some(node.peer_id));
                let route = self.shared.route(Target { ip: key.overlay_address(), key: Some(key), topic, pin });
                Some((node, route))
            })
            .collect();
        candidates.sort_by_key(|(node, route)| {
            let load = route.outstanding.load(Ordering::Relaxed);
            (Some(node.peer_id) != chosen, !route.seems_well(), load, route.latency(), node.peer_id)
        });
        candidates.truncate(MAX_NODES);
        candidates
    }

    async fn exchange(&self, request: Outbound) -> Outcome {
        let mut last = None;
        for (node, route) in self.candidates() {
            match route.send(request.clone()).await {
                Err(e) if is_path_failure(e.kind) && Instant::now() < request.deadline => {
                    self.choose(None);
                    last = Some(e);
                }
                outcome => {
                    self.choose(Some(node.peer_id));
                    return outcome;
                }
            }
        }
        Err(last.unwrap_or_else(|| {
            RpcError::new(
                ErrorKind::NoService,
                format!(
                    "no trusted live node that serves topic:{} is known here: start one with --coordinator ADDRESS, \
                     so that it announces itself, and trust its key; or name a node by its address",
                    self.topic
                ),
            )
            .with("topic", self.topic.as_str())
        }))
    }
}

impl Carrier for TopicCarrier {
    fn send(&self, request: Outbound) -> BoxFuture<'_, Outcome> {
        self.exchange(request).boxed()
    }

    fn status(&self) -> Option<NodeStatus> {
        self.candidates().first().map(|(_, route)| NodeStatus::of(route, &self.shared))
    }
}

/// The carrier for an address.
pub(super) fn carrier(shared: &Arc<Shared>, address: &Address) -> Result<Arc<dyn Carrier>, RpcError> {
    let shared = Arc::clone(shared);
    match address {
        Address::Mycelium { host, topic, pin } => {
            let topic = topic.clone().unwrap_or_else(|| shared.options.default_topic.clone());
            Ok(Arc::new(HostCarrier { shared, host: *host, topic, pin: *pin }))
        }
        Address::Topic { topic } => {
            Ok(Arc::new(TopicCarrier { shared, topic: topic.clone(), chosen: Mutex::new(None) }))
        }
        Address::Http { url, .. } => {
            Err(RpcError::new(ErrorKind::NoService, format!("{url} is no address of the mesh: call it over HTTP")))
        }
    }
}
