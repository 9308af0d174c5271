//! A worker as the worker loop makes it: it claims, verifies, starts, executes, logs, stores results, and shows life.

use std::collections::BTreeMap;

use super::site::{Call, LEASE_MS, Shared, Site};
use crate::server::{list, number, text, texts};

/// What the claimer does next.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Claimer {
    /// Asks Redis which jobs it believes to be this worker's.
    Compare,
    /// Gives back those that this worker does not know.
    Disclaim(Vec<(String, String)>),
    Claim,
    /// Waits for the hint since then.
    Wait(i64),
}

/// Where a held job is in the worker.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Stage {
    /// With the attempt, if the claim has marked it as running.
    Claimed(Option<u32>),
    Admitted,
    /// Steps left, and whether it was told to stop.
    Running(usize, bool),
    /// Waits to be stored.
    Ended(Ended),
    GiveBack(&'static str),
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Ended {
    status: &'static str,
    /// What it gives, if it succeeded.
    output: String,
    /// Why it did not, if it did not.
    code: &'static str,
}

/// The code of a job that its runner refused: a receipt of that proves nothing about a step.
pub(crate) const REFUSED: &str = "NOT_ALLOWED";

fn ended(status: &'static str, code: &'static str) -> Stage {
    Stage::Ended(Ended { status, output: String::new(), code })
}

#[derive(Debug, Clone)]
struct Held {
    token: String,
    stage: Stage,
}

/// Results in one signed envelope, which stays the same as often as it is sent.
#[derive(Debug, Clone)]
struct Results {
    call: Call,
    jobs: Vec<(String, String)>,
}

pub(crate) struct Worker {
    pub(crate) name: String,
    held: BTreeMap<String, Held>,
    claimer: Claimer,
    uncertain: bool,
    compared: i64,
    results: Option<Results>,
    beat_due: i64,
    frozen_until: i64,
    /// Until then nothing it sends is answered. It goes on with what it has.
    pub(crate) cut_until: i64,
    registered: bool,
    stops: bool,
    has: Vec<String>,
}

const SLOTS: usize = 3;
/// An idle worker looks after so long by itself.
const PATIENCE_MS: i64 = 5_000;

impl Worker {
    pub(crate) fn new(name: String, now: i64) -> Self {
        Self {
            name,
            held: BTreeMap::new(),
            claimer: Claimer::Claim,
            uncertain: false,
            compared: now,
            results: None,
            beat_due: now,
            frozen_until: 0,
            cut_until: 0,
            registered: false,
            stops: false,
            has: Vec::new(),
        }
    }

    pub(crate) fn is_busy(&self) -> bool {
        !self.held.is_empty() || self.results.is_some()
    }

    fn drop_job(&mut self, id: &str, token: &str) {
        if self.held.get(id).is_some_and(|job| job.token == token) {
            self.held.remove(id);
        }
    }

    fn in_stage(&self, is: impl Fn(&Stage) -> bool) -> Vec<(String, String)> {
        let all = self.held.iter().filter(|(_, job)| is(&job.stage));
        all.map(|(id, job)| (id.clone(), job.token.clone())).collect()
    }
}

impl Site {
    pub(crate) fn worker_step(&mut self, shared: &mut Shared<'_>, n: usize) {
        let now = shared.at.mono;
        if !shared.calm {
            if shared.chance.one_in(shared.faults.crash) {
                let gone = self.workers.swap_remove(n);
                shared.tell(|| format!("{} is killed", gone.name));
                return;
            }
            if shared.chance.one_in(shared.faults.freeze) {
                let until = now + shared.chance.ms(3 * LEASE_MS);
                if shared.chance.one_in(2) {
                    self.workers[n].frozen_until = until;
                    shared.tell(|| format!("{} stands still", self.workers[n].name));
                } else {
                    self.workers[n].cut_until = until;
                    shared.tell(|| format!("{} is cut off", self.workers[n].name));
                }
            }
            if !self.workers[n].stops && shared.chance.one_in(250) {
                self.workers[n].stops = true;
                shared.tell(|| format!("{} is told to stop", self.workers[n].name));
            }
            if now < self.workers[n].frozen_until {
                return;
            }
        }
        let me = &self.workers[n];
        if !me.registered || (now >= me.beat_due && !shared.chance.one_in(3)) {
            return self.beat(shared, n);
        }
        if me.stops && !me.is_busy() {
            let name = me.name.clone();
            self.call(shared, &name, Call::new("release", [&name, ""]));
            self.call(shared, &name, Call::new("unregister", [&name]));
            self.workers.swap_remove(n);
            return;
        }
        let room = SLOTS.saturating_sub(me.held.len());
        let mut choices: Vec<Option<String>> = me.held.keys().cloned().map(Some).collect();
        if me.results.is_some() {
            return self.store(shared, n);
        }
        if !me.stops && (room > 0 || matches!(me.claimer, Claimer::Wait(_))) {
            choices.push(None);
        }
        if choices.is_empty() {
            return;
        }
        match choices.swap_remove(shared.chance.below(choices.len())) {
            None => self.claimer_step(shared, n, room),
            Some(id) => self.job_step(shared, n, &id),
        }
    }

    fn beat(&mut self, shared: &mut Shared<'_>, n: usize) {
        let me = &self.workers[n];
        let name = me.name.clone();
        let mut call = Call::new("heartbeat", [&name, "1", "lease_ms", &LEASE_MS.to_string()]);
        for (id, job) in &me.held {
            call.arg(id).arg(&job.token);
        }
        let asked = me.in_stage(|_| true);
        let reply = self.call(shared, &name, call);
        let me = &mut self.workers[n];
        let Some(reply) = reply else {
            me.beat_due = shared.at.mono + 200;
            return;
        };
        me.registered = true;
        me.beat_due = shared.at.mono + LEASE_MS / 3;
        for ((id, token), beat) in asked.iter().zip(list(&reply)) {
            let Some(job) = me.held.get_mut(id).filter(|job| job.token == *token) else { continue };
            match (number(beat), &mut job.stage) {
                (1, Stage::Running(_, stop)) => *stop = true,
                // It runs for nobody.
                (2, Stage::Running(..)) => me.drop_job(id, token),
                _ => {}
            }
        }
    }

    fn claimer_step(&mut self, shared: &mut Shared<'_>, n: usize, room: usize) {
        let name = self.workers[n].name.clone();
        match self.workers[n].claimer.clone() {
            Claimer::Wait(since) => {
                let reply = self.call(shared, &name, Call::new("pop", []));
                let over = shared.at.mono >= since + PATIENCE_MS;
                if over || reply.is_none_or(|reply| !text(&reply).is_empty()) {
                    self.workers[n].claimer = Claimer::Claim;
                }
            }
            Claimer::Compare => {
                let reply = self.call(shared, &name, Call::new("holds", [&name]));
                let me = &mut self.workers[n];
                let Some(reply) = reply else {
                    me.uncertain = true;
                    me.claimer = Claimer::Claim;
                    return;
                };
                let pairs = texts(&reply);
                let unknown = pairs.as_chunks::<2>().0.iter().filter(|pair| !me.held.contains_key(&pair[0]));
                let unknown: Vec<(String, String)> = unknown.map(|pair| (pair[0].clone(), pair[1].clone())).collect();
                me.claimer = if unknown.is_empty() { Claimer::Claim } else { Claimer::Disclaim(unknown) };
            }
            Claimer::Disclaim(unknown) => {
                let mut call = Call::new("release", [&name, "the connection was lost"]);
                for (id, token) in &unknown {
                    call.arg(id).arg(token);
                }
                let reply = self.call(shared, &name, call);
                let me = &mut self.workers[n];
                me.uncertain |= reply.is_none();
                me.claimer = Claimer::Claim;
            }
            Claimer::Claim => {
                let me = &mut self.workers[n];
                if me.uncertain || shared.at.mono >= me.compared + LEASE_MS {
                    me.uncertain = false;
                    me.compared = shared.at.mono;
                    me.claimer = Claimer::Compare;
                    return;
                }
                self.claim(shared, n, &name, room);
            }
        }
    }

    fn claim(&mut self, shared: &mut Shared<'_>, n: usize, name: &str, room: usize) {
        if room == 0 {
            return;
        }
        let mut call = Call::new("claim", [name, &room.to_string(), if self.by_nature { "1" } else { "" }]);
        for document in &self.workers[n].has {
            call.arg(document);
        }
        let reply = self.call(shared, name, call);
        let me = &mut self.workers[n];
        let Some(reply) = reply else {
            me.uncertain = true;
            return;
        };
        let [_, _, rows, documents] = list(&reply) else { return };
        me.has.extend(list(documents).iter().step_by(2).map(text));
        let rows = list(rows);
        me.claimer = if rows.len() == room { Claimer::Claim } else { Claimer::Wait(shared.at.mono) };
        for row in rows {
            let row = texts(row);
            let attempt = (row[6] == "1").then(|| row[4].parse().unwrap_or(0) + 1);
            me.held.insert(row[0].clone(), Held { token: row[1].clone(), stage: Stage::Claimed(attempt) });
        }
    }

    fn job_step(&mut self, shared: &mut Shared<'_>, n: usize, id: &str) {
        let me = &mut self.workers[n];
        let (name, stops) = (me.name.clone(), me.stops);
        let idempotent = self.jobs[id].idempotent;
        let job = me.held.get_mut(id).expect("it was chosen among those that are held");
        let token = job.token.clone();
        match job.stage.clone() {
            Stage::Claimed(_) if stops => job.stage = Stage::GiveBack(""),
            Stage::Claimed(attempt) => match (shared.chance.below(25), attempt) {
                (0, _) => job.stage = ended("failed", REFUSED),
                (1, _) => job.stage = Stage::GiveBack("it could not be verified"),
                (_, None) => job.stage = Stage::Admitted,
                (_, Some(attempt)) => self.execute_job(shared, n, id, &token, attempt),
            },
            Stage::Admitted => self.start(shared, n, &name),
            Stage::Running(_, true) => job.stage = ended("cancelled", "CANCELLED"),
            Stage::Running(0, _) => {
                job.stage = match shared.chance.below(12) {
                    0 if shared.chance.one_in(4) => ended("failed", "FATAL"),
                    0 => ended("failed", "TRY_AGAIN"),
                    1 => ended("timed_out", "TIMED_OUT"),
                    _ => Stage::Ended(Ended { status: "succeeded", output: format!("\"{token}\""), code: "" }),
                }
            }
            Stage::Running(..) if stops && shared.chance.one_in(4) => {
                job.stage = if idempotent { Stage::GiveBack("") } else { ended("failed", "INTERRUPTED") };
            }
            Stage::Running(left, _) => {
                job.stage = Stage::Running(left - 1, false);
                if shared.chance.one_in(4) {
                    let line = [&name, "100", "1000", id, &token, "1", "stdout", "0", "a line"];
                    self.call(shared, &name, Call::new("log", line));
                }
            }
            Stage::Ended(..) => self.gather(shared, n),
            Stage::GiveBack(why) => {
                let given = self.call(shared, &name, Call::new("release", [&name, why, id, &token]));
                let me = &mut self.workers[n];
                me.drop_job(id, &token);
                me.uncertain |= given.is_none();
            }
        }
    }

    fn start(&mut self, shared: &mut Shared<'_>, n: usize, name: &str) {
        let ready = self.workers[n].in_stage(|stage| *stage == Stage::Admitted);
        let mut call = Call::new("start", [name]);
        for (id, token) in &ready {
            call.arg(id).arg(token).arg(if self.jobs[id].declared { "1" } else { "" });
        }
        let reply = self.call(shared, name, call);
        let me = &mut self.workers[n];
        let Some(reply) = reply else {
            // It tries again, unless it was told to stop, or Redis said something that trying again does not help against.
            let refused = shared.chance.one_in(2);
            if me.stops || refused {
                let why = if me.stops { "" } else { "it could not be started" };
                for (id, _) in &ready {
                    me.held.get_mut(id).expect("it is ready").stage = Stage::GiveBack(why);
                }
            }
            return;
        };
        for ((id, token), attempt) in ready.iter().zip(list(&reply).iter().skip(1)) {
            let attempt = u32::try_from(number(attempt)).unwrap_or(0);
            if attempt == 0 {
                self.workers[n].drop_job(id, token);
                continue;
            }
            self.execute_job(shared, n, id, token, attempt);
        }
    }

    fn execute_job(&mut self, shared: &mut Shared<'_>, n: usize, id: &str, token: &str, attempt: u32) {
        let me = &mut self.workers[n];
        let job = me.held.get_mut(id).expect("only what is held is executed");
        job.stage = Stage::Running(shared.chance.below(self.longest), false);
        self.began.push((id.to_owned(), attempt));
        self.executed.entry(id.to_owned()).or_default().push((attempt, format!("{} with token {token}", me.name)));
    }

    fn gather(&mut self, shared: &mut Shared<'_>, n: usize) {
        let digest = self.name("receipts");
        let me = &mut self.workers[n];
        let mut call = Call::new("finish", [&me.name, &digest, "{}"]);
        let mut jobs = Vec::new();
        for (id, job) in &me.held {
            if let Stage::Ended(Ended { status, output, code }) = &job.stage {
                call.arg(id).arg(&job.token).arg(status).arg(shared.at.wall).arg(output).arg(code).arg(jobs.len());
                jobs.push((id.clone(), job.token.clone()));
            }
        }
        me.results = Some(Results { call, jobs });
    }

    fn store(&mut self, shared: &mut Shared<'_>, n: usize) {
        let (name, results) = (self.workers[n].name.clone(), self.workers[n].results.clone());
        let Some(results) = results else { return };
        if self.call(shared, &name, results.call).is_some() {
            let me = &mut self.workers[n];
            me.results = None;
            for (id, token) in &results.jobs {
                me.drop_job(id, token);
            }
        }
    }
}
