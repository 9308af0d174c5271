//! Everything that there is: sites with their queues, coordinators with their Redis, the network, clocks, and who submits.

use std::collections::BTreeMap;

use horus_keys::{Identity, PeerId, Timestamp};

use super::{
    Broken,
    coordinator::Coordinator,
    flow::{Flow, job_of, step_of},
    post::{Body, Letter, To},
    store::{ACTIVE, REQUESTS, StoreCall},
};
use crate::{
    plan::{random_deadline, random_plan},
    queue::site::{EPOCH, Shared, Site},
    server::Server,
};

/// Steps of a workflow at most.
const STEPS: usize = 12;
const DAY_MS: i64 = 24 * 3_600_000;

/// What the parts of a coordinator know of it.
pub(crate) struct Me {
    /// Names its process: another one after every crash.
    pub(crate) instance: String,
    /// By how much its wall clock is ahead.
    pub(crate) ahead: i64,
    /// Until then it does nothing.
    pub(crate) frozen_until: i64,
    /// Until then it does not reach its Redis.
    pub(crate) cut_until: i64,
    /// The supervisors, as it sees them.
    pub(crate) sight: Vec<Sight>,
}

/// How a site looks to a coordinator.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sight {
    /// Since when it has not answered.
    pub(crate) silent_since: Option<i64>,
    /// Until then it gets no steps.
    pub(crate) full_until: i64,
    /// When it is asked again whether it is there.
    pub(crate) ask_at: i64,
}

/// Silent for so long, nobody can say what becomes of its jobs.
const SILENCE_MS: i64 = 6_000;

impl Sight {
    pub(crate) fn is_lost(&self, now: i64) -> bool {
        self.silent_since.is_some_and(|since| now - since >= SILENCE_MS)
    }

    pub(crate) fn silent(&mut self, now: i64) {
        self.silent_since.get_or_insert(now);
    }

    pub(crate) fn answered(&mut self) {
        self.silent_since = None;
    }
}

/// All but the coordinators.
pub(crate) struct World<'a> {
    pub(crate) shared: Shared<'a>,
    pub(crate) sites: Vec<Site>,
    /// The key of each site's supervisors.
    pub(crate) peers: Vec<PeerId>,
    /// By how much the clock of each site is ahead.
    ahead: Vec<i64>,
    pub(crate) flows: Vec<Flow>,
    pub(crate) letters: Vec<Letter>,
    /// What was answered to calls: one that comes again gets the same.
    pub(crate) answered: BTreeMap<u64, Body>,
    pub(crate) calls: u64,
    /// Calls of coordinators to their Redis that were given up, and are still under way.
    pub(crate) late: Vec<StoreCall>,
    /// The rule that is broken on purpose.
    pub(crate) rule: Option<Broken>,
}

/// The whole simulation.
pub(crate) struct Simulation<'a> {
    pub(crate) world: World<'a>,
    pub(crate) coordinators: Vec<Coordinator>,
}

impl World<'_> {
    /// Something happens at a site, by its clock.
    pub(crate) fn at_site<T>(&mut self, n: usize, what: impl FnOnce(&mut Site, &mut Shared<'_>) -> T) -> T {
        let wall = self.shared.at.wall;
        self.shared.at.wall += self.ahead[n];
        let done = what(&mut self.sites[n], &mut self.shared);
        self.shared.at.wall = wall;
        done
    }

    /// What the clock of a coordinator shows.
    pub(crate) fn wall(&self, me: &Me) -> Timestamp {
        Timestamp::from_millis(self.shared.at.wall + me.ahead)
    }

    /// What a call executes must be what the journal of its workflow says.
    fn check_executions(&mut self) {
        for site in 0..self.sites.len() {
            for (job, _) in std::mem::take(&mut self.sites[site].began) {
                let Some((name, step)) = step_of(&job) else { continue };
                let flow = self.flows.iter().find(|flow| flow.name == name).expect("its jobs were made for it");
                let why = if !flow.sites_of(step, &self.peers).contains(&site) {
                    format!("{job} runs at site {site}, and no journal says that it was sent there")
                } else if let Err(why) = flow.may_follow(step, &self.sites, &self.peers) {
                    why
                } else if flow.results.get(&step.0).is_some_and(|(attempt, _)| *attempt == step.1)
                    && !self.sites[site].jobs[&job].idempotent
                {
                    format!("{job} begins, and has a result")
                } else {
                    continue;
                };
                self.shared.breaks(why);
            }
        }
    }
}

impl<'a> Simulation<'a> {
    pub(crate) fn new(seed: u64, server: &'a mut Server, tells: bool, rule: Option<Broken>) -> Self {
        let mut shared = Shared::new(seed, server, tells);
        let chance = &mut shared.chance;
        let sites: Vec<Site> = (0..2 + usize::from(chance.one_in(3)))
            .map(|n| {
                let mut site = Site::new(&format!("site{n}"), chance.one_in(6), 2, chance.below(6));
                (site.longest, site.steered) = (4, 15);
                site.keep = if chance.one_in(3) { 12 } else { 1_000 };
                site
            })
            .collect();
        let peers = (1..).take(sites.len()).map(|n| Identity::from_seed(&[n; 32]).peer_id()).collect();
        let flows = (0..1 + chance.below(3))
            .map(|n| {
                let lasts = if chance.one_in(6) { 20_000 + chance.ms(60_000) } else { 14 * DAY_MS };
                let deadline = random_deadline(chance, Timestamp::from_millis(EPOCH + lasts));
                let name = format!("flow{n}");
                let plan = random_plan(chance, &name, STEPS, deadline);
                Flow::new(name, plan)
            })
            .collect();
        let coordinators = (0..2).map(|n| Coordinator::new(n, sites.len())).collect();
        let world = World {
            shared,
            ahead: vec![0; sites.len()],
            sites,
            peers,
            flows,
            letters: Vec::new(),
            answered: BTreeMap::new(),
            calls: 0,
            late: Vec::new(),
            rule,
        };
        Self { world, coordinators }
    }

    /// Somebody takes the next step.
    pub(crate) fn step(&mut self) {
        let world = &mut self.world;
        world.shared.tick(if world.shared.calm { 80 } else { 40 });
        let hours = world.shared.jump();
        if hours != 0 {
            self.jump(hours);
        }
        let world = &mut self.world;
        match world.shared.chance.below(20) {
            0..10 => {
                let site = world.shared.chance.below(world.sites.len());
                world.at_site(site, Site::step);
                world.check_executions();
            }
            10..14 => {
                let n = world.shared.chance.below(self.coordinators.len());
                self.coordinators[n].turn(world);
            }
            14..18 => self.deliver(),
            _ => self.rest(),
        }
        self.check_wake_ups();
        if self.world.shared.calm && self.is_quiet() {
            self.skip();
        }
    }

    fn jump(&mut self, by: i64) {
        let world = &mut self.world;
        let n = world.shared.chance.below(world.sites.len() + self.coordinators.len());
        let seconds = by / 1000;
        if let Some(ahead) = world.ahead.get_mut(n) {
            *ahead += by;
            world.shared.tell(|| format!("the clock of site {n} jumps by {seconds} s"));
        } else {
            let me = &mut self.coordinators[n - world.ahead.len()].me;
            me.ahead += by;
            world.shared.tell(|| format!("the clock of {} jumps by {seconds} s", me.instance));
        }
    }

    /// A letter whose time has come is delivered.
    fn deliver(&mut self) {
        let world = &mut self.world;
        let now = world.shared.at.mono;
        let due: Vec<usize> = (0..world.letters.len()).filter(|n| world.letters[*n].due <= now).collect();
        if due.is_empty() {
            return;
        }
        let letter = world.letters.swap_remove(*world.shared.chance.pick(&due));
        match letter.to.clone() {
            To::Site(site) => world.arrive(site, letter),
            To::Coordinator(name) => {
                let Some(reader) = self.coordinators.iter_mut().find(|one| one.is_up(now) && one.me.instance == name)
                else {
                    return;
                };
                if now < reader.me.frozen_until {
                    world.letters.push(Letter { due: reader.me.frozen_until, ..letter });
                } else {
                    reader.receive(world, letter);
                }
            }
        }
    }

    /// Calls that are still under way arrive, submitters submit, and now and then somebody wants a workflow cancelled.
    fn rest(&mut self) {
        let world = &mut self.world;
        if !world.late.is_empty() && world.shared.chance.one_in(3) {
            let call = world.late.swap_remove(world.shared.chance.below(world.late.len()));
            if !world.shared.chance.one_in(4) {
                world.execute("late", "", &call);
            }
            return;
        }
        let n = world.shared.chance.below(self.coordinators.len());
        let flow = world.shared.chance.below(world.flows.len());
        let one = &mut self.coordinators[n];
        let now = world.shared.at.mono;
        if !one.is_up(now) || now < one.me.frozen_until {
            return;
        }
        if !world.flows[flow].accepted {
            one.submit(flow);
        } else if !world.shared.calm && world.shared.chance.one_in(300) {
            one.cancel(world, flow);
        }
    }

    /// Whatever has not ended has a wake-up.
    fn check_wake_ups(&mut self) {
        let world = &mut self.world;
        for one in &self.coordinators {
            for drive in one.drives.values() {
                if drive.is_stuck() {
                    let (name, state) = (&world.flows[drive.flow].name, &drive.state);
                    world.shared.breaks(format!("nothing wakes {name} up at {}: {state:?}", one.me.instance));
                }
            }
        }
    }

    /// Nothing is under way; whatever goes on waits for its time.
    fn is_quiet(&self) -> bool {
        let world = &self.world;
        world.letters.is_empty()
            && world.late.is_empty()
            && world.sites.iter().all(|site| site.is_done() || site.waits_for_time())
            && self.coordinators.iter().all(Coordinator::is_quiet)
            && world.flows.iter().all(|flow| flow.accepted)
    }

    /// Time in which nothing would happen passes at once.
    fn skip(&mut self) {
        let next = self.coordinators.iter().filter_map(Coordinator::next_timer).min();
        let world = &mut self.world;
        let delayed = world.sites.iter().any(|site| !site.is_done());
        let now = world.shared.at.mono;
        let by = match next {
            Some(next) if !delayed => next - now,
            _ if delayed => 60_000,
            _ => 0,
        };
        if by > 0 {
            world.shared.at.mono += by;
            world.shared.at.wall += by;
            world.shared.tell(|| format!("{by} ms pass"));
        }
    }

    /// Everything has ended, and everybody knows.
    pub(crate) fn is_done(&self) -> bool {
        let world = &self.world;
        world.sites.iter().all(Site::is_done)
            && world.letters.is_empty()
            && world.late.is_empty()
            && world.flows.iter().all(|flow| flow.accepted && !flow.must_end() && !flow.active)
            && self.coordinators.iter().all(|one| one.drives.is_empty())
    }

    /// What has not ended, for the reader of a seed that does not come to its end.
    pub(crate) fn what_is_left(&self) -> Vec<String> {
        let world = &self.world;
        let mut left = vec![format!("{} letters, {} late calls", world.letters.len(), world.late.len())];
        for flow in world.flows.iter().filter(|flow| flow.must_end() || !flow.accepted || flow.active) {
            let steps: Vec<&str> = flow.truth.steps.iter().map(|step| step.status.as_str()).collect();
            left.push(format!("{} of {:?}: {:?} {steps:?}", flow.name, flow.owner, flow.truth.status));
        }
        left.extend(self.coordinators.iter().map(|one| format!("{} drives {}", one.me.instance, one.drives.len())));
        left.extend(
            world.sites.iter().enumerate().filter(|(_, site)| !site.is_done()).map(|(n, _)| format!("site {n}")),
        );
        left
    }

    /// What must hold at the end.
    pub(crate) fn audit(&mut self) {
        let world = &mut self.world;
        for site in 0..world.sites.len() {
            world.at_site(site, Site::audit);
        }
        let requests = world.execute("the end", "", &StoreCall::new("HGETALL", vec![REQUESTS.to_owned()], []));
        let active = world.execute("the end", "", &StoreCall::new("SMEMBERS", vec![ACTIVE.to_owned()], []));
        let left = [crate::server::texts(&requests), crate::server::texts(&active)].concat();
        if !left.is_empty() {
            world.shared.breaks(format!("it is all over, and this is left: {left:?}"));
        }
        for flow in 0..world.flows.len() {
            let flow = &world.flows[flow];
            for (step, (attempt, output)) in &flow.results {
                let at = flow.truth.step(*step);
                if (at.attempt, at.output) != (*attempt, *output) {
                    let job = job_of(&flow.name, horus_node::workflow::StepAttempt(*step, *attempt));
                    world.shared.breaks(format!("{job} was taken, and {at:?} is kept"));
                    return;
                }
            }
        }
    }
}
