//! A workflow that this coordinator knows: what never changes about it, and where it is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use horus_keys::{Digest, PeerId, Timestamp};
use horus_runners::admission::SignedWorkflow;
use horus_runners::job::WorkflowId;
use tokio::sync::{RwLock, mpsc, watch};

use super::arrival::Message;
use super::store::{Meta, StoreError, Stored};
use crate::workflow::{Plan, State, apply, plan};

/// A workflow. Those that this coordinator drives are shared between its driver, which changes the state, and the methods that
/// show it.
pub(crate) struct Live {
    pub(crate) id: WorkflowId,
    pub(crate) signed: Arc<SignedWorkflow>,
    pub(crate) created_at: Timestamp,
    pub(crate) plan: Plan,
    /// Where it is. Written by the driver alone, which holds the lock until the change is in the journal: nobody sees what could
    /// still be lost.
    pub(crate) state: RwLock<State>,
    /// Whether the driver had to let go in the middle of a change: the state is one that Redis has never had.
    adrift: AtomicBool,
    /// The state's sequence; readers wait for it to grow.
    pub(crate) revision: watch::Sender<u64>,
    /// Whether its supervisors are being asked which of its steps run.
    pub(crate) asking: AtomicBool,
    /// The driver's; closed for a workflow that has none.
    pub(crate) inbox: mpsc::UnboundedSender<Message>,
}

impl Live {
    /// A workflow in the state that was stored, and where its driver will hear of it.
    ///
    /// # Errors
    /// What is stored does not fit together.
    pub(crate) fn restore(
        id: &WorkflowId,
        signed: Arc<SignedWorkflow>,
        stored: Stored,
    ) -> Result<(Arc<Self>, mpsc::UnboundedReceiver<Message>), StoreError> {
        let corrupt = |reason: String| StoreError::Corrupt { id: id.clone(), reason };
        let (live, inbox) = Self::fresh(id, signed, stored.meta.created_at)
            .ok_or_else(|| corrupt("its definition has a circle".to_owned()))?;
        let mut live = live;
        let state = live.state.get_mut();
        if let Some(snapshot) = stored.snapshot {
            *state = State::restore(&live.plan, snapshot).map_err(|error| corrupt(error.to_string()))?;
        }
        let mut forgotten = Vec::new();
        for record in &stored.records {
            apply(&live.plan, state, record, &mut forgotten);
            forgotten.clear();
        }
        if state.sequence != stored.meta.sequence {
            let (is, should) = (state.sequence, stored.meta.sequence);
            return Err(corrupt(format!("its journal leads to revision {is}, but {should} was confirmed")));
        }
        live.revision.send_replace(live.state.get_mut().sequence);
        Ok((Arc::new(live), inbox))
    }

    /// A workflow in which nothing has happened yet. `None` if its definition has a circle.
    pub(crate) fn fresh(
        id: &WorkflowId,
        signed: Arc<SignedWorkflow>,
        created_at: Timestamp,
    ) -> Option<(Self, mpsc::UnboundedReceiver<Message>)> {
        let plan = plan(signed.digest, &signed.definition, signed.submission.run_until)?;
        let (inbox, messages) = mpsc::unbounded_channel();
        let state = RwLock::new(State::new(&plan));
        let (revision, adrift, asking) = (watch::Sender::new(0), AtomicBool::new(false), AtomicBool::new(false));
        let live = Self { id: id.clone(), signed, created_at, plan, state, adrift, revision, asking, inbox };
        Some((live, messages))
    }

    /// Notes, before the lock on the state is given back, that a change to it could not be stored.
    pub(crate) fn set_adrift(&self) {
        self.adrift.store(true, Ordering::Release);
    }

    /// Whether the state, read under its lock, is not to be shown: Redis has another, which is to be found there.
    pub(crate) fn is_adrift(&self) -> bool {
        self.adrift.load(Ordering::Acquire)
    }

    /// Who signed it.
    pub(crate) fn submitter(&self) -> PeerId {
        self.signed.signer
    }

    /// Digest of its signed payload.
    pub(crate) fn digest(&self) -> Digest {
        self.signed.digest
    }
}

/// Whether what is stored is the workflow that was verified.
pub(crate) fn fits(meta: &Meta, signed: &SignedWorkflow) -> bool {
    meta.digest == signed.digest && meta.submitter == signed.signer
}
