//! Plain jobs: shape, limits, time, trust.

use super::*;

#[test]
fn a_signed_job_of_a_trusted_submitter_is_admitted() {
    let world = World::new();
    let mut spec = world.job("a");
    spec.input = Some(raw(r#"{"x":  1}"#));
    spec.timeout_ms = Some(1500);
    spec.env.insert("A".to_owned(), "1".to_owned());
    let envelope = world.batch(&world.alice, vec![spec, world.job("b")]);
    let jobs = world.admit(&envelope).unwrap();
    let job = &jobs[0];
    assert_eq!((job.id.to_string().as_str(), job.index, jobs[1].index), ("hero-a", 0, 1));
    assert_eq!((job.submitter, job.delegate), (world.alice.peer_id(), None));
    assert_eq!(job.input.as_ref().unwrap().get(), r#"{"x":  1}"#);
    assert_eq!((job.timeout, job.run_until), (Duration::from_millis(1500), world.later(3600)));

    let payload = std::str::from_utf8(envelope.payload()).unwrap();
    let start = payload.find(r#"{"id":"a""#).unwrap();
    let end = payload.find(r#",{"id":"b""#).unwrap();
    assert_eq!(job.spec, Digest::of(&payload.as_bytes()[start..end]), "the digest is that of the text as signed");
}

#[test]
fn one_bit_flipped_anywhere_is_refused() {
    let world = World::new();
    let text = world.batch(&world.alice, vec![world.job("a")]).to_json().into_bytes();
    assert!(world.admit(&Envelope::from_json(&text).unwrap()).is_ok());
    for at in 0..text.len() {
        for bit in 0..8 {
            let mut flipped = text.clone();
            flipped[at] ^= 1 << bit;
            let admitted = Envelope::from_json(&flipped).ok().and_then(|e| world.admit(&e).ok());
            assert!(admitted.is_none(), "byte {at}, bit {bit}");
        }
    }
}

#[test]
fn who_signed_decides() {
    let world = World::new();
    let signed_by = |identity: &Identity| world.refused(&world.batch(identity, vec![world.job("a")]));
    assert_eq!(signed_by(&world.stranger), RefusalKind::UntrustedSigner);
    for known in [&world.owner, &world.coordinator, &world.supervisor, &world.hero] {
        assert_eq!(signed_by(known), RefusalKind::NotAllowed, "only a submitter submits");
    }
    let mut elsewhere = world.job("a");
    elsewhere.runner = "osiris".parse().unwrap();
    let refusal = world.admit(&world.batch(&world.alice, vec![world.job("b"), elsewhere])).unwrap_err();
    assert_eq!((refusal.kind, refusal.index), (RefusalKind::NotAllowed, Some(1)), "{refusal}");

    let mut twice = world.batch(&world.alice, vec![world.job("a")]);
    twice.add_signature(&world.stranger).unwrap();
    assert_eq!(world.refused(&twice), RefusalKind::InvalidEnvelope, "one key is responsible");
    let receipts =
        Envelope::sign(&world.alice, PayloadType::Receipts, world.batch(&world.alice, vec![]).payload().to_vec());
    assert_eq!(world.refused(&receipts), RefusalKind::InvalidEnvelope);
}

#[test]
fn the_same_payload_signed_by_another_key_is_not_taken_from_memory() {
    let world = World::new();
    let good = world.batch(&world.alice, vec![world.job("a")]);
    let copied = Envelope::sign(&world.stranger, PayloadType::Jobs, good.payload().to_vec());
    assert_eq!(world.refused(&copied), RefusalKind::UntrustedSigner);
    assert!(world.verifier.known_batch(&good.digest()).is_none());
    assert_eq!(world.admit(&good).unwrap()[0].submitter, world.alice.peer_id());
    assert_eq!(world.refused(&copied), RefusalKind::UntrustedSigner);
    assert_eq!(world.verifier.known_batch(&good.digest()).unwrap().signer, world.alice.peer_id());
}

#[test]
fn a_batch_is_for_the_supervisors_that_it_names() {
    let world = World::new();
    let batch = JobBatch { aud: vec![world.stranger.peer_id()], jobs: vec![world.job("a")], certificates: vec![] };
    let envelope = Envelope::sign_json(&world.alice, PayloadType::Jobs, &batch);
    let refusal = world.admit(&envelope).unwrap_err();
    assert!(refusal.kind == RefusalKind::NotAllowed && refusal.message.contains("aud"), "{refusal}");

    let batch = world.verifier.batch(&envelope).unwrap();
    let (served, other) = ([world.supervisor.peer_id()], [world.stranger.peer_id()]);
    let at = |audience| Admission { audience, ..world.ask(&batch, &|_| None, &|_| None) };
    assert!(world.verifier.admit_one(at(Audience::Any(&served)), 0).is_err());
    assert!(world.verifier.admit_one(at(Audience::Any(&other)), 0).is_ok());
    assert!(world.verifier.admit_one(at(Audience::Any(&other)), 1).is_err(), "there is no second job");
    assert!(world.verifier.admit_one(at(Audience::Trusted), 0).is_err(), "a stranger is no supervisor");
    let named = JobBatch { aud: vec![world.supervisor.peer_id()], jobs: vec![world.job("b")], certificates: vec![] };
    let named = world.verifier.batch(&Envelope::sign_json(&world.alice, PayloadType::Jobs, &named)).unwrap();
    let at = Admission { audience: Audience::Trusted, ..world.ask(&named, &|_| None, &|_| None) };
    assert!(world.verifier.admit_one(at, 0).is_ok());
}

#[test]
fn time_is_asked_again_on_every_use() {
    let world = World::new();
    let until = |at: Timestamp| JobSpec { run_until: Some(at), ..world.job("a") };
    let refused = |spec| world.refused(&world.batch(&world.alice, vec![spec]));
    assert_eq!(refused(until(world.now)), RefusalKind::Expired);
    assert_eq!(refused(until(world.later(7 * 86_400 + 61))), RefusalKind::TooLarge);
    assert!(world.admit(&world.batch(&world.alice, vec![until(world.later(7 * 86_400))])).is_ok());
    assert_eq!(refused(JobSpec { run_until: None, ..world.job("a") }), RefusalKind::InvalidEnvelope);
    assert_eq!(
        refused(JobSpec { not_before: Some(world.later(3600)), ..world.job("a") }),
        RefusalKind::InvalidEnvelope
    );

    let envelope = world.batch(&world.alice, vec![world.job("a")]);
    assert!(world.admit(&envelope).is_ok());
    let batch = world.verifier.batch(&envelope).unwrap();
    let later = Admission { now: world.later(3600), ..world.ask(&batch, &|_| None, &|_| None) };
    assert_eq!(
        world.verifier.admit(later).unwrap_err().kind,
        RefusalKind::Expired,
        "the batch in memory is no exception"
    );
}

#[test]
fn limits_hold() {
    let world = World::new();
    let refused = |change: &dyn Fn(&mut JobSpec)| {
        let mut spec = world.job("a");
        change(&mut spec);
        world.refused(&world.batch(&world.alice, vec![spec]))
    };
    let text = |bytes: usize| "x".repeat(bytes);
    use crate::job::limits::{ENV_BYTES, INPUT_BYTES, PAYLOAD_BYTES};
    assert_eq!(refused(&|job| job.payload = Some(text(PAYLOAD_BYTES + 1))), RefusalKind::TooLarge);
    assert_eq!(refused(&|job| job.input = Some(raw(&format!("\"{}\"", text(INPUT_BYTES))))), RefusalKind::TooLarge);
    assert_eq!(refused(&|job| job.env = BTreeMap::from([("A".into(), text(ENV_BYTES))])), RefusalKind::TooLarge);
    assert_eq!(
        refused(&|job| job.env = (0..65).map(|n| (format!("A{n}"), String::new())).collect()),
        RefusalKind::TooLarge
    );
    assert_eq!(refused(&|job| job.env = BTreeMap::from([("A=B".into(), String::new())])), RefusalKind::InvalidEnvelope);
    assert_eq!(refused(&|job| job.timeout_ms = Some(86_400_001)), RefusalKind::TooLarge);
    assert_eq!(refused(&|job| job.timeout_ms = Some(0)), RefusalKind::InvalidEnvelope);
    assert_eq!(refused(&|job| job.payload = None), RefusalKind::InvalidEnvelope);
    assert_eq!(refused(&|job| job.receipts = vec![ReceiptRef::Digest(Digest::of(b""))]), RefusalKind::InvalidEnvelope);
    let nested = |depth: usize| raw(&format!("{}{}", "[".repeat(depth), "]".repeat(depth)));
    assert_eq!(refused(&|job| job.input = Some(nested(65))), RefusalKind::TooLarge);
    assert_eq!(refused(&|job| job.input = Some(nested(100_000))), RefusalKind::TooLarge);
    let deepest = JobSpec { input: Some(nested(64)), ..world.job("a") };
    assert!(world.admit(&world.batch(&world.alice, vec![deepest])).is_ok());

    let many = |n: usize| world.batch(&world.alice, (0..n).map(|n| world.job(&n.to_string())).collect());
    assert_eq!(world.admit(&many(256)).unwrap().len(), 256);
    assert_eq!(world.refused(&many(257)), RefusalKind::TooLarge);
    assert_eq!(world.refused(&many(0)), RefusalKind::InvalidEnvelope);
    let heavy = (0..3).map(|n| JobSpec { payload: Some(text(PAYLOAD_BYTES)), ..world.job(&n.to_string()) }).collect();
    assert_eq!(world.refused(&world.batch(&world.alice, heavy)), RefusalKind::TooLarge, "more than 1 MiB");
}

#[test]
fn a_document_with_two_meanings_is_refused() {
    let world = World::new();
    let good = world.batch(&world.alice, vec![world.job("a"), world.job("b")]);
    let text = std::str::from_utf8(good.payload()).unwrap().to_owned();
    let sign = |text: String| Envelope::sign(&world.alice, PayloadType::Jobs, text.into_bytes());
    assert!(world.admit(&sign(text.clone())).is_ok());
    let refusal = world.admit(&sign(text.replace(r#""id":"b""#, r#""id":"a""#))).unwrap_err();
    assert!(refusal.index == Some(1) && refusal.message.contains("twice"), "{refusal}");
    for changed in [
        text.replacen(r#""payload":"#, r#""payload":"x","payload":"#, 1),
        text.replacen(r#""payload":"#, r#""env":{"A":"1","A":"2"},"payload":"#, 1),
        text.replacen(r#""payload":"#, r#""Payload":"#, 1),
        text.replacen(r#""payload":"#, r#""unknown":1,"payload":"#, 1),
        text.replacen(r#""aud":["#, r#""aud":[],"aud":["#, 1),
        format!("{text} {text}"),
        format!("\u{feff}{text}"),
    ] {
        assert_ne!(changed, text);
        assert_eq!(world.refused(&sign(changed.clone())), RefusalKind::InvalidEnvelope, "{changed}");
    }
    let latin = Envelope::sign(
        &world.alice,
        PayloadType::Jobs,
        text.replace("hi", "\u{e9}").replace('\u{e9}', "\u{80}").into_bytes(),
    );
    assert!(world.admit(&latin).is_ok(), "valid UTF-8 is fine");
    let mut bytes = text.into_bytes();
    let at = bytes.windows(2).position(|w| w == b"hi").unwrap();
    bytes[at] = 0xff;
    assert_eq!(world.refused(&Envelope::sign(&world.alice, PayloadType::Jobs, bytes)), RefusalKind::InvalidEnvelope);
}
