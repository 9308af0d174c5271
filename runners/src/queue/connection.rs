//! Connections to Redis of the queue.
//!
//! Commands share one multiplexed [`Link`]. What blocks, or listens, has a connection of its own: a blocking command on a shared one would
//! stall everything behind it, and a blocking pop that the client gave up on still takes place.

use std::{pin::pin, time::Duration};

use futures::{Stream, StreamExt};
use redis::{
    AsyncConnectionConfig, Cmd, FromRedisValue, Pipeline, RedisError, Value, aio::ConnectionLike,
    aio::MultiplexedConnection, aio::PubSub, cluster_async::ClusterConnection,
};

use super::{QueueError, scripts::Script};
use crate::link::{CONNECT_TIMEOUT, Link, Place, QUIET};

/// How long `BLPOP` waits at the server.
pub(crate) const BLOCK: Duration = Duration::from_secs(5);
/// How long the client waits for a blocking command: clearly longer than the server blocks.
const BLOCK_TIMEOUT: Duration = Duration::from_secs(10);

/// Where Redis is, and the connection for commands. Clones share it.
#[derive(Clone)]
pub(crate) struct Connection {
    place: Place,
    link: Link,
}

/// A connection for blocking commands.
pub(crate) enum Blocking {
    Single(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Blocking {
    /// Sends a command, and waits for its reply.
    pub(crate) async fn query<T: FromRedisValue>(&mut self, cmd: &Cmd) -> Result<T, QueueError> {
        Ok(match self {
            Self::Single(link) => cmd.query_async(link).await,
            Self::Cluster(link) => cmd.query_async(link).await,
        }?)
    }
}

impl Connection {
    /// Connects. `redis://`, `rediss://`, `unix://` (and `redis+unix://`) name one server; `redis-cluster://host:port,host:port`
    /// (`rediss-cluster://` with TLS) name nodes of a cluster.
    pub(crate) async fn open(url: &str, response_timeout: Duration) -> Result<Self, QueueError> {
        let place = Place::parse(url, response_timeout).map_err(|e| bad_address(&e))?;
        let link = place.link(response_timeout).await?;
        Ok(Self { place, link })
    }

    pub(crate) fn is_cluster(&self) -> bool {
        self.link.is_cluster()
    }

    /// Sends a command.
    pub(crate) async fn query<T: FromRedisValue>(&self, cmd: &Cmd) -> Result<T, QueueError> {
        Ok(cmd.query_async(&mut self.link.clone()).await?)
    }

    /// Sends commands together, without a transaction. In a cluster their keys must share a hash tag.
    pub(crate) async fn pipeline<T: FromRedisValue>(&self, pipeline: &Pipeline) -> Result<T, QueueError> {
        Ok(pipeline.query_async(&mut self.link.clone()).await?)
    }

    /// Runs a script for the kind whose keys begin with `base`.
    pub(crate) async fn run<T: FromRedisValue>(
        &self,
        script: &Script,
        base: &str,
        args: &Args,
    ) -> Result<T, QueueError> {
        let mut link = self.link.clone();
        let mut send = async |verb, script| {
            let command = args.command(verb, script, base);
            link.req_packed_command(&command).await.and_then(Value::extract_error)
        };
        let value = match send("EVALSHA", &script.sha1).await {
            // After a restart or failover the server does not know the script.
            Err(e) if e.code() == Some("NOSCRIPT") => send("EVAL", &script.code).await,
            other => other,
        }?;
        T::from_redis_value(value)
            .map_err(|e| QueueError::corrupt(format_args!("reply of script {}: {e}", script.name)))
    }

    /// A connection of its own for blocking commands.
    pub(crate) async fn blocking(&self) -> Result<Blocking, QueueError> {
        Ok(match &self.place {
            Place::Single(client) => {
                let config = AsyncConnectionConfig::new()
                    .set_connection_timeout(Some(CONNECT_TIMEOUT))
                    .set_response_timeout(Some(BLOCK_TIMEOUT));
                Blocking::Single(client.get_multiplexed_async_connection_with_config(&config).await?)
            }
            Place::Cluster(client, _) => {
                let config = redis::cluster::ClusterConfig::new()
                    .set_connection_timeout(CONNECT_TIMEOUT)
                    .set_response_timeout(BLOCK_TIMEOUT);
                Blocking::Cluster(client.get_async_connection_with_config(config).await?)
            }
        })
    }

    /// Subscribes to channels on a connection of its own; the stream ends when the connection is lost, which is asked for when nothing has
    /// come for a while.
    ///
    /// In a cluster any node hears what is published at any other, so one plain connection to one of the given nodes is enough.
    pub(crate) async fn subscribe(
        &self,
        channels: &[String],
    ) -> Result<impl Stream<Item = String> + Send + Unpin + use<>, QueueError> {
        let clients = match &self.place {
            Place::Single(client) => std::slice::from_ref(client.as_ref()),
            Place::Cluster(_, nodes) => nodes,
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
                Ok(Ok(pubsub)) => return Ok(Box::pin(messages(pubsub))),
                Ok(Err(e)) => last = e.into(),
                Err(_) => last = QueueError::Unavailable("subscribing timed out".to_owned()),
            }
        }
        Err(last)
    }
}

/// What is published, until the connection is lost.
fn messages(pubsub: PubSub) -> impl Stream<Item = String> + Send + use<> {
    futures::stream::unfold(pubsub.split(), async |(mut sink, mut stream)| {
        loop {
            match tokio::time::timeout(QUIET, stream.next()).await {
                Ok(message) => {
                    if let Ok(text) = message?.get_payload() {
                        return Some((text, (sink, stream)));
                    }
                }
                Err(_) => match tokio::time::timeout(QUIET, sink.ping::<Value>()).await {
                    Ok(Ok(_)) => {}
                    Ok(Err(error)) => {
                        tracing::debug!("a connection that listens to Redis was lost: {error}");
                        return None;
                    }
                    Err(_) => {
                        tracing::debug!("a connection that listens to Redis is dead: it gives no sign of life");
                        return None;
                    }
                },
            }
        }
    })
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
