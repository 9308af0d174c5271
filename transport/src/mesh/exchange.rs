//! One message and its reply, or what became of them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use horus_keys::Timestamp;
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::answer::MAX_HOLD;
use super::daemon::{DaemonError, Message, Progress, Pushed};
use super::frame::{self, EntryHead, EntryState, ReplyHead, RequestHead};
use super::lane::Lane;
use super::nudge;
use super::peer::{Core, Entry};
use super::places::{Place, Purpose};
use super::socket::call_local;
use crate::error::{ErrorKind, RpcError};

/// A batch is sent so often before its callers are told that it does not work.
const ATTEMPTS: u32 = 4;
/// A message that should be answered at once is asked after when no reply has come for so long.
const QUIET: Duration = Duration::from_millis(600);
/// A long poll that is sent to a peer which was heard so lately is not asked after.
const TRUSTED_SILENCE: Duration = Duration::from_secs(10);
/// While the peer was heard so lately, its other messages need no asking after.
const HEARD: Duration = Duration::from_millis(800);
/// ... but for no longer than that.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the peer may take to say how far a message is, the first time and later ones.
const FIRST_ASK: Duration = Duration::from_secs(1);
const ASK: Duration = Duration::from_secs(2);
/// How soon it is asked again about a call that goes on there.
const NEXT: Duration = Duration::from_secs(10);
/// How long a message waits at the node, and how long when many others wait for places at the daemon. What has no reply by then goes on in
/// the lane of long polls: calls that take long hold up no others.
const HOLD: (Duration, Duration) = (Duration::from_secs(2), Duration::from_millis(500));
/// The same in that lane.
const LONG_HOLD: (Duration, Duration) = (MAX_HOLD, Duration::from_secs(5));
/// How long a reply may be under way after it was due.
const TRAVEL: Duration = Duration::from_secs(5);

/// What came of a message.
enum Heard {
    /// A reply, which may not answer all.
    Reply(ReplyHead, Vec<Bytes>),
    /// The node refused the message as a whole.
    Refused(RpcError),
    /// The message or its reply was lost, or the node lost what it knew: send it again.
    Lost,
}

/// What came of asking after a message.
enum Probe {
    Reply(ReplyHead, Vec<Bytes>),
    /// The peer's daemon did not answer.
    Unreachable,
    /// It did, but nobody answered for the topic.
    Unserved,
    /// It is not to be told yet.
    Unclear,
    Failed(RpcError),
}

impl Core {
    /// Sends a batch and hands the replies to its callers, until all have one or are told why not.
    /// Returns those whose calls go on at the node. `place` is that of the batch at the daemon.
    pub(super) async fn exchange(
        self: Arc<Self>,
        mut batch: Vec<Entry>,
        lane: Lane,
        alone: bool,
        place: Option<Place>,
    ) -> Vec<Entry> {
        let _place = place;
        let mut attempt = 0;
        loop {
            let now = Instant::now();
            batch.retain(|entry| entry.is_wanted(now));
            if batch.is_empty() {
                return batch;
            }
            attempt += 1;
            let heard = self.once(&mut batch, lane, alone && attempt == 1).await;
            let error = match heard {
                Ok(Heard::Reply(head, bodies)) => {
                    if deliver(&mut batch, &head, bodies) == 0 {
                        return batch;
                    }
                    None
                }
                Ok(Heard::Refused(error)) => {
                    // A node that says so has taken nothing of the message.
                    let is_node = error.kind != ErrorKind::InvalidReply;
                    batch.iter().filter(|entry| is_node && entry.fresh).for_each(|entry| entry.sendings.undo());
                    Some(error)
                }
                Ok(Heard::Lost) => None,
                Err(error) if error.kind == ErrorKind::DaemonDown && attempt < ATTEMPTS => {
                    self.watcher.look();
                    tokio::time::sleep(Duration::from_millis(100) * (1 << attempt)).await;
                    None
                }
                Err(error) => Some(error),
            };
            if let Some(error) = error.as_ref().filter(|error| error.kind == ErrorKind::PeerUnreachable) {
                self.gone.send_replace(Some(error.clone()));
            }
            let given_up = (attempt >= ATTEMPTS && !batch.is_empty()).then(|| self.given_up());
            if let Some(error) = error.or(given_up) {
                refuse(batch, &error);
                return Vec::new();
            }
        }
    }

    fn given_up(&self) -> RpcError {
        RpcError::new(
            ErrorKind::PeerUnreachable,
            format!("{ATTEMPTS} messages to {self} were lost, though its daemon answers: try again in a moment"),
        )
    }

    /// Sends the batch once.
    async fn once(self: &Arc<Self>, batch: &mut Vec<Entry>, lane: Lane, alone: bool) -> Result<Heard, RpcError> {
        self.until_linked(QUIET + FIRST_ASK).await?;
        // Whoever gave up meanwhile was told that the call had not left.
        batch.retain(|entry| entry.sent || entry.sendings.begin().is_ok());
        if batch.is_empty() {
            return Ok(Heard::Lost);
        }
        let now = Instant::now();
        let longest = batch.iter().map(|entry| entry.deadline).max().unwrap_or(now);
        let hold = if lane == Lane::Long { LONG_HOLD } else { HOLD };
        let hold = if self.daemon.is_crowded(lane.purpose()) { hold.1 } else { hold.0 };
        let hold = longest.saturating_duration_since(now).min(hold);
        let message = self.message(batch, hold, lane == Lane::Long);
        batch.iter_mut().for_each(|entry| entry.fresh = !std::mem::replace(&mut entry.sent, true));
        if self.is_own() {
            return self.local(&message, now + hold + TRAVEL).await;
        }
        let mut gone = self.gone.subscribe();
        let mut boot = self.boot.subscribe();
        let nudges = if alone && lane == Lane::Normal { self.nudges.due(batch.len()) } else { 0 };
        for n in 1..=nudges {
            tokio::spawn(Arc::clone(self).nudge(nudge::AFTER * n as u32));
        }
        let push = self.daemon.push(self.ip, &self.topic, &message, hold + TRAVEL);
        tokio::pin!(push);
        let polls = batch.iter().all(|entry| entry.long_poll);
        let mut ask_at = now + self.patience(lane, polls);
        let mut asking: Option<BoxFuture<'_, Probe>> = None;
        let mut round = 0;
        loop {
            tokio::select! {
                biased;
                pushed = &mut push => {
                    let heard = self.pushed(pushed).await?;
                    if let (Heard::Reply(head, _), Lane::Normal) = (&heard, lane) {
                        let took = now.elapsed().saturating_sub(Duration::from_millis(head.took_ms));
                        self.measured(took);
                        if alone {
                            self.nudges.learn(took, nudges > 0);
                        }
                    }
                    return Ok(heard);
                }
                probe = async { asking.as_mut().expect("asked only if it is there").await }, if asking.is_some() => {
                    asking = None;
                    round += 1;
                    match probe {
                        Probe::Reply(head, bodies) => {
                            let before = batch.len();
                            let lost = deliver(batch, &head, bodies);
                            if lost > 0 || batch.len() < before {
                                // What is done was answered, but the answer did not come.
                                return Ok(Heard::Lost);
                            }
                            // It is there, and so is what it holds back.
                            ask_at = Instant::now() + NEXT.max(self.patience(lane, polls));
                        }
                        Probe::Unreachable if self.is_gone(round) => return Err(self.unreachable()),
                        Probe::Unserved if round > 1 => return Err(self.unserved()),
                        Probe::Unclear if round > 3 => return Err(self.unreachable()),
                        Probe::Failed(e) => return Err(e),
                        Probe::Unreachable | Probe::Unserved | Probe::Unclear => ask_at = Instant::now(),
                    }
                }
                () = tokio::time::sleep_until(ask_at), if asking.is_none() => {
                    if round == 0 && self.silence() < HEARD && now.elapsed() < PATIENCE {
                        ask_at = Instant::now() + HEARD.saturating_sub(self.silence());
                    } else {
                        let numbers = batch.iter().map(|entry| entry.n).collect();
                        let wait = if round == 0 { FIRST_ASK } else { ASK };
                        asking = Some(self.probe(numbers, wait).boxed());
                    }
                }
                Ok(()) = gone.changed() => {
                    if let Some(error) = gone.borrow_and_update().clone() {
                        return Err(error);
                    }
                }
                // Node or daemon were restarted: it may have forgotten us.
                Ok(()) = boot.changed() => {
                    boot.borrow_and_update();
                    ask_at = Instant::now();
                    round = round.max(1);
                }
            }
        }
    }

    /// Whether a peer whose daemon did not answer is given up. Where there is another path, at once: a
    /// daemon that was only slow is found again soon.
    fn is_gone(&self, round: u32) -> bool {
        round > 1 || self.has_alternative.load(Ordering::Relaxed) || self.silence() > TRUSTED_SILENCE / 3
    }

    /// How long a message may stay unanswered before it is asked after. `polls`: all that it holds wait for something to happen.
    fn patience(&self, lane: Lane, polls: bool) -> Duration {
        match lane {
            Lane::Normal => QUIET.max(self.rtt().unwrap_or_default().min(TRAVEL) * 3),
            Lane::Long if self.silence() >= TRUSTED_SILENCE => QUIET * 2,
            Lane::Long if polls => MAX_HOLD * 2,
            Lane::Long => NEXT,
        }
    }

    fn message(&self, batch: &[Entry], hold: Duration, first: bool) -> Bytes {
        let now = Instant::now();
        let mut bodies = Vec::with_capacity(batch.len());
        let entries = batch.iter().map(|entry| {
            let wait_ms = millis(entry.deadline.saturating_duration_since(now));
            if entry.sent {
                return EntryHead { n: entry.n, len: 0, auth: None, wait_ms, resume: true };
            }
            bodies.push(entry.body.clone());
            EntryHead { n: entry.n, len: entry.body.len(), auth: entry.authorization.clone(), wait_ms, resume: false }
        });
        let entries = entries.collect();
        frame::encode(&self.head(hold, first, entries), &bodies)
    }

    fn head(&self, hold: Duration, first: bool, entries: Vec<EntryHead>) -> RequestHead {
        let sent_at = Timestamp::now().as_millis();
        RequestHead { session: self.session.clone(), sent_at, hold_ms: millis(hold), first, nudge: false, entries }
    }

    async fn pushed(&self, pushed: Result<Pushed, DaemonError>) -> Result<Heard, RpcError> {
        match pushed? {
            Pushed::Reply(message) => self.read(&message),
            Pushed::Id { id } => match self.daemon.progress(&id).await? {
                Some(Progress::Pending | Progress::Aborted) => Err(self.unreachable()),
                _ => Ok(Heard::Lost),
            },
        }
    }

    /// Reads a reply, if it is from whom it should be.
    fn read(&self, message: &Message) -> Result<Heard, RpcError> {
        let is_peer = message.src_ip == self.ip
            && message.src_pk.overlay_address() == self.ip
            && self.key.is_none_or(|key| key == message.src_pk);
        if !is_peer {
            return Err(RpcError::new(
                ErrorKind::InvalidReply,
                format!("{} answered in the place of {self}: do not trust it", message.src_ip),
            ));
        }
        self.hear();
        self.gone.send_if_modified(|gone| gone.take().is_some());
        self.take(&message.payload)
    }

    fn take(&self, payload: &Bytes) -> Result<Heard, RpcError> {
        if !frame::is_frame(payload) {
            return Ok(Heard::Refused(refusal(payload)));
        }
        let (head, bodies) = frame::decode_reply(payload)
            .map_err(|e| RpcError::new(ErrorKind::InvalidReply, format!("the reply of {self}: {}", e.message)))?;
        self.boot.send_if_modified(|boot| {
            let is_other = *boot != head.boot;
            let was_known = !boot.is_empty();
            boot.clone_from(&head.boot);
            is_other && was_known
        });
        Ok(Heard::Reply(head, bodies))
    }

    /// This host's own role is called through the socket that the daemon would hand the message to.
    async fn local(&self, message: &[u8], deadline: Instant) -> Result<Heard, RpcError> {
        let path = self.daemon.socket(&self.topic).await?.ok_or_else(|| self.unserved())?;
        match call_local(path.as_ref(), message, deadline).await {
            Ok(reply) => self.take(&reply),
            Err(e) if e.kind() == std::io::ErrorKind::TimedOut => Ok(Heard::Lost),
            Err(e) => {
                let mut error = self.unserved();
                error.message = format!("{} ({path}: {e})", error.message);
                Err(error)
            }
        }
    }

    /// Waits so long for a daemon that has just come up to have a link to another one.
    async fn until_linked(&self, wait: Duration) -> Result<(), RpcError> {
        if self.is_own() { Ok(()) } else { self.watcher.until_linked(self.ip, wait).await }
    }

    /// Asks how far those entries are: without their bodies, and answered at once.
    async fn probe(&self, numbers: Vec<u64>, wait: Duration) -> Probe {
        let entry = |n| EntryHead { n, len: 0, auth: None, wait_ms: 0, resume: true };
        let head = self.head(Duration::ZERO, false, numbers.into_iter().map(entry).collect());
        let message = frame::encode(&head, &[]);
        // One that lies at the daemon for longer must not hold up the others.
        let pushed = if wait > ASK {
            self.daemon.ping(self.ip, &self.topic, &message, wait).await
        } else {
            let _place = self.daemon.place(Purpose::Probe).await;
            self.daemon.push(self.ip, &self.topic, &message, wait).await
        };
        match pushed {
            Ok(Pushed::Reply(message)) => match self.read(&message) {
                Ok(Heard::Reply(head, bodies)) => Probe::Reply(head, bodies),
                Ok(Heard::Refused(e)) => Probe::Failed(e),
                Ok(Heard::Lost) => Probe::Unclear,
                Err(e) => Probe::Failed(e),
            },
            Ok(Pushed::Id { id }) => match self.daemon.progress(&id).await {
                Ok(Some(Progress::Pending | Progress::Aborted)) => Probe::Unreachable,
                Ok(Some(Progress::Received)) => Probe::Unserved,
                Ok(Some(Progress::Sending) | None) => Probe::Unclear,
                Err(e) => Probe::Failed(e.into()),
            },
            Err(e) => Probe::Failed(e.into()),
        }
    }

    /// Asks whether the peer is there, which takes `wait` if it is not, or less while many others are asked. The daemon goes on trying all the while, so that a
    /// peer that comes back meanwhile is heard at once.
    pub(super) async fn ping(&self, wait: Duration) -> Result<Duration, RpcError> {
        self.until_linked(wait).await?;
        let begin = Instant::now();
        if self.is_own() {
            let message = frame::encode(&self.head(Duration::ZERO, false, Vec::new()), &[]);
            return self.local(&message, begin + TRAVEL).await.map(|_| begin.elapsed());
        }
        match self.probe(Vec::new(), wait).await {
            Probe::Reply(..) => Ok(begin.elapsed()),
            Probe::Unreachable | Probe::Unclear => Err(self.unreachable()),
            Probe::Unserved => Err(self.unserved()),
            Probe::Failed(e) => Err(e),
        }
    }

    /// Sends a message that wakes the daemons, and takes its answer.
    async fn nudge(self: Arc<Self>, after: Duration) {
        tokio::time::sleep(after).await;
        let head = RequestHead { nudge: true, ..self.head(nudge::PARK, false, Vec::new()) };
        let sent = self.nudges.sent();
        let message = frame::encode(&head, &[]);
        let _place = self.daemon.place(Purpose::Poll).await;
        let pushed = self.daemon.push(self.ip, &self.topic, &message, nudge::PARK + TRAVEL).await;
        let answer = pushed.map_err(RpcError::from).and_then(|pushed| match pushed {
            Pushed::Reply(message) => self.read(&message).map(|_| ()),
            Pushed::Id { .. } => Err(self.unreachable()),
        });
        if let Err(e) = answer {
            tracing::debug!("a nudge came to nothing: {e}");
        }
        self.nudges.answered(sent);
    }
}

/// Hands replies to their callers and keeps those that have none yet. Returns how many the node does
/// not know: they must be sent with their bodies.
fn deliver(batch: &mut Vec<Entry>, head: &ReplyHead, bodies: Vec<Bytes>) -> usize {
    let mut answers: HashMap<u64, (EntryState, Bytes)> =
        head.entries.iter().zip(bodies).map(|(entry, body)| (entry.n, (entry.state, body))).collect();
    let mut lost = 0;
    for mut entry in std::mem::take(batch) {
        match answers.remove(&entry.n) {
            Some((EntryState::Done, body)) => {
                let _ = entry.reply.send(Ok(Some(body)));
            }
            Some((EntryState::Silent, _)) => {
                let _ = entry.reply.send(Ok(None));
            }
            Some((EntryState::Lost, _)) => {
                lost += 1;
                entry.sent = false;
                batch.push(entry);
            }
            Some((EntryState::Again, _)) | None => batch.push(entry),
        }
    }
    lost
}

/// Tells the callers why there will be no reply.
pub(super) fn refuse(batch: impl IntoIterator<Item = Entry>, error: &RpcError) {
    for entry in batch {
        let _ = entry.reply.send(Err(error.clone()));
    }
}

/// The error in a reply that refuses a message as a whole.
fn refusal(payload: &[u8]) -> RpcError {
    #[derive(serde::Deserialize)]
    struct Refusal {
        error: Option<Box<RawValue>>,
    }
    let error = serde_json::from_slice::<Refusal>(payload).ok().and_then(|refusal| refusal.error);
    let error = error.and_then(|error| serde_json::from_str::<RpcError>(error.get()).ok());
    error.unwrap_or_else(|| {
        RpcError::new(
            ErrorKind::InvalidReply,
            "the host answered a message of Horus by something else: is the topic in the address that of a Horus role?",
        )
    })
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
