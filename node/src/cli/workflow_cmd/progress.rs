//! Progress of a workflow on stderr: a line that moves on a terminal, a line per change elsewhere, nothing with `--json`.

use std::{
    io::IsTerminal as _,
    time::{Duration, Instant},
};

use horus_transport::{ErrorKind, RpcError};
use indicatif::ProgressBar;

use super::ORDER;
use crate::{api::coordinator::WorkflowView, cli::client::spinner};

/// For so long a coordinator may be away before the watch gives up.
const AWAY: Duration = Duration::from_secs(120);

pub(super) struct Progress {
    bar: ProgressBar,
    lines: bool,
    last: String,
    away_since: Option<Instant>,
}

impl Progress {
    pub(super) fn new(json: bool, id: String) -> Self {
        Self {
            bar: spinner(json, id),
            lines: !json && !std::io::stderr().is_terminal(),
            last: String::new(),
            away_since: None,
        }
    }

    pub(super) fn show(&mut self, view: &WorkflowView) {
        self.away_since = None;
        let total: u32 = view.counts.values().sum();
        let parts: Vec<String> = ORDER
            .iter()
            .filter_map(|s| view.counts.get(s).filter(|n| **n > 0).map(|n| format!("{n} {}", s.as_str())))
            .collect();
        let text = format!("{}: {} of {total} steps", view.workflow_id, parts.join(", "));
        if text != self.last {
            self.bar.set_message(text.clone());
            if self.lines {
                eprintln!("{text}");
            }
            self.last = text;
        }
    }

    /// Whether the coordinator is away rather than refusing, and not for too long.
    pub(super) fn may_retry(&mut self, error: &RpcError) -> bool {
        let away = matches!(
            error.kind,
            ErrorKind::PeerUnreachable | ErrorKind::TimedOut | ErrorKind::NoService | ErrorKind::RedisUnavailable
        );
        let since = *self.away_since.get_or_insert_with(Instant::now);
        if away {
            self.bar.set_message(format!("waiting for the coordinator: {error}"));
        }
        // Before anything was heard of the workflow, an error is told at once.
        away && !self.last.is_empty() && since.elapsed() < AWAY
    }

    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
