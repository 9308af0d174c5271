//! A supervisor: it accepts, cancels and deletes jobs, sweeps, and takes their jobs from workers that are silent.

use std::time::Duration;

use horus_keys::RunnerKind;
use horus_runners::queue::{LeaseObserver, Observed};

use super::site::{Call, Job, LEASE_MS, MAX_QUEUE, Shared, Site};
use crate::server::{list, number, text, texts};

/// A signed batch of jobs.
#[derive(Debug, Clone)]
pub(crate) struct Batch {
    pub(crate) digest: String,
    pub(crate) jobs: Vec<String>,
    pub(crate) workflow: Option<String>,
}

/// What became of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Pushed {
    /// All of it is there, each job with that status.
    Accepted(Vec<String>),
    Full,
    /// The time of the job at that place is over.
    Expired(usize),
    /// Redis did not answer.
    Unknown,
}

#[derive(Default)]
pub(crate) struct Supervisor {
    observer: LeaseObserver,
    /// Workers whose lease lapsed at this count, as far as was seen.
    silent: Vec<Observed>,
    look_due: i64,
    sweep_due: i64,
    pub(crate) down_until: i64,
    /// Workflows that were stored from here.
    stored: Vec<String>,
}

const PRIORITIES: [&str; 3] = ["high", "normal", "low"];

impl Site {
    pub(crate) fn supervisor_step(&mut self, shared: &mut Shared<'_>, n: usize) {
        let now = shared.at.mono;
        if !shared.calm {
            if now < self.supervisors[n].down_until {
                return;
            }
            if shared.chance.one_in(shared.faults.crash) {
                let down_until = now + shared.chance.ms(4 * LEASE_MS);
                self.supervisors[n] = Supervisor { down_until, ..Supervisor::default() };
                shared.tell(|| format!("supervisor {n} vanishes for {} ms", down_until - now));
                return;
            }
        }
        let who = format!("supervisor {n}");
        let me = &self.supervisors[n];
        let (silent, look, sweep) = (!me.silent.is_empty(), now >= me.look_due, now >= me.sweep_due);
        match shared.chance.below(12) {
            // Whoever is found silent is reaped before the next look.
            0..4 if silent => self.reap(shared, n, &who),
            0..4 if look => self.observe(shared, n, &who),
            4 if sweep => {
                self.supervisors[n].sweep_due = now + 1_000;
                // Finished jobs beyond so many are forgotten.
                self.call(shared, &who, Call::new("sweep", ["86400000", &self.keep.to_string(), "50"]));
            }
            5 if !shared.calm && shared.chance.one_in(self.steered) => self.steer(shared, &who),
            6 if !shared.calm => self.replay(shared, n, &who),
            7..10 => {
                if self.outbox.is_empty() && self.to_make > 0 {
                    let batch = self.make(shared);
                    self.outbox.push(batch);
                }
                if !self.outbox.is_empty() {
                    let batch = self.outbox.remove(shared.chance.below(self.outbox.len()));
                    self.offer(shared, n, &who, batch);
                }
            }
            _ => {}
        }
    }

    /// Somebody signs a batch.
    fn make(&mut self, shared: &mut Shared<'_>) -> Batch {
        let count = (1 + shared.chance.below(4)).min(self.to_make);
        self.to_make -= count;
        let mut jobs = Vec::new();
        for _ in 0..count {
            let id = self.name("j");
            let chance = &mut shared.chance;
            let not_before = if chance.one_in(3) { shared.at.wall + chance.ms(15_000) } else { 0 };
            let lasts = [5_000, 60_000, 24 * 3_600_000][chance.below(3)];
            let run_until = shared.at.wall.max(not_before) + 1 + chance.ms(lasts);
            let (spec, rank, declared) = (format!("spec of {id}"), chance.below(3), chance.one_in(2));
            let idempotent = declared || self.by_nature;
            self.jobs.insert(
                id.clone(),
                Job { spec, rank, idempotent, declared, not_before, run_until, accepted: false, known: false },
            );
            jobs.push(id);
        }
        let workflow = shared.chance.one_in(2).then(|| format!("flow{}", shared.chance.below(3)));
        Batch { digest: self.name("batch"), jobs, workflow }
    }

    fn push_call(&self, batch: &Batch, with_text: bool, spec: Option<&str>) -> Call {
        let keep = batch.jobs.iter().map(|id| self.jobs[id].run_until).max().unwrap_or(0) + 3_600_000;
        let mut call = Call::new("push", [&MAX_QUEUE.to_string(), &batch.digest, "{}", &keep.to_string()]);
        match &batch.workflow {
            Some(flow) => call.arg(1).arg("wf").arg(flow).arg("somebody").arg(if with_text { "{}" } else { "" }),
            None => call.arg(0),
        };
        for (index, id) in batch.jobs.iter().enumerate() {
            let job = &self.jobs[id];
            call.arg(id).arg(spec.unwrap_or(&job.spec)).arg("somebody").arg(index).arg(PRIORITIES[job.rank]);
            call.arg(if job.declared { "1" } else { "" });
            call.arg(if job.not_before == 0 { String::new() } else { job.not_before.to_string() });
            call.arg(job.run_until);
            for _ in 0..4 {
                call.arg("");
            }
        }
        call
    }

    /// Admission looks at the time; then the batch is pushed, with the text of its workflow if it turns out to be needed.
    pub(crate) fn push(&mut self, shared: &mut Shared<'_>, n: usize, who: &str, batch: &Batch) -> Pushed {
        if let Some(place) = batch.jobs.iter().position(|id| self.jobs[id].run_until <= shared.at.wall) {
            return Pushed::Expired(place);
        }
        let flow = batch.workflow.clone().unwrap_or_default();
        loop {
            let with_text = !self.supervisors[n].stored.contains(&flow);
            let call = self.push_call(batch, with_text, None);
            let Some(reply) = self.call(shared, who, call) else { return Pushed::Unknown };
            let mut reply = texts(&reply).into_iter();
            match reply.next().as_deref() {
                Some("ok") => {
                    self.supervisors[n].stored.push(flow);
                    for id in &batch.jobs {
                        self.jobs.get_mut(id).expect("it was made").accepted = true;
                    }
                    return Pushed::Accepted(reply.step_by(2).collect());
                }
                Some("full") => return Pushed::Full,
                Some("missing") if !with_text => self.supervisors[n].stored.retain(|stored| *stored != flow),
                other => {
                    shared.breaks(format!("the push of {} was answered with {other:?}", batch.digest));
                    return Pushed::Unknown;
                }
            }
        }
    }

    /// A submitter's batch is sent again until somebody says yes.
    fn offer(&mut self, shared: &mut Shared<'_>, n: usize, who: &str, batch: Batch) {
        match self.push(shared, n, who, &batch) {
            Pushed::Accepted(_) => self.sent.push(batch),
            Pushed::Full | Pushed::Unknown => self.outbox.push(batch),
            Pushed::Expired(_) => shared.tell(|| format!("{who}: {} is refused: its time is over", batch.digest)),
        }
    }

    /// A batch that was accepted long ago is sent again, as it was or with other content under its ids.
    fn replay(&mut self, shared: &mut Shared<'_>, n: usize, who: &str) {
        if self.sent.is_empty() {
            return;
        }
        let batch = self.sent[shared.chance.below(self.sent.len())].clone();
        if !shared.chance.one_in(3) {
            return self.offer(shared, n, who, batch);
        }
        let call = self.push_call(&batch, true, Some("something else"));
        if let Some(reply) = self.call(shared, who, call)
            && texts(&reply).first().is_none_or(|first| first != "conflict")
        {
            shared.breaks(format!("other content under the ids of {} was accepted", batch.digest));
        }
    }

    fn steer(&mut self, shared: &mut Shared<'_>, who: &str) {
        let Some(id) = self.jobs.keys().nth(shared.chance.below(self.jobs.len())).cloned() else { return };
        let script = if shared.chance.one_in(2) { "cancel" } else { "delete" };
        self.call(shared, who, Call::new(script, [&id]));
    }

    fn observe(&mut self, shared: &mut Shared<'_>, n: usize, who: &str) {
        self.supervisors[n].look_due = shared.at.mono + LEASE_MS / 4;
        let Some(reply) = self.call(shared, who, Call::new("observe", [])) else { return };
        let mut rows: Vec<Observed> = list(&reply)
            .iter()
            .map(|row| {
                let row = list(row);
                let lease = match number(&row[2]) {
                    0 => LEASE_MS,
                    asked => asked,
                };
                let lease = Duration::from_millis(lease.unsigned_abs());
                Observed { worker: text(&row[0]), beat: text(&row[1]), lease }
            })
            .collect();
        // Redis keeps sets in an order that differs from server to server.
        rows.sort_by(|a, b| a.worker.cmp(&b.worker));
        let kind: RunnerKind = "sim".parse().expect("a valid name");
        let now = shared.start + Duration::from_millis(shared.at.mono.unsigned_abs());
        let me = &mut self.supervisors[n];
        me.silent = me.observer.look(&kind, rows, now);
    }

    fn reap(&mut self, shared: &mut Shared<'_>, n: usize, who: &str) {
        let Some(worker) = self.supervisors[n].silent.pop() else { return };
        self.call(shared, who, Call::new("reap", [&worker.worker, &worker.beat, "it was silent"]));
    }
}
