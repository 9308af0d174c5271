//! The engine under a seed: random graphs, random trouble, and a driver that crashes. A failing seed replays.

use std::{
    collections::{BTreeMap, BTreeSet},
    panic::{AssertUnwindSafe, catch_unwind},
};

use horus_keys::{Digest, Identity, PeerId, Timestamp};
use horus_node::workflow::{
    Command, Event, Outcome, Plan, ReceiptPlace, Record, State, StepAttempt, StepIndex, StepStatus, Timer,
    UNKNOWN_ATTEMPTS, Unknown, apply, resume, still_wanted,
};
use horus_runners::job::{JobError, JobStatus};
use horus_tests::Chance;

use crate::{
    plan::{random_deadline, random_plan},
    seeds::{Ran, run_seeds},
};

/// A job at a supervisor of the simulated world.
struct Job {
    supervisor: PeerId,
    outcome: Option<Outcome>,
}

struct World {
    chance: Chance,
    plan: Plan,
    now: Timestamp,
    state: State,
    journal: Vec<Record>,
    snapshot: Option<(usize, String)>,
    commands: Vec<Command>,
    mail: Vec<Event>,
    timers: BTreeSet<(Timestamp, Timer)>,
    watched: BTreeMap<StepAttempt, PeerId>,
    jobs: BTreeMap<StepAttempt, Job>,
    supervisors: Vec<(PeerId, bool)>,
    accepted: BTreeMap<StepIndex, Option<Digest>>,
    calm: bool,
}

impl World {
    fn new(seed: u64, peers: &[PeerId]) -> Self {
        let mut chance = Chance::new(seed);
        let deadline = random_deadline(&mut chance, Timestamp::from_millis(7 * 24 * 3_600_000));
        let plan = random_plan(&mut chance, "workflow", 24, deadline);
        let state = State::new(&plan);
        let mut world = Self {
            chance,
            plan,
            now: Timestamp::from_millis(1_000),
            state,
            journal: Vec::new(),
            snapshot: None,
            commands: Vec::new(),
            mail: vec![Event::Started],
            timers: BTreeSet::new(),
            watched: BTreeMap::new(),
            jobs: BTreeMap::new(),
            supervisors: peers.iter().map(|peer| (*peer, true)).collect(),
            accepted: BTreeMap::new(),
            calm: false,
        };
        let first = world.mail.pop().unwrap();
        world.happen(first);
        world
    }

    /// Applies and journals an event, and checks what must hold after every one.
    fn happen(&mut self, event: Event) {
        let record = Record { at: self.now, event };
        let mut commands = Vec::new();
        let before = self.state.clone();
        if !apply(&self.plan, &mut self.state, &record, &mut commands) {
            assert_eq!(before, self.state, "an ignored event leaves no trace: {record:?}");
            assert!(commands.is_empty());
            return;
        }
        self.journal.push(record);
        self.commands.extend(commands);
        for (place, (old, new)) in (0..).zip(before.steps.iter().zip(&self.state.steps)) {
            assert!(old.status == new.status || !old.status.is_final(), "a final step changed");
            if new.status == StepStatus::Succeeded {
                let first = self.accepted.entry(place).or_insert(new.output);
                assert_eq!(*first, new.output, "one accepted result per step");
            }
        }
        let mut counts = [0; StepStatus::COUNT];
        for step in &self.state.steps {
            counts[step.status as usize] += 1;
        }
        assert_eq!(counts, self.state.counts);
    }

    fn replayed(&self) -> State {
        let (mut state, from) = match &self.snapshot {
            Some((from, text)) => {
                let stored = serde_json::from_str(text).unwrap();
                (State::restore(&self.plan, stored).unwrap(), *from)
            }
            None => (State::new(&self.plan), 0),
        };
        for record in &self.journal[from..] {
            let text = serde_json::to_string(record).unwrap();
            let record: Record = serde_json::from_str(&text).unwrap();
            assert!(apply(&self.plan, &mut state, &record, &mut Vec::new()));
        }
        state
    }

    fn crash(&mut self) {
        let state = self.replayed();
        assert_eq!(state, self.state, "the journal leads to the same state");
        self.state = state;
        self.mail.clear();
        self.timers.clear();
        self.watched.clear();
        self.commands = resume(&self.plan, &self.state);
    }

    fn carry_out(&mut self, command: Command) {
        if !still_wanted(&self.state, &command) {
            return;
        }
        match command {
            Command::Dispatch(step) => self.dispatch(step),
            Command::Watch(step, supervisor) => {
                self.watched.insert(step, supervisor);
                self.deliver(step, supervisor);
            }
            Command::Cancel(step, _) => {
                let reached = self.calm || !self.chance.one_in(3);
                if let Some(job) = self.jobs.get_mut(&step).filter(|job| reached && job.outcome.is_none()) {
                    job.outcome = Some(outcome(JobStatus::Cancelled, step));
                }
            }
            Command::Wake(timer, due) => {
                self.timers.insert((due, timer));
            }
            Command::Ended => assert!(self.state.status.is_final()),
        }
    }

    fn dispatch(&mut self, step: StepAttempt) {
        let StepAttempt(place, attempt) = step;
        for dependency in &self.plan.step(place).dependencies {
            let at = self.state.step(*dependency);
            let policy = &self.plan.step(*dependency).policy;
            assert!(at.status == StepStatus::Succeeded || at.failed_but_tolerated(policy));
        }
        assert!(!self.accepted.contains_key(&place), "a finished step ran again");
        let policy = &self.plan.step(place).policy;
        assert!(attempt <= policy.max_attempts.max(UNKNOWN_ATTEMPTS));
        if attempt > 1 && policy.on_unknown != Unknown::Retry && !policy.idempotent {
            let before = &self.jobs[&StepAttempt(place, attempt - 1)];
            let ended = before.outcome.as_ref().map(|o| (o.status, o.receipt.is_some()));
            assert!(matches!(ended, Some((JobStatus::Failed | JobStatus::TimedOut, true))), "{ended:?}");
        }
        let up: Vec<PeerId> = self.supervisors.iter().filter(|(_, up)| *up).map(|(peer, _)| *peer).collect();
        if up.is_empty() {
            self.commands.push(Command::Dispatch(step));
            return;
        }
        let supervisor = up[self.chance.below(up.len())];
        self.happen(Event::Dispatched { supervisor, steps: vec![step] });
        self.watched.insert(step, supervisor);
        if !self.calm && self.chance.one_in(12) {
            // It says that it has no room: it certainly did not take the job.
            self.watched.remove(&step);
            self.mail.push(Event::Returned { steps: vec![step] });
        } else if self.calm || !self.chance.one_in(6) {
            self.deliver(step, supervisor);
        }
    }

    /// The job reaches its supervisor, perhaps not for the first time.
    fn deliver(&mut self, step: StepAttempt, supervisor: PeerId) {
        if self.supervisors.iter().any(|(peer, up)| *peer == supervisor && *up) {
            let job = self.jobs.entry(step).or_insert(Job { supervisor, outcome: None });
            assert_eq!(job.supervisor, supervisor, "one attempt went to two supervisors");
        }
    }

    fn execute(&mut self, step: StepAttempt) {
        let status = match self.chance.below(10) {
            0 | 1 => JobStatus::Failed,
            2 => JobStatus::TimedOut,
            3 if self.chance.one_in(2) => JobStatus::Lost,
            4 if self.chance.one_in(8) => JobStatus::Cancelled,
            5 if self.chance.one_in(8) => JobStatus::Expired,
            _ => JobStatus::Succeeded,
        };
        self.jobs.get_mut(&step).unwrap().outcome = Some(outcome(status, step));
    }

    /// A watched job that has ended at a supervisor that can be asked: its result goes into the mail, at times twice.
    fn collect(&mut self, step: StepAttempt) {
        let Some(job) = self.jobs.get(&step) else {
            // Lost on the way: the driver sends it again, as the same job.
            let supervisor = self.watched[&step];
            self.deliver(step, supervisor);
            return;
        };
        let Some(outcome) = job.outcome.clone() else { return self.execute(step) };
        if self.chance.one_in(3) || self.calm {
            self.watched.remove(&step);
        }
        self.mail.push(Event::Finished { step, outcome });
    }

    fn flip_supervisor(&mut self) {
        let which = self.chance.below(self.supervisors.len());
        let (peer, up) = self.supervisors[which];
        self.supervisors[which].1 = !up;
        let steps: Vec<StepAttempt> =
            self.watched.iter().filter(|(_, at)| **at == peer).map(|(step, _)| *step).collect();
        if steps.is_empty() {
            return;
        }
        self.mail.push(if up {
            Event::Unreachable { steps, reason: "no answer".to_owned() }
        } else {
            Event::Reached { steps }
        });
    }

    fn tick(&mut self) {
        self.now = Timestamp::from_millis(self.now.as_millis() + 1 + self.chance.below(40) as i64);
        if self.calm {
            for place in 0..self.supervisors.len() {
                if !self.supervisors[place].1 {
                    self.flip_supervisor();
                }
            }
        } else {
            match self.chance.below(60) {
                0 => return self.crash(),
                1 | 2 => return self.flip_supervisor(),
                3 => {
                    let text = serde_json::to_string(&self.state.snapshot()).unwrap();
                    self.snapshot = Some((self.journal.len(), text));
                }
                4 if self.chance.one_in(12) => {
                    let by = self.supervisors[0].0;
                    self.mail.push(Event::CancelRequested { by });
                }
                5 if !self.journal.is_empty() => {
                    // Something that happened long ago is heard again.
                    let place = self.chance.below(self.journal.len());
                    let event = self.journal[place].event.clone();
                    if matches!(event, Event::Finished { .. } | Event::Woken { .. } | Event::Started) {
                        self.mail.push(event);
                    }
                }
                _ => {}
            }
        }
        let reachable: Vec<StepAttempt> = self
            .watched
            .iter()
            .filter(|(_, at)| self.supervisors.iter().any(|(peer, up)| peer == *at && *up))
            .map(|(step, _)| *step)
            .collect();
        let down = self.supervisors.iter().any(|(_, up)| !up);
        match self.chance.below(4) {
            0 if !self.commands.is_empty() => {
                let place = self.chance.below(self.commands.len());
                let command = self.commands.swap_remove(place);
                self.carry_out(command);
            }
            1 if !self.mail.is_empty() => {
                let place = self.chance.below(self.mail.len());
                let event = self.mail.swap_remove(place);
                self.happen(event);
            }
            2 if !reachable.is_empty() => {
                let step = reachable[self.chance.below(reachable.len())];
                self.collect(step);
            }
            3 if self.commands.is_empty() && self.mail.is_empty() => self.fire(),
            _ => {
                let idle = self.commands.is_empty()
                    && self.mail.is_empty()
                    && self.timers.is_empty()
                    && self.watched.is_empty();
                assert!(!idle || down || self.state.status.is_final(), "a state without a wake-up");
            }
        }
    }

    fn fire(&mut self) {
        let Some((due, timer)) = self.timers.pop_first() else { return };
        // The far deadline comes last: nothing else may be left to wait for.
        if due.as_millis() > 3_600_000 && !self.watched.is_empty() {
            self.timers.insert((due, timer));
            return;
        }
        if !still_wanted(&self.state, &Command::Wake(timer, due)) {
            return;
        }
        assert!(due.as_millis() < 3_600_000, "only the last deadline is left to wait for");
        self.now = self.now.max(due);
        self.happen(match timer {
            Timer::Step(step) => Event::Woken { step, due },
            Timer::Deadline => Event::DeadlinePassed,
            Timer::Grace => Event::GraceOver,
        });
    }
}

fn outcome(status: JobStatus, step: StepAttempt) -> Outcome {
    // Some of those that failed were refused by their runner.
    let refused = status == JobStatus::Failed && (step.0 + step.1).is_multiple_of(5);
    let proven = matches!(status, JobStatus::Succeeded | JobStatus::Failed | JobStatus::TimedOut) && !refused;
    Outcome {
        status,
        output: (status == JobStatus::Succeeded).then(|| Digest::of(format!("{step:?}").as_bytes())),
        error: (status != JobStatus::Succeeded)
            .then(|| JobError::new(if step.1 == 3 { "FATAL" } else { "TRY_AGAIN" }, "no luck")),
        receipt: proven.then(|| ReceiptPlace { batch: Digest::of(b"batch"), index: step.0 }),
        started_at: None,
        finished_at: None,
    }
}

fn run(seed: u64, peers: &[PeerId]) -> Ran {
    let ended = catch_unwind(AssertUnwindSafe(|| {
        let mut world = World::new(seed, peers);
        for tick in 0.. {
            world.calm = tick > 600;
            if world.state.status.is_final() {
                break;
            }
            assert!(tick < 60_000, "it does not end: {:?}", world.state);
            world.tick();
        }
        assert_eq!(world.replayed(), world.state);
        world.state.status
    }));
    let (trace, mut endings) = (Vec::new(), BTreeMap::new());
    let broken = match ended {
        Ok(status) => {
            endings.insert(status.as_str().to_owned(), 1);
            None
        }
        Err(_) => Some("the message above says why".to_owned()),
    };
    Ran { trace, broken, endings }
}

#[test]
fn thousands_of_random_workflows_end_whatever_happens() {
    let peers: Vec<PeerId> = (1..=3).map(|n| Identity::from_seed(&[n; 32]).peer_id()).collect();
    if let Some(endings) = run_seeds(2_000, |seed, _| run(seed, &peers)) {
        assert!(endings.len() == 3, "every ending occurs: {endings:?}");
    }
}
