//! Hints about finished jobs, so that nobody needs to poll for results.

use std::{pin::Pin, time::Duration};

use futures::{Stream, StreamExt};

use super::{Queue, QueueError, keys};
use crate::job::{JobId, LocalId};

/// What a listener hears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FinishedEvent {
    /// These jobs ended.
    Finished(Vec<JobId>),
    /// The connection is new: jobs may have ended unheard, so look at all that are waited for.
    Resync,
}

/// Tells which jobs ended, for ever: reconnects with back-off. Nothing is promised but that a [`FinishedEvent::Resync`] follows every gap.
pub struct FinishedEvents {
    queue: Queue,
    stream: Option<Pin<Box<dyn Stream<Item = String> + Send>>>,
    failures: u32,
}

impl std::fmt::Debug for FinishedEvents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FinishedEvents").field("connected", &self.stream.is_some()).finish_non_exhaustive()
    }
}

impl Queue {
    /// Listens for jobs that end, of all kinds.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`]
    pub async fn finished(&self) -> Result<FinishedEvents, QueueError> {
        let stream = self.connection.subscribe(&[keys::FINISHED.to_owned()]).await?;
        Ok(FinishedEvents { queue: self.clone(), stream: Some(Box::pin(stream)), failures: 0 })
    }
}

impl FinishedEvents {
    /// The next hint. Safe to drop half-way: nothing is lost but what a `Resync` makes up for.
    pub async fn next(&mut self) -> FinishedEvent {
        loop {
            if let Some(stream) = &mut self.stream {
                if let Some(message) = stream.next().await {
                    return FinishedEvent::Finished(read(&message));
                }
                self.stream = None;
                tracing::warn!("lost the connection to Redis that tells about finished jobs");
            }
            tokio::time::sleep(backoff(self.failures)).await;
            match self.queue.connection.subscribe(&[keys::FINISHED.to_owned()]).await {
                Ok(stream) => {
                    self.stream = Some(Box::pin(stream));
                    self.failures = 0;
                    return FinishedEvent::Resync;
                }
                Err(e) => {
                    self.failures = self.failures.saturating_add(1);
                    tracing::debug!("cannot listen for finished jobs: {e}");
                }
            }
        }
    }
}

/// 50 ms, doubling up to 2 s, with a little jitter so that not everybody comes back at once.
pub(crate) fn backoff(failures: u32) -> Duration {
    let base = 50_u64 << failures.min(6);
    let jitter = u64::from(std::process::id().wrapping_mul(2_654_435_761) >> 16) % (base / 4 + 1);
    Duration::from_millis((base + jitter).min(2000))
}

/// `<runner> <id> <id>...`; what cannot be read is skipped.
fn read(message: &str) -> Vec<JobId> {
    let mut words = message.split(' ');
    let Some(Ok(kind)) = words.next().map(str::parse::<horus_keys::RunnerKind>) else { return Vec::new() };
    words.filter_map(|id| LocalId::new(id).ok()).map(|id| JobId::new(kind.clone(), id)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_name_kind_and_ids() {
        assert_eq!(read("hero a b-c"), ["hero-a".parse().unwrap(), "hero-b-c".parse().unwrap()]);
        assert_eq!(read("hero a \u{1}"), ["hero-a".parse().unwrap()]);
        assert_eq!(read("No a"), []);
        assert_eq!(read(""), []);
    }

    #[test]
    fn back_off_is_bounded() {
        assert!(backoff(0) >= Duration::from_millis(50) && backoff(0) < Duration::from_millis(100));
        assert!(backoff(100) <= Duration::from_secs(2));
    }
}
