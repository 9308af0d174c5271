//! The coordinator: accepts signed workflows, sends their ready steps to supervisors, and tells what became of them.
//!
//! | file | does |
//! |---|---|
//! | `start`, `config` | the role: from flags to a coordinator that serves |
//! | `submit`, `show`, `steer`, `logs` | its methods |
//! | `ask` | finding out, for those who look, which steps run |
//! | `cancels` | cancelling what a stopped workflow has left at supervisors that could not be asked |
//! | `driver`, `live` | one task for each workflow that has not ended: events in, journal, commands out |
//! | `watchman` | recovery, and taking over from coordinators that died |
//! | `nodes` | nodes that announce themselves, and the mesh |
//! | `pool` | the supervisors, how they are, and which one gets a step |
//! | `batch`, `deliver` | from ready steps to accepted jobs |
//! | `waiter`, `arrival` | from long polls to checked results |
//! | `doctor` | what is wrong with stored workflows |
//! | `store`, `vault` | what is kept in Redis, and what of it is at hand |
//!
//! A workflow belongs to one coordinator at a time. What happens is appended to its journal before anything is done about it,
//! under the owner's epoch; so a coordinator that comes back, or another one, goes on from there.

mod arrival;
mod ask;
mod batch;
mod cancels;
mod deliver;
mod doctor;
mod driver;
mod live;
mod logs;
mod nodes;
mod pool;
mod show;
mod start;
mod steer;
mod store;
mod submit;
#[cfg(test)]
mod tests;
mod vault;
mod waiter;
mod watchman;

pub use crate::role::Running;
pub use doctor::examine;
pub use start::{CoordinatorConfig, RETENTION, methods, start};

use std::collections::{HashMap, HashSet};
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use horus_keys::{Envelope, Identity, PeerId, Role, Timestamp, Trust};
use horus_runners::admission::Verifier;
use horus_runners::job::WorkflowId;
use horus_transport::{Caller, ErrorKind, RpcError};
use lru::LruCache;
use tokio::sync::Notify;

use crate::role::{Announcer, Health, RoleMesh, Shutdown};
use live::Live;
use pool::Pool;
use store::{Meta, Store, StoreError};
use vault::Vault;

/// Workflows without a driver that are kept in memory, for those who ask about them again.
const SHOWN_LATELY: usize = 32;
/// Unless they have more steps than this.
const SHOWN_STEPS: usize = 5000;

/// A coordinator at work: what its methods share.
pub struct Coordinator {
    shared: Arc<Shared>,
    announcer: Arc<Announcer>,
    /// Workflows that this coordinator does not drive, with the sequence at which they were read.
    shown: Mutex<LruCache<WorkflowId, Arc<Live>>>,
}

/// What methods, drivers and deliveries share.
pub(crate) struct Shared {
    me: PeerId,
    /// Names this process among those that ever ran with the same key.
    instance: String,
    identity: Identity,
    certificate: Option<Envelope>,
    trust: Trust,
    verifier: Verifier,
    store: Store,
    vault: Vault,
    pool: Arc<Pool>,
    mesh: Option<RoleMesh>,
    health: Health,
    shutdown: Shutdown,
    /// How long an ended workflow is kept.
    retention: Duration,
    /// The workflows that this coordinator drives.
    driven: RwLock<HashMap<WorkflowId, Arc<Live>>>,
    /// Workflows that this coordinator cannot use, because what is stored of them is broken. Not tried again before a restart; others may.
    broken: Mutex<HashSet<WorkflowId>>,
    /// Wakes whoever cancels what is noted, when more is.
    to_cancel: Notify,
    /// Workflows of which Redis has lost the last changes, until they are taken up again from what is left.
    rewound: Mutex<HashSet<WorkflowId>>,
}

impl Shared {
    /// The workflow, if this coordinator drives it.
    fn driven(&self, id: &WorkflowId) -> Option<Arc<Live>> {
        self.driven.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    /// Notes that the driver of a workflow had to let go of it.
    fn lost(&self, id: &WorkflowId, error: &StoreError) {
        self.redis_trouble(error);
        let set = match error {
            StoreError::Corrupt { .. } => &self.broken,
            StoreError::Rewound(_) => &self.rewound,
            _ => return,
        };
        set.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone());
    }

    /// Notes that the store did not do its work: `/healthz` and the log say so.
    fn redis_trouble(&self, error: &StoreError) {
        match error {
            StoreError::Unavailable(_) => {
                self.health.trouble(Health::REDIS, error.to_string());
            }
            StoreError::Fenced(_) | StoreError::Rewound(_) => tracing::warn!(%error, "let go of a workflow"),
            StoreError::Corrupt { .. } => tracing::error!(%error, "a workflow cannot go on"),
        }
    }

    /// The store's error as a caller gets it.
    fn as_rpc(&self, error: &StoreError) -> RpcError {
        self.redis_trouble(error);
        match error {
            StoreError::Unavailable(reason) => unavailable(reason),
            StoreError::Fenced(_) => RpcError::new(
                ErrorKind::RedisUnavailable,
                "another coordinator has just taken the workflow over: send the call again",
            ),
            StoreError::Rewound(_) => {
                RpcError::new(ErrorKind::RedisUnavailable, format!("{error}: send the call again"))
            }
            StoreError::Corrupt { .. } => RpcError::internal(error),
        }
    }

    /// An error while Redis is in trouble: calls that would wait for its time-out are refused at once.
    fn check_redis(&self) -> Result<(), RpcError> {
        match self.health.reason(Health::REDIS) {
            None => Ok(()),
            // It is noted already; noting it again would make it longer with every call.
            Some(reason) => Err(unavailable(&reason)),
        }
    }
}

fn unavailable(reason: &str) -> RpcError {
    RpcError::new(
        ErrorKind::RedisUnavailable,
        format!(
            "this coordinator cannot use its Redis now: {reason}. It goes on by itself; send the call again in some seconds"
        ),
    )
}

/// What a caller may see and stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sight {
    caller: PeerId,
    sees_all: bool,
    steers_all: bool,
}

impl Sight {
    fn of(caller: &Caller, trust: &Trust) -> Result<Self, RpcError> {
        let (caller, now) = (caller.signed()?, Timestamp::now());
        let steers_all = trust.allows(caller, Role::Operator, now) || trust.allows(caller, Role::Owner, now);
        Ok(Self { caller, steers_all, sees_all: steers_all || trust.allows(caller, Role::Observer, now) })
    }

    fn sees(self, submitter: PeerId) -> bool {
        self.sees_all || self.caller == submitter
    }

    fn steers(self, submitter: PeerId) -> bool {
        self.steers_all || self.caller == submitter
    }
}

/// A workflow that is not there, or that the caller may not see: the two must not be told apart.
fn no_workflow(id: &WorkflowId) -> RpcError {
    RpcError::new(
        ErrorKind::WorkflowNotFound,
        format!(
            "there is no workflow {id} that you may see: check its id; ended workflows are forgotten after a while"
        ),
    )
    .with("workflow_id", id.to_string())
}

impl Coordinator {
    /// A workflow that the caller may see: driven here, or read from Redis.
    async fn find(&self, sight: Sight, id: &WorkflowId) -> Result<Arc<Live>, RpcError> {
        let live = match self.shared.driven(id) {
            Some(live) => {
                // Its driver may be about to lose it.
                let seen = self.state(&live).await.map(drop);
                if live.is_adrift() {
                    self.read(id).await?
                } else {
                    seen?;
                    live
                }
            }
            None => self.read(id).await?,
        };
        if sight.sees(live.submitter()) { Ok(live) } else { Err(no_workflow(id)) }
    }

    /// A workflow that this coordinator does not drive, as Redis has it now.
    async fn read(&self, id: &WorkflowId) -> Result<Arc<Live>, RpcError> {
        let (shared, meta) = (&self.shared, self.kept(id).await?);
        let known = {
            let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
            shown.get(id).cloned()
        };
        if let Some(known) =
            known.filter(|live| *live.revision.borrow() == meta.sequence && live.digest() == meta.digest)
        {
            return Ok(known);
        }
        let live = watchman::load(shared, id).await.map_err(|error| shared.as_rpc(&error))?;
        let Some((live, _)) = live else { return Err(no_workflow(id)) };
        if live.plan.steps().len() <= SHOWN_STEPS {
            let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
            shown.put(id.clone(), Arc::clone(&live));
        }
        Ok(live)
    }

    /// The description of a workflow that this coordinator does not drive.
    async fn kept(&self, id: &WorkflowId) -> Result<Meta, RpcError> {
        let shared = &self.shared;
        shared.check_redis()?;
        let meta = shared.store.kept(id).await.map_err(|error| shared.as_rpc(&error))?;
        meta.ok_or_else(|| no_workflow(id))
    }

    fn shown_lately() -> Mutex<LruCache<WorkflowId, Arc<Live>>> {
        Mutex::new(LruCache::new(NonZeroUsize::new(SHOWN_LATELY).expect("it is not zero")))
    }
}
