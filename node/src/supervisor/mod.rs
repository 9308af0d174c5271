//! The supervisor: admits signed jobs into the queue of its machine, and answers for them.
//!
//! It checks who signed a job and whether they may run it there, queues it for the runners of its machine, and tells what
//! became of it. It holds no truth of its own: everything is in Redis, so it can die at any moment, and several can serve one
//! Redis. What it keeps in memory are caches and the calls that wait.

mod announce;
mod create;
mod documents;
mod errors;
mod gate;
mod maintenance;
mod owners;
mod read;
mod registry;
mod shared_look;
mod start;
mod visibility;
mod wait;
mod waiters;
mod wire;

pub use crate::role::Running;
pub use start::{SupervisorConfig, methods, start};

use std::collections::BTreeMap;
use std::sync::Arc;

use horus_keys::{PeerId, Timestamp, Trust};
use horus_runners::admission::Verifier;
use horus_runners::queue::Queue;
use horus_transport::{Caller, RpcClient, RpcError};
use tokio::sync::{Notify, Semaphore};

use crate::role::{Announcer, Health, RoleMesh, Shutdown};
use crate::store::Store;
use gate::Gate;
use owners::Owners;
use registry::Kinds;
use shared_look::SharedLook;
use visibility::Sight;
use waiters::Waiters;

/// A supervisor at work: what its methods share.
pub struct Supervisor {
    me: PeerId,
    trust: Trust,
    verifier: Verifier,
    /// Bounds the large verifications at a time to the processors.
    large: Semaphore,
    queue: Queue,
    store: Store,
    health: Health,
    gate: Gate,
    owners: Owners,
    kinds: Kinds,
    look: SharedLook<Result<Vec<crate::api::supervisor::Runner>, RpcError>>,
    waiters: Arc<Waiters>,
    announcer: Arc<Announcer>,
    mesh: Option<RoleMesh>,
    labels: BTreeMap<String, String>,
    /// The coordinators that it announces itself to.
    coordinators: Vec<RpcClient>,
    shutdown: Shutdown,
    /// Wakes the maintenance: something may be due earlier than it thinks.
    due: Notify,
    /// What holds the queue.
    server: tokio::sync::OnceCell<horus_runners::queue::ServerFacts>,
}

impl Supervisor {
    /// How far the caller looks. The transport has verified its signature and its role.
    fn sight(&self, caller: &Caller) -> Result<Sight, RpcError> {
        let peer = caller.signed()?;
        Ok(Sight::of(peer, &self.trust, Timestamp::now()))
    }
}
