//! Seeds one after the other, each judged; a failing one is told again.

use std::collections::BTreeMap;

use horus_tests::seed_of;

/// What became of a seed.
pub(crate) struct Ran {
    /// Every step, if it was to be told.
    pub(crate) trace: Vec<String>,
    /// The first thing that must not be.
    pub(crate) broken: Option<String>,
    /// How things ended, and how often.
    pub(crate) endings: BTreeMap<String, usize>,
}

/// Runs the seed that the environment names in `HORUS_SIM_SEED`, told step by step; else as many as it says in `HORUS_SIM_SEEDS`, else
/// `usually`, and gives the endings of all of them. Panics at the first that breaks a rule, with its last steps.
pub(crate) fn run_seeds(usually: u64, mut run: impl FnMut(u64, bool) -> Ran) -> Option<BTreeMap<String, usize>> {
    if let Some(seed) = seed_of("HORUS_SIM_SEED") {
        let ran = run(seed, true);
        println!("{}", ran.trace.join("\n"));
        assert_eq!(ran.broken, None);
        return None;
    }
    let mut endings = BTreeMap::new();
    for seed in 0..seed_of("HORUS_SIM_SEEDS").unwrap_or(usually) {
        let ran = run(seed, false);
        if let Some(why) = ran.broken {
            let told = run(seed, true).trace;
            let last = told[told.len().saturating_sub(60)..].join("\n");
            panic!("{last}\n\n{why}\nreplay it with HORUS_SIM_SEED={seed}");
        }
        for (ending, count) in ran.endings {
            *endings.entry(ending).or_insert(0) += count;
        }
    }
    println!("endings: {endings:?}");
    Some(endings)
}

/// Asserts that two runs of one seed tell the same, line by line.
pub(crate) fn assert_same(first: &Ran, second: &Ran) {
    assert!(first.trace.len() > 200);
    for (a, b) in first.trace.iter().zip(&second.trace) {
        assert_eq!(a, b);
    }
    assert_eq!(first.trace.len(), second.trace.len());
}
