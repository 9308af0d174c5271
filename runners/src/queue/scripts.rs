//! The Lua scripts: every change of state is one of them, so that it happens whole or not at all.

use std::sync::LazyLock;

/// A script with what the server calls it.
pub(crate) struct Script {
    pub(crate) name: &'static str,
    pub(crate) code: String,
    pub(crate) sha1: String,
}

/// What a script may do while Redis is out of memory.
#[derive(Clone, Copy)]
enum Flags {
    /// Changes nothing.
    Reads,
    /// Needs memory: refused when there is none, before it begins.
    Grows,
    /// Goes on when memory is full, since it moves or frees: jobs that are in the queue get done.
    Moves,
}

const PRELUDE: &str = include_str!("lua/prelude.lua");

impl Script {
    fn new(name: &'static str, flags: Flags, body: &str) -> Self {
        let flags = match flags {
            Flags::Reads => "no-writes,allow-oom",
            Flags::Grows => "",
            Flags::Moves => "allow-oom",
        };
        let code = if flags.is_empty() {
            format!("#!lua\n{PRELUDE}\n{body}")
        } else {
            format!("#!lua flags={flags}\n{PRELUDE}\n{body}")
        };
        let sha1 = redis::Script::new(&code).get_hash().to_owned();
        Self { name, code, sha1 }
    }
}

macro_rules! scripts {
    ($($constant:ident $name:literal $flags:ident,)*) => {
        $(pub(crate) static $constant: LazyLock<Script> =
            LazyLock::new(|| Script::new($name, Flags::$flags, include_str!(concat!("lua/", $name, ".lua"))));)*
    };
}

scripts! {
    CANCEL "cancel" Moves,
    CHECK "check" Reads,
    CLAIM "claim" Moves,
    DELETE "delete" Moves,
    DOCTOR "doctor" Reads,
    FINISH "finish" Moves,
    HEARTBEAT "heartbeat" Moves,
    HOLDS "holds" Reads,
    KEEP "keep" Grows,
    LIST "list" Reads,
    LOG "log" Grows,
    OBSERVE "observe" Reads,
    PUSH "push" Grows,
    READ "read" Reads,
    REAP "reap" Moves,
    RELEASE "release" Moves,
    START "start" Moves,
    SWEEP "sweep" Moves,
    UNREGISTER "unregister" Moves,
    WORKERS "workers" Reads,
}
