//! The supervisors: which there are, how they are, and which one gets a step.

mod care;
mod supervisor;
mod there;

use std::collections::{BTreeSet, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use horus_keys::{NodeAnnouncement, PeerId, RunnerKind, Timestamp, Trust};
use horus_runners::admission::Verifier;
use horus_transport::{Address, ClientOptions, NodeStatus, RpcClient, RpcError};
use tokio::sync::{mpsc, watch};

use super::waiter;
use crate::api::coordinator::SupervisorView;
use crate::role::Shutdown;
use crate::workflow::Selector;

pub(crate) use supervisor::{SILENCE, Supervisor};

/// Runner kinds that every Horus has, whether or not a supervisor was met yet.
const BUILT_IN: [&str; 4] = ["hero", "noop", "osiris", "sal"];
/// Most supervisors that can have announced themselves.
const MAX_ANNOUNCED: usize = 4096;
/// How long an announcement is believed at most.
const MAX_ANNOUNCED_FOR: Duration = Duration::from_secs(3600);

/// All supervisors.
pub(crate) struct Pool {
    supervisors: RwLock<Vec<Arc<Supervisor>>>,
    options: ClientOptions,
    trust: Trust,
    verifier: Verifier,
    shutdown: Shutdown,
    changed: watch::Sender<u64>,
    turn: AtomicUsize,
    /// What lies at which supervisor already.
    pub(crate) there: there::There,
}

impl Pool {
    pub(crate) fn new(options: ClientOptions, trust: Trust, verifier: Verifier, shutdown: Shutdown) -> Arc<Self> {
        Arc::new(Self {
            supervisors: RwLock::default(),
            options,
            trust,
            verifier,
            shutdown,
            changed: watch::Sender::new(0),
            turn: AtomicUsize::new(0),
            there: there::There::new(),
        })
    }

    /// Adds a supervisor, and looks after it from now on. One that is there already stays as it is.
    ///
    /// # Errors
    /// An address that this process has no way to.
    pub(crate) fn add(self: &Arc<Self>, address: &Address, given: bool) -> Result<Arc<Supervisor>, RpcError> {
        let mut all = self.supervisors.write().unwrap_or_else(PoisonError::into_inner);
        let text = address.to_string();
        if let Some(known) = all.iter().find(|known| known.address == text && !known.is_retired()) {
            return Ok(Arc::clone(known));
        }
        let client = RpcClient::connect(address.clone(), self.options.clone())?;
        let (watches, inbox) = mpsc::unbounded_channel();
        let supervisor = Arc::new(Supervisor::new(address, client, given, watches));
        all.push(Arc::clone(&supervisor));
        drop(all);
        tokio::spawn(waiter::run(Arc::clone(self), self.verifier.clone(), inbox));
        tokio::spawn(care::look_after(Arc::clone(&supervisor), Arc::clone(self)));
        Ok(supervisor)
    }

    /// Takes an announcement that its supervisor signed. Returns until when it is used.
    ///
    /// # Errors
    /// No address among those announced can be reached from here.
    pub(crate) fn announced(
        self: &Arc<Self>,
        peer: PeerId,
        announcement: &NodeAnnouncement,
        now: Timestamp,
    ) -> Result<Timestamp, String> {
        let until = announcement.expires_at.min(now.saturating_add(MAX_ANNOUNCED_FOR));
        let all = self.all();
        let is_it = |known: &&Arc<Supervisor>| {
            !known.is_retired() && (known.peer() == Some(peer) || known.client.address().pin() == Some(peer))
        };
        let known = all.iter().find(is_it);
        if let Some(known) = known {
            known.announced(until);
            if known.given {
                return Ok(until);
            }
        } else if all.len() >= MAX_ANNOUNCED {
            return Err(format!("this coordinator knows {MAX_ANNOUNCED} supervisors already"));
        }
        let mut problem = "it announces no address".to_owned();
        for text in &announcement.addresses {
            let address = match text.parse::<Address>() {
                Ok(address) => address.pinned(peer),
                Err(error) => {
                    problem = error.to_string();
                    continue;
                }
            };
            // The best address that can be called, also when it announced another one before: its daemon may have come, or it
            // has moved.
            if known.is_some_and(|known| known.address == address.to_string()) {
                return Ok(until);
            }
            match self.add(&address, false) {
                Ok(supervisor) => {
                    supervisor.announced(until);
                    if let Some(known) = known {
                        tracing::info!(from = %known.address, to = %supervisor.address, "supervisor has another address");
                        known.retire();
                    }
                    return Ok(until);
                }
                Err(error) => problem = error.to_string(),
            }
        }
        if known.is_some() { Ok(until) } else { Err(problem) }
    }

    fn all(&self) -> Vec<Arc<Supervisor>> {
        self.supervisors.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether another one is the same node, and was given by flag or was there before: then this one is one too many.
    fn is_double(&self, one: &Arc<Supervisor>) -> bool {
        let all = self.supervisors.read().unwrap_or_else(PoisonError::into_inner);
        let same = |known: &&Arc<Supervisor>| known.peer().is_some() && known.peer() == one.peer();
        let first = all.iter().filter(same).filter(|known| !known.is_retired());
        !one.given && first.min_by_key(|known| !known.given).is_some_and(|first| !Arc::ptr_eq(first, one))
    }

    /// Drops a supervisor that has expired.
    fn remove(&self, gone: &Arc<Supervisor>) {
        let mut all = self.supervisors.write().unwrap_or_else(PoisonError::into_inner);
        all.retain(|known| !Arc::ptr_eq(known, gone));
    }

    /// The supervisor with that key.
    pub(crate) fn find(&self, peer: &PeerId) -> Option<Arc<Supervisor>> {
        let all = self.supervisors.read().unwrap_or_else(PoisonError::into_inner);
        let same = |known: &&Arc<Supervisor>| known.peer() == Some(*peer);
        // One that is to go is found only if there is no other.
        all.iter().filter(same).min_by_key(|known| known.is_retired()).cloned()
    }

    /// The least loaded supervisor that may have a step of that kind now; those equally loaded take turns.
    pub(crate) fn choose(
        &self,
        kind: &RunnerKind,
        selector: Option<&Selector>,
        not: Option<&HashSet<PeerId>>,
    ) -> Option<(Arc<Supervisor>, PeerId)> {
        let all = self.supervisors.read().unwrap_or_else(PoisonError::into_inner);
        let first = self.turn.fetch_add(1, Ordering::Relaxed);
        let mut best: Option<(u32, &Arc<Supervisor>, PeerId)> = None;
        for n in 0..all.len() {
            let supervisor = &all[(first + n) % all.len()];
            let Some(peer) = supervisor.takes(kind, selector) else { continue };
            if not.is_some_and(|not| not.contains(&peer)) {
                continue;
            }
            let load = supervisor.outstanding();
            if best.as_ref().is_none_or(|(least, ..)| load < *least) {
                best = Some((load, supervisor, peer));
            }
        }
        best.map(|(_, supervisor, peer)| (Arc::clone(supervisor), peer))
    }

    /// Whether some supervisor but those could ever take a step of that kind.
    pub(crate) fn has_other(&self, kind: &RunnerKind, selector: Option<&Selector>, not: &HashSet<PeerId>) -> bool {
        self.all()
            .iter()
            .any(|known| known.could_take(kind, selector) && known.peer().is_some_and(|peer| !not.contains(&peer)))
    }

    /// Has the supervisors looked at when none of them is known to serve a step of that kind.
    pub(crate) fn look_for(&self, kind: &RunnerKind, selector: Option<&Selector>) {
        let all = self.supervisors.read().unwrap_or_else(PoisonError::into_inner);
        if !all.iter().any(|known| known.could_take(kind, selector)) {
            all.iter().for_each(|known| known.look.notify_one());
        }
    }

    /// What a step of that kind waits for, in words.
    pub(crate) fn why_not(&self, kind: &RunnerKind, selector: Option<&Selector>) -> String {
        let all = self.all();
        if all.is_empty() {
            return "a supervisor: start the coordinator with --supervisor ADDRESS".to_owned();
        }
        let fit: Vec<&str> =
            all.iter().filter(|known| known.could_take(kind, selector)).map(|known| known.address.as_str()).collect();
        match selector {
            _ if !fit.is_empty() => format!("room or a sign of life at {}", fit.join(", ")),
            Some(selector) => format!("a supervisor that matches `{selector}` and has a runner of kind `{kind}`"),
            None => format!("a supervisor with a runner of kind `{kind}`: start one with `horus runner {kind}`"),
        }
    }

    /// The runner kinds that can be asked for: those that every Horus has, and those that were seen.
    pub(crate) fn kinds(&self) -> BTreeSet<RunnerKind> {
        let built_in = BUILT_IN.into_iter().map(|kind| kind.parse().expect("the name of a kind"));
        built_in.chain(self.all().iter().flat_map(|known| known.kinds())).collect()
    }

    /// Follows what becomes possible: a supervisor that came, has room again, or another kind of runner.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Says that something became possible.
    pub(crate) fn note_change(&self) {
        self.changed.send_modify(|n| *n += 1);
    }

    /// Those that are called by a URL, so that the mesh knows nothing of them.
    pub(crate) fn outside_the_mesh(&self) -> Vec<NodeStatus> {
        let all = self.all();
        let outside = all.iter().filter(|known| matches!(known.client.address(), Address::Http { .. }));
        outside.filter_map(|known| known.client.status()).collect()
    }

    /// All of them, as `list_supervisors` shows them.
    pub(crate) fn views(&self) -> Vec<SupervisorView> {
        let mut all = self.all();
        all.retain(|known| !known.is_retired() || known.outstanding() > 0);
        all.sort_by_key(|known| !known.given);
        all.iter().map(|known| known.view()).collect()
    }
}

#[cfg(test)]
mod tests {
    use horus_keys::TrustPolicy;

    use super::*;

    #[tokio::test]
    async fn a_supervisor_that_has_gone_is_freed_once_nobody_waits_for_its_steps() {
        let trust = Trust::new(TrustPolicy::parse("").unwrap());
        let pool = Pool::new(ClientOptions::default(), trust.clone(), Verifier::new(trust), Shutdown::new());
        // Nobody listens there.
        let supervisor = pool.add(&"http://127.0.0.1:9".parse().unwrap(), false).unwrap();
        let gone = Arc::downgrade(&supervisor);
        supervisor.retire();
        drop(supervisor);
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while gone.strong_count() > 0 {
            assert!(std::time::Instant::now() < deadline, "it is out of the list: {}", pool.all().is_empty());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(pool.all().is_empty());
    }
}
