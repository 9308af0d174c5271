//! Who may call.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use horus_keys::{CallClaims, Certificate, Digest, Envelope, PayloadType};

use super::*;

const COUNT: &str = r#"{"jsonrpc":"2.0","id":1,"method":"count","params":{}}"#;

fn header(value: &str) -> String {
    format!("authorization: Horus {value}\r\n")
}

/// Kind and `data.reason` of the error that a call of `count` gets with that header.
async fn refused(world: &World, header: &str, body: &str) -> (String, Option<String>, String) {
    let (status, text) = world.post_with(header, body).await;
    assert_eq!(status, 200, "{text}");
    let reply: Value = serde_json::from_str(&text).unwrap();
    let error = &reply["error"];
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let kind = text(&error["data"]["kind"]).unwrap_or_else(|| panic!("{reply}"));
    (kind, text(&error["data"]["reason"]), text(&error["message"]).unwrap())
}

fn authorize(world: &World, identity: &Identity, body: &str) -> String {
    CallClaims::authorize(identity, world.me(), body.as_bytes(), Timestamp::now(), None)
}

#[tokio::test]
async fn the_right_signature_passes_and_every_other_is_refused() {
    let world = World::start().await;
    let operator = world.operator.clone();
    let now = Timestamp::now();
    let good = authorize(&world, &operator, COUNT);
    let at = |iat| header(&CallClaims::authorize(&operator, world.me(), COUNT.as_bytes(), iat, None));
    let other_aud = header(&CallClaims::authorize(&operator, operator.peer_id(), COUNT.as_bytes(), now, None));
    let mut forged: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(&good).unwrap()).unwrap();
    forged["signatures"][0]["keyid"] = world.observer.peer_id().to_string().into();
    let forged = header(&URL_SAFE_NO_PAD.encode(forged.to_string()));
    let claims = CallClaims {
        aud: world.me(),
        iat: now,
        nonce: "0".repeat(32),
        body: Digest::of(COUNT.as_bytes()),
        certificate: None,
    };
    let wrong_type = Envelope::sign_json(&operator, PayloadType::Node, &claims);
    let short_nonce = CallClaims { nonce: "00".into(), ..claims };
    let short_nonce = Envelope::sign_json(&operator, PayloadType::Call, &short_nonce);
    let envelope = |envelope: &Envelope| header(&URL_SAFE_NO_PAD.encode(envelope.to_json()));
    let cases: Vec<(String, &str)> = vec![
        (String::new(), "unsigned"),
        ("authorization: \r\n".into(), "scheme"),
        (format!("authorization: Bearer {good}\r\n"), "scheme"),
        (format!("authorization: Horus{good}\r\n"), "scheme"),
        (header(&good).repeat(2), "scheme"),
        (header(""), "scheme"),
        (header("!!!"), "malformed"),
        (header(&"A".repeat(17_000)), "malformed"),
        (header(&URL_SAFE_NO_PAD.encode("{}")), "signature"),
        (forged, "signature"),
        (envelope(&wrong_type), "signature"),
        (envelope(&short_nonce), "nonce"),
        (other_aud, "audience"),
        (at(now - Duration::from_secs(61)), "window"),
        (at(now + Duration::from_secs(63)), "window"),
        (header(&authorize(&world, &operator, &format!("{COUNT} "))), "body"),
    ];
    for (header, reason) in &cases {
        let (kind, found, message) = refused(&world, header, COUNT).await;
        assert_eq!((kind.as_str(), found.as_deref()), ("UNAUTHENTICATED", Some(*reason)), "{message}");
    }
    assert_eq!(world.counted(), 0);
    let (_, text) = world.post_with(&header(&good), COUNT).await;
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["result"], 1);
    // A signature that does not hold voids open calls too: somebody meddled.
    let open = request("1", "echo", "[1]");
    assert_eq!(refused(&world, &header(&good), &open).await.0, "UNAUTHENTICATED");
}

#[tokio::test]
async fn one_flipped_bit_anywhere_in_the_signature_is_refused() {
    let world = World::start().await;
    let good = authorize(&world, &world.operator, COUNT).into_bytes();
    for at in 0..good.len() {
        let mut flipped = good.clone();
        flipped[at] ^= 1 << (at % 6);
        let value = String::from_utf8_lossy(&flipped).into_owned();
        let inbound =
            Inbound { body: COUNT.into(), authorization: Some(format!("Horus {value}")), origin: Origin::Local };
        let reply = world.dispatcher.dispatch(inbound).await.body.unwrap();
        let reply: Value = serde_json::from_slice(&reply).unwrap();
        assert_eq!(reply["error"]["data"]["kind"], "UNAUTHENTICATED", "byte {at}: {reply}");
    }
    assert_eq!(world.counted(), 0);
}

#[tokio::test]
async fn roles_decide() {
    let world = World::start().await;
    let stranger = Identity::generate();
    let call = async |identity: &Identity| world.client(Some(identity)).call::<Count>(&PauseParams::default()).await;
    assert_eq!(call(&world.operator).await.unwrap(), 1);
    assert_eq!(call(&world.owner).await.unwrap(), 2, "an owner may what an operator may");
    let error = call(&world.observer).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotAllowed);
    assert!(error.message.contains("submitter or operator"), "{error}");
    assert_eq!(error.get("roles"), Some(&serde_json::json!(["submitter", "operator"])));
    let error = call(&stranger).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::UntrustedSigner);
    assert!(error.message.contains(&stranger.peer_id().to_string()), "{error}");
    let error = world.client(None).call::<Count>(&PauseParams::default()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unauthenticated);
    // Strangers may call what is open, signed or not.
    world.client(Some(&stranger)).call_raw("echo", &[1]).await.unwrap();
    assert_eq!(world.counted(), 2);
}

#[tokio::test]
async fn a_certificate_in_the_call_opens_the_door() {
    let world = World::start().await;
    let member = Identity::generate();
    let certify = |owner: &Identity, expires_at| {
        let certificate = Certificate {
            peer_id: member.peer_id(),
            name: None,
            roles: vec![Role::Operator],
            runners: Vec::new(),
            expires_at,
        };
        certificate.sign(owner).unwrap()
    };
    let call = async |certificate| {
        let options = ClientOptions::signed(member.clone(), Some(certificate));
        let client = RpcClient::connect(world.url(), options).unwrap();
        client.call::<Count>(&PauseParams::default()).await
    };
    let later = Timestamp::now() + Duration::from_secs(600);
    let error = call(certify(&world.operator, later)).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unauthenticated);
    assert!(error.message.contains("no owner"), "{error}");
    let expired = Timestamp::now() - Duration::from_secs(1);
    let error = call(certify(&world.owner, expired)).await.unwrap_err();
    assert!(error.message.contains("expired"), "{error}");
    assert!(!world.trust.known(member.peer_id(), Timestamp::now()));
    assert_eq!(call(certify(&world.owner, later)).await.unwrap(), 1);
    // From now on the node knows it, without being shown the certificate again.
    assert_eq!(world.client(Some(&member)).call::<Count>(&PauseParams::default()).await.unwrap(), 2);
}

#[tokio::test]
async fn an_identical_repeat_joins_the_first() {
    let world = World::start().await;
    let body = request("1", "count", r#"{"pause_ms":300}"#);
    let good = header(&authorize(&world, &world.operator, &body));
    let calls = (0..8).map(|_| world.post_with(&good, &body));
    let replies = futures::future::join_all(calls).await;
    assert!(replies.iter().all(|reply| *reply == replies[0]), "{replies:?}");
    assert_eq!(replies[0].1, r#"{"jsonrpc":"2.0","id":1,"result":1}"#);
    // And one that comes later gets the same reply.
    assert_eq!(world.post_with(&good, &body).await, replies[0]);
    assert_eq!(world.counted(), 1);
}

#[tokio::test]
async fn a_repeat_is_refused_when_the_reply_is_gone() {
    let world = World::start().await;
    let operator = world.operator.clone();
    // 300 kB are not kept.
    let body = request("1", "big", r#"{"bytes":300000}"#);
    let good = header(&authorize(&world, &operator, &body));
    assert!(world.post_with(&good, &body).await.1.len() > 300_000);
    let (kind, reason, _) = refused(&world, &good, &body).await;
    assert_eq!((kind.as_str(), reason.as_deref()), ("UNAUTHENTICATED", Some("replayed")));
}

#[tokio::test]
async fn a_nonce_serves_one_body() {
    let world = World::start().await;
    let sign = |body: &str| {
        let claims = CallClaims {
            aud: world.me(),
            iat: Timestamp::now(),
            nonce: "a".repeat(32),
            body: Digest::of(body.as_bytes()),
            certificate: None,
        };
        let envelope = Envelope::sign_json(&world.operator, PayloadType::Call, &claims);
        header(&URL_SAFE_NO_PAD.encode(envelope.to_json()))
    };
    let other = COUNT.replace("\"id\":1", "\"id\":2");
    assert!(world.post_with(&sign(COUNT), COUNT).await.1.contains("result"));
    let (kind, reason, _) = refused(&world, &sign(&other), &other).await;
    assert_eq!((kind.as_str(), reason.as_deref()), ("UNAUTHENTICATED", Some("replayed")));
    assert_eq!(world.counted(), 1);
}

#[tokio::test]
async fn a_caller_that_goes_away_ends_the_call_and_may_repeat_it() {
    let world = World::start().await;
    let body = request("1", "count", r#"{"pause_ms":400}"#);
    let good = header(&authorize(&world, &world.operator, &body));
    let impatient = tokio::time::timeout(Duration::from_millis(100), world.post_with(&good, &body));
    assert!(impatient.await.is_err());
    assert!(world.post_with(&good, &body).await.1.contains("\"result\":1"));
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(world.counted(), 1, "the abandoned run came to nothing");
}

#[tokio::test]
async fn one_signature_covers_a_batch() {
    let world = World::start().await;
    let calls = [Call::new::<Count>(&PauseParams::default()).unwrap(), Call::raw("echo", &[1]).unwrap()];
    let client = world.client(Some(&world.operator));
    let replies = client.batch(&calls, Duration::from_secs(10)).await.unwrap();
    assert!(replies.iter().all(Result::is_ok), "{replies:?}");
    let replies = world.client(Some(&world.observer)).batch(&calls, Duration::from_secs(10)).await.unwrap();
    assert_eq!(replies[0].as_ref().unwrap_err().kind, ErrorKind::NotAllowed);
    assert!(replies[1].is_ok());
}
