//! The rules for the job of a workflow's step.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use horus_keys::{Digest, Role};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Admission, Refusal, RefusalKind, Right, SignedWorkflow, Verifier, proofs::Proofs, rules::window};
use crate::{
    definition::Step,
    job::{Delegation, Job, JobSpec, JobStatus, Priority, json, limits},
};

/// Admits the job of a step, and derives from the signed workflow all that the job must not say.
pub(super) fn admit(
    verifier: &Verifier,
    at: Admission<'_>,
    index: u32,
    spec: &JobSpec,
    digest: Digest,
    delegation: &Delegation,
) -> Result<Job, Refusal> {
    // The coordinator first: nobody else is told whether a workflow is known here.
    verifier.require(at.batch.signer, Right::Role(Role::Coordinator), &at.batch.certificates, at.now)?;
    let workflow = (at.workflows)(&delegation.workflow).filter(|found| found.digest == delegation.workflow);
    let Some(workflow) = workflow else {
        let message = format!("the workflow {} is not known here: send its envelope along", delegation.workflow);
        return Err(Refusal::new(RefusalKind::WorkflowUnknown, message));
    };
    let step = allowed(verifier, at, spec, delegation, &workflow)?;
    let proofs = Proofs::gather(verifier, at, spec, &workflow, step)?;
    attempt(step, delegation, &proofs)?;
    dependencies(spec, step, &workflow, &proofs)?;
    workflow.accepted.set();
    let receipts = proofs.accept();
    Ok(Job {
        id: spec.job_id(),
        spec: digest,
        batch: at.batch.digest,
        index,
        submitter: workflow.signer,
        delegate: Some(at.batch.signer),
        coordinators: workflow.submission.coordinators.clone(),
        payload: step.payload.clone(),
        input: Some(input(spec, &workflow)?),
        env: step.environment(&workflow.definition),
        secrets: step.secrets.clone(),
        timeout: step.timeout.unwrap_or(limits::DEFAULT_TIMEOUT),
        idempotent: step.idempotent.unwrap_or(false),
        priority: Priority::Normal,
        not_before: None,
        run_until: workflow.submission.run_until,
        labels: step.labels.clone(),
        delegation: Some(delegation.clone()),
        workflow: Some((workflow.digest, workflow.submission.id.clone())),
        receipts,
    })
}

/// The step, if the workflow lets this coordinator have it executed under this id.
fn allowed<'w>(
    verifier: &Verifier,
    at: Admission<'_>,
    spec: &JobSpec,
    delegation: &Delegation,
    workflow: &'w Arc<SignedWorkflow>,
) -> Result<&'w Step, Refusal> {
    let (coordinator, submission) = (at.batch.signer, &workflow.submission);
    if !submission.coordinators.contains(&coordinator) {
        let message = format!(
            "the workflow {} does not name the coordinator {coordinator}: its owner must sign it for this one",
            submission.id
        );
        return Err(Refusal::new(RefusalKind::NotAllowed, message));
    }
    let Some(step) = workflow.step(&delegation.step) else {
        return Err(Refusal::mismatch(format!(
            "the signed workflow {} has no step `{}`",
            submission.id, delegation.step
        )));
    };
    if step.runner != spec.runner {
        let (id, signed, asked) = (&step.id, &step.runner, &spec.runner);
        return Err(Refusal::mismatch(format!("the step `{id}` is signed for runner {signed}, not {asked}")));
    }
    if delegation.index.is_some() {
        return Err(Refusal::mismatch(format!("the step `{}` runs once: it has no index", step.id)));
    }
    let derived = delegation.job_id(&spec.runner);
    if *derived.local() != spec.id {
        return Err(Refusal::mismatch(format!(
            "attempt {} of step `{}` has the id {derived}, not {}",
            delegation.attempt,
            step.id,
            spec.job_id()
        )));
    }
    let right = Right::For(Role::Submitter, &step.runner);
    verifier.require(workflow.signer, right, &submission.certificates, at.now)?;
    window(submission.run_until, at.now)?;
    Ok(step)
}

/// The first attempt is free. Another one needs a receipt that the one before failed, or the owner's word that it does no harm.
fn attempt(step: &Step, delegation: &Delegation, proofs: &Proofs<'_>) -> Result<(), Refusal> {
    let n = delegation.attempt;
    match n {
        0 => return Err(Refusal::mismatch("attempts count from 1")),
        1 => return Ok(()),
        _ => {}
    }
    let failed = n <= step.max_attempts()
        && proofs.of(step, n - 1).any(|receipt| {
            let code = receipt.error.as_ref().map(|e| e.code.as_str());
            matches!(receipt.outcome, JobStatus::Failed | JobStatus::TimedOut) && step.is_retryable(code)
        });
    let harmless = step.may_repeat_unknown() && n <= step.last_attempt();
    if failed || harmless {
        return Ok(());
    }
    let (id, max) = (&step.id, step.last_attempt());
    let message = if n > max {
        format!("attempt {n} of step `{id}`, but the signed workflow allows {max}")
    } else {
        format!(
            "attempt {n} of step `{id}` without a receipt by a trusted runner that attempt {} failed and may be retried",
            n - 1
        )
    };
    Err(Refusal::mismatch(message))
}

/// The outputs of other steps, by step.
#[derive(Deserialize)]
struct Inputs<'a>(#[serde(borrow, deserialize_with = "json::unique")] BTreeMap<Cow<'a, str>, &'a RawValue>);

/// Every dependency is in the input with an output that a receipt attests, or failed for good and may; and nothing else is in the input.
///
/// Nobody signs a receipt for a step whose runner was lost. Its author can say that it need not be proven that such a step failed
/// (`continue_on_error` and `on_unknown: fail`): then a coordinator could leave its output out as well.
fn dependencies(spec: &JobSpec, step: &Step, workflow: &SignedWorkflow, proofs: &Proofs<'_>) -> Result<(), Refusal> {
    let text = spec.input.as_ref().map_or("{}", |raw| raw.get());
    let Inputs(mut inputs) = serde_json::from_str(text).map_err(not_an_object)?;
    for id in &step.depends_on {
        let Some(dependency) = workflow.step(id) else {
            return Err(Refusal::mismatch(format!("the signed workflow has no step `{id}`")));
        };
        if let Some(output) = inputs.remove(id.as_str()) {
            if !proofs.attest(dependency, &Digest::of(output.get().as_bytes())) {
                return Err(Refusal::mismatch(format!(
                    "no receipt by a trusted runner says that step `{id}` gave what `input.{id}` holds"
                )));
            }
        } else if !dependency.continue_on_error {
            return Err(Refusal::mismatch(format!(
                "`input.{id}` is missing: step `{}` needs the output of `{id}`",
                step.id
            )));
        } else if !dependency.tolerates_unknown() && !proofs.failed_for_good(dependency) {
            return Err(Refusal::mismatch(format!(
                "`input.{id}` is missing, and no receipt by a trusted runner says that step `{id}` failed for good; with \
                 `on_unknown: fail` it would need none"
            )));
        }
    }
    match inputs.keys().next() {
        None => Ok(()),
        Some(other) => {
            let shown = json::cut(other, limits::NAME_BYTES);
            Err(Refusal::mismatch(format!("`input.{shown}` is given, but step `{}` does not depend on it", step.id)))
        }
    }
}

/// What the script sees: the workflow's own inputs and the outputs of the dependencies, side by side.
fn input(spec: &JobSpec, workflow: &SignedWorkflow) -> Result<Box<RawValue>, Refusal> {
    let outputs = spec.input.as_ref().map_or("{}", |raw| raw.get());
    if workflow.inputs.is_empty() {
        return RawValue::from_string(outputs.to_owned()).map_err(not_an_object);
    }
    // `dependencies` has read it as an object, so these are its braces.
    let inside = outputs.trim().strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).unwrap_or_default();
    let comma = if inside.trim().is_empty() { "" } else { "," };
    RawValue::from_string(format!("{{{}{comma}{inside}}}", workflow.inputs)).map_err(not_an_object)
}

#[allow(clippy::needless_pass_by_value)] // for map_err
fn not_an_object(e: serde_json::Error) -> Refusal {
    Refusal::mismatch(format!("the input of a step is an object {{dependency: output}}: {e}"))
}
