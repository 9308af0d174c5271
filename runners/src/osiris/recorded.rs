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
    reply: oneshot::Sender<Result<Option<String>, ExecutionError>>,
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
                let found: Result<HashMap<String, String>, ExecutionError> =
                    patiently(|| store.recorded(&ids)).await.map_err(|e| database_error(&e));
                for Question { job_id, reply } in group.drain(..) {
                    let output = found.as_ref().map(|outputs| outputs.get(&job_id).cloned());
                    let _ = reply.send(output.map_err(Clone::clone));
                }
            }
        });
        Self(sender)
    }

    /// The output of the job, if it was committed before.
    pub(super) async fn output(&self, job_id: &str) -> Result<Option<String>, ExecutionError> {
        let gone = || ExecutionError::new("DATABASE_ERROR", "the database's reader has ended: restart the runner");
        let (reply, output) = oneshot::channel();
        self.0.send(Question { job_id: job_id.to_owned(), reply }).await.map_err(|_| gone())?;
        output.await.map_err(|_| gone())?
    }
}
