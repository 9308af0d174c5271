//! One supervisor, as the coordinator knows it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use horus_keys::{PeerId, RunnerKind, Timestamp};
use horus_transport::{Address, RpcClient, RpcError};
use tokio::sync::{Notify, mpsc};

use crate::api::coordinator::{SupervisorState, SupervisorView};
use crate::coordinator::waiter::{Given, Watch};
use crate::workflow::Selector;

/// Most steps that one coordinator gives to one supervisor at a time. Those beyond wait in the coordinator, where they can
/// still go to another supervisor.
pub(crate) const MAX_OUTSTANDING: u32 = 4096;
/// How long a supervisor may be silent before what it has counts as unknown, and it gets nothing more.
pub(crate) const SILENCE: Duration = Duration::from_secs(6);

/// A supervisor. Shared by everything that speaks to it.
pub(crate) struct Supervisor {
    /// Its address, as it was given.
    pub(crate) address: String,
    /// Calls it.
    pub(crate) client: RpcClient,
    /// Whether it was given by `--supervisor`, and so stays whatever happens.
    pub(crate) given: bool,
    /// Wakes the task that looks after it.
    pub(crate) look: Notify,
    known: RwLock<Known>,
    outstanding: AtomicU32,
    /// Whether it announced another address since, and is kept only until it has no steps at this one.
    retired: AtomicBool,
    watches: mpsc::UnboundedSender<Given>,
}

/// What is known of a supervisor now.
#[derive(Debug, Clone, Default)]
struct Known {
    peer: Option<PeerId>,
    kinds: BTreeSet<RunnerKind>,
    labels: BTreeMap<String, String>,
    latency: Option<Duration>,
    /// Since when every call failed; `None` while it answers.
    silent_since: Option<Instant>,
    /// How often it fell silent.
    silences: u64,
    /// Whether it ever answered.
    met: bool,
    /// Whether it was heard again since it was looked at last.
    back: bool,
    /// Why it gets no steps although it answers.
    refused: Option<String>,
    /// What the latest call failed with.
    error: Option<String>,
    /// What any call failed with last, and when; kept when it answers again.
    last_error: Option<(Timestamp, String)>,
    /// Kinds that it takes no jobs of until then: its queue was full.
    full: HashMap<RunnerKind, Instant>,
    expires_at: Option<Timestamp>,
}

/// What a look at a supervisor found.
pub(crate) struct Found {
    pub(crate) peer: PeerId,
    pub(crate) kinds: BTreeSet<RunnerKind>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) latency: Duration,
    /// Why it must not get steps.
    pub(crate) refused: Option<String>,
}

impl Supervisor {
    pub(crate) fn new(
        address: &Address,
        client: RpcClient,
        given: bool,
        watches: mpsc::UnboundedSender<Given>,
    ) -> Self {
        Self {
            address: address.to_string(),
            client,
            given,
            look: Notify::new(),
            known: RwLock::default(),
            outstanding: AtomicU32::new(0),
            retired: AtomicBool::new(false),
            watches,
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Known> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its key, once it is known.
    pub(crate) fn peer(&self) -> Option<PeerId> {
        self.read().peer
    }

    /// The runner kinds that its machine has.
    pub(crate) fn kinds(&self) -> BTreeSet<RunnerKind> {
        self.read().kinds.clone()
    }

    /// How long its latest short answer took.
    pub(crate) fn latency(&self) -> Option<Duration> {
        self.read().latency
    }

    /// How it is.
    pub(crate) fn state(&self) -> SupervisorState {
        let known = self.read();
        match known.silent_since {
            _ if !known.met || known.refused.is_some() => SupervisorState::Gone,
            None => SupervisorState::Alive,
            Some(since) if since.elapsed() < SILENCE => SupervisorState::Late,
            Some(_) => SupervisorState::Gone,
        }
    }

    /// Whether it has been silent for so long that nobody can say what became of its jobs.
    pub(crate) fn is_lost(&self) -> bool {
        self.read().silent_since.is_some_and(|since| since.elapsed() >= SILENCE)
    }

    /// Whether the latest call was not answered.
    pub(crate) fn is_silent(&self) -> bool {
        self.read().silent_since.is_some()
    }

    /// How often it has fallen silent.
    pub(crate) fn silences(&self) -> u64 {
        self.read().silences
    }

    /// Whether its announcement has run out. Those given by flag have none.
    pub(crate) fn has_expired(&self, now: Timestamp) -> bool {
        !self.given && self.read().expires_at.is_some_and(|at| at < now)
    }

    /// Gives it no more steps: it is called at another address now.
    pub(crate) fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
        self.look.notify_one();
    }

    /// Whether it is called at another address now.
    pub(crate) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Relaxed)
    }

    /// Notes until when it is used.
    pub(crate) fn announced(&self, until: Timestamp) {
        let mut known = self.write();
        known.expires_at = Some(known.expires_at.map_or(until, |at| at.max(until)));
    }

    /// Notes that it answered. True if that changes what can be sent where.
    pub(crate) fn found(&self, found: Found) -> bool {
        let mut known = self.write();
        let changed = known.silent_since.is_some()
            || known.back
            || !known.met
            || known.kinds != found.kinds
            || known.labels != found.labels
            || known.peer != Some(found.peer)
            || known.refused != found.refused;
        known.met = true;
        known.back = false;
        known.silent_since = None;
        known.error = None;
        known.peer = Some(found.peer);
        known.kinds = found.kinds;
        known.labels = found.labels;
        known.latency = Some(found.latency);
        known.refused = found.refused;
        changed
    }

    /// Notes that a call was answered, be it by a refusal.
    pub(crate) fn answered(&self) {
        if self.read().silent_since.is_none() {
            return;
        }
        let mut known = self.write();
        (known.silent_since, known.back) = (None, true);
        drop(known);
        self.look.notify_one();
    }

    /// Notes that a call was not answered.
    pub(crate) fn silent(&self, error: &RpcError) {
        let mut known = self.write();
        known.error = Some(error.to_string());
        known.last_error = Some((Timestamp::now(), error.to_string()));
        if known.silent_since.is_none() {
            known.silent_since = Some(Instant::now());
            known.silences += 1;
            drop(known);
            self.look.notify_one();
        }
    }

    /// Notes that it takes no jobs of that kind for a while.
    pub(crate) fn full(&self, kind: &RunnerKind, error: &RpcError, pause: Duration) {
        let mut known = self.write();
        known.error = Some(error.to_string());
        known.full.insert(kind.clone(), Instant::now() + pause);
    }

    /// Whether a step may be sent there now.
    pub(crate) fn takes(&self, kind: &RunnerKind, selector: Option<&Selector>) -> Option<PeerId> {
        if self.is_retired() || self.outstanding.load(Ordering::Relaxed) >= MAX_OUTSTANDING {
            return None;
        }
        let known = self.read();
        let fits = known.met
            && known.refused.is_none()
            && known.silent_since.is_none()
            && known.kinds.contains(kind)
            && known.full.get(kind).is_none_or(|until| *until <= Instant::now());
        known.peer.filter(|_| fits && self.is_selected(&known, selector))
    }

    /// Whether it is one of those that a step may go to, however it is.
    pub(crate) fn could_take(&self, kind: &RunnerKind, selector: Option<&Selector>) -> bool {
        let known = self.read();
        known.kinds.contains(kind) && self.is_selected(&known, selector)
    }

    fn is_selected(&self, known: &Known, selector: Option<&Selector>) -> bool {
        selector.is_none_or(|selector| selector.matches(known.peer.as_ref(), self.client.address(), &known.labels))
    }

    /// How many steps it has.
    pub(crate) fn outstanding(&self) -> u32 {
        self.outstanding.load(Ordering::Relaxed)
    }

    /// Counts a step that it is given.
    pub(crate) fn took(&self) {
        self.outstanding.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a step that it does not have any more. True if others may have waited for the room.
    pub(crate) fn gave_back(&self) -> bool {
        let before = self.outstanding.fetch_sub(1, Ordering::Relaxed);
        // Waking those that wait for every single place would wake them all 4096 times.
        before == MAX_OUTSTANDING - MAX_OUTSTANDING / 8
    }

    /// Waits for those jobs: their results go to their workflows.
    pub(crate) fn watch(self: &Arc<Self>, watches: Vec<Watch>) {
        // The waiter ends when nobody can call this any more.
        let _ = self.watches.send((Arc::clone(self), watches));
    }

    /// As `list_supervisors` shows it.
    pub(crate) fn view(&self) -> SupervisorView {
        let state = self.state();
        let known = self.read();
        let way = self.client.status().unwrap_or_default();
        let latency = way.in_use().and_then(|path| path.latency_ms).map(|ms| Duration::from_secs_f64(ms / 1000.0));
        let on_the_way = way.last_error().map(|(at, error)| (at, error.to_owned()));
        let last_error = known.last_error.clone().into_iter().chain(on_the_way).max_by_key(|(at, _)| *at);
        let (last_error_at, last_error) = last_error.unzip();
        SupervisorView {
            address: self.address.clone(),
            peer_id: known.peer,
            state,
            runners: known.kinds.iter().cloned().collect(),
            outstanding: self.outstanding(),
            latency_ms: latency.or(known.latency).map(|took| u64::try_from(took.as_millis()).unwrap_or(u64::MAX)),
            // A way to one that is gone is in nobody's use, though it may have been the last.
            path: way.path.filter(|_| state != SupervisorState::Gone),
            labels: known.labels.clone(),
            error: known.refused.clone().or_else(|| known.error.clone()),
            last_error,
            last_error_at,
            expires_at: known.expires_at.filter(|_| !self.given),
        }
    }
}
