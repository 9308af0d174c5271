//! The rules for a batch, a plain job and a submission.

use std::collections::BTreeSet;

use horus_keys::{PeerId, Role, Timestamp, Trust, duration};

use super::{Admission, Audience, Refusal, RefusalKind, Right, SignedWorkflow, Verifier, step};
use crate::job::{Job, limits};

/// One job of a batch.
pub(super) fn admit(verifier: &Verifier, at: Admission<'_>, index: u32) -> Result<Job, Refusal> {
    let batch = at.batch;
    let Some((spec, digest)) = batch.jobs.get(index as usize) else {
        return Err(Refusal::invalid(format!("the batch has {} jobs", batch.jobs.len())));
    };
    audience(verifier.trust(), at)?;
    let job = match &spec.delegation {
        Some(delegation) => step::admit(verifier, at, index, spec, *digest, delegation)?,
        None => {
            let right = Right::For(Role::Submitter, &spec.runner);
            verifier.require(batch.signer, right, &batch.certificates, at.now)?;
            let run_until = spec.run_until.ok_or_else(|| Refusal::invalid("`run_until` is missing"))?;
            window(run_until, at.now)?;
            Job {
                id: spec.job_id(),
                spec: *digest,
                batch: batch.digest,
                index,
                submitter: batch.signer,
                delegate: None,
                coordinators: Vec::new(),
                payload: spec.payload.clone().ok_or_else(|| Refusal::invalid("`payload` is missing"))?,
                input: spec.input.clone(),
                env: spec.env.clone(),
                secrets: spec.secrets.clone(),
                timeout: spec.timeout_ms.map_or(limits::DEFAULT_TIMEOUT, std::time::Duration::from_millis),
                idempotent: spec.idempotent.unwrap_or(false),
                priority: spec.priority.unwrap_or_default(),
                not_before: spec.not_before,
                run_until,
                labels: spec.labels.clone(),
                delegation: None,
                workflow: None,
                receipts: Vec::new(),
            }
        }
    };
    batch.accepted.set();
    Ok(job)
}

fn audience(trust: &Trust, at: Admission<'_>) -> Result<(), Refusal> {
    let aud = &at.batch.aud;
    let named = match at.audience {
        Audience::Supervisor(me) => aud.contains(me),
        Audience::Any(supervisors) => aud.iter().any(|peer| supervisors.contains(peer)),
        Audience::Trusted => aud.iter().any(|peer| trust.allows(*peer, Role::Supervisor, at.now)),
    };
    if named {
        return Ok(());
    }
    let here = match at.audience {
        Audience::Supervisor(me) => format!("{me}, which is not among them"),
        Audience::Any(_) => "a runner that serves none of them".to_owned(),
        Audience::Trusted => {
            "a runner whose trust policy holds none of them as a supervisor (give it --audience, or the key its role)"
                .to_owned()
        }
    };
    Err(Refusal::new(
        RefusalKind::NotAllowed,
        format!(
            "the batch is signed for other supervisors (`aud`), and this is {here}: sign it for this supervisor, or send it to one that it names"
        ),
    ))
}

/// `run_until` lies ahead, and not too far: ids are remembered no longer.
pub(super) fn window(run_until: Timestamp, now: Timestamp) -> Result<(), Refusal> {
    if run_until <= now {
        let message = format!(
            "`run_until` was {run_until}, which is {} ago: by the clock of this machine it is {now}; sign it again with a later time, or set \
             the clock (NTP) if it is wrong",
            duration::format(now.since(run_until))
        );
        return Err(Refusal::new(RefusalKind::Expired, message));
    }
    if run_until > now.saturating_add(limits::RUN_UNTIL_AHEAD).saturating_add(limits::CLOCK_TOLERANCE) {
        let message = format!(
            "`run_until` is {run_until}, more than 7 days ahead: by the clock of this machine it is {now}; sign it with an earlier time, \
                 or set the clock (NTP) if it is wrong"
        );
        return Err(Refusal::too_large(message));
    }
    Ok(())
}

/// A whole workflow, when it is submitted.
pub(super) fn submission(
    verifier: &Verifier,
    workflow: &SignedWorkflow,
    coordinator: &PeerId,
    now: Timestamp,
) -> Result<(), Refusal> {
    let submission = &workflow.submission;
    if !submission.coordinators.contains(coordinator) {
        let message = format!("the workflow names other coordinators, and this is {coordinator}: sign it for this one");
        return Err(Refusal::new(RefusalKind::NotAllowed, message));
    }
    if submission.submit_by <= now {
        let message = format!(
            "`submit_by` was {}, which is {} ago: by the clock of this machine it is {now}; sign it again, or set the clock (NTP) if it \
                 is wrong",
            submission.submit_by,
            duration::format(now.since(submission.submit_by))
        );
        return Err(Refusal::new(RefusalKind::Expired, message));
    }
    window(submission.run_until, now)?;
    let kinds: BTreeSet<_> = workflow.definition.steps.iter().map(|step| &step.runner).collect();
    kinds.into_iter().try_for_each(|runner| {
        verifier.require(workflow.signer, Right::For(Role::Submitter, runner), &submission.certificates, now)
    })
}
