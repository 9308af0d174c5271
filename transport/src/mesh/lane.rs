//! Which calls travel together, and when: a message costs the daemon the same whatever it holds.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

use super::exchange;
use super::frame::{HEAD_OVERHEAD, MAX_ENTRIES, MAX_MESSAGE};
use super::peer::{Core, Entry};
use super::places::{Place, Purpose};
use crate::error::{ErrorKind, RpcError};

/// Messages of the normal lane in flight.
const MAX_FLYING: usize = 4;
/// Messages of long polls in flight.
const MAX_LONG: usize = 64;
/// Messages a second, sustained, while others are in flight; the daemon cannot take more for long.
const RATE: f64 = 25.0;
/// Messages that may follow one another at once while others are in flight.
const BURST: f64 = 4.0;
/// Messages beyond that, if none is in flight: a caller that waits for each reply hurts nobody at
/// first.
const DEBT: f64 = 200.0;
/// How soon another message may follow one that is in flight, if it is full.
const SPACING: Duration = Duration::from_millis(4);
/// How soon if it is not: callers that come meanwhile wait for that one, and travel together. At least
/// and at most; in between it is a little more than a message takes.
const GAP: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(150));
/// So many calls, or so many bytes of them, are a full message.
const FULL: (usize, usize) = (200, 512 << 10);
/// How long a long poll waits for others to travel with it.
const LINGER: Duration = Duration::from_millis(5);

/// Callers that were just answered may call again: so long they are waited for before what is in the
/// queue goes, at most and as long as none comes. A message that takes all of them costs the same.
const AGAIN: (Duration, Duration) = (Duration::from_millis(12), Duration::from_millis(2));

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lane {
    /// Calls that are answered as soon as may be.
    Normal,
    /// Calls that wait for something to happen, and those of the normal lane that turn out slow.
    Long,
}

impl Lane {
    pub(super) fn purpose(self) -> Purpose {
        match self {
            Self::Normal => Purpose::Call,
            Self::Long => Purpose::Poll,
        }
    }
}

/// How many messages may be sent.
struct Pace {
    tokens: f64,
    refilled: Instant,
    last: Instant,
}

impl Pace {
    fn new() -> Self {
        let now = Instant::now();
        Self { tokens: BURST, refilled: now, last: now - SPACING }
    }

    /// When a message may be sent, given how many are in flight and how soon after the last one; `None`
    /// not before one has come back.
    fn ready(&mut self, now: Instant, flying: usize, gap: Duration) -> Option<Instant> {
        self.tokens = (self.tokens + RATE * (now - self.refilled).as_secs_f64()).min(BURST);
        self.refilled = now;
        if flying >= MAX_FLYING {
            return None;
        }
        let floor = if flying == 0 { -DEBT } else { 1.0 };
        let missing = (floor - self.tokens).max(0.0);
        let paid = now + Duration::from_secs_f64(missing / RATE);
        Some(if flying == 0 { paid } else { paid.max(self.last + gap) })
    }

    fn sent(&mut self, now: Instant) {
        self.tokens -= 1.0;
        self.last = now;
    }
}

/// Callers that got their replies together, and will likely call again together.
struct Flock {
    /// How many calls wait when all of them have called again.
    expected: usize,
    answered: Instant,
    /// When the last one was answered or called.
    seen: Instant,
}

impl Flock {
    fn new() -> Self {
        let now = Instant::now();
        Self { expected: 0, answered: now, seen: now }
    }

    /// So many callers were answered, and so many calls wait.
    fn answered(&mut self, now: Instant, callers: usize, waiting: usize) {
        let missing = if now < self.seen + AGAIN.1 { self.expected.saturating_sub(waiting) } else { 0 };
        *self = Self { expected: waiting + missing + callers, answered: now, seen: now };
    }

    /// Until when what waits should stay, given how long a message takes.
    fn complete(&self, now: Instant, waiting: usize, rtt: Duration) -> Instant {
        if waiting >= self.expected {
            return now;
        }
        (self.answered + (rtt / 4).clamp(AGAIN.1, AGAIN.0)).min(self.seen + AGAIN.1)
    }
}

/// Sends what comes in through `inbox` until that is closed. Calls of the normal lane that turn out to
/// be slow go on in the lane `slow`.
pub(super) async fn run(
    core: Arc<Core>,
    lane: Lane,
    mut inbox: mpsc::Receiver<Entry>,
    slow: Option<mpsc::Sender<Entry>>,
) {
    let mut queue: VecDeque<Entry> = VecDeque::new();
    let mut flying: JoinSet<Landed> = JoinSet::new();
    let mut pace = Pace::new();
    let mut flock = Flock::new();
    let mut since = Instant::now();
    let mut is_open = true;
    while is_open || !queue.is_empty() || !flying.is_empty() {
        let now = Instant::now();
        let ready = if queue.is_empty() {
            None
        } else {
            match lane {
                Lane::Normal => pace.ready(now, flying.len(), gap(&core, &queue)).map(|at| match flying.len() {
                    0 => at.max(flock.complete(now, queue.len(), core.rtt().unwrap_or_default())),
                    _ => at,
                }),
                Lane::Long => (flying.len() < MAX_LONG).then_some(since + LINGER),
            }
        };
        if ready.is_some_and(|at| at <= now) {
            let Ok(place) = place(&core, lane, &mut queue).await else { continue };
            // What came while there was none travels with the rest.
            while let Some(landed) = flying.try_join_next() {
                land(landed, &mut flock, &mut queue, slow.as_ref());
            }
            drain(&mut inbox, &mut queue);
            if flying.is_empty() && lane == Lane::Normal {
                gather(&mut inbox, &mut queue).await;
            }
            if lane == Lane::Normal && !core.is_own() {
                core.daemon.slots.next(queue.len()).await;
                drain(&mut inbox, &mut queue);
            }
            if let Some(batch) = take_batch(&mut queue) {
                pace.sent(Instant::now());
                flock.expected = 0;
                let (alone, callers) = (flying.is_empty(), batch.len());
                let exchange = Arc::clone(&core).exchange(batch, lane, alone, place);
                flying.spawn(async move { (callers, exchange.await) });
            }
            continue;
        }
        tokio::select! {
            entry = inbox.recv(), if is_open => match entry {
                Some(entry) => {
                    if queue.is_empty() {
                        since = Instant::now();
                    }
                    queue.push_back(entry);
                    drain(&mut inbox, &mut queue);
                    flock.seen = Instant::now();
                }
                None => is_open = false,
            },
            Some(landed) = flying.join_next(), if !flying.is_empty() => {
                since = if queue.is_empty() { Instant::now() - LINGER } else { since };
                land(landed, &mut flock, &mut queue, slow.as_ref());
            }
            () = tokio::time::sleep_until(ready.unwrap_or(now)), if ready.is_some() => {}
        }
    }
}

/// Of a message that is no longer in flight: how many calls it held, and those that go on at the node.
type Landed = (usize, Vec<Entry>);

/// Has calls that go on at the node waited for: in the lane of long polls.
fn land(
    landed: Result<Landed, JoinError>,
    flock: &mut Flock,
    queue: &mut VecDeque<Entry>,
    slow: Option<&mpsc::Sender<Entry>>,
) {
    let Ok((callers, back)) = landed else { return };
    flock.answered(Instant::now(), callers - back.len(), queue.len());
    match slow {
        Some(slow) => back.into_iter().for_each(|entry| pass_on(slow, entry)),
        None => queue.extend(back),
    }
}

/// Waits for a place at the daemon, if one is needed. When the peer is found gone meanwhile, those in the queue are told.
async fn place(core: &Core, lane: Lane, queue: &mut VecDeque<Entry>) -> Result<Option<Place>, ()> {
    if core.is_own() {
        return Ok(None);
    }
    let mut gone = core.gone.subscribe();
    let place = core.daemon.place(lane.purpose());
    tokio::pin!(place);
    loop {
        tokio::select! {
            biased;
            place = &mut place => return Ok(Some(place)),
            Ok(()) = gone.changed() => if let Some(error) = gone.borrow_and_update().clone() {
                exchange::refuse(queue.drain(..), &error);
                return Err(());
            }
        }
    }
}

/// How soon a message may follow one that is in flight.
fn gap(core: &Core, queue: &VecDeque<Entry>) -> Duration {
    let is_full = queue.len() >= FULL.0 || queue.iter().map(Entry::size).sum::<usize>() >= FULL.1;
    if is_full {
        return SPACING;
    }
    let rtt = core.rtt().unwrap_or(GAP.1);
    (rtt * 5 / 4 + SPACING).clamp(GAP.0, GAP.1)
}

/// Lets callers that are just about to call come along.
async fn gather(inbox: &mut mpsc::Receiver<Entry>, queue: &mut VecDeque<Entry>) {
    for _ in 0..3 {
        tokio::task::yield_now().await;
        drain(inbox, queue);
    }
}

fn drain(inbox: &mut mpsc::Receiver<Entry>, queue: &mut VecDeque<Entry>) {
    while let Ok(entry) = inbox.try_recv() {
        queue.push_back(entry);
    }
}

fn pass_on(slow: &mpsc::Sender<Entry>, entry: Entry) {
    if let Err(mpsc::error::TrySendError::Full(entry) | mpsc::error::TrySendError::Closed(entry)) = slow.try_send(entry)
    {
        let error = RpcError::new(ErrorKind::RateLimited, "too many calls wait for this node: call it less at once");
        let _ = entry.reply.send(Err(error));
    }
}

/// Takes as many calls from the front as fit into one message; calls that nobody waits for any more
/// are dropped.
fn take_batch(queue: &mut VecDeque<Entry>) -> Option<Vec<Entry>> {
    let now = Instant::now();
    let mut batch = Vec::new();
    let mut size = HEAD_OVERHEAD;
    while let Some(entry) = queue.front() {
        if !entry.is_wanted(now) {
            queue.pop_front();
            continue;
        }
        size += entry.size();
        if batch.len() == MAX_ENTRIES || (size > MAX_MESSAGE && !batch.is_empty()) {
            break;
        }
        batch.extend(queue.pop_front());
    }
    (!batch.is_empty()).then_some(batch)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use tokio::sync::oneshot;

    fn entry(n: u64, len: usize) -> (Entry, oneshot::Receiver<super::super::peer::Outcome>) {
        let (reply, outcome) = oneshot::channel();
        let deadline = Instant::now() + Duration::from_secs(5);
        let body = Bytes::from(vec![b' '; len]);
        let sendings = crate::carrier::Sendings::default();
        (
            Entry {
                n,
                body,
                authorization: None,
                deadline,
                sent: false,
                fresh: false,
                long_poll: false,
                sendings,
                reply,
            },
            outcome,
        )
    }

    #[tokio::test]
    async fn batches_keep_their_bounds_and_the_order() {
        let mut keep = Vec::new();
        let mut queue = VecDeque::new();
        for n in 0..600 {
            let (entry, outcome) = entry(n, 10);
            queue.push_back(entry);
            keep.push(outcome);
        }
        keep.remove(3);
        let batch = take_batch(&mut queue).unwrap();
        assert_eq!(batch.len(), MAX_ENTRIES);
        assert_eq!(batch.iter().map(|e| e.n).take(4).collect::<Vec<_>>(), [0, 1, 2, 4], "nobody waits for 3");
        assert_eq!(take_batch(&mut queue).unwrap().len(), MAX_ENTRIES);
        assert_eq!(take_batch(&mut queue).unwrap().len(), 599 - 2 * MAX_ENTRIES);
        assert!(take_batch(&mut queue).is_none());
        for n in 0..3 {
            let (entry, outcome) = entry(n, MAX_MESSAGE / 3);
            queue.push_back(entry);
            keep.push(outcome);
        }
        assert_eq!(take_batch(&mut queue).unwrap().len(), 2);
        assert_eq!(take_batch(&mut queue).unwrap().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn callers_that_were_answered_together_are_waited_for_but_not_for_long() {
        let rtt = Duration::from_millis(60);
        let now = Instant::now();
        let mut flock = Flock::new();
        assert_eq!(flock.complete(now, 1, rtt), now, "nobody was answered: nobody is waited for");
        flock.answered(now, 1, 0);
        assert_eq!(flock.complete(now, 1, rtt), now, "a single caller never waits");
        flock.answered(now, 60, 4);
        assert_eq!(flock.complete(now, 63, rtt), now + AGAIN.1, "the last one does not come");
        assert_eq!(flock.complete(now, 64, rtt), now);
        flock.answered(now, 10, 30);
        assert_eq!(flock.expected, 74, "those of the message before are still waited for");
        flock.seen = now + Duration::from_secs(1);
        assert_eq!(flock.complete(now, 1, rtt), now + AGAIN.0);
        assert_eq!(flock.complete(now, 1, Duration::from_millis(20)), now + Duration::from_millis(5));
    }

    #[tokio::test(start_paused = true)]
    async fn messages_are_few_while_others_are_in_flight() {
        let mut pace = Pace::new();
        let begin = Instant::now();
        let mut count = 0;
        while begin.elapsed() < Duration::from_secs(10) {
            let at = pace.ready(Instant::now(), 2, SPACING).unwrap();
            tokio::time::sleep_until(at).await;
            pace.sent(Instant::now());
            count += 1;
        }
        assert!((240..=260).contains(&count), "{count}");
        assert!(pace.ready(Instant::now(), MAX_FLYING, SPACING).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_each_reply_is_not_held_up_at_first() {
        let mut pace = Pace::new();
        for _ in 0..200 {
            assert_eq!(pace.ready(Instant::now(), 0, GAP.1), Some(Instant::now()));
            pace.sent(Instant::now());
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        for _ in 0..=(BURST + RATE) as usize {
            pace.sent(Instant::now());
        }
        assert!(pace.ready(Instant::now(), 0, GAP.1).unwrap() > Instant::now());
    }
}
