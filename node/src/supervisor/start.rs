//! The role: from configuration to a supervisor that serves.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::FutureExt;
use horus_keys::Role;
use horus_runners::admission::Verifier;
use horus_runners::queue::{Queue, QueueOptions};
use horus_transport::{
    Address, ClientOptions, Dispatcher, GetNodeInfo, Limits, MethodTable, RateLimits, RpcServer, Security,
    ServerOptions, ServiceInfo,
};
use tokio::sync::{Notify, Semaphore};
use tokio_util::task::TaskTracker;

use super::gate::Gate;
use super::owners::Owners;
use super::registry::Kinds;
use super::shared_look::SharedLook;
use super::waiters::Waiters;
use super::{Supervisor, announce, maintenance};
use crate::api::supervisor as api;
use crate::api::{GetMeshStatus, ListNodes};
use crate::role::{Common, RoleError, Running, Serving};
use crate::store::Store;

/// Memory for verified batches, in bytes: a supervisor sees a batch again only when a client repeats it.
const BATCHES: usize = 2 << 20;
/// Memory for verified receipts: those of the steps that others depend on.
const RECEIPTS: usize = 8 << 20;
/// Memory for verified workflows: one of the largest, or many small ones.
const WORKFLOWS: usize = 128 << 20;

/// What a supervisor is told beyond what every role is.
#[derive(Debug, Clone, Default)]
pub struct SupervisorConfig {
    /// How the queue behaves: its bounds, retention and leases. The runners of the machine are given the same.
    pub queue: QueueOptions,
    /// What steps can choose it by, beside its key and address: at most 64 labels.
    pub labels: BTreeMap<String, String>,
    /// The coordinators that it announces itself to.
    pub coordinators: Vec<Address>,
    /// How it calls them. Identity, certificate and the way to the overlay are filled in.
    pub client: ClientOptions,
}

/// The methods of a supervisor: what it serves, and what its OpenRPC document says.
#[must_use]
pub fn methods() -> MethodTable<Supervisor> {
    MethodTable::new(ServiceInfo {
        title: "Horus supervisor".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        description: "Admits signed jobs into the queue of its machine, and tells what became of them. docs/RPC.md says how to call it."
            .into(),
    })
    .method::<GetNodeInfo, _, _>(Supervisor::get_node_info)
    .method::<api::CreateJobs, _, _>(Supervisor::create_jobs)
    .method::<api::CreateJob, _, _>(Supervisor::create_job)
    .method::<api::StoreDocuments, _, _>(Supervisor::store_documents)
    .method::<api::GetJob, _, _>(Supervisor::get_job)
    .method::<api::GetJobStatus, _, _>(Supervisor::get_job_status)
    .method::<api::GetJobResult, _, _>(Supervisor::get_job_result)
    .method::<api::GetJobLogs, _, _>(Supervisor::get_job_logs)
    .method::<api::WaitJobs, _, _>(Supervisor::wait_jobs)
    .method::<api::ListJobs, _, _>(Supervisor::list_jobs)
    .method::<api::CancelJob, _, _>(Supervisor::cancel_job)
    .method::<api::DeleteJob, _, _>(Supervisor::delete_job)
    .method::<api::ListRunners, _, _>(Supervisor::list_runners)
    .method::<api::GetRunner, _, _>(Supervisor::get_runner)
    .method::<api::PingRunner, _, _>(Supervisor::ping_runner)
    .method::<api::RegisterRunner, _, _>(Supervisor::register_runner)
    .method::<api::RemoveRunner, _, _>(Supervisor::remove_runner)
    .method::<GetMeshStatus, _, _>(Supervisor::get_mesh_status)
    .method::<ListNodes, _, _>(Supervisor::list_nodes)
}

/// Starts a supervisor: connects to Redis, listens, and serves until `common.shutdown`.
///
/// # Errors
/// [`RoleError`] when Redis cannot be used, or an address cannot be listened on.
pub async fn start(mut common: Common, config: SupervisorConfig) -> Result<Running, RoleError> {
    // Its own end must not end others of the same process.
    common.shutdown = common.shutdown.child();
    let redis = |error: &dyn std::fmt::Display| RoleError::Redis(error.to_string());
    let queue = Queue::connect(&common.options.redis_url, config.queue).await.map_err(|e| redis(&e))?;
    let store = Store::connect(&common.options.redis_url, common.peer_id(), common.health.clone())
        .await
        .map_err(|e| redis(&e))?;
    let events = queue.finished().await.map_err(|e| redis(&e))?;

    let coordinators = announce::clients(&common, config.coordinators, config.client)?;
    let supervisor = Arc::new(Supervisor {
        me: common.peer_id(),
        trust: common.trust.clone(),
        verifier: Verifier::with_memory(common.trust.clone(), BATCHES, RECEIPTS, WORKFLOWS),
        large: Semaphore::new(std::thread::available_parallelism().map_or(1, usize::from)),
        queue: queue.clone(),
        store: store.clone(),
        health: common.health.clone(),
        gate: Gate::new(common.health.clone()),
        owners: Owners::new(),
        kinds: Kinds::default(),
        look: SharedLook::new(),
        waiters: Arc::new(Waiters::default()),
        announcer: Arc::new(common.announcer(Role::Supervisor)),
        mesh: common.mesh.clone(),
        coordinators: coordinators.clone(),
        labels: config.labels,
        shutdown: common.shutdown.clone(),
        due: Notify::new(),
        server: tokio::sync::OnceCell::new(),
    });
    let security = Security {
        me: common.peer_id(),
        trust: common.trust.clone(),
        nonces: Arc::new(store.clone()),
        rates: RateLimits::default(),
    };
    let dispatcher = Dispatcher::new(methods(), supervisor.clone(), security, Limits::default());
    let health = common.health.clone();
    let options = ServerOptions {
        listen: common.options.listen.clone(),
        tls: common.options.tls.clone(),
        health: Some(Arc::new(move || {
            let report = health.report();
            async move { report }.boxed()
        })),
        ..ServerOptions::default()
    };
    let server =
        RpcServer::bind(dispatcher.clone(), options).await.map_err(|error| RoleError::Serve(error.to_string()))?;
    let addresses = server.local_addrs().to_vec();
    supervisor.announcer.serve_at(common.options.tls.is_some(), &addresses);

    let tasks = TaskTracker::new();
    if let Some(mesh) = common.mesh.clone() {
        let serving = Serving {
            dispatcher: dispatcher.clone(),
            announcer: supervisor.announcer.clone(),
            health: common.health.clone(),
            listens: addresses.clone(),
            shutdown: common.shutdown.clone(),
        };
        tasks.spawn(mesh.serve(serving).await?);
    }
    for coordinator in coordinators {
        tasks.spawn(announce::keep_announced(coordinator, supervisor.clone()));
    }
    tasks.spawn(store.keep_watch(common.shutdown.clone(), move || {
        let queue = queue.clone();
        async move { queue.ping().await }
    }));
    tasks.spawn(common.clone().follow_trust());
    tasks.spawn(maintenance::keep_up(supervisor.clone()));
    tasks.spawn(maintenance::pass_hints(supervisor, events));
    let shutdown = common.shutdown.clone();
    tasks.spawn(async move {
        let stop = shutdown.stop_token();
        tokio::select! {
            () = server.serve(shutdown.drain_token()) => {}
            () = stop.cancelled() => {}
        }
        // Nobody is served any more: what kept it going can end.
        shutdown.stop();
    });
    tasks.close();
    tracing::info!(peer_id = %common.peer_id(), ?addresses, "supervisor serves");
    Ok(Running { peer_id: common.peer_id(), addresses, dispatcher, tasks })
}
