//! What a caller may see and steer.
//!
//! A submitter sees and steers its own jobs, a coordinator those that it delegated, an observer sees all, an operator and
//! an owner steer all. A job that a caller may not see does not exist for it: the answer is the same as for an unknown id.

use horus_keys::{PeerId, Role, Timestamp, Trust};

/// How far a caller looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sight {
    /// Its own jobs, which it may steer: those it submitted, and those it delegated as a coordinator.
    Own(PeerId),
    /// Everybody's jobs; steering only its own.
    All(PeerId),
    /// Everybody's jobs, and it may steer them.
    Steer(PeerId),
}

impl Sight {
    /// How far `caller` looks by the trust policy of now.
    pub(super) fn of(caller: PeerId, trust: &Trust, now: Timestamp) -> Self {
        let holds = |role| trust.allows(caller, role, now);
        if holds(Role::Operator) || holds(Role::Owner) {
            Self::Steer(caller)
        } else if holds(Role::Observer) {
            Self::All(caller)
        } else {
            Self::Own(caller)
        }
    }

    /// The caller.
    pub(super) fn caller(self) -> PeerId {
        match self {
            Self::Own(caller) | Self::All(caller) | Self::Steer(caller) => caller,
        }
    }

    /// Whether the caller sees everybody's jobs.
    pub(super) fn sees_all(self) -> bool {
        !matches!(self, Self::Own(_))
    }

    /// Whether the caller may see a job of `submitter` that `delegate` delegated.
    pub(super) fn sees(self, submitter: PeerId, delegate: Option<PeerId>) -> bool {
        self.sees_all() || self.owns(submitter, delegate)
    }

    /// Whether the caller may cancel or delete a job of `submitter` that `delegate` delegated.
    pub(super) fn steers(self, submitter: PeerId, delegate: Option<PeerId>) -> bool {
        matches!(self, Self::Steer(_)) || self.owns(submitter, delegate)
    }

    fn owns(self, submitter: PeerId, delegate: Option<PeerId>) -> bool {
        self.caller() == submitter || delegate == Some(self.caller())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use horus_keys::Identity;

    #[test]
    fn who_sees_and_who_steers() {
        let [me, other, coordinator] = [(); 3].map(|()| Identity::generate().peer_id());
        for (sight, own, foreign) in [
            (Sight::Own(me), (true, true), (false, false)),
            (Sight::All(me), (true, true), (true, false)),
            (Sight::Steer(me), (true, true), (true, true)),
        ] {
            assert_eq!((sight.sees(me, None), sight.steers(me, None)), own);
            assert_eq!((sight.sees(other, Some(coordinator)), sight.steers(other, Some(coordinator))), foreign);
        }
        let delegate = Sight::Own(coordinator);
        assert!(delegate.sees(other, Some(coordinator)));
        assert!(delegate.steers(other, Some(coordinator)));
        assert!(!delegate.sees(other, None));
    }
}
