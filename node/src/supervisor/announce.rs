//! Telling coordinators that this supervisor is there: signed, renewed before it expires, tried again when it fails.

use std::sync::Arc;
use std::time::Duration;

use horus_keys::Timestamp;
use horus_transport::{Address, ClientOptions, RpcClient};

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

/// Announces the supervisor to one coordinator until it stops.
pub(super) async fn keep_announced(coordinator: RpcClient, supervisor: Arc<Supervisor>) {
    let mut moves = supervisor.announcer.moves();
    let mut failures = 0_u32;
    let mut is_known = false;
    let mut problem = None;
    loop {
        moves.mark_unchanged();
        let now = Timestamp::now();
        let params = RegisterSupervisorParams {
            envelope: EnvelopeText::from(&supervisor.announcer.envelope(&supervisor.kinds.all(), now)),
            certificate: supervisor.announcer.certificate().map(EnvelopeText::from),
        };
        let told = coordinator.call_with_timeout::<RegisterSupervisor>(&params, PATIENCE);
        let told = tokio::select! {
            told = told => told,
            () = supervisor.shutdown.draining() => return,
        };
        let pause = match told {
            Ok(registered) => {
                if !is_known {
                    tracing::info!(coordinator = %coordinator.address(), "announced to the coordinator");
                }
                (failures, is_known, problem) = (0, true, None);
                let left = registered.expires_at.as_millis().saturating_sub(Timestamp::now().as_millis());
                let half = Duration::from_millis(u64::try_from(left / 2).unwrap_or_default());
                half.clamp(RENEW_LEAST, RENEW)
            }
            Err(error) => {
                // Once for each thing that is wrong: what keeps it away may be another one than at first.
                if problem != Some(error.kind) {
                    tracing::warn!(coordinator = %coordinator.address(), %error, "cannot announce this supervisor; trying on");
                }
                (is_known, problem) = (false, Some(error.kind));
                let pause = PAUSES.1.min(PAUSES.0 * (1 << failures.min(10)));
                failures = failures.saturating_add(1);
                pause
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = coordinator.recovered(), if failures > 0 => {}
            Ok(()) = moves.changed() => tokio::time::sleep(SETTLE).await,
            () = supervisor.shutdown.draining() => return,
        }
    }
}
