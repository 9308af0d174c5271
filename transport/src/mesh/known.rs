//! The nodes of the mesh that announced themselves.

use std::net::Ipv6Addr;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use horus_keys::{DocumentError, Envelope, NodeAnnouncement, PeerId, Timestamp, Trust};
use lru::LruCache;

/// Nodes that are remembered; the one that was not used for the longest time goes first.
const MAX_NODES: usize = 4096;
/// No announcement counts for longer, whatever it says: the clock of its node may have been ahead.
const MAX_LIFE: Duration = Duration::from_secs(3600);

/// A node whose announcement was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownNode {
    /// The key that signed the announcement.
    pub peer_id: PeerId,
    /// What it says.
    pub announcement: NodeAnnouncement,
    /// The announcement as signed, to pass on.
    pub envelope: Envelope,
}

impl KnownNode {
    /// The overlay address of its host, if it says which daemon it lives at.
    #[must_use]
    pub fn overlay_address(&self) -> Option<Ipv6Addr> {
        self.announcement.mesh_public_key.map(|key| key.overlay_address())
    }

    fn serves(&self, topic: &str) -> bool {
        self.announcement.topics.iter().any(|served| served == topic)
    }
}

/// An announcement, and until when it counts.
struct Heard {
    node: Arc<KnownNode>,
    until: Timestamp,
}

/// A bounded cache of announcements.
pub(super) struct Known {
    nodes: Mutex<LruCache<PeerId, Heard>>,
    trust: Trust,
    version: AtomicU64,
}

impl Known {
    pub(super) fn new(trust: Trust) -> Self {
        let nodes = NonZeroUsize::new(MAX_NODES).expect("the number of nodes is not zero");
        Self { nodes: Mutex::new(LruCache::new(nodes)), trust, version: AtomicU64::new(1) }
    }

    fn lock(&self) -> MutexGuard<'_, LruCache<PeerId, Heard>> {
        self.nodes.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Checks and remembers an announcement, unless a later one of the same node is known.
    pub(super) fn learn(&self, envelope: &Envelope, now: Timestamp) -> Result<PeerId, DocumentError> {
        let (peer_id, announcement) = NodeAnnouncement::check(envelope, now)?;
        let until = announcement.expires_at.min(now.saturating_add(MAX_LIFE));
        let mut nodes = self.lock();
        let known = nodes.get(&peer_id);
        if known.is_none_or(|known| known.until <= until && known.node.announcement != announcement) {
            let node = Arc::new(KnownNode { peer_id, announcement, envelope: envelope.clone() });
            nodes.put(peer_id, Heard { node, until });
            self.version.fetch_add(1, Ordering::Relaxed);
        }
        Ok(peer_id)
    }

    /// Forgets a node.
    pub(super) fn forget(&self, peer: PeerId) {
        if self.lock().pop(&peer).is_some() {
            self.version.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Changes when something was learnt.
    pub(super) fn version(&self) -> u64 {
        self.version.load(Ordering::Relaxed)
    }

    /// The node with that key, if it announced itself.
    pub(super) fn node(&self, peer: PeerId, now: Timestamp) -> Option<Arc<KnownNode>> {
        self.lock().get(&peer).filter(|heard| heard.until > now).map(|heard| Arc::clone(&heard.node))
    }

    /// All nodes whose announcements have not expired, and that the policy or a certificate knows.
    pub(super) fn trusted(&self, now: Timestamp) -> Vec<Arc<KnownNode>> {
        let mut nodes: Vec<_> = {
            let nodes = self.lock();
            nodes.iter().filter(|(_, heard)| heard.until > now).map(|(_, heard)| Arc::clone(&heard.node)).collect()
        };
        nodes.retain(|node| self.trust.known(node.peer_id, now));
        nodes.sort_by_key(|node| node.peer_id);
        nodes
    }

    /// The trusted nodes that serve the topic in a role that they hold.
    pub(super) fn serving(&self, topic: &str, now: Timestamp) -> Vec<Arc<KnownNode>> {
        let mut nodes = self.trusted(now);
        nodes.retain(|node| {
            let roles = &node.announcement.roles;
            node.serves(topic) && roles.iter().any(|role| self.trust.allows(node.peer_id, *role, now))
        });
        nodes
    }

    /// The trusted nodes of that host which serve the topic.
    pub(super) fn at(&self, ip: Ipv6Addr, topic: &str, now: Timestamp) -> Vec<Arc<KnownNode>> {
        let mut nodes = self.trusted(now);
        nodes.retain(|node| node.overlay_address() == Some(ip) && node.serves(topic));
        nodes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use horus_keys::{Identity, Role, TrustPolicy, TrustedKey};
    use std::time::Duration;

    fn announcement(identity: &Identity, topics: &[&str], expires_at: Timestamp) -> NodeAnnouncement {
        NodeAnnouncement {
            roles: vec![Role::Supervisor],
            topics: topics.iter().map(|topic| (*topic).to_owned()).collect(),
            runners: Vec::new(),
            addresses: Vec::new(),
            mesh_public_key: Some(identity.peer_id().mesh_public_key()),
            sealing_public_key: None,
            expires_at,
        }
    }

    #[test]
    fn only_trusted_live_nodes_serve_a_topic() {
        let now = Timestamp::now();
        let later = now + Duration::from_secs(60);
        let [friend, stranger, wrong] = [(); 3].map(|()| Identity::generate());
        let trusted = |identity: &Identity, role| TrustedKey {
            id: identity.peer_id(),
            name: None,
            roles: vec![role],
            runners: Vec::new(),
        };
        let policy = TrustPolicy {
            keys: vec![trusted(&friend, Role::Supervisor), trusted(&wrong, Role::Submitter)],
            ..TrustPolicy::default()
        };
        let known = Known::new(Trust::new(policy));
        for identity in [&friend, &stranger, &wrong] {
            known.learn(&announcement(identity, &["horus.supervisor"], later).sign(identity), now).unwrap();
        }
        let peers = |topic, at| known.serving(topic, at).iter().map(|node| node.peer_id).collect::<Vec<_>>();
        assert_eq!(peers("horus.supervisor", now), [friend.peer_id()]);
        assert!(peers("horus.coordinator", now).is_empty());
        assert!(peers("horus.supervisor", later).is_empty(), "expired");
        assert_eq!(known.at(friend.peer_id().overlay_address(), "horus.supervisor", now).len(), 1);
        let old = announcement(&friend, &[], now + Duration::from_secs(1)).sign(&friend);
        let version = known.version();
        known.learn(&old, now).unwrap();
        assert_eq!(peers("horus.supervisor", now), [friend.peer_id()], "an older announcement changes nothing");
        assert_eq!(known.version(), version);
        assert!(known.learn(&old, later).is_err(), "expired");
        known.forget(friend.peer_id());
        assert!(known.node(friend.peer_id(), now).is_none());
    }

    #[test]
    fn a_clock_that_was_ahead_does_no_harm_for_ever() {
        let known = Known::new(Trust::new(TrustPolicy::default()));
        let (identity, now) = (Identity::generate(), Timestamp::now());
        let learn = |topic, from: Timestamp, valid| {
            known.learn(&announcement(&identity, &[topic], from + valid).sign(&identity), from).unwrap();
        };
        learn("ahead", now, Duration::from_secs(365 * 86_400));
        let topic = |at| known.node(identity.peer_id(), at).map(|node| node.announcement.topics[0].clone());
        assert_eq!(topic(now).unwrap(), "ahead");
        let later = now + MAX_LIFE - Duration::from_secs(300);
        learn("right", later, Duration::from_secs(600));
        assert_eq!(topic(later).unwrap(), "right");
        learn("ahead again", later, Duration::from_secs(365 * 86_400));
        assert_eq!(topic(later + MAX_LIFE), None, "it counts no longer than others");
    }
}
