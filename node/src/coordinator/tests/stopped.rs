//! Workflows that are stopped while nobody can tell their supervisor.

use super::*;
use crate::api::coordinator::{CancelWorkflow, WorkflowIdParams};
use crate::coordinator::store::Store;
use crate::workflow::WorkflowStatus;
use std::sync::atomic::Ordering::SeqCst;

const PATIENCE: Duration = Duration::from_secs(60);

async fn cancel(world: &World, node: &Node, id: &str) {
    let params = WorkflowIdParams { workflow_id: id.parse().unwrap() };
    world.client(node, &world.user).call::<CancelWorkflow>(&params).await.unwrap();
}

async fn comes_back(world: &World) -> Serving {
    let gone = &world.supervisors[0];
    let at = gone.address.to_string().trim_start_matches("http://").parse().unwrap();
    fake::serve_at(Arc::clone(&gone.fake), &world.trust, at).await
}

/// Two steps run at a supervisor that is away when their workflows end, one cancelled and the other for want of time.
async fn is_cancelled_later(restart: bool) {
    let world = World::new(1).await;
    let mut node = world.start().await;
    world.ready(&node).await;
    let fake = &world.supervisors[0].fake;
    world.submit(&node, "cancelled", &workflow(&["a noop hold", "b noop text x <- a"])).await;
    let late = workflow(&["a noop hold | , timeout: 2s"]).replace("name: test", "name: test\n  timeout: 4s");
    world.submit(&node, "late", &late).await;
    let deadline = std::time::Instant::now() + PATIENCE;
    while fake.at_once.load(SeqCst) < 2 {
        assert!(std::time::Instant::now() < deadline, "they do not run");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    world.supervisors[0].vanish();
    cancel(&world, &node, "cancelled").await;
    let view = world.end(&node, "cancelled").await;
    assert_eq!((view.status, status_of(&view, "a")), (WorkflowStatus::Cancelled, StepStatus::Unknown));
    assert_eq!(world.end(&node, "late").await.status, WorkflowStatus::Failed);
    if restart {
        node.stop().await;
        node = world.start().await;
    }
    assert_eq!(fake.at_once.load(SeqCst), 2, "nobody could tell it");
    let back = comes_back(&world).await;
    let deadline = std::time::Instant::now() + PATIENCE;
    while fake.at_once.load(SeqCst) > 0 {
        assert!(std::time::Instant::now() < deadline, "{} steps of ended workflows run", fake.at_once.load(SeqCst));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Then nobody needs to remember it any more.
    let client = ::redis::Client::open(world.redis.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    loop {
        let mut command = ::redis::cmd("EXISTS");
        command.arg("horus:workflows:cancels");
        if !command.query_async::<bool>(&mut connection).await.unwrap() {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "it is noted still");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    drop((back, node));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_stopped_workflow_left_at_a_silent_supervisor_is_cancelled_when_that_is_heard_again() {
    is_cancelled_later(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_stopped_workflow_left_at_a_silent_supervisor_is_cancelled_by_the_next_coordinator() {
    is_cancelled_later(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_whose_supervisor_turns_up_after_a_restart_is_cancelled_if_its_workflow_is_to_stop() {
    let world = World::new(1).await;
    let node = world.start().await;
    world.submit(&node, "stops", &workflow(&["a noop hold"])).await;
    world.until(&node, "stops", |view| status_of(view, "a") == StepStatus::Dispatched).await;
    node.stop().await;
    world.supervisors[0].vanish();
    let node = world.start().await;
    let (store, id) = (Store::connect(&world.redis.url()).await.unwrap(), "stops".parse().unwrap());
    let deadline = std::time::Instant::now() + PATIENCE;
    while store.meta(&id).await.unwrap().unwrap().epoch == 1 {
        assert!(std::time::Instant::now() < deadline, "nobody goes on with it");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    cancel(&world, &node, "stops").await;
    let back = comes_back(&world).await;
    let view = world.end(&node, "stops").await;
    assert_eq!((view.status, status_of(&view, "a")), (WorkflowStatus::Cancelled, StepStatus::Cancelled), "{view:?}");
    drop(back);
}
