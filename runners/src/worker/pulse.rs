//! Keeps a worker's jobs its own, and hears which of them must stop.

use std::{sync::Arc, time::Duration};

use futures::StreamExt;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::held::{Held, Stop};
use crate::queue::{Beat, Lease, backoff};

pub(crate) struct Pulse {
    lease: Lease,
    held: Arc<Held>,
    interval: Duration,
    /// Asks for a heartbeat now.
    now: Notify,
}

impl Pulse {
    pub(crate) fn new(lease: Lease, held: Arc<Held>, interval: Duration) -> Self {
        Self { lease, held, interval, now: Notify::new() }
    }

    /// A heartbeat every third of the lease; after a failure sooner.
    pub(crate) async fn beat(&self, stop: CancellationToken) {
        let mut failures: u32 = 0;
        loop {
            let pause = if failures == 0 { self.interval } else { backoff(failures).min(self.interval) };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.now.notified() => {}
                () = stop.cancelled() => return,
            }
            let held = self.held.tokens();
            match self.lease.heartbeat(held.len(), &held).await {
                Ok(beats) => {
                    if failures > 0 {
                        tracing::info!("Redis answers again");
                    }
                    failures = 0;
                    for ((id, token), beat) in held.iter().zip(beats) {
                        let why = match beat {
                            Beat::Hold => continue,
                            Beat::Cancel => Stop::Cancelled,
                            Beat::Gone => Stop::Gone,
                        };
                        // By token: the job may have been finished, or claimed again, since we asked.
                        if let Some(job) = self.held.get(id, *token) {
                            job.stop(why);
                        }
                    }
                }
                Err(e) => {
                    failures = failures.saturating_add(1);
                    tracing::warn!("no heartbeat: {e}");
                }
            }
        }
    }

    /// Hears of cancelled jobs as it happens; the heartbeat is the fallback.
    pub(crate) async fn listen(&self, stop: CancellationToken) {
        let mut failures = 0;
        loop {
            let connected = tokio::select! {
                connected = self.lease.cancellations() => connected,
                () = stop.cancelled() => return,
            };
            match connected {
                Ok(mut cancelled) => {
                    failures = 0;
                    // What was cancelled while nobody listened is learnt from a heartbeat.
                    self.now.notify_one();
                    loop {
                        let message = tokio::select! {
                            message = cancelled.next() => message,
                            () = stop.cancelled() => return,
                        };
                        let Some(ids) = message else { break };
                        for id in ids.split(' ') {
                            self.held.stop(id, Stop::Cancelled);
                        }
                    }
                }
                Err(e) => tracing::debug!("cannot listen for cancelled jobs: {e}"),
            }
            failures += 1;
            tokio::select! {
                () = tokio::time::sleep(backoff(failures)) => {}
                () = stop.cancelled() => return,
            }
        }
    }
}
