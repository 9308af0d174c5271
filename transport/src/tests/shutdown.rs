//! How a node stops.

use std::time::Instant;

use super::*;

#[tokio::test]
async fn long_polls_end_at_once_and_other_calls_finish() {
    let world = World::start().await;
    let (poller, worker) = (world.client(None), world.client(Some(&world.operator)));
    let poll = tokio::spawn(async move { poller.call::<Wait>(&PauseParams { pause_ms: 20_000 }).await });
    let work = tokio::spawn(async move { worker.call::<Count>(&PauseParams { pause_ms: 4000 }).await });
    until("both have arrived", || world.state.begun.load(Ordering::SeqCst) == 2).await;
    let begun = Instant::now();
    world.stop.cancel();
    let error = poll.await.unwrap().unwrap_err();
    assert_eq!(error.kind, ErrorKind::ShuttingDown);
    assert!(!work.is_finished(), "the poll waits for no other call");
    assert_eq!(work.await.unwrap().unwrap(), 1);
    world.served.await.unwrap();
    assert!(begun.elapsed() < Limits::default().drain, "{:?}", begun.elapsed());
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
    let call = tokio::spawn(async move {
        let params = EchoParams { value, pause_ms: Some(60_000) };
        client.call_with_timeout::<Echo>(&params, Duration::from_secs(60)).await
    });
    // And a connection that says nothing.
    let idle = TcpStream::connect(world.address).await.unwrap();
    until("the call has arrived", || world.state.pausing.load(Ordering::SeqCst) == 1).await;
    world.stop.cancel();
    assert_eq!(call.await.unwrap().map(|_| ()).unwrap_err().kind, ErrorKind::ShuttingDown);
    tokio::time::timeout(Duration::from_secs(20), world.served).await.expect("it ends").unwrap();
    drop(idle);
}
