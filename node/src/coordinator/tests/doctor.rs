//! What the doctor finds, and that it finds nothing where nothing is wrong.

use super::*;
use crate::coordinator::examine;

pub(super) async fn redis(world: &World, words: &[&str]) {
    let client = ::redis::Client::open(world.redis.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let mut command = ::redis::cmd(words[0]);
    command.arg(&words[1..]);
    command.query_async::<()>(&mut connection).await.unwrap();
}

pub(super) async fn finds(world: &World, what: &[&str]) {
    let mut found = examine(&world.redis.url()).await.unwrap();
    found.sort();
    assert_eq!(found.len(), what.len(), "{found:?}");
    for (line, what) in found.iter().zip(what) {
        assert!(line.contains(what), "{line} does not say {what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_workflow_is_named() {
    let world = World::new(1).await;
    let node = world.start().await;
    world.submit(&node, "done", &workflow(&["a noop text x", "b noop echo <- a"])).await;
    world.end(&node, "done").await;
    world.submit(&node, "held", &workflow(&["a noop hold"])).await;
    world.until(&node, "held", |view| status_of(view, "a") == StepStatus::Dispatched).await;
    finds(&world, &[]).await;

    redis(&world, &["PERSIST", "horus:wf:{done}:meta"]).await;
    finds(&world, &["workflow done: has ended, but would be kept for ever"]).await;
    redis(&world, &["SADD", "horus:workflows:active", "done", "never"]).await;
    redis(&world, &["DEL", "horus:wf:{done}:outputs"]).await;
    let (lost, never) = ("has lost the output", "nothing is stored of it");
    finds(&world, &["workflow done: has ended, but is ", lost, lost, never]).await;
    redis(&world, &["SREM", "horus:workflows:active", "done", "never"]).await;
    redis(&world, &["PEXPIRE", "horus:wf:{done}:meta", "100000"]).await;
    redis(&world, &["SET", "horus:wf:{done}:outputs", "not a hash"]).await;
    finds(&world, &["workflow done: cannot be read"]).await;
    redis(&world, &["DEL", "horus:wf:{done}:meta"]).await;
    node.stop().await;
    redis(&world, &["SREM", "horus:workflows:active", "held"]).await;
    finds(&world, &["workflow held: has not ended, but is not in the list", "no coordinator runs"]).await;
    redis(&world, &["SADD", "horus:workflows:active", "held"]).await;
    redis(&world, &["HSET", "horus:wf:{held}:meta", "sequence", "99"]).await;
    finds(&world, &["no coordinator runs", "its journal leads to revision"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workflow_that_was_taken_out_of_the_list_is_listed_again_by_who_drives_it() {
    let world = World::new(1).await;
    let node = world.start().await;
    world.submit(&node, "held", &workflow(&["a noop hold"])).await;
    world.until(&node, "held", |view| status_of(view, "a") == StepStatus::Dispatched).await;
    redis(&world, &["SREM", "horus:workflows:active", "held"]).await;
    let client = ::redis::Client::open(world.redis.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    loop {
        let mut command = ::redis::cmd("SISMEMBER");
        command.arg("horus:workflows:active").arg("held");
        if command.query_async::<bool>(&mut connection).await.unwrap() {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "nobody would find it again");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
