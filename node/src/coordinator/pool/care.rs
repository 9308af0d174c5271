//! Looking after one supervisor: who it is, whether it is trusted, what runners it has, whether it answers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use horus_keys::{Role, Timestamp};
use horus_transport::{Address, RpcError};

use super::Pool;
use super::supervisor::{Found, Supervisor};
use crate::api::supervisor::{ListRunners, ListRunnersParams, RunnerState};
use crate::workflow::Selector;

/// How often a supervisor that is well and idle is looked at. Over messages every look costs two of them.
const IDLE: Duration = Duration::from_secs(60);
/// How often one that has steps is, over HTTP. Over messages the long poll for the steps has to do.
const BUSY: Duration = Duration::from_secs(2);
/// The first pause after a failure, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// Looks that were asked for are at least so far apart.
const AT_MOST_EVERY: Duration = Duration::from_millis(500);
/// How long a look may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Looks at the supervisor until it expires or the process stops.
pub(super) async fn look_after(supervisor: Arc<Supervisor>, pool: Arc<Pool>) {
    let mut failures = 0_u32;
    loop {
        let now = Timestamp::now();
        let is_needless = supervisor.is_retired() || pool.is_double(&supervisor);
        if is_needless && supervisor.outstanding() == 0 {
            pool.remove(&supervisor);
            return;
        }
        if supervisor.has_expired(now) && supervisor.outstanding() == 0 {
            pool.remove(&supervisor);
            tracing::info!(address = %supervisor.address, "supervisor's announcement expired");
            return;
        }
        let pause = match look(&supervisor, &pool).await {
            Ok(found) => {
                failures = 0;
                let refused = found.refused.clone();
                if supervisor.found(found) {
                    let kinds: Vec<String> = supervisor.kinds().iter().map(ToString::to_string).collect();
                    match refused {
                        None => tracing::info!(address = %supervisor.address, ?kinds, "supervisor answers"),
                        Some(reason) => {
                            tracing::warn!(address = %supervisor.address, %reason, "supervisor gets no steps");
                        }
                    }
                    pool.note_change();
                }
                IDLE
            }
            Err(error) => {
                if failures == 0 {
                    tracing::warn!(address = %supervisor.address, %error, "supervisor does not answer");
                }
                supervisor.silent(&error);
                failures += 1;
                PAUSES.1.min(PAUSES.0 * 2_u32.saturating_pow(failures - 1))
            }
        };
        let soonest = tokio::time::Instant::now() + AT_MOST_EVERY.min(pause);
        tokio::select! {
            () = next_look(&supervisor, pause) => {}
            () = supervisor.look.notified() => tokio::time::sleep_until(soonest).await,
            () = supervisor.client.recovered(), if failures > 0 => {}
            () = pool.shutdown.stopped() => return,
        }
    }
}

/// Waits until it is time for the next look: after the pause, or earlier if the supervisor is given steps meanwhile. One that was
/// idle when it fell silent must not be missed a minute later only.
async fn next_look(supervisor: &Supervisor, pause: Duration) {
    let by_http = matches!(supervisor.client.address(), Address::Http { .. });
    let until = tokio::time::Instant::now() + pause;
    loop {
        let at = until.min(tokio::time::Instant::now() + BUSY);
        tokio::time::sleep_until(at).await;
        if at == until || (by_http && supervisor.outstanding() > 0) {
            return;
        }
    }
}

async fn look(supervisor: &Supervisor, pool: &Pool) -> Result<Found, RpcError> {
    let node = tokio::time::timeout(PATIENCE, supervisor.client.node()).await.map_err(|_| late())??;
    let began = Instant::now();
    let asked = supervisor.client.call_with_timeout::<ListRunners>(&ListRunnersParams::default(), PATIENCE).await?;
    let latency = began.elapsed();
    let kinds =
        asked.runners.into_iter().filter(|runner| runner.state != RunnerState::Gone).map(|runner| runner.runner);
    let peer = node.peer_id;
    if let Some(certificate) = &node.certificate {
        // What it is worth, the question below tells.
        let _ = pool.trust.present(certificate, Timestamp::now());
    }
    let refused = (!pool.trust.allows(peer, Role::Supervisor, Timestamp::now())).then(|| {
        format!("its key {peer} is not trusted as a supervisor here: `horus keys trust add {peer} --role supervisor`")
    });
    // What no supervisor can be given comes from none that should be believed.
    let labels = Selector::check_labels(&asked.labels).map(|()| asked.labels).unwrap_or_default();
    Ok(Found { peer, kinds: kinds.collect(), labels, latency, refused })
}

fn late() -> RpcError {
    RpcError::new(horus_transport::ErrorKind::TimedOut, "it did not say who it is within 5 seconds")
}
