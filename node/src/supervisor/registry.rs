//! The runners of this machine, and which kinds of jobs they make acceptable.

use std::collections::BTreeSet;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use horus_keys::RunnerKind;
use horus_transport::{Address, Caller, ErrorKind, NoParams, NodeInfo, RpcClient, RpcError};
use tokio::time::Instant;

use super::{Supervisor, errors};
use crate::api::supervisor::{
    ListRunnersParams, Pong, RegisterRunnerParams, Removed, Runner, RunnerParams, RunnerState, Runners,
};
use crate::api::{KnownNodes, ListNodesParams, MeshReport};
use crate::role::{Health, RoleMesh, known_nodes};
use crate::store::StoreError;

/// Most runners that can be registered by hand.
const MAX_REGISTERED: usize = 1000;
/// Longest wait for a heartbeat.
const LONGEST_PING: Duration = Duration::from_secs(10);
/// How often the heartbeat is looked at meanwhile.
const PING_LOOK: Duration = Duration::from_millis(100);

/// The runner kinds that have registered, as seen last. A kind in it needs no look at Redis.
#[derive(Default)]
pub(super) struct Kinds(RwLock<BTreeSet<RunnerKind>>);

impl Kinds {
    pub(super) fn has(&self, kind: &RunnerKind) -> bool {
        self.0.read().is_ok_and(|kinds| kinds.contains(kind))
    }

    pub(super) fn all(&self) -> Vec<RunnerKind> {
        self.0.read().map(|kinds| kinds.iter().cloned().collect()).unwrap_or_default()
    }

    pub(super) fn set(&self, seen: BTreeSet<RunnerKind>) {
        if let Ok(mut kinds) = self.0.write() {
            *kinds = seen;
        }
    }
}

/// A runner that was registered by hand and has not come yet.
fn never_seen(name: String, runner: RunnerKind) -> Runner {
    Runner {
        name,
        worker: None,
        runner,
        peer_id: None,
        state: RunnerState::Gone,
        running: 0,
        concurrency: 0,
        queued: 0,
        last_seen: None,
    }
}

impl Supervisor {
    /// The runners, by kind and name. Those who ask at the same time share one look.
    async fn runners(self: &Arc<Self>) -> Result<Vec<Runner>, RpcError> {
        let supervisor = Arc::clone(self);
        self.look.look(move || supervisor.read_runners()).await
    }

    async fn read_runners(self: Arc<Self>) -> Result<Vec<Runner>, RpcError> {
        let views = async {
            let kinds = self.queue.kinds().await?;
            futures::future::try_join_all(kinds.iter().map(|kind| self.queue.runners_of(kind))).await
        };
        let (views, registered) = futures::join!(views, self.store.registered());
        let mut runners: Vec<Runner> = self.gate.pass(views)?.into_iter().flatten().map(Runner::from).collect();
        for (name, kind) in registered.map_err(|error| self.trouble(&error))? {
            if !runners.iter().any(|runner| runner.name == name && runner.runner == kind) {
                runners.push(never_seen(name, kind));
            }
        }
        runners.sort_by(|a, b| (&a.runner, &a.name).cmp(&(&b.runner, &b.name)));
        Ok(runners)
    }

    /// The runner kinds that have registered and were not removed, from Redis.
    pub(super) async fn kinds_now(&self) -> Result<Vec<RunnerKind>, RpcError> {
        let kinds = self.gate.pass(self.queue.kinds().await)?;
        let kinds: BTreeSet<RunnerKind> = self.gate.pass(self.queue.served(kinds).await)?.into_iter().collect();
        self.kinds.set(kinds.clone());
        Ok(kinds.into_iter().collect())
    }

    pub(super) async fn get_node_info(self: Arc<Self>, _: Caller, _: NoParams) -> Result<NodeInfo, RpcError> {
        // Open to anybody: it says what is known, and asks Redis for nothing.
        Ok(self.announcer.info(&self.kinds.all(), horus_keys::Timestamp::now()))
    }

    pub(super) async fn get_mesh_status(self: Arc<Self>, _: Caller, _: NoParams) -> Result<MeshReport, RpcError> {
        let by_url = self.coordinators.iter().filter(|client| matches!(client.address(), Address::Http { .. }));
        let others = by_url.filter_map(RpcClient::status).collect();
        Ok(RoleMesh::report(self.mesh.as_ref(), others).await)
    }

    pub(super) async fn list_nodes(
        self: Arc<Self>,
        _: Caller,
        params: ListNodesParams,
    ) -> Result<KnownNodes, RpcError> {
        let topic = params.topic.as_deref();
        Ok(KnownNodes { nodes: known_nodes(&self.announcer, &self.kinds.all(), self.mesh.as_ref(), topic) })
    }

    pub(super) async fn list_runners(
        self: Arc<Self>,
        _: Caller,
        params: ListRunnersParams,
    ) -> Result<Runners, RpcError> {
        self.gate.check()?;
        let mut runners = self.runners().await?;
        if let Some(kind) = params.runner {
            runners.retain(|runner| runner.runner == kind);
        }
        // What the server is does not change while it is connected; a failure to ask is asked again.
        let redis = self.server.get_or_try_init(|| self.queue.server()).await.ok().cloned();
        Ok(Runners { runners, redis, labels: self.labels.clone() })
    }

    pub(super) async fn get_runner(self: Arc<Self>, _: Caller, params: RunnerParams) -> Result<Runner, RpcError> {
        self.gate.check()?;
        Ok(self.named(&params).await?.swap_remove(0))
    }

    pub(super) async fn ping_runner(self: Arc<Self>, _: Caller, params: RunnerParams) -> Result<Pong, RpcError> {
        self.gate.check()?;
        let runner = self.named(&params).await?.swap_remove(0);
        let Some(worker) = runner.worker.clone() else {
            return Ok(Pong { runner, answered: false, latency_ms: None });
        };
        let began = Instant::now();
        let patience = (self.queue.options().lease / 2).min(LONGEST_PING);
        while began.elapsed() < patience {
            tokio::time::sleep(PING_LOOK).await;
            let views = self.gate.pass(self.queue.runners_of(&runner.runner).await)?;
            let now = views.into_iter().find(|view| view.worker == worker).map(Runner::from);
            if let Some(now) = now.filter(|now| now.last_seen > runner.last_seen) {
                let took = began.elapsed().as_millis();
                return Ok(Pong { runner: now, answered: true, latency_ms: u64::try_from(took).ok() });
            }
        }
        Ok(Pong { runner, answered: false, latency_ms: None })
    }

    pub(super) async fn register_runner(
        self: Arc<Self>,
        caller: Caller,
        params: RegisterRunnerParams,
    ) -> Result<Runner, RpcError> {
        self.gate.check()?;
        let RegisterRunnerParams { runner: kind, name } = params;
        let name = name.unwrap_or_else(|| kind.to_string());
        let valid = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
        if name.is_empty() || name.len() > 64 || !name.chars().all(valid) {
            return Err(errors::invalid("a runner's name is 1 to 64 of A-Z a-z 0-9 _ . -"));
        }
        if self.store.registered().await.map_err(|error| self.trouble(&error))?.len() >= MAX_REGISTERED {
            return Err(RpcError::new(
                ErrorKind::TooLarge,
                format!("{MAX_REGISTERED} runners are registered by hand already: remove some"),
            ));
        }
        self.store.register(&name, &kind).await.map_err(|error| self.trouble(&error))?;
        self.gate.pass(self.queue.register_kind(&kind).await)?;
        tracing::info!(runner = %name, %kind, by = ?caller.peer, "registered by hand");
        self.kinds_now().await?;
        let runner = RunnerParams { name: Some(name), runner: Some(kind) };
        Ok(self.named(&runner).await?.swap_remove(0))
    }

    pub(super) async fn remove_runner(
        self: Arc<Self>,
        caller: Caller,
        params: RunnerParams,
    ) -> Result<Removed, RpcError> {
        self.gate.check()?;
        let mut named = self.named(&params).await?;
        if named.len() > 1 {
            let names: Vec<&str> = named.iter().map(|runner| runner.name.as_str()).collect();
            return Err(errors::invalid(format!("there are several such runners: name one of {}", names.join(", "))));
        }
        let runner = named.swap_remove(0);
        if runner.state == RunnerState::Alive {
            return Err(RpcError::new(
                ErrorKind::NotAllowed,
                format!("runner {} is alive and would register itself again: stop it first", runner.name),
            ));
        }
        let by_hand = self.store.unregister(&runner.name).await.map_err(|error| self.trouble(&error))?;
        let name = runner.worker.as_ref().unwrap_or(&runner.name);
        let removed = by_hand || self.gate.pass(self.queue.remove_runner(name).await)? > 0;
        // The last of its kind takes the kind with it: jobs of it are refused from now on, rather than left to wait.
        let by_hand = self.store.registered().await.map_err(|error| self.trouble(&error))?;
        let is_last = !by_hand.iter().any(|(_, kind)| *kind == runner.runner)
            && self.gate.pass(self.queue.remove_kind(&runner.runner).await)?;
        tracing::info!(runner = %runner.name, kind = %runner.runner, is_last, by = ?caller.peer, "removed");
        self.kinds_now().await?;
        Ok(Removed { runner, removed })
    }

    /// An error of the store as the caller gets it; it closes the gate.
    fn trouble(&self, error: &StoreError) -> RpcError {
        self.health.trouble(Health::REDIS, error.to_string());
        errors::redis_unavailable(&error.to_string())
    }

    /// The runners of that name or kind, the best first; at least one.
    async fn named(self: &Arc<Self>, params: &RunnerParams) -> Result<Vec<Runner>, RpcError> {
        if params.name.is_none() && params.runner.is_none() {
            return Err(errors::invalid("name a runner: give `name`, or `runner` for its kind"));
        }
        let all = self.runners().await?;
        let mut named: Vec<Runner> = all.clone();
        named.retain(|runner| {
            params.name.as_ref().is_none_or(|name| *name == runner.name || runner.worker.as_ref() == Some(name))
                && params.runner.as_ref().is_none_or(|kind| *kind == runner.runner)
        });
        named.sort_by_key(|runner| match runner.state {
            RunnerState::Alive => 0,
            RunnerState::Late => 1,
            RunnerState::Gone => 2,
        });
        if named.is_empty() {
            let known: Vec<String> = all.iter().map(|r| format!("{} ({})", r.name, r.runner)).collect();
            let what = if known.is_empty() { "none has registered".to_owned() } else { known.join(", ") };
            return Err(RpcError::new(
                ErrorKind::UnknownRunner,
                format!("there is no such runner here; there is: {what}"),
            )
            .with("known", known));
        }
        Ok(named)
    }
}
