//! The driver of one workflow: events in, journal, commands out. What it does is what the coordinator's driver does.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use horus_keys::Timestamp;
use horus_node::workflow::{
    Command, Event, Plan, Record, State, StepAttempt, StepIndex, StepStatus, Timer, WorkflowStatus, resume,
    still_wanted, time_until,
};
use horus_tests::Chance;

use super::{
    Broken,
    courier::{Cancel, Courier, Poll, Watched},
    flow::happen,
    store::{ACTIVE, REQUESTS, StoreCall},
    world::{Me, World},
};
use crate::server::text;

/// Jobs of one batch at most.
const BATCH: usize = 4;

/// Something for Redis: nothing else is done before it has heard it.
enum Chore {
    Append(Box<Append>),
    Snapshot(u64, String),
    RequestDone,
    NoteEnded,
}

/// What happened, and what follows once it is in the journal.
struct Append {
    before: u64,
    after: u64,
    status: WorkflowStatus,
    finished_at: Option<Timestamp>,
    records: Vec<Record>,
    then: Then,
}

struct Then {
    commands: Vec<Command>,
    /// Steps for each site.
    sent: Vec<(usize, Vec<StepAttempt>)>,
}

pub(crate) struct Drive {
    pub(crate) flow: usize,
    epoch: u64,
    pub(crate) state: State,
    pub(crate) inbox: VecDeque<Event>,
    /// Results that have come.
    pub(super) heard: Vec<Event>,
    /// What keeps it going after a restart.
    first: Vec<Command>,
    waiting: Vec<StepAttempt>,
    timers: BTreeSet<(i64, Timestamp, Timer)>,
    /// Steps at supervisors: the attempt whose result is wanted.
    pub(super) out: BTreeMap<StepIndex, u32>,
    pub(super) couriers: Vec<Courier>,
    pub(super) watched: BTreeMap<StepAttempt, Watched>,
    pub(super) polls: BTreeMap<u64, Poll>,
    /// When what is watched is asked about again.
    pub(super) poll_at: i64,
    pub(super) cancels: Vec<Cancel>,
    /// Sites that refuse a step.
    pub(super) refused_by: BTreeMap<StepIndex, BTreeSet<usize>>,
    chores: VecDeque<Chore>,
    latest: Timestamp,
    changes: usize,
    snapshot_after: usize,
    /// It has let go of the workflow, which has ended or is another's.
    pub(crate) is_over: bool,
}

impl Drive {
    pub(crate) fn new(flow: usize, epoch: u64, state: State, plan: &Plan, chance: &mut Chance) -> Self {
        let (mut first, mut inbox) = (resume(plan, &state), VecDeque::new());
        if state.status == WorkflowStatus::Pending {
            inbox.push_back(Event::Started);
            first.clear();
        }
        Self {
            flow,
            epoch,
            state,
            inbox,
            heard: Vec::new(),
            first,
            waiting: Vec::new(),
            timers: BTreeSet::new(),
            out: BTreeMap::new(),
            couriers: Vec::new(),
            watched: BTreeMap::new(),
            polls: BTreeMap::new(),
            poll_at: 0,
            cancels: Vec::new(),
            refused_by: BTreeMap::new(),
            chores: VecDeque::new(),
            latest: Timestamp::MIN,
            changes: 0,
            snapshot_after: 3 + chance.below(40),
            is_over: false,
        }
    }

    /// Nothing is about to happen before a timer.
    pub(crate) fn is_quiet(&self) -> bool {
        self.inbox.is_empty()
            && self.first.is_empty()
            && self.waiting.is_empty()
            && self.couriers.is_empty()
            && self.watched.is_empty()
            && self.polls.is_empty()
            && self.cancels.is_empty()
            && self.chores.is_empty()
    }

    pub(crate) fn next_timer(&self) -> Option<i64> {
        self.timers.first().map(|(at, ..)| *at)
    }

    /// It has not ended, and waits for nothing but the end of its time.
    pub(crate) fn is_stuck(&self) -> bool {
        let last = |(_, _, timer): &(i64, Timestamp, Timer)| *timer == Timer::Deadline;
        self.is_quiet() && !self.is_over && self.timers.iter().all(last)
    }

    /// That it is to stop is in the journal.
    pub(crate) fn has_written_stop(&self) -> bool {
        let written = !self.chores.iter().any(|chore| matches!(chore, Chore::Append(_)));
        written && (self.state.stop.is_some() || self.state.status.is_final())
    }

    /// It does one thing.
    pub(crate) fn turn(&mut self, me: &mut Me, world: &mut World<'_>) {
        if !self.chores.is_empty() {
            if world.rule == Some(Broken::SendsFirst) {
                self.carry(me, world);
            }
            return self.chore(me, world);
        }
        if !world.shared.calm && !self.heard.is_empty() && world.shared.chance.one_in(40) {
            // Something that was heard long ago is heard again.
            let event = world.shared.chance.pick(&self.heard).clone();
            self.inbox.push_back(event);
        }
        let now = world.shared.at.mono;
        let due = self.timers.first().is_some_and(|(at, ..)| *at <= now);
        let happens = !self.inbox.is_empty() || !self.first.is_empty() || due;
        let assigns = !self.waiting.is_empty() && world.shared.chance.one_in(3);
        if (happens || assigns) && !world.shared.chance.one_in(4) {
            return self.happen(me, world);
        }
        self.carry(me, world);
    }

    /// Lets things happen, and journals them.
    fn happen(&mut self, me: &mut Me, world: &mut World<'_>) {
        let count = 1 + world.shared.chance.below(4);
        let mut events: Vec<Event> = self.inbox.drain(..count.min(self.inbox.len())).collect();
        let now = world.shared.at.mono;
        while let Some((at, due, timer)) = self.timers.first().copied().filter(|(at, ..)| *at <= now) {
            self.timers.remove(&(at, due, timer));
            if !still_wanted(&self.state, &Command::Wake(timer, due)) {
                continue;
            }
            self.latest = self.latest.max(due);
            events.push(match timer {
                Timer::Step(step) => Event::Woken { step, due },
                Timer::Deadline => Event::DeadlinePassed,
                Timer::Grace => Event::GraceOver,
            });
        }
        // For one workflow time never goes back.
        self.latest = self.latest.max(world.wall(me));
        let (before, at) = (self.state.sequence, self.latest);
        let mut commands = std::mem::take(&mut self.first);
        let mut records = Vec::new();
        let plan = &world.flows[self.flow].plan;
        for event in events {
            let record = Record { at, event };
            if happen(world.rule, plan, &mut self.state, &record, &mut commands) {
                records.push(record);
            }
        }
        commands.retain(|command| still_wanted(&self.state, command));
        let ready = commands.iter().filter_map(|command| match command {
            Command::Dispatch(step) => Some(*step),
            _ => None,
        });
        self.waiting.extend(ready);
        let sent = self.assign(me, world, at, &mut records, &mut commands);
        let then = Then { commands, sent };
        if records.is_empty() {
            return self.follow(me, world, &[], then);
        }
        self.changes += records.len();
        let (after, status, finished_at) = (self.state.sequence, self.state.status, self.state.finished_at);
        let mut append = Append { before, after, status, finished_at, records, then };
        if world.rule == Some(Broken::SendsFirst) {
            for (site, steps) in std::mem::take(&mut append.then.sent) {
                self.deliver(world, site, &steps, false);
            }
        }
        self.chores.push_back(Chore::Append(Box::new(append)));
        self.chore(me, world);
    }

    /// Gives ready steps to sites that are believed to be there.
    fn assign(
        &mut self,
        me: &Me,
        world: &mut World<'_>,
        at: Timestamp,
        records: &mut Vec<Record>,
        commands: &mut Vec<Command>,
    ) -> Vec<(usize, Vec<StepAttempt>)> {
        let now = world.shared.at.mono;
        let mut groups: BTreeMap<usize, Vec<StepAttempt>> = BTreeMap::new();
        let mut left = Vec::new();
        for step in std::mem::take(&mut self.waiting) {
            if !still_wanted(&self.state, &Command::Dispatch(step)) || left.contains(&step) {
                continue;
            }
            let refused = self.refused_by.get(&step.0);
            let fits = |site: &usize| {
                let sight = &me.sight[*site];
                !sight.is_lost(now) && sight.full_until <= now && !refused.is_some_and(|by| by.contains(site))
            };
            let sites: Vec<usize> = (0..me.sight.len()).filter(fits).collect();
            if sites.is_empty() {
                left.push(step);
            } else {
                let group = groups.entry(*world.shared.chance.pick(&sites)).or_default();
                if !group.contains(&step) {
                    group.push(step);
                }
            }
        }
        self.waiting = left;
        let mut sent = Vec::new();
        for (site, steps) in groups {
            for steps in steps.chunks(BATCH) {
                let event = Event::Dispatched { supervisor: world.peers[site], steps: steps.to_vec() };
                let record = Record { at, event };
                if happen(world.rule, &world.flows[self.flow].plan, &mut self.state, &record, commands) {
                    records.push(record);
                    sent.push((site, steps.to_vec()));
                }
            }
        }
        sent
    }

    /// What Redis has to hear is said until it is heard.
    fn chore(&mut self, me: &mut Me, world: &mut World<'_>) {
        let Some(chore) = self.chores.front() else { return };
        let flow = &world.flows[self.flow];
        let writer = format!("{} {}", me.instance, self.epoch);
        let call = match chore {
            Chore::Append(append) => {
                let keys = ["meta", "journal", "outputs", "receipts"].map(|part| flow.key(part)).to_vec();
                let (before, after) = (append.before.to_string(), append.after.to_string());
                let finished = append.finished_at.map_or_else(String::new, |at| at.as_millis().to_string());
                let count = append.records.len().to_string();
                let mut call = StoreCall::new(
                    "append",
                    keys,
                    [&writer, &before, &after, append.status.as_str(), &finished, &count],
                );
                let texts = append.records.iter().map(|record| serde_json::to_string(record).expect("it is JSON"));
                call.args.extend(texts);
                call.args.extend(["0".to_owned(), "0".to_owned()]);
                call
            }
            Chore::Snapshot(sequence, snapshot) => {
                let keys = ["meta", "snapshot", "journal"].map(|part| flow.key(part)).to_vec();
                StoreCall::new("snapshot", keys, [&writer, &sequence.to_string(), snapshot])
            }
            Chore::RequestDone => StoreCall::new("HDEL", vec![REQUESTS.to_owned()], [&flow.name]),
            Chore::NoteEnded => StoreCall::new("SREM", vec![ACTIVE.to_owned()], [&flow.name]),
        };
        let what = call.what;
        let Some(reply) = world.store(me, call) else { return };
        match (what, text(&reply).as_str()) {
            ("append", "OK" | "DONE") => {
                let Some(Chore::Append(append)) = self.chores.pop_front() else { return };
                let flow = &world.flows[self.flow];
                if self.state != flow.truth {
                    let name = &flow.name;
                    let why = format!("workflow {name}: its journal was written, and is not where {writer} is");
                    return world.shared.breaks(why);
                }
                self.follow(me, world, &append.records, append.then);
            }
            ("append" | "snapshot", "FENCED") => self.is_over = true,
            ("append" | "snapshot", answer) if answer != "OK" => {
                let why = format!("Redis has lost nothing, and answers {writer} with {answer}");
                world.shared.breaks(why);
            }
            _ => {
                self.chores.pop_front();
                self.is_over = matches!(what, "SREM");
            }
        }
    }

    /// Does what follows from what is in the journal.
    fn follow(&mut self, me: &mut Me, world: &mut World<'_>, records: &[Record], then: Then) {
        self.let_go(records);
        for (site, steps) in then.sent {
            self.deliver(world, site, &steps, false);
        }
        let mut ended = false;
        let mut watch: BTreeMap<usize, Vec<StepAttempt>> = BTreeMap::new();
        for command in then.commands {
            match command {
                Command::Dispatch(_) => {}
                Command::Watch(..) if world.rule == Some(Broken::ForgetsJobs) => {}
                Command::Watch(step, peer) => {
                    let site = world.peers.iter().position(|known| *known == peer).expect("it was sent there");
                    watch.entry(site).or_default().push(step);
                }
                Command::Cancel(step, peer) => {
                    let site = world.peers.iter().position(|known| *known == peer).expect("it was sent there");
                    self.cancels.push(Cancel::new(site, step, world.shared.at.mono));
                }
                Command::Wake(timer, due) => {
                    let plan = &world.flows[self.flow].plan;
                    let wait = time_until(plan, &self.state, timer, due, world.wall(me));
                    let wait = i64::try_from(wait.as_millis()).expect("it is no longer than a workflow may take");
                    self.timers.insert((world.shared.at.mono + wait, due, timer));
                }
                Command::Ended => ended = true,
            }
        }
        for (site, steps) in watch {
            for steps in steps.chunks(BATCH) {
                self.deliver(world, site, steps, true);
            }
        }
        if ended || self.changes >= self.snapshot_after {
            self.changes = 0;
            let snapshot = serde_json::to_string(&self.state.snapshot()).expect("it is JSON");
            self.chores.push_back(Chore::Snapshot(self.state.sequence, snapshot));
        }
        if ended {
            self.chores.extend([Chore::RequestDone, Chore::NoteEnded]);
        }
    }

    /// Nobody needs to wait any more for the jobs of steps that went on or ended.
    fn let_go(&mut self, records: &[Record]) {
        let look = |step: &StepAttempt| {
            let at = self.state.step(step.0);
            if self.out.get(&step.0).is_some_and(|out| !at.status.has_job() || at.attempt != *out) {
                self.out.remove(&step.0);
            }
            if at.status.is_final() {
                self.refused_by.remove(&step.0);
            }
        };
        records.iter().flat_map(|record| record.event.may_let_go()).for_each(look);
    }

    /// A step that counts as unknown, and would fail by its timer, although its site has said that it has it.
    pub(super) fn is_unknown_in_vain(&self) -> Option<StepAttempt> {
        let told = |step| {
            let of_it = |event: &Event| matches!(event, Event::Reached { steps } if steps.contains(&step));
            self.inbox.iter().any(of_it)
        };
        let confirmed = self.watched.iter().filter(|(_, watch)| watch.is_confirmed()).map(|(step, _)| *step);
        let unknown = |step: &StepAttempt| self.state.step(step.0).status == StepStatus::Unknown;
        confirmed.filter(unknown).find(|step| self.is_wanted(*step) && !told(*step))
    }

    pub(super) fn is_wanted(&self, step: StepAttempt) -> bool {
        self.out.get(&step.0) == Some(&step.1)
    }

    fn deliver(&mut self, world: &World<'_>, site: usize, steps: &[StepAttempt], again: bool) {
        for step in steps {
            self.out.insert(step.0, step.1);
        }
        let flow = &world.flows[self.flow];
        let jobs = steps.iter().map(|step| super::courier::job(flow, &self.state, *step)).collect();
        self.couriers.push(Courier::new(site, jobs, again, world.shared.at.mono));
    }
}
