//! Heroscript: a parser for it, and the executor of hero jobs.
//!
//! The language as parsed, the actions that are built in and the use of the `hero` command are
//! described in `docs/HEROSCRIPT.md`.

mod action;
mod cli;
mod cursor;
mod executor;
mod http;
mod interpreter;
mod parser;
mod text;
mod value;

pub use action::{Action, Param, split_list};
pub use executor::{HeroError, HeroExecutor};
pub use parser::{MAX_ACTIONS, MAX_NAME_BYTES, MAX_PARAMS, MAX_SCRIPT_BYTES, ParseError, parse};
