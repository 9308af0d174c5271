//! What a caller may see and steer.
//!
//! A submitter sees and steers its own jobs, a coordinator those of workflows that name it, an observer sees all, an operator
//! and an owner steer all. A job that a caller may not see does not exist for it: the answer is the same as for an unknown id.

use horus_keys::{PeerId, Role, Timestamp, Trust};

use super::owners::Owner;

/// How far a caller looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sight {
    /// Its own jobs, which it may steer: those it submitted, and those of workflows that name it as a coordinator.
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

    /// Whether the caller may see a job.
    pub(super) fn sees(self, owner: &Owner) -> bool {
        self.sees_all() || owner.is(self.caller())
    }

    /// Whether the caller may cancel or delete a job.
    pub(super) fn steers(self, owner: &Owner) -> bool {
        matches!(self, Self::Steer(_)) || owner.is(self.caller())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use horus_keys::Identity;

    #[test]
    fn who_sees_and_who_steers() {
        let [me, other, coordinator, second] = [(); 4].map(|()| Identity::generate().peer_id());
        let job = |submitter, coordinators: &[PeerId]| Owner { submitter, coordinators: coordinators.to_vec() };
        for (sight, own, foreign) in [
            (Sight::Own(me), (true, true), (false, false)),
            (Sight::All(me), (true, true), (true, false)),
            (Sight::Steer(me), (true, true), (true, true)),
        ] {
            let (mine, theirs) = (job(me, &[]), job(other, &[coordinator]));
            assert_eq!((sight.sees(&mine), sight.steers(&mine)), own);
            assert_eq!((sight.sees(&theirs), sight.steers(&theirs)), foreign);
        }
        for named in [coordinator, second] {
            let (sight, step) = (Sight::Own(named), job(other, &[coordinator, second]));
            assert!(sight.sees(&step) && sight.steers(&step));
            assert!(!sight.sees(&job(other, &[])));
        }
    }
}
