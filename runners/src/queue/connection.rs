//! Connections to Redis, standalone or cluster.
//!
//! Commands share one multiplexed connection that reconnects by itself. What blocks, or listens, has a connection of its own: a blocking
//! command on a shared one would stall everything behind it, and a blocking pop that the client gave up on still takes place.

use std::{pin::pin, time::Duration};

use futures::{Stream, StreamExt};
use redis::{
    AsyncConnectionConfig, Client, Cmd, FromRedisValue, RedisError, Value,
    aio::{ConnectionLike, ConnectionManager, ConnectionManagerConfig, MultiplexedConnection},
    cluster::{ClusterClient, ClusterClientBuilder},
    cluster_async::ClusterConnection,
};

use super::{QueueError, scripts::Script};

/// How long `BLPOP` waits at the server.
pub(crate) const BLOCK: Duration = Duration::from_secs(5);
/// How long the client waits for a blocking command: clearly longer than the server blocks.
const BLOCK_TIMEOUT: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Where Redis is, and the connection for commands. Clones share it.
#[derive(Clone)]
pub(crate) struct Connection {
    target: Target,
    link: Link,
}

#[derive(Clone)]
enum Target {
    Single(Box<Client>),
    Cluster(Box<ClusterClient>, Vec<Client>),
}

#[derive(Clone)]
pub(crate) enum Link {
    Manager(Box<ConnectionManager>),
    Multiplexed(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Link {
    async fn command(&mut self, cmd: &Cmd) -> Result<Value, RedisError> {
        let answer = match self {
            Self::Manager(link) => link.req_packed_command(cmd).await,
            Self::Multiplexed(link) => link.req_packed_command(cmd).await,
            Self::Cluster(link) => link.req_packed_command(cmd).await,
        }
        .and_then(Value::extract_error);
        if let (Self::Manager(link), Err(e)) = (self, &answer)
            && e.code() == Some("READONLY")
        {
            // A primary that has become a replica keeps its connections, while its address already leads to the new primary. The manager
            // connects anew only when it has lost its connection: so let it be lost.
            let _ = link.req_packed_command(&redis::cmd("QUIT")).await;
        }
        answer
    }

    pub(crate) async fn query<T: FromRedisValue>(&mut self, cmd: &Cmd) -> Result<T, QueueError> {
        let value = self.command(cmd).await?;
        T::from_redis_value(value).map_err(|e| QueueError::corrupt(format_args!("reply to a command: {e}")))
    }

    /// Sends commands together, without a transaction. In a cluster their keys must share a hash tag.
    pub(crate) async fn pipeline<T: FromRedisValue>(&mut self, pipeline: &redis::Pipeline) -> Result<T, QueueError> {
        Ok(match self {
            Self::Manager(link) => pipeline.query_async(link.as_mut()).await,
            Self::Multiplexed(link) => pipeline.query_async(link).await,
            Self::Cluster(link) => pipeline.query_async(link).await,
        }?)
    }
}

impl Connection {
    /// Connects. `redis://`, `rediss://`, `unix://` (and `redis+unix://`) name one server; `redis-cluster://host:port,host:port`
    /// (`rediss-cluster://` with TLS) name nodes of a cluster.
    pub(crate) async fn open(url: &str, response_timeout: Duration) -> Result<Self, QueueError> {
        let cluster = ["redis", "rediss"].into_iter().find_map(|scheme| {
            url.strip_prefix(scheme).and_then(|rest| rest.strip_prefix("-cluster://")).map(|rest| (scheme, rest))
        });
        let target = match cluster {
            None => Target::Single(Box::new(client(url)?)),
            Some((scheme, rest)) => {
                let (auth, hosts) = rest.rsplit_once('@').map_or(("", rest), |(auth, hosts)| (auth, hosts));
                let at = if auth.is_empty() { "" } else { "@" };
                let urls: Vec<String> =
                    hosts.trim_end_matches('/').split(',').map(|host| format!("{scheme}://{auth}{at}{host}")).collect();
                let clients = urls.iter().map(|url| client(url)).collect::<Result<Vec<_>, _>>()?;
                let cluster = ClusterClientBuilder::new(urls)
                    .connection_timeout(CONNECT_TIMEOUT)
                    .response_timeout(response_timeout)
                    .build()
                    .map_err(|e| bad_address(&e))?;
                Target::Cluster(Box::new(cluster), clients)
            }
        };
        let link = match &target {
            Target::Single(client) => {
                let config = ConnectionManagerConfig::new()
                    .set_response_timeout(Some(response_timeout))
                    .set_connection_timeout(Some(CONNECT_TIMEOUT))
                    .set_min_delay(Duration::from_millis(50))
                    .set_max_delay(Duration::from_millis(500))
                    .set_number_of_retries(2);
                Link::Manager(Box::new(client.get_connection_manager_with_config(config).await?))
            }
            Target::Cluster(client, _) => Link::Cluster(client.get_async_connection().await?),
        };
        Ok(Self { target, link })
    }

    /// The shared connection for commands.
    pub(crate) fn link(&self) -> Link {
        self.link.clone()
    }

    pub(crate) fn is_cluster(&self) -> bool {
        matches!(self.target, Target::Cluster(..))
    }

    /// Runs a script for the kind whose keys begin with `base`.
    pub(crate) async fn run<T: FromRedisValue>(
        &self,
        script: &Script,
        base: &str,
        args: &Args,
    ) -> Result<T, QueueError> {
        let mut link = self.link.clone();
        let value = match link.command(&args.command("EVALSHA", &script.sha1, base)).await {
            // After a restart or failover the server does not know the script.
            Err(e) if e.code() == Some("NOSCRIPT") => link.command(&args.command("EVAL", &script.code, base)).await,
            other => other,
        }?;
        T::from_redis_value(value)
            .map_err(|e| QueueError::corrupt(format_args!("reply of script {}: {e}", script.name)))
    }

    /// A connection of its own for blocking commands.
    pub(crate) async fn blocking(&self) -> Result<Link, QueueError> {
        Ok(match &self.target {
            Target::Single(client) => {
                let config = AsyncConnectionConfig::new()
                    .set_connection_timeout(Some(CONNECT_TIMEOUT))
                    .set_response_timeout(Some(BLOCK_TIMEOUT));
                Link::Multiplexed(client.get_multiplexed_async_connection_with_config(&config).await?)
            }
            Target::Cluster(client, _) => {
                let config = redis::cluster::ClusterConfig::new()
                    .set_connection_timeout(CONNECT_TIMEOUT)
                    .set_response_timeout(BLOCK_TIMEOUT);
                Link::Cluster(client.get_async_connection_with_config(config).await?)
            }
        })
    }

    /// Subscribes to channels on a connection of its own; the stream ends when the connection is lost.
    ///
    /// In a cluster any node hears what is published at any other, so one plain connection to one of the given nodes is enough.
    pub(crate) async fn subscribe(
        &self,
        channels: &[String],
    ) -> Result<impl Stream<Item = String> + Send + Unpin + use<>, QueueError> {
        let clients = match &self.target {
            Target::Single(client) => std::slice::from_ref(client.as_ref()),
            Target::Cluster(_, clients) => clients,
        };
        let mut last = QueueError::Unavailable("no node of the cluster is known".to_owned());
        for client in clients {
            let attempt = async {
                let mut pubsub = client.get_async_pubsub().await?;
                for channel in channels {
                    pubsub.subscribe(channel).await?;
                }
                Ok::<_, RedisError>(pubsub)
            };
            match tokio::time::timeout(2 * CONNECT_TIMEOUT, pin!(attempt)).await {
                Ok(Ok(pubsub)) => {
                    let texts = pubsub.into_on_message().filter_map(async |m| m.get_payload::<String>().ok());
                    return Ok(Box::pin(texts));
                }
                Ok(Err(e)) => last = e.into(),
                Err(_) => last = QueueError::Unavailable("subscribing timed out".to_owned()),
            }
        }
        Err(last)
    }
}

fn client(url: &str) -> Result<Client, QueueError> {
    Client::open(url).map_err(|e| bad_address(&e))
}

fn bad_address(error: &RedisError) -> QueueError {
    QueueError::Address(format!(
        "the Redis URL cannot be used ({error}): write redis://host:6379, rediss://host:6379, unix:///path/to/socket, or redis-cluster://host:port,host:port"
    ))
}

/// Arguments of a script.
#[derive(Default)]
pub(crate) struct Args {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Args {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn push(&mut self, text: &str) -> &mut Self {
        self.bytes.extend_from_slice(text.as_bytes());
        self.ends.push(self.bytes.len());
        self
    }

    pub(crate) fn number(&mut self, number: impl std::fmt::Display) -> &mut Self {
        use std::io::Write as _;
        write!(self.bytes, "{number}").expect("writing to memory cannot fail");
        self.ends.push(self.bytes.len());
        self
    }

    pub(crate) fn flag(&mut self, flag: bool) -> &mut Self {
        self.push(if flag { "1" } else { "" })
    }

    fn command(&self, verb: &str, script: &str, base: &str) -> Cmd {
        let mut cmd = Cmd::with_capacity(self.ends.len() + 4, self.bytes.len() + script.len() + base.len() + 16);
        cmd.arg(verb).arg(script).arg(1).arg(base);
        let mut start = 0;
        for end in &self.ends {
            cmd.arg(&self.bytes[start..*end]);
            start = *end;
        }
        cmd
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_keep_their_borders() {
        let mut args = Args::new();
        args.push("a b").number(-7).flag(true).flag(false).push("é");
        let packed = String::from_utf8(args.command("EVALSHA", "f00", "horus:{x}").get_packed_command()).unwrap();
        assert_eq!(
            packed,
            "*9\r\n$7\r\nEVALSHA\r\n$3\r\nf00\r\n$1\r\n1\r\n$9\r\nhorus:{x}\r\n$3\r\na b\r\n$2\r\n-7\r\n$1\r\n1\r\n$0\r\n\r\n$2\r\né\r\n"
        );
    }

    #[tokio::test]
    async fn a_bad_url_says_what_a_good_one_is() {
        for url in ["", "localhost", "http://x", "redis-cluster://", "unix://"] {
            let error = Connection::open(url, Duration::from_secs(1)).await.err().expect(url);
            if let QueueError::Address(text) = error {
                assert!(text.contains("redis://host:6379"), "{text}");
            }
        }
    }
}
