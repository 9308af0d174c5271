//! Random workflows.

use std::{collections::BTreeSet, time::Duration};

use horus_keys::{Digest, Timestamp};
use horus_node::workflow::{Deadline, Plan, PlannedStep, Policy, Unknown};
use horus_runners::job::StepId;
use horus_tests::Chance;

/// A graph of up to `most` steps, with any policy that a definition can give them.
pub(crate) fn random_plan(chance: &mut Chance, name: &str, most: usize, deadline: Deadline) -> Plan {
    let size = 1 + chance.below(most);
    let density = 1 + chance.below(4);
    let steps = (0..size)
        .map(|place| {
            let mut dependencies = BTreeSet::new();
            for _ in 0..density {
                if place > 0 && !chance.one_in(3) {
                    dependencies.insert(u32::try_from(chance.below(place)).unwrap());
                }
            }
            let idempotent = chance.one_in(2);
            PlannedStep {
                id: StepId::new(&format!("s{place}")).unwrap(),
                runner: "noop".parse().unwrap(),
                dependencies: dependencies.into_iter().collect(),
                policy: Policy {
                    max_attempts: 1 + u32::try_from(chance.below(4)).unwrap(),
                    initial_interval: Duration::from_millis(100),
                    multiplier: 2.0,
                    max_interval: Duration::from_secs(1),
                    jitter: 0.5,
                    non_retryable: Box::new(["FATAL".to_owned()]),
                    timeout: Duration::from_secs(30),
                    on_unknown: match chance.below(3) {
                        0 => Unknown::Fail,
                        1 => Unknown::Wait,
                        _ => Unknown::Retry,
                    },
                    idempotent,
                    continue_on_error: chance.one_in(4),
                },
                supervisor: None,
            }
        })
        .collect();
    Plan::new(Digest::of(name.as_bytes()), deadline, steps)
}

/// A time for it: a signed end, and in one of five workflows a timeout of its own.
pub(crate) fn random_deadline(chance: &mut Chance, run_until: Timestamp) -> Deadline {
    Deadline { run_until, timeout: chance.one_in(5).then(|| Duration::from_secs(20)) }
}
