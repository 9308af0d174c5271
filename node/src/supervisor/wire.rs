//! What the queue knows, in the shapes of the RPC where they differ.

use horus_runners::queue;

use crate::api::supervisor::{JobResult, ReceiptAt};

/// A result as `get_job_result` shows it: with its receipts beside it.
pub(super) fn result(result: queue::JobResult) -> JobResult {
    let queue::JobResult { job_id, status, output, error, receipt } = result;
    let receipt = receipt.map(|at| ReceiptAt { envelope: Some(at.envelope), digest: None, index: at.index });
    JobResult { job_id, status, output, error, receipt }
}
