//! A role's signed announcement of itself, as `get_node_info` gives it to anybody.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError, RwLock};
use std::time::Duration;

use horus_keys::{Envelope, Identity, MeshPublicKey, NodeAnnouncement, Role, RunnerKind, SealingPublicKey, Timestamp};

use crate::api::NodeInfo;

/// How long an announcement is valid.
const LIFE: Duration = Duration::from_secs(600);

/// Signs the role's announcement when it is asked for: anew when something in it changed or half of its life is over, for
/// anybody may ask, as often as they like, and a signature costs.
#[derive(Debug)]
pub struct Announcer {
    identity: Identity,
    role: Role,
    topics: Vec<String>,
    addresses: RwLock<Vec<String>>,
    mesh_public_key: Option<MeshPublicKey>,
    sealing_public_key: Option<SealingPublicKey>,
    last: Mutex<Option<Signed>>,
}

#[derive(Debug)]
struct Signed {
    runners: Vec<RunnerKind>,
    renew_at: Timestamp,
    envelope: Envelope,
}

impl Announcer {
    /// An announcer for a role that signs with `identity`, serves `topics` and is reached at `addresses`.
    #[must_use]
    pub fn new(
        identity: Identity,
        role: Role,
        topics: Vec<String>,
        addresses: Vec<String>,
        mesh_public_key: Option<MeshPublicKey>,
        sealing_public_key: Option<SealingPublicKey>,
    ) -> Self {
        Self {
            identity,
            role,
            topics,
            addresses: RwLock::new(addresses),
            mesh_public_key,
            sealing_public_key,
            last: Mutex::new(None),
        }
    }

    /// Adds the addresses that the role listens on, once they are known, behind those it was given. An unspecified address
    /// (`0.0.0.0`, `::`) tells nobody where to go and is left out.
    pub fn serve_at(&self, tls: bool, served: &[SocketAddr]) {
        let scheme = if tls { "https" } else { "http" };
        let mut addresses = self.addresses.write().unwrap_or_else(PoisonError::into_inner);
        for address in served.iter().filter(|address| !address.ip().is_unspecified()) {
            let url = format!("{scheme}://{address}");
            if !addresses.contains(&url) {
                addresses.push(url);
            }
        }
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// The addresses that it announces, the best first.
    #[must_use]
    pub fn addresses(&self) -> Vec<String> {
        self.addresses.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Who this node is now, serving the runner kinds `runners`.
    #[must_use]
    pub fn info(&self, runners: &[RunnerKind], now: Timestamp) -> NodeInfo {
        NodeInfo {
            envelope: self.envelope(runners, now),
            peer_id: self.identity.peer_id(),
            role: self.role,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    /// The signed announcement (`node+json`).
    #[must_use]
    pub fn envelope(&self, runners: &[RunnerKind], now: Timestamp) -> Envelope {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(signed) = &*last {
            // A wall clock that went back makes the old one look fresh for longer than it lives: renewed as well.
            let young = now < signed.renew_at && signed.renew_at <= now.saturating_add(LIFE / 2);
            if young && signed.runners == runners {
                return signed.envelope.clone();
            }
        }
        let announcement = NodeAnnouncement {
            roles: vec![self.role],
            topics: self.topics.clone(),
            runners: runners.to_vec(),
            addresses: self.addresses(),
            mesh_public_key: self.mesh_public_key,
            sealing_public_key: self.sealing_public_key,
            expires_at: now.saturating_add(LIFE),
        };
        let envelope = announcement.sign(&self.identity);
        *last = Some(Signed {
            runners: runners.to_vec(),
            renew_at: now.saturating_add(LIFE / 2),
            envelope: envelope.clone(),
        });
        envelope
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn announcer() -> Announcer {
        Announcer::new(
            Identity::generate(),
            Role::Supervisor,
            vec!["horus.supervisor".into()],
            vec!["http://127.0.0.1:8080".into()],
            None,
            None,
        )
    }

    #[test]
    fn it_is_signed_anew_only_when_it_changed_or_is_half_old() {
        let announcer = announcer();
        let now = Timestamp::now();
        let kinds: Vec<RunnerKind> = vec!["sal".parse().unwrap()];
        let first = announcer.info(&kinds, now).envelope;
        let again = announcer.info(&kinds, now.saturating_add(Duration::from_secs(299)));
        assert_eq!(again.envelope.digest(), first.digest());
        let changed = announcer.info(&[], now).envelope;
        assert_ne!(changed.digest(), first.digest());
        let old = announcer.info(&[], now.saturating_add(Duration::from_secs(301)));
        assert_ne!(old.envelope.digest(), changed.digest());
    }

    #[test]
    fn anybody_can_check_who_signed_it() {
        let announcer = announcer();
        let info = announcer.info(&[], Timestamp::now());
        let (signer, said) = NodeAnnouncement::check(&info.envelope, Timestamp::now()).unwrap();
        assert_eq!(signer, info.peer_id);
        assert_eq!(said.roles, [Role::Supervisor]);
        assert_eq!(said.topics, ["horus.supervisor"]);
    }
}
