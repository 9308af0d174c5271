//! What the workflow engine costs per step: whole workflows of several sizes, so that growth shows.
#![allow(missing_docs, reason = "criterion's macros make public items")]

use std::fmt::Write as _;
use std::hint::black_box;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use horus_keys::{Digest, Identity, PeerId, Timestamp};
use horus_node::workflow::{Command, Event, Outcome, Plan, Record, State, StepAttempt, WorkflowStatus, apply, plan};
use horus_runners::{definition, job::JobStatus};

fn chain(steps: usize) -> String {
    let mut text = "workflow:\n  name: bench\n  steps:\n".to_owned();
    for i in 0..steps {
        let after = i.checked_sub(1).map(|p| format!("s{p}")).unwrap_or_default();
        let _ = writeln!(text, "    - {{id: s{i}, runner: noop, payload: \"\", depends_on: [{after}]}}");
    }
    text
}

fn fan(steps: usize) -> String {
    let mut text = "workflow:\n  name: bench\n  steps:\n    - {id: first, runner: noop, payload: \"\"}\n".to_owned();
    for i in 0..steps {
        let _ = writeln!(text, "    - {{id: s{i}, runner: noop, payload: \"\", depends_on: [first]}}");
    }
    text
}

fn planned(text: &str) -> Plan {
    let definition = definition::parse(text).expect("it is well formed");
    plan(Digest::of(text.as_bytes()), &definition, Timestamp::now() + Duration::from_secs(3600)).expect("no circle")
}

/// Carries every command out at once, each dispatch and each end an event of its own.
fn run(plan: &Plan, mut state: State, supervisor: PeerId) -> State {
    let at = Timestamp::from_millis(1_795_284_000_000);
    let mut commands = Vec::new();
    apply(plan, &mut state, &Record { at, event: Event::Started }, &mut commands);
    while !commands.is_empty() {
        let ready: Vec<StepAttempt> = commands
            .drain(..)
            .filter_map(|command| if let Command::Dispatch(step) = command { Some(step) } else { None })
            .collect();
        if ready.is_empty() {
            break;
        }
        let dispatched = Event::Dispatched { supervisor, steps: ready.clone() };
        apply(plan, &mut state, &Record { at, event: dispatched }, &mut commands);
        commands.clear();
        for step in ready {
            let outcome = Outcome {
                status: JobStatus::Succeeded,
                output: Some(Digest::of(b"null")),
                error: None,
                receipt: None,
                started_at: Some(at),
                finished_at: Some(at),
            };
            apply(plan, &mut state, &Record { at, event: Event::Finished { step, outcome } }, &mut commands);
        }
    }
    assert_eq!(state.status, WorkflowStatus::Succeeded);
    state
}

fn engine(c: &mut Criterion) {
    let supervisor = Identity::from_seed(&[1; 32]).peer_id();
    let mut group = c.benchmark_group("engine");
    for steps in [1_000, 10_000, 100_000] {
        group.throughput(Throughput::Elements(steps as u64));
        for (shape, text) in [("chain", chain(steps)), ("fan", fan(steps - 1))] {
            let plan = planned(&text);
            group.bench_function(format!("{shape}/{steps}"), |b| {
                b.iter_batched(
                    || State::new(&plan),
                    |state| run(black_box(&plan), state, supervisor),
                    BatchSize::LargeInput,
                );
            });
        }
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10).measurement_time(Duration::from_secs(3));
    targets = engine
}
criterion_main!(benches);
