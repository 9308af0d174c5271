//! How the osiris runner is set up, and its bounds.

use std::path::PathBuf;

use crate::script::ScriptLimits;

/// Settings of [`super::OsirisExecutor`].
#[derive(Debug, Clone)]
pub struct OsirisOptions {
    /// `sqlite://PATH` (made if it is not there; WAL, synchronous NORMAL) or `postgres://USER:PASSWORD@HOST/DATABASE`.
    pub url: String,
    /// Directory of `*.rhai` files whose functions every script can call.
    pub script_lib: Option<PathBuf>,
    /// How many scripts run at once: a script that loops takes a thread until its timeout. Started when needed. Default 8.
    pub threads: usize,
    /// Resident memory of the whole runner process above which running scripts are ended, in bytes. Default 1 GiB.
    pub memory_bytes: u64,
    /// Bounds on values inside a script: with sizes, unlike those of sal, since all scripts share one process.
    pub script: ScriptLimits,
}

impl OsirisOptions {
    /// The defaults with this database.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        let script = ScriptLimits {
            string_bytes: 32 * 1024 * 1024,
            array_items: 1_000_000,
            map_entries: 1_000_000,
            variables: 256,
            call_depth: 48,
        };
        Self { url: url.into(), script_lib: None, threads: 8, memory_bytes: 1 << 30, script }
    }
}

/// Longest name of a model, in bytes.
pub(super) const MODEL_BYTES: usize = 64;
/// Longest id of a record, in bytes.
pub(super) const ID_BYTES: usize = 256;
/// Largest record, in bytes of JSON.
pub(super) const RECORD_BYTES: usize = 512 * 1024;
/// Most records that one job may change or hold from `get`.
pub(super) const SESSION_RECORDS: usize = 10_000;
/// Most bytes of JSON that one job may change.
pub(super) const CHANGED_BYTES: usize = 16 * 1024 * 1024;
/// Most records that one `list` or `find` returns.
pub(super) const RESULT_RECORDS: usize = 10_000;
/// Most bytes of JSON that one `list` or `find` returns.
pub(super) const RESULT_BYTES: usize = 16 * 1024 * 1024;
