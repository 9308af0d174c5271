use super::*;
use proptest::prelude::*;

fn alice() -> Identity {
    Identity::from_seed(&[1; 32])
}

fn bob() -> Identity {
    Identity::from_seed(&[2; 32])
}

fn envelope(payload: &str) -> Envelope {
    Envelope::sign(&alice(), PayloadType::Jobs, payload.as_bytes().to_vec())
}

/// Whether the JSON is taken for an envelope of jobs with good signatures.
fn accepted(json: &[u8]) -> bool {
    Envelope::from_json(json).and_then(|envelope| envelope.verify(PayloadType::Jobs)).is_ok()
}

#[test]
fn the_encoding_that_is_signed_is_that_of_dsse() {
    // The example of the DSSE v1 protocol, and its borders: length in bytes, not in characters.
    assert_eq!(
        pae("http://example.com/HelloWorld", b"hello world"),
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    );
    assert_eq!(pae("", b""), b"DSSEv1 0  0 ");
    assert_eq!(pae("t", "é\n".as_bytes()), "DSSEv1 1 t 3 é\n".as_bytes());
}

#[test]
fn the_json_of_an_envelope_does_not_change() {
    // Ed25519 is deterministic: any change here is a change of the wire format.
    let json = envelope(r#"{"jobs":[]}"#).to_json();
    let expected = concat!(
        r#"{"payload":"eyJqb2JzIjpbXX0=","payloadType":"application/vnd.horus.jobs+json","#,
        r#""signatures":[{"keyid":"12D3KooWK99VoVxNE7XzyBwXEzW7xhK7Gpv85r9F3V3fyKSUKPH5","#,
    );
    assert!(json.starts_with(expected), "{json}");
    let read = Envelope::from_json(json.as_bytes()).unwrap();
    assert_eq!(read, envelope(r#"{"jobs":[]}"#));
    assert_eq!(read.to_json(), json);
}

#[test]
fn what_was_signed_is_what_is_read() {
    let verified = envelope("[1, 18446744073709551615]").verify(PayloadType::Jobs).unwrap();
    assert_eq!(verified.payload(), b"[1, 18446744073709551615]");
    assert_eq!(verified.signer(), alice().peer_id());
    assert_eq!(verified.digest(), Digest::of(b"[1, 18446744073709551615]"));
    assert_eq!(verified.parse::<Vec<u64>>().unwrap(), [1, u64::MAX]);
}

#[test]
fn a_document_of_one_type_does_not_pass_for_another() {
    let signed = envelope("{}");
    assert_eq!(
        signed.verify(PayloadType::Workflow).unwrap_err(),
        EnvelopeError::WrongType { expected: PayloadType::Workflow, found: PayloadType::Jobs }
    );
    let relabelled = signed.to_json().replace("horus.jobs+json", "horus.workflow+json");
    let relabelled = Envelope::from_json(relabelled.as_bytes()).unwrap();
    assert_eq!(
        relabelled.verify(PayloadType::Workflow).unwrap_err(),
        EnvelopeError::BadSignature { keyid: alice().peer_id() }
    );
    for payload_type in PayloadType::ALL {
        let signed = Envelope::sign(&alice(), payload_type, b"{}".to_vec());
        assert!(signed.verify(payload_type).is_ok());
    }
}

#[test]
fn any_flipped_bit_is_refused() {
    // With padding, with both special digits of base64, and with two signers.
    for payload in ["{}", r#"{"a":"?>?>~~~"}"#, r#"{"jobs":[{"id":"1"}]}"#] {
        let mut signed = envelope(payload);
        signed.add_signature(&bob()).unwrap();
        let json = signed.to_json().into_bytes();
        assert!(accepted(&json));
        for position in 0..json.len() {
            for bit in 0..8 {
                let mut flipped = json.clone();
                flipped[position] ^= 1 << bit;
                assert!(!accepted(&flipped), "{}", String::from_utf8_lossy(&flipped));
            }
        }
    }
}

#[test]
fn any_flipped_bit_of_payload_or_signature_is_refused() {
    let signed = envelope(r#"{"a":1}"#);
    for position in 0..signed.payload().len() * 8 {
        let mut inner = (*signed.0).clone();
        inner.payload[position / 8] ^= 1 << (position % 8);
        assert!(Envelope(Arc::new(inner)).verify(PayloadType::Jobs).is_err());
    }
    for position in 0..512 {
        let mut inner = (*signed.0).clone();
        inner.signatures[0].sig[position / 8] ^= 1 << (position % 8);
        assert!(Envelope(Arc::new(inner)).verify(PayloadType::Jobs).is_err());
    }
}

/// Made by the owner of the key with the neutral element as R: plain Ed25519 verification accepts it,
/// though it commits to nothing.
#[test]
fn a_signature_that_only_lenient_verifiers_accept_is_refused() {
    let mut inner = (*envelope("{}").0).clone();
    let sig = &mut inner.signatures[0].sig;
    *sig = [0; 64];
    sig[0] = 1;
    hex::decode_to_slice("c098c07c6aab1f8f340a8ce7becb10c7802261d93d4dd929009e6eb35fb47604", &mut sig[32..]).unwrap();
    let signature = Signature::from_bytes(sig);
    let message = pae(PayloadType::Jobs.as_str(), b"{}");
    assert!(ed25519_dalek::Verifier::verify(&alice().peer_id().verifying_key(), &message, &signature).is_ok());
    assert!(Envelope(Arc::new(inner)).verify(PayloadType::Jobs).is_err());
}

#[test]
fn one_bad_signature_voids_the_envelope() {
    let mut signed = envelope("{}");
    signed.add_signature(&bob()).unwrap();
    signed.add_signature(&bob()).unwrap();
    assert_eq!(signed.keyids().collect::<Vec<_>>(), [alice().peer_id(), bob().peer_id()]);
    let verified = signed.verify(PayloadType::Jobs).unwrap();
    assert_eq!(verified.signers(), [alice().peer_id(), bob().peer_id()]);

    let mut inner = (*signed.0).clone();
    inner.signatures[1].sig = inner.signatures[0].sig;
    assert_eq!(
        Envelope(Arc::new(inner)).verify(PayloadType::Jobs).unwrap_err(),
        EnvelopeError::BadSignature { keyid: bob().peer_id() }
    );
}

#[test]
fn signing_once_more_leaves_other_clones_alone() {
    let first = envelope("{}");
    let mut second = first.clone();
    second.add_signature(&bob()).unwrap();
    assert_eq!((first.keyids().len(), second.keyids().len()), (1, 2));
}

#[test]
fn an_envelope_carries_1_to_8_signatures() {
    let mut signed = envelope("{}");
    for seed in 10..17 {
        signed.add_signature(&Identity::from_seed(&[seed; 32])).unwrap();
    }
    assert!(accepted(signed.to_json().as_bytes()));
    let ninth = Identity::from_seed(&[99; 32]);
    assert_eq!(signed.add_signature(&ninth), Err(EnvelopeError::TooManySignatures));

    let mut value: serde_json::Value = serde_json::from_str(&signed.to_json()).unwrap();
    let signatures = value["signatures"].as_array_mut().unwrap();
    signatures.push(serde_json::json!({"keyid": ninth.peer_id(), "sig": "AAAA"}));
    let nine = value.to_string();
    assert_eq!(Envelope::from_json(nine.as_bytes()).unwrap_err(), EnvelopeError::TooManySignatures);
    value["signatures"] = serde_json::json!([]);
    assert!(Envelope::from_json(value.to_string().as_bytes()).is_err());
}

#[test]
fn malformed_envelopes_are_refused() {
    let good = envelope("{\"a\":1}").to_json();
    let value: serde_json::Value = serde_json::from_str(&good).unwrap();
    let with = |field: &str, new: serde_json::Value| {
        let mut changed = value.clone();
        changed[field] = new;
        changed.to_string()
    };
    let signature = value["signatures"][0].to_string();
    for (what, bad) in [
        ("a field twice", good.replacen('{', r#"{"payload":"e30=","#, 1)),
        ("trailing text", format!("{good} x")),
        ("a keyid twice", good.replace(&signature, &format!("{signature},{signature}"))),
        ("unpadded base64", good.replace("\"eyJhIjoxfQ==\"", "\"eyJhIjoxfQ\"")),
        ("stray bits in base64", good.replace("\"eyJhIjoxfQ==\"", "\"eyJhIjoxfR==\"")),
        ("spaces in base64", good.replace("\"eyJhIjoxfQ==\"", "\"eyJh IjoxfQ==\"")),
        ("both alphabets at once", with("payload", "-_+/".into())),
        ("a payload that is no text", with("payload", serde_json::json!([1]))),
        ("no payload", with("payload", serde_json::Value::Null)),
        ("an unknown type", with("payloadType", "application/vnd.in-toto+json".into())),
        ("a short signature", with("signatures", serde_json::json!([{"keyid": alice().peer_id(), "sig": "AAAA"}]))),
        ("nothing", String::new()),
        ("a list", "[]".into()),
        ("deep nesting", "[".repeat(100_000)),
    ] {
        assert!(Envelope::from_json(bad.as_bytes()).is_err(), "{what}: {bad}");
    }
    let long = vec![b' '; MAX_JSON_BYTES + 1];
    assert_eq!(Envelope::from_json(&long).unwrap_err(), EnvelopeError::TooLarge { limit: MAX_JSON_BYTES });
}

#[test]
fn what_other_dsse_implementations_write_is_read() {
    let signed = envelope(r#"{"a":"?>?>~~~"}"#);
    let mut value: serde_json::Value = serde_json::from_str(&signed.to_json()).unwrap();
    // Other order, unknown fields, indentation, escapes, URL-safe base64.
    value["payload"] = URL_SAFE.encode(signed.payload()).into();
    value["note"] = serde_json::json!({"deep": [[[]]]});
    let pretty = serde_json::to_string_pretty(&value).unwrap().replace("payloadType", "\\u0070ayloadType");
    assert!(accepted(pretty.as_bytes()));
    assert_eq!(Envelope::from_json(pretty.as_bytes()).unwrap(), signed);
    // Inside another document, where nothing can be borrowed.
    assert_eq!(serde_json::from_value::<Envelope>(value).unwrap(), signed);
}

#[test]
fn a_payload_that_is_not_its_document_is_refused() {
    let parse = |payload: &[u8]| {
        let signed = Envelope::sign(&alice(), PayloadType::Jobs, payload.to_vec());
        signed.verify(PayloadType::Jobs).unwrap().parse::<serde_json::Value>()
    };
    assert!(parse(format!("{}{}", "[".repeat(64), "]".repeat(64)).as_bytes()).is_ok());
    for bad in [&b"\"\xff\""[..], b"", b"{} {}", format!("{}{}", "[".repeat(65), "]".repeat(65)).as_bytes()] {
        let error = parse(bad).unwrap_err();
        assert!(matches!(error, EnvelopeError::Payload { expected: PayloadType::Jobs, .. }), "{error}");
    }
}

#[test]
fn debug_shows_no_payload() {
    let shown = format!("{:?}", envelope("the payload may be private"));
    assert!(!shown.contains("private") && shown.contains("12D3KooW"), "{shown}");
}

#[test]
fn the_schema_describes_the_json() {
    let schema = schemars::schema_for!(Envelope);
    let text = serde_json::to_string(&schema).unwrap();
    for word in ["payloadType", "signatures", "keyid", "12D3KooW", "maxItems"] {
        assert!(text.contains(word), "{word} in {text}");
    }
}

proptest! {
    #[test]
    fn json_leads_back_to_the_envelope(payload in proptest::collection::vec(any::<u8>(), 0..300), seed in any::<[u8; 32]>()) {
        let signed = Envelope::sign(&Identity::from_seed(&seed), PayloadType::Workflow, payload.clone());
        let read = Envelope::from_json(signed.to_json().as_bytes()).unwrap();
        prop_assert_eq!(&read, &signed);
        let verified = read.verify(PayloadType::Workflow).unwrap();
        prop_assert_eq!(verified.payload(), &payload[..]);
    }

    #[test]
    fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Envelope::from_json(&bytes);
    }

    #[test]
    fn a_changed_envelope_is_refused(position in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let json = envelope(r#"{"jobs":[{"id":"1"}]}"#).to_json().into_bytes();
        let mut changed = json.clone();
        changed[position.index(json.len())] = byte;
        prop_assume!(changed != json);
        prop_assert!(!accepted(&changed));
    }
}
