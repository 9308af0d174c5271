//! Daemons that go and come, hosts that are cut off, roles that are not there.

use std::time::{Duration, Instant};

use horus_transport::*;

use crate::service::*;
use crate::world::{World, until};

/// A client of another address than the world's.
fn client_of(world: &World, address: &str) -> RpcClient {
    let carriers = Some(std::sync::Arc::new(world.caller.clone().unwrap()) as _);
    let options = ClientOptions { identity: Some(friend()), carriers, ..ClientOptions::default() };
    RpcClient::connect(address.parse().unwrap(), options).unwrap()
}

pub(crate) async fn the_own_address_is_called_through_the_socket(world: &World) {
    let before = world.messages().await;
    let carriers = Some(std::sync::Arc::new(world.callee.clone().unwrap()) as _);
    let options = ClientOptions { identity: Some(friend()), carriers, ..ClientOptions::default() };
    let client = RpcClient::connect(world.address.clone(), options).unwrap();
    assert_eq!(client.call::<Count>(&NoParams {}).await.unwrap(), 1);
    assert_eq!(world.messages().await - before, 0, "nothing went over the mesh");
}

pub(crate) async fn nobody_serves_the_topic(world: &World) {
    let key = world.callee.as_ref().unwrap().mesh_public_key().unwrap();
    let client = client_of(world, &format!("mycelium://{key}/horus.nobody"));
    let begin = Instant::now();
    let error = client.call::<Count>(&NoParams {}).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::NoService, "{error}");
    assert!(error.message.contains("horus.nobody"), "{error}");
    assert!(begin.elapsed() < Duration::from_secs(8), "{:?}", begin.elapsed());
    let own = world.caller.as_ref().unwrap().mesh_public_key().unwrap();
    let error = client_of(world, &format!("mycelium://{own}/horus.nobody")).call::<Count>(&NoParams {}).await;
    assert_eq!(error.unwrap_err().kind, ErrorKind::NoService);
    let error = client_of(world, "topic:horus.nobody").call::<Count>(&NoParams {}).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::NoService);
}

pub(crate) async fn the_peer_is_unreachable_and_comes_back(world: &World) {
    let client = world.client();
    client.call::<Count>(&NoParams {}).await.unwrap();
    let poll = {
        let client = client.clone();
        tokio::spawn(async move {
            let params = RingParams { rings: 1, timeout_ms: 50_000 };
            client.call_with_timeout::<WaitBell>(&params, Duration::from_secs(55)).await
        })
    };
    tokio::time::sleep(Duration::from_millis(300)).await;
    world.cut();
    // The peer was heard a moment ago, so it is asked twice.
    tokio::time::sleep(Duration::from_secs(4)).await;
    let begin = Instant::now();
    let error = client.call::<Count>(&NoParams {}).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::PeerUnreachable, "{error}");
    assert!(begin.elapsed() < Duration::from_secs(10), "long before its own time is over: {:?}", begin.elapsed());
    let error = poll.await.unwrap().unwrap_err();
    assert_eq!(error.kind, ErrorKind::PeerUnreachable, "what was under way is told too");
    world.heal();
    until("the peer is back", || async { client.call::<Count>(&NoParams {}).await.is_ok() }).await;
}

pub(crate) async fn the_callers_daemon_goes_and_comes(world: &World) {
    let client = world.client();
    client.call::<Count>(&NoParams {}).await.unwrap();
    world.stop_daemon(0).await;
    let begin = Instant::now();
    let error = client.call::<Count>(&NoParams {}).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::DaemonDown, "{error}");
    assert!(error.message.contains("start it"), "{error}");
    assert!(begin.elapsed() < Duration::from_secs(4), "{:?}", begin.elapsed());
    assert!(world.caller.as_ref().unwrap().daemon_error().is_some());
    world.start_daemon(0).await;
    until("the daemon is back", || async { client.call::<Count>(&NoParams {}).await.is_ok() }).await;
}

/// A daemon that has just come up and has no link yet is sent nothing: it would ask nobody for the way, and for 15 s not again.
pub(crate) async fn the_callers_daemon_comes_up_alone(world: &World) {
    let client = world.client();
    client.call::<Count>(&NoParams {}).await.unwrap();
    world.stop_daemon(1).await;
    world.stop_daemon(0).await;
    world.start_daemon(0).await;
    let caller = world.caller.as_ref().unwrap();
    until("its daemon is back", || async {
        // Asks the daemon anew: it may have come back before anybody noticed that it was gone.
        caller.status().await;
        caller.daemon_error().is_none()
    })
    .await;
    let before = world.messages().await;
    let error = client.call::<Count>(&NoParams {}).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::PeerUnreachable, "{error}");
    assert!(error.message.contains("no peer at all") && error.message.contains("--peers"), "{error}");
    assert_eq!(world.messages().await, before, "nothing was sent");
    world.start_daemon(1).await;
    until("the node answers", || async { client.call::<Count>(&NoParams {}).await.is_ok() }).await;
}

pub(crate) async fn the_callees_daemon_is_restarted(world: &World) {
    let client = world.client();
    client.call::<Count>(&NoParams {}).await.unwrap();
    world.stop_daemon(1).await;
    world.start_daemon(1).await;
    // Registered again without being told.
    until("the node answers again", || async {
        client.call_with_timeout::<Count>(&NoParams {}, Duration::from_secs(5)).await.is_ok()
    })
    .await;
    world.served().await;
}

pub(crate) async fn a_long_poll_survives_a_restart_of_the_callees_daemon(world: &World) {
    let client = world.client();
    client.call::<Count>(&NoParams {}).await.unwrap();
    let poll = {
        let client = client.clone();
        tokio::spawn(async move {
            let params = RingParams { rings: 1, timeout_ms: 80_000 };
            client.call_with_timeout::<WaitBell>(&params, Duration::from_secs(85)).await
        })
    };
    tokio::time::sleep(Duration::from_millis(500)).await;
    world.stop_daemon(1).await;
    world.start_daemon(1).await;
    until("the node answers again", || async {
        client.call_with_timeout::<Count>(&NoParams {}, Duration::from_secs(5)).await.is_ok()
    })
    .await;
    world.state.bell.send_replace(1);
    // Another call brings word of the restart, and the poll is sent again.
    client.call::<Count>(&NoParams {}).await.unwrap();
    let begin = Instant::now();
    match tokio::time::timeout(Duration::from_secs(30), poll).await {
        Ok(outcome) => match outcome.unwrap() {
            Ok(rung) => assert!(rung),
            // The caller may have been told instead, while the daemon was away.
            Err(e) => assert_eq!(e.kind, ErrorKind::PeerUnreachable, "{e}"),
        },
        Err(_) => panic!("the poll still waits after {:?}", begin.elapsed()),
    }
}
