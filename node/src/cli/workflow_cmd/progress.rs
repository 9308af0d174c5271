//! Progress of a workflow on stderr: a line that moves on a terminal, a line per change elsewhere, nothing with `--json`.

use std::io::IsTerminal as _;

use horus_transport::RpcError;
use indicatif::ProgressBar;

use super::ORDER;
use crate::{
    api::coordinator::WorkflowView,
    cli::{client::spinner, output::printable},
};

struct Waiting {
    step: String,
    what: String,
    said: bool,
}

pub(super) struct Progress {
    bar: ProgressBar,
    lines: bool,
    last: String,
    /// What a step waits for, and whether that was said.
    waiting: Option<Waiting>,
}

impl Progress {
    pub(super) fn new(json: bool, id: String) -> Self {
        Self {
            bar: spinner(json, id),
            lines: !json && !std::io::stderr().is_terminal(),
            last: String::new(),
            waiting: None,
        }
    }

    /// Shows how the workflow stands, and why steps wait if it stands still.
    pub(super) fn show(&mut self, view: &WorkflowView, stands_still: bool) {
        self.note(view);
        if stands_still {
            self.say_why();
        }
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

    /// Whether a step waits for a supervisor and nobody was told why: a moment later it may be on its way.
    pub(super) fn has_unsaid(&self) -> bool {
        self.waiting.as_ref().is_some_and(|waiting| !waiting.said)
    }

    fn note(&mut self, view: &WorkflowView) {
        let mut all = view.steps.iter().filter_map(|(id, step)| Some((id, step.waiting_for.as_ref()?)));
        let Some((step, what)) = all.next() else {
            self.waiting = None;
            return;
        };
        if self.waiting.as_ref().is_none_or(|known| known.what != *what) {
            self.waiting = Some(Waiting { step: step.to_string(), what: what.clone(), said: false });
        }
    }

    fn say_why(&mut self) {
        let Some(waiting) = &mut self.waiting else { return };
        if !std::mem::replace(&mut waiting.said, true) {
            let text = printable(&format!("step {} waits for {}", waiting.step, waiting.what));
            if self.lines { eprintln!("{text}") } else { self.bar.println(text) }
        }
    }

    /// Shows that the coordinator does not answer.
    pub(super) fn show_away(&self, error: &RpcError) {
        self.bar.set_message(format!("waiting for the coordinator: {error}"));
    }

    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
