//! What can be said of one job or receipt by looking at it alone.

use horus_keys::check_json_depth;

use super::Refusal;
use crate::job::{JobSpec, JobStatus, Receipt, bounds, limits};

/// Checks a job. `deep` tells whether its input may be nested too deeply.
pub(super) fn check(spec: &JobSpec, deep: bool) -> Result<(), Refusal> {
    if let Some(input) = &spec.input {
        let (is, max) = (input.get().len(), limits::INPUT_BYTES);
        if is > max {
            return Err(Refusal::too_large(format!(
                "the input has {is} bytes, at most {max} are allowed: store it elsewhere and pass where"
            )));
        }
        // A step's input is one object around the outputs of others.
        let depth = limits::DEPTH + usize::from(spec.delegation.is_some());
        if deep && !check_json_depth(input.get().as_bytes(), depth) {
            return Err(Refusal::too_large(format!("the input is nested more than {depth} deep")));
        }
    }
    if spec.delegation.is_some() { step(spec) } else { plain(spec) }
}

fn plain(spec: &JobSpec) -> Result<(), Refusal> {
    let Some(payload) = &spec.payload else {
        return Err(Refusal::invalid(
            "`payload` is missing: a job has a script, or the delegation of a workflow's step",
        ));
    };
    let (is, max) = (payload.len(), limits::PAYLOAD_BYTES);
    if is > max {
        return Err(Refusal::too_large(format!("the payload has {is} bytes, at most {max} are allowed")));
    }
    if !spec.receipts.is_empty() {
        return Err(Refusal::invalid("`receipts` belong to the step of a workflow: a plain job has none"));
    }
    bounds::env(&spec.env)?;
    bounds::labels(&spec.labels)?;
    bounds::secrets(&spec.secrets)?;
    for (name, sealed) in &spec.secrets {
        let (is, max) = (sealed.recipients.len(), limits::SECRET_RECIPIENTS);
        if is == 0 || is > max {
            return Err(Refusal::invalid(format!(
                "the secret {name} is sealed to {is} keys: seal it to 1 to {max} runners"
            )));
        }
    }
    let max_ms = u64::try_from(limits::MAX_TIMEOUT.as_millis()).unwrap_or(u64::MAX);
    match spec.timeout_ms {
        Some(0) => return Err(Refusal::invalid("`timeout_ms` is 0: leave it out for 5 minutes")),
        Some(ms) if ms > max_ms => {
            return Err(Refusal::too_large(format!("`timeout_ms` is {ms}: at most {max_ms} (24 hours) are allowed")));
        }
        _ => {}
    }
    let Some(run_until) = spec.run_until else {
        return Err(Refusal::invalid("`run_until` is missing: say until when the job may start, at most 7 days ahead"));
    };
    if spec.not_before.is_some_and(|not_before| not_before >= run_until) {
        return Err(Refusal::invalid("`not_before` is not before `run_until`: the job could never start"));
    }
    Ok(())
}

/// A step's job may say nothing that the signed workflow says.
fn step(spec: &JobSpec) -> Result<(), Refusal> {
    let forbidden = [
        ("payload", spec.payload.is_some()),
        ("env", !spec.env.is_empty()),
        ("secrets", !spec.secrets.is_empty()),
        ("timeout_ms", spec.timeout_ms.is_some()),
        ("idempotent", spec.idempotent.is_some()),
        ("priority", spec.priority.is_some()),
        ("not_before", spec.not_before.is_some()),
        ("run_until", spec.run_until.is_some()),
        ("labels", !spec.labels.is_empty()),
    ];
    if let Some((name, _)) = forbidden.iter().find(|(_, given)| *given) {
        return Err(Refusal::mismatch(format!(
            "`{name}` is given beside a delegation: a step takes it from the signed workflow"
        )));
    }
    let (is, max) = (spec.receipts.len(), limits::RECEIPT_REFS);
    if is > max {
        return Err(Refusal::too_large(format!("{is} receipts, at most {max} are allowed")));
    }
    Ok(())
}

/// Checks a receipt.
pub(super) fn check_receipt(receipt: &Receipt) -> Result<(), Refusal> {
    if receipt.runner != *receipt.job_id.runner() {
        let (id, runner) = (&receipt.job_id, &receipt.runner);
        return Err(Refusal::invalid(format!("a receipt of {id} says that runner {runner} executed it")));
    }
    if !receipt.outcome.is_final() {
        return Err(Refusal::invalid(format!(
            "a receipt says {}: only the end of a job has a receipt",
            receipt.outcome
        )));
    }
    if receipt.output.is_some() != (receipt.outcome == JobStatus::Succeeded) {
        return Err(Refusal::invalid("a receipt has an output if, and only if, the job succeeded"));
    }
    if let Some(error) = &receipt.error
        && (error.code.len() > limits::ERROR_CODE_BYTES || error.message.len() > limits::ERROR_MESSAGE_BYTES)
    {
        return Err(Refusal::too_large("the error in a receipt is too long"));
    }
    Ok(())
}
