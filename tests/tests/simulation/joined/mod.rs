//! Coordinators that drive random workflows over real queues, under one seed.
//!
//! The engine, its plans, journals and snapshots are those of `horus_node::workflow`; what is stored goes through the scripts of the
//! coordinator's store, and jobs through those of the queue, with the submitters, supervisors and workers of [`crate::queue`]. What lies
//! between - drivers, deliveries, polls, taking over - is told anew here, as state machines that do one thing at a time.
//!
//! Coordinators crash between any two calls, stand still, are cut off from Redis and taken over from; supervisors vanish; workers die, stand
//! still past their leases, or are told to stop; calls to Redis and messages are lost, doubled, delayed and reordered; the clock of any
//! machine jumps by hours. After every step the doctor looks at the queue that it happened to, and after every record [`flow`] at the
//! workflow that it belongs to.

mod coordinator;
mod courier;
mod drive;
mod flow;
mod post;
mod store;
mod world;

use std::collections::BTreeMap;

use crate::{
    seeds::{Ran, assert_same, run_seeds},
    server::{Mutation, Server},
};
use world::Simulation;

/// Steps in trouble, and steps in which everything must come to its end.
const TROUBLE: usize = 2_500;
const CALM: usize = 30_000;

/// A rule that is broken on purpose, outside of any script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Broken {
    /// The engine takes a second result of a step.
    TakesSecondResults,
    /// A driver sends before it has journalled.
    SendsFirst,
    /// After a restart nobody looks after the jobs that supervisors may have.
    ForgetsJobs,
    /// A request to cancel is done as soon as a driver has heard it.
    ForgetsRequests,
    /// What counted as unknown before a restart stays so although its supervisor confirms it.
    LeavesUnknown,
}

fn run(seed: u64, server: &mut Server, tells: bool, rule: Option<Broken>) -> Ran {
    let mut simulation = Simulation::new(seed, server, tells, rule);
    for step in 0..TROUBLE + CALM {
        simulation.world.shared.calm = step >= TROUBLE;
        if simulation.world.shared.broken.is_some() || simulation.is_done() {
            break;
        }
        simulation.step();
    }
    if simulation.world.shared.broken.is_none() {
        if simulation.is_done() {
            simulation.audit();
        } else {
            let open: Vec<String> = simulation.what_is_left();
            simulation.world.shared.breaks(format!("it does not come to its end: {open:?}"));
        }
    }
    let mut endings = BTreeMap::new();
    for flow in &simulation.world.flows {
        *endings.entry(flow.truth.status.as_str().to_owned()).or_insert(0) += 1;
    }
    let shared = simulation.world.shared;
    Ran { trace: shared.trace, broken: shared.broken, endings }
}

#[test]
fn every_accepted_workflow_ends_and_no_finished_step_runs_again_whatever_happens() {
    let mut server = Server::start();
    if let Some(endings) = run_seeds(30, |seed, tells| run(seed, &mut server, tells, None)) {
        assert_eq!(endings.len(), 3, "every ending occurs: {endings:?}");
    }
}

#[test]
fn a_seed_of_the_joined_simulation_replays_to_the_letter() {
    let (mut one, mut other) = (Server::start(), Server::start());
    for seed in [1, 2] {
        assert_same(&run(seed, &mut one, true, None), &run(seed, &mut other, true, None));
    }
}

/// Rules of the scripts and of what is around them; before each, a seed from which on it is soon noticed that it is broken.
const RULES: [(u64, Result<Broken, Mutation>); 8] = [
    (0, Ok(Broken::TakesSecondResults)),
    (36, Ok(Broken::SendsFirst)),
    (0, Ok(Broken::ForgetsJobs)),
    (4, Ok(Broken::ForgetsRequests)),
    (344, Ok(Broken::LeavesUnknown)),
    (1, Err(("append", "if known[3] .. ' ' .. known[1] ~= ARGV[1] then return 'FENCED' end", ""))),
    (4, Err(("append", "if known[2] == ARGV[3] then return 'DONE' end", ""))),
    (0, Err(("prelude", "started and job[6] ~= '1'", "false"))),
];

#[test]
fn the_joined_simulation_notices_when_a_rule_is_broken() {
    let mut server = Server::start();
    for (first, rule) in RULES {
        server.load(rule.err());
        let found = (first..first + 200)
            .find_map(|seed| run(seed, &mut server, false, rule.ok()).broken.map(|why| (seed, why)));
        let (seed, why) = found.unwrap_or_else(|| panic!("nobody notices that {rule:?}"));
        server.load(None);
        assert_eq!(run(seed, &mut server, false, None).broken, None, "seed {seed} with every rule");
        println!("{rule:?}: seed {seed}: {why}");
    }
}
