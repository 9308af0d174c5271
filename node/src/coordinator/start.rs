//! The role: from configuration to a coordinator that serves.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use futures::FutureExt;
use horus_keys::Role;
use horus_runners::admission::Verifier;
use horus_transport::{
    Address, ClientOptions, Dispatcher, GetNodeInfo, Limits, MethodTable, RateLimits, RpcServer, Security,
    ServerOptions, ServiceInfo,
};
use tokio::sync::Notify;
use tokio_util::task::TaskTracker;

use super::pool::Pool;
use super::store::Store;
use super::vault::Vault;
use super::{Coordinator, Shared, cancels, nodes, watchman};
use crate::api::coordinator as api;
use crate::api::{GetMeshStatus, ListNodes};
use crate::role::{Common, RoleError, Running, Serving};

/// Memory for verified batches, in bytes: a coordinator reads none.
const BATCHES: usize = 1 << 20;
/// Memory for verified receipts: each proves several results, which come soon one after the other.
const RECEIPTS: usize = 16 << 20;
/// Memory for verified workflows: one of the largest, or many small ones. Those that run are kept anyway.
const WORKFLOWS: usize = 96 << 20;
/// How long an ended workflow is kept unless told otherwise.
pub const RETENTION: Duration = Duration::from_secs(7 * 24 * 3600);

/// What a coordinator is told beyond what every role is.
#[derive(Debug, Clone)]
pub struct CoordinatorConfig {
    /// The supervisors that it sends steps to, beside those that announce themselves.
    pub supervisors: Vec<Address>,
    /// How it calls supervisors: timeouts, TLS authorities, the way to the overlay. Identity and certificate are filled in.
    pub client: ClientOptions,
    /// How long an ended workflow is kept; its id longer if its `run_until` is later.
    pub retention: Duration,
}

impl Default for CoordinatorConfig {
    fn default() -> Self {
        Self { supervisors: Vec::new(), client: ClientOptions::default(), retention: RETENTION }
    }
}

/// The methods of a coordinator: what it serves, and what its OpenRPC document says.
#[must_use]
pub fn methods() -> MethodTable<Coordinator> {
    MethodTable::new(ServiceInfo {
        title: "Horus coordinator".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        description:
            "Executes signed workflows: sends their ready steps to supervisors, and tells what became of them. \
                      docs/RPC.md says how to call it."
                .into(),
    })
    .method::<GetNodeInfo, _, _>(Coordinator::get_node_info)
    .method::<api::SubmitWorkflow, _, _>(Coordinator::submit_workflow)
    .method::<api::GetWorkflowStatus, _, _>(Coordinator::get_workflow_status)
    .method::<api::WaitWorkflow, _, _>(Coordinator::wait_workflow)
    .method::<api::ListWorkflows, _, _>(Coordinator::list_workflows)
    .method::<api::CancelWorkflow, _, _>(Coordinator::cancel_workflow)
    .method::<api::GetWorkflowLogs, _, _>(Coordinator::get_workflow_logs)
    .method::<api::ValidateWorkflow, _, _>(Coordinator::validate_workflow)
    .method::<api::RegisterSupervisor, _, _>(Coordinator::register_supervisor)
    .method::<api::ListSupervisors, _, _>(Coordinator::list_supervisors)
    .method::<GetMeshStatus, _, _>(Coordinator::get_mesh_status)
    .method::<ListNodes, _, _>(Coordinator::list_nodes)
}

/// Starts a coordinator: connects to Redis, goes on with every workflow that was left there, and serves until
/// `common.shutdown`.
///
/// # Errors
/// [`RoleError`] when Redis cannot be used, or an address cannot be listened on.
pub async fn start(common: Common, config: CoordinatorConfig) -> Result<Running, RoleError> {
    let redis = |error: &dyn std::fmt::Display| RoleError::Redis(error.to_string());
    let url = &common.options.redis_url;
    let store = Store::connect(url).await.map_err(|error| redis(&error))?;
    store.ping().await.map_err(|error| redis(&error))?;
    let nonces = crate::store::Store::connect(url, common.peer_id(), common.health.clone())
        .await
        .map_err(|error| redis(&error))?;

    let verifier = Verifier::with_memory(common.trust.clone(), BATCHES, RECEIPTS, WORKFLOWS);
    let client = ClientOptions {
        identity: Some(common.identity.clone()),
        certificate: common.certificate.clone(),
        carriers: config.client.carriers.clone().or_else(|| common.mesh.as_ref().map(crate::role::RoleMesh::carriers)),
        ..config.client
    };
    let pool = Pool::new(client, common.trust.clone(), verifier.clone(), common.shutdown.clone());
    let mut topics = Vec::new();
    for address in &config.supervisors {
        // A topic stands for all who serve it: each of them gets steps of its own, the least loaded first.
        if let (Address::Topic { topic }, Some(_)) = (address, &common.mesh) {
            topics.push(topic.clone());
            continue;
        }
        pool.add(address, true).map_err(|error| RoleError::Serve(format!("--supervisor {address}: {error}")))?;
    }
    let shared = Arc::new(Shared {
        me: common.peer_id(),
        instance: format!("{}/{}", common.peer_id(), uuid::Uuid::now_v7()),
        identity: common.identity.clone(),
        certificate: common.certificate.clone(),
        trust: common.trust.clone(),
        verifier,
        vault: Vault::new(store.clone()),
        store,
        pool,
        mesh: common.mesh.clone(),
        health: common.health.clone(),
        shutdown: common.shutdown.clone(),
        retention: config.retention,
        driven: RwLock::new(HashMap::new()),
        broken: Mutex::new(HashSet::new()),
        to_cancel: Notify::new(),
        rewound: Mutex::new(HashSet::new()),
    });
    let coordinator = Arc::new(Coordinator {
        shared: Arc::clone(&shared),
        announcer: Arc::new(common.announcer(Role::Coordinator)),
        shown: Coordinator::shown_lately(),
    });
    let security = Security {
        me: common.peer_id(),
        trust: common.trust.clone(),
        nonces: Arc::new(nonces.clone()),
        rates: RateLimits::default(),
    };
    let dispatcher = Dispatcher::new(methods(), Arc::clone(&coordinator), security, Limits::default());
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
    coordinator.announcer.serve_at(common.options.tls.is_some(), &addresses);

    nodes::recall(&shared).await;
    let tasks = TaskTracker::new();
    if let Some(mesh) = common.mesh.clone() {
        let serving = Serving {
            dispatcher: dispatcher.clone(),
            announcer: Arc::clone(&coordinator.announcer),
            health: common.health.clone(),
            listens: addresses.clone(),
            shutdown: common.shutdown.clone(),
        };
        tasks.spawn(mesh.serve(serving).await?);
    }
    if !topics.is_empty() {
        tasks.spawn(nodes::follow_topics(Arc::clone(&shared), topics));
    }
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
    let workflows = shared.store.clone();
    tasks.spawn(cancels::carry_out(Arc::clone(&shared)));
    tasks.spawn(watchman::watch(shared));
    tasks.spawn(nonces.keep_watch(common.shutdown.clone(), move || {
        let workflows = workflows.clone();
        async move { workflows.ping().await }
    }));
    tasks.spawn(common.clone().follow_trust());
    tasks.close();
    tracing::info!(peer_id = %common.peer_id(), ?addresses, "coordinator serves");
    Ok(Running { peer_id: common.peer_id(), addresses, dispatcher, tasks })
}
