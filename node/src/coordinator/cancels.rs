//! Cancelling what a stopped workflow has left behind: jobs that a supervisor may have which could not be asked when the workflow ended.
//!
//! They are noted in Redis until their supervisor has confirmed that they are cancelled, or their `run_until` has passed. Every coordinator
//! there asks for them, as soon as the supervisor is heard; whoever is not named by the workflow is not heard, and changes nothing.

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use horus_keys::{PeerId, Timestamp};
use horus_runners::job::{JobId, limits};
use horus_transport::Call;

use super::Shared;
use super::pool::Supervisor;
use super::store::StoreError;
use super::waiter::is_silence;
use crate::api::supervisor::{CancelJob, JobIdParams};

/// How long one call may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// The first pause before a supervisor is asked again that answers, but does not know the job, for example because that is still on its way
/// there; and the longest, which is also how late a coordinator learns what another one that died has noted.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(300));
/// The pause after Redis failed.
const REDIS_PAUSE: Duration = Duration::from_secs(2);

/// Asks for what is noted until the process stops.
pub(super) async fn carry_out(shared: Arc<Shared>) {
    tokio::select! {
        () = shared.shutdown.draining() => {}
        never = rounds(&shared) => match never {},
    }
}

async fn rounds(shared: &Shared) -> Infallible {
    let mut changes = shared.pool.changes();
    let mut pause = PAUSES.0;
    loop {
        let wait = match round(shared).await {
            Ok(true) => pause,
            Ok(false) => PAUSES.1,
            Err(error) => {
                tracing::debug!(%error, "cancelling is tried again");
                REDIS_PAUSE
            }
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => pause = (pause * 2).min(PAUSES.1),
            // A supervisor that is heard again, among other things.
            _ = changes.changed() => pause = PAUSES.0,
            () = shared.to_cancel.notified() => pause = PAUSES.0,
        }
    }
}

/// Asks every supervisor that answers once. True if anything is left.
async fn round(shared: &Shared) -> Result<bool, StoreError> {
    let mut noted: HashMap<PeerId, Vec<JobId>> = HashMap::new();
    for (peer, job) in shared.store.cancels(Timestamp::now()).await? {
        noted.entry(peer).or_default().push(job);
    }
    let all: usize = noted.values().map(Vec::len).sum();
    let asked = noted.into_iter().filter_map(|(peer, mut jobs)| {
        let supervisor = shared.pool.find(&peer).filter(|supervisor| !supervisor.is_silent())?;
        Some(async move {
            let left: HashSet<JobId> = ask(&supervisor, &jobs).await.into_iter().collect();
            jobs.retain(|job| !left.contains(job));
            jobs.into_iter().map(|job| (peer, job)).collect::<Vec<_>>()
        })
    });
    let done = futures::future::join_all(asked).await.concat();
    shared.store.cancels_done(&done).await?;
    Ok(done.len() < all)
}

/// Asks a supervisor once to cancel jobs. Returns those for which it has not confirmed it.
pub(super) async fn ask(supervisor: &Supervisor, jobs: &[JobId]) -> Vec<JobId> {
    let mut left = Vec::new();
    for jobs in jobs.chunks(limits::BATCH_JOBS) {
        let calls: Result<Vec<Call>, _> =
            jobs.iter().map(|job| Call::new::<CancelJob>(&JobIdParams { job_id: job.clone() })).collect();
        match async { supervisor.client.batch(&calls?, PATIENCE).await }.await {
            Ok(answers) => {
                let failed = jobs.iter().zip(answers).filter(|(_, answer)| answer.is_err());
                left.extend(failed.map(|(job, _)| job.clone()));
            }
            Err(error) => {
                tracing::debug!(supervisor = %supervisor.address, %error, "cancelling again");
                if is_silence(&error) {
                    supervisor.silent(&error);
                }
                left.extend_from_slice(jobs);
            }
        }
    }
    left
}
