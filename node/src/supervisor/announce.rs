//! Telling coordinators that this supervisor is there: signed, renewed before it expires, tried again when it fails.

use std::sync::Arc;
use std::time::Duration;

use horus_keys::Timestamp;
use horus_transport::{Address, ClientOptions, RpcClient, RpcError};
use tokio::sync::watch;

use super::Supervisor;
use crate::api::EnvelopeText;
use crate::api::coordinator::{RegisterSupervisor, RegisterSupervisorParams};
use crate::role::{Common, RoleError, topic_of};

/// How often an announcement is renewed at least. Over messages every time costs two of them.
const RENEW: Duration = Duration::from_secs(150);
/// And at most.
const RENEW_LEAST: Duration = Duration::from_secs(5);
/// The pause after the first failure, doubled each time, and the longest. The mesh tells when the way there works again; but
/// what it sent to find out may have come before the coordinator served its topic, and then it learns that a minute later only.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));
/// How long an announcement may take.
const PATIENCE: Duration = Duration::from_secs(15);
/// What changes within this time goes into one announcement.
const SETTLE: Duration = Duration::from_millis(300);

/// Clients of the coordinators. Nothing is sent yet.
///
/// # Errors
/// An address that this process has no way to.
pub(super) fn clients(
    common: &Common,
    coordinators: Vec<Address>,
    options: ClientOptions,
) -> Result<Vec<RpcClient>, RoleError> {
    let carriers = options.carriers.clone().or_else(|| common.mesh.as_ref().map(crate::role::RoleMesh::carriers));
    let options = ClientOptions {
        identity: Some(common.identity.clone()),
        certificate: common.certificate.clone(),
        carriers,
        ..options
    };
    let topic = topic_of(horus_keys::Role::Coordinator, None);
    let client = |address: Address| {
        let shown = address.to_string();
        RpcClient::connect(address.with_default_topic(&topic), options.clone())
            .map_err(|error| RoleError::Serve(format!("--coordinator {shown}: {}", error.message)))
    };
    coordinators.into_iter().map(client).collect()
}

/// A coordinator that a supervisor announces itself to.
trait Hearer {
    /// Announces once; returns when it is to be announced again.
    fn announce(&self) -> impl Future<Output = Result<Duration, RpcError>> + Send;

    /// Waits until a way there that had failed works again.
    fn recovered(&self) -> impl Future<Output = ()> + Send;
}

struct Remote {
    coordinator: RpcClient,
    supervisor: Arc<Supervisor>,
}

impl Hearer for Remote {
    async fn announce(&self) -> Result<Duration, RpcError> {
        let announcer = &self.supervisor.announcer;
        let params = RegisterSupervisorParams {
            envelope: EnvelopeText::from(&announcer.envelope(&self.supervisor.kinds.all(), Timestamp::now())),
            certificate: announcer.certificate().map(EnvelopeText::from),
        };
        let registered = self.coordinator.call_with_timeout::<RegisterSupervisor>(&params, PATIENCE).await?;
        let left = registered.expires_at.as_millis().saturating_sub(Timestamp::now().as_millis());
        let half = Duration::from_millis(u64::try_from(left / 2).unwrap_or_default());
        Ok(half.clamp(RENEW_LEAST, RENEW))
    }

    async fn recovered(&self) {
        self.coordinator.recovered().await;
    }
}

/// Announces the supervisor to one coordinator until it stops.
pub(super) async fn keep_announced(coordinator: RpcClient, supervisor: Arc<Supervisor>) {
    let name = coordinator.address().to_string();
    let remote = Remote { coordinator, supervisor: Arc::clone(&supervisor) };
    tokio::select! {
        () = keep(&name, &remote, supervisor.announcer.moves()) => {}
        () = supervisor.shutdown.draining() => {}
    }
}

/// Announces for ever: after a failure soon again, and at once when the coordinator can be reached again. What is announced changes
/// with `moves`.
async fn keep(coordinator: &str, hearer: &impl Hearer, mut moves: watch::Receiver<()>) {
    let mut failures = 0_u32;
    let mut is_known = false;
    let mut problem = None;
    loop {
        moves.mark_unchanged();
        let pause = match hearer.announce().await {
            Ok(renew) => {
                if !is_known {
                    tracing::info!(coordinator, "announced to the coordinator");
                }
                (failures, is_known, problem) = (0, true, None);
                renew
            }
            Err(error) => {
                // Once for each thing that is wrong: what keeps it away may be another one than at first.
                if problem != Some(error.kind) {
                    tracing::warn!(coordinator, %error, "cannot announce this supervisor; trying on");
                }
                (is_known, problem) = (false, Some(error.kind));
                let pause = PAUSES.1.min(PAUSES.0 * (1 << failures.min(10)));
                failures = failures.saturating_add(1);
                pause
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = hearer.recovered(), if failures > 0 => {}
            Ok(()) = moves.changed() => tokio::time::sleep(SETTLE).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use horus_transport::ErrorKind;
    use tokio::sync::Notify;
    use tokio::time::Instant;

    use super::*;

    /// A coordinator that cannot be reached before a certain time.
    struct Away {
        until: Instant,
        /// Whether the mesh tells when it can.
        is_told: bool,
        /// How long a try takes that fails.
        takes: Duration,
        /// When it heard of the supervisor.
        heard: Mutex<Vec<Instant>>,
        hears: Notify,
    }

    impl Away {
        fn new(outage: Duration, is_told: bool, takes: Duration) -> Self {
            Self { until: Instant::now() + outage, is_told, takes, heard: Mutex::default(), hears: Notify::new() }
        }

        async fn until_heard(&self, times: usize) -> Instant {
            loop {
                if let Some(at) = self.heard.lock().unwrap().get(times - 1) {
                    return *at;
                }
                self.hears.notified().await;
            }
        }
    }

    impl Hearer for Away {
        async fn announce(&self) -> Result<Duration, RpcError> {
            if Instant::now() < self.until {
                tokio::time::sleep(self.takes).await;
                return Err(RpcError::new(ErrorKind::PeerUnreachable, "it is away"));
            }
            self.heard.lock().unwrap().push(Instant::now());
            self.hears.notify_one();
            Ok(RENEW)
        }

        async fn recovered(&self) {
            if !self.is_told || Instant::now() > self.until {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep_until(self.until).await;
        }
    }

    /// How long after the end of an outage the coordinator hears of the supervisor.
    async fn heard_after(away: Away) -> Duration {
        let (_moved, moves) = watch::channel(());
        tokio::select! {
            () = keep("test", &away, moves) => unreachable!("it never ends"),
            at = away.until_heard(1) => at - away.until,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_coordinator_hears_of_the_supervisor_soon_after_an_outage() {
        let takes = Duration::from_millis(1600);
        for seconds in 1..=120 {
            let outage = Duration::from_secs(seconds);
            let untold = heard_after(Away::new(outage, false, takes)).await;
            assert!(untold <= Duration::from_secs(5) + takes, "{untold:?} after an outage of {outage:?}");
            let told = heard_after(Away::new(outage, true, Duration::ZERO)).await;
            assert!(
                told <= Duration::from_millis(10),
                "{told:?} after an outage of {outage:?} of whose end it was told"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_changes_is_announced_soon() {
        let near = Away::new(Duration::ZERO, false, Duration::ZERO);
        let (moved, moves) = watch::channel(());
        let begin = Instant::now();
        let changes = async {
            near.until_heard(1).await;
            moved.send_replace(());
            near.until_heard(2).await
        };
        tokio::select! {
            () = keep("test", &near, moves) => unreachable!("it never ends"),
            at = changes => assert!(at - begin < Duration::from_secs(1), "{:?}", at - begin),
        }
    }
}
