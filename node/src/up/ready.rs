//! Ready is when everything answers: the supervisor sees all runners alive, the coordinator sees the supervisor.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context as _, Result, bail};
use horus_keys::KeyDir;
use horus_transport::{ClientOptions, NoParams, RpcClient};
use serde_json::json;

use super::{Setup, UpConfig};
use crate::api::{
    coordinator::{ListSupervisors, SupervisorState},
    supervisor::{ListRunners, ListRunnersParams, RunnerState},
};

const PATIENCE: Duration = Duration::from_secs(120);
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Where everything is.
#[derive(Debug, Clone)]
pub(super) struct Endpoints {
    pub(super) supervisor_port: u16,
    pub(super) coordinator_port: u16,
    /// As it may be shown.
    pub(super) redis_url: String,
}

impl Endpoints {
    fn supervisor(&self, setup: &Setup) -> String {
        format!("http://127.0.0.1:{}#{}", self.supervisor_port, setup.peer_id("supervisor"))
    }

    fn coordinator(&self, setup: &Setup) -> String {
        format!("http://127.0.0.1:{}#{}", self.coordinator_port, setup.peer_id("coordinator"))
    }
}

/// Waits until everything answers.
///
/// # Errors
/// It does not within two minutes: tells what is missing.
pub(super) async fn wait(endpoints: &Endpoints, setup: &Setup) -> Result<()> {
    // The coordinator's key may ask both: the user's may have a passphrase.
    let keys = KeyDir::load(setup.key_dir("coordinator"), || Ok(None)).context("cannot use the coordinator's keys")?;
    let client = |address: String| -> Result<RpcClient> {
        let options = ClientOptions { identity: Some(keys.identity.clone()), ..ClientOptions::default() };
        let address = address.parse().context("an address of our own")?;
        RpcClient::connect(address, options).map_err(|e| anyhow::anyhow!("{e}"))
    };
    let supervisor = client(endpoints.supervisor(setup))?;
    let coordinator = client(endpoints.coordinator(setup))?;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let missing = match missing_runners(&supervisor).await {
            Ok(missing) if missing.is_empty() => match coordinator.call::<ListSupervisors>(&NoParams {}).await {
                Ok(list) if list.supervisors.iter().any(|s| s.state == SupervisorState::Alive) => return Ok(()),
                Ok(_) => "the coordinator does not see the supervisor".to_owned(),
                Err(error) => format!("the coordinator does not answer: {error}"),
            },
            Ok(missing) => {
                format!("these runners are not there: {}", missing.into_iter().collect::<Vec<_>>().join(", "))
            }
            Err(error) => format!("the supervisor does not answer: {error}"),
        };
        if tokio::time::Instant::now() > deadline {
            bail!("not ready after two minutes: {missing}; see the log above");
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

async fn missing_runners(supervisor: &RpcClient) -> Result<BTreeSet<String>, horus_transport::RpcError> {
    let list = supervisor.call::<ListRunners>(&ListRunnersParams::default()).await?;
    let mut missing: BTreeSet<String> = ["hero", "sal", "osiris", "noop"].map(str::to_owned).into();
    for runner in list.runners.iter().filter(|r| r.state == RunnerState::Alive) {
        missing.remove(runner.runner.as_str());
    }
    Ok(missing)
}

/// The line that whoever started us waits for.
///
/// # Errors
/// Stdout is closed.
pub(super) fn announce(endpoints: &Endpoints, setup: &Setup, config: &UpConfig) -> Result<()> {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    crate::cli::stdout_has_its_value();
    if config.json {
        let line = json!({
            "ready": true,
            "supervisor": endpoints.supervisor(setup),
            "coordinator": endpoints.coordinator(setup),
            "redis_url": endpoints.redis_url,
            "data_dir": config.data_dir,
            "identity": setup.user_dir,
            "user": setup.user,
            "peer_ids": setup.keys.iter().map(|(role, k)| (role.clone(), k.peer_id)).collect::<std::collections::BTreeMap<_, _>>(),
        });
        writeln!(out, "{line}").context("cannot write to stdout")?;
    } else {
        writeln!(
            out,
            "ready: supervisor http://127.0.0.1:{}, coordinator http://127.0.0.1:{}, data in {}, you are {}",
            endpoints.supervisor_port,
            endpoints.coordinator_port,
            config.data_dir.display(),
            setup.user
        )
        .context("cannot write to stdout")?;
    }
    out.flush().context("cannot write to stdout")
}
