//! Hints about finished jobs, so that nobody needs to poll for results.
//!
//! A message is a line `<runner> <id> <id>...`. If the results are short, they follow it: the envelope of the receipts, then for each id
//! its status, output, error and place in the receipts, each as `<length>:<bytes>`. They are a copy of what the keys hold.

use std::{pin::Pin, time::Duration};

use futures::{Stream, StreamExt};

use horus_keys::Envelope;

use super::{JobResult, Queue, QueueError, keys, views::ReceiptAt};
use crate::job::{JobId, JobStatus, LocalId};

/// What a listener hears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FinishedEvent {
    /// These jobs ended.
    Finished(Finished),
    /// The connection is new: jobs may have ended unheard, so look at all that are waited for.
    Resync,
}

/// Jobs that ended together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// Their ids.
    pub jobs: Vec<JobId>,
    message: String,
}

impl Finished {
    /// Reads what came through the channel; what cannot be read is skipped.
    #[must_use]
    pub fn read(message: String) -> Self {
        let mut words = message.lines().next().unwrap_or_default().split(' ');
        let jobs = match words.next().map(str::parse::<horus_keys::RunnerKind>) {
            Some(Ok(kind)) => {
                words.filter_map(|id| LocalId::new(id).ok()).map(|id| JobId::new(kind.clone(), id)).collect()
            }
            _ => Vec::new(),
        };
        Self { jobs, message }
    }

    /// Their results in the order of [`Self::jobs`], if they came along: else they have to be read. This is where they are parsed.
    #[must_use]
    pub fn results(&self) -> Option<Vec<JobResult>> {
        let (_, mut rest) = self.message.split_once('\n')?;
        let envelope = Envelope::from_json(part(&mut rest)?.as_bytes()).ok()?;
        let result = |job_id: &JobId| {
            let status: JobStatus = part(&mut rest)?.parse().ok()?;
            let (output, error) = (part(&mut rest)?, part(&mut rest)?);
            let index = part(&mut rest)?.parse().ok()?;
            let output = if output.is_empty() { None } else { Some(serde_json::from_str(output).ok()?) };
            let error = if error.is_empty() { None } else { Some(serde_json::from_str(error).ok()?) };
            let receipt = Some(ReceiptAt { envelope: envelope.clone(), index });
            Some(JobResult { job_id: job_id.clone(), status, output, error, receipt })
        };
        self.jobs.iter().map(result).collect()
    }
}

/// Takes `<length>:<bytes>` off the front.
fn part<'a>(rest: &mut &'a str) -> Option<&'a str> {
    let (length, after) = rest.split_once(':')?;
    let (found, left) = after.split_at_checked(length.parse().ok()?)?;
    *rest = left;
    Some(found)
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
                    return FinishedEvent::Finished(Finished::read(message));
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

#[cfg(test)]
mod tests {
    use super::*;

    fn read(message: &str) -> Finished {
        Finished::read(message.to_owned())
    }

    #[test]
    fn messages_name_kind_and_ids() {
        assert_eq!(read("hero a b-c").jobs, ["hero-a".parse().unwrap(), "hero-b-c".parse().unwrap()]);
        assert_eq!(read("hero a \u{1}").jobs, ["hero-a".parse().unwrap()]);
        assert_eq!(read("No a").jobs, []);
        assert_eq!(read("").jobs, []);
        assert!(read("hero a b-c").results().is_none());
    }

    #[test]
    fn results_that_came_along_are_read_to_the_byte() {
        let receipts =
            Envelope::sign(&horus_keys::Identity::generate(), horus_keys::PayloadType::Receipts, b"{}".to_vec());
        let envelope = receipts.to_json();
        let error = r#"{"code":"NO","message":"no"}"#;
        let parts = [&*envelope, "succeeded", "\"\u{e9}:\\n1\"", "", "0", "failed", "", error, "1"];
        let parts: String = parts.iter().map(|part| format!("{}:{part}", part.len())).collect();
        let message = format!("hero a b\n{parts}");
        let results = read(&message).results().unwrap();
        assert_eq!(results[0].output.as_ref().unwrap().get(), "\"\u{e9}:\\n1\"");
        assert_eq!((results[0].status, results[1].status), (JobStatus::Succeeded, JobStatus::Failed));
        assert_eq!(results[1].error.as_ref().unwrap().code, "NO");
        assert_eq!(
            results[1].receipt.as_ref().map(|at| (at.envelope.digest(), at.index)),
            Some((receipts.digest(), 1))
        );
        for cut in 0..message.len() {
            if message.is_char_boundary(cut) {
                assert!(read(&message[..cut]).results().is_none(), "{cut}");
            }
        }
    }

    #[test]
    fn back_off_is_bounded() {
        assert!(backoff(0) >= Duration::from_millis(50) && backoff(0) < Duration::from_millis(100));
        assert!(backoff(100) <= Duration::from_secs(2));
    }
}
