//! One queue with everybody who works on it: the network between them and Redis loses, repeats and delays.

use std::{collections::BTreeMap, time::Instant};

use horus_runners::job::JobStatus;
use horus_tests::Chance;
use redis::Value;

use super::{
    supervisor::Supervisor,
    watch::{Moment, Watch},
    worker::Worker,
};
pub(crate) use super::{
    supervisor::{Batch, Pushed},
    watch::End,
    worker::REFUSED,
};
use crate::server::{Server, list};

/// Without a sign of life for so long a worker loses its jobs. It shows one every third of it.
pub(crate) const LEASE_MS: i64 = 3_000;
/// So many jobs may wait.
pub(crate) const MAX_QUEUE: usize = 14;
/// Redis' clock at the start. So far ahead that Redis' own clock, which expires keys, never comes to it: ids are remembered.
pub(crate) const EPOCH: i64 = 4_102_444_800_000;

/// A call of a script, as it travels to Redis.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) script: &'static str,
    pub(crate) args: Vec<String>,
}

impl std::fmt::Display for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}({})", self.script, self.args.join(" "))
    }
}

impl Call {
    pub(crate) fn new<const N: usize>(script: &'static str, args: [&str; N]) -> Self {
        Self { script, args: args.map(str::to_owned).into() }
    }

    #[allow(clippy::needless_pass_by_value)] // Callers pass what they have: numbers and texts.
    pub(crate) fn arg(&mut self, arg: impl ToString) -> &mut Self {
        self.args.push(arg.to_string());
        self
    }
}

/// A job that was made: what its submitter signed.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    pub(crate) spec: String,
    pub(crate) rank: usize,
    /// It may run twice: its submitter says so, or all jobs of its kind may.
    pub(crate) idempotent: bool,
    /// Its submitter says so.
    pub(crate) declared: bool,
    pub(crate) not_before: i64,
    pub(crate) run_until: i64,
    /// `create_jobs` has answered.
    pub(crate) accepted: bool,
    /// Redis has, or had, a record of it.
    pub(crate) known: bool,
}

/// One in how many goes wrong; 0: none.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Faults {
    pub(crate) network: usize,
    pub(crate) crash: usize,
    pub(crate) freeze: usize,
    pub(crate) jump: usize,
}

impl Faults {
    pub(crate) fn draw(chance: &mut Chance) -> Self {
        let mut one = |often: usize| if chance.one_in(3) { 0 } else { often + chance.below(3 * often) };
        Self { network: one(8), crash: one(60), freeze: one(50), jump: one(60) }
    }
}

/// What all have in common: chance, Redis, and the clocks.
pub(crate) struct Shared<'a> {
    pub(crate) chance: Chance,
    pub(crate) server: &'a mut Server,
    pub(crate) at: Moment,
    pub(crate) faults: Faults,
    /// Nothing goes wrong any more.
    pub(crate) calm: bool,
    /// Whether it is to be told what happens: that costs more than letting it happen.
    tells: bool,
    pub(crate) trace: Vec<String>,
    /// The first thing that must not be.
    pub(crate) broken: Option<String>,
    /// The moment from which the monotonic clock counts.
    pub(crate) start: Instant,
}

impl<'a> Shared<'a> {
    pub(crate) fn new(seed: u64, server: &'a mut Server, tells: bool) -> Self {
        server.clear();
        let mut chance = Chance::new(seed);
        let faults = Faults::draw(&mut chance);
        let at = Moment { mono: 0, wall: EPOCH };
        Self { chance, server, at, faults, calm: false, tells, trace: Vec::new(), broken: None, start: Instant::now() }
    }

    /// Time passes, up to so many milliseconds.
    pub(crate) fn tick(&mut self, most: i64) {
        let passed = 1 + self.chance.ms(most);
        self.at.mono += passed;
        self.at.wall += passed;
    }

    /// By how much a wall clock jumps now; mostly it does not.
    pub(crate) fn jump(&mut self) -> i64 {
        let jumps = !self.calm && self.chance.one_in(self.faults.jump);
        if jumps { self.chance.ms(12 * 3_600_000) - 6 * 3_600_000 } else { 0 }
    }

    /// Notes what happens, if anybody will read it.
    pub(crate) fn tell(&mut self, what: impl FnOnce() -> String) {
        if self.tells {
            self.trace.push(what());
        }
    }

    pub(crate) fn breaks(&mut self, why: impl Into<String>) {
        let why = why.into();
        self.tell(|| format!("BROKEN: {why}"));
        self.broken.get_or_insert(why);
    }
}

/// One queue.
pub(crate) struct Site {
    base: String,
    /// All jobs of this kind are idempotent.
    pub(crate) by_nature: bool,
    pub(crate) jobs: BTreeMap<String, Job>,
    /// Signed batches that nobody has said yes to.
    pub(crate) outbox: Vec<Batch>,
    pub(crate) sent: Vec<Batch>,
    /// How many more jobs submitters think of by themselves.
    pub(crate) to_make: usize,
    pub(crate) workers: Vec<Worker>,
    pub(crate) supervisors: Vec<Supervisor>,
    pub(crate) watch: Watch,
    /// Calls that their callers gave up, and that are still under way: when they arrive.
    late: Vec<(i64, Call)>,
    names: usize,
    /// Every execution: by job, the attempt and who.
    pub(crate) executed: BTreeMap<String, Vec<(u32, String)>>,
    /// Executions that began since somebody looked here last.
    pub(crate) began: Vec<(String, u32)>,
    /// An execution takes fewer steps than this.
    pub(crate) longest: usize,
    /// The more, the less often somebody cancels or deletes a job.
    pub(crate) steered: usize,
    /// So many finished jobs are kept.
    pub(crate) keep: usize,
}

impl Site {
    pub(crate) fn new(kind: &str, by_nature: bool, supervisors: usize, to_make: usize) -> Self {
        Self {
            base: format!("horus:{{{kind}}}"),
            by_nature,
            jobs: BTreeMap::new(),
            outbox: Vec::new(),
            sent: Vec::new(),
            to_make,
            workers: Vec::new(),
            supervisors: (0..supervisors).map(|_| Supervisor::default()).collect(),
            watch: Watch::default(),
            late: Vec::new(),
            names: 0,
            executed: BTreeMap::new(),
            began: Vec::new(),
            longest: 8,
            steered: 1,
            keep: 12,
        }
    }

    /// A name that nobody had before.
    pub(crate) fn name(&mut self, of: &str) -> String {
        self.names += 1;
        format!("{of}{}", self.names)
    }

    /// Sends a call. `None`: its caller hears nothing, and cannot know whether it was executed, or will be.
    pub(crate) fn call(&mut self, shared: &mut Shared<'_>, who: &str, call: Call) -> Option<Value> {
        let now = shared.at.mono;
        let fate = if shared.calm {
            9
        } else if self.workers.iter().any(|worker| worker.name == who && now < worker.cut_until) {
            usize::from(shared.chance.one_in(6))
        } else if shared.chance.one_in(shared.faults.network) {
            shared.chance.below(5)
        } else {
            9
        };
        match fate {
            0 => {
                shared.tell(|| format!("{who}: {call} never arrives"));
                None
            }
            1 => {
                shared.tell(|| format!("{who}: {call} is delayed, and given up"));
                self.late.push((now + shared.chance.ms(3 * LEASE_MS), call));
                None
            }
            2 => {
                self.execute(shared, who, "(reply lost) ", &call);
                None
            }
            3 => {
                self.execute(shared, who, "(sent twice) ", &call);
                Some(self.execute(shared, who, "", &call))
            }
            _ => Some(self.execute(shared, who, "", &call)),
        }
    }

    fn execute(&mut self, shared: &mut Shared<'_>, who: &str, what: &str, call: &Call) -> Value {
        let ids = self.watch.looks_at(call, &self.jobs);
        match shared.server.step(shared.at.wall, &self.base, call.script, &call.args, &ids) {
            Ok(replies) => {
                // Redis keeps sets in an order that differs from server to server.
                let mono = shared.at.mono;
                shared.tell(|| {
                    let mut told: Vec<String> = list(&replies[0]).iter().map(|part| format!("{part:?}")).collect();
                    if call.script == "observe" {
                        told.sort();
                    }
                    format!("{mono} {who}: {call} {what}-> [{}]", told.join(", "))
                });
                if let Err(why) = self.watch.check(shared.at, call, &replies, &ids, &self.jobs) {
                    shared.breaks(why);
                }
                self.forget();
                let [reply, ..] = replies;
                reply
            }
            Err(why) => {
                shared.breaks(why);
                Value::Nil
            }
        }
    }

    /// What Redis has forgotten, nobody sends again: a clock that went ahead for hours and came back would let it run again.
    fn forget(&mut self) {
        let gone = |id: &String| self.jobs[id].known && !self.watch.seen.contains_key(id);
        let gone: Vec<String> = self.jobs.keys().filter(|id| gone(id)).cloned().collect();
        for id in self.watch.seen.keys() {
            self.jobs.get_mut(id).expect("only jobs that were made are looked at").known = true;
        }
        if gone.is_empty() {
            return;
        }
        self.late.retain(|(_, call)| call.script != "push" || !call.args.iter().any(|arg| gone.contains(arg)));
        for batches in [&mut self.sent, &mut self.outbox] {
            batches.retain(|batch| !batch.jobs.iter().any(|id| gone.contains(id)));
        }
    }

    /// Somebody takes the next step.
    pub(crate) fn step(&mut self, shared: &mut Shared<'_>) {
        let arrived = self.late.iter().position(|(due, _)| *due <= shared.at.mono);
        if let Some(first) = arrived.filter(|_| shared.chance.one_in(3)) {
            let (_, call) = self.late.remove(first);
            // Some are lost for good.
            if !shared.chance.one_in(4) {
                self.execute(shared, "late", "", &call);
            }
            return;
        }
        if self.workers.len() < 2 || (!shared.calm && self.workers.len() < 4 && shared.chance.one_in(60)) {
            let name = self.name("w");
            shared.tell(|| format!("{name} begins"));
            self.workers.push(Worker::new(name, shared.at.mono));
        }
        let who = shared.chance.below(self.workers.len() + self.supervisors.len());
        if who < self.workers.len() {
            self.worker_step(shared, who);
        } else {
            self.supervisor_step(shared, who - self.workers.len());
        }
    }

    /// Nothing is under way, and everything that is in Redis has ended.
    pub(crate) fn is_done(&self) -> bool {
        let ended = |id: &String| self.watch.seen.get(id).is_none_or(|seen| seen.status.is_final());
        let held = self.workers.iter().any(Worker::is_busy);
        self.to_make == 0 && self.outbox.is_empty() && self.late.is_empty() && !held && self.jobs.keys().all(ended)
    }

    /// Only time is missing: whatever is left waits for its `not_before`.
    pub(crate) fn waits_for_time(&self) -> bool {
        self.watch.seen.values().all(|seen| seen.status.is_final() || seen.status == JobStatus::Delayed)
    }

    /// What must hold at the end.
    pub(crate) fn audit(&mut self, shared: &mut Shared<'_>) {
        for (id, job) in &self.jobs {
            let seen = self.watch.seen.get(id);
            if job.accepted && seen.is_none() && job.run_until + 3_600_000 > self.watch.latest {
                shared.breaks(format!("job {id} was accepted, and nothing is known of it"));
            }
            let executions = self.executed.get(id).map_or(&[][..], Vec::as_slice);
            let attempts: Vec<u32> = executions.iter().map(|(attempt, _)| *attempt).collect();
            if attempts.windows(2).any(|pair| pair[0] == pair[1]) {
                shared.breaks(format!("one attempt of job {id} was executed twice: {executions:?}"));
            }
            if !job.idempotent && attempts.len() > 1 {
                shared.breaks(format!("job {id} must not run twice, and did: {executions:?}"));
            }
        }
        // Forget everything: what is left then is what is meant to be.
        for _ in 0..4 {
            self.execute(shared, "the end", "", &Call::new("sweep", ["0", "0", "500"]));
        }
        let known = ["seq", "workers", "wake"].map(|name| format!("{}:{name}", self.base));
        let stays = |key: &String| {
            let beside = |what: &str| key.starts_with(&format!("{}:{what}:", self.base));
            known.contains(key) || beside("job") || beside("worker") || beside("wf")
        };
        let left: Vec<String> =
            shared.server.keys(&format!("{}:*", self.base)).into_iter().filter(|key| !stays(key)).collect();
        if !left.is_empty() {
            shared.breaks(format!("nothing needs these any more: {left:?}"));
        }
    }
}
