//! The entries that a node is answering or has answered lately.
//!
//! A message may be lost on its way there or back, and sent again, or come twice: an entry runs once,
//! and whoever asks for it again gets the same reply.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use lru::LruCache;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::error::{ErrorKind, RpcError};
use crate::exchange::Reply;

/// So many entries are told apart, running or answered.
const MAX_ENTRIES: usize = 16 * 1024;
/// So many run at a time.
const MAX_RUNNING: usize = 4096;
/// Replies kept, in bytes, all together.
const MAX_BYTES: usize = 32 << 20;
/// How long a reply is kept.
const KEEP: Duration = Duration::from_secs(60);
/// No entry runs longer, whatever its caller says.
const MAX_RUN: Duration = Duration::from_secs(15 * 60);

/// The session of the caller, and the number of the entry in it.
pub(super) type Key = (u128, u64);

/// See the module.
pub(super) struct Ledger(Arc<Mutex<State>>);

struct State {
    entries: LruCache<Key, Slot>,
    running: usize,
    bytes: usize,
}

#[derive(Clone)]
struct Slot {
    reply: watch::Receiver<Option<Reply>>,
    /// The length of the reply and when it was there; `None` while it is not.
    done: Option<(usize, Instant)>,
}

/// An entry that runs, or whose reply is there.
#[derive(Clone)]
pub(super) struct Pending(watch::Receiver<Option<Reply>>);

impl Pending {
    /// An entry that is answered without running.
    pub(super) fn refused(error: &RpcError) -> Self {
        Self(watch::channel(Some(Reply::refusal(error))).1)
    }

    /// The reply, if it is there.
    pub(super) fn reply(&self) -> Option<Reply> {
        self.0.borrow().clone()
    }

    /// Whether it is done: replied, or ended without a reply.
    pub(super) fn is_done(&self) -> bool {
        self.0.borrow().is_some() || self.0.has_changed().is_err()
    }

    /// Waits until it is done.
    pub(super) async fn done(&mut self) {
        let _ = self.0.wait_for(Option::is_some).await;
    }
}

impl Ledger {
    pub(super) fn new() -> Self {
        let entries = NonZeroUsize::new(MAX_ENTRIES).expect("the number of entries is not zero");
        Self(Arc::new(Mutex::new(State { entries: LruCache::new(entries), running: 0, bytes: 0 })))
    }

    /// The entry with that key, if it is known.
    pub(super) fn find(&self, key: Key) -> Option<Pending> {
        lock(&self.0).entries.get(&key).map(|slot| Pending(slot.reply.clone()))
    }

    /// The entry with that key; if it is not known it is started. It runs to its end even if nobody
    /// waits for it any more, for at most `limit`.
    pub(super) fn join(&self, key: Key, limit: Duration, start: impl FnOnce() -> BoxFuture<'static, Reply>) -> Pending {
        let mut state = lock(&self.0);
        if let Some(slot) = state.entries.get(&key) {
            return Pending(slot.reply.clone());
        }
        if state.running >= MAX_RUNNING {
            return Pending::refused(&busy());
        }
        let (sender, reply) = watch::channel(None);
        state.running += 1;
        state.insert(key, Slot { reply: reply.clone(), done: None });
        drop(state);
        let run = std::panic::AssertUnwindSafe(start()).catch_unwind();
        let ledger = Arc::clone(&self.0);
        tokio::spawn(async move {
            let reply = match tokio::time::timeout(limit.min(MAX_RUN), run).await {
                Ok(Ok(reply)) => reply,
                Ok(Err(_)) => Reply::refusal(&RpcError::internal("answering a message panicked")),
                Err(_) => Reply::refusal(&RpcError::new(
                    ErrorKind::TimedOut,
                    "the call was not done within the time that its caller gave it: give it more",
                )),
            };
            lock(&ledger).finished(key, &reply);
            sender.send_replace(Some(reply));
        });
        Pending(reply)
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

pub(super) fn busy() -> RpcError {
    RpcError::new(ErrorKind::RateLimited, "this node answers as many messages as it can: try again in a moment")
        .with("retry_after_ms", 1000)
}

impl State {
    fn insert(&mut self, key: Key, slot: Slot) {
        if let Some((_, old)) = self.entries.push(key, slot) {
            self.bytes -= old.done.map_or(0, |(bytes, _)| bytes);
        }
    }

    fn finished(&mut self, key: Key, reply: &Reply) {
        self.running -= 1;
        let now = Instant::now();
        let bytes = reply.body.as_ref().map_or(0, bytes::Bytes::len);
        if let Some(slot) = self.entries.get_mut(&key) {
            slot.done = Some((bytes, now));
            self.bytes += bytes;
        }
        while let Some((_, slot)) = self.entries.peek_lru() {
            let stays = slot.done.is_none_or(|(_, at)| at + KEEP > now);
            if stays && self.bytes <= MAX_BYTES {
                break;
            }
            if let Some((_, old)) = self.entries.pop_lru() {
                self.bytes -= old.done.map_or(0, |(bytes, _)| bytes);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn reply(len: usize) -> Reply {
        Reply::of(vec![b'x'; len].into())
    }

    #[tokio::test]
    async fn an_entry_runs_once_and_everybody_gets_its_reply() {
        let ledger = Ledger::new();
        let runs = Arc::new(AtomicUsize::new(0));
        let join = || {
            let runs = Arc::clone(&runs);
            ledger.join((1, 1), MAX_RUN, move || {
                async move {
                    runs.fetch_add(1, Ordering::SeqCst);
                    tokio::task::yield_now().await;
                    reply(3)
                }
                .boxed()
            })
        };
        assert!(ledger.find((1, 1)).is_none());
        let (mut first, mut second) = (join(), join());
        first.done().await;
        second.done().await;
        assert_eq!(join().reply().unwrap(), reply(3));
        assert_eq!(ledger.find((1, 1)).unwrap().reply(), first.reply());
        assert!(ledger.find((2, 1)).is_none(), "another session has other entries");
        assert_eq!(runs.load(Ordering::SeqCst), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn an_entry_ends_when_its_caller_has_gone() {
        let ledger = Ledger::new();
        let mut entry = ledger.join((1, 1), Duration::from_secs(2), || futures::future::pending().boxed());
        assert!(!entry.is_done());
        entry.done().await;
        assert_eq!(entry.reply().unwrap().refused, Some(ErrorKind::TimedOut));
        let mut entry = ledger.join((1, 2), Duration::from_secs(2), || async { panic!("on purpose") }.boxed());
        entry.done().await;
        assert_eq!(entry.reply().unwrap().refused, Some(ErrorKind::Internal));
        assert_eq!(lock(&ledger.0).running, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn memory_is_bounded() {
        let ledger = Ledger::new();
        for n in 0..100 {
            ledger.join((1, n), MAX_RUN, || async { reply(1 << 20) }.boxed()).done().await;
        }
        let bytes = lock(&ledger.0).bytes;
        assert!(bytes <= MAX_BYTES && bytes > MAX_BYTES / 2, "{bytes}");
        tokio::time::sleep(KEEP * 2).await;
        ledger.join((1, 1000), MAX_RUN, || async { reply(1) }.boxed()).done().await;
        assert_eq!(lock(&ledger.0).bytes, 1);
        for n in 0..MAX_RUNNING as u64 {
            ledger.join((2, n), MAX_RUN, || futures::future::pending().boxed());
        }
        let refused = ledger.join((3, 1), MAX_RUN, || panic!("it must not start"));
        assert_eq!(refused.reply().unwrap().refused, Some(ErrorKind::RateLimited));
    }
}
