//! An identical repeat of a signed call joins the first and gets its reply.

use std::num::NonZeroUsize;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared, WeakShared};
use horus_keys::{CallClaims, Digest, PeerId};
use lru::LruCache;

use crate::exchange::Reply;

/// So many calls are told from their repeats, in flight or answered.
const MAX_CALLS: usize = 16 * 1024;
/// Replies kept for repeats, in bytes, all together.
const MAX_BYTES: usize = 8 << 20;
/// A longer reply is not kept, in bytes.
const MAX_REPLY: usize = 256 << 10;

/// One signed request: caller, nonce, body.
pub(crate) type CallKey = (PeerId, u128, Digest);
/// A request that is being answered, for all who wait for it.
pub(crate) type Pending = Shared<BoxFuture<'static, Reply>>;

enum Slot {
    /// The call lives as long as somebody waits for it: when the last one has gone away it is dropped,
    /// and a repeat starts it anew.
    Running {
        call: WeakShared<BoxFuture<'static, Reply>>,
        nonce_taken: Arc<AtomicBool>,
    },
    Answered {
        reply: Reply,
        bytes: usize,
        until: Instant,
    },
}

/// Signed calls in flight and the recent replies. Bounded; what was pushed out is refused as a replay.
pub(crate) struct Replays(Mutex<State>);

struct State {
    slots: LruCache<CallKey, Slot>,
    bytes: usize,
}

/// What a signed call finds.
pub(crate) enum Joined {
    /// It waits for this, its own or the first one's run.
    Pending(Pending),
    /// It was answered already.
    Answered(Reply),
}

impl Replays {
    pub(crate) fn new() -> Self {
        let calls = NonZeroUsize::new(MAX_CALLS).expect("the number of calls is not zero");
        Self(Mutex::new(State { slots: LruCache::new(calls), bytes: 0 }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Joins the call with that key, or starts it. `start` is given a flag that tells whether the nonce
    /// was taken by an earlier run that nobody waited for to the end; it sets the flag when it takes it.
    pub(crate) fn join(
        &self,
        key: CallKey,
        start: impl FnOnce(Arc<AtomicBool>) -> BoxFuture<'static, Reply>,
    ) -> Joined {
        let mut state = self.lock();
        let nonce_taken = match state.slots.get(&key) {
            Some(Slot::Answered { reply, .. }) => return Joined::Answered(reply.clone()),
            Some(Slot::Running { call, nonce_taken }) => match call.upgrade() {
                Some(pending) => return Joined::Pending(pending),
                None => Arc::clone(nonce_taken),
            },
            None => Arc::default(),
        };
        let pending = start(Arc::clone(&nonce_taken)).shared();
        let call = pending.downgrade().expect("a future that was not polled is not done");
        state.put(key, Slot::Running { call, nonce_taken });
        Joined::Pending(pending)
    }

    /// Keeps the reply for repeats, if it is not too long.
    pub(crate) fn answered(&self, key: CallKey, reply: &Reply) {
        let bytes = reply.body.as_ref().map_or(0, Bytes::len);
        if bytes > MAX_REPLY {
            return self.forget(&key);
        }
        let now = Instant::now();
        let mut state = self.lock();
        let until = now + CallClaims::NONCE_LIFETIME;
        state.put(key, Slot::Answered { reply: reply.clone(), bytes, until });
        // The oldest reply stands last: it was put there when it was answered, or asked for again.
        while let Some((_, slot)) = state.slots.peek_lru() {
            let stays = match slot {
                Slot::Running { call, .. } => call.upgrade().is_some(),
                Slot::Answered { until, .. } => *until > now,
            };
            if stays && state.bytes <= MAX_BYTES {
                break;
            }
            state.pop_lru();
        }
    }

    /// The call came to nothing that a repeat could have.
    pub(crate) fn forget(&self, key: &CallKey) {
        let mut state = self.lock();
        if let Some(slot) = state.slots.pop(key) {
            state.bytes -= slot.bytes();
        }
    }
}

impl State {
    fn put(&mut self, key: CallKey, slot: Slot) {
        self.bytes += slot.bytes();
        // Either the slot that this one replaces, or the one that it pushes out.
        if let Some((_, old)) = self.slots.push(key, slot) {
            self.bytes -= old.bytes();
        }
    }

    fn pop_lru(&mut self) {
        if let Some((_, old)) = self.slots.pop_lru() {
            self.bytes -= old.bytes();
        }
    }
}

impl Slot {
    fn bytes(&self) -> usize {
        match self {
            Self::Running { .. } => 0,
            Self::Answered { bytes, .. } => *bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use horus_keys::Identity;

    fn reply(len: usize) -> Reply {
        Reply::of(Bytes::from(vec![b'x'; len]))
    }

    #[test]
    fn memory_is_bounded_by_bytes() {
        let replays = Replays::new();
        let peer = Identity::generate().peer_id();
        let key = |n| (peer, n, Digest::of(b""));
        for n in 0..100 {
            replays.answered(key(n), &reply(MAX_REPLY));
        }
        let state = replays.lock();
        assert!(state.bytes <= MAX_BYTES && state.bytes > MAX_BYTES / 2, "{}", state.bytes);
        assert_eq!(state.bytes, state.slots.iter().map(|(_, slot)| slot.bytes()).sum::<usize>());
        assert!(state.slots.contains(&key(99)) && !state.slots.contains(&key(0)));
        drop(state);
        replays.answered(key(99), &reply(MAX_REPLY + 1));
        assert!(!replays.lock().slots.contains(&key(99)));
    }

    #[tokio::test]
    async fn a_call_that_nobody_waits_for_ends_and_a_repeat_starts_it_anew() {
        use std::sync::atomic::Ordering;
        let replays = Replays::new();
        let key = (Identity::generate().peer_id(), 1, Digest::of(b""));
        let never = |taken: Arc<AtomicBool>| {
            taken.store(true, Ordering::Relaxed);
            futures::future::pending().boxed()
        };
        let Joined::Pending(first) = replays.join(key, never) else { panic!() };
        let Joined::Pending(second) = replays.join(key, |_| panic!("it runs")) else { panic!() };
        drop((first, second));
        let joined = replays.join(key, |taken| {
            assert!(taken.load(Ordering::Relaxed));
            futures::future::ready(reply(3)).boxed()
        });
        let Joined::Pending(third) = joined else { panic!() };
        assert_eq!(third.await.body.unwrap().len(), 3);
    }
}
