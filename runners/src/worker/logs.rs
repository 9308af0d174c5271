//! Carries the lines of running jobs to Redis, in batches.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::held::Held;
use crate::{
    executor::{LogLine, LogStream},
    job::{LocalId, limits},
    queue::{Lease, LogBatch},
};

/// How old a line may grow before it is stored.
const INTERVAL: Duration = Duration::from_millis(100);

/// Lines that could not be stored yet. The lock is held while lines travel, so that those of one job keep their order, and so that the finisher
/// knows that none is under way.
pub(crate) struct LogFlusher {
    lease: Lease,
    held: Arc<Held>,
    waiting: Mutex<HashMap<LocalId, LogBatch>>,
}

impl LogFlusher {
    pub(crate) fn new(lease: Lease, held: Arc<Held>) -> Self {
        Self { lease, held, waiting: Mutex::default() }
    }

    /// Stores lines every 100 ms while jobs are held.
    pub(crate) async fn run(&self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = self.held.until(false) => {}
                () = stop.cancelled() => return,
            }
            tokio::time::sleep(INTERVAL).await;
            let jobs = self.held.tokens();
            self.flush(&jobs).await;
        }
    }

    /// Stores the lines of these jobs; what cannot be stored now waits for the next time, within the limits of a log.
    pub(crate) async fn flush(&self, jobs: &[(LocalId, u64)]) {
        let mut waiting = self.waiting.lock().await;
        // Of a job that was given back or taken away, nobody else drops them.
        waiting.retain(|id, batch| self.held.get(id, batch.token).is_some());
        let mut batches = Vec::new();
        for (id, token) in jobs {
            let lines = self.held.get(id, *token).map(|job| job.log.drain()).unwrap_or_default();
            let mut batch = match waiting.remove(id) {
                Some(batch) if batch.token == *token => batch,
                _ => LogBatch { id: id.clone(), token: *token, lines: Vec::new() },
            };
            batch.lines.extend(lines);
            if !batch.lines.is_empty() {
                cap(&mut batch.lines);
                batches.push(batch);
            }
        }
        if batches.is_empty() {
            return;
        }
        if let Err((e, rest)) = self.lease.append_logs(batches).await {
            tracing::warn!("cannot store lines of logs: {e}");
            // A reply that was lost may have been of lines that are there: a line twice is better than none.
            waiting.extend(rest.into_iter().map(|batch| (batch.id.clone(), batch)));
        }
    }

    /// Drops lines that could not be stored before their job ended.
    pub(crate) async fn forget(&self, id: &LocalId) {
        if let Some(batch) = self.waiting.lock().await.remove(id) {
            tracing::warn!(job = %id, lines = batch.lines.len(), "lines of a log were lost: Redis did not take them");
        }
    }
}

/// Keeps what a log may have, counted from the newest line, and says so.
fn cap(lines: &mut Vec<LogLine>) {
    let mut bytes = 0;
    let fits = |line: &&LogLine| {
        bytes += line.text.len();
        bytes <= limits::LOG_BYTES
    };
    let keep = lines.iter().rev().take(limits::LOG_LINES).take_while(fits).count();
    let dropped = lines.len() - keep;
    if dropped > 0 {
        lines.drain(..dropped);
        let time = lines.first().map_or_else(horus_keys::Timestamp::now, |line| line.time);
        let text = format!("{dropped} older lines were dropped: they could not be stored in time");
        lines.insert(0, LogLine { time, stream: LogStream::System, text });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_bounded_and_says_so() {
        let line =
            |n: usize| LogLine { time: horus_keys::Timestamp::now(), stream: LogStream::Stdout, text: n.to_string() };
        let mut lines: Vec<_> = (0..limits::LOG_LINES + 3).map(line).collect();
        cap(&mut lines);
        assert_eq!(lines.len(), limits::LOG_LINES + 1);
        assert!(lines[0].text.starts_with("3 older") && lines[1].text == "3");
        let before = lines.len();
        lines.truncate(before - 1);
        cap(&mut lines);
        assert_eq!(lines.len(), before - 1, "what fits stays as it is");
    }
}
