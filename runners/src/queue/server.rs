//! What kind of server holds the queue, for those who judge its durability or quote its speed.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Queue, QueueError};

/// A Redis or Valkey server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ServerFacts {
    /// `redis` or `valkey`.
    pub server: String,
    /// Its version.
    pub version: String,
    /// Whether what was acknowledged is in its append-only file.
    pub appendonly: bool,
    /// When that file reaches the disk: `always`, `everysec` or `no`; absent if the server does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub appendfsync: Option<String>,
}

impl Queue {
    /// Asks the server what it is. In a cluster, any one of its nodes.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`]
    pub async fn server(&self) -> Result<ServerFacts, QueueError> {
        let info: String = self.connection.query(&redis::cmd("INFO")).await?;
        let field = |name: &str| {
            info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(|v| v.trim().to_owned())
        };
        let valkey = field("valkey_version");
        // A server can be set up so that it hides its configuration: then this is not known.
        let fsync: Result<Vec<String>, _> =
            self.connection.query(redis::cmd("CONFIG").arg("GET").arg("appendfsync")).await;
        Ok(ServerFacts {
            server: if valkey.is_some() { "valkey" } else { "redis" }.to_owned(),
            version: valkey.or_else(|| field("redis_version")).unwrap_or_default(),
            appendonly: field("aof_enabled").as_deref() == Some("1"),
            appendfsync: fsync.ok().and_then(|pair| pair.into_iter().nth(1)),
        })
    }
}
