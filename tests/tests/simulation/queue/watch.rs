//! What must hold after every single step.

use std::collections::{BTreeMap, BTreeSet};

use horus_runners::job::JobStatus;
use redis::Value;

use super::site::{Call, Job, LEASE_MS};
use crate::server::{list, number, text, texts};

/// A job's record as the last look saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) status: JobStatus,
    pub(crate) attempt: u32,
    pub(crate) worker: String,
    pub(crate) token: String,
    pub(crate) deliveries: u32,
    pub(crate) output: String,
    receipt: String,
    cancel: bool,
    pub(crate) deleted: bool,
    error: String,
    log: u32,
}

/// How a job ended, as its record said it first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) status: JobStatus,
    pub(crate) output: String,
    /// Digest of the signed receipts; none if no runner ended it.
    pub(crate) receipt: String,
    pub(crate) error: String,
}

impl Seen {
    fn read(fields: &[String]) -> Result<Option<Self>, String> {
        let [status, attempt, worker, token, deliveries, output, receipt, cancel, deleted, error, log] = fields else {
            return Err("a look has eleven fields".to_owned());
        };
        if status.is_empty() {
            return Ok(None);
        }
        let small = |text: &String| text.parse().unwrap_or(0);
        Ok(Some(Self {
            status: status.parse().map_err(|_| format!("the unknown status {status}"))?,
            attempt: small(attempt),
            worker: worker.clone(),
            token: token.clone(),
            deliveries: small(deliveries),
            output: output.clone(),
            receipt: receipt.clone(),
            cancel: !cancel.is_empty(),
            deleted: !deleted.is_empty(),
            error: error.clone(),
            log: small(log),
        }))
    }

    fn waits(&self) -> bool {
        self.status == JobStatus::Queued && self.worker.is_empty()
    }
}

#[derive(Default)]
pub(crate) struct Watch {
    pub(crate) seen: BTreeMap<String, Seen>,
    /// What every job that ever ended came to, also those that are forgotten.
    pub(crate) ends: BTreeMap<String, End>,
    /// When each worker last showed life, by the monotonic clock.
    beats: BTreeMap<String, i64>,
    /// The latest that Redis' clock ever showed.
    pub(crate) latest: i64,
    last_token: u64,
    calls: usize,
    /// Somebody took the hint, and has not claimed since.
    hint_taken: bool,
}

/// The clocks of a moment.
#[derive(Clone, Copy)]
pub(crate) struct Moment {
    pub(crate) mono: i64,
    pub(crate) wall: i64,
}

impl Watch {
    /// Whom to look at after a call: whoever has not ended or is named in it, and now and then all.
    pub(crate) fn looks_at(&mut self, call: &Call, jobs: &BTreeMap<String, Job>) -> Vec<String> {
        self.calls += 1;
        let all = ["delete", "push", "sweep"].contains(&call.script) || self.calls.is_multiple_of(16);
        let open = |id: &String| self.seen.get(id).is_none_or(|seen| !seen.status.is_final());
        jobs.keys().filter(|id| all || open(id) || call.args.contains(id)).cloned().collect()
    }

    /// Takes in what a call did.
    pub(crate) fn check(
        &mut self,
        at: Moment,
        call: &Call,
        replies: &[Value; 3],
        looked_at: &[String],
        jobs: &BTreeMap<String, Job>,
    ) -> Result<(), String> {
        let [reply, findings, look] = replies;
        self.latest = self.latest.max(at.wall);
        if let [id, problem, ..] = texts(findings).as_slice() {
            return Err(format!("job {id} {problem}"));
        }
        let rows = list(look);
        let (wake, waiting) = (rows.first().map_or(0, number), rows.get(1).map_or(0, number));
        // As they were before this call, of those that were looked at.
        let mut before = BTreeMap::new();
        for (id, row) in looked_at.iter().zip(rows.iter().skip(2)) {
            let was = match Seen::read(&texts(row))? {
                Some(seen) => self.seen.insert(id.clone(), seen),
                None => self.seen.remove(id),
            };
            transition(was.as_ref(), self.seen.get(id), &jobs[id], at.wall)
                .map_err(|why| format!("job {id}: {why}"))?;
            if let Some(seen) = self.seen.get(id).filter(|seen| seen.status.is_final() && !seen.deleted)
                && !self.ends.contains_key(id)
            {
                let (output, receipt, error) = (seen.output.clone(), seen.receipt.clone(), seen.error.clone());
                self.ends.insert(id.clone(), End { status: seen.status, output, receipt, error });
            }
            before.extend(was.map(|was| (id.as_str(), was)));
        }
        self.hint(call, wake, waiting)?;
        match call.script {
            "claim" => self.claimed(at, call, reply, jobs)?,
            "heartbeat" => {
                self.beats.insert(call.args[0].clone(), at.mono);
            }
            "reap" => self.reaped(at, call, reply)?,
            "start" => started(call, reply, &before)?,
            "finish" => self.finished(call, reply, &before)?,
            _ => {}
        }
        Ok(())
    }

    /// Jobs that wait have a wake-up: the hint lies there, or somebody took it and is about to claim.
    fn hint(&mut self, call: &Call, wake: i64, waiting: i64) -> Result<(), String> {
        if wake > 1 {
            return Err(format!("wake has {wake} elements"));
        }
        self.hint_taken |= call.script == "pop";
        if wake == 1 || waiting == 0 {
            self.hint_taken = false;
        } else if !self.hint_taken {
            return Err(format!("{waiting} jobs wait, and no hint says so"));
        }
        Ok(())
    }

    fn claimed(&mut self, at: Moment, call: &Call, reply: &Value, jobs: &BTreeMap<String, Job>) -> Result<(), String> {
        let [_, _, rows, documents] = list(reply) else { return Err("the reply of claim".to_owned()) };
        let mut has: BTreeSet<String> = call.args[3..].iter().cloned().collect();
        has.extend(list(documents).iter().step_by(2).map(text));
        let mut rank = 0;
        for row in list(rows) {
            let row = texts(row);
            let (job, token) = (&jobs[&row[0]], row[1].parse::<u64>().unwrap_or(0));
            if token <= self.last_token {
                return Err(format!("the fencing token {token} of {} is not new", row[0]));
            }
            self.last_token = token;
            if job.run_until <= at.wall {
                return Err(format!("{} was delivered after its run_until", row[0]));
            }
            if job.not_before > self.latest {
                return Err(format!("{} was delivered before its time", row[0]));
            }
            if !has.contains(&format!("batch:{}", row[2])) {
                return Err(format!("{} was delivered without its batch", row[0]));
            }
            let status = self.seen.get(&row[0]).map(|seen| seen.status);
            let begun = if job.idempotent { JobStatus::Running } else { JobStatus::Queued };
            if status != Some(begun) || (row[6] == "1") != job.idempotent {
                return Err(format!("{} was delivered as {}, and is {status:?}", row[0], row[6]));
            }
            if job.rank < rank {
                return Err(format!("{} was delivered after a less urgent one", row[0]));
            }
            rank = job.rank;
        }
        let urgent = self.seen.iter().find(|(id, seen)| seen.waits() && jobs[*id].rank < rank);
        urgent.map_or(Ok(()), |(id, _)| Err(format!("{id} waits while a less urgent job was delivered")))
    }

    /// Only who was silent for the whole of its lease loses its jobs, by the monotonic clock.
    fn reaped(&self, at: Moment, call: &Call, reply: &Value) -> Result<(), String> {
        let silent = at.mono - self.beats.get(&call.args[0]).copied().unwrap_or(i64::MIN / 2);
        if !list(reply).is_empty() && silent < LEASE_MS {
            return Err(format!("worker {} lost its jobs, but showed life {silent} ms ago", call.args[0]));
        }
        Ok(())
    }

    /// What was acknowledged is there, and what was refused is told in the job's log.
    fn finished(&self, call: &Call, reply: &Value, before: &BTreeMap<&str, Seen>) -> Result<(), String> {
        for (row, stored) in call.args[3..].chunks(7).zip(list(reply)) {
            let Some(seen) = self.seen.get(&row[0]).filter(|seen| !seen.deleted) else { continue };
            if number(stored) == 1 {
                let held = |before: &&Seen| before.worker == call.args[0] && before.token == row[1];
                if before.get(row[0].as_str()).filter(held).is_none() {
                    return Err(format!("{} took a result of {}, which did not hold it", row[0], call.args[0]));
                }
                let same = seen.status.as_str() == row[2] && seen.output == row[4] && seen.receipt == call.args[1];
                if !same {
                    return Err(format!("the result of {} was acknowledged, but is not there: {seen:?}", row[0]));
                }
            } else if before.get(row[0].as_str()).is_some_and(|before| before.log >= seen.log) {
                return Err(format!("a late result of {} was refused, and its log does not say so", row[0]));
            }
        }
        Ok(())
    }
}

/// Only who holds a job starts it, and only by the delivery that it holds it by: one that comes late would mark as started what never
/// was, and what never started must be delivered again.
fn started(call: &Call, reply: &Value, before: &BTreeMap<&str, Seen>) -> Result<(), String> {
    for (row, attempt) in call.args[1..].chunks(3).zip(list(reply).iter().skip(1)) {
        let held = |before: &&Seen| before.worker == call.args[0] && before.token == row[1];
        if number(attempt) > 0 && before.get(row[0].as_str()).filter(held).is_none() {
            return Err(format!("{} started {} with the old token {}", call.args[0], row[0], row[1]));
        }
    }
    Ok(())
}

/// May the one follow upon the other?
fn transition(before: Option<&Seen>, after: Option<&Seen>, job: &Job, wall: i64) -> Result<(), String> {
    let Some(after) = after else {
        // Ids are remembered for an hour after their time. One sweep can let a job expire, and forget it.
        let ends = |before: &Seen| before.status.is_final() || before.status.may_become(JobStatus::Expired);
        let over = before.is_none_or(|before| ends(before) && job.run_until + 3_600_000 <= wall);
        return if over { Ok(()) } else { Err("its record is gone".to_owned()) };
    };
    let Some(before) = before else {
        return match (after.status, after.attempt) {
            (JobStatus::Queued | JobStatus::Delayed, 0) => Ok(()),
            _ => Err(format!("it begins as {after:?}")),
        };
    };
    // One claim can find that a job's time has come, and mark it as running.
    let at_once = (before.status, after.status) == (JobStatus::Delayed, JobStatus::Running) && job.idempotent;
    if before.status != after.status && !before.status.may_become(after.status) && !at_once {
        return Err(format!("{} cannot become {}", before.status, after.status));
    }
    if after.deleted {
        return if after.status.is_final() { Ok(()) } else { Err("it was deleted before it ended".to_owned()) };
    }
    if before.status.is_final() && (&before.output, &before.receipt) != (&after.output, &after.receipt) {
        return Err(format!("its result changed from {:?} to {:?}", before.output, after.output));
    }
    if after.attempt < before.attempt || after.attempt > before.attempt + 1 {
        return Err(format!("attempt {} follows upon {}", after.attempt, before.attempt));
    }
    if after.attempt > before.attempt && before.cancel {
        return Err("it was started after it had been cancelled".to_owned());
    }
    if after.attempt > 1 && !job.idempotent {
        return Err("it must not run twice, and was started twice".to_owned());
    }
    if after.deliveries > 4 {
        return Err(format!("it was delivered {} times", after.deliveries));
    }
    Ok(())
}
