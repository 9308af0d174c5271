//! The connection to Redis that a process' commands share, standalone or cluster: one, multiplexed, that reconnects by itself.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use redis::aio::{ConnectionLike, ConnectionManager, ConnectionManagerConfig};
use redis::cluster::{ClusterClient, ClusterClientBuilder};
use redis::cluster_async::ClusterConnection;
use redis::{Client, Cmd, Pipeline, RedisError, RedisFuture, RedisResult, Value};

/// How long a connection may take to be made.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a connection to a read-only replica is kept before its address is asked again for a primary.
const READ_ONLY_PAUSE: Duration = Duration::from_millis(100);

/// Where Redis is.
#[derive(Clone)]
pub(crate) enum Place {
    /// One server.
    Single(Box<Client>),
    /// A cluster, and each of the nodes that its URL names.
    Cluster(Box<ClusterClient>, Vec<Client>),
}

impl Place {
    /// Reads a URL: see [`Link::open`]. Each answer of a cluster may take as long as `reply`.
    pub(crate) fn parse(url: &str, reply: Duration) -> RedisResult<Self> {
        crate::tls::choose_provider();
        let cluster = ["redis", "rediss"].into_iter().find_map(|scheme| {
            let rest = url.strip_prefix(scheme)?.strip_prefix("-cluster://")?;
            Some((scheme, rest.trim_end_matches('/')))
        });
        let Some((scheme, rest)) = cluster else { return Ok(Self::Single(Box::new(Client::open(url)?))) };
        let (login, hosts) = rest.rsplit_once('@').unwrap_or(("", rest));
        let at = if login.is_empty() { "" } else { "@" };
        let urls: Vec<String> = hosts.split(',').map(|host| format!("{scheme}://{login}{at}{host}")).collect();
        let nodes = urls.iter().map(|url| Client::open(url.as_str())).collect::<RedisResult<_>>()?;
        let client =
            ClusterClientBuilder::new(urls).connection_timeout(CONNECT_TIMEOUT).response_timeout(reply).build()?;
        Ok(Self::Cluster(Box::new(client), nodes))
    }

    /// Connects.
    pub(crate) async fn link(&self, reply: Duration) -> RedisResult<Link> {
        Ok(Link(match self {
            Self::Single(client) => {
                let config = ConnectionManagerConfig::new()
                    .set_response_timeout(Some(reply))
                    .set_connection_timeout(Some(CONNECT_TIMEOUT))
                    .set_min_delay(Duration::from_millis(50))
                    .set_max_delay(Duration::from_millis(500))
                    .set_number_of_retries(2);
                let manager = ConnectionManager::new_with_config(client.as_ref().clone(), config.clone()).await?;
                let current = RwLock::new((manager, Instant::now()));
                Kind::Single(Arc::new(Single { client: client.as_ref().clone(), config, current }))
            }
            Self::Cluster(client, _) => Kind::Cluster(client.get_async_connection().await?),
        }))
    }
}

/// A shared connection for commands that do not block. Cheap to clone.
#[derive(Clone)]
pub struct Link(Kind);

#[derive(Clone)]
enum Kind {
    Single(Arc<Single>),
    Cluster(ClusterConnection),
}

/// One server, as long as its address leads to it.
struct Single {
    client: Client,
    config: ConnectionManagerConfig,
    /// What commands use now, and since when.
    current: RwLock<(ConnectionManager, Instant)>,
}

impl Single {
    fn current(&self) -> (ConnectionManager, Instant) {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A primary that has become a replica keeps its connections, while its address may already lead to the new primary: what comes next
    /// uses a connection of its own. What is still under way ends on the old one.
    fn leave_replica(&self, since: Instant) {
        if since.elapsed() < READ_ONLY_PAUSE {
            return;
        }
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        if current.1 == since
            && let Ok(next) = ConnectionManager::new_lazy_with_config(self.client.clone(), self.config.clone())
        {
            *current = (next, Instant::now());
        }
    }
}

impl Link {
    /// Connects. `redis://`, `rediss://` and `unix://` (or `redis+unix://`) name one server, `redis-cluster://a:6379,b:6379`
    /// (`rediss-cluster://` with TLS) nodes of a cluster; login and password as `user:password@` before the host. Each answer may
    /// take as long as `reply`.
    ///
    /// # Errors
    /// A URL that is none of these, or a server that does not answer.
    pub async fn open(url: &str, reply: Duration) -> RedisResult<Self> {
        Place::parse(url, reply)?.link(reply).await
    }

    /// Whether it is a cluster: commands without a key then reach one node of many.
    #[must_use]
    pub const fn is_cluster(&self) -> bool {
        matches!(self.0, Kind::Cluster(_))
    }
}

fn is_read_only(answer: Result<&Value, &RedisError>) -> bool {
    match answer {
        Ok(Value::ServerError(error)) => error.code() == "READONLY",
        Ok(_) => false,
        Err(error) => error.code() == Some("READONLY"),
    }
}

impl ConnectionLike for Link {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        match &mut self.0 {
            Kind::Single(single) => Box::pin(async move {
                let (mut manager, since) = single.current();
                let answer = manager.req_packed_command(cmd).await;
                if is_read_only(answer.as_ref()) {
                    single.leave_replica(since);
                }
                answer
            }),
            Kind::Cluster(link) => link.req_packed_command(cmd),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match &mut self.0 {
            Kind::Single(single) => Box::pin(async move {
                let (mut manager, since) = single.current();
                let answers = manager.req_packed_commands(pipeline, offset, count).await;
                let read_only = match &answers {
                    Ok(values) => values.iter().any(|value| is_read_only(Ok(value))),
                    Err(error) => is_read_only(Err(error)),
                };
                if read_only {
                    single.leave_replica(since);
                }
                answers
            }),
            Kind::Cluster(link) => link.req_packed_commands(pipeline, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match &self.0 {
            Kind::Single(single) => single.current().0.get_db(),
            Kind::Cluster(link) => link.get_db(),
        }
    }
}
