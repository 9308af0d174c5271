//! The Rhai engine with the eight SAL modules.

use rhai::{Dynamic, Engine, EvalAltResult, Map};
use sal_process::{CommandResult, ProcessInfo};

use crate::script::{ScriptLimits, new_engine};

/// Builds the engine. Starts no thread and opens nothing, so that the fork server stays single-threaded.
///
/// The order is that of SAL itself, since two modules have functions of one name and parameters (`which`): the later wins.
pub(super) fn sal_engine(limits: &ScriptLimits) -> Result<Engine, Box<EvalAltResult>> {
    let mut engine = new_engine(limits);
    sal_os::rhai::register_os_module(&mut engine)?;
    sal_process::rhai::register_process_module(&mut engine)?;
    sal_git::rhai::register_git_module(&mut engine)?;
    sal_text::rhai::register_text_module(&mut engine)?;
    sal_net::rhai::register_net_module(&mut engine)?;
    sal_redisclient::rhai::register_redisclient_module(&mut engine)?;
    sal_postgresclient::rhai::register_postgresclient_module(&mut engine)?;
    sal_kubernetes::rhai::register_kubernetes_module(&mut engine)?;
    // The same stream that the modules and the script's programs print to, so that the log keeps their order.
    engine.on_print(|text| println!("{text}"));
    engine.on_debug(|text, _, position| match position.line() {
        Some(line) => eprintln!("line {line}: {text}"),
        None => eprintln!("{text}"),
    });
    Ok(engine)
}

/// Results of SAL calls that are plain data become maps, so that `run("...").execute()` can be a script's last expression.
pub(super) fn plain(value: Dynamic) -> Dynamic {
    let mut map = Map::new();
    if let Some(result) = value.read_lock::<CommandResult>() {
        map.insert("stdout".into(), result.stdout.clone().into());
        map.insert("stderr".into(), result.stderr.clone().into());
        map.insert("code".into(), i64::from(result.code).into());
        map.insert("success".into(), result.success.into());
    } else if let Some(process) = value.read_lock::<ProcessInfo>() {
        map.insert("pid".into(), process.pid.into());
        map.insert("name".into(), process.name.clone().into());
        map.insert("memory".into(), process.memory.into());
        map.insert("cpu".into(), process.cpu.into());
    } else if value.is_array() {
        let array = value.flatten_clone().into_array().expect("checked above");
        return array.into_iter().map(plain).collect::<rhai::Array>().into();
    }
    if map.is_empty() { value } else { map.into() }
}
