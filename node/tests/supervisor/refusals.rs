//! What bad input gets: a clear error each, and nothing queued.

use std::time::Duration;

use horus_keys::{Envelope, PayloadType};
use horus_node::api::supervisor::*;
use horus_runners::job::{JobBatch, JobId, JobSpec, LocalId, limits};
use horus_runners::queue::QueueOptions;
use horus_transport::{ErrorKind, RpcError};
use serde_json::{Value, json};

use crate::harness::*;

/// A place where everything is allowed to happen and nothing did, and what Redis holds of it.
struct Untouched {
    place: Place,
    keys: Vec<String>,
}

impl Untouched {
    async fn new() -> Self {
        let place = Place::new().await;
        place.announce("fake").await;
        let keys = place.redis.keys().await;
        Self { place, keys }
    }

    async fn refuses(&self, envelope: &Envelope, kind: ErrorKind) -> RpcError {
        let error = self.place.create(envelope).await.unwrap_err();
        is(&error, kind);
        self.is_untouched(&error.to_string()).await;
        error
    }

    async fn refuses_raw(&self, params: &Value) -> RpcError {
        within(self.place.unsigned().call_raw("create_jobs", params)).await.unwrap_err()
    }

    async fn is_untouched(&self, why: &str) {
        assert_eq!(self.place.redis.keys().await, self.keys, "something was queued in spite of: {why}");
    }

    fn envelope(&self) -> Envelope {
        self.place.sign(&self.place.alice, vec![spec("x")])
    }

    fn signed_text(&self, payload: impl Into<Vec<u8>>) -> Envelope {
        Envelope::sign(&self.place.alice, PayloadType::Jobs, payload.into())
    }
}

fn as_json(envelope: &Envelope) -> Value {
    serde_json::from_str(&envelope.to_json()).unwrap()
}

#[tokio::test]
async fn signatures() {
    let at = Untouched::new().await;
    let good = as_json(&at.envelope());

    let mut unsigned = good.clone();
    unsigned["signatures"] = json!([]);
    is(&at.refuses_raw(&json!({ "envelope": unsigned })).await, ErrorKind::InvalidEnvelope);

    let mut foreign = good.clone();
    foreign["signatures"][0]["sig"] = as_json(&at.envelope())["signatures"][0]["sig"].clone();
    is(&at.refuses_raw(&json!({ "envelope": foreign })).await, ErrorKind::BadSignature);

    let mut other_type = good.clone();
    other_type["payloadType"] = json!("application/vnd.horus.workflow+json");
    is(&at.refuses_raw(&json!({ "envelope": other_type })).await, ErrorKind::InvalidEnvelope);

    let mut borrowed = good;
    borrowed["signatures"][0]["keyid"] = json!(at.place.bob.peer_id());
    is(&at.refuses_raw(&json!({ "envelope": borrowed })).await, ErrorKind::BadSignature);
    at.is_untouched("bad signatures").await;
}

/// Flips every bit of the envelope's text, one at a time. What is no JSON any more is refused by the transport.
#[tokio::test]
async fn one_bit_flipped_anywhere() {
    let at = Untouched::new().await;
    let text = at.envelope().to_json();
    let http = Http::new(&at.place);
    let mut flips = Vec::new();
    for place in 0..text.len() {
        // All bits of every seventh byte, and one bit of the others: some 1,500 calls.
        let bits = if place % 7 == 0 { 0..8 } else { (place % 8)..(place % 8 + 1) };
        flips.extend(bits.map(|bit| (place, bit)));
    }
    for some in flips.chunks(64) {
        let calls = some.iter().map(|(place, bit)| {
            let mut bytes = text.clone().into_bytes();
            bytes[*place] ^= 1 << bit;
            http.post(request(&bytes))
        });
        for ((place, bit), answer) in some.iter().zip(futures::future::join_all(calls).await) {
            let Some(error) = answer.get("error") else {
                panic!("bit {bit} of byte {place} was flipped and nobody minded: {answer}");
            };
            assert_ne!(error["data"]["kind"], "INTERNAL", "{answer}");
        }
    }
    at.is_untouched("flipped bits").await;
    // The envelope as it was is good.
    at.place.create(&Envelope::from_json(text.as_bytes()).unwrap()).await.unwrap();
}

#[tokio::test]
async fn signers() {
    let at = Untouched::new().await;
    let place = &at.place;
    at.refuses(&place.sign(&place.stranger, vec![spec("x")]), ErrorKind::UntrustedSigner).await;
    let error =
        at.refuses(&place.sign(&place.alice, vec![spec("x"), spec_of("other", "x")]), ErrorKind::NotAllowed).await;
    assert_eq!(error.get("index"), Some(&json!(1)));
    at.refuses(&place.sign(&place.observer, vec![spec("x")]), ErrorKind::NotAllowed).await;
    at.refuses(&place.sign(&place.coordinator, vec![spec("x")]), ErrorKind::NotAllowed).await;
    at.refuses(&place.sign(&place.runner, vec![spec("x")]), ErrorKind::NotAllowed).await;

    let elsewhere = JobBatch { aud: vec![place.bob.peer_id()], jobs: vec![spec("x")], certificates: Vec::new() };
    at.refuses(&Envelope::sign_json(&place.alice, PayloadType::Jobs, &elsewhere), ErrorKind::NotAllowed).await;
}

#[tokio::test]
async fn a_key_that_is_taken_out_of_the_policy_may_not_any_more() {
    let at = Untouched::new().await;
    horus_keys::TrustPolicy::remove(&at.place.trust_file, at.place.alice.peer_id()).unwrap();
    eventually("the policy is read again", async || at.place.create(&at.envelope()).await.err()).await;
}

#[tokio::test]
async fn time() {
    let at = Untouched::new().await;
    let place = &at.place;
    let with = |change: fn(&mut JobSpec)| {
        let mut spec = spec("x");
        change(&mut spec);
        place.sign(&place.alice, vec![spec])
    };
    let past = with(|job| job.run_until = Some(horus_keys::Timestamp::now().saturating_sub(Duration::from_secs(120))));
    at.refuses(&past, ErrorKind::Expired).await;
    let without = with(|job| job.run_until = None);
    at.refuses(&without, ErrorKind::InvalidEnvelope).await;
    let far = with(|job| job.run_until = Some(later(8 * 24 * 3600)));
    assert!(place.create(&far).await.is_err());
    at.is_untouched("a far run_until").await;
}

#[tokio::test]
async fn replay() {
    let place = Place::new().await;
    place.announce("fake").await;
    let mut one = spec("one");
    let envelope = place.sign(&place.alice, vec![one.clone()]);
    assert!(place.create(&envelope).await.unwrap().jobs[0].created);
    let keys = place.redis.keys().await;
    let again = place.create(&envelope).await.unwrap().jobs.remove(0);
    assert!(!again.created, "the same bytes are the same job");

    one.payload = Some("two".into());
    let other = place.create(&place.sign(&place.alice, vec![spec("new"), one.clone()])).await.unwrap_err();
    is(&other, ErrorKind::IdConflict);
    assert_eq!(other.get("index"), Some(&json!(1)));
    let foreign = place.create(&place.sign(&place.bob, vec![one.clone()])).await.unwrap_err();
    is(&foreign, ErrorKind::IdConflict);
    assert_eq!(place.redis.keys().await, keys, "a batch with a conflict leaves nothing behind");

    // Also after the job was deleted.
    let id = || JobIdParams { job_id: one.job_id() };
    place.call::<CancelJob>(&place.alice, id()).await.unwrap();
    assert!(place.call::<DeleteJob>(&place.alice, id()).await.unwrap().deleted);
    is(&place.create(&place.sign(&place.alice, vec![one.clone()])).await.unwrap_err(), ErrorKind::IdConflict);
}

#[tokio::test]
async fn sizes() {
    let at = Untouched::new().await;
    let place = &at.place;
    let long = "x".repeat(limits::PAYLOAD_BYTES + 1);
    let error = at.refuses(&place.sign(&place.alice, vec![spec(&long)]), ErrorKind::TooLarge).await;
    assert_eq!(error.get("index"), Some(&json!(0)));
    let many = (0..=limits::BATCH_JOBS).map(|_| spec("x")).collect();
    at.refuses(&place.sign(&place.alice, many), ErrorKind::TooLarge).await;
    let heavy = (0..3).map(|_| spec(&"x".repeat(limits::PAYLOAD_BYTES - 10))).collect();
    at.refuses(&place.sign(&place.alice, heavy), ErrorKind::TooLarge).await;
    at.refuses(&place.sign(&place.alice, vec![]), ErrorKind::InvalidEnvelope).await;
    let http = Http::new(place);
    let answer = http.post(vec![b' '; (16 << 20) + 1]).await;
    assert_eq!(answer["error"]["data"]["kind"], "TOO_LARGE", "{answer}");
    at.is_untouched("over-size").await;

    let two = CreateJobParams {
        envelope: place.sign(&place.alice, vec![spec("x"), spec("y")]).into(),
        workflow: None,
        receipts: vec![],
    };
    is(&within(place.unsigned().call::<CreateJob>(&two)).await.unwrap_err(), ErrorKind::InvalidParams);
    at.is_untouched("two jobs for create_job").await;
}

#[tokio::test]
async fn malformed() {
    let at = Untouched::new().await;
    let good = as_json(&at.envelope());
    let mut not_base64 = good.clone();
    not_base64["payload"] = json!("ab!cd");
    let mut not_canonical = good.clone();
    let payload = good["payload"].as_str().unwrap().trim_end_matches('=').to_owned();
    not_canonical["payload"] = json!(payload + "====");
    for envelope in [not_base64, not_canonical, json!(null), json!([]), json!("x"), json!({ "payload": 7 })] {
        is(&at.refuses_raw(&json!({ "envelope": envelope })).await, ErrorKind::InvalidEnvelope);
    }
    is(&at.refuses_raw(&json!({})).await, ErrorKind::InvalidParams);
    is(&at.refuses_raw(&json!({ "envelope": good, "envelop": 1 })).await, ErrorKind::InvalidParams);

    for text in ["", "{", "nonsense", "{\"aud\":[],\"jobs\":[]}", "{\"jobs\":7}", "null", "[1]"] {
        at.refuses(&at.signed_text(text), ErrorKind::InvalidEnvelope).await;
    }
    at.refuses(
        &at.signed_text([b"{\"aud\":[\"".as_slice(), &[0xff, 0xfe], b"\"]}"].concat()),
        ErrorKind::InvalidEnvelope,
    )
    .await;

    let deep = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    let mut nested = serde_json::to_string(&JobBatch {
        aud: vec![at.place.supervisor],
        jobs: vec![spec("x")],
        certificates: Vec::new(),
    })
    .unwrap();
    nested = nested.replacen("\"payload\"", &format!("\"input\":{},\"payload\"", deep(10_000)), 1);
    at.refuses(&at.signed_text(nested), ErrorKind::TooLarge).await;

    let http = Http::new(&at.place);
    let text = |params: &str| format!(r#"{{"jsonrpc":"2.0","id":1,"method":"create_jobs","params":{params}}}"#);
    for (body, kinds) in [
        (b"{\"jsonrpc\": \"2.0\", ".to_vec(), &["PARSE_ERROR"][..]),
        (b"\xff\xfe".to_vec(), &["PARSE_ERROR"]),
        (text(&deep(10_000)).into_bytes(), &["PARSE_ERROR", "INVALID_REQUEST", "TOO_LARGE"]),
        (
            text(&format!("{{\"envelope\":{}}}", deep(10_000))).into_bytes(),
            &["PARSE_ERROR", "INVALID_REQUEST", "TOO_LARGE"],
        ),
    ] {
        let answer = http.post(body).await;
        let kind = answer["error"]["data"]["kind"].as_str().unwrap_or("none").to_owned();
        assert!(kinds.contains(&kind.as_str()), "{answer}");
    }
    at.is_untouched("malformed input").await;
}

#[tokio::test]
async fn a_runner_that_nobody_has() {
    let at = Untouched::new().await;
    let envelope = at.place.sign(&at.place.bob, vec![spec("x"), spec_of("quantum", "x")]);
    let error = at.refuses(&envelope, ErrorKind::UnknownRunner).await;
    assert_eq!((error.get("index"), error.get("known")), (Some(&json!(1)), Some(&json!(["fake"]))));
    assert!(error.message.contains("quantum") && error.message.contains("fake"), "{error}");
}

#[tokio::test]
async fn a_full_queue() {
    let place = Place::with(QueueOptions { max_queue: 3, ..QueueOptions::default() }).await;
    place.announce("fake").await;
    place.create(&place.sign(&place.alice, vec![spec("1"), spec("2")])).await.unwrap();
    let keys = place.redis.keys().await;
    let error = place.create(&place.sign(&place.alice, vec![spec("3"), spec("4")])).await.unwrap_err();
    is(&error, ErrorKind::QueueFull);
    assert_eq!(place.redis.keys().await, keys);
    place.create(&place.sign(&place.alice, vec![spec("3")])).await.unwrap();
}

#[tokio::test]
async fn calls_that_are_not_signed_or_by_nobody_known() {
    let at = Untouched::new().await;
    let place = &at.place;
    let id = || JobIdParams { job_id: JobId::new("fake".parse().unwrap(), LocalId::generate()) };
    is(&within(place.unsigned().call::<GetJob>(&id())).await.unwrap_err(), ErrorKind::Unauthenticated);
    let error = place.refused::<GetJob>(&place.stranger, id()).await;
    assert!(matches!(error.kind, ErrorKind::NotAllowed | ErrorKind::UntrustedSigner), "{error}");
    is(&place.refused::<GetJob>(&place.runner, id()).await, ErrorKind::NotAllowed);
    is(&place.refused::<CancelJob>(&place.observer, id()).await, ErrorKind::NotAllowed);
    is(&place.refused::<RemoveRunner>(&place.alice, RunnerParams::default()).await, ErrorKind::NotAllowed);
}

fn request(envelope: &[u8]) -> Vec<u8> {
    [br#"{"jsonrpc":"2.0","id":1,"method":"create_jobs","params":{"envelope":"#.as_slice(), envelope, b"}}"].concat()
}

/// HTTP without the client's help: any bytes as body.
struct Http(std::net::SocketAddr);

impl Http {
    fn new(place: &Place) -> Self {
        Self(place.url.trim_start_matches("http://").parse().unwrap())
    }

    async fn post(&self, body: Vec<u8>) -> Value {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        within(async {
            let mut stream = tokio::net::TcpStream::connect(self.0).await.unwrap();
            let head = format!(
                "POST / HTTP/1.1\r\nhost: horus\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
                body.len()
            );
            stream.write_all(head.as_bytes()).await.unwrap();
            // An over-long body is refused before it was read.
            let _ = stream.write_all(&body).await;
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer).await;
            let answer = String::from_utf8(answer).unwrap();
            let (head, body) = answer.split_once("\r\n\r\n").expect("an HTTP answer");
            assert!(!head.contains("chunked"), "{head}");
            serde_json::from_str(body).expect(body)
        })
        .await
    }
}
