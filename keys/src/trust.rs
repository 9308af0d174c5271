//! Who may do what.

mod certificates;
mod edit;
mod error;
mod policy;

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

pub use error::TrustError;
pub use policy::{Revocation, TrustPolicy, TrustedKey};

use crate::digest::Digest;
use crate::documents::{Certificate, DocumentError};
use crate::envelope::Envelope;
use crate::payload_type::PayloadType;
use crate::peer_id::PeerId;
use crate::role::Role;
use crate::runner_kind::{RunnerKind, RunnerPattern};
use crate::timestamp::Timestamp;
use certificates::{Certificates, Seen};
use policy::Index;

/// The trust policy in force and the certificates seen so far: answers who may do what. By default
/// nobody may do anything.
///
/// Cheap to clone; all clones share one state, and any thread may ask. Certificates are judged anew
/// with every question: one whose issuer is no longer an owner, or that was revoked since, grants
/// nothing from then on.
#[derive(Clone, Debug)]
pub struct Trust(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    path: Option<PathBuf>,
    state: RwLock<State>,
}

#[derive(Debug)]
struct State {
    policy: Arc<TrustPolicy>,
    index: Index,
    /// The digest of the file that the policy was read from.
    source: Option<Digest>,
    certificates: Certificates,
}

impl Trust {
    /// Puts a policy in force that comes from no file.
    #[must_use]
    pub fn new(policy: TrustPolicy) -> Self {
        Self::with(policy, None, None)
    }

    /// Reads `trust.toml`. A missing file trusts nobody, until [`Trust::reload`] finds one.
    ///
    /// # Errors
    /// [`TrustError`] if the file cannot be read, can be written by others than root and the current user, or is not valid.
    pub fn open(path: &Path) -> Result<Self, TrustError> {
        let (policy, source) = policy::load(path)?;
        Ok(Self::with(policy, Some(path.to_owned()), Some(source)))
    }

    fn with(policy: TrustPolicy, path: Option<PathBuf>, source: Option<Digest>) -> Self {
        let index = Index::of(&policy);
        let certificates = Certificates::default();
        let state = State { policy: Arc::new(policy), index, source, certificates };
        Self(Arc::new(Shared { path, state: RwLock::new(state) }))
    }

    /// Reads the file again, and tells whether it had changed. Call it every few seconds.
    ///
    /// # Errors
    /// As [`Trust::open`]; the policy in force then stays in force.
    pub fn reload(&self) -> Result<bool, TrustError> {
        let Some(path) = &self.0.path else {
            return Ok(false);
        };
        // By content, not by time: an edit within the granularity of the file system's clock counts.
        let (policy, source) = policy::load(path)?;
        let mut state = self.write();
        if state.source == Some(source) {
            return Ok(false);
        }
        state.index = Index::of(&policy);
        state.policy = Arc::new(policy);
        state.source = Some(source);
        Ok(true)
    }

    /// The policy in force.
    #[must_use]
    pub fn policy(&self) -> Arc<TrustPolicy> {
        Arc::clone(&self.read().policy)
    }

    /// Takes note of a certificate: from now on until it expires it grants what it says. Returns whom
    /// it certifies. Showing the same one again is cheap.
    ///
    /// The newest 4096 are remembered, least recently useful first to go.
    ///
    /// # Errors
    /// [`TrustError`] if it is malformed, expired at `now`, revoked, or signed by nobody who is an owner.
    pub fn present(&self, certificate: &Envelope, now: Timestamp) -> Result<PeerId, TrustError> {
        let digest = certificate.digest();
        if certificate.payload_type() == PayloadType::Member {
            let state = self.read();
            if let Some(seen) = state.certificates.find(&digest) {
                return state.judge(seen, now).map(|()| seen.certificate.peer_id);
            }
        }
        let (verified, certificate) = Certificate::read(certificate)?;
        let seen = Seen::new(certificate, digest, verified.signers().to_vec());
        let peer_id = seen.certificate.peer_id;
        let mut state = self.write();
        state.judge(&seen, now)?;
        state.certificates.insert(seen, now);
        Ok(peer_id)
    }

    /// Whether `peer` may act as `role`. An owner may also observe and operate.
    #[must_use]
    pub fn allows(&self, peer: PeerId, role: Role, now: Timestamp) -> bool {
        self.read().grants(peer, now, |roles, _| grants_role(roles, role))
    }

    /// Whether `peer` may act as `role` for this kind of runner. Role and kind must come from the same
    /// entry or certificate.
    #[must_use]
    pub fn allows_runner(&self, peer: PeerId, role: Role, runner: &RunnerKind, now: Timestamp) -> bool {
        self.read().grants(peer, now, |roles, runners| {
            grants_role(roles, role) && runners.iter().any(|pattern| pattern.matches(runner))
        })
    }

    /// Whether anything at all is granted to `peer`.
    #[must_use]
    pub fn known(&self, peer: PeerId, now: Timestamp) -> bool {
        self.read().grants(peer, now, |roles, _| !roles.is_empty())
    }

    /// All roles that `peer` may act in, in the order of [`Role::ALL`].
    #[must_use]
    pub fn roles_of(&self, peer: PeerId, now: Timestamp) -> Vec<Role> {
        let state = self.read();
        let may = |role: &Role| state.grants(peer, now, |roles, _| grants_role(roles, *role));
        Role::ALL.into_iter().filter(may).collect()
    }

    /// How people call `peer`: by the policy, else by a certificate. For display only.
    #[must_use]
    pub fn name_of(&self, peer: PeerId) -> Option<String> {
        let state = self.read();
        let in_policy = state.policy_key(peer).and_then(|key| key.name.clone());
        in_policy.or_else(|| state.certificates.of(&peer).iter().find_map(|seen| seen.certificate.name.clone()))
    }

    /// Whether the policy revokes this key.
    #[must_use]
    pub fn is_revoked(&self, peer: PeerId) -> bool {
        self.read().index.revoked_keys.contains(&peer)
    }

    // No code panics while it holds the lock, and every write is whole: what a poisoned lock guards is sound.
    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.0.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.0.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Owners see and steer; whoever submits, coordinates, supervises or runs must be told so by name.
fn grants_role(roles: &[Role], role: Role) -> bool {
    roles.contains(&role) || (matches!(role, Role::Observer | Role::Operator) && roles.contains(&Role::Owner))
}

impl State {
    fn policy_key(&self, peer: PeerId) -> Option<&TrustedKey> {
        self.index.keys.get(&peer).map(|position| &self.policy.keys[*position])
    }

    /// Whether the policy's entry for `peer`, or one of its certificates that is good, satisfies `enough`.
    fn grants(&self, peer: PeerId, now: Timestamp, enough: impl Fn(&[Role], &[RunnerPattern]) -> bool) -> bool {
        if self.index.revoked_keys.contains(&peer) {
            return false;
        }
        if self.policy_key(peer).is_some_and(|key| enough(&key.roles, &key.runners)) {
            return true;
        }
        self.certificates.of(&peer).iter().any(|seen| {
            let sufficient =
                enough(&seen.certificate.roles, &seen.certificate.runners) && self.judge(seen, now).is_ok();
            if sufficient {
                self.certificates.touch(seen);
            }
            sufficient
        })
    }

    /// Whether a certificate, whose signatures were verified, is good now and under this policy.
    fn judge(&self, seen: &Seen, now: Timestamp) -> Result<(), TrustError> {
        let certificate = &seen.certificate;
        if self.index.revoked_certificates.contains(&seen.digest) {
            return Err(TrustError::CertificateRevoked(seen.digest));
        }
        if self.index.revoked_keys.contains(&certificate.peer_id) {
            return Err(TrustError::KeyRevoked(certificate.peer_id));
        }
        let is_owner = |peer: &PeerId| {
            !self.index.revoked_keys.contains(peer)
                && self.policy_key(*peer).is_some_and(|key| key.roles.contains(&Role::Owner))
        };
        let Some(issuer) = seen.signers.iter().copied().find(is_owner) else {
            return Err(TrustError::NotByAnOwner(seen.signers[0]));
        };
        if certificate.expires_at <= now {
            return Err(TrustError::Document(DocumentError::Expired {
                what: "certificate",
                signer: issuer,
                expired_at: certificate.expires_at,
            }));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
