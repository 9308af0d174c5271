//! Getting around the daemon's 100 ms tick on links whose round trip takes less than 2 ms.
//!
//! The task in the daemon that sends a message begins to listen for acknowledgements 1 to 2 ms after
//! the first packet has left. On a LAN the acknowledgement is back before that, and the task then
//! sleeps until its next tick, 100 ms later; the same happens to the reply. But whatever else of that
//! daemon is acknowledged meanwhile wakes it.
//!
//! So some 3 ms after a request that goes alone, the caller sends a second message to the same topic,
//! which asks for nothing: the acknowledgement of its first packet wakes the request's task. The node
//! at the other end does not answer that message at once but parks it, and answers it some 4 ms after
//! it has answered the request: that wakes the task of the reply. The caller waits for the answer of
//! the parked message as for any reply, so nothing stays in an inbox. The first time two such messages
//! are sent, since the second message misses its own acknowledgement as well and is woken by the
//! third; later the one that was left over is there already.
//!
//! A message and its reply then cost four messages instead of two, so it is done only when no other is
//! in flight, only to peers where it was seen to help, and not often: [`FEW`], [`MANY`].

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::slot::{self, Allowance, Rate};

/// How long after a request the nudge follows: the request's task must be listening by then.
pub(super) const AFTER: Duration = Duration::from_micros(3000);
/// How long after its reply a parked message is answered.
const AFTER_REPLY: Duration = Duration::from_micros(3500);
/// How long a message is parked.
pub(super) const PARK: Duration = Duration::from_secs(20);
/// Parked messages of one caller.
const MAX_PARKED: usize = 3;
/// Parked messages of all callers. Anybody may send them, and each holds one of the places of `socket.rs`: they must be a small part
/// of those.
const MAX_ALL: usize = 64;
/// Nudged messages with few calls: so many a second, sustained, and at once.
const FEW: Rate = Rate { per_s: 2.0, burst: 30.0 };
/// The same for messages with many calls. They are nudged while there are not many of them: a nudge is
/// one message more, and what messages leave behind in the daemon must stay small (see `slot.rs`).
/// 64 callers then make 16,000 calls at full speed; the daemon has forgotten them after 10 minutes.
const MANY: Rate = Rate { per_s: 0.25, burst: 250.0 };
/// A nudge that is out for so long is parked at the node, or will be woken by the next message.
const PARKED: Duration = Duration::from_millis(5);
/// A call that takes at least so long, without its handler, has met the tick.
const TICKED: Duration = Duration::from_millis(90);
/// A call that takes longer has met something else.
const NOT_TICKED: Duration = Duration::from_millis(350);
/// So many nudged calls in a row that took as long as before: nudges do not help there.
const TRIES: u32 = 4;
/// How long nudges are then not tried again.
const PAUSE: Duration = Duration::from_secs(300);

/// Parked messages with their callers, the oldest first.
type Queue = VecDeque<(u128, oneshot::Sender<()>)>;

/// At the node that is called: the messages that wait to wake a reply.
#[derive(Clone, Default)]
pub(super) struct Parked(Arc<Mutex<Queue>>);

impl Parked {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Parks a message of that caller until it is woken. If there are too many, the oldest one is answered.
    pub(super) async fn wait(&self, session: u128, hold: Duration) {
        let (wake, woken) = oneshot::channel();
        {
            let mut parked = self.lock();
            parked.retain(|(_, wake)| !wake.is_closed());
            let mut own = parked.iter().enumerate().filter(|(_, (caller, _))| *caller == session).map(|(at, _)| at);
            let oldest = own.next();
            if let Some(at) = oldest.filter(|_| own.count() + 1 >= MAX_PARKED) {
                parked.remove(at);
            } else if parked.len() >= MAX_ALL {
                parked.pop_front();
            }
            parked.push_back((session, wake));
        }
        let _ = tokio::time::timeout(hold.min(PARK), woken).await;
    }

    /// Answers one parked message of that caller, once the reply that is written now is on its way.
    pub(super) fn wake_later(&self, session: u128) {
        if !self.lock().iter().any(|(caller, _)| *caller == session) {
            return;
        }
        let parked = self.clone();
        tokio::spawn(async move {
            // A nudge that comes right after its request may not be here yet.
            tokio::time::sleep(AFTER_REPLY).await;
            parked.wake(session);
        });
    }

    /// Answers all: the node stops.
    pub(super) fn wake_all(&self) {
        self.lock().clear();
    }

    fn wake(&self, session: u128) {
        let mut parked = self.lock();
        while let Some(at) = parked.iter().position(|(caller, _)| *caller == session) {
            if parked.remove(at).is_some_and(|(_, wake)| wake.send(()).is_ok()) {
                break;
            }
        }
    }
}

/// At the caller, for one peer: whether nudges help, and how many are out.
pub(super) struct Nudges(Mutex<State>);

struct State {
    /// When the nudges that are out were sent.
    out: Vec<Instant>,
    few: Allowance,
    many: Allowance,
    /// Calls in a row that met the tick although they were nudged.
    in_vain: u32,
    /// Whether a call met the tick.
    ticks: bool,
    pause_until: Option<Instant>,
}

impl Nudges {
    pub(super) fn new() -> Self {
        Self(Mutex::new(State {
            out: Vec::new(),
            few: Allowance::new(FEW),
            many: Allowance::new(MANY),
            in_vain: 0,
            ticks: false,
            pause_until: None,
        }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// How many nudges should go with a message of that many calls that goes alone now: none, one or
    /// two.
    pub(super) fn due(&self, calls: usize) -> usize {
        let now = Instant::now();
        let mut state = self.lock();
        if !state.ticks || state.pause_until.is_some_and(|until| until > now) {
            return 0;
        }
        let allowance = if calls >= slot::MANY { &mut state.many } else { &mut state.few };
        if !allowance.take(now) {
            return 0;
        }
        state.out.retain(|sent| now.duration_since(*sent) < PARK);
        if state.out.iter().any(|sent| now.duration_since(*sent) > PARKED) { 1 } else { 2 }
    }

    /// A nudge is sent; the value takes it back when it is answered.
    pub(super) fn sent(&self) -> Instant {
        let now = Instant::now();
        self.lock().out.push(now);
        now
    }

    /// A nudge was answered.
    pub(super) fn answered(&self, sent: Instant) {
        let mut state = self.lock();
        if let Some(at) = state.out.iter().position(|other| *other == sent) {
            state.out.swap_remove(at);
        }
    }

    /// A message that went alone took so long, without the time that the node needed.
    pub(super) fn learn(&self, took: Duration, nudged: bool) {
        let mut state = self.lock();
        let ticked = took >= TICKED && took <= NOT_TICKED;
        if !nudged {
            state.ticks |= ticked;
        } else if ticked {
            state.in_vain += 1;
            if state.in_vain >= TRIES {
                state.in_vain = 0;
                state.ticks = false;
                state.pause_until = Some(Instant::now() + PAUSE);
            }
        } else {
            state.in_vain = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_parked_message_is_woken_after_the_reply() {
        let parked = Parked::default();
        let begin = Instant::now();
        let waits = parked.clone();
        let wait = tokio::spawn(async move { waits.wait(1, PARK).await });
        tokio::task::yield_now().await;
        parked.wake_later(2);
        parked.wake_later(1);
        wait.await.unwrap();
        assert!(begin.elapsed() < Duration::from_millis(10));
        assert!(parked.lock().is_empty());
        parked.wait(1, Duration::from_secs(3600)).await;
        assert!(begin.elapsed() <= PARK + Duration::from_millis(10), "nothing is parked for ever");
    }

    #[tokio::test(start_paused = true)]
    async fn few_messages_are_parked_whoever_sends_them() {
        let parked = Parked::default();
        let mut waits = tokio::task::JoinSet::new();
        let mut park = |session| {
            let parked = parked.clone();
            waits.spawn(async move {
                parked.wait(session, PARK).await;
                session
            })
        };
        for _ in 0..5 {
            park(1);
        }
        (100..1000).for_each(|session| drop(park(session)));
        park(1);
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(parked.lock().len(), MAX_ALL);
        let mut answered = 0;
        while waits.try_join_next().is_some() {
            answered += 1;
        }
        assert_eq!(answered, 906 - MAX_ALL, "the others were answered");
        parked.wake_later(1);
        assert_eq!(waits.join_next().await.unwrap().unwrap(), 1, "the last to come is parked all the same");
    }

    #[tokio::test(start_paused = true)]
    async fn nudges_are_sent_only_where_they_help() {
        let nudges = Nudges::new();
        assert_eq!(nudges.due(1), 0, "no call met the tick yet");
        nudges.learn(Duration::from_millis(58), false);
        assert_eq!(nudges.due(1), 0);
        nudges.learn(Duration::from_millis(204), false);
        assert_eq!(nudges.due(1), 2);
        let sent = nudges.sent();
        assert_eq!(nudges.due(1), 2, "it is still on its way");
        tokio::time::sleep(PARKED * 2).await;
        assert_eq!(nudges.due(1), 1, "it is parked");
        nudges.answered(sent);
        assert_eq!(nudges.due(1), 2);
        for _ in 0..TRIES {
            nudges.learn(Duration::from_millis(204), true);
        }
        assert_eq!(nudges.due(1), 0, "they do not help");
    }

    #[tokio::test(start_paused = true)]
    async fn nudges_are_few() {
        let nudges = Nudges::new();
        nudges.learn(Duration::from_millis(204), false);
        let begin = Instant::now();
        let mut nudged = 0;
        while begin.elapsed() < Duration::from_secs(60) {
            nudged += usize::from(nudges.due(1) > 0);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!((100..=151).contains(&nudged), "{nudged}");
        let nudged = (0..1000).filter(|_| nudges.due(slot::MANY) > 0).count();
        assert_eq!(nudged, 250);
        tokio::time::sleep(Duration::from_secs(60)).await;
        let nudged = (0..1000).filter(|_| nudges.due(slot::MANY) > 0).count();
        assert!((14..=15).contains(&nudged), "{nudged}");
    }
}
