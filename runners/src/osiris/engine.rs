//! The engine of the osiris runner. It is shared by all script threads; what belongs to one job is in the thread.

use std::{
    cell::{Cell, RefCell},
    fs::File,
    os::unix::fs::FileExt,
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

use rhai::{Dynamic, Engine, EvalAltResult, Position};

use super::{api, options::OsirisOptions, session::Session};
use crate::script::{LibraryError, ScriptFailure, failed_by, load_library, new_engine};

thread_local! {
    /// The job that this thread runs.
    static SESSION: RefCell<Option<Session>> = const { RefCell::new(None) };
    static NEXT_LOOK: Cell<Instant> = Cell::new(Instant::now());
}

/// Time between two looks at cancellation and the memory of the process. By time and not by operations, since a single one may copy megabytes: what a
/// script can take between two looks is what the machine can copy meanwhile. (Rhai's own bounds of sizes do not see the sum of many values.)
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// Longest uninterrupted part of a `sleep`.
const NAP: Duration = Duration::from_millis(10);

pub(super) fn osiris_engine(options: &OsirisOptions) -> Result<Engine, LibraryError> {
    let mut engine = new_engine(&options.script);
    engine.on_progress(|_| must_stop());
    engine.on_print(|text| in_job(|session| session.log.stdout(text)));
    engine.on_debug(|text, _, position| {
        in_job(|session| match position.line() {
            Some(line) => session.log.stderr(&format!("line {line}: {text}")),
            None => session.log.stderr(text),
        });
    });
    // Rhai's own would sleep through a cancellation.
    engine.register_fn("sleep", |seconds: i64| nap(seconds as f64));
    engine.register_fn("sleep", nap);
    api::register(&mut engine);
    if let Some(dir) = &options.script_lib {
        load_library(&mut engine, dir)?;
    }
    Ok(engine)
}

/// Runs `work` with this session as the thread's job, and gives the session back.
pub(super) fn with_session<T>(session: Session, work: impl FnOnce() -> T) -> (T, Session) {
    SESSION.set(Some(session));
    let result = work();
    (result, SESSION.take().expect("only this function takes it out"))
}

/// Calls `ask` with the job of this thread.
pub(super) fn session<T>(
    ask: impl FnOnce(&mut Session) -> Result<T, Box<EvalAltResult>>,
) -> Result<T, Box<EvalAltResult>> {
    SESSION.with_borrow_mut(|session| match session {
        Some(session) => ask(session),
        None => Err("osiris is there only while a job runs".into()),
    })
}

fn in_job(tell: impl FnOnce(&Session)) {
    SESSION.with_borrow(|session| session.as_ref().map(tell));
}

fn must_stop() -> Option<Dynamic> {
    let now = Instant::now();
    if now < NEXT_LOOK.get() {
        return None;
    }
    NEXT_LOOK.set(now + LOOK_EVERY);
    SESSION.with_borrow(|session| {
        let session = session.as_ref()?;
        let stop = session.stopped().or_else(|| out_of_memory(session.memory_bytes));
        stop.map(|stop| failed_by(&stop.code, stop.message))
    })
}

fn out_of_memory(allowed: u64) -> Option<ScriptFailure> {
    let resident = resident_bytes()?;
    let text =
        || format!("the runner holds {resident} bytes, more than {allowed}: the scripts that run now were ended");
    (resident > allowed).then(|| ScriptFailure::new("SCRIPT_LIMIT", text()))
}

/// Resident memory of this process; none where `/proc` does not tell.
fn resident_bytes() -> Option<u64> {
    /// Linux on the machines that Horus runs on; with larger pages the limit is reached later.
    const PAGE_BYTES: u64 = 4096;
    static STATM: OnceLock<Option<File>> = OnceLock::new();
    let file = STATM.get_or_init(|| File::open("/proc/self/statm").ok()).as_ref()?;
    let mut text = [0; 128];
    let length = file.read_at(&mut text, 0).ok()?;
    let pages: u64 = std::str::from_utf8(&text[..length]).ok()?.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(pages * PAGE_BYTES)
}

fn nap(seconds: f64) -> Result<(), Box<EvalAltResult>> {
    let Ok(whole) = Duration::try_from_secs_f64(seconds) else { return Ok(()) };
    let started = Instant::now();
    loop {
        if let Some(stop) = SESSION.with_borrow(|session| session.as_ref().and_then(Session::stopped)) {
            return Err(Box::new(EvalAltResult::ErrorTerminated(failed_by(&stop.code, stop.message), Position::NONE)));
        }
        let rest = whole.saturating_sub(started.elapsed());
        if rest.is_zero() {
            return Ok(());
        }
        thread::sleep(rest.min(NAP));
    }
}
