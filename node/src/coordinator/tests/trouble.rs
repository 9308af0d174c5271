//! Supervisors that fail, coordinators that die, a Redis that goes away.

use std::sync::atomic::Ordering::SeqCst;

use super::*;
use crate::workflow::WorkflowStatus;

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_coordinator_goes_on_and_repeats_nothing() {
    let world = World::new(1).await;
    let node = world.start().await;
    let text = workflow(&["a noop text x", "b noop slow 600 <- a", "c noop echo <- b a"]);
    world.submit(&node, "restart", &text).await;
    world.until(&node, "restart", |view| status_of(view, "b") == StepStatus::Dispatched).await;
    node.stop().await;
    let node = world.start().await;
    let view = world.until(&node, "restart", |view| view.status.is_final()).await;
    assert_eq!(view.status, WorkflowStatus::Succeeded, "{view:?}");
    assert_eq!(output(&view, "c"), serde_json::json!({"a": "x", "b": "done"}));
    let begun = world.supervisors[0].fake.begun.lock().unwrap().clone();
    assert!(begun.len() == 3 && begun.values().all(|n| *n == 1), "{begun:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_coordinator_takes_over_and_the_first_writes_nothing_more() {
    let world = World::new(1).await;
    let first = world.start_as(10).await;
    let text = workflow(&["a noop slow 1500", "b noop echo <- a"]);
    world.submit(&first, "over", &text).await;
    world.until(&first, "over", |view| status_of(view, "a") == StepStatus::Dispatched).await;
    // It signs off, so that nobody has to wait until it counts as dead.
    first.stop().await;
    let second = world.start_as(11).await;
    let view = world.until(&second, "over", |view| view.status.is_final()).await;
    assert_eq!(view.status, WorkflowStatus::Succeeded, "{view:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_dies_without_a_word_is_replaced_within_ten_seconds() {
    let world = Arc::new(World::new(1).await);
    // Dropping its runtime leaves everything as kill -9 does.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let of = Arc::clone(&world);
    let first = runtime.spawn(async move { of.start_as(10).await }).await.unwrap();
    let text = workflow(&["a noop slow 2000", "b noop echo <- a"]);
    world.submit(&first, "dies", &text).await;
    world.until(&first, "dies", |view| status_of(view, "a") == StepStatus::Dispatched).await;
    let second = world.start_as(11).await;
    runtime.shutdown_background();
    let died = std::time::Instant::now();
    let view = world.until(&second, "dies", |view| view.status.is_final()).await;
    assert_eq!(view.status, WorkflowStatus::Succeeded, "{view:?}");
    assert!(died.elapsed() < Duration::from_secs(11), "{:?}", died.elapsed());
    assert!(world.supervisors[0].fake.begun.lock().unwrap().values().all(|n| *n == 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn any_coordinator_shows_and_cancels_a_workflow_that_another_drives() {
    let world = World::new(1).await;
    let (first, second) = (world.start_as(10).await, world.start_as(11).await);
    world.submit(&first, "shared", &workflow(&["a noop hold"])).await;
    world.until(&second, "shared", |view| status_of(view, "a") == StepStatus::Dispatched).await;
    let params = crate::api::coordinator::WorkflowIdParams { workflow_id: "shared".parse().unwrap() };
    let client = world.client(&second, &world.user);
    client.call::<crate::api::coordinator::CancelWorkflow>(&params).await.unwrap();
    let view = world.end(&second, "shared").await;
    assert_eq!(view.status, WorkflowStatus::Cancelled);
    assert_eq!(world.end(&first, "shared").await.revision, view.revision);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_lost_does_not_run_a_step_twice() {
    let world = World::new(1).await;
    let node = world.start().await;
    world.ready(&node).await;
    let fake = &world.supervisors[0].fake;
    world.submit(&node, "warm", &workflow(&["a noop text x"])).await;
    world.end(&node, "warm").await;
    fake.trouble.deaf.store(true, SeqCst);
    world.submit(&node, "deaf", &workflow(&["a noop text x", "b noop echo <- a"])).await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    fake.trouble.deaf.store(false, SeqCst);
    let view = world.end(&node, "deaf").await;
    assert_eq!(view.status, WorkflowStatus::Succeeded, "{view:?}");
    assert!(fake.begun.lock().unwrap().values().all(|n| *n == 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_supervisor_is_passed_over_and_asked_again_later() {
    let world = World::new(2).await;
    let node = world.start().await;
    world.ready(&node).await;
    world.supervisors[0].fake.trouble.full.store(true, SeqCst);
    let lines: Vec<String> = (0..40).map(|n| format!("s{n} noop text x")).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    world.submit(&node, "full", &workflow(&lines)).await;
    assert_eq!(world.end(&node, "full").await.status, WorkflowStatus::Succeeded);
    assert_eq!(world.supervisors[0].fake.job_count(), 0);
    assert_eq!(world.supervisors[1].fake.job_count(), 40);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_one_supervisor_forbids_goes_to_another_or_fails_with_the_reason() {
    let world = World::new(2).await;
    let node = world.start().await;
    world.ready(&node).await;
    world.supervisors[0].fake.trouble.forbids.store(true, SeqCst);
    let lines: Vec<String> = (0..10).map(|n| format!("s{n} noop text x")).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    world.submit(&node, "one", &workflow(&lines)).await;
    assert_eq!(world.end(&node, "one").await.status, WorkflowStatus::Succeeded);
    world.supervisors[1].fake.trouble.forbids.store(true, SeqCst);
    world.submit(&node, "both", &workflow(&["a noop text x"])).await;
    let view = world.end(&node, "both").await;
    assert_eq!(view.status, WorkflowStatus::Failed);
    let error = view.steps["a"].error.clone().unwrap();
    assert_eq!((error.code.as_str(), error.message.as_str()), ("NOT_ALLOWED", "not here"));
}

/// A step that runs is waited for after a restart, though its supervisor is in a trouble then in which it refuses it.
pub(super) async fn a_step_that_runs_is_waited_for(trouble: impl FnOnce(&fake::Trouble)) {
    let world = World::new(1).await;
    let node = world.start().await;
    world.submit(&node, "again", &workflow(&["a noop slow 3000", "b noop text x"])).await;
    world.until(&node, "again", |view| status_of(view, "b") == StepStatus::Succeeded).await;
    assert_eq!(status_of(&world.status(&node, "again").await, "a"), StepStatus::Dispatched);
    node.stop().await;
    let fake = &world.supervisors[0].fake;
    trouble(&fake.trouble);
    let calls = fake.calls.load(SeqCst);
    let node = world.start().await;
    let view = world.end(&node, "again").await;
    assert_eq!(view.status, WorkflowStatus::Succeeded, "{view:?}");
    assert!(fake.calls.load(SeqCst) > calls && fake.begun.lock().unwrap().values().all(|n| *n == 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_runs_is_waited_for_though_its_supervisor_refuses_it_when_it_is_sent_again() {
    a_step_that_runs_is_waited_for(|trouble| trouble.forbids.store(true, SeqCst)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_without_a_valid_receipt_is_not_taken() {
    let world = World::new(1).await;
    let node = world.start().await;
    world.supervisors[0].fake.trouble.forges.store(true, SeqCst);
    let text = workflow(&["a noop text x | , timeout: 2s", "b noop echo <- a"]);
    world.submit(&node, "forged", &text).await;
    let view = world.until(&node, "forged", |view| status_of(view, "a") == StepStatus::Unknown).await;
    let error = view.steps["a"].error.clone().unwrap();
    assert!(error.message.contains("receipt"), "{error:?}");
    let view = world.end(&node, "forged").await;
    assert_eq!((view.status, status_of(&view, "b")), (WorkflowStatus::Failed, StepStatus::Skipped));
    assert_eq!(view.error.unwrap().code, "UNKNOWN_OUTCOME");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_step_runs_again_only_if_it_says_that_it_may() {
    let world = World::new(1).await;
    let node = world.start().await;
    let fake: Shared<fake::Fake> = Arc::clone(&world.supervisors[0].fake);
    fake.trouble.loses.store(true, SeqCst);
    let text = workflow(&["safe noop slow 300 | , idempotent: true", "unsafe noop slow 300"]);
    world.submit(&node, "lost", &text).await;
    let view = world.until(&node, "lost", |view| view.steps["safe"].attempt == 2).await;
    fake.trouble.loses.store(false, SeqCst);
    assert_eq!(status_of(&view, "unsafe"), StepStatus::Failed);
    let view = world.end(&node, "lost").await;
    assert_eq!(status_of(&view, "safe"), StepStatus::Succeeded);
    assert_eq!(view.steps["unsafe"].error.as_ref().unwrap().code, "LOST");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_step_is_tolerated_if_its_author_calls_an_unknown_outcome_a_failure() {
    let world = World::new(1).await;
    let node = world.start().await;
    let fake: Shared<fake::Fake> = Arc::clone(&world.supervisors[0].fake);
    fake.trouble.loses.store(true, SeqCst);
    let text = workflow(&[
        "may noop slow 300 | , continue_on_error: true, on_unknown: fail",
        "wait noop slow 300 | , continue_on_error: true",
        "good noop text fine | , retry: {max_attempts: 9, initial_interval: 1s}, idempotent: true",
        "after_may noop echo <- may good",
        "after_wait noop echo <- wait",
    ]);
    world.submit(&node, "tolerant", &text).await;
    let failed =
        |view: &_| status_of(view, "may") == StepStatus::Failed && status_of(view, "wait") == StepStatus::Failed;
    world.until(&node, "tolerant", failed).await;
    fake.trouble.loses.store(false, SeqCst);
    let view = world.end(&node, "tolerant").await;
    assert_eq!(view.steps["may"].error.as_ref().unwrap().code, "LOST");
    assert_eq!(output(&view, "after_may"), serde_json::json!({"good": "fine"}), "it sees no output of the lost step");
    assert_eq!(status_of(&view, "after_wait"), StepStatus::Skipped, "nothing proves that this one failed");
    let error = view.error.clone().unwrap();
    assert!(view.status == WorkflowStatus::Failed && error.message.contains("`wait`"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn when_a_supervisor_vanishes_idempotent_steps_move_and_others_wait_for_it() {
    let world = World::new(2).await;
    let node = world.start().await;
    world.ready(&node).await;
    let text = workflow(&[
        "a noop slow 4000 | , idempotent: true",
        "b noop slow 4000 | , idempotent: true",
        "c noop slow 4000",
        "d noop slow 4000",
    ]);
    world.submit(&node, "gone", &text).await;
    world.until(&node, "gone", |view| view.counts.get(&StepStatus::Dispatched) == Some(&4)).await;
    let gone = &world.supervisors[0];
    let at = gone.address.to_string();
    gone.vanish();
    let other = Some(world.supervisors[1].address.to_string());
    let moved = |view: &WorkflowView| ["a", "b"].iter().all(|id| view.steps[*id].supervisor == other);
    let view = world.until(&node, "gone", |view| view.counts.contains_key(&StepStatus::Unknown) && moved(view)).await;
    for step in view.steps.values().filter(|step| step.status == StepStatus::Unknown) {
        assert_eq!(step.supervisor.as_deref(), Some(at.as_str()));
    }
    let at: SocketAddr = at.trim_start_matches("http://").parse().unwrap();
    let back = fake::serve_at(Arc::clone(&gone.fake), &world.trust, at).await;
    let view = world.end(&node, "gone").await;
    assert_eq!(view.status, WorkflowStatus::Succeeded, "{view:?}");
    for id in ["a", "b"] {
        assert_eq!(view.steps[id].supervisor, other);
    }
    assert!(["c", "d"].iter().all(|id| view.steps[*id].attempt == 1));
    drop(back);
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_may_die_and_come_back() {
    let mut world = World::new(1).await;
    let node = world.start().await;
    let lines: Vec<String> = (0..40)
        .map(|n| match n {
            0 => "s0 noop slow 100".to_owned(),
            n => format!("s{n} noop slow 20 <- s{}", n - 1),
        })
        .collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    world.submit(&node, "redis", &workflow(&lines)).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    world.redis.kill();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let envelope = world.sign(&World::submission("refused", &workflow(&["a noop text x"])));
    assert_eq!(kind(world.send(&node, &envelope).await), ErrorKind::RedisUnavailable);
    world.redis.start_again();
    let view = world.until(&node, "redis", |view| view.status.is_final()).await;
    assert_eq!(view.status, WorkflowStatus::Succeeded, "{view:?}");
    let begun = world.supervisors[0].fake.begun.lock().unwrap().clone();
    assert!(begun.len() == 40 && begun.values().all(|n| *n == 1), "{begun:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_has_lost_the_last_changes_is_gone_on_with() {
    let mut world = World::new(1).await;
    let node = world.start().await;
    world.ready(&node).await;
    let lines: Vec<String> = (0..30)
        .map(|n| match n {
            0 => "s0 noop slow 50".to_owned(),
            n => format!("s{n} noop slow 50 <- s{}", n - 1),
        })
        .collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    world.submit(&node, "rewound", &workflow(&lines)).await;
    let ended = |view: &WorkflowView| view.counts.get(&StepStatus::Succeeded).copied().unwrap_or(0);
    world.until(&node, "rewound", |view| ended(view) >= 3).await;
    world.redis.remember();
    world.until(&node, "rewound", |view| ended(view) >= 8).await;
    world.redis.kill();
    world.redis.rewind();
    world.redis.start_again();
    let view = world.until(&node, "rewound", |view| view.status.is_final()).await;
    assert_eq!(view.status, WorkflowStatus::Succeeded, "{view:?}");
    let begun = world.supervisors[0].fake.begun.lock().unwrap().clone();
    assert!(begun.len() == 30 && begun.values().all(|n| *n == 1), "{begun:?}");
}

/// Four steps for two supervisors, of which the first refuses calls though it has taken some of what they brought. No step
/// may run at both.
async fn refused_in_part(refusals: Vec<(&'static [&'static str], RpcError)>) {
    let world = World::new(2).await;
    let node = world.start().await;
    world.ready(&node).await;
    let fakes: Vec<_> = world.supervisors.iter().map(|serving| Arc::clone(&serving.fake)).collect();
    let planned = refusals.len();
    fakes[0].trouble.refusals.lock().unwrap().extend(refusals);
    let text = workflow(&["a noop slow 300", "b noop slow 300", "c sal slow 300", "d sal slow 300"]);
    world.submit(&node, "part", &text).await;
    let view = world.end(&node, "part").await;
    assert_eq!(view.status, WorkflowStatus::Succeeded, "{view:?}");
    let left = fakes[0].trouble.refusals.lock().unwrap().len();
    assert_eq!(left, 0, "of {planned} calls that it was to refuse");
    let begun: Vec<_> = fakes.iter().flat_map(|fake| fake.begun.lock().unwrap().clone()).collect();
    let jobs: std::collections::BTreeSet<String> = begun.iter().map(|(job, _)| job.to_string()).collect();
    assert!(jobs.len() == 4 && begun.len() == 4 && begun.iter().all(|(_, n)| *n == 1), "{begun:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_supervisor_may_have_goes_to_no_other_when_its_batch_is_halved() {
    let lost = RpcError::new(ErrorKind::RedisUnavailable, "the answer is lost");
    let large = RpcError::new(ErrorKind::TooLarge, "too large for a message");
    let unserved = |kind: &str| RpcError::new(ErrorKind::UnknownRunner, "no runner").with("runner", kind);
    refused_in_part(vec![(&["noop", "sal"], lost), (&[], large), (&[], unserved("noop")), (&[], unserved("sal"))])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_supervisor_may_have_goes_to_no_other_when_it_had_room_for_another_kind_only() {
    let full =
        |kind: &str| RpcError::new(ErrorKind::QueueFull, "full").with("runner", kind).with("queued", 8).with("max", 8);
    let unserved = RpcError::new(ErrorKind::UnknownRunner, "no runner");
    // The kinds are looked at together, and queued one after the other: the second may have filled up meanwhile.
    refused_in_part(vec![(&["noop"], full("sal")), (&[], unserved)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_supervisor_may_have_goes_to_no_other_when_it_lacked_the_workflow_for_another_kind_only() {
    // The call is repeated with the workflow at once, and that is refused.
    let lacks = RpcError::new(ErrorKind::WorkflowUnknown, "wf:... is not here");
    let unserved = RpcError::new(ErrorKind::UnknownRunner, "no runner");
    refused_in_part(vec![(&["noop"], lacks), (&[], unserved)]).await;
}
