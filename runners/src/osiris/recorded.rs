//! Which jobs were stored before: looked up for all that ask at the same time by one statement.

use std::collections::HashMap;

use tokio::sync::{mpsc, oneshot};

use super::{
    store::{Store, database_error},
    trouble::patiently,
};
use crate::executor::ExecutionError;

/// Most jobs of one statement.
const GROUP_JOBS: usize = 128;

struct Question {
    job_id: String,
    reply: oneshot::Sender<Result<Option<Before>, ExecutionError>>,
}

/// A job that was committed before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Before {
    pub(super) output: String,
    /// What it was, see [`super::commit::Commit::content`]; empty if it is of a version that did not record that.
    pub(super) content: String,
}

impl Before {
    /// Its output, for a job of its id.
    ///
    /// # Errors
    /// `ID_CONFLICT` if that is another job.
    pub(super) fn output_for(self, job_id: &str, content: &str) -> Result<String, ExecutionError> {
        if self.content.is_empty() || self.content == content {
            return Ok(self.output);
        }
        let text = format!(
            "the database has stored another job under the id {job_id}, of another submitter or with other payload, \
             input or env: nothing was stored now; submit this one under another id"
        );
        Err(ExecutionError::new("ID_CONFLICT", text))
    }
}

/// Takes questions to the task that looks, which ends when this is dropped.
pub(super) struct Recorded(mpsc::Sender<Question>);

impl Recorded {
    pub(super) fn start(store: Store) -> Self {
        let (sender, mut questions) = mpsc::channel(GROUP_JOBS);
        tokio::spawn(async move {
            let mut group: Vec<Question> = Vec::new();
            while questions.recv_many(&mut group, GROUP_JOBS).await > 0 {
                let ids: Vec<&str> = group.iter().map(|question| question.job_id.as_str()).collect();
                let found: Result<HashMap<String, Before>, ExecutionError> =
                    patiently(|| store.recorded(&ids)).await.map_err(|e| database_error(&e));
                for Question { job_id, reply } in group.drain(..) {
                    let before = found.as_ref().map(|before| before.get(&job_id).cloned());
                    let _ = reply.send(before.map_err(Clone::clone));
                }
            }
        });
        Self(sender)
    }

    /// The job of this id, if one was committed before.
    pub(super) async fn before(&self, job_id: &str) -> Result<Option<Before>, ExecutionError> {
        let gone = || ExecutionError::new("DATABASE_ERROR", "the database's reader has ended: restart the runner");
        let (reply, before) = oneshot::channel();
        self.0.send(Question { job_id: job_id.to_owned(), reply }).await.map_err(|_| gone())?;
        before.await.map_err(|_| gone())?
    }
}
