//! The queue in Redis, seen from the supervisor ([`Queue`]) and from a runner ([`Lease`]).
//!
//! Truth is in the keys (see the `keys` module for their names); pub/sub carries hints only. Every change is one Lua script, which the server runs whole or
//! not at all, so a process that is killed between any two lines leaves a state from which others go on:
//!
//! - `push` stores batch, documents and jobs in one step: what was acknowledged is complete.
//! - `claim` moves jobs from `pending` to `active` with a fencing token. A worker that dies here is reaped: its jobs go back.
//! - `start` marks them running, before they are executed: from here on only idempotent jobs are delivered again.
//! - `finish` stores output and receipt if the token still holds, and is safe to repeat when its reply was lost.
//! - A lease lapses when the reaper has seen a worker's heartbeat counter stand still for a while of its own monotonic clock.
//!
//! Redis' own clock decides what depends on wall time (`not_before`, `run_until`, retention). It can jump; leases do not depend on it.

mod connection;
mod doctor;
mod error;
mod events;
mod keys;
mod lease;
mod logs;
mod observer;
mod push;
mod read;
mod reap;
mod registry;
mod scripts;
mod server;
mod views;

use std::{num::NonZeroUsize, sync::Arc, sync::Mutex, time::Duration};

use horus_keys::RunnerKind;
use lru::LruCache;
use redis::Cmd;

pub use doctor::Finding;
pub use error::QueueError;
pub use events::{Finished, FinishedEvent, FinishedEvents};
pub use lease::{Beat, Claim, Claimed, Finish, Lease, LeaseOptions};
pub use logs::log_cursor_is_valid;
pub use observer::{LeaseObserver, Observed};
pub use push::Pushed;
pub use read::cursor_is_valid;
pub use reap::{Reaped, Swept};
pub use registry::{QueueDepth, RunnerState, RunnerView};
pub use server::ServerFacts;
pub use views::{JobFilter, JobPage, JobResult, JobView, LogPage, ReceiptAt};

pub(crate) use events::backoff;
pub(crate) use keys::Document;
pub(crate) use lease::Waiter;
pub(crate) use logs::LogBatch;

use connection::Connection;

/// How a [`Queue`] behaves. The same for all processes on one Redis.
#[derive(Debug, Clone)]
pub struct QueueOptions {
    /// Jobs that may wait per runner kind, due and delayed ones; beyond it `push` answers [`QueueError::Full`].
    pub max_queue: u64,
    /// How long finished jobs, their outputs and logs are kept.
    pub retention: Duration,
    /// How many finished jobs are kept per runner kind, whatever their age.
    pub max_finished: u64,
    /// A worker whose heartbeat counter stands still this long has lost its jobs, unless it asked for longer.
    pub lease: Duration,
    /// How long to wait for a reply of Redis.
    pub response_timeout: Duration,
}

impl Default for QueueOptions {
    fn default() -> Self {
        Self {
            max_queue: 200_000,
            retention: Duration::from_secs(24 * 3600),
            max_finished: 100_000,
            lease: Duration::from_secs(15),
            response_timeout: Duration::from_secs(5),
        }
    }
}

/// The queues of all runner kinds on one Redis. Clones share one connection.
#[derive(Clone)]
pub struct Queue {
    connection: Connection,
    options: Arc<QueueOptions>,
    /// Documents that were stored from here lately: they are not sent again with every batch.
    stored: Arc<Mutex<LruCache<(RunnerKind, Document), ()>>>,
    /// Kinds that are known to be in `horus:kinds`.
    kinds: Arc<Mutex<std::collections::BTreeSet<RunnerKind>>>,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").field("options", &self.options).finish_non_exhaustive()
    }
}

/// How many documents a supervisor remembers to have stored.
const STORED: NonZeroUsize = NonZeroUsize::new(4096).expect("it is not zero");

impl Queue {
    /// Connects to `redis://host:6379`, `rediss://...`, `unix:///path/to/socket`, or to a cluster by
    /// `redis-cluster://host:port,host:port`.
    ///
    /// # Errors
    /// [`QueueError::Address`], [`QueueError::Unavailable`] if there is no server, [`QueueError::Unsupported`] if it is older than Redis 7.
    pub async fn connect(url: &str, options: QueueOptions) -> Result<Self, QueueError> {
        let connection = Connection::open(url, options.response_timeout).await?;
        let queue = Self {
            connection,
            options: Arc::new(options),
            stored: Arc::new(Mutex::new(LruCache::new(STORED))),
            kinds: Arc::default(),
        };
        queue.check_version().await?;
        Ok(queue)
    }

    /// How it behaves.
    #[must_use]
    pub fn options(&self) -> &QueueOptions {
        &self.options
    }

    /// Asks Redis for a sign of life.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`]
    pub async fn ping(&self) -> Result<(), QueueError> {
        self.connection.query::<redis::Value>(&redis::cmd("PING")).await.map(drop)
    }

    async fn check_version(&self) -> Result<(), QueueError> {
        if self.connection.is_cluster() {
            return self.ping().await;
        }
        let info: String = self.connection.query(redis::cmd("INFO").arg("server")).await?;
        let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let version = field("redis_version:").unwrap_or("");
        let major: u32 = version.split('.').next().and_then(|text| text.parse().ok()).unwrap_or(0);
        if major < 7 {
            return Err(QueueError::Unsupported(format!(
                "the server is Redis {version}: Horus needs Redis 7.0 or newer, or Valkey"
            )));
        }
        // One that still loads its data says what it is, but answers nothing else.
        self.ping().await
    }

    /// The runner kinds that have, or had, jobs or workers here.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`]
    pub async fn kinds(&self) -> Result<Vec<RunnerKind>, QueueError> {
        self.kinds_in(keys::KINDS).await
    }

    /// Of these kinds those that are served: all but those whose last runner was removed.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`]
    pub async fn served(&self, mut kinds: Vec<RunnerKind>) -> Result<Vec<RunnerKind>, QueueError> {
        let removed = self.kinds_in(keys::REMOVED).await?;
        kinds.retain(|kind| !removed.contains(kind));
        Ok(kinds)
    }

    async fn kinds_in(&self, set: &str) -> Result<Vec<RunnerKind>, QueueError> {
        let names: Vec<String> = self.connection.query(redis::cmd("SMEMBERS").arg(set)).await?;
        let mut kinds: Vec<RunnerKind> = names.iter().filter_map(|name| name.parse().ok()).collect();
        kinds.sort();
        Ok(kinds)
    }

    /// Enters a kind in the set of kinds, once per process.
    async fn remember_kind(&self, kind: &RunnerKind) -> Result<(), QueueError> {
        if self.kinds.lock().expect("no code panics while it holds this lock").contains(kind) {
            return Ok(());
        }
        self.enter_kind("SADD", keys::KINDS, kind).await?;
        self.kinds.lock().expect("no code panics while it holds this lock").insert(kind.clone());
        Ok(())
    }

    /// Enters a kind in the set of kinds. Workers do it again and again, since the data of a Redis can get lost.
    async fn announce_kind(&self, kind: &RunnerKind) -> Result<(), QueueError> {
        self.enter_kind("SADD", keys::KINDS, kind).await?;
        self.enter_kind("SREM", keys::REMOVED, kind).await
    }

    async fn enter_kind(&self, how: &str, set: &str, kind: &RunnerKind) -> Result<(), QueueError> {
        let mut change: Cmd = redis::cmd(how);
        change.arg(set).arg(kind.as_str());
        self.connection.query::<i64>(&change).await.map(drop)
    }
}
