//! The log of a running job: written without waiting, drained by the worker.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use horus_keys::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::job::limits;

/// Where a line comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogStream {
    /// What the script prints.
    Stdout,
    /// What it or its processes print as errors.
    Stderr,
    /// What Horus has to say about the job.
    System,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LogLine {
    /// When it was printed.
    pub time: Timestamp,
    /// Where it comes from.
    pub stream: LogStream,
    /// Without the line's end, at most 16 KiB.
    pub text: String,
}

/// Takes the lines of one job. Clones write to the same log; writing never waits.
///
/// Between two drains it holds at most 10,000 lines or 4 MiB: beyond that the oldest are dropped, and a system line says how many.
#[derive(Clone)]
pub struct LogSink(Arc<Shared>);

struct Shared {
    buffer: Mutex<Buffer>,
    written: Notify,
}

#[derive(Default)]
struct Buffer {
    lines: VecDeque<LogLine>,
    bytes: usize,
    dropped: u64,
}

impl fmt::Debug for LogSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let buffer = self.buffer();
        f.debug_struct("LogSink").field("lines", &buffer.lines.len()).field("dropped", &buffer.dropped).finish()
    }
}

impl Default for LogSink {
    fn default() -> Self {
        Self::new()
    }
}

impl LogSink {
    /// An empty log.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(Shared { buffer: Mutex::new(Buffer::default()), written: Notify::new() }))
    }

    /// A log that nobody drains, to be read with [`LogSink::lines`].
    #[must_use]
    pub fn collecting() -> Self {
        Self::new()
    }

    /// One or more whole lines that the script printed.
    pub fn stdout(&self, text: &str) {
        self.write(LogStream::Stdout, text);
    }

    /// One or more whole lines of errors.
    pub fn stderr(&self, text: &str) {
        self.write(LogStream::Stderr, text);
    }

    /// One or more whole lines about the job from Horus itself.
    pub fn system(&self, text: &str) {
        self.write(LogStream::System, text);
    }

    /// One or more whole lines. The newline at the very end may be missing; an empty text is an empty line.
    pub fn write(&self, stream: LogStream, text: &str) {
        let time = Timestamp::now();
        let text = text.strip_suffix('\n').unwrap_or(text);
        let mut buffer = self.buffer();
        for line in text.split('\n') {
            let mut rest = line.strip_suffix('\r').unwrap_or(line);
            loop {
                let (piece, more) = rest.split_at(rest.floor_char_boundary(limits::LOG_LINE_BYTES));
                buffer.push(LogLine { time, stream, text: piece.to_owned() });
                rest = more;
                if rest.is_empty() {
                    break;
                }
            }
        }
        drop(buffer);
        self.0.written.notify_one();
    }

    /// For bytes as they come from a pipe: see [`LogWriter`].
    #[must_use]
    pub fn writer(&self, stream: LogStream) -> LogWriter {
        LogWriter { sink: self.clone(), stream, partial: Vec::new() }
    }

    /// Waits until something was written since the last call or [`LogSink::drain`]. For one waiter, the worker.
    pub async fn written(&self) {
        if self.buffer().lines.is_empty() {
            self.0.written.notified().await;
        }
    }

    /// Takes what was written since the last call, oldest first; may be empty.
    #[must_use]
    pub fn drain(&self) -> Vec<LogLine> {
        let taken = std::mem::take(&mut *self.buffer());
        taken.into_lines()
    }

    /// What was written and not yet drained.
    #[must_use]
    pub fn lines(&self) -> Vec<LogLine> {
        let buffer = self.buffer();
        let copy = Buffer { lines: buffer.lines.clone(), bytes: buffer.bytes, dropped: buffer.dropped };
        drop(buffer);
        copy.into_lines()
    }

    /// A buffer is whole after every statement, so a panic elsewhere while it was locked does no harm.
    fn buffer(&self) -> MutexGuard<'_, Buffer> {
        self.0.buffer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a line costs beside its text when it is stored.
const LINE_OVERHEAD: usize = 64;

impl Buffer {
    fn push(&mut self, line: LogLine) {
        self.bytes += line.text.len() + LINE_OVERHEAD;
        self.lines.push_back(line);
        while self.lines.len() > limits::LOG_LINES || self.bytes > limits::LOG_BYTES {
            let Some(oldest) = self.lines.pop_front() else { break };
            self.bytes -= oldest.text.len() + LINE_OVERHEAD;
            self.dropped += 1;
        }
    }

    fn into_lines(self) -> Vec<LogLine> {
        let mut lines = Vec::with_capacity(self.lines.len() + 1);
        if self.dropped > 0 {
            let time = self.lines.front().map_or_else(Timestamp::now, |line| line.time);
            let text = format!("{} older lines were dropped: they came faster than they could be stored", self.dropped);
            lines.push(LogLine { time, stream: LogStream::System, text });
        }
        lines.extend(self.lines);
        lines
    }
}

/// Cuts bytes into lines: a line is written when its end has come, or when the writer is dropped. What is not UTF-8 is replaced.
#[derive(Debug)]
pub struct LogWriter {
    sink: LogSink,
    stream: LogStream,
    partial: Vec<u8>,
}

impl LogWriter {
    /// Takes some more bytes.
    pub fn write(&mut self, mut bytes: &[u8]) {
        while let Some(end) = bytes.iter().position(|b| *b == b'\n') {
            let (line, rest) = bytes.split_at(end);
            self.partial.extend_from_slice(line);
            self.emit();
            bytes = &rest[1..];
        }
        self.partial.extend_from_slice(bytes);
        if self.partial.len() > limits::LOG_LINE_BYTES {
            self.emit();
        }
    }

    fn emit(&mut self) {
        self.sink.write(self.stream, &String::from_utf8_lossy(&self.partial));
        self.partial.clear();
    }
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        if !self.partial.is_empty() {
            self.emit();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(sink: &LogSink) -> Vec<String> {
        sink.lines().into_iter().map(|line| line.text).collect()
    }

    #[test]
    fn text_is_cut_into_lines() {
        let sink = LogSink::collecting();
        sink.stdout("a\nb\r\n\nc\n");
        sink.stderr("");
        assert_eq!(texts(&sink), ["a", "b", "", "c", ""]);
        assert_eq!(sink.lines()[4].stream, LogStream::Stderr);
    }

    #[test]
    fn bytes_become_lines_when_their_end_comes() {
        let sink = LogSink::collecting();
        let mut writer = sink.writer(LogStream::Stdout);
        writer.write(b"hal");
        assert!(texts(&sink).is_empty());
        writer.write("lo w\u{f6}rld\n\nta".as_bytes());
        assert_eq!(texts(&sink), ["hallo w\u{f6}rld", ""]);
        writer.write(b"il\xff");
        drop(writer);
        assert_eq!(texts(&sink)[2], "tail\u{fffd}");
    }

    #[test]
    fn a_flood_is_bounded_and_says_what_it_lost() {
        let sink = LogSink::collecting();
        for n in 0..limits::LOG_LINES + 5 {
            sink.stdout(&n.to_string());
        }
        let lines = sink.drain();
        assert_eq!(lines.len(), limits::LOG_LINES + 1);
        assert!(lines[0].stream == LogStream::System && lines[0].text.starts_with("5 older lines"));
        assert_eq!(lines[1].text, "5");
        assert!(sink.drain().is_empty(), "it says so once");

        sink.stdout(&"x".repeat(2 * limits::LOG_BYTES));
        let lines = sink.drain();
        assert!(lines.iter().map(|line| line.text.len()).sum::<usize>() <= limits::LOG_BYTES);
        assert!(lines.iter().all(|line| line.text.len() <= limits::LOG_LINE_BYTES));
    }

    #[test]
    fn a_line_without_end_is_bounded_too() {
        let sink = LogSink::collecting();
        let mut writer = sink.writer(LogStream::Stderr);
        for _ in 0..100 {
            writer.write(&[b'y'; 1000]);
        }
        assert!(writer.partial.len() <= limits::LOG_LINE_BYTES && !sink.lines().is_empty());
    }

    #[tokio::test]
    async fn the_worker_is_woken_by_a_line() {
        let sink = LogSink::new();
        let other = sink.clone();
        let waiting = tokio::spawn(async move {
            other.written().await;
            other.drain().len()
        });
        tokio::task::yield_now().await;
        sink.stdout("x");
        assert_eq!(tokio::time::timeout(std::time::Duration::from_secs(5), waiting).await.unwrap().unwrap(), 1);
    }
}
