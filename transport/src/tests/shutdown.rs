//! How a node stops.

use std::time::Instant;

use super::*;

#[tokio::test]
async fn long_polls_end_at_once_and_other_calls_finish() {
    let world = World::start().await;
    let (poller, worker) = (world.client(None), world.client(Some(&world.operator)));
    worker.peer().await.unwrap();
    let poll = tokio::spawn(async move { poller.call::<Wait>(&PauseParams { pause_ms: 20_000 }).await });
    let work = tokio::spawn(async move { worker.call::<Count>(&PauseParams { pause_ms: 800 }).await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    let begun = Instant::now();
    world.stop.cancel();
    let error = poll.await.unwrap().unwrap_err();
    assert_eq!(error.kind, ErrorKind::ShuttingDown);
    assert!(begun.elapsed() < Duration::from_millis(600), "{:?}", begun.elapsed());
    assert_eq!(work.await.unwrap().unwrap(), 1);
    world.served.await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(3));
    assert!(TcpStream::connect(world.address).await.is_err());
    let inbound = Inbound { body: request("1", "note", "{}").into(), authorization: None, origin: Origin::Local };
    let body = world.dispatcher.dispatch(inbound).await.body.unwrap();
    assert!(String::from_utf8_lossy(&body).contains("SHUTTING_DOWN"));
}

#[tokio::test]
async fn what_does_not_end_is_ended() {
    let limits = Limits { drain: Duration::from_millis(300), ..Limits::default() };
    let world = World::with(Setup { limits, ..Setup::default() }).await;
    let client = world.client(None);
    let value = RawValue::NULL.to_owned();
    let call = tokio::spawn(async move { client.call::<Echo>(&EchoParams { value, pause_ms: Some(60_000) }).await });
    // And a connection that says nothing.
    let idle = TcpStream::connect(world.address).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let begun = Instant::now();
    world.stop.cancel();
    assert_eq!(call.await.unwrap().map(|_| ()).unwrap_err().kind, ErrorKind::ShuttingDown);
    world.served.await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    drop(idle);
}
