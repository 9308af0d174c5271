//! Logging of a process: to stderr, for stdout belongs to results.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

/// How log lines look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// One readable line an event, coloured on a terminal.
    #[default]
    Text,
    /// One JSON object an event, for collectors.
    Json,
}

/// Starts logging to stderr. `filter` is what `--log` takes: a level (`info`) or directives (`warn,horus_node=debug`).
///
/// # Errors
/// A message for the user, when the filter is not one. Starting a second time in a process changes nothing and is no error.
pub fn start_logging(filter: &str, format: LogFormat) -> Result<(), String> {
    let filter = EnvFilter::try_new(filter).map_err(|error| {
        format!("--log {filter:?} is not a log filter ({error}); try info, debug or warn,horus_node=debug")
    })?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_target(false);
    // An error means that somebody (a test, an embedding program) set up logging before: theirs stays.
    let _ = match format {
        LogFormat::Text => lines.with_ansi(io::stderr().is_terminal()).try_init(),
        LogFormat::Json => lines.json().try_init(),
    };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_filter_is_named() {
        let error = start_logging("horus=loud=very", LogFormat::Text).unwrap_err();
        assert!(error.contains("horus=loud=very"), "{error}");
    }
}
