//! The connection to Redis that a process' commands share, standalone or cluster: one, multiplexed, that reconnects by itself.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use redis::IntoConnectionInfo as _;
use redis::aio::{ConnectionLike, ConnectionManager, ConnectionManagerConfig};
use redis::cluster::{ClusterClient, ClusterClientBuilder};
use redis::cluster_async::ClusterConnection;
use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis::{Client, Cmd, Pipeline, RedisError, RedisFuture, RedisResult, Value};

/// How long a connection may take to be made.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a connection on which nothing comes is kept before its other end is asked for a sign of life.
pub(crate) const QUIET: Duration = Duration::from_secs(5);
/// How long a connection that is of no use is kept before another one is made.
const USELESS: Duration = Duration::from_millis(100);

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
        let Some((scheme, rest)) = cluster else { return Ok(Self::Single(Box::new(client(url)?))) };
        let (login, hosts) = rest.rsplit_once('@').unwrap_or(("", rest));
        let at = if login.is_empty() { "" } else { "@" };
        let urls: Vec<String> = hosts.split(',').map(|host| format!("{scheme}://{login}{at}{host}")).collect();
        let nodes = urls.iter().map(|url| client(url)).collect::<RedisResult<_>>()?;
        let cluster = ClusterClientBuilder::new(urls)
            .connection_timeout(CONNECT_TIMEOUT)
            .response_timeout(reply)
            .tcp_settings(tcp_settings())
            .build()?;
        Ok(Self::Cluster(Box::new(cluster), nodes))
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

fn client(url: &str) -> RedisResult<Client> {
    Client::open(url.into_connection_info()?.set_tcp_settings(tcp_settings()))
}

/// A connection whose other end has vanished without a word ends by itself: without that, one that only listens would wait for ever.
fn tcp_settings() -> TcpSettings {
    let settings = TcpSettings::default()
        .set_nodelay(true)
        .set_keepalive(TcpKeepalive::new().with_time(2 * QUIET).with_interval(QUIET));
    #[cfg(target_os = "linux")]
    let settings = settings.set_user_timeout(3 * QUIET);
    settings
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

    /// Has what comes next use another connection if the answer says that this one is of no use: a primary that has become a replica keeps
    /// its connections, while its address may already lead to the new primary; and where no answer comes, a firewall may have forgotten the
    /// connection, or the host that it led to. What is still under way ends on the old one.
    fn judge<'a>(&self, answers: Result<impl IntoIterator<Item = &'a Value>, &RedisError>, since: Instant) {
        let is_useless = match answers {
            Ok(values) => {
                values.into_iter().any(|value| matches!(value, Value::ServerError(e) if e.code() == "READONLY"))
            }
            Err(error) => error.code() == Some("READONLY") || error.is_timeout(),
        };
        if !is_useless || since.elapsed() < USELESS {
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

impl ConnectionLike for Link {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        match &mut self.0 {
            Kind::Single(single) => Box::pin(async move {
                let (mut manager, since) = single.current();
                let answer = manager.req_packed_command(cmd).await;
                single.judge(answer.as_ref().map(std::iter::once), since);
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
                single.judge(answers.as_ref(), since);
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
