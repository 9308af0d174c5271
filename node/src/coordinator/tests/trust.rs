//! Submitters that are not trusted any more, and workflows that cannot be read.

use std::sync::atomic::Ordering::SeqCst;

use super::doctor::{finds, redis as command};
use super::trouble::a_step_that_runs_is_waited_for;
use super::*;
use crate::api::coordinator::{CancelWorkflow, ListWorkflows, ListWorkflowsParams, WorkflowIdParams};
use crate::coordinator::store::Store;
use crate::workflow::WorkflowStatus;

async fn cancel(world: &World, node: &Node, id: &str) -> WorkflowView {
    let params = WorkflowIdParams { workflow_id: id.parse().unwrap() };
    world.client(node, &world.user).call::<CancelWorkflow>(&params).await.unwrap();
    world.end(node, id).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workflow_whose_submitter_is_not_trusted_any_more_is_driven_to_its_end() {
    let mut world = World::new(1).await;
    let node = world.start().await;
    world.submit(&node, "ended", &workflow(&["a noop text x"])).await;
    world.end(&node, "ended").await;
    world.submit(&node, "runs", &workflow(&["a noop hold"])).await;
    world.until(&node, "runs", |view| status_of(view, "a") == StepStatus::Dispatched).await;
    world.submit(&node, "goes-on", &workflow(&["a noop slow 1500", "b noop text y <- a"])).await;
    world.until(&node, "goes-on", |view| status_of(view, "a") == StepStatus::Dispatched).await;
    node.stop().await;
    world.distrust(&world.user);
    let node = world.start().await;
    // From here on the operator looks.
    world.user = key(4);
    assert_eq!(world.status(&node, "ended").await.status, WorkflowStatus::Succeeded);
    let view = world.until(&node, "goes-on", |view| view.status.is_final()).await;
    assert_eq!((view.status, status_of(&view, "a")), (WorkflowStatus::Failed, StepStatus::Succeeded), "{view:?}");
    let error = view.steps["b"].error.clone().unwrap();
    assert_eq!((status_of(&view, "b"), error.code.as_str()), (StepStatus::Failed, "UNTRUSTED_SIGNER"));
    let view = cancel(&world, &node, "runs").await;
    assert_eq!((view.status, status_of(&view, "a")), (WorkflowStatus::Cancelled, StepStatus::Cancelled));
    let begun = world.supervisors[0].fake.begun.lock().unwrap().clone();
    assert!(begun.len() == 3 && begun.values().all(|n| *n == 1), "what is not trusted does not run: {begun:?}");
    finds(&world, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_runs_is_waited_for_though_its_supervisor_knows_nothing_of_its_signer_any_more() {
    a_step_that_runs_is_waited_for(|trouble| trouble.distrusts.store(true, SeqCst)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workflow_that_one_coordinator_cannot_read_is_left_to_others() {
    let world = World::new(1).await;
    let node = world.start_as(10).await;
    let envelope = world.submit(&node, "held", &workflow(&["a noop hold"])).await;
    world.until(&node, "held", |view| status_of(view, "a") == StepStatus::Dispatched).await;
    node.stop().await;
    // As one would find it that is too old for what it says.
    command(&world, &["SET", "horus:wf:{held}:envelope", "{}"]).await;
    let unable = world.start_as(11).await;
    let store = Store::connect(&world.redis.url()).await.unwrap();
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while store.meta(&"held".parse().unwrap()).await.unwrap().unwrap().epoch == 1 {
        assert!(std::time::Instant::now() < deadline, "it is not even looked at");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    command(&world, &["SET", "horus:wf:{held}:envelope", &envelope.to_json()]).await;
    let able = world.start_as(10).await;
    assert_eq!(cancel(&world, &able, "held").await.status, WorkflowStatus::Cancelled);
    drop(unable);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workflow_that_cannot_be_written_to_holds_up_no_other() {
    let world = World::new(1).await;
    let node = world.start().await;
    for id in ["broken", "held"] {
        world.submit(&node, id, &workflow(&["a noop hold"])).await;
        world.until(&node, id, |view| status_of(view, "a") == StepStatus::Dispatched).await;
    }
    command(&world, &["DEL", "horus:wf:{broken}:journal"]).await;
    command(&world, &["SET", "horus:wf:{broken}:journal", "not a list"]).await;
    let params = WorkflowIdParams { workflow_id: "broken".parse().unwrap() };
    assert!(world.client(&node, &world.user).call::<CancelWorkflow>(&params).await.is_err(), "it cannot be noted");
    // It is nobody's now; this coordinator works on.
    let store = Store::connect(&world.redis.url()).await.unwrap();
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while store.meta(&"broken".parse().unwrap()).await.unwrap().unwrap().owner != "nobody" {
        assert!(std::time::Instant::now() < deadline, "it is kept");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    world.submit(&node, "new", &workflow(&["a noop text x"])).await;
    assert_eq!(world.end(&node, "new").await.status, WorkflowStatus::Succeeded);
    assert_eq!(cancel(&world, &node, "held").await.status, WorkflowStatus::Cancelled);
    finds(&world, &["workflow broken: cannot be read"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workflow_that_cannot_be_read_holds_up_no_other() {
    let world = World::new(1).await;
    let node = world.start_as(10).await;
    for n in 0..5 {
        let id = format!("w{n}");
        world.submit(&node, &id, &workflow(&["a noop hold"])).await;
        world.until(&node, &id, |view| status_of(view, "a") == StepStatus::Dispatched).await;
    }
    node.stop().await;
    command(&world, &["HDEL", "horus:wf:{w1}:meta", "status"]).await;
    command(&world, &["DEL", "horus:wf:{w3}:meta"]).await;
    command(&world, &["SET", "horus:wf:{w3}:meta", "not a hash"]).await;
    let node = world.start_keeping(11, &world.redis.url(), Duration::from_secs(4)).await;
    for id in ["w0", "w2", "w4"] {
        assert_eq!(cancel(&world, &node, id).await.status, WorkflowStatus::Cancelled);
    }
    let list = world.client(&node, &world.user).call::<ListWorkflows>(&ListWorkflowsParams::default()).await.unwrap();
    assert!(list.workflows.iter().all(|shown| !["w1", "w3"].contains(&shown.workflow_id.as_str())), "{list:?}");
    finds(&world, &["workflow w1: cannot be read", "workflow w3: cannot be read"]).await;
    // The lists are cleaned all the same.
    let store = Store::connect(&world.redis.url()).await.unwrap();
    let deadline = std::time::Instant::now() + Duration::from_secs(40);
    loop {
        let left = store.listed(None, None, 10).await.unwrap();
        let mut left: Vec<String> = left.into_iter().map(|(id, _)| id.to_string()).collect();
        left.sort();
        if left == ["w1", "w3"] {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "{left:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
