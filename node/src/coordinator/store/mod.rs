//! What the coordinator keeps in Redis, and the only place where it speaks to it.
//!
//! | key | holds |
//! |---|---|
//! | `horus:wf:{ID}:meta` | hash: digest, submitter, name, times, status, number of steps, sequence; `owner` and `epoch`: who may write; all that is left after retention, until nothing signed under the id can run |
//! | `horus:wf:{ID}:envelope` | the signed workflow |
//! | `horus:wf:{ID}:journal` | list of records since the snapshot |
//! | `horus:wf:{ID}:snapshot` | the state that they follow |
//! | `horus:wf:{ID}:outputs`, `:receipts` | hashes by digest: each is stored once |
//! | `horus:workflows`, `horus:workflows:of:PEER` | ids by creation time, of all and of one submitter |
//! | `horus:workflows:submitters` | set of those who have a list |
//! | `horus:workflows:active` | set of ids that have not ended |
//! | `horus:workflows:requests` | hash id -> PeerId: cancellations that the owner has not seen |
//! | `horus:workflows:cancels` | sorted set `PEER JOB` by the job's `run_until`: jobs of stopped workflows that the supervisor has not confirmed to be cancelled |
//! | `horus:supervisors` | hash PeerId -> announcement: the supervisors that announced themselves |
//! | `horus:coordinators` | hash: a counter for every running coordinator, which grows while it lives |

mod announced;
mod index;
mod scripts;
mod workflow;

use std::time::Duration;

use horus_keys::{Digest, PeerId, Timestamp};
use horus_runners::job::WorkflowId;
use horus_runners::link::Link;
use redis::RedisError;
use thiserror::Error;

use crate::workflow::WorkflowStatus;

pub(crate) use index::Listed;
pub(crate) use workflow::{Append, Created, NewWorkflow, Stored, Writer};

/// An answer can hold a snapshot of 100,000 steps.
const REPLY: Duration = Duration::from_secs(10);

/// Why something could not be stored or read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum StoreError {
    /// Redis does not answer, refuses to write, or is being replaced. Trying again later can help.
    #[error("Redis does not do its work: {0}")]
    Unavailable(String),
    /// Another coordinator has taken the workflow over: this one must let go of it.
    #[error("another coordinator has taken over workflow {0}")]
    Fenced(WorkflowId),
    /// Redis has lost what it had confirmed, as it may with `appendfsync everysec` or after a failover: the workflow goes on
    /// from what it has kept.
    #[error("Redis has lost the last changes of workflow {0}, which goes on from what is left")]
    Rewound(WorkflowId),
    /// What is stored cannot be what was stored.
    #[error("what Redis holds of workflow {id} cannot be used: {reason}")]
    Corrupt {
        /// The workflow.
        id: WorkflowId,
        /// What is wrong.
        reason: String,
    },
}

impl From<RedisError> for StoreError {
    fn from(error: RedisError) -> Self {
        Self::Unavailable(match error.code() {
            Some("OOM") => "its memory is full (maxmemory); free some, or raise the limit".to_owned(),
            Some("READONLY") => "it is a read-only replica; use the primary".to_owned(),
            Some("MISCONF") => "it cannot write to its disk (MISCONF); see its log".to_owned(),
            _ => error.to_string(),
        })
    }
}

impl StoreError {
    /// Why what is stored of a workflow could not be read: Redis does not do its work, or has something else under the name.
    fn of(id: &WorkflowId, error: RedisError) -> Self {
        let parts = error.clone().into_server_errors();
        let is_other = error.code() == Some("WRONGTYPE")
            || parts.is_some_and(|parts| parts.iter().any(|(_, part)| part.code() == "WRONGTYPE"))
            || matches!(error.kind(), redis::ErrorKind::Parse | redis::ErrorKind::UnexpectedReturnType);
        if is_other { Self::Corrupt { id: id.clone(), reason: error.to_string() } } else { error.into() }
    }
}

/// A workflow's short description.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Meta {
    /// Digest of the signed payload.
    pub(crate) digest: Digest,
    /// Who signed it.
    pub(crate) submitter: PeerId,
    /// Its name.
    pub(crate) name: String,
    /// When it was accepted.
    pub(crate) created_at: Timestamp,
    /// When it ended.
    pub(crate) finished_at: Option<Timestamp>,
    /// Its status.
    pub(crate) status: WorkflowStatus,
    /// How many steps it has.
    pub(crate) steps: u32,
    /// How many records it has had.
    pub(crate) sequence: u64,
    /// Which running coordinator may write.
    pub(crate) owner: String,
    /// And under which epoch.
    pub(crate) epoch: u64,
    /// The coordinators that its submitter named.
    pub(crate) coordinators: Vec<PeerId>,
}

/// The coordinator's part of Redis. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Store {
    link: Link,
}

impl Store {
    /// Connects.
    ///
    /// # Errors
    /// A URL that is none, or a server that does not answer.
    pub(crate) async fn connect(url: &str) -> Result<Self, StoreError> {
        Ok(Self { link: Link::open(url, REPLY).await? })
    }

    /// Whether Redis answers.
    pub(crate) async fn ping(&self) -> Result<(), StoreError> {
        redis::cmd("PING").query_async::<()>(&mut self.link.clone()).await?;
        Ok(())
    }
}

/// A key of one workflow; all of them lie in one slot of a cluster.
fn key(id: &WorkflowId, part: &str) -> String {
    format!("horus:wf:{{{id}}}:{part}")
}
