//! What is true of a workflow: what Redis has in its journal, seen from outside, and what must hold of it after every record.

use std::collections::BTreeMap;

use horus_keys::{Digest, PeerId};
use horus_node::workflow::{
    Command, Event, Plan, Record, State, StepAttempt, StepIndex, StepStatus, UNKNOWN_ATTEMPTS, Unknown, apply,
};
use horus_runners::job::JobStatus;

use super::{Broken, store::StoreCall};
use crate::{
    queue::site::{End, REFUSED, Site},
    server::{number, text, texts},
};

/// A workflow, as the simulation knows it.
pub(crate) struct Flow {
    pub(crate) name: String,
    pub(crate) plan: Plan,
    /// Its submitter was told that it is accepted.
    pub(crate) accepted: bool,
    /// Its id is where those are found that nobody drives.
    pub(crate) active: bool,
    /// Redis has it.
    pub(crate) created: bool,
    /// Where the journal leads.
    pub(crate) truth: State,
    /// Who may write, and under which epoch.
    pub(crate) owner: (String, u64),
    /// Somebody was promised that it will be cancelled.
    pub(crate) cancelled: bool,
    /// The result of each step that succeeded: the attempt, and its output.
    pub(crate) results: BTreeMap<StepIndex, (u32, Option<Digest>)>,
}

/// The job of a step.
pub(crate) fn job_of(flow: &str, StepAttempt(step, attempt): StepAttempt) -> String {
    format!("{flow}.s{step}.{attempt}")
}

/// The step that a job is.
pub(crate) fn step_of(job: &str) -> Option<(&str, StepAttempt)> {
    let (flow, rest) = job.split_once(".s")?;
    let (step, attempt) = rest.split_once('.')?;
    Some((flow, StepAttempt(step.parse().ok()?, attempt.parse().ok()?)))
}

/// The engine, or one in which a rule is broken.
pub(crate) fn happen(
    broken: Option<Broken>,
    plan: &Plan,
    state: &mut State,
    record: &Record,
    commands: &mut Vec<Command>,
) -> bool {
    if apply(plan, state, record, commands) {
        return true;
    }
    if let (Some(Broken::TakesSecondResults), Event::Finished { step, outcome }) = (broken, &record.event)
        && outcome.status == JobStatus::Succeeded
        && state.step(step.0).status == StepStatus::Succeeded
        && !state.status.is_final()
    {
        state.steps[step.0 as usize].output = outcome.output;
        state.sequence += 1;
        return true;
    }
    false
}

impl Flow {
    pub(crate) fn new(name: String, plan: Plan) -> Self {
        let truth = State::new(&plan);
        Self {
            name,
            plan,
            accepted: false,
            active: false,
            created: false,
            truth,
            owner: (String::new(), 0),
            cancelled: false,
            results: BTreeMap::new(),
        }
    }

    pub(crate) fn key(&self, part: &str) -> String {
        format!("horus:wf:{{{}}}:{part}", self.name)
    }

    /// It has not ended, and its submitter believes that it will.
    pub(crate) fn must_end(&self) -> bool {
        self.accepted && !self.truth.status.is_final()
    }

    /// Takes in what a call did to what is stored of it.
    pub(crate) fn note(
        &mut self,
        call: &StoreCall,
        reply: &redis::Value,
        broken: Option<Broken>,
        sites: &[Site],
        peers: &[PeerId],
    ) -> Result<(), String> {
        let of_me = || call.args.first() == Some(&self.name);
        match call.what {
            "create" if texts(reply).first().is_some_and(|created| created == "1") => {
                if self.created {
                    return Err("it was created twice".to_owned());
                }
                self.created = true;
                self.owner = (call.args[6].clone(), 1);
            }
            "take_over" if number(reply) > 0 => {
                self.owner = (call.args[2].clone(), number(reply).unsigned_abs());
            }
            "append" if text(reply) == "OK" => {
                self.writes(&call.args[0])?;
                let count: usize = call.args[5].parse().map_err(|_| "a number of records")?;
                for record in &call.args[6..6 + count] {
                    let record: Record = serde_json::from_str(record).map_err(|e| e.to_string())?;
                    self.record(&record, broken, sites, peers)?;
                }
            }
            "snapshot" if text(reply) == "OK" => {
                self.writes(&call.args[0])?;
                let snapshot = serde_json::from_str(&call.args[2]).map_err(|e| e.to_string())?;
                if State::restore(&self.plan, snapshot).map_err(|e| e.to_string())? != self.truth {
                    return Err("its snapshot is not where its journal leads".to_owned());
                }
            }
            "SADD" if call.args.contains(&self.name) => self.active = true,
            "SREM" if call.args.contains(&self.name) => self.active = false,
            "HSETNX" if of_me() && number(reply) == 1 => self.cancelled |= !self.truth.status.is_final(),
            "HDEL" if of_me() && self.cancelled && self.truth.stop.is_none() && !self.truth.status.is_final() => {
                return Err("that it is to be cancelled is forgotten before it is written down".to_owned());
            }
            _ => {}
        }
        Ok(())
    }

    fn writes(&self, writer: &str) -> Result<(), String> {
        let (owner, epoch) = &self.owner;
        if writer == format!("{owner} {epoch}") {
            return Ok(());
        }
        Err(format!("{writer} wrote, but it belongs to {owner} {epoch}"))
    }

    /// One record more in the journal.
    fn record(
        &mut self,
        record: &Record,
        broken: Option<Broken>,
        sites: &[Site],
        peers: &[PeerId],
    ) -> Result<(), String> {
        let before = self.truth.clone();
        if !happen(broken, &self.plan, &mut self.truth, record, &mut Vec::new()) {
            return Err(format!("its journal holds a record that changes nothing: {record:?}"));
        }
        for (place, (old, new)) in (0_u32..).zip(before.steps.iter().zip(&self.truth.steps)) {
            if old.status.is_final() && (old.status, old.output, old.attempt) != (new.status, new.output, new.attempt) {
                return Err(format!("step {place} had ended, and changed from {old:?} to {new:?}"));
            }
        }
        match &record.event {
            Event::Dispatched { supervisor, steps } => {
                let site = peers.iter().position(|peer| peer == supervisor).ok_or("an unknown supervisor")?;
                steps.iter().try_for_each(|step| self.dispatched(*step, site, sites, peers))
            }
            Event::Finished { step, outcome } if outcome.status == JobStatus::Succeeded => {
                if let Some(first) = self.results.insert(step.0, (step.1, outcome.output)) {
                    return Err(format!("step {} has a second result; the first was {first:?}", step.0));
                }
                let job = job_of(&self.name, *step);
                let is_so = self.ends(*step, sites, peers).any(|end| {
                    let batch = outcome.receipt.map(|place| place.batch);
                    end.status == JobStatus::Succeeded
                        && outcome.output == Some(Digest::of(end.output.as_bytes()))
                        && batch == Some(Digest::of(end.receipt.as_bytes()))
                });
                if is_so {
                    Ok(())
                } else {
                    Err(format!("{job} is believed to have succeeded as its record does not say"))
                }
            }
            _ => Ok(()),
        }
    }

    /// Where that attempt was sent.
    pub(crate) fn sites_of(&self, step: StepAttempt, peers: &[PeerId]) -> Vec<usize> {
        let sent = self.truth.dispatches.iter().filter(|dispatch| dispatch.step == step);
        let peer = |supervisor: u32| self.truth.supervisors[supervisor as usize];
        sent.filter_map(|sent| peers.iter().position(|known| *known == peer(sent.supervisor))).collect()
    }

    /// What the attempt came to, wherever it was sent.
    pub(crate) fn ends<'a>(
        &self,
        step: StepAttempt,
        sites: &'a [Site],
        peers: &[PeerId],
    ) -> impl Iterator<Item = &'a End> + use<'a> {
        let job = job_of(&self.name, step);
        self.sites_of(step, peers).into_iter().filter_map(move |site| sites[site].watch.ends.get(&job))
    }

    /// A step may be sent there.
    fn dispatched(&self, step: StepAttempt, site: usize, sites: &[Site], peers: &[PeerId]) -> Result<(), String> {
        let StepAttempt(place, attempt) = step;
        let (planned, job) = (self.plan.step(place), job_of(&self.name, step));
        for dependency in &planned.dependencies {
            let at = self.truth.step(*dependency);
            let policy = &self.plan.step(*dependency).policy;
            if at.status != StepStatus::Succeeded && !at.failed_but_tolerated(policy) {
                return Err(format!("{job} was sent before step {dependency} had ended well"));
            }
        }
        if self.results.contains_key(&place) {
            return Err(format!("{job} was sent although its step has a result"));
        }
        if attempt > planned.policy.max_attempts.max(UNKNOWN_ATTEMPTS) {
            return Err(format!("{job} is an attempt too many"));
        }
        // Sent to another place only if the first certainly has not got it.
        let elsewhere = self.sites_of(step, peers).into_iter().find(|other| {
            *other != site && sites[*other].jobs.get(&job).is_some_and(|made| made.known || made.accepted)
        });
        if let Some(other) = elsewhere {
            return Err(format!("{job} was sent to site {site}, and site {other} has it"));
        }
        self.may_follow(step, sites, peers)
    }

    /// A further attempt of a step that its author does not want to run twice only follows upon one that certainly failed.
    pub(crate) fn may_follow(&self, step: StepAttempt, sites: &[Site], peers: &[PeerId]) -> Result<(), String> {
        let StepAttempt(place, attempt) = step;
        let policy = &self.plan.step(place).policy;
        if attempt == 1 || policy.on_unknown == Unknown::Retry || policy.idempotent {
            return Ok(());
        }
        let failed = |end: &End| {
            let proven = !end.receipt.is_empty() && end.error != REFUSED;
            proven && matches!(end.status, JobStatus::Failed | JobStatus::TimedOut)
        };
        let before = StepAttempt(place, attempt - 1);
        if self.ends(before, sites, peers).any(failed) {
            return Ok(());
        }
        Err(format!("{} follows upon an attempt that may have run on", job_of(&self.name, step)))
    }
}
