//! The register of workers.

use std::collections::BTreeMap;

use horus_keys::{PeerId, RunnerKind, Timestamp};
use redis::{FromRedisValue, Value};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Queue, QueueError, connection::Args, keys, scripts};

/// Whether a worker shows life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RunnerState {
    /// It does.
    Alive,
    /// It missed a heartbeat.
    Late,
    /// Its lease is over.
    Gone,
}

/// A worker as `list_runners` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RunnerView {
    /// Name for people.
    pub name: String,
    /// Id of this very process: the name, and 12 random hex digits.
    pub worker: String,
    /// The kind that it serves.
    pub runner: RunnerKind,
    /// The key that signs its receipts.
    pub peer_id: PeerId,
    /// Whether it shows life.
    pub state: RunnerState,
    /// Jobs that it executes.
    pub running: u32,
    /// Jobs that it can execute at a time.
    pub concurrency: u32,
    /// Due jobs that wait in the queue of its kind.
    pub queued: u64,
    /// Its last heartbeat, by the clock of Redis.
    pub last_seen: Timestamp,
}

/// A worker that is gone is dropped from the register after this long.
const FORGET_MS: i64 = 24 * 3_600_000;

impl Queue {
    /// All workers of all kinds, by kind and name.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`]
    pub async fn runners(&self) -> Result<Vec<RunnerView>, QueueError> {
        let mut all = Vec::new();
        for kind in self.kinds().await? {
            all.extend(self.runners_of(&kind).await?);
        }
        Ok(all)
    }

    /// The workers of one kind, by name.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`]
    pub async fn runners_of(&self, kind: &RunnerKind) -> Result<Vec<RunnerView>, QueueError> {
        let reply: Vec<Value> = self.connection.run(&scripts::WORKERS, &keys::base(kind), &Args::new()).await?;
        let numbers: Vec<i64> =
            reply.iter().take(4).filter_map(|v| if let Value::Int(n) = v { Some(*n) } else { None }).collect();
        let &[now, pending, _, _] = numbers.as_slice() else { return Err(QueueError::corrupt("the list of workers")) };
        let (mut views, mut stale) = (Vec::new(), Vec::new());
        for row in reply.into_iter().skip(4) {
            let (worker, facts) =
                <(String, BTreeMap<String, String>)>::from_redis_value(row).map_err(QueueError::corrupt)?;
            match view(kind, &worker, &facts, now, u64::try_from(pending).unwrap_or(0)) {
                Some(view) if now - view.last_seen.as_millis() < FORGET_MS => views.push(view),
                _ => stale.push(worker),
            }
        }
        if !stale.is_empty() {
            self.unregister(kind, &stale).await?;
        }
        views.sort_by(|a, b| (&a.name, a.state, &a.worker).cmp(&(&b.name, b.state, &b.worker)));
        Ok(views)
    }

    /// Enters a kind that no worker has served yet, so that jobs of it can be accepted.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`]
    pub async fn register_kind(&self, kind: &RunnerKind) -> Result<(), QueueError> {
        self.announce_kind(kind).await
    }

    /// Takes a kind back that no worker serves any more: it is not among the [`Queue::served`] until a worker comes, or it is
    /// registered again. What is left of its jobs ends, expires and is forgotten as before. False if it has workers.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`]
    pub async fn remove_kind(&self, kind: &RunnerKind) -> Result<bool, QueueError> {
        if !self.runners_of(kind).await?.is_empty() {
            return Ok(false);
        }
        self.enter_kind("SADD", keys::REMOVED, kind).await?;
        Ok(true)
    }

    /// How many jobs of a kind wait, due and delayed ones, and how many are claimed or running.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`]
    pub async fn depth(&self, kind: &RunnerKind) -> Result<QueueDepth, QueueError> {
        let reply: Vec<Value> = self.connection.run(&scripts::WORKERS, &keys::base(kind), &Args::new()).await?;
        let number = |at: usize| match reply.get(at) {
            Some(Value::Int(n)) => u64::try_from(*n).unwrap_or(0),
            _ => 0,
        };
        Ok(QueueDepth { queued: number(1), delayed: number(2), active: number(3) })
    }

    /// Takes the workers of this name off the register that are gone and hold no jobs. Gives how many.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`]
    pub async fn remove_runner(&self, name: &str) -> Result<u64, QueueError> {
        let mut removed = 0;
        for kind in self.kinds().await? {
            let views = self.runners_of(&kind).await?;
            let named = views.into_iter().filter(|view| view.name == name || view.worker == name);
            let gone: Vec<String> =
                named.filter(|view| view.state == RunnerState::Gone).map(|view| view.worker).collect();
            if !gone.is_empty() {
                removed += self.unregister(&kind, &gone).await?;
            }
        }
        Ok(removed)
    }

    async fn unregister(&self, kind: &RunnerKind, workers: &[String]) -> Result<u64, QueueError> {
        let mut args = Args::new();
        for worker in workers {
            args.push(worker);
        }
        self.connection.run(&scripts::UNREGISTER, &keys::base(kind), &args).await
    }
}

/// How full a queue is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct QueueDepth {
    /// Jobs that are due.
    pub queued: u64,
    /// Jobs that wait for their `not_before`.
    pub delayed: u64,
    /// Jobs that a worker holds.
    pub active: u64,
}

fn view(
    kind: &RunnerKind,
    worker: &str,
    facts: &BTreeMap<String, String>,
    now: i64,
    queued: u64,
) -> Option<RunnerView> {
    let number = |name: &str| facts.get(name).and_then(|text| text.parse::<i64>().ok());
    let small = |name: &str| number(name).and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
    let (seen, lease) = (number("seen")?, number("lease_ms")?);
    let silent = now - seen;
    // A heartbeat comes every third of the lease.
    let state = if silent > lease {
        RunnerState::Gone
    } else if silent > lease / 2 {
        RunnerState::Late
    } else {
        RunnerState::Alive
    };
    Some(RunnerView {
        name: facts.get("name")?.clone(),
        worker: worker.to_owned(),
        runner: kind.clone(),
        peer_id: facts.get("peer_id")?.parse().ok()?,
        state,
        running: small("running"),
        concurrency: small("concurrency"),
        queued,
        last_seen: Timestamp::from_millis(seen),
    })
}
