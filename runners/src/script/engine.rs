//! The engine that all script runners start from.

use rhai::{Dynamic, Engine, EvalAltResult, Position, module_resolvers::DummyModuleResolver};
use serde::{Deserialize, Serialize};

use super::json::{from_json, to_json};

/// Bounds on what one script may hold and nest; a script over a bound ends with `SCRIPT_LIMIT`. How long it may run is the job's timeout, not a count
/// of operations.
///
/// The sizes count everything inside a value, however deep, and 0 means no bound. They have a price: with any of them set, Rhai counts a whole value
/// again at each call that changes it, so that building an array of n items takes time in the order of n². They are for scripts that share a process;
/// the memory of a process of its own is bounded by the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScriptLimits {
    /// Longest string, in bytes, and all strings of one array or map together. Default 0.
    pub string_bytes: usize,
    /// Most elements of an array. Default 0.
    pub array_items: usize,
    /// Most entries of a map. Default 0.
    pub map_entries: usize,
    /// Most variables in scope at once. Default 1,024.
    pub variables: usize,
    /// Deepest nesting of function calls. Default 64.
    pub call_depth: usize,
}

impl Default for ScriptLimits {
    fn default() -> Self {
        Self { string_bytes: 0, array_items: 0, map_entries: 0, variables: 1024, call_depth: 64 }
    }
}

/// Deepest nesting of expressions at the top of a script; functions get half of it, since their frames add up.
const EXPRESSION_DEPTH: usize = 128;
/// Most functions of one script.
const FUNCTIONS: usize = 2048;

/// An engine within the limits that reads no files: `import` is off, since the operator provides functions by `--script-lib`.
///
/// `parse_json` and `to_json` are replaced: Rhai's own turn integers beyond 64 bits into floats and take nothing but maps.
pub(crate) fn new_engine(limits: &ScriptLimits) -> Engine {
    let mut engine = Engine::new();
    engine
        .set_module_resolver(DummyModuleResolver::new())
        .set_max_string_size(limits.string_bytes)
        .set_max_array_size(limits.array_items)
        .set_max_map_size(limits.map_entries)
        .set_max_variables(limits.variables)
        .set_max_call_levels(limits.call_depth)
        .set_max_expr_depths(EXPRESSION_DEPTH, EXPRESSION_DEPTH / 2)
        .set_max_functions(FUNCTIONS);
    engine
        .register_fn("parse_json", |text: &str| -> Result<Dynamic, Box<EvalAltResult>> {
            from_json(text).map_err(|e| runtime_error(&format!("parse_json: {e}")))
        })
        .register_fn("to_json", |value: Dynamic| -> Result<String, Box<EvalAltResult>> {
            to_json(&value).map_err(|e| runtime_error(&format!("to_json: {e}")))
        });
    engine
}

/// An error that a script can catch, as if it had thrown the text.
pub(crate) fn runtime_error(message: &str) -> Box<EvalAltResult> {
    Box::new(EvalAltResult::ErrorRuntime(message.to_owned().into(), Position::NONE))
}
