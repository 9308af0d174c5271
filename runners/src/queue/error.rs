//! What can go wrong with the queue.

use horus_keys::RunnerKind;

use crate::job::JobId;

/// Why the queue did not do what it was asked for.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum QueueError {
    /// Redis cannot be reached, or refuses to write: down, loading, out of memory or disk, a read-only replica. Nothing is known to have
    /// changed; what is sent again with the same ids does no harm.
    #[error("Redis is unavailable: {0}")]
    Unavailable(String),
    /// The address of Redis cannot be used.
    #[error("{0}")]
    Address(String),
    /// The server lacks what the queue needs.
    #[error("{0}")]
    Unsupported(String),
    /// Another job was accepted under this id before, by another submitter or with other content.
    #[error("job {job_id} exists already with other content or from another submitter: choose another id")]
    IdConflict {
        /// The id.
        job_id: JobId,
        /// Position of the job in its batch.
        index: u32,
    },
    /// No room for the jobs.
    #[error("the queue of runner {runner} is full: {queued} jobs wait and at most {max} may; try again later")]
    Full {
        /// The kind whose queue it is.
        runner: RunnerKind,
        /// Jobs that wait, due ones and delayed ones.
        queued: u64,
        /// `max_queue` of the supervisor.
        max: u64,
    },
    /// A document that the jobs need is neither given nor stored.
    #[error("{name} is not stored beside the queue of runner {runner}: send the envelope along")]
    Missing {
        /// The kind whose queue it is.
        runner: RunnerKind,
        /// `wf:<hex digest>` or `rc:<hex digest>`.
        name: String,
    },
    /// What Redis holds is not what this software wrote.
    #[error("unexpected data in Redis: {0}; run `horus doctor`")]
    Corrupt(String),
}

impl QueueError {
    /// Whether the same call may succeed a little later.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }

    pub(crate) fn corrupt(what: impl std::fmt::Display) -> Self {
        Self::Corrupt(what.to_string())
    }
}

fn in_script(error: &redis::RedisError) -> bool {
    error.code() == Some("WRONGTYPE") || error.detail().is_some_and(|text| text.contains("user_script:"))
}

impl From<redis::RedisError> for QueueError {
    fn from(error: redis::RedisError) -> Self {
        use redis::{ErrorKind, ServerErrorKind};
        let hint = match error.code() {
            Some("OOM") => "its memory is full: raise maxmemory, or lower --retention and --max-queue",
            Some("MISCONF") => "it cannot write to its disk: free some space",
            Some("READONLY") => "it is a read-only replica: connect to the primary",
            Some("LOADING") => "it is still loading its data",
            Some("NOAUTH" | "WRONGPASS") => "give user and password in the URL",
            _ => match error.kind() {
                ErrorKind::Parse | ErrorKind::UnexpectedReturnType => return Self::Corrupt(error.to_string()),
                // An error inside a script names the script and the line; anything else may pass.
                ErrorKind::Server(ServerErrorKind::ResponseError) | ErrorKind::Extension if in_script(&error) => {
                    return Self::Corrupt(error.to_string());
                }
                _ => return Self::Unavailable(error.to_string()),
            },
        };
        Self::Unavailable(format!("{error} ({hint})"))
    }
}
