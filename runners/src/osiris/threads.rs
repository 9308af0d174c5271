//! Threads for scripts: Rhai blocks, recurses deep, and must not take the threads of the async runtime.

use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
};

type Task = Box<dyn FnOnce() + Send>;

/// Room for the deepest script within [`crate::script::ScriptLimits`], in an unoptimised build too. Only what is touched takes memory.
const STACK_BYTES: usize = 32 * 1024 * 1024;

/// A few threads, started when they are needed. They end after their present task when this is dropped.
pub(super) struct ScriptThreads {
    shared: Arc<Shared>,
    most: usize,
}

struct Shared {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    tasks: VecDeque<Task>,
    threads: usize,
    idle: usize,
    closed: bool,
}

impl Shared {
    /// The state is whole after every statement, so a panic elsewhere while it was locked does no harm.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ScriptThreads {
    pub(super) fn new(most: usize) -> Self {
        let shared = Shared { state: Mutex::new(State::default()), wake: Condvar::new() };
        Self { shared: Arc::new(shared), most: most.max(1) }
    }

    /// Runs the task as soon as a thread is free.
    pub(super) fn run(&self, task: impl FnOnce() + Send + 'static) {
        let mut state = self.shared.state();
        state.tasks.push_back(Box::new(task));
        if state.idle < state.tasks.len() && state.threads < self.most {
            let shared = self.shared.clone();
            let thread = thread::Builder::new().name("osiris-script".into()).stack_size(STACK_BYTES);
            match thread.spawn(move || shared.work()) {
                Ok(_) => state.threads += 1,
                Err(e) if state.threads == 0 => {
                    tracing::error!(error = %e, "no thread can be started for scripts: jobs wait until one can");
                }
                Err(e) => tracing::warn!(error = %e, "no further thread can be started for scripts"),
            }
        }
        drop(state);
        self.shared.wake.notify_one();
    }
}

impl Shared {
    fn work(&self) {
        let mut state = self.state();
        loop {
            if let Some(task) = state.tasks.pop_front() {
                drop(state);
                // A panic in native code ends the job, whose reply is dropped, and not the thread.
                let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(task));
                state = self.state();
            } else if state.closed {
                return;
            } else {
                state.idle += 1;
                state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.idle -= 1;
            }
        }
    }
}

impl Drop for ScriptThreads {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.closed = true;
        state.tasks.clear();
        drop(state);
        self.shared.wake.notify_all();
    }
}
