//! Workflows that go from one coordinator to another.

use std::time::Instant;

use super::*;
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
