//! What the script runners share: a bounded Rhai engine, lossless JSON, the operator's script library, and errors that name the line.
//!
//! docs/SCRIPTING.md is the same from the script writer's side.

mod engine;
mod failure;
mod json;
mod library;
mod run;

pub use engine::ScriptLimits;
pub use library::LibraryError;

pub(crate) use engine::new_engine;
pub(crate) use failure::{ScriptFailure, failed_by};
pub(crate) use json::{from_json, to_json};
pub(crate) use library::load_library;
pub(crate) use run::{Program, run};
