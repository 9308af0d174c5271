//! One look for all who ask at the same time.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};

type Pending<T> = Shared<BoxFuture<'static, T>>;

/// Joins those who ask while a look is under way into the next one: what they get was looked up after they asked, and however
/// many ask, there is one look at a time.
pub(super) struct SharedLook<T: Clone>(Arc<State<T>>);

struct State<T: Clone> {
    /// The look that has not begun.
    next: Mutex<Option<Pending<T>>>,
    /// Held by the one that has.
    turn: tokio::sync::Mutex<()>,
}

impl<T: Clone + Send + Sync + 'static> SharedLook<T> {
    pub(super) fn new() -> Self {
        Self(Arc::new(State { next: Mutex::new(None), turn: tokio::sync::Mutex::new(()) }))
    }

    /// The outcome of a look that begins after this call: `look` makes it, if nobody else has brought one.
    pub(super) fn look<F>(&self, look: impl FnOnce() -> F + Send + 'static) -> Pending<T>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let mut next = self.0.next();
        if let Some(pending) = &*next {
            return pending.clone();
        }
        let state = Arc::clone(&self.0);
        let pending = async move {
            let _turn = state.turn.lock().await;
            // Who asks from here on is too late for this one.
            *state.next() = None;
            look().await
        }
        .boxed()
        .shared();
        *next = Some(pending.clone());
        pending
    }
}

impl<T: Clone> State<T> {
    fn next(&self) -> MutexGuard<'_, Option<Pending<T>>> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use tokio::time::timeout;

    fn counted(shared: &SharedLook<u32>, looks: &Arc<AtomicU32>) -> Pending<u32> {
        let looks = Arc::clone(looks);
        shared.look(move || async move {
            let number = looks.fetch_add(1, Ordering::SeqCst) + 1;
            tokio::time::sleep(Duration::from_millis(10)).await;
            number
        })
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_during_a_look_gets_the_next_one() {
        let (shared, looks) = (SharedLook::new(), Arc::default());
        let first = tokio::spawn(counted(&shared, &looks));
        tokio::time::sleep(Duration::from_millis(1)).await;
        let rest: Vec<_> = (0..100).map(|_| tokio::spawn(counted(&shared, &looks))).collect();
        assert_eq!(first.await.unwrap(), 1);
        for one in rest {
            assert_eq!(one.await.unwrap(), 2, "it began after all of them had asked");
        }
        assert_eq!(counted(&shared, &looks).await, 3);
    }

    #[tokio::test(start_paused = true)]
    async fn who_goes_away_leaves_the_look_to_the_others() {
        let (shared, looks) = (SharedLook::new(), Arc::default());
        // Dropped before, and in the middle of the look.
        drop(counted(&shared, &looks));
        timeout(Duration::from_millis(5), counted(&shared, &looks)).await.unwrap_err();
        assert_eq!(timeout(Duration::from_secs(1), counted(&shared, &looks)).await.unwrap(), 2);
    }
}
