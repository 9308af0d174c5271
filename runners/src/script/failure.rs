//! Why a script failed: a code for machines, and for people the line, the column and the text there.

use rhai::{Dynamic, EvalAltResult, ParseError, Position};
use serde::{Deserialize, Serialize};

use crate::executor::ExecutionError;

/// The end of a script that did not succeed. It crosses the process boundary of the sal runner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ScriptFailure {
    pub(crate) code: String,
    pub(crate) message: String,
}

/// The script is not Rhai.
const INVALID: &str = "SCRIPT_INVALID";
/// It threw, or called something that failed.
const ERROR: &str = "SCRIPT_ERROR";
/// It went over one of [`super::ScriptLimits`].
const LIMIT: &str = "SCRIPT_LIMIT";
/// Longest piece of source that a message quotes, in characters.
const QUOTE: usize = 160;

impl ScriptFailure {
    pub(crate) fn new(code: &str, message: impl Into<String>) -> Self {
        Self { code: code.to_owned(), message: message.into() }
    }

    pub(crate) fn error(message: impl Into<String>) -> Self {
        Self::new(ERROR, message)
    }

    /// The script does not compile.
    pub(crate) fn parse(error: &ParseError, source: &str) -> Self {
        Self::new(INVALID, at(error.position(), &error.err_type().to_string(), source))
    }

    /// The script ended with an error. A script chooses the code by `throw #{code: "NO_STOCK", message: "..."}`; a termination token that is a
    /// pair of code and message says why Horus stopped it.
    pub(crate) fn runtime(mut error: EvalAltResult, source: &str) -> Self {
        let mut trail = String::new();
        let mut outer = error.position();
        let mut inside_script = true;
        while let EvalAltResult::ErrorInFunctionCall(name, file, inner, position) = error {
            let file = if file.is_empty() { String::new() } else { format!(" of {file}") };
            trail.push_str(&format!("\n  in `{name}`{file}, called at {}", place(position)));
            inside_script &= file.is_empty();
            error = *inner;
            outer = error.position();
        }
        let mut code = match error {
            EvalAltResult::ErrorParsing(..) => INVALID,
            EvalAltResult::ErrorTooManyOperations(..)
            | EvalAltResult::ErrorTooManyVariables(..)
            | EvalAltResult::ErrorTooManyModules(..)
            | EvalAltResult::ErrorStackOverflow(..)
            | EvalAltResult::ErrorDataTooLarge(..) => LIMIT,
            _ => ERROR,
        }
        .to_owned();
        error.set_position(Position::NONE);
        let message = match &error {
            EvalAltResult::ErrorRuntime(thrown, _) => {
                if let Some(chosen) = field(thrown, "code").filter(|c| !c.is_empty()) {
                    code = chosen;
                }
                field(thrown, "message").unwrap_or_else(|| thrown_text(thrown))
            }
            EvalAltResult::ErrorTerminated(token, _) => {
                if let Some(stop) = token.read_lock::<Self>() {
                    code.clone_from(&stop.code);
                    stop.message.clone()
                } else {
                    "the script was stopped".to_owned()
                }
            }
            EvalAltResult::ErrorModuleNotFound(name, _) => {
                format!("cannot import {name:?}: functions of the operator come from --script-lib and need no import")
            }
            other => other.to_string(),
        };
        let quoted = if inside_script { source } else { "" };
        Self { code, message: format!("{}{trail}", at(outer, &message, quoted)) }
    }
}

impl From<ScriptFailure> for ExecutionError {
    fn from(failure: ScriptFailure) -> Self {
        Self::new(&failure.code, failure.message)
    }
}

impl From<ExecutionError> for ScriptFailure {
    fn from(error: ExecutionError) -> Self {
        Self { code: error.code, message: error.message }
    }
}

/// What `Engine::on_progress` returns to end a script for this reason.
pub(crate) fn failed_by(code: &str, message: impl Into<String>) -> Dynamic {
    Dynamic::from(ScriptFailure::new(code, message))
}

fn field(thrown: &Dynamic, name: &str) -> Option<String> {
    let map = thrown.as_map_ref().ok()?;
    Some(map.get(name)?.to_string())
}

fn thrown_text(thrown: &Dynamic) -> String {
    if thrown.is_unit() {
        return "the script threw ()".to_owned();
    }
    let text = thrown.to_string();
    if text.is_empty() { "the script threw an empty text".to_owned() } else { text }
}

fn place(position: Position) -> String {
    match (position.line(), position.position()) {
        (Some(line), Some(column)) => format!("line {line}, column {column}"),
        (Some(line), None) => format!("line {line}"),
        (None, _) => "an unknown line".to_owned(),
    }
}

/// `line 2, column 5: message`, and the line itself below.
fn at(position: Position, message: &str, source: &str) -> String {
    let Some(line) = position.line() else { return message.to_owned() };
    let text = format!("{}: {message}", place(position));
    match source.lines().nth(line - 1).map(str::trim).filter(|quoted| !quoted.is_empty()) {
        Some(quoted) => format!("{text}\n  {line} | {}", quoted.chars().take(QUOTE).collect::<String>()),
        None => text,
    }
}
