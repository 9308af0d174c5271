//! Logs of jobs: streams with a cap.

use horus_keys::{RunnerKind, Timestamp};
use redis::Value;

use super::{Lease, LogPage, Queue, QueueError, connection::Args, keys, scripts, views::text};
use crate::{
    executor::{LogLine, LogStream},
    job::{JobId, LocalId, limits},
};

/// Lines on one page.
const PAGE: usize = 10_000;
/// What one call of the script appends at most: it must not hold up the server.
const LINES_PER_CALL: usize = 1000;
const BYTES_PER_CALL: usize = 512 << 10;

/// Lines of one job, to be appended.
#[derive(Debug)]
pub(crate) struct LogBatch {
    pub(crate) id: LocalId,
    pub(crate) token: u64,
    pub(crate) lines: Vec<LogLine>,
}

const fn stream_name(stream: LogStream) -> &'static str {
    match stream {
        LogStream::Stdout => "stdout",
        LogStream::Stderr => "stderr",
        LogStream::System => "system",
    }
}

impl Queue {
    /// Lines of a job's log, oldest first, at most 10,000; none if the job is unknown. `cursor` is that of the page before; the page after the
    /// newest line is empty, and its cursor finds what comes later.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`]
    pub async fn logs(
        &self,
        job_id: &JobId,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Option<LogPage>, QueueError> {
        let kind = job_id.runner();
        let after = cursor.and_then(EntryId::parse).unwrap_or(EntryId(0, 0));
        let mut pipeline = redis::pipe();
        let log = keys::log(kind, job_id.local().as_str());
        pipeline
            .cmd("HMGET")
            .arg(keys::key(kind, &format!("job:{}", job_id.local())))
            .arg("created")
            .arg("log_dropped");
        pipeline.cmd("XRANGE").arg(&log).arg("-").arg("+").arg("COUNT").arg(1);
        pipeline
            .cmd("XRANGE")
            .arg(&log)
            .arg(format!("({}-{}", after.0, after.1))
            .arg("+")
            .arg("COUNT")
            .arg(limit.clamp(1, PAGE));
        let (job, oldest, entries): (Vec<Option<String>>, Vec<Value>, Vec<Value>) =
            self.connection.pipeline(&pipeline).await?;
        if job.first().is_none_or(Option::is_none) {
            return Ok(None);
        }
        let dropped: u64 = job.get(1).and_then(Option::as_deref).and_then(|text| text.parse().ok()).unwrap_or(0);
        let mut lines = Vec::with_capacity(entries.len() + 1);
        let mut last = after;
        for entry in &entries {
            let (id, line) = read_entry(entry)?;
            last = id;
            lines.push(line);
        }
        let oldest = oldest.first().map(read_entry).transpose()?;
        if let Some((oldest, line)) = oldest
            && dropped > 0
            && after < oldest
        {
            let (max, mib) = (limits::LOG_LINES, limits::LOG_BYTES >> 20);
            let text = format!("{dropped} older lines were dropped: a log keeps its last {max} lines or {mib} MiB");
            lines.insert(0, LogLine { time: line.time, stream: LogStream::System, text });
        }
        Ok(Some(LogPage { lines, cursor: format!("{}-{}", last.0, last.1) }))
    }
}

impl Lease {
    /// Appends lines to the logs of jobs; those that are no longer the worker's are left alone. Gives the batches that were not appended when
    /// Redis failed, to be tried again.
    pub(crate) async fn append_logs(&self, batches: Vec<LogBatch>) -> Result<(), (QueueError, Vec<LogBatch>)> {
        let mut rest = std::collections::VecDeque::from(batches);
        while !rest.is_empty() {
            let (mut lines, mut bytes) = (0, 0);
            let mut args = Args::new();
            args.push(self.worker()).number(limits::LOG_LINES).number(limits::LOG_BYTES);
            // How many batches go whole, and how many lines of the one after them.
            let (mut whole, mut part) = (0, 0);
            'fill: for batch in &rest {
                let mut taken = 0;
                for line in &batch.lines {
                    if lines >= LINES_PER_CALL || (lines > 0 && bytes + line.text.len() > BYTES_PER_CALL) {
                        part = taken;
                        if taken > 0 {
                            push_lines(&mut args, batch, taken);
                        }
                        break 'fill;
                    }
                    lines += 1;
                    bytes += line.text.len();
                    taken += 1;
                }
                push_lines(&mut args, batch, taken);
                whole += 1;
            }
            match self.queue().connection.run::<Vec<i64>>(&scripts::LOG, self.base(), &args).await {
                Ok(_) => {
                    rest.drain(..whole);
                    if part > 0
                        && let Some(batch) = rest.front_mut()
                    {
                        batch.lines.drain(..part);
                    }
                }
                Err(e) => return Err((e, rest.into())),
            }
        }
        Ok(())
    }
}

fn push_lines(args: &mut Args, batch: &LogBatch, count: usize) {
    args.push(batch.id.as_str()).number(batch.token).number(count);
    for line in &batch.lines[..count] {
        args.push(stream_name(line.stream)).number(line.time.as_millis()).push(&line.text);
    }
}

/// Id of an entry of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct EntryId(u64, u64);

/// Whether a text is the cursor of a log: cheap to ask before a call.
#[must_use]
pub fn log_cursor_is_valid(cursor: &str) -> bool {
    EntryId::parse(cursor).is_some()
}

impl EntryId {
    fn parse(text: &str) -> Option<Self> {
        let (ms, seq) = text.split_once('-')?;
        Some(Self(ms.parse().ok()?, seq.parse().ok()?))
    }
}

fn read_entry(entry: &Value) -> Result<(EntryId, LogLine), QueueError> {
    let odd = || QueueError::corrupt("a line of a log has another form");
    let Value::Array(parts) = entry else { return Err(odd()) };
    let (Some(id), Some(Value::Array(fields))) = (parts.first().and_then(text).and_then(EntryId::parse), parts.get(1))
    else {
        return Err(odd());
    };
    let field = |at: usize| fields.get(at).and_then(text).ok_or_else(odd);
    let stream = match field(1)? {
        "stdout" => LogStream::Stdout,
        "stderr" => LogStream::Stderr,
        _ => LogStream::System,
    };
    let time = Timestamp::from_millis(field(3)?.parse().map_err(|_| odd())?);
    Ok((id, LogLine { time, stream, text: field(5)?.to_owned() }))
}

/// The channel on which a kind's workers hear which jobs to stop.
pub(crate) fn cancel_channel(kind: &RunnerKind) -> String {
    keys::key(kind, "cancel")
}
