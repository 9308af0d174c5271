//! What is the same on every carrier.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use horus_transport::*;
use serde_json::{Value, json};

use crate::service::*;
use crate::world::{World, until};

fn text(text: &str) -> EchoParams {
    EchoParams { text: text.into(), pause_ms: 0 }
}

pub(crate) async fn a_call_is_answered(world: &World) {
    let client = world.client_of(None);
    assert_eq!(client.call::<Echo>(&text("héllo \"x\"\n")).await.unwrap(), "héllo \"x\"\n");
    assert_eq!(client.peer().await.unwrap(), world.state.me.peer_id());
}

pub(crate) async fn errors_keep_their_kind_and_data(world: &World) {
    let client = world.client();
    let error = client.call::<Fail>(&NoParams {}).await.unwrap_err();
    assert_eq!((error.kind, error.message.as_str()), (ErrorKind::QueueFull, "come back later"));
    assert_eq!(error.get("limit"), Some(&json!(7)));
    let error = client.call_raw("nonsense", &json!({})).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::MethodNotFound);
    let error = client.call_raw("echo", &json!({"txt": 1})).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::InvalidParams);
}

pub(crate) async fn signed_calls_are_known_by_their_signer(world: &World) {
    let client = world.client();
    assert_eq!(client.call::<Who>(&NoParams {}).await.unwrap(), friend().peer_id());
    assert_eq!(client.call::<Count>(&NoParams {}).await.unwrap(), 1);
    assert_eq!(client.call::<Operate>(&NoParams {}).await.unwrap_err().kind, ErrorKind::NotAllowed);
}

pub(crate) async fn a_stranger_is_refused_everything_but_the_open_methods(world: &World) {
    let client = world.client_of(Some(stranger()));
    assert_eq!(client.call::<Echo>(&text("a")).await.unwrap(), "a");
    let error = client.call::<Count>(&NoParams {}).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::UntrustedSigner);
    assert!(error.message.contains(&stranger().peer_id().to_string()), "{}", error.message);
    let error = world.client_of(None).call::<Count>(&NoParams {}).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unauthenticated);
    assert_eq!(world.counted(), 0);
}

pub(crate) async fn another_key_than_the_pinned_one_is_refused(world: &World) {
    let pinned = |peer| {
        let carriers = world.caller.clone().map(|mesh| std::sync::Arc::new(mesh) as _);
        let options = ClientOptions { identity: Some(friend()), carriers, ..ClientOptions::default() };
        RpcClient::connect(world.address.clone().pinned(peer), options).unwrap()
    };
    let error = pinned(stranger().peer_id()).call::<Echo>(&text("a")).await;
    // An open call of a signing client asks nobody first; a signed one does.
    let error = match error {
        Ok(_) => pinned(stranger().peer_id()).call::<Count>(&NoParams {}).await.unwrap_err(),
        Err(error) => error,
    };
    assert_eq!(error.kind, ErrorKind::UntrustedSigner);
    assert_eq!(pinned(world.state.me.peer_id()).call::<Count>(&NoParams {}).await.unwrap(), 1);
}

pub(crate) async fn a_batch_is_answered_in_order(world: &World) {
    let client = world.client();
    let calls: Vec<Call> = (0..50u64)
        .map(|n| Call::new::<Echo>(&EchoParams { text: n.to_string(), pause_ms: (50 - n) % 7 }).unwrap())
        .chain([Call::new::<Fail>(&NoParams {}).unwrap(), Call::new::<Count>(&NoParams {}).unwrap()])
        .collect();
    let results = client.batch(&calls, Duration::from_secs(20)).await.unwrap();
    for (n, result) in results[..50].iter().enumerate() {
        assert_eq!(result.as_ref().unwrap().get(), format!("\"{n}\""));
    }
    assert_eq!(results[50].as_ref().unwrap_err().kind, ErrorKind::QueueFull);
    assert_eq!(results[51].as_ref().unwrap().get(), "1");
    let many = vec![Call::new::<Count>(&NoParams {}).unwrap(); 257];
    assert_eq!(client.batch(&many, Duration::from_secs(20)).await.unwrap_err().kind, ErrorKind::TooLarge);
    assert_eq!(world.counted(), 1);
}

pub(crate) async fn notifications_take_effect_and_get_no_reply(world: &World) {
    let client = world.client();
    client.notify(&Call::new::<Note>(&NoParams {}).unwrap()).await.unwrap();
    until("the notification takes effect", || async { world.state.noted.load(Ordering::SeqCst) == 1 }).await;
}

pub(crate) async fn many_concurrent_calls_get_their_own_replies(world: &World) {
    let client = world.client();
    client.peer().await.unwrap();
    let calls = (0..300).map(|n| {
        let client = client.clone();
        tokio::spawn(async move {
            let said = n.to_string();
            // Signed, since strangers may call so often only.
            assert_eq!(client.call_raw("echo", &text(&said)).await.unwrap().get(), format!("\"{said}\""));
            client.call::<Count>(&NoParams {}).await.unwrap()
        })
    });
    let mut counts = Vec::new();
    for call in calls.collect::<Vec<_>>() {
        counts.push(call.await.unwrap());
    }
    counts.sort_unstable();
    assert_eq!(counts, (1..=300).collect::<Vec<_>>());
}

pub(crate) async fn a_deadline_holds(world: &World) {
    let client = world.client();
    client.call::<Echo>(&text("warm")).await.unwrap();
    let begin = Instant::now();
    let slow = EchoParams { text: "x".into(), pause_ms: 20_000 };
    let error = client.call_with_timeout::<Echo>(&slow, Duration::from_millis(900)).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::TimedOut);
    let took = begin.elapsed();
    assert!(took >= Duration::from_millis(890) && took < Duration::from_secs(4), "{took:?}");
}

pub(crate) async fn a_slow_call_holds_up_no_other(world: &World) {
    let client = world.client_of(None);
    client.call::<Echo>(&text("warm")).await.unwrap();
    let slow = EchoParams { text: "slow".into(), pause_ms: 6000 };
    let begin = Instant::now();
    let slow_call = client.call_with_timeout::<Echo>(&slow, Duration::from_secs(30));
    let others = async {
        // They travel in the same message.
        let quick = (0..20).map(|n| {
            let client = client.clone();
            async move { client.call::<Echo>(&text(&n.to_string())).await.unwrap() }
        });
        futures::future::join_all(quick).await;
        begin.elapsed()
    };
    let (slow_reply, others_took) = tokio::join!(slow_call, others);
    assert_eq!(slow_reply.unwrap(), "slow");
    assert!(begin.elapsed() >= Duration::from_secs(6) && begin.elapsed() < Duration::from_secs(12));
    assert!(others_took < Duration::from_secs(4), "{others_took:?}");
}

pub(crate) async fn long_polls_return_when_it_happens_and_hold_up_no_call(world: &World) {
    let client = world.client();
    client.peer().await.unwrap();
    let wait = |rings| {
        let client = client.clone();
        tokio::spawn(async move {
            let params = RingParams { rings, timeout_ms: 30_000 };
            let rung = client.call_with_timeout::<WaitBell>(&params, Duration::from_secs(40)).await.unwrap();
            (rung, Instant::now())
        })
    };
    let waits: Vec<_> = [1, 1, 2, 3].map(wait).into();
    tokio::time::sleep(Duration::from_millis(700)).await;
    let begin = Instant::now();
    client.call::<Echo>(&text("meanwhile")).await.unwrap();
    assert!(begin.elapsed() < Duration::from_secs(3));
    for (n, wait) in waits.into_iter().enumerate() {
        let ring = [1, 1, 2, 3][n];
        let rung_at = Instant::now();
        world.state.bell.send_if_modified(|rings| std::mem::replace(rings, ring) != ring);
        let (rung, at) = wait.await.unwrap();
        assert!(rung);
        assert!(at.saturating_duration_since(rung_at) < Duration::from_secs(3), "poll {n}");
    }
    let params = RingParams { rings: 9, timeout_ms: 300 };
    assert!(!client.call::<WaitBell>(&params).await.unwrap(), "it waits no longer than it was asked to");
}

pub(crate) async fn what_is_discovered_is_the_same(world: &World) {
    let document = world.client_of(None).call_raw("rpc.discover", &json!({})).await.unwrap();
    let document: Value = serde_json::from_str(document.get()).unwrap();
    let names: Vec<&str> =
        document["methods"].as_array().unwrap().iter().map(|m| m["name"].as_str().unwrap()).collect();
    assert_eq!(
        names,
        ["big", "count", "echo", "fail", "get_node_info", "note", "operate", "rpc.discover", "wait_bell", "who"]
    );
}

pub(crate) async fn too_large_requests_and_replies_are_refused_with_advice(world: &World) {
    let client = world.client();
    let ask = |bytes| {
        let client = client.clone();
        async move { client.call::<Big>(&SizeParams { bytes }).await }
    };
    assert_eq!(ask(900_000).await.unwrap().len(), 900_000);
    let error = ask(2 << 20).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::TooLarge);
    assert!(error.message.contains("over HTTP"), "{}", error.message);
    let long = "x".repeat(900_000);
    assert_eq!(client.call::<Echo>(&text(&long)).await.unwrap().len(), long.len());
    let error = client.call::<Echo>(&text(&"x".repeat(1 << 20))).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::TooLarge);
    assert!(error.message.contains("HTTP"), "{}", error.message);
    // Large replies of calls that travel together do not fit into one message, but all arrive.
    let sizes = futures::future::join_all((0..6).map(|_| ask(400_000))).await;
    assert!(sizes.into_iter().all(|reply| reply.unwrap().len() == 400_000));
}
