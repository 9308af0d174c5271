//! How an execution ends.

use std::fmt;

use horus_keys::{MAX_JSON_DEPTH, check_json_depth};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::job::{JobError, limits};

/// Why a job did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct ExecutionError {
    /// `SCREAMING_SNAKE`, at most 64 bytes: `retry.non_retryable` of a workflow step names it.
    pub code: String,
    /// What happened and what to do, at most 16 KiB.
    pub message: String,
}

impl ExecutionError {
    /// An error within the limits: what is longer is cut.
    #[must_use]
    pub fn new(code: &str, message: impl fmt::Display) -> Self {
        let JobError { code, message } = JobError::new(code, &message.to_string());
        Self { code, message }
    }
}

impl From<ExecutionError> for JobError {
    fn from(error: ExecutionError) -> Self {
        Self::new(&error.code, &error.message)
    }
}

/// The output of a job: JSON text of at most 512 KiB, kept to the byte, since its digest is what the runner signs.
#[derive(Debug, Clone)]
pub struct Output(Box<RawValue>);

impl Output {
    /// The output of a script that has none.
    #[must_use]
    pub fn null() -> Self {
        Self(RawValue::NULL.to_owned())
    }

    /// Takes JSON text as it is, without the space around it.
    ///
    /// # Errors
    /// `OUTPUT_INVALID` if it is not JSON or nested more than 64 deep, `OUTPUT_TOO_LARGE` above 512 KiB.
    pub fn from_json_text(text: String) -> Result<Self, ExecutionError> {
        Self::bounded(&text)?;
        RawValue::from_string(text)
            .map(Self)
            .map_err(|e| ExecutionError::new("OUTPUT_INVALID", format_args!("the output is not JSON: {e}")))
    }

    /// Serialises a value.
    ///
    /// # Errors
    /// As [`Output::from_json_text`]; also if the value cannot be JSON (a map whose keys are not strings).
    pub fn from_value<T: Serialize + ?Sized>(value: &T) -> Result<Self, ExecutionError> {
        let raw = serde_json::value::to_raw_value(value).map_err(|e| {
            ExecutionError::new("OUTPUT_INVALID", format_args!("the output cannot be written as JSON: {e}"))
        })?;
        Self::bounded(raw.get())?;
        Ok(Self(raw))
    }

    /// The JSON text.
    #[must_use]
    pub fn get(&self) -> &str {
        self.0.get()
    }

    /// The JSON text, to embed in other JSON unchanged.
    #[must_use]
    pub fn into_raw(self) -> Box<RawValue> {
        self.0
    }

    /// Whether JSON text is within the limits of an output.
    pub(crate) fn bounded(text: &str) -> Result<(), ExecutionError> {
        if text.len() > limits::OUTPUT_BYTES {
            let (is, max) = (text.len(), limits::OUTPUT_BYTES);
            return Err(ExecutionError::new(
                "OUTPUT_TOO_LARGE",
                format_args!(
                    "the output has {is} bytes, at most {max} are allowed: store it elsewhere and return where it is"
                ),
            ));
        }
        if !check_json_depth(text.as_bytes(), MAX_JSON_DEPTH) {
            let message = format_args!("the output is nested more than {MAX_JSON_DEPTH} deep");
            return Err(ExecutionError::new("OUTPUT_INVALID", message));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_kept_to_the_byte() {
        let text = r#"{"b": 1.0,  "a": 12345678901234567890123}"#;
        assert_eq!(Output::from_json_text(format!(" {text}\n")).unwrap().get(), text);
        assert_eq!(Output::from_value(&vec![1, 2]).unwrap().get(), "[1,2]");
        assert_eq!(Output::null().get(), "null");
    }

    #[test]
    fn what_is_not_a_bounded_json_value_is_an_error() {
        let code = |text: String| Output::from_json_text(text).unwrap_err().code;
        assert_eq!(code("{".into()), "OUTPUT_INVALID");
        assert_eq!(code("1 2".into()), "OUTPUT_INVALID");
        assert_eq!(code(format!("{}{}", "[".repeat(65), "]".repeat(65))), "OUTPUT_INVALID");
        assert_eq!(code(format!("\"{}\"", "x".repeat(limits::OUTPUT_BYTES))), "OUTPUT_TOO_LARGE");
        assert!(Output::from_json_text(format!("\"{}\"", "x".repeat(limits::OUTPUT_BYTES - 2))).is_ok());
    }

    #[test]
    fn long_errors_are_cut_at_a_character() {
        let error = ExecutionError::new(&"C".repeat(100), "é".repeat(20_000));
        assert_eq!(error.code.len(), limits::ERROR_CODE_BYTES);
        assert!(error.message.len() <= limits::ERROR_MESSAGE_BYTES && error.message.ends_with('é'));
    }
}
