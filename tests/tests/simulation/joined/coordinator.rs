//! A coordinator as its watchman and its methods make it: signs of life, taking over, submissions, and one driver for each workflow.

use std::collections::BTreeMap;

use horus_node::workflow::{Event, State};

use super::{
    Broken,
    drive::Drive,
    post::{Body, Letter},
    store::{ACTIVE, COORDINATORS, REQUESTS, StoreCall},
    world::{Me, Sight, World},
};
use crate::server::{list, number, texts};

/// How often it shows life, and looks at the others.
const BEAT_MS: i64 = 1_000;
/// How long the counter of a living one may stand still.
const DEAD_AFTER_MS: i64 = 5_000;
/// For how long an id without a workflow, or an own workflow without a driver, may still be one that is being submitted.
const BEING_SUBMITTED_MS: i64 = 30_000;
/// How often a site that is silent is asked whether it is there.
const ASK_MS: i64 = 1_000;

/// Where a submission is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Submission {
    Known,
    Note,
    Create,
    /// It is stored and driven; it is noted once more before the submitter is told.
    Confirm,
}

/// A workflow that becomes this one's own: under that epoch, and whether a submitter waits for it.
#[derive(Debug, Clone, Copy)]
struct Taking {
    epoch: u64,
    submitted: bool,
}

pub(crate) struct Coordinator {
    pub(crate) me: Me,
    n: usize,
    lives: usize,
    down_until: i64,
    round_due: i64,
    looked: i64,
    /// What is known of the others: their counters, and for how long they stood still while this one looked.
    seen: BTreeMap<String, (String, i64)>,
    /// Since when a workflow is odd.
    odd: BTreeMap<usize, i64>,
    submissions: BTreeMap<usize, Submission>,
    taking: BTreeMap<usize, Taking>,
    pub(crate) drives: BTreeMap<usize, Drive>,
    /// Calls that ask a silent site whether it is there.
    asked: BTreeMap<u64, usize>,
}

fn members(reply: &redis::Value) -> Vec<String> {
    // A set comes as such, or as a list.
    let all = match reply {
        redis::Value::Set(values) => values.iter().map(crate::server::text).collect(),
        other => texts(other),
    };
    let mut all: Vec<String> = all;
    all.sort();
    all
}

fn pairs(reply: &redis::Value) -> BTreeMap<String, String> {
    list(reply).chunks(2).map(|pair| (crate::server::text(&pair[0]), crate::server::text(&pair[1]))).collect()
}

impl Coordinator {
    pub(crate) fn new(n: usize, sites: usize) -> Self {
        let me = Me {
            instance: format!("c{n}.0"),
            ahead: 0,
            frozen_until: 0,
            cut_until: 0,
            sight: vec![Sight::default(); sites],
        };
        Self {
            me,
            n,
            lives: 0,
            down_until: 0,
            round_due: 0,
            looked: 0,
            seen: BTreeMap::new(),
            odd: BTreeMap::new(),
            submissions: BTreeMap::new(),
            taking: BTreeMap::new(),
            drives: BTreeMap::new(),
            asked: BTreeMap::new(),
        }
    }

    pub(crate) fn is_up(&self, now: i64) -> bool {
        now >= self.down_until
    }

    pub(crate) fn is_quiet(&self) -> bool {
        self.submissions.is_empty() && self.taking.is_empty() && self.drives.values().all(Drive::is_quiet)
    }

    pub(crate) fn next_timer(&self) -> Option<i64> {
        let drives = self.drives.values().filter_map(Drive::next_timer);
        drives.chain(self.odd.values().map(|since| since + BEING_SUBMITTED_MS)).min()
    }

    /// It is killed, and another process begins after a while.
    fn crash(&mut self, now: i64, pause: i64) {
        let (n, lives, ahead) = (self.n, self.lives + 1, self.me.ahead);
        *self = Self::new(n, self.me.sight.len());
        self.lives = lives;
        self.me.ahead = ahead;
        self.me.instance = format!("c{n}.{lives}");
        (self.down_until, self.looked) = (now + pause, now + pause);
    }

    /// It does one thing.
    pub(crate) fn turn(&mut self, world: &mut World<'_>) {
        let now = world.shared.at.mono;
        let shared = &mut world.shared;
        if shared.calm {
            (self.down_until, self.me.frozen_until, self.me.cut_until) = (0, 0, 0);
        } else {
            if !self.is_up(now) || now < self.me.frozen_until {
                return;
            }
            if shared.chance.one_in(shared.faults.crash) {
                let (who, pause) = (self.me.instance.clone(), shared.chance.ms(8_000));
                shared.tell(|| format!("{who} is killed"));
                return self.crash(now, pause);
            }
            if shared.chance.one_in(shared.faults.freeze) {
                let most = if shared.chance.one_in(4) { 50_000 } else { 12_000 };
                let until = now + shared.chance.ms(most);
                let (stands, who) = (shared.chance.one_in(2), self.me.instance.clone());
                *(if stands { &mut self.me.frozen_until } else { &mut self.me.cut_until }) = until;
                shared.tell(|| {
                    format!("{who} {} for {} ms", ["is cut off", "stands still"][usize::from(stands)], until - now)
                });
                return;
            }
        }
        if now >= self.round_due && !shared.chance.one_in(3) {
            self.round_due = now + BEAT_MS;
            _ = self.round(world);
            return;
        }
        let mut duties: Vec<usize> = self.submissions.keys().chain(self.taking.keys()).copied().collect();
        duties.extend(self.drives.keys());
        if duties.is_empty() || shared.chance.one_in(8) {
            return self.ask(world);
        }
        let flow = *shared.chance.pick(&duties);
        if self.taking.contains_key(&flow) {
            self.take(world, flow);
        } else if let Some(submission) = self.submissions.get(&flow).copied() {
            if self.go_on(world, flow, submission).is_none() {
                // The submitter hears of an error, and tries again.
                self.submissions.remove(&flow);
            }
        } else if let Some(drive) = self.drives.get_mut(&flow) {
            drive.turn(&mut self.me, world);
            if drive.is_over {
                self.drives.remove(&flow);
            }
        }
    }

    /// A silent site is asked whether it is there.
    fn ask(&mut self, world: &mut World<'_>) {
        let now = world.shared.at.mono;
        for (site, sight) in self.me.sight.iter_mut().enumerate() {
            if sight.silent_since.is_some() && now >= sight.ask_at {
                sight.ask_at = now + ASK_MS;
                let call = world.call(&self.me.instance, site, usize::MAX, Body::Wait(Vec::new()));
                self.asked.insert(call, site);
            }
        }
    }

    /// A letter for it.
    pub(crate) fn receive(&mut self, world: &mut World<'_>, letter: Letter) {
        if let Some(site) = self.asked.remove(&letter.call) {
            if !matches!(letter.body, Body::NotSent | Body::Trouble) {
                self.me.sight[site].answered();
            }
        } else if let Some(drive) = self.drives.get_mut(&letter.flow) {
            drive.receive(&mut self.me, world, letter.call, letter.body);
        }
    }

    /// Somebody submits a workflow here.
    pub(crate) fn submit(&mut self, flow: usize) {
        self.submissions.entry(flow).or_insert(Submission::Known);
    }

    /// Somebody wants a workflow cancelled: its driver hears of it, here or by a note for it.
    pub(crate) fn cancel(&mut self, world: &mut World<'_>, flow: usize) {
        let by = world.peers[0];
        if let Some(drive) = self.drives.get_mut(&flow) {
            drive.inbox.push_back(Event::CancelRequested { by });
        } else if !world.flows[flow].truth.status.is_final() {
            let name = world.flows[flow].name.clone();
            world.store(&self.me, StoreCall::new("HSETNX", vec![REQUESTS.to_owned()], [&name, &by.to_string()]));
        }
    }

    fn is_dead(&self, instance: &str) -> bool {
        self.seen.get(instance).is_none_or(|(_, still)| *still >= DEAD_AFTER_MS)
    }

    /// Signs of life, requests, and workflows that nobody drives. `None`: Redis did not answer.
    fn round(&mut self, world: &mut World<'_>) -> Option<()> {
        let key = || vec![COORDINATORS.to_owned()];
        world.store(&self.me, StoreCall::new("HINCRBY", key(), [&self.me.instance, "1"]))?;
        let beats = pairs(&world.store(&self.me, StoreCall::new("HGETALL", key(), []))?);
        let now = world.shared.at.mono;
        let passed = (now - self.looked).min(2 * BEAT_MS);
        self.looked = now;
        self.seen.retain(|instance, _| beats.contains_key(instance));
        for (instance, beat) in beats {
            match self.seen.get_mut(&instance) {
                Some((last, still)) if *last == beat => *still += passed,
                _ => _ = self.seen.insert(instance, (beat, 0)),
            }
        }
        let requests = pairs(&world.store(&self.me, StoreCall::new("HGETALL", vec![REQUESTS.to_owned()], []))?);
        for (name, by) in requests {
            self.requested(world, &name, &by)?;
        }
        let active = members(&world.store(&self.me, StoreCall::new("SMEMBERS", vec![ACTIVE.to_owned()], []))?);
        for flow in 0..world.flows.len() {
            let name = world.flows[flow].name.clone();
            let is_active = active.contains(&name);
            if !is_active {
                self.odd.remove(&flow);
                // Taken out by one that took it for a submission that came to nothing: nobody would find it again.
                if self.drives.get(&flow).is_some_and(|drive| !drive.state.status.is_final()) {
                    world.store(&self.me, StoreCall::new("SADD", vec![ACTIVE.to_owned()], [&name]))?;
                }
            } else if !self.drives.contains_key(&flow) && !self.taking.contains_key(&flow) {
                self.look_at(world, flow)?;
            }
        }
        Some(())
    }

    /// A request is done once it is written down, or comes too late.
    fn requested(&mut self, world: &mut World<'_>, name: &str, by: &str) -> Option<()> {
        let flow = world.flows.iter().position(|flow| flow.name == name)?;
        let heard = match self.drives.get_mut(&flow) {
            Some(drive) if drive.has_written_stop() => true,
            Some(drive) => {
                drive.inbox.push_back(Event::CancelRequested { by: by.parse().expect("a key was noted") });
                world.rule == Some(Broken::ForgetsRequests)
            }
            // Nothing is to be done about what has ended.
            None => world.flows[flow].truth.status.is_final(),
        };
        if heard {
            world.store(&self.me, StoreCall::new("HDEL", vec![REQUESTS.to_owned()], [name]))?;
        }
        Some(())
    }

    /// The owner and epoch of a workflow, if it is stored.
    fn owner(&self, world: &mut World<'_>, flow: usize) -> Option<Option<(String, String)>> {
        let key = world.flows[flow].key("meta");
        let mut meta = pairs(&world.store(&self.me, StoreCall::new("HGETALL", vec![key], []))?);
        Some(meta.remove("owner").zip(meta.remove("epoch")))
    }

    fn look_at(&mut self, world: &mut World<'_>, flow: usize) -> Option<()> {
        let owner = self.owner(world, flow)?;
        let now = world.shared.at.mono;
        let is_odd = owner.as_ref().is_none_or(|(owner, _)| *owner == self.me.instance);
        let for_long = is_odd && now - *self.odd.entry(flow).or_insert(now) >= BEING_SUBMITTED_MS;
        if !is_odd {
            self.odd.remove(&flow);
        }
        let Some((owner, epoch)) = owner else {
            if for_long {
                let name = world.flows[flow].name.clone();
                world.store(&self.me, StoreCall::new("SREM", vec![ACTIVE.to_owned()], [&name]))?;
            }
            return Some(());
        };
        if if is_odd { for_long } else { self.is_dead(&owner) } {
            self.take_over(world, flow, &owner, &epoch, false)?;
        }
        Some(())
    }

    fn take_over(
        &mut self,
        world: &mut World<'_>,
        flow: usize,
        owner: &str,
        epoch: &str,
        submitted: bool,
    ) -> Option<bool> {
        let key = vec![world.flows[flow].key("meta")];
        let reply = world.store(&self.me, StoreCall::new("take_over", key, [owner, epoch, &self.me.instance]))?;
        let epoch = number(&reply).unsigned_abs();
        if epoch > 0 {
            self.taking.insert(flow, Taking { epoch, submitted });
        }
        Some(epoch > 0)
    }

    /// A workflow that has become its own is read and driven.
    fn take(&mut self, world: &mut World<'_>, flow: usize) {
        let Some(Taking { epoch, submitted }) = self.taking.remove(&flow) else { return };
        // It may have been taken from here meanwhile.
        if world.flows[flow].owner != (self.me.instance.clone(), epoch) {
            return;
        }
        if let Some(state) = world.load(&self.me, flow) {
            self.odd.remove(&flow);
            let drive = Drive::new(flow, epoch, state, &world.flows[flow].plan, &mut world.shared.chance);
            self.drives.insert(flow, drive);
            if submitted {
                self.submissions.insert(flow, Submission::Confirm);
            }
        }
    }

    /// A submission goes on. `None`: its submitter hears of an error.
    fn go_on(&mut self, world: &mut World<'_>, flow: usize, submission: Submission) -> Option<()> {
        let name = world.flows[flow].name.clone();
        let next = match submission {
            Submission::Known => match self.owner(world, flow)? {
                None => Submission::Note,
                Some((owner, epoch)) if owner == self.me.instance && !self.drives.contains_key(&flow) => {
                    // It was stored, but the answer of Redis was lost on the way, and with it its driver.
                    self.submissions.remove(&flow);
                    if !self.taking.contains_key(&flow) && !world.flows[flow].truth.status.is_final() {
                        self.take_over(world, flow, &owner, &epoch, true)?;
                    }
                    return Some(());
                }
                Some(_) if world.flows[flow].truth.status.is_final() => return self.answer(world, flow),
                Some(_) => Submission::Confirm,
            },
            Submission::Note => {
                world.store(&self.me, StoreCall::new("SADD", vec![ACTIVE.to_owned()], [&name]))?;
                Submission::Create
            }
            Submission::Create => {
                let keys = ["meta", "envelope", "journal"].map(|part| world.flows[flow].key(part)).to_vec();
                let steps = world.flows[flow].plan.steps().len().to_string();
                let args = ["d", "s", &name, "0", "0", &steps, &self.me.instance, "", "{}"];
                let reply = world.store(&self.me, StoreCall::new("create", keys, args))?;
                // Somebody was faster.
                if texts(&reply)[0] != "1" {
                    return self.answer(world, flow);
                }
                let plan = &world.flows[flow].plan;
                let drive = Drive::new(flow, 1, State::new(plan), plan, &mut world.shared.chance);
                self.drives.insert(flow, drive);
                Submission::Confirm
            }
            Submission::Confirm => {
                world.store(&self.me, StoreCall::new("SADD", vec![ACTIVE.to_owned()], [&name]))?;
                return self.answer(world, flow);
            }
        };
        self.submissions.insert(flow, next);
        let shared = &mut world.shared;
        if !shared.calm && shared.faults.freeze > 0 && shared.chance.one_in(8) {
            self.me.frozen_until = shared.at.mono + shared.chance.ms(50_000);
            shared.tell(|| format!("{} stands still in the middle of it", self.me.instance));
        }
        Some(())
    }

    /// The submitter is told that it is accepted, or hears nothing and submits again.
    fn answer(&mut self, world: &mut World<'_>, flow: usize) -> Option<()> {
        self.submissions.remove(&flow);
        let shared = &mut world.shared;
        if shared.calm || !shared.chance.one_in(shared.faults.network) {
            world.flows[flow].accepted = true;
            let name = &world.flows[flow].name;
            shared.tell(|| format!("{name} is accepted"));
        }
        Some(())
    }
}
