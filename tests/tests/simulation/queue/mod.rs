//! The protocol of the queue under one seed: submitters, supervisors and workers as state machines over the very scripts, which a Redis
//! executes one after the other.
//!
//! One generator of chance decides who takes the next step, what the network does to it (lost before it arrives, lost reply, executed
//! twice, executed long after its caller gave it up), who is killed, cut off, stands still or vanishes, when wall clocks jump by hours, what is
//! cancelled, deleted, delayed, urgent or short-lived. After every step the doctor looks at every job, and [`watch`] at what it became. A seed
//! replays to the letter, whatever the machine.

pub(crate) mod site;
mod supervisor;
mod watch;
mod worker;

use std::collections::BTreeMap;

use crate::{
    seeds::{Ran, assert_same, run_seeds},
    server::{Mutation, Server},
};
use site::{Shared, Site};

/// Steps in trouble, and steps in which everything must come to its end.
const TROUBLE: usize = 350;
const CALM: usize = 6_000;

fn run(seed: u64, server: &mut Server, tells: bool) -> Ran {
    let mut shared = Shared::new(seed, server, tells);
    let jobs = 5 + shared.chance.below(25);
    let by_nature = shared.chance.one_in(6);
    let mut site = Site::new("sim", by_nature, 2, jobs);
    for step in 0..TROUBLE + CALM {
        shared.calm = step >= TROUBLE;
        if shared.broken.is_some() || (shared.calm && site.is_done()) {
            break;
        }
        shared.tick(if shared.calm { 400 } else { 150 });
        let hours = shared.jump();
        if hours != 0 {
            shared.at.wall += hours;
            shared.tell(|| format!("the clock of Redis jumps by {} s", hours / 1000));
        }
        if shared.calm && site.waits_for_time() {
            // A clock that jumped back makes for long delays.
            shared.at.wall += 60_000;
        }
        site.step(&mut shared);
    }
    if shared.broken.is_none() {
        if site.is_done() {
            site.audit(&mut shared);
        } else {
            let open: Vec<_> = site.watch.seen.iter().filter(|(_, seen)| !seen.status.is_final()).collect();
            shared.breaks(format!("it does not come to its end: {open:?}"));
        }
    }
    let mut endings = BTreeMap::new();
    for seen in site.watch.seen.values() {
        *endings.entry(seen.status.to_string()).or_insert(0) += 1;
    }
    Ran { trace: shared.trace, broken: shared.broken, endings }
}

#[test]
fn every_job_ends_once_whatever_happens_to_the_queue() {
    let mut server = Server::start();
    if let Some(endings) = run_seeds(40, |seed, tells| run(seed, &mut server, tells)) {
        assert_eq!(endings.len(), 6, "every ending occurs: {endings:?}");
    }
}

#[test]
fn a_seed_of_the_simulation_replays_to_the_letter() {
    let (mut one, mut other) = (Server::start(), Server::start());
    for seed in [3, 4] {
        assert_same(&run(seed, &mut one, true), &run(seed, &mut other, true));
    }
}

/// Rules without which something is lost, done twice, or waits for ever; before each, a seed from which on this is soon noticed.
const RULES: [(u64, Mutation); 8] = [
    (69, ("finish", "job[2] == worker and job[3] == token", "job[1]")),
    (0, ("prelude", "started and job[6] ~= '1'", "false")),
    (128, ("reap", "if (call('HGET', base .. ':worker:' .. worker, 'beat') or '') ~= beat then return {} end", "")),
    (48, ("claim", "if pending > 0 then hint() else call('DEL', base .. ':wake') end", "")),
    (10, ("cancel", "call('HDEL', base .. ':active', id)", "")),
    (6, ("release", "call('HDEL', key, 'worker', 'token', 'started')", "")),
    (52, ("start", "job[2] ~= worker or job[3] ~= token", "job[2] ~= worker")),
    (0, ("claim", "elseif tonumber(job[4]) <= now then", "elseif false then")),
];

#[test]
fn the_simulation_notices_when_a_rule_is_broken() {
    let mut server = Server::start();
    for (first, rule) in RULES {
        server.load(Some(rule));
        let found = (first..first + 200).find_map(|seed| run(seed, &mut server, false).broken.map(|why| (seed, why)));
        let (seed, why) = found.unwrap_or_else(|| panic!("nobody notices that {rule:?}"));
        server.load(None);
        assert_eq!(run(seed, &mut server, false).broken, None, "seed {seed} with every rule");
        println!("{} without {:?}: seed {seed}: {why}", rule.0, rule.1);
    }
}
