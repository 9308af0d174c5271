//! What goes to stdout and stderr, and how a failure becomes an exit status.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::atomic::{AtomicBool, Ordering},
};

use horus_runners::definition::Problem;
use horus_transport::{ErrorKind, RpcError};
use serde::{Deserialize as _, Serialize};
use serde_json::{Value, json};

/// Whether stdout got anything yet: with `--json` it gets one value, and a failure must not add another.
static PRINTED: AtomicBool = AtomicBool::new(false);

/// Tells that stdout has got its value, where something else than this module writes it.
pub(crate) fn stdout_has_its_value() {
    PRINTED.store(true, Ordering::Relaxed);
}

/// Why a command did not do what it was asked to.
#[derive(Debug)]
pub struct Failure {
    /// 1: it ran and failed. 2: it was called wrongly.
    code: u8,
    message: String,
    /// With `--json`, the `error` that stdout gets.
    error: Value,
    /// What a coordinator finds wrong with a definition.
    problems: Vec<Problem>,
    /// The file that the definition came from.
    file: Option<PathBuf>,
}

impl Failure {
    /// It ran and failed.
    pub fn failed(message: impl Into<String>) -> Self {
        let message = message.into();
        Self { code: 1, error: json!({ "message": message }), message, problems: Vec::new(), file: None }
    }

    /// It was called wrongly.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { code: 2, ..Self::failed(message) }
    }

    /// An RPC error, with its kind and all that it says beside its message.
    pub fn rpc(error: &RpcError) -> Self {
        let mut value = json!({ "code": error.code, "kind": error.kind.as_str(), "message": error.message });
        let mut problems = Vec::new();
        // As on the wire, where `kind` is a member of `data`.
        value["data"] = json!({ "kind": error.kind.as_str() });
        if let Some(data) = &error.data {
            data.iter().for_each(|(name, member)| value["data"][name] = member.clone());
            if error.kind == ErrorKind::InvalidWorkflow
                && let Some(found) = data.get("errors")
            {
                problems = Vec::<Problem>::deserialize(found).unwrap_or_default();
            }
        }
        Self { error: value, problems, ..Self::failed(error.to_string()) }
    }

    /// The same failure, with the file that problems of a definition are problems of.
    #[must_use]
    pub(super) fn in_file(mut self, file: &Path) -> Self {
        self.file = Some(file.to_owned());
        self
    }

    /// The same failure, of a `job` or a `workflow` with that id, and what is to be known of it beside.
    #[must_use]
    pub(super) fn about(mut self, what: &str, id: impl std::fmt::Display, hint: &str) -> Self {
        self.error[format!("{what}_id")] = json!(id.to_string());
        self.message = format!("{}; {hint}", self.message);
        self
    }

    /// Prints it and gives the exit status: on stderr for people and, with `--json`, as one value on stdout, so that a
    /// program sees the error's kind.
    pub fn report(self, json: bool) -> ExitCode {
        if json {
            print_error(&self.error);
        }
        for p in &self.problems {
            let file = self.file.as_deref().map_or_else(String::new, |f| format!("{}:", f.display()));
            eprintln!("{}", printable(&format!("{file}{}:{}: {}", p.line, p.column, p.message)));
        }
        eprintln!("{}", printable(&format!("horus: {}", self.message)));
        ExitCode::from(self.code)
    }
}

/// `{"error": ...}` on stdout, unless it has its value.
pub(super) fn print_error(error: &Value) {
    if !PRINTED.swap(true, Ordering::Relaxed) {
        let _ = writeln!(std::io::stdout(), "{}", json!({ "error": error }));
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        let message = reasons(&error);
        match error.downcast_ref::<RpcError>() {
            Some(rpc) => Self { message, ..Self::rpc(rpc) },
            None => Self::failed(message),
        }
    }
}

/// An error and its causes, each once: some errors tell their cause themselves.
pub(super) fn reasons(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |text, cause| {
        if text.is_empty() || cause.starts_with(&text) {
            cause
        } else if text.contains(&cause) {
            text
        } else {
            format!("{text}: {cause}")
        }
    })
}

/// Prints a value as one line of JSON on stdout.
///
/// # Errors
/// Stdout is closed.
pub(super) fn print_json<T: Serialize>(value: &T) -> Result<(), Failure> {
    let text = serde_json::to_string(value).map_err(|e| Failure::failed(format!("cannot write JSON: {e}")))?;
    print_line(&text)
}

/// Prints one line on stdout.
///
/// # Errors
/// Stdout is closed.
pub(super) fn print_line(text: &str) -> Result<(), Failure> {
    stdout_has_its_value();
    writeln!(std::io::stdout(), "{text}").map_err(|e| Failure::failed(format!("cannot write to stdout: {e}")))
}

/// A plain table with a header, for people.
pub(super) fn table<const N: usize>(header: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_header(header);
    for row in rows {
        // A cell that a peer chose must not drive the terminal.
        table.add_row(row.map(|cell| printable(&cell)));
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// Text from elsewhere without what drives a terminal: control characters but newline and tab, and those that turn the
/// direction of writing and so make a text look like another.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if drives_a_terminal(c) { '\u{fffd}' } else { c }).collect()
}

fn drives_a_terminal(c: char) -> bool {
    let turns = matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}' | '\u{61c}');
    turns || (c.is_control() && c != '\n' && c != '\t')
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn escape_sequences_of_a_peer_do_not_reach_the_terminal() {
        assert_eq!(printable("a\x1b[2Jb\n"), "a\u{fffd}[2Jb\n");
    }

    #[test]
    fn text_that_turns_its_direction_does_not_reach_the_terminal() {
        assert_eq!(printable("a\u{202e}b\u{2066}c\u{200f}d\u{61c}é"), "a\u{fffd}b\u{fffd}c\u{fffd}d\u{fffd}é");
    }

    #[test]
    fn a_reason_is_told_once() {
        let io = || std::io::Error::other("disk on fire");
        let twice = Err::<(), _>(io()).context("cannot read x: disk on fire").context("cannot start").unwrap_err();
        assert_eq!(reasons(&twice), "cannot start: cannot read x: disk on fire");
        let prefix = anyhow::anyhow!("`x` is no address: it has no scheme").context("`x` is no address");
        assert_eq!(reasons(&prefix), "`x` is no address: it has no scheme");
    }

    #[test]
    fn an_rpc_error_keeps_its_data_and_its_problems() {
        let problem = json!({ "message": "no such runner", "line": 3, "column": 5, "path": "steps[0]" });
        let error = RpcError::new(ErrorKind::InvalidWorkflow, "not valid").with("errors", json!([problem]));
        let failure = Failure::rpc(&error);
        assert_eq!(failure.error["data"]["errors"][0]["line"], 3);
        assert_eq!((failure.problems[0].line, failure.problems[0].column), (3, 5));
        let wrapped = Failure::from(anyhow::Error::from(error).context("cannot submit"));
        assert_eq!(wrapped.error["kind"], "INVALID_WORKFLOW");
    }
}
