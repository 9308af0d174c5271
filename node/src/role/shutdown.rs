//! How a role stops: it drains at the first SIGTERM or SIGINT, and stops at once at the second.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Two steps of stopping, shared by all tasks of a process. Cheap to clone.
///
/// Draining: take no new work, finish or hand back what is under way, then end. Stopping: end now; whatever is under way is
/// left as a crash would leave it, which loses nothing.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    drain: CancellationToken,
    stop: CancellationToken,
}

impl Shutdown {
    /// One that only [`Shutdown::drain`] and [`Shutdown::stop`] set off.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// One that follows the signals of this process: SIGTERM or SIGINT (Ctrl-C) drains, a second one stops at once.
    ///
    /// # Errors
    /// When the signal handlers cannot be installed. Needs a running tokio runtime.
    pub fn on_signals() -> io::Result<Self> {
        let shutdown = Self::new();
        let mut term = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let follower = shutdown.clone();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = term.recv() => {}
                    _ = interrupt.recv() => {}
                }
                if follower.is_draining() {
                    tracing::warn!("second signal: stopping at once");
                    follower.stop();
                    return;
                }
                tracing::info!("stopping: finishing what is under way; a second signal stops at once");
                follower.drain();
            }
        });
        Ok(shutdown)
    }

    /// One of a part's own: what is set off here is not set off there, but what is set off there is set off here.
    #[must_use]
    pub fn child(&self) -> Self {
        Self { drain: self.drain.child_token(), stop: self.stop.child_token() }
    }

    /// Begins to drain.
    pub fn drain(&self) {
        self.drain.cancel();
    }

    /// Stops at once; implies draining.
    pub fn stop(&self) {
        self.drain.cancel();
        self.stop.cancel();
    }

    /// Whether draining has begun.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.drain.is_cancelled()
    }

    /// Returns when draining begins.
    pub async fn draining(&self) {
        self.drain.cancelled().await;
    }

    /// Returns when everything must stop at once.
    pub async fn stopped(&self) {
        self.stop.cancelled().await;
    }

    /// The token that fires when draining begins, for parts that take one.
    #[must_use]
    pub fn drain_token(&self) -> CancellationToken {
        self.drain.clone()
    }

    /// The token that fires when everything must stop at once.
    #[must_use]
    pub fn stop_token(&self) -> CancellationToken {
        self.stop.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn stopping_implies_draining_but_not_the_other_way_round() {
        let shutdown = Shutdown::new();
        shutdown.drain();
        assert!(shutdown.is_draining() && !shutdown.stop_token().is_cancelled());
        shutdown.stop();
        shutdown.stopped().await;

        let process = Shutdown::new();
        let part = process.child();
        part.stop();
        assert!(part.is_draining() && !process.is_draining());
        let other = process.child();
        process.drain();
        assert!(other.is_draining());

        let at_once = Shutdown::new();
        at_once.stop();
        at_once.draining().await;
    }
}
