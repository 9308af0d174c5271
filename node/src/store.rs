//! The little that a role itself keeps in Redis, beside the queue and the workflows: nonces of call signatures, and the mark
//! by which it finds out whether Redis takes writes.
//!
//! Keys: `horus:nonce:<PeerId>:<nonce>`, gone when the signature's window has passed, `horus:probe:<PeerId>`,
//! and `horus:registered`, the runners that an operator announced before they started.

use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use horus_keys::{PeerId, RunnerKind};
use horus_runners::link::Link;
use horus_transport::{ErrorKind, NonceStore, RpcError};
use redis::aio::ConnectionLike;
use redis::{Cmd, FromRedisValue, RedisError};
use thiserror::Error;

use crate::role::{Health, Shutdown};

/// Hash of the runners that were registered by hand: name -> kind.
const REGISTERED: &str = "horus:registered";
/// How long a reply may take.
const REPLY: Duration = Duration::from_secs(3);
/// How often a Redis that is well is probed.
const PROBE: Duration = Duration::from_secs(5);
/// First pause between the probes of one that is not.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Longest pause between them: how long after Redis is back the role is, at most.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Why Redis did not do what it was asked for.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct StoreError(String);

impl From<RedisError> for StoreError {
    fn from(error: RedisError) -> Self {
        let hint = match error.code() {
            Some("OOM") => ": its memory is full, raise maxmemory or lower the retention",
            Some("MISCONF") => ": it cannot write to its disk, free some space",
            Some("READONLY") => ": it is a read-only replica, connect to the primary",
            Some("LOADING") => ": it is still loading its data",
            Some("NOAUTH" | "WRONGPASS") => ": give user and password in the URL",
            _ => "",
        };
        Self(format!("{error}{hint}"))
    }
}

/// A role's own connection to Redis, standalone or a cluster. Cheap to clone; it connects again by itself.
#[derive(Clone)]
pub struct Store {
    link: Link,
    probe_key: String,
    health: Health,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").finish_non_exhaustive()
    }
}

impl Store {
    /// Connects to the Redis of this machine, as the role `me`. URLs are those of
    /// [`Queue::connect`](horus_runners::queue::Queue::connect). While `health` has trouble with Redis, no call is tried but
    /// the probe; a call that fails is such a trouble.
    ///
    /// # Errors
    /// [`StoreError`] when the URL is wrong or nobody answers there.
    pub async fn connect(url: &str, me: PeerId, health: Health) -> Result<Self, StoreError> {
        let link = Link::open(url, REPLY).await?;
        Ok(Self { link, probe_key: format!("horus:probe:{me}"), health })
    }

    /// Whether Redis takes writes: that it answers is not enough, for a replica, a full memory and a full disk do.
    ///
    /// # Errors
    /// [`StoreError`] when it does not.
    pub async fn probe(&self) -> Result<(), StoreError> {
        let mut set = redis::cmd("SET");
        set.arg(&self.probe_key).arg(1).arg("EX").arg(60);
        self.query::<()>(&set).await
    }

    /// The runners that were registered by hand: name and kind.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn registered(&self) -> Result<Vec<(String, RunnerKind)>, StoreError> {
        let all: Vec<(String, String)> = self.query(redis::cmd("HGETALL").arg(REGISTERED)).await?;
        Ok(all.into_iter().filter_map(|(name, kind)| Some((name, kind.parse().ok()?))).collect())
    }

    /// Registers a runner by hand.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn register(&self, name: &str, kind: &RunnerKind) -> Result<(), StoreError> {
        self.query(redis::cmd("HSET").arg(REGISTERED).arg(name).arg(kind.as_ref())).await
    }

    /// Forgets a runner that was registered by hand. True if there was one.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn unregister(&self, name: &str) -> Result<bool, StoreError> {
        self.query(redis::cmd("HDEL").arg(REGISTERED).arg(name)).await
    }

    /// Keeps watch over Redis for the role's [`Health`]: probes every 5 seconds, and with back-off while there is trouble, whoever
    /// noticed it, until a probe succeeds. `other` probes the role's other connection to Redis, which can take longer to come back
    /// than this one. Ends when the role stops; a role that drains still needs to know.
    pub async fn keep_watch<F, E>(self, shutdown: Shutdown, other: impl Fn() -> F + Send)
    where
        F: Future<Output = Result<(), E>> + Send,
        E: std::fmt::Display,
    {
        let health = self.health.clone();
        let watch = watch(&health, || {
            let (store, other) = (self.clone(), other());
            async move {
                store.probe().await?;
                other.await.map_err(|error| StoreError(error.to_string()))
            }
        });
        tokio::select! {
            () = watch => {}
            () = shutdown.stopped() => {}
        }
    }

    async fn query<T: FromRedisValue>(&self, cmd: &Cmd) -> Result<T, StoreError> {
        let value = self.link.clone().req_packed_command(cmd).await?.extract_error()?;
        T::from_redis_value(value).map_err(|error| StoreError(error.to_string()))
    }
}

impl NonceStore for Store {
    fn remember<'a>(&'a self, caller: PeerId, nonce: &'a str, ttl: Duration) -> BoxFuture<'a, Result<bool, RpcError>> {
        async move {
            let mut set = redis::cmd("SET");
            let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).max(1);
            set.arg(format!("horus:nonce:{caller}:{nonce}")).arg(1).arg("NX").arg("PX").arg(ttl_ms);
            if let Some(reason) = self.health.reason(Health::REDIS) {
                return Err(cannot_tell(&reason));
            }
            match self.query::<Option<String>>(&set).await {
                Ok(reply) => Ok(reply.is_some()),
                Err(error) => {
                    self.health.trouble(Health::REDIS, error.to_string());
                    Err(cannot_tell(&error.to_string()))
                }
            }
        }
        .boxed()
    }
}

/// Probes as long as it is polled.
async fn watch<F, E>(health: &Health, mut probe: impl FnMut() -> F)
where
    F: Future<Output = Result<(), E>>,
    E: std::fmt::Display,
{
    let mut pause = FIRST_PAUSE;
    loop {
        if health.reason(Health::REDIS).is_some() {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        } else {
            pause = FIRST_PAUSE;
            tokio::select! {
                () = health.troubled(Health::REDIS) => continue,
                () = tokio::time::sleep(PROBE) => {}
            }
        }
        match probe().await {
            Ok(()) => health.well(Health::REDIS),
            Err(error) => health.trouble(Health::REDIS, error.to_string()),
        };
    }
}

fn cannot_tell(reason: &str) -> RpcError {
    RpcError::new(
        ErrorKind::RedisUnavailable,
        format!(
            "this node cannot tell now whether the call was made before, for its Redis is in trouble: {reason}. It goes on by itself; send the call again in some seconds"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use tokio::time::{Instant, timeout};

    #[tokio::test(start_paused = true)]
    async fn trouble_ends_soon_after_redis_is_back_and_is_not_hammered_before() {
        let health = Health::new();
        let began = Instant::now();
        let outage = Duration::from_secs(20)..Duration::from_secs(80);
        let probes = Cell::new(0);
        let probe = || {
            let down = outage.contains(&began.elapsed());
            probes.set(probes.get() + usize::from(down));
            async move { if down { Err("connection refused") } else { Ok(()) } }
        };
        let story = async {
            health.troubled(Health::REDIS).await;
            assert!(began.elapsed() <= outage.start + PROBE, "noticed although nobody called");
            health.untroubled(Health::REDIS).await;
            assert!(began.elapsed() <= outage.end + LONGEST_PAUSE);
        };
        let both = async {
            tokio::select! {
                () = watch(&health, probe) => unreachable!("it never ends"),
                () = story => {}
            }
        };
        timeout(Duration::from_secs(200), both).await.unwrap();
        assert!(probes.get() < 45, "{} probes in a minute", probes.get());
    }

    #[tokio::test]
    async fn a_url_that_cannot_be_used_is_refused() {
        let me = horus_keys::Identity::generate().peer_id();
        for url in ["", "http://localhost", "redis-cluster://"] {
            assert!(Store::connect(url, me, Health::new()).await.is_err(), "{url}");
        }
    }
}
