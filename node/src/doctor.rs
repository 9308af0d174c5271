//! `horus doctor`: looks through the queues and workflows in a Redis for whatever breaks an invariant, and names it.

use anyhow::{Context as _, Result, anyhow};
use horus_runners::queue::{Queue, QueueOptions};

/// Everything that is wrong, a line each; empty when nothing is.
///
/// # Errors
/// Redis cannot be read.
pub async fn examine(redis_url: &str) -> Result<Vec<String>> {
    let queue = Queue::connect(redis_url, QueueOptions::default()).await.context("cannot look into the queue")?;
    let findings = queue.doctor().await.context("cannot look into the queue")?;
    let mut lines: Vec<String> =
        findings.into_iter().map(|f| format!("queue {}: {} {}", f.runner, f.about, f.problem)).collect();
    let workflows = crate::coordinator::examine(redis_url).await;
    lines.extend(workflows.map_err(|reason| anyhow!("cannot look into the workflows: {reason}"))?);
    Ok(lines)
}
