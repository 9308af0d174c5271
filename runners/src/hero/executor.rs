//! Which engine executes hero jobs, and the executor that the worker calls.

use super::interpreter::Interpreter;
use super::{cli, interpreter};
use crate::executor::{Context, ExecutionError, Executor, Output};
use crate::job::Job;
use horus_keys::RunnerKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The command that is looked for on PATH.
const CLI_NAME: &str = "hero";

/// Executes hero jobs: by the `hero` command if there is one, else by the built-in interpreter.
#[derive(Debug)]
pub struct HeroExecutor {
    engine: Engine,
}

#[derive(Debug)]
enum Engine {
    Cli(PathBuf),
    BuiltIn(Interpreter),
}

/// Why a hero executor could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum HeroError {
    /// The command that was asked for is no program.
    #[error("no hero command at {}: it must be an executable file; leave --hero-cli away for the built-in actions", .0.display())]
    NoCli(PathBuf),
    /// The HTTP client of the built-in interpreter does not start.
    #[error("the HTTP client does not start, are the system's root certificates installed (ca-certificates)? {0}")]
    Http(#[from] reqwest::Error),
}

impl HeroExecutor {
    /// With the command `cli`; without one, with `hero` on PATH; if there is none either, with the
    /// built-in interpreter.
    ///
    /// # Errors
    /// `cli` is no executable file, or the HTTP client does not start.
    pub fn new(cli: Option<&Path>) -> Result<Self, HeroError> {
        let found = match cli {
            Some(path) => Some(find(path).ok_or_else(|| HeroError::NoCli(path.to_owned()))?),
            None => find(Path::new(CLI_NAME)),
        };
        match found {
            Some(path) => Ok(Self { engine: Engine::Cli(path) }),
            None => Self::built_in(),
        }
    }

    /// With the built-in interpreter, whatever is installed.
    ///
    /// # Errors
    /// The HTTP client does not start.
    pub fn built_in() -> Result<Self, HeroError> {
        Ok(Self { engine: Engine::BuiltIn(Interpreter::new()?) })
    }

    /// The command that runs the scripts; nothing if the built-in interpreter does.
    #[must_use]
    pub fn cli(&self) -> Option<&Path> {
        match &self.engine {
            Engine::Cli(path) => Some(path),
            Engine::BuiltIn(_) => None,
        }
    }

    /// The actions of the built-in interpreter, as `actor.name`.
    pub fn built_in_actions() -> impl Iterator<Item = &'static str> {
        interpreter::ACTIONS.iter().map(|(name, _)| *name)
    }
}

/// The program at `path`, or on PATH if it is a bare name.
fn find(path: &Path) -> Option<PathBuf> {
    let is_bare = path.components().count() == 1 && !path.is_absolute() && !path.starts_with(".");
    if !is_bare {
        return is_executable(path).then(|| std::path::absolute(path).unwrap_or_else(|_| path.to_owned()));
    }
    let dirs = std::env::var_os("PATH")?;
    // Relative entries of PATH would mean another program in another directory.
    std::env::split_paths(&dirs)
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join(path))
        .find(|file| is_executable(file))
}

fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

impl Executor for HeroExecutor {
    fn kind(&self) -> RunnerKind {
        "hero".parse().expect("hero is a runner kind")
    }

    async fn prepare(&self) -> Result<(), ExecutionError> {
        match &self.engine {
            Engine::Cli(path) => tracing::info!(cli = %path.display(), "hero jobs run by the hero command"),
            Engine::BuiltIn(_) => tracing::info!("no hero command: hero jobs run by the built-in actions"),
        }
        Ok(())
    }

    async fn execute(&self, job: &Job, context: &Context) -> Result<Output, ExecutionError> {
        match &self.engine {
            Engine::Cli(path) => cli::run(path, job, context).await,
            Engine::BuiltIn(interpreter) => interpreter.run(job, context).await,
        }
    }
}

/// Text as an output: the JSON value if it is one, else a string.
///
/// # Errors
/// It exceeds the limit of outputs.
pub(super) fn text_output(text: &str) -> Result<Output, ExecutionError> {
    match Output::from_json_text(text.to_owned()) {
        Err(error) if error.code == "OUTPUT_INVALID" => Output::from_value(text),
        result => result,
    }
}

/// What an executor answers once its context is cancelled; the worker knows why it was.
pub(super) fn stopped(context: &Context) -> ExecutionError {
    if tokio::time::Instant::now() >= context.deadline {
        ExecutionError::new("TIMED_OUT", "the job's time was over")
    } else {
        ExecutionError::new("CANCELLED", "the job was cancelled")
    }
}

/// The end of `text` in at most `bytes` bytes, for error messages.
pub(super) fn tail(text: &str, bytes: usize) -> &str {
    &text[text.ceil_char_boundary(text.len().saturating_sub(bytes))..]
}
