//! What is too much.

use std::num::NonZeroU32;
use std::time::Instant;

use horus_keys::{Envelope, PayloadType};

use super::*;

#[tokio::test]
async fn over_long_requests_are_refused_and_say_so() {
    let limits = Limits { request_bytes: 100_000, ..Limits::default() };
    let world = World::with(Setup { limits, ..Setup::default() }).await;
    let fits = |bytes: usize| {
        let empty = request("1", "echo", r#"{"value":""}"#).len();
        request("1", "echo", &format!(r#"{{"value":"{}"}}"#, "x".repeat(bytes - empty)))
    };
    assert_eq!(world.post(fits(100_000)).await.0, 200);
    let (status, text) = world.post(fits(100_001)).await;
    assert_eq!(status, 413);
    assert!(text.contains("TOO_LARGE") && text.contains("100000"), "{text}");
    let chunked = format!(
        "POST / HTTP/1.1\r\nhost: h\r\nconnection: close\r\ncontent-type: application/json\r\n\
         transfer-encoding: chunked\r\n\r\n{}0\r\n\r\n",
        format!("2710\r\n{}\r\n", "x".repeat(10_000)).repeat(11)
    );
    assert_eq!(world.exchange(chunked.as_bytes()).await.0, 413);
    let value = RawValue::from_string(format!("\"{}\"", "x".repeat(100_000))).unwrap();
    let error = world.client(None).call::<Echo>(&EchoParams { value, pause_ms: None }).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::TooLarge);
    // In process the same.
    let inbound = Inbound { body: fits(100_001).into(), authorization: None, origin: Origin::Local };
    assert_eq!(world.dispatcher.dispatch(inbound).await.refused, Some(ErrorKind::TooLarge));
}

#[tokio::test]
async fn sixteen_mebibytes_pass() {
    let world = World::start().await;
    let text = format!("\"{}\"", "x".repeat((16 << 20) - 200));
    let value = RawValue::from_string(text).unwrap();
    let result = world.client(None).call::<Echo>(&EchoParams { value: value.clone(), pause_ms: None }).await;
    assert_eq!(result.unwrap().value.get().len(), value.get().len());
}

#[tokio::test]
async fn batches_and_depth_are_bounded() {
    let world = World::start().await;
    let batch = |n: usize| format!("[{}]", vec![request("1", "note", "{}"); n].join(","));
    assert_eq!(world.json(&batch(256)).await.as_array().unwrap().len(), 256);
    let (status, text) = world.post(batch(257)).await;
    assert_eq!(status, 413);
    assert!(text.contains("more than 256 calls"), "{text}");
    let nested = |depth: usize| request("1", "echo", &format!("[{}{}]", "[".repeat(depth - 1), "]".repeat(depth - 1)));
    assert!(world.json(&nested(64)).await.get("result").is_some());
    for depth in [65, 10_000] {
        let (_, text) = world.post(nested(depth)).await;
        assert!(text.contains("TOO_LARGE") && text.contains("64"), "{text}");
    }
}

#[tokio::test]
async fn replies_are_bounded_on_both_sides() {
    let limits = Limits { response_bytes: 10_000, ..Limits::default() };
    let world = World::with(Setup { limits, ..Setup::default() }).await;
    let error = world.client(None).call::<Big>(&BigParams { bytes: 10_000 }).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::TooLarge);
    let big = |bytes| Call::new::<Big>(&BigParams { bytes }).unwrap();
    let replies = world.client(None).batch(&[big(6000), big(6000), big(10)], Duration::from_secs(9)).await.unwrap();
    assert!(replies[0].is_ok() && replies[2].is_ok());
    assert_eq!(replies[1].as_ref().unwrap_err().kind, ErrorKind::TooLarge);

    let options = ClientOptions { response_bytes: 5000, ..ClientOptions::default() };
    let client = RpcClient::connect(world.url(), options).unwrap();
    let error = client.call::<Big>(&BigParams { bytes: 6000 }).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::TooLarge);
    assert!(error.message.contains("5000 bytes"), "{error}");
}

#[tokio::test]
async fn who_sends_slowly_is_cut_off() {
    let options = ServerOptions {
        header_timeout: Duration::from_millis(300),
        body_timeout: Duration::from_millis(300),
        ..ServerOptions::default()
    };
    let world = World::with(Setup { options, ..Setup::default() }).await;
    let begun = Instant::now();
    let head = "POST / HTTP/1.1\r\nhost: h\r\ncontent-type: application/json\r\ncontent-length: 50\r\n\r\n{";
    let (silent, half_head, half_body) =
        tokio::join!(world.exchange(b""), world.exchange(b"POST / HTT"), world.exchange(head.as_bytes()));
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert_eq!((silent.0, half_head.0), (0, 0), "{silent:?} {half_head:?}");
    assert_eq!(half_body.0, 408);
    assert!(half_body.1.contains("TIMED_OUT"), "{}", half_body.1);
    assert_eq!(world.post(request("1", "note", "{}")).await.0, 200);
}

#[tokio::test]
async fn connections_beyond_the_limit_are_told_so() {
    let options = ServerOptions { connections: 3, ..ServerOptions::default() };
    let world = World::with(Setup { options, ..Setup::default() }).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(TcpStream::connect(world.address).await.unwrap());
    }
    let mut fourth = TcpStream::connect(world.address).await.unwrap();
    let (status, text) = read_answer(&mut fourth).await;
    assert_eq!(status, 503);
    assert!(text.contains("RATE_LIMITED"), "{text}");
    drop(held);
    // The server notices the closed connections as soon as it reads from them.
    for _ in 0..100 {
        if world.post(request("1", "note", "{}")).await.0 == 200 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("no connection came free");
}

fn rates(strangers: u32, failures: u32) -> RateLimits {
    let count = |n| NonZeroU32::new(n).unwrap();
    RateLimits {
        strangers_per_second: count(1),
        strangers_burst: count(strangers),
        failures_per_minute: count(1),
        failures_burst: count(failures),
        limit_loopback: true,
    }
}

#[tokio::test]
async fn strangers_are_held_to_a_rate_and_trusted_callers_are_not() {
    let world = World::with(Setup { rates: rates(5, 100), ..Setup::default() }).await;
    let (client, operator) = (world.client(None), world.client(Some(&world.operator)));
    operator.peer().await.unwrap();
    let mut refused = 0;
    for _ in 0..10 {
        if let Err(e) = client.call::<Note>(&NoParams {}).await {
            assert_eq!(e.kind, ErrorKind::RateLimited);
            assert!(e.get("retry_after_ms").is_some());
            refused += 1;
        }
    }
    assert!(refused >= 5, "{refused}");
    for _ in 0..20 {
        operator.call_raw("note", &NoParams {}).await.unwrap();
    }
}

#[tokio::test]
async fn failed_authentications_block_their_origin() {
    let world = World::with(Setup { rates: rates(1000, 5), ..Setup::default() }).await;
    let client = world.client(None);
    let submit = async |good| client.call::<Submit>(&SubmitParams { good, envelope: None }).await.map_err(|e| e.kind);
    for _ in 0..50 {
        assert_eq!(submit(true).await, Ok(true), "good envelopes are not held up");
    }
    for _ in 0..6 {
        assert_eq!(submit(false).await, Err(ErrorKind::BadSignature));
    }
    assert_eq!(submit(true).await, Err(ErrorKind::RateLimited));
    let (status, _) = world.post(request("1", "note", "{}")).await;
    assert_eq!(status, 429);
}

#[tokio::test]
async fn what_known_keys_signed_blocks_nobody_and_is_not_blocked() {
    let world = World::with(Setup { rates: rates(1000, 5), ..Setup::default() }).await;
    let (client, operator, observer) =
        (world.client(None), world.client(Some(&world.operator)), world.client(Some(&world.observer)));
    let stranger = Identity::generate();
    let envelope = |identity: &Identity, of_type| Some(Envelope::sign(identity, of_type, b"{}".to_vec()));
    let submit = async |good, envelope| {
        client.call::<Submit>(&SubmitParams { good, envelope }).await.map_err(|e| (e.kind, e.message))
    };
    let known = || envelope(&world.operator, PayloadType::Jobs);
    for _ in 0..20 {
        assert_eq!(submit(false, known()).await.unwrap_err().0, ErrorKind::BadSignature);
        let refused = observer.call::<Count>(&PauseParams::default()).await.unwrap_err();
        assert_eq!(refused.kind, ErrorKind::NotAllowed, "{refused}");
    }
    operator.call::<Count>(&PauseParams::default()).await.unwrap();
    // Neither an unknown key nor what everybody can have of a known one is any excuse.
    for n in 0..6 {
        let (identity, of_type) =
            if n % 2 == 0 { (&stranger, PayloadType::Jobs) } else { (&world.operator, PayloadType::Node) };
        assert_eq!(submit(false, envelope(identity, of_type)).await.unwrap_err().0, ErrorKind::BadSignature);
    }
    let (kind, message) = submit(true, None).await.unwrap_err();
    assert!(kind == ErrorKind::RateLimited && !message.contains("or sign calls"), "{message}");
    assert_eq!(submit(true, envelope(&stranger, PayloadType::Jobs)).await.unwrap_err().0, kind);
    // Others at the same address are heard, whose keys are known.
    operator.call::<Count>(&PauseParams::default()).await.unwrap();
    assert_eq!(submit(true, known()).await, Ok(true));
}
