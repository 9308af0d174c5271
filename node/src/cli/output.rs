//! What goes to stdout and stderr, and how a failure becomes an exit status.

use std::{io::Write as _, process::ExitCode};

use horus_transport::RpcError;
use serde::Serialize;

/// Why a command did not do what it was asked to.
#[derive(Debug)]
pub struct Failure {
    /// 1: it ran and failed. 2: it was called wrongly.
    code: u8,
    message: String,
    /// With `--json`, what stdout gets.
    json: Option<serde_json::Value>,
}

impl Failure {
    /// It ran and failed.
    pub fn failed(message: impl Into<String>) -> Self {
        Self { code: 1, message: message.into(), json: None }
    }

    /// It was called wrongly.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { code: 2, message: message.into(), json: None }
    }

    /// With `--json` the failure is a JSON value on stdout too, so that a program sees the error's kind.
    #[must_use]
    pub fn json_if(mut self, json: bool) -> Self {
        if json && self.json.is_none() {
            self.json = Some(serde_json::json!({ "error": { "message": self.message } }));
        }
        self
    }

    /// An RPC error, with its kind.
    pub fn rpc(error: &RpcError, json: bool) -> Self {
        let body = serde_json::json!({
            "error": { "code": error.code, "kind": error.kind.as_str(), "message": error.message }
        });
        Self { code: 1, message: error.to_string(), json: json.then_some(body) }
    }

    /// Prints it and gives the exit status.
    pub fn report(self) -> ExitCode {
        if let Some(json) = &self.json {
            let _ = writeln!(std::io::stdout(), "{json}");
        }
        eprintln!("horus: {}", self.message);
        ExitCode::from(self.code)
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::failed(format!("{error:#}"))
    }
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

/// Text from elsewhere without control characters but newline and tab.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_sequences_of_a_peer_do_not_reach_the_terminal() {
        assert_eq!(printable("a\x1b[2Jb\n"), "a\u{fffd}[2Jb\n");
    }
}
