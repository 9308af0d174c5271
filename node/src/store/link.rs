//! The connection to Redis of a role, standalone or cluster: one, multiplexed, that reconnects by itself.

use std::time::Duration;

use redis::aio::{ConnectionLike, ConnectionManager, ConnectionManagerConfig};
use redis::cluster::ClusterClientBuilder;
use redis::cluster_async::ClusterConnection;
use redis::{Client, Cmd, Pipeline, RedisError, RedisFuture, RedisResult, Value};

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// A shared connection for commands that do not block. Cheap to clone.
#[derive(Clone)]
pub(crate) enum Link {
    /// One server.
    Single(Box<ConnectionManager>),
    /// A cluster.
    Cluster(ClusterConnection),
}

impl Link {
    /// Whether it is a cluster: commands without a key then reach one node of many.
    pub(crate) const fn is_cluster(&self) -> bool {
        matches!(self, Self::Cluster(_))
    }

    /// Connects. `redis://`, `rediss://` and `unix://` (or `redis+unix://`) name one server, `redis-cluster://a:6379,b:6379`
    /// (`rediss-cluster://` with TLS) the nodes of a cluster. An answer may take as long as
    /// `reply`.
    pub(crate) async fn open(url: &str, reply: Duration) -> RedisResult<Self> {
        let cluster = ["redis", "rediss"].into_iter().find_map(|scheme| {
            let rest = url.strip_prefix(scheme)?.strip_prefix("-cluster://")?;
            Some((scheme, rest.trim_end_matches('/')))
        });
        let Some((scheme, rest)) = cluster else {
            let config = ConnectionManagerConfig::new()
                .set_response_timeout(Some(reply))
                .set_connection_timeout(Some(CONNECT_TIMEOUT))
                .set_min_delay(Duration::from_millis(50))
                .set_max_delay(Duration::from_millis(500))
                .set_number_of_retries(2);
            let manager = ConnectionManager::new_with_config(Client::open(url)?, config).await?;
            return Ok(Self::Single(Box::new(manager)));
        };
        let (login, hosts) = rest.rsplit_once('@').unwrap_or(("", rest));
        let at = if login.is_empty() { "" } else { "@" };
        let nodes: Vec<String> = hosts.split(',').map(|host| format!("{scheme}://{login}{at}{host}")).collect();
        let client =
            ClusterClientBuilder::new(nodes).connection_timeout(CONNECT_TIMEOUT).response_timeout(reply).build()?;
        Ok(Self::Cluster(client.get_async_connection().await?))
    }
}

fn is_read_only(answer: Result<&Value, &RedisError>) -> bool {
    match answer {
        Ok(Value::ServerError(error)) => error.code() == "READONLY",
        Ok(_) => false,
        Err(error) => error.code() == Some("READONLY"),
    }
}

/// A primary that has become a replica keeps its connections, while its address already leads to the new primary. The manager connects
/// anew only when it has lost its connection: so let it be lost.
async fn leave(link: &mut ConnectionManager) {
    let _ = link.req_packed_command(&redis::cmd("QUIT")).await;
}

impl ConnectionLike for Link {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::Single(link) => Box::pin(async move {
                let answer = link.req_packed_command(cmd).await;
                if is_read_only(answer.as_ref()) {
                    leave(link).await;
                }
                answer
            }),
            Self::Cluster(link) => link.req_packed_command(cmd),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::Single(link) => Box::pin(async move {
                let answers = link.req_packed_commands(pipeline, offset, count).await;
                let read_only = match &answers {
                    Ok(values) => values.iter().any(|value| is_read_only(Ok(value))),
                    Err(error) => is_read_only(Err(error)),
                };
                if read_only {
                    leave(link).await;
                }
                answers
            }),
            Self::Cluster(link) => link.req_packed_commands(pipeline, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::Single(link) => link.get_db(),
            Self::Cluster(link) => link.get_db(),
        }
    }
}
