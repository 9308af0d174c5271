//! The runner role: an executor, the queue of its machine, and a worker between them.
//!
//! A runner of one's own is an [`Executor`] and one call of [`main`].

use std::{process::ExitCode, sync::Arc};

use anyhow::{Context as _, Result};
use horus_runners::{
    admission::Verifier,
    executor::Executor,
    queue::{Queue, QueueOptions},
    worker::{Worker, WorkerOptions},
};

use crate::{
    cli::{args::RunnerOptions, identity, parse_runner},
    role::{Health, LogFormat, Shutdown, follow_trust, present_own, start_logging},
};

/// Memory for verified batches, in bytes, and as much for receipts: jobs of a batch come one after the other.
const DOCUMENTS: usize = 32 << 20;
/// Memory for verified workflows: one of the largest, or many small ones.
const WORKFLOWS: usize = 128 << 20;

/// The `main` of a runner of one's own: takes the flags of `horus runner`, works until SIGTERM.
pub fn main<E: Executor>(executor: E) -> ExitCode {
    let options = parse_runner();
    let outcome = runtime().and_then(|runtime| runtime.block_on(run(options, 4, |_| async { Ok(executor) })));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("runner: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs an executor, which `open` makes once logging and keys stand, until SIGTERM or SIGINT; then drains.
///
/// # Errors
/// What keeps it from starting, with what to do about it. Redis going away later is no error: it waits.
pub async fn run<E, F, O>(options: RunnerOptions, default_concurrency: u32, open: O) -> Result<()>
where
    E: Executor,
    F: Future<Output = Result<E>>,
    O: FnOnce(std::path::PathBuf) -> F,
{
    start_logging(&options.role.log, LogFormat::Text).map_err(anyhow::Error::msg)?;
    let unused = &options.unused;
    if !unused.listen.is_empty() || unused.transport.is_some() || unused.mycelium_rpc.is_some() {
        tracing::info!("a runner speaks to its Redis only: --listen, --transport and --mycelium-rpc do nothing here");
    }
    let shutdown = Shutdown::on_signals().context("cannot watch for signals")?;
    let identity_dir = identity::resolve_dir(options.role.identity.as_deref())?;
    let keys = identity::load(&identity_dir)?;
    let certificate = identity::certificate(options.role.cert.as_deref(), &keys)?;
    let trust = identity::trust(options.role.trust.as_deref(), &identity_dir)?;
    if let Some(certificate) = &certificate {
        // A machine that has one key for its supervisor and its runners serves itself without being told so.
        present_own(&trust, certificate, keys.identity.peer_id());
    }
    let executor = open(identity_dir).await?;
    let kind = executor.kind();
    let queue = tokio::select! {
        queue = connect(&options.role.redis_url) => queue?,
        () = shutdown.draining() => return Ok(()),
    };

    let mut worker = WorkerOptions::new(options.name.unwrap_or_else(|| kind.to_string()), keys.identity.clone());
    worker.concurrency = options.concurrency.unwrap_or(default_concurrency) as usize;
    worker.grace = options.role.grace;
    worker.lease = options.lease;
    worker.supervisors = options.audience;
    worker.certificate = certificate;
    worker.sealing = Some(Arc::new(keys.sealing));
    let follow = tokio::spawn(follow_trust(trust.clone(), Health::new(), shutdown.clone()));
    let work = Worker::new(executor, queue, Verifier::with_memory(trust, DOCUMENTS, DOCUMENTS, WORKFLOWS), worker)
        .run(shutdown.drain_token());
    let outcome = tokio::select! {
        outcome = work => outcome.with_context(|| format!("the runner `{kind}` stopped")),
        () = shutdown.stopped() => Ok(()),
    };
    follow.abort();
    outcome
}

/// Connects to the queue. Redis may start after us: its absence is waited out, a wrong address is not.
///
/// # Errors
/// An address that is none, or a server that cannot hold a queue.
pub(crate) async fn connect(url: &str) -> Result<Queue> {
    let mut pause = std::time::Duration::from_millis(50);
    loop {
        match Queue::connect(url, QueueOptions::default()).await {
            Ok(queue) => return Ok(queue),
            Err(error) if error.is_transient() => {
                tracing::warn!(redis = %without_password(url), %error, "Redis cannot be reached: waiting for it; is it running, and is --redis-url right?");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(std::time::Duration::from_secs(5));
            }
            Err(error) => return Err(error).context("the queue cannot be used"),
        }
    }
}

/// An address as it may be shown: without login and password, wherever in it they stand.
pub(crate) fn without_password(url: &str) -> String {
    // That of a socket has them in its query.
    let (url, query) = match url.split_once('?') {
        Some((url, query)) if query.contains("pass=") => (url, "?***"),
        _ => (url, ""),
    };
    match (url.find("://"), url.rfind('@')) {
        (Some(scheme), Some(at)) if scheme + 3 < at => format!("{}***{}{query}", &url[..scheme + 3], &url[at..]),
        _ => format!("{url}{query}"),
    }
}

/// The runtime of a role: a thread for every two processors, 1 to 4. A machine runs several roles, and what takes long is done on threads
/// of its own; on a small machine more of them would only hand each event to one another.
///
/// # Errors
/// The system gives no threads.
pub fn runtime() -> Result<tokio::runtime::Runtime> {
    let processors = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    let threads = (processors / 2).clamp(1, 4);
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()
        .context("cannot start threads")
}

#[cfg(test)]
mod tests {
    #[test]
    fn passwords_do_not_reach_the_log() {
        assert_eq!(super::without_password("redis://user:secret@host:1/0"), "redis://***@host:1/0");
        assert_eq!(super::without_password("redis://host:1"), "redis://host:1");
        assert_eq!(super::without_password("redis+unix:///a@b/redis.sock"), "redis+unix://***@b/redis.sock");
        assert_eq!(super::without_password("unix:///r.sock?user=u&pass=secret"), "unix:///r.sock?***");
    }
}
