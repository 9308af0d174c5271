//! The wire format, byte by byte: other programs write and read it.

use std::collections::BTreeMap;

use horus_keys::{Digest, Identity, PeerId, Timestamp};
use proptest::prelude::*;
use serde_json::value::RawValue;

use super::*;

const TIME: &str = "2026-11-21T18:00:00.123Z";

fn time() -> Timestamp {
    TIME.parse().unwrap()
}

fn peer() -> PeerId {
    Identity::from_seed(&[1; 32]).peer_id()
}

fn raw(text: &str) -> Box<RawValue> {
    RawValue::from_string(text.to_owned()).unwrap()
}

fn plain() -> JobSpec {
    let mut spec = JobSpec::new(LocalId::new("a-1").unwrap(), "hero".parse().unwrap(), "!!play.echo", time());
    spec.input = Some(raw(r#"{"n": 1.0}"#));
    spec.env.insert("A".to_owned(), "b".to_owned());
    spec.timeout_ms = Some(1000);
    spec.idempotent = Some(true);
    spec.priority = Some(Priority::High);
    spec.not_before = Some(time());
    spec.labels.insert("team".to_owned(), "core".to_owned());
    spec
}

fn delegation() -> Delegation {
    Delegation { workflow: Digest::of(b"w"), step: StepId::new("fetch").unwrap(), index: None, attempt: 1 }
}

#[test]
fn a_plain_job_is_written_like_this() {
    let expected = format!(
        r#"{{"id":"a-1","runner":"hero","payload":"!!play.echo","input":{{"n": 1.0}},"env":{{"A":"b"}},"timeout_ms":1000,"idempotent":true,"priority":"high","not_before":"{TIME}","run_until":"{TIME}","labels":{{"team":"core"}}}}"#
    );
    assert_eq!(serde_json::to_string(&plain()).unwrap(), expected);
    let read: JobSpec = serde_json::from_str(&expected).unwrap();
    assert_eq!(serde_json::to_string(&read).unwrap(), expected);
}

#[test]
fn null_is_an_input_like_any_other() {
    let text = format!(r#"{{"id":"a","runner":"hero","payload":"p","input":null,"run_until":"{TIME}"}}"#);
    let spec: JobSpec = serde_json::from_str(&text).unwrap();
    assert_eq!(spec.input.as_ref().unwrap().get(), "null");
    assert_eq!(serde_json::to_string(&spec).unwrap(), text, "byte for byte");
    let without: JobSpec = serde_json::from_str(&text.replace(r#""input":null,"#, "")).unwrap();
    assert!(without.input.is_none());
}

#[test]
fn null_is_as_good_as_nothing_for_every_other_field() {
    let text = format!(r#"{{"id":"a","runner":"hero","payload":"p","run_until":"{TIME}"}}"#);
    let fields =
        ["env", "secrets", "labels", "receipts", "timeout_ms", "idempotent", "priority", "not_before", "delegation"];
    for field in fields {
        let spec: JobSpec =
            serde_json::from_str(&text.replace("\"payload\"", &format!("\"{field}\":null,\"payload\""))).unwrap();
        assert_eq!(serde_json::to_string(&spec).unwrap(), text, "{field}");
    }
}

#[test]
fn the_job_of_a_step_is_written_like_this() {
    let receipt = Digest::of(b"receipts");
    let spec = JobSpec::step("hero".parse().unwrap(), delegation(), Some(raw("{}")), vec![ReceiptRef::Digest(receipt)]);
    let (id, workflow) = (&spec.id, Digest::of(b"w"));
    let expected = format!(
        r#"{{"id":"{id}","runner":"hero","input":{{}},"delegation":{{"workflow":"{workflow}","step":"fetch","attempt":1}},"receipts":["{receipt}"]}}"#
    );
    assert_eq!(serde_json::to_string(&spec).unwrap(), expected);
    assert_eq!(spec.id.as_str().len(), 32);
}

#[test]
fn a_receipt_reference_is_a_digest_or_an_envelope() {
    let envelope =
        horus_keys::Envelope::sign(&Identity::from_seed(&[1; 32]), horus_keys::PayloadType::Receipts, b"{}".to_vec());
    let read: ReceiptRef = serde_json::from_str(&envelope.to_json()).unwrap();
    assert!(matches!(&read, ReceiptRef::Envelope(e) if **e == envelope));
    assert_eq!(read.digest(), Digest::of(b"{}"));
    for bad in ["1", "{}", "\"x\"", "null", "[]"] {
        assert!(serde_json::from_str::<ReceiptRef>(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_receipt_is_written_like_this() {
    let mut job = Job::unsigned("hero", "x");
    job.workflow = Some((Digest::of(b"w"), WorkflowId::new("nightly").unwrap()));
    let error = JobError::new("HTTP_STATUS", &"x".repeat(limits::ERROR_MESSAGE_BYTES + 1));
    assert_eq!(error.message.len(), limits::ERROR_MESSAGE_BYTES);
    let ending = Ending {
        attempt: 2,
        started_at: time(),
        finished_at: time(),
        outcome: JobStatus::Failed,
        output: None,
        error: Some(&error),
    };
    let (id, spec, workflow) = (&job.id, job.spec, Digest::of(b"w"));
    let message = "x".repeat(limits::RECEIPT_MESSAGE_BYTES);
    let expected = format!(
        r#"{{"job_id":"{id}","spec":"{spec}","workflow":"{workflow}","attempt":2,"runner":"hero","started_at":"{TIME}","finished_at":"{TIME}","outcome":"failed","output":null,"error":{{"code":"HTTP_STATUS","message":"{message}"}}}}"#
    );
    assert_eq!(serde_json::to_string(&Receipt::of(&job, &ending)).unwrap(), expected);

    let good = Ending { outcome: JobStatus::Succeeded, output: Some("[1, 2]"), error: None, ..ending };
    assert_eq!(Receipt::of(&job, &good).output, Some(Digest::of(b"[1, 2]")));
}

#[test]
fn a_submission_is_written_like_this() {
    let submission = WorkflowSubmission {
        id: WorkflowId::new("nightly").unwrap(),
        definition: "workflow:".to_owned(),
        inputs: Some(BTreeMap::from([("day".to_owned(), raw("\"mon\""))])),
        coordinators: vec![peer()],
        submit_by: time(),
        run_until: time(),
        certificates: vec![],
    };
    let expected = format!(
        r#"{{"id":"nightly","definition":"workflow:","inputs":{{"day":"mon"}},"coordinators":["{}"],"submit_by":"{TIME}","run_until":"{TIME}"}}"#,
        peer()
    );
    assert_eq!(serde_json::to_string(&submission).unwrap(), expected);
    assert!(serde_json::from_str::<WorkflowSubmission>(&expected).is_ok());
}

#[test]
fn a_batch_of_the_most_receipts_fits_into_an_envelope() {
    let error = JobError::new(&"C".repeat(64), &"m".repeat(limits::ERROR_MESSAGE_BYTES));
    let ending = Ending {
        attempt: 1,
        started_at: time(),
        finished_at: time(),
        outcome: JobStatus::Failed,
        output: None,
        error: Some(&error),
    };
    let receipts = vec![Receipt::of(&Job::unsigned("hero", "x"), &ending); limits::RECEIPT_BATCH];
    let bytes = serde_json::to_vec(&ReceiptBatch { receipts, certificates: vec![] }).unwrap();
    assert!(bytes.len() < limits::RECEIPTS_BYTES, "{} bytes", bytes.len());
}

proptest! {
    /// What is written is read back as the same text, whatever payload and input are.
    #[test]
    fn jobs_survive_the_round_trip(payload in ".{0,50}", text in ".{0,50}", env in proptest::collection::btree_map("[A-Z]{1,5}", ".{0,9}", 0..4)) {
        let mut spec = plain();
        spec.payload = Some(payload);
        spec.input = Some(serde_json::value::to_raw_value(&text).unwrap());
        spec.env = env;
        let written = serde_json::to_string(&JobBatch { aud: vec![peer()], jobs: vec![spec], certificates: vec![] }).unwrap();
        let read: JobBatch = serde_json::from_str(&written).unwrap();
        prop_assert_eq!(serde_json::to_string(&read).unwrap(), written);
    }
}
