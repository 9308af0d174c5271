//! From the bytes of a message to the bytes of its reply.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::time::Instant;

use super::frame::{self, EntryHead, EntryState, MAX_MESSAGE, ReplyEntry, ReplyHead, RequestHead};
use super::ledger::{Ledger, Pending};
use super::nudge::Parked;
use super::slot::Slots;
use crate::dispatch::Dispatcher;
use crate::error::{ErrorKind, RpcError};
use crate::exchange::{Inbound, Reply};
use crate::rate::Origin;

/// No reply is held back longer.
pub(super) const MAX_HOLD: Duration = Duration::from_secs(60);
/// Entries that are done wait so long for the slower ones of their message.
const PATIENCE: Duration = Duration::from_millis(300);
/// When an entry ends that others waited for, those that end right after it travel with it.
const GATHER: Duration = Duration::from_millis(20);
/// While entries of a message end one soon after the other, they are not parted: what comes of calls that were made together, and
/// that keep the node busy, would take a message for every few of them. As long as that at most, from the message's arrival.
const TOGETHER: Duration = Duration::from_millis(1500);
/// How soon one after the other that is.
const STEADY: Duration = Duration::from_millis(100);
/// How long an entry may go on after its caller's time, so that its reply is there when it is asked
/// for once more.
const GRACE: Duration = Duration::from_secs(1);
/// What a reply holds besides the replies of its entries.
const OVERHEAD: usize = frame::HEAD_OVERHEAD;

/// Answers the messages of one topic.
pub(super) struct Answerer {
    dispatcher: Dispatcher,
    ledger: Ledger,
    /// Tells this run of the node from others.
    run: u64,
    /// When the daemon started.
    daemon_start: AtomicU64,
    parked: Parked,
    slots: Slots,
}

impl Answerer {
    pub(super) fn new(dispatcher: Dispatcher) -> Self {
        let daemon_start = AtomicU64::new(0);
        let (ledger, parked, slots) = (Ledger::new(), Parked::default(), Slots::new());
        Self { dispatcher, ledger, run: super::random(), daemon_start, parked, slots }
    }

    /// The daemon runs since then.
    pub(super) fn set_daemon_start(&self, start: u64) {
        self.daemon_start.store(start, Ordering::Relaxed);
    }

    /// The node stops: what waits is answered.
    pub(super) fn stop(&self) {
        self.dispatcher.stop();
        self.parked.wake_all();
    }

    pub(super) fn dispatcher(&self) -> &Dispatcher {
        &self.dispatcher
    }

    /// The reply to a message: at least one byte, or the message would fall into the daemon's inbox.
    pub(super) async fn answer(&self, message: Bytes, origin: Origin) -> Bytes {
        let begin = Instant::now();
        if !frame::is_frame(&message) {
            let reply = self.dispatcher.dispatch(Inbound { body: message, authorization: None, origin }).await;
            return within_limit(reply, MAX_MESSAGE - OVERHEAD).body.map_or_else(nothing, frame::deliverable);
        }
        let (head, bodies) = match frame::decode_request(&message) {
            Ok(decoded) => decoded,
            Err(e) => return refuse(&e),
        };
        let Ok(session) = u128::from_str_radix(&head.session, 16) else {
            return refuse(&RpcError::new(ErrorKind::InvalidRequest, "the session of a frame is 32 hex digits"));
        };
        if head.nudge {
            // One that was polled for came too late to wake a reply, and there are few places for those.
            if matches!(origin, Origin::Mesh(_)) {
                return self.encode(Vec::new(), &[], begin);
            }
            self.parked.wait(session, Duration::from_millis(head.hold_ms)).await;
            return self.encode(Vec::new(), &[], begin);
        }
        let mut entries: Vec<(u64, Option<Pending>)> = Vec::with_capacity(head.entries.len());
        for (entry, body) in head.entries.iter().zip(bodies) {
            entries.push((entry.n, self.pending(session, entry, body, origin)));
        }
        hold(&head, &mut entries).await;
        self.slots.next(entries.len()).await;
        let reply = self.collect(&entries, begin);
        self.parked.wake_later(session);
        reply
    }

    /// Joins or starts an entry; `None` if it should go on but is not known.
    fn pending(&self, session: u128, entry: &EntryHead, body: Bytes, origin: Origin) -> Option<Pending> {
        let key = (session, entry.n);
        if entry.resume {
            return self.ledger.find(key);
        }
        let authorization = entry.auth.clone();
        let dispatcher = self.dispatcher.clone();
        let limit = Duration::from_millis(entry.wait_ms).saturating_add(GRACE);
        Some(self.ledger.join(key, limit, move || {
            async move { dispatcher.dispatch(Inbound { body, authorization, origin }).await }.boxed()
        }))
    }

    /// Writes the replies of all entries that are done, as many as fit into a message.
    fn collect(&self, entries: &[(u64, Option<Pending>)], begin: Instant) -> Bytes {
        let mut heads = Vec::with_capacity(entries.len());
        let mut bodies = Vec::new();
        let room = MAX_MESSAGE - OVERHEAD - entries.len() * frame::ENTRY_OVERHEAD;
        let mut used = 0;
        for (n, pending) in entries {
            let entry = |state, len| ReplyEntry { n: *n, state, len };
            let reply = match pending {
                None => {
                    heads.push(entry(EntryState::Lost, 0));
                    continue;
                }
                Some(pending) => pending.reply(),
            };
            let alone = MAX_MESSAGE - OVERHEAD - frame::MAX_ENTRIES * frame::ENTRY_OVERHEAD;
            heads.push(match reply.map(|reply| within_limit(reply, alone)) {
                None => entry(EntryState::Again, 0),
                Some(Reply { body: None, .. }) => entry(EntryState::Silent, 0),
                Some(Reply { body: Some(body), .. }) if used + body.len() > room => entry(EntryState::Again, 0),
                Some(Reply { body: Some(body), .. }) => {
                    used += body.len();
                    bodies.push(body);
                    entry(EntryState::Done, bodies.last().map_or(0, Bytes::len))
                }
            });
        }
        self.encode(heads, &bodies, begin)
    }

    fn encode(&self, entries: Vec<ReplyEntry>, bodies: &[Bytes], begin: Instant) -> Bytes {
        let took_ms = u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX);
        let boot = format!("{:x}-{:x}", self.run, self.daemon_start.load(Ordering::Relaxed));
        frame::encode(&ReplyHead { boot, took_ms, entries }, bodies)
    }
}

/// Waits until the reply should go: when all is done; or when something is and the rest takes long; or
/// when the caller wants to hear anything.
async fn hold(head: &RequestHead, entries: &mut [(u64, Option<Pending>)]) {
    let begin = Instant::now();
    let until = begin + Duration::from_millis(head.hold_ms).min(MAX_HOLD);
    // What must be sent again must be so at once.
    let is_lost = entries.iter().any(|(_, pending)| pending.is_none());
    if is_lost || head.hold_ms == 0 {
        return;
    }
    let total = entries.len();
    let mut running: FuturesUnordered<_> = entries
        .iter_mut()
        .filter_map(|(_, pending)| pending.as_mut())
        .filter(|pending| !pending.is_done())
        .map(Pending::done)
        .collect();
    let mut any_done = running.len() < total;
    let patience = if head.first { GATHER } else { PATIENCE };
    let mut leave = if any_done { begin + patience } else { until };
    loop {
        tokio::select! {
            biased;
            next = running.next() => match next {
                None => return,
                Some(()) if !any_done => {
                    any_done = true;
                    leave = (begin + patience).max(Instant::now() + GATHER);
                }
                Some(()) if !head.first => {
                    let steady = (Instant::now() + STEADY).min(begin + TOGETHER);
                    leave = leave.max(steady);
                }
                Some(()) => {}
            },
            () = tokio::time::sleep_until(leave.min(until)) => return,
        }
    }
}

/// The reply, or a refusal if it is too long for a message.
fn within_limit(reply: Reply, limit: usize) -> Reply {
    match &reply.body {
        Some(body) if body.len() > limit => Reply::refusal(
            &RpcError::new(
                ErrorKind::TooLarge,
                format!(
                    "the reply has {} bytes, but over Mycelium messages it may have {limit}: ask for less at once, \
                     or call this node over HTTP",
                    body.len()
                ),
            )
            .with("limit", limit),
        ),
        _ => reply,
    }
}

/// The refusal of a whole message.
pub(super) fn refuse(error: &RpcError) -> Bytes {
    Reply::refusal(error).body.map_or_else(nothing, frame::deliverable)
}

/// What answers a message that is owed no answer.
fn nothing() -> Bytes {
    Bytes::from_static(b"\n")
}
