//! What is wrong with the workflows in a Redis, looked at from outside while coordinators work on them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use horus_keys::{Timestamp, Trust, TrustPolicy};
use horus_runners::admission::Verifier;
use horus_runners::job::WorkflowId;
use tokio::time::Instant;

use super::live::{Live, fits};
use super::store::{Meta, Store, StoreError, Stored};
use crate::workflow::{Command, StepStatus, Timer, WorkflowStatus, resume};

/// What looks wrong is looked at once more after this: it may have been on its way from one state to the next.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// How long a coordinator's counter may stand still before nobody is said to drive its workflows.
const PATIENCE: Duration = Duration::from_secs(8);

/// A workflow and what is wrong with it.
type Finding = (WorkflowId, String);

/// Everything that is wrong with workflows, a line each; empty when nothing is. Changes nothing.
///
/// Takes some seconds if there are workflows that have not ended: whether somebody drives them shows in time only. In a cluster,
/// workflows that no list knows are not looked for.
///
/// # Errors
/// Redis cannot be used.
pub async fn examine(redis_url: &str) -> Result<Vec<String>, String> {
    let told = |error: StoreError| error.to_string();
    let store = Store::connect(redis_url).await.map_err(told)?;
    let (mut found, going) = look(&store).await.map_err(told)?;
    if !found.is_empty() {
        tokio::time::sleep(LOOK_AGAIN).await;
        let (again, _) = look(&store).await.map_err(told)?;
        found.retain(|finding| again.contains(finding));
    }
    found.extend(undriven(&store, going).await.map_err(told)?);
    Ok(found.into_iter().map(|(id, problem)| format!("workflow {id}: {problem}")).collect())
}

/// What is wrong at this moment, and the workflows that have not ended.
async fn look(store: &Store) -> Result<(BTreeSet<Finding>, BTreeMap<WorkflowId, Meta>), StoreError> {
    let (mut found, mut going) = (BTreeSet::new(), BTreeMap::new());
    let active: BTreeSet<WorkflowId> = store.active().await?.into_iter().collect();
    let mut ids = active.clone();
    ids.extend(store.stored().await?);
    for id in ids {
        let is_active = active.contains(&id);
        let stored = match store.load(&id).await {
            Ok(Some(stored)) => stored,
            Ok(None) => {
                if is_active {
                    found.insert((id, "is to be gone on with, but nothing is stored of it".to_owned()));
                }
                continue;
            }
            Err(StoreError::Corrupt { reason, .. }) => {
                found.insert((id, format!("cannot be read: {reason}")));
                continue;
            }
            Err(error) => return Err(error),
        };
        let meta = stored.meta.clone();
        let expires = store.expires(&id).await?;
        let problems = match (meta.status.is_final(), is_active, expires) {
            (true, true, _) => vec!["has ended, but is listed as one to be gone on with".to_owned()],
            (true, false, false) => vec!["has ended, but would be kept for ever".to_owned()],
            (false, false, _) => vec!["has not ended, but is not in the list of those to be gone on with".to_owned()],
            (false, _, true) => vec!["has not ended, but is about to be forgotten".to_owned()],
            _ => Vec::new(),
        };
        let inner = match restore(&id, stored) {
            Ok(live) => match contents(store, &live, &meta).await {
                Err(StoreError::Corrupt { reason, .. }) => vec![format!("cannot be read: {reason}")],
                read => read?,
            },
            Err(reason) => vec![reason],
        };
        found.extend(problems.into_iter().chain(inner).map(|problem| (id.clone(), problem)));
        if !meta.status.is_final() {
            going.insert(id, meta);
        }
    }
    Ok((found, going))
}

/// The workflow as a coordinator would take it over. Whom the coordinators trust is not asked here: only whether the
/// signature is that of the submitter.
fn restore(id: &WorkflowId, stored: Stored) -> Result<Arc<Live>, String> {
    let verifier = Verifier::new(Trust::new(TrustPolicy::default()));
    let signed = verifier
        .accepted_workflow(&stored.envelope)
        .map_err(|refusal| format!("its envelope is refused: {refusal}"))?;
    if !fits(&stored.meta, &signed) {
        return Err("its envelope is another workflow's".to_owned());
    }
    Live::restore(id, signed, stored).map(|(live, _)| live).map_err(|error| error.to_string())
}

/// Whether all that the state refers to is there, and something moves it on.
async fn contents(store: &Store, live: &Live, meta: &Meta) -> Result<Vec<String>, StoreError> {
    let mut problems = Vec::new();
    let (mut outputs, mut receipts) = (BTreeSet::new(), BTreeSet::new());
    {
        let state = live.state.read().await;
        if state.status != meta.status {
            let (is, said) = (state.status.as_str(), meta.status.as_str());
            problems.push(format!("is {is} by its journal, but {said} by its description"));
        }
        for step in state.steps.iter().filter(|step| step.status == StepStatus::Succeeded) {
            outputs.extend(step.output);
            receipts.extend(step.receipt.map(|place| place.batch));
        }
        // The workflow's own deadline alone is no reason for the next step to happen.
        let waits = |command: &Command| !matches!(command, Command::Wake(Timer::Deadline, _));
        let stuck = matches!(state.status, WorkflowStatus::Running) && !resume(&live.plan, &state).iter().any(waits);
        if stuck {
            problems.push("has not ended, and waits for nothing".to_owned());
        }
    }
    let (outputs, receipts): (Vec<_>, Vec<_>) = (outputs.into_iter().collect(), receipts.into_iter().collect());
    for (at, text) in store.outputs(&live.id, &outputs).await?.into_iter().enumerate() {
        if text.is_none() {
            problems.push(format!("has lost the output {} of a step", outputs[at]));
        }
    }
    for (at, envelope) in store.receipts(&live.id, &receipts).await?.into_iter().enumerate() {
        if envelope.is_none() {
            problems.push(format!("has lost the receipts {} of a step", receipts[at]));
        }
    }
    Ok(problems)
}

/// Workflows that no living coordinator drives.
async fn undriven(store: &Store, mut going: BTreeMap<WorkflowId, Meta>) -> Result<Vec<Finding>, StoreError> {
    let (first, began) = (store.beats().await?, Instant::now());
    let mut living: BTreeSet<String> = BTreeSet::new();
    while !going.is_empty() && began.elapsed() < PATIENCE {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let moved = store.beats().await?.into_iter().filter(|(name, beats)| first.get(name) != Some(beats));
        living.extend(moved.map(|(name, _)| name));
        let mut left = BTreeMap::new();
        for (id, meta) in going {
            if living.contains(&meta.owner) {
                continue;
            }
            // It may have ended, or been taken over, since.
            match store.meta(&id).await {
                Ok(Some(meta)) if !meta.status.is_final() => _ = left.insert(id, meta),
                Ok(_) => {}
                // Somebody broke it meanwhile.
                Err(StoreError::Corrupt { .. }) => _ = left.insert(id, meta),
                Err(error) => return Err(error),
            }
        }
        going = left;
    }
    let is_named = |meta: &Meta| {
        let named: Vec<String> = meta.coordinators.iter().map(ToString::to_string).collect();
        living.iter().any(|name| named.iter().any(|peer| name.split('/').next() == Some(peer)))
    };
    let since = |meta: &Meta| Timestamp::now().since(meta.created_at);
    let told = |(id, meta): (WorkflowId, Meta)| {
        let age = horus_keys::duration::format(Duration::from_secs(since(&meta).as_secs().max(1)));
        let problem = if is_named(&meta) {
            format!("was accepted {age} ago, and nobody drives it, though a coordinator runs that may")
        } else {
            format!("was accepted {age} ago, and no coordinator runs that its submitter named: start one")
        };
        (id, problem)
    };
    Ok(going.into_iter().map(told).collect())
}
