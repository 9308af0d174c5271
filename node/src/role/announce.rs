//! A role's signed announcement of itself, as `get_node_info` gives it to anybody.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use horus_keys::{Envelope, Identity, MeshPublicKey, NodeAnnouncement, Role, RunnerKind, SealingPublicKey, Timestamp};

use tokio::sync::watch;

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
    place: RwLock<Place>,
    sealing_public_key: Option<SealingPublicKey>,
    certificate: Option<Envelope>,
    last: Mutex<Option<Signed>>,
    moved: watch::Sender<()>,
}

/// Where the role is, each list the best first.
#[derive(Debug, Default)]
struct Place {
    given: Vec<String>,
    overlay: Vec<String>,
    listens: Vec<String>,
    mesh_public_key: Option<MeshPublicKey>,
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
            place: RwLock::new(Place { given: addresses, mesh_public_key, ..Place::default() }),
            sealing_public_key,
            certificate: None,
            last: Mutex::new(None),
            moved: watch::Sender::new(()),
        }
    }

    /// The same, which shows that certificate to whoever asks who it is.
    #[must_use]
    pub fn with_certificate(mut self, certificate: Option<Envelope>) -> Self {
        self.certificate = certificate;
        self
    }

    fn place(&self) -> RwLockReadGuard<'_, Place> {
        self.place.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the place: what was signed before says the old one.
    fn change(&self, change: impl FnOnce(&mut Place)) {
        {
            // In the order in which `envelope` takes them.
            let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            change(&mut self.place.write().unwrap_or_else(PoisonError::into_inner));
            *last = None;
        }
        self.moved.send_replace(());
    }

    /// Adds the addresses that the role listens on, once they are known, behind those it was given. An unspecified address
    /// (`0.0.0.0`, `::`) tells nobody where to go and is left out.
    pub fn serve_at(&self, tls: bool, served: &[SocketAddr]) {
        let scheme = if tls { "https" } else { "http" };
        let urls = served.iter().filter(|at| !at.ip().is_unspecified()).map(|at| format!("{scheme}://{at}"));
        self.change(|place| place.listens.extend(urls));
    }

    /// Says where the role is on the overlay from now on: the key of its host's daemon, and addresses, which stand before
    /// those that it listens on.
    pub fn live_at(&self, mesh_public_key: Option<MeshPublicKey>, addresses: Vec<String>) {
        self.change(|place| {
            place.mesh_public_key = mesh_public_key;
            place.overlay = addresses;
        });
    }

    /// Tells when the addresses changed.
    #[must_use]
    pub fn moves(&self) -> watch::Receiver<()> {
        self.moved.subscribe()
    }

    /// The topics that it announces.
    #[must_use]
    pub fn topics(&self) -> &[String] {
        &self.topics
    }

    /// The certificate that it shows.
    #[must_use]
    pub fn certificate(&self) -> Option<&Envelope> {
        self.certificate.as_ref()
    }

    /// The addresses that it announces, the best first.
    #[must_use]
    pub fn addresses(&self) -> Vec<String> {
        let place = self.place();
        let mut addresses: Vec<String> = Vec::new();
        for address in place.given.iter().chain(&place.overlay).chain(&place.listens) {
            if !addresses.contains(address) {
                addresses.push(address.clone());
            }
        }
        addresses
    }

    /// Who this node is now, serving the runner kinds `runners`.
    #[must_use]
    pub fn info(&self, runners: &[RunnerKind], now: Timestamp) -> NodeInfo {
        NodeInfo {
            envelope: self.envelope(runners, now),
            peer_id: self.identity.peer_id(),
            role: self.role,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            certificate: self.certificate.clone(),
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
            mesh_public_key: self.place().mesh_public_key,
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
    fn where_it_is_on_the_overlay_stands_before_where_it_listens() {
        let announcer = announcer();
        let mut moves = announcer.moves();
        announcer.serve_at(false, &["127.0.0.1:8081".parse().unwrap(), "0.0.0.0:8081".parse().unwrap()]);
        let key = Identity::generate().peer_id().mesh_public_key();
        let first = announcer.envelope(&[], Timestamp::now());
        announcer.live_at(Some(key), vec![format!("mycelium://{key}")]);
        assert!(moves.has_changed().unwrap());
        moves.mark_unchanged();
        let envelope = announcer.envelope(&[], Timestamp::now());
        assert_ne!(envelope.digest(), first.digest());
        let (_, said) = NodeAnnouncement::check(&envelope, Timestamp::now()).unwrap();
        assert_eq!(said.mesh_public_key, Some(key));
        let overlay = format!("mycelium://{key}");
        assert_eq!(said.addresses, ["http://127.0.0.1:8080", overlay.as_str(), "http://127.0.0.1:8081"]);
        announcer.live_at(None, Vec::new());
        assert_eq!(announcer.addresses().len(), 2);
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
