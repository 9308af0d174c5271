//! Workflows that go from one coordinator to another.

use std::sync::atomic::Ordering::SeqCst;
use std::time::Instant;

use super::*;
use crate::api::coordinator::{CancelWorkflow, WorkflowIdParams};
use crate::api::supervisor::{CancelJob, JobIdParams};
use crate::coordinator::store::{Append, Store, Writer};
use crate::workflow::{Event, Record, StepAttempt, WorkflowStatus};

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_counted_as_unknown_does_not_any_more_once_its_supervisor_confirms_it_to_the_next_coordinator() {
    let world = World::new(1).await;
    let (first, second) = (world.start_as(10).await, world.start_as(11).await);
    world.ready(&first).await;
    world.ready(&second).await;
    world.submit(&first, "known", &workflow(&["a noop hold"])).await;
    world.until(&first, "known", |view| status_of(view, "a") == StepStatus::Dispatched).await;
    // The last that the first one wrote: its supervisor was silent.
    let store = Store::connect(&world.redis.url()).await.unwrap();
    let id = "known".parse().unwrap();
    let meta = store.meta(&id).await.unwrap().unwrap();
    let event = Event::Unreachable { steps: vec![StepAttempt(0, 1)], reason: "it is silent".to_owned() };
    let records = [Record { at: Timestamp::now(), event }];
    let (writer, status) = (Writer { owner: &meta.owner, epoch: meta.epoch }, WorkflowStatus::Running);
    let (before, records, finished_at) = (meta.sequence, &records[..], None);
    let append = Append { writer, before, records, status, finished_at, outputs: &[], receipts: &[] };
    store.append(&id, &append).await.unwrap();
    assert_eq!(status_of(&world.status(&second, "known").await, "a"), StepStatus::Unknown);
    first.stop().await;
    let deadline = Instant::now() + Duration::from_secs(15);
    while status_of(&world.status(&second, "known").await, "a") != StepStatus::Dispatched {
        assert!(Instant::now() < deadline, "its supervisor has it and says so, and it stays unknown");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Takes a workflow away from who drives it, as a coordinator would that dies over it.
async fn take_away(world: &World, id: &str) {
    let (store, id) = (Store::connect(&world.redis.url()).await.unwrap(), id.parse().unwrap());
    let meta = store.meta(&id).await.unwrap().unwrap();
    assert!(store.take_over(&id, &meta, "one/that-dies").await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_at_a_coordinator_that_has_lost_the_workflow_is_carried_out_by_the_next() {
    let world = World::new(1).await;
    let node = world.start().await;
    world.submit(&node, "lost", &workflow(&["a noop hold"])).await;
    world.until(&node, "lost", |view| status_of(view, "a") == StepStatus::Dispatched).await;
    take_away(&world, "lost").await;
    let params = WorkflowIdParams { workflow_id: "lost".parse().unwrap() };
    world.client(&node, &world.user).call::<CancelWorkflow>(&params).await.unwrap();
    let view = world.until(&node, "lost", |view| view.status.is_final()).await;
    assert_eq!((view.status, status_of(&view, "a")), (WorkflowStatus::Cancelled, StepStatus::Cancelled));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_is_not_shown_an_end_that_could_not_be_stored() {
    let mut world = World::new(1).await;
    let node = world.start().await;
    world.ready(&node).await;
    let fake = Arc::clone(&world.supervisors[0].fake);
    // Its end needs nothing from Redis to be shown.
    fake.trouble.loses.store(true, SeqCst);
    world.submit(&node, "away", &workflow(&["a noop hold"])).await;
    let view = world.until(&node, "away", |view| status_of(view, "a") == StepStatus::Dispatched).await;
    let job_id = view.steps["a"].job_id.clone().unwrap();
    let client = world.client(&node, &world.user);
    let workflow_id = "away".parse().unwrap();
    let params = WaitWorkflowParams { workflow_id, after_revision: None, timeout_ms: 25_000, steps: None };
    let waits =
        tokio::spawn(async move { client.call_with_timeout::<WaitWorkflow>(&params, Duration::from_secs(29)).await });
    // Until it waits there: if it came later, it would be refused.
    tokio::time::sleep(Duration::from_millis(500)).await;
    world.redis.kill();
    let address = world.supervisors[0].address.clone();
    let supervisor = RpcClient::connect(address, ClientOptions::signed(key(10), None)).unwrap();
    supervisor.call::<CancelJob>(&JobIdParams { job_id }).await.unwrap();
    while fake.at_once.load(SeqCst) > 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // Until the coordinator has heard of it and tries to write it down.
    tokio::time::sleep(Duration::from_millis(500)).await;
    node.shutdown.drain();
    let answer = waits.await.unwrap();
    assert!(!answer.as_ref().is_ok_and(|view| view.status.is_final()), "Redis has nothing of this: {answer:?}");
    node.stop().await;
    world.redis.start_again();
    let node = world.start().await;
    let view = world.until(&node, "away", |view| view.status.is_final()).await;
    assert_eq!(view.status, WorkflowStatus::Failed);
}
