//! Who drives what: recovery at the start, signs of life, and taking over from coordinators that died.
//!
//! Every running coordinator lets a counter in Redis grow. One whose counter has stood still for some seconds of the watcher's
//! own clock is dead to it; its workflows are taken over, each under a higher epoch, so that the dead one, should it wake up,
//! writes nothing. No wall clock has a say.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use horus_keys::Timestamp;
use horus_runners::job::WorkflowId;
use tokio::sync::mpsc;

use super::Shared;
use super::arrival::Message;
use super::driver::Driver;
use super::live::{Live, fits};
use super::nodes;
use super::store::{Meta, StoreError, Writer};
use crate::workflow::State;

/// How often the own counter grows, and others' are looked at.
const BEAT: Duration = Duration::from_secs(1);
/// How long a counter may stand still.
pub(super) const DEAD_AFTER: Duration = Duration::from_secs(5);
/// After how long a counter that stands still is taken out.
const FORGET_AFTER: Duration = Duration::from_secs(600);
/// How long signing off may take.
const SIGN_OFF: Duration = Duration::from_secs(1);
/// How long the owner of a workflow is believed to be the same.
const OWNERS_FOR: Duration = Duration::from_secs(20);
/// How often lists are cleaned of what has expired, at most and at least.
const CLEAN_EVERY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Ids that are cleaned at a time.
const CLEAN_AT_ONCE: usize = 200;
/// For how long an id without a workflow, or an own workflow without a driver, may still be one that is being submitted.
const BEING_SUBMITTED: Duration = Duration::from_secs(30);

/// A workflow as it is stored, verified again, and the inbox of its driver to be.
///
/// # Errors
/// Redis does not answer, or what it holds cannot be what was stored.
pub(super) async fn load(
    shared: &Arc<Shared>,
    id: &WorkflowId,
) -> Result<Option<(Arc<Live>, mpsc::UnboundedReceiver<Message>)>, StoreError> {
    let Some(stored) = shared.store.load(id).await? else { return Ok(None) };
    let shared = Arc::clone(shared);
    let of = id.clone();
    let work = move || {
        let id = of;
        let corrupt = |reason: String| StoreError::Corrupt { id: id.clone(), reason };
        // Whom this coordinator trusts now has no say: it was accepted, and has to come to an end.
        let signed = match shared.verifier.accepted_workflow(&stored.envelope) {
            Ok(signed) if fits(&stored.meta, &signed) => signed,
            Ok(_) => return Err(corrupt("its envelope is another workflow's".to_owned())),
            Err(refusal) => return Err(corrupt(format!("its envelope is refused: {refusal}"))),
        };
        Live::restore(&id, signed, stored).map(Some)
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(loaded) => loaded,
        Err(failed) => std::panic::resume_unwind(failed.into_panic()),
    }
}

/// What is known of another coordinator.
struct Seen {
    beats: u64,
    /// How long it stood still while this coordinator looked.
    still: Duration,
}

/// What is known of a workflow that somebody else drives.
struct Owned {
    meta: Option<Meta>,
    read: Instant,
    /// Since when nothing is stored under the id, or it is this coordinator's and yet not driven.
    odd: Option<Instant>,
}

struct Watchman {
    shared: Arc<Shared>,
    seen: HashMap<String, Seen>,
    owners: HashMap<WorkflowId, Owned>,
    /// When the counters were read last.
    looked: Instant,
    cleaned: Instant,
}

/// Watches until the process stops.
pub(super) async fn watch(shared: Arc<Shared>) {
    let mut watchman = Watchman {
        shared: Arc::clone(&shared),
        seen: HashMap::new(),
        owners: HashMap::new(),
        looked: Instant::now(),
        cleaned: Instant::now(),
    };
    let mut ticks = tokio::time::interval(BEAT);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shared.shutdown.draining() => break,
            _ = ticks.tick() => {}
        }
        // A round may wait for Redis: stopping must not. What it has begun, the next owner of that workflow takes up.
        tokio::select! {
            () = shared.shutdown.draining() => break,
            // It may also be long, with many workflows to take over. In the same task: a process that stands still shows no life.
            never = beat_on(&shared) => match never {},
            done = watchman.round() => {
                if let Err(error) = done {
                    shared.redis_trouble(&error);
                }
            }
        }
    }
    // Others need not wait until this one is dead to them.
    match tokio::time::timeout(SIGN_OFF, shared.store.forget(&shared.instance)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "could not sign off"),
        Err(_) => tracing::debug!("could not sign off: Redis does not answer"),
    }
}

/// Shows life while a round lasts. Each round begins by doing so itself.
async fn beat_on(shared: &Shared) -> Infallible {
    loop {
        tokio::time::sleep(BEAT).await;
        if let Err(error) = shared.store.beat(&shared.instance).await {
            // The round meets it too, and says so.
            tracing::debug!(%error, "no sign of life");
        }
    }
}

impl Watchman {
    async fn round(&mut self) -> Result<(), StoreError> {
        let shared = Arc::clone(&self.shared);
        shared.store.beat(&shared.instance).await?;
        self.look_at_others(shared.store.beats().await?).await?;
        for (id, by) in shared.store.requests().await? {
            let Some(live) = shared.driven(&id) else { continue };
            // Done once it is written down: a driver that dies before has heard it for nothing, and the next one must hear it too.
            let is_stored = |state: &State| !live.is_adrift() && (state.stop.is_some() || state.status.is_final());
            if live.state.try_read().is_ok_and(|state| is_stored(&state)) {
                shared.store.request_done(&id).await?;
            } else {
                let _ = live.inbox.send(Message::Cancel { by });
            }
        }
        self.look_at_workflows().await?;
        if self.cleaned.elapsed() >= (shared.retention / 4).clamp(CLEAN_EVERY.0, CLEAN_EVERY.1) {
            self.cleaned = Instant::now();
            self.clean().await?;
        }
        Ok(())
    }

    async fn look_at_others(&mut self, beats: HashMap<String, u64>) -> Result<(), StoreError> {
        // While Redis was away, or this process stood still, nobody could show life either.
        let passed = self.looked.elapsed().min(BEAT * 2);
        self.looked = Instant::now();
        self.seen.retain(|instance, _| beats.contains_key(instance));
        for (instance, beats) in beats {
            let seen = self.seen.entry(instance.clone()).or_insert(Seen { beats, still: Duration::ZERO });
            if seen.beats == beats {
                seen.still += passed;
            } else {
                *seen = Seen { beats, still: Duration::ZERO };
            }
            if seen.still >= FORGET_AFTER && instance != self.shared.instance {
                self.shared.store.forget(&instance).await?;
            }
        }
        Ok(())
    }

    /// Whether nobody drives the workflows of that coordinator any more.
    fn is_dead(&self, instance: &str) -> bool {
        // An earlier process with the same key is none but another coordinator: it may be running still.
        self.seen.get(instance).is_none_or(|seen| seen.still >= DEAD_AFTER)
    }

    async fn look_at_workflows(&mut self) -> Result<(), StoreError> {
        let shared = Arc::clone(&self.shared);
        let active = shared.store.active().await?;
        let known: std::collections::HashSet<&WorkflowId> = active.iter().collect();
        self.owners.retain(|id, _| known.contains(id));
        // Whoever takes one for a submission that came to nothing takes it out of the list; nobody would find it again.
        let driven: Vec<Arc<Live>> = {
            let driven = shared.driven.read().unwrap_or_else(PoisonError::into_inner);
            driven.values().filter(|live| !known.contains(&live.id)).cloned().collect()
        };
        for live in driven {
            if live.state.try_read().is_ok_and(|state| !state.status.is_final()) {
                shared.store.note_active(&live.id).await?;
            }
        }
        for id in &active {
            let broken = shared.broken.lock().unwrap_or_else(PoisonError::into_inner).contains(id);
            if broken || shared.driven(id).is_some() {
                continue;
            }
            let believed = self.owners.get(id).is_some_and(|owned| {
                let alive = owned.meta.as_ref().is_some_and(|meta| !self.is_dead(&meta.owner));
                alive && owned.read.elapsed() < OWNERS_FOR
            });
            if !believed {
                self.look_at(id).await?;
            }
        }
        Ok(())
    }

    async fn look_at(&mut self, id: &WorkflowId) -> Result<(), StoreError> {
        let shared = Arc::clone(&self.shared);
        let meta = match shared.store.meta(id).await {
            Err(error @ StoreError::Corrupt { .. }) => {
                shared.lost(id, &error);
                return Ok(());
            }
            read => read?,
        };
        let is_odd = meta.as_ref().is_none_or(|meta| meta.owner == shared.instance);
        let odd = is_odd.then(|| self.owners.get(id).and_then(|owned| owned.odd).unwrap_or_else(Instant::now));
        let rewound = shared.rewound.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
        let for_long = rewound || odd.is_some_and(|since| since.elapsed() >= BEING_SUBMITTED);
        self.owners.insert(id.clone(), Owned { meta: meta.clone(), read: Instant::now(), odd });
        let Some(meta) = meta else {
            return if for_long { shared.store.note_ended(id).await } else { Ok(()) };
        };
        let free = if is_odd { for_long } else { self.is_dead(&meta.owner) };
        if !free || !meta.coordinators.contains(&shared.me) {
            return Ok(());
        }
        match take(&shared, id, &meta).await {
            // Told already; the others go on.
            Err(StoreError::Corrupt { .. }) => Ok(()),
            Err(error) => {
                // It may be this coordinator's already: it need not wait until that looks odd.
                shared.rewound.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone());
                Err(error)
            }
            Ok(()) => Ok(()),
        }
    }

    /// Forgets what has had its time: ids of workflows that have expired, requests that came too late, old announcements.
    async fn clean(&self) -> Result<(), StoreError> {
        let store = &self.shared.store;
        let before = Timestamp::now().saturating_sub(BEING_SUBMITTED);
        loop {
            let oldest = store.oldest(CLEAN_AT_ONCE).await?;
            let mut gone = Vec::new();
            for id in &oldest {
                if readable(store.kept(id).await)?.is_none_or(|kept| kept.is_some()) {
                    continue;
                }
                if let Some(meta) = readable(store.meta(id).await)?.flatten() {
                    store.list_out(Some(&meta.submitter), std::slice::from_ref(id)).await?;
                }
                gone.push(id.clone());
            }
            store.list_out(None, &gone).await?;
            if gone.len() < CLEAN_AT_ONCE {
                break;
            }
        }
        store.trim_lists(before).await?;
        for (id, _) in store.requests().await? {
            if readable(store.meta(&id).await)?.is_some_and(|meta| meta.is_none_or(|meta| meta.status.is_final())) {
                store.request_done(&id).await?;
            }
        }
        nodes::recall(&self.shared).await;
        Ok(())
    }
}

/// What was read, if it can be: what is broken about one workflow must not hold up the others.
fn readable<T>(read: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
    match read {
        Ok(read) => Ok(Some(read)),
        Err(StoreError::Corrupt { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Takes a workflow over and drives it.
///
/// # Errors
/// Redis does not answer: it may have been taken over, or not. Or it cannot be used: it is nobody's then.
pub(super) async fn take(shared: &Arc<Shared>, id: &WorkflowId, seen: &Meta) -> Result<(), StoreError> {
    let Some(epoch) = shared.store.take_over(id, seen, &shared.instance).await? else { return Ok(()) };
    let (live, inbox) = match load(shared, id).await {
        Ok(Some(loaded)) => loaded,
        // It ended, and has had its time; only that was never noted.
        Ok(None) if seen.status.is_final() => return shared.store.note_ended(id).await,
        missing => {
            let error = match missing {
                Ok(_) => StoreError::Corrupt { id: id.clone(), reason: "its signed envelope is gone".to_owned() },
                Err(error @ StoreError::Corrupt { .. }) => error,
                Err(error) => return Err(error),
            };
            shared.lost(id, &error);
            // Another coordinator may be able to read it, for example one of another version.
            shared.store.give_up(id, Writer { owner: &shared.instance, epoch }).await?;
            return Err(error);
        }
    };
    // A crash may have come between storing and listing.
    shared.store.list_in(id, &live.submitter(), live.created_at).await?;
    tracing::info!(workflow = %id, epoch, "workflow taken over");
    // How long the journal is since the snapshot is not known: the next snapshot comes a little early or late.
    Driver::spawn(shared, live, epoch, inbox, 0);
    Ok(())
}
