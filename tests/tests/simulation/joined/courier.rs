//! Bringing steps to a supervisor until it is known what became of them, waiting for their results, and cancelling them.

use horus_keys::Digest;
use horus_node::workflow::{Event, GRACE, Outcome, ReceiptPlace, State, StepAttempt, StepStatus};
use horus_runners::job::{JobError, JobStatus};

use super::{
    Broken,
    drive::Drive,
    flow::{Flow, job_of, step_of},
    post::{Body, NewJob},
    world::{Me, World},
};
use crate::queue::site::{End, REFUSED};

/// How long a call may take.
const PATIENCE_MS: i64 = 4_000;
/// When to ask again for a result that could not be believed.
const DOUBT_MS: i64 = 5_000;
/// For how long a site whose queue is full is left alone.
const FULL_MS: i64 = 1_000;
/// After so long without an answer to a batch its steps count as unknown.
const SILENCE_MS: i64 = 6_000;
const PAUSE_MS: i64 = 200;

/// A batch on its way to a site.
pub(crate) struct Courier {
    site: usize,
    jobs: Vec<NewJob>,
    /// They were sent before a restart.
    again: bool,
    /// The site may have them already.
    sent_before: bool,
    told: bool,
    began: i64,
    next: i64,
    /// The call that is not answered yet, and until when it is waited for.
    call: Option<(u64, i64)>,
}

/// A job that is waited for.
pub(crate) struct Watched {
    site: usize,
    /// Whether the workflow was told that the site is silent.
    told: bool,
    doubted: Option<i64>,
    /// The site did not take it when it was sent again.
    refused: bool,
}

/// A call that waits for jobs.
pub(crate) struct Poll {
    site: usize,
    until: i64,
}

/// A job that is to be cancelled, until its supervisor has heard it.
pub(crate) struct Cancel {
    site: usize,
    step: StepAttempt,
    until: i64,
    next: i64,
    call: Option<(u64, i64)>,
}

impl Watched {
    /// Its site has said that it has it, as far as the workflow was told.
    pub(super) fn is_confirmed(&self) -> bool {
        !self.told && self.doubted.is_none() && !self.refused
    }
}

impl Courier {
    pub(crate) fn new(site: usize, jobs: Vec<NewJob>, again: bool, now: i64) -> Self {
        Self { site, jobs, again, sent_before: again, told: false, began: now, next: now, call: None }
    }

    fn steps(&self) -> Vec<StepAttempt> {
        self.jobs.iter().map(|job| job.step).collect()
    }
}

impl Cancel {
    pub(crate) fn new(site: usize, step: StepAttempt, now: i64) -> Self {
        let grace = i64::try_from(GRACE.as_millis()).expect("it is short");
        Self { site, step, until: now + grace, next: now, call: None }
    }
}

/// The job of a step as it is signed: it says what it depends on, and what proves that it is due.
pub(crate) fn job(flow: &Flow, state: &State, step: StepAttempt) -> NewJob {
    let planned = flow.plan.step(step.0);
    let id = job_of(&flow.name, step);
    let mut spec = format!("{id} of");
    for dependency in &planned.dependencies {
        let at = state.step(*dependency);
        let output = at.output.filter(|_| at.status == StepStatus::Succeeded);
        spec.push_str(&format!(" {dependency}: {output:?} {:?}", at.receipt));
    }
    spec.push_str(&format!("; after {:?}", state.step(step.0).previous));
    let spec = Digest::of(spec.as_bytes()).to_string();
    let run_until = flow.plan.deadline().run_until.as_millis();
    NewJob { step, id, spec, idempotent: planned.policy.idempotent, run_until }
}

/// What a result is worth. One without a receipt is believed only where no runner can have signed one.
fn arrived(end: &End) -> Result<Outcome, String> {
    let proven = !end.receipt.is_empty();
    let may_lack = matches!(end.status, JobStatus::Lost | JobStatus::Expired | JobStatus::Cancelled);
    if !proven && !may_lack {
        return Err(format!("its supervisor says that it {}, but has no receipt", end.status));
    }
    let succeeded = end.status == JobStatus::Succeeded;
    let code = if end.error.is_empty() || end.error.starts_with('{') { "LOST" } else { &end.error };
    let proves = proven && end.error != REFUSED;
    Ok(Outcome {
        status: end.status,
        output: succeeded.then(|| Digest::of(end.output.as_bytes())),
        error: (!succeeded).then(|| JobError::new(code, "no luck")),
        receipt: proves.then(|| ReceiptPlace { batch: Digest::of(end.receipt.as_bytes()), index: 0 }),
        started_at: None,
        finished_at: None,
    })
}

impl Drive {
    /// One thing that is due between it and the sites.
    pub(super) fn carry(&mut self, me: &mut Me, world: &mut World<'_>) {
        self.time_out(me, world.shared.at.mono);
        if let Some(step) = self.is_unknown_in_vain() {
            let job = job_of(&world.flows[self.flow].name, step);
            return world.shared.breaks(format!("{job} is unknown, and its supervisor has said that it has it"));
        }
        let now = world.shared.at.mono;
        let unwanted: Vec<StepAttempt> = self.watched.keys().filter(|step| !self.is_wanted(**step)).copied().collect();
        unwanted.iter().for_each(|step| _ = self.watched.remove(step));
        let out = &self.out;
        self.couriers.retain(|courier| {
            courier.call.is_some() || courier.jobs.iter().any(|job| out.get(&job.step.0) == Some(&job.step.1))
        });
        let mut duties: Vec<(u8, usize)> = Vec::new();
        for (n, courier) in self.couriers.iter().enumerate() {
            if courier.call.is_none() && courier.next <= now {
                duties.push((0, n));
            }
        }
        for site in 0..me.sight.len() {
            let asks = |watch: &Watched| watch.site == site && watch.doubted.is_none_or(|at| at <= now);
            if self.poll_at <= now
                && self.watched.values().any(asks)
                && !self.polls.values().any(|poll| poll.site == site)
            {
                duties.push((1, site));
            }
        }
        for (n, cancel) in self.cancels.iter().enumerate() {
            if cancel.call.is_none() && cancel.next <= now {
                duties.push((2, n));
            }
        }
        if duties.is_empty() {
            return;
        }
        let flow = self.flow;
        match *world.shared.chance.pick(&duties) {
            (0, n) => {
                let courier = &mut self.couriers[n];
                let body = Body::Create(world.flows[flow].name.clone(), courier.jobs.clone());
                courier.call = Some((world.call(&me.instance, courier.site, flow, body), now + PATIENCE_MS));
            }
            (1, site) => {
                let asked = |(_, watch): &(&StepAttempt, &Watched)| {
                    watch.site == site && watch.doubted.is_none_or(|at| at <= now)
                };
                let jobs = self.watched.iter().filter(asked).map(|(step, _)| job_of(&world.flows[flow].name, *step));
                let body = Body::Wait(jobs.collect());
                let call = world.call(&me.instance, site, flow, body);
                self.polls.insert(call, Poll { site, until: now + PATIENCE_MS });
                self.poll_at = now + PAUSE_MS;
            }
            (_, n) => {
                let cancel = &mut self.cancels[n];
                let body = Body::Cancel(vec![job_of(&world.flows[flow].name, cancel.step)]);
                cancel.call = Some((world.call(&me.instance, cancel.site, flow, body), now + PATIENCE_MS));
            }
        }
    }

    /// Calls whose time is over, and sites that fell silent or speak again.
    fn time_out(&mut self, me: &mut Me, now: i64) {
        for n in 0..self.couriers.len() {
            if self.couriers[n].call.is_some_and(|(_, until)| until <= now) {
                me.sight[self.couriers[n].site].silent(now);
                self.unanswered(n, now);
            }
        }
        self.polls.retain(|_, poll| {
            let over = poll.until <= now;
            if over {
                me.sight[poll.site].silent(now);
            }
            !over
        });
        self.cancels.retain_mut(|cancel| {
            if cancel.call.is_some_and(|(_, until)| until <= now) {
                cancel.call = None;
                cancel.next = now + PAUSE_MS;
            }
            now < cancel.until
        });
        for lost in [true, false] {
            let turned = |watch: &Watched| {
                let is_lost = me.sight[watch.site].is_lost(now);
                is_lost == lost && watch.told != lost && (lost || watch.doubted.is_none())
            };
            let turned: Vec<StepAttempt> =
                self.watched.iter().filter(|(_, watch)| turned(watch)).map(|(step, _)| *step).collect();
            for step in &turned {
                self.watched.get_mut(step).expect("it is watched").told = lost;
            }
            if !turned.is_empty() {
                self.inbox.push_back(if lost {
                    Event::Unreachable { steps: turned, reason: "it is silent".to_owned() }
                } else {
                    Event::Reached { steps: turned }
                });
            }
        }
    }

    /// A batch was not answered: it may be there.
    fn unanswered(&mut self, n: usize, now: i64) {
        let courier = &mut self.couriers[n];
        courier.call = None;
        courier.sent_before = true;
        courier.next = now + PAUSE_MS;
        if !courier.told && now - courier.began > SILENCE_MS {
            courier.told = true;
            let steps = courier.steps();
            self.inbox.push_back(Event::Unreachable { steps, reason: "it does not say so".to_owned() });
        }
    }

    /// An answer has come.
    pub(crate) fn receive(&mut self, me: &mut Me, world: &mut World<'_>, call: u64, body: Body) {
        let now = world.shared.at.mono;
        let is_it = |waits: Option<(u64, i64)>| waits.is_some_and(|(waits, _)| waits == call);
        if let Some(n) = self.couriers.iter().position(|courier| is_it(courier.call)) {
            let site = self.couriers[n].site;
            self.sight(me, site, &body, now);
            self.delivered(me, n, body, now, world.rule);
        } else if let Some(poll) = self.polls.remove(&call) {
            self.sight(me, poll.site, &body, now);
            match body {
                Body::Waited(ended) => ended.iter().for_each(|(id, end)| self.ended(id, end, now)),
                Body::Forgotten(id) => {
                    let Some((_, step)) = step_of(&id) else { return };
                    if self.watched.remove(&step).is_some_and(|watch| watch.refused) {
                        let error = JobError::new("EXPIRED", "its time is over");
                        return self.inbox.push_back(Event::Refused { step, error });
                    }
                    let error = Some(JobError::new("LOST", "its supervisor has forgotten the job"));
                    let (status, output, receipt) = (JobStatus::Lost, None, None);
                    let outcome = Outcome { status, output, error, receipt, started_at: None, finished_at: None };
                    self.inbox.push_back(Event::Finished { step, outcome });
                }
                _ => {}
            }
        } else if let Some(n) = self.cancels.iter().position(|cancel| is_it(cancel.call)) {
            if matches!(&body, Body::Cancelled(unknown) if unknown.is_empty()) {
                self.cancels.swap_remove(n);
            } else {
                self.cancels[n].call = None;
                self.cancels[n].next = now + PAUSE_MS;
            }
        }
    }

    fn sight(&self, me: &mut Me, site: usize, body: &Body, now: i64) {
        if matches!(body, Body::NotSent | Body::Trouble) {
            me.sight[site].silent(now);
        } else {
            me.sight[site].answered();
        }
    }

    /// What became of a batch.
    fn delivered(&mut self, me: &mut Me, n: usize, body: Body, now: i64, rule: Option<Broken>) {
        let sent_before = self.couriers[n].sent_before;
        match body {
            Body::Created(statuses) => {
                let courier = self.couriers.remove(n);
                let steps = courier.steps();
                if courier.told || (courier.again && rule != Some(Broken::LeavesUnknown)) {
                    self.inbox.push_back(Event::Reached { steps: steps.clone() });
                }
                let running = steps.iter().zip(statuses).filter(|(_, status)| status == "running");
                let running: Vec<StepAttempt> = running.map(|(step, _)| *step).collect();
                if !running.is_empty() {
                    self.inbox.push_back(Event::Running { steps: running });
                }
                for step in steps {
                    self.watched
                        .insert(step, Watched { site: courier.site, told: false, doubted: None, refused: false });
                }
            }
            Body::Full => {
                me.sight[self.couriers[n].site].full_until = now + FULL_MS;
                if sent_before {
                    self.unanswered(n, now);
                } else {
                    let steps = self.couriers.remove(n).steps();
                    self.inbox.push_back(Event::Returned { steps });
                }
            }
            Body::NotSent if !sent_before => {
                let steps = self.couriers.remove(n).steps();
                self.inbox.push_back(Event::Returned { steps });
            }
            Body::Refused(place) => {
                let courier = &mut self.couriers[n];
                let (site, told) = (courier.site, courier.told || courier.again);
                let step = courier.jobs.remove(place).step;
                (courier.call, courier.began) = (None, now);
                if courier.jobs.is_empty() {
                    self.couriers.remove(n);
                }
                if sent_before {
                    let watch = Watched { site, told, doubted: None, refused: true };
                    self.watched.insert(step, watch);
                    return;
                }
                let by = self.refused_by.entry(step.0).or_default();
                by.insert(site);
                let elsewhere = by.len() < me.sight.len();
                self.inbox.push_back(if elsewhere {
                    Event::Returned { steps: vec![step] }
                } else {
                    Event::Refused { step, error: JobError::new("EXPIRED", "its time is over") }
                });
            }
            _ => self.unanswered(n, now),
        }
    }

    /// A result has come, perhaps not for the first time.
    fn ended(&mut self, id: &str, end: &End, now: i64) {
        let Some((_, step)) = step_of(id) else { return };
        match arrived(end) {
            Ok(outcome) => {
                self.watched.remove(&step);
                self.heard.push(Event::Finished { step, outcome: outcome.clone() });
                self.inbox.push_back(Event::Finished { step, outcome });
            }
            Err(reason) => {
                let Some(watch) = self.watched.get_mut(&step) else { return };
                if watch.doubted.is_none() {
                    self.inbox.push_back(Event::Unreachable { steps: vec![step], reason });
                }
                watch.doubted = Some(now + DOUBT_MS);
            }
        }
    }
}
