use super::*;
use proptest::prelude::*;

fn request(bodies: &[&[u8]]) -> (RequestHead, Vec<Bytes>) {
    let bodies: Vec<Bytes> = bodies.iter().map(|body| Bytes::copy_from_slice(body)).collect();
    let entry = |(n, body): (usize, &Bytes)| EntryHead {
        n: n as u64,
        len: body.len(),
        auth: (n % 2 == 0).then(|| "Horus x\ny".to_owned()),
        wait_ms: 5,
        resume: false,
    };
    let entries = bodies.iter().enumerate().map(entry).collect();
    let session = "00".repeat(16);
    (RequestHead { session, sent_at: 7, hold_ms: 9, first: false, nudge: false, entries }, bodies)
}

fn scan(message: &[u8], step: usize) -> Result<Option<usize>, ScanError> {
    let mut scanner = Scanner::default();
    for chunk in message.chunks(step) {
        if let Some(end) = scanner.feed(chunk)? {
            return Ok(Some(end));
        }
    }
    Ok(None)
}

#[test]
fn the_bytes_of_a_frame_are_fixed() {
    let (mut head, bodies) = request(&[b"{}"]);
    head.session = "ab".into();
    let frame = encode(&head, &bodies);
    let text =
        r#"{"session":"ab","sent_at":7,"hold_ms":9,"entries":[{"n":0,"len":2,"auth":"Horus x\ny","wait_ms":5}]}"#;
    let mut expected = b"HRS1\0\0\0".to_vec();
    expected.push(u8::try_from(text.len() + 3).unwrap());
    expected.extend_from_slice(format!("{text}\n{{}}").as_bytes());
    assert_eq!(frame, expected);
}

#[test]
fn no_message_ends_in_a_chunk_that_the_daemon_drops() {
    let is_dropped = |length: usize| length > 1300 && (1..250).contains(&(length % 1300));
    for length in 0..6000 {
        let text = deliverable(Bytes::from(vec![b'1'; length]));
        assert!(!is_dropped(text.len()) && text.len() < length + 250, "{length}");
        assert_eq!(text.trim_ascii().len(), length);
        let body = vec![b' '; length];
        let (head, bodies) = request(&[&body]);
        let frame = encode(&head, &bodies);
        assert!(!is_dropped(frame.len()), "{length}");
        assert_eq!(decode_request(&frame).unwrap(), (head, bodies));
    }
}

#[test]
fn what_is_no_frame_is_refused() {
    let (head, bodies) = request(&[b"{}", b"[1]"]);
    let good = encode(&head, &bodies);
    decode_request(&good).unwrap();
    for cut in 0..good.len() {
        assert!(decode_request(&good.slice(..cut)).is_err(), "cut at {cut}");
    }
    let mut long = good.to_vec();
    long.push(b' ');
    assert!(decode_request(&long.into()).is_err());
    let mut more = head.clone();
    more.entries[0].len = 1;
    assert!(decode_request(&encode(&more, &bodies)).unwrap_err().message.contains("longer than its header"));
    more.entries[0].len = usize::MAX;
    assert!(decode_request(&encode(&more, &bodies)).unwrap_err().message.contains("shorter than its header"));
    let many = RequestHead { entries: vec![head.entries[0].clone(); MAX_ENTRIES + 1], ..head };
    assert_eq!(decode_request(&encode(&many, &[])).unwrap_err().kind, ErrorKind::TooLarge);
}

#[test]
fn the_end_is_found_without_a_half_close() {
    for (text, end) in [
        ("{}", Some(2)),
        (" \n[1, {\"a\":\"}]\\\"\"}]  x", Some(19)),
        (r#"{"a":"\\"}{"#, Some(10)),
        (r#"{"a":"\\\"}"#, None),
        ("{\"a\":[}", None),
        ("", None),
        ("  ", None),
    ] {
        for step in [1, 2, 3, 100] {
            assert_eq!(scan(text.as_bytes(), step), Ok(end), "{text} by {step}");
        }
    }
    for text in ["x", "1", "\"a\"", "null", " HRS1", "HRS2....", "HTTP/1.1", "]"] {
        assert_eq!(scan(text.as_bytes(), 1), Err(ScanError::NoMessage), "{text}");
    }
    let (head, bodies) = request(&[b"{}"]);
    let mut frame = encode(&head, &bodies).to_vec();
    let end = frame.len();
    frame.extend_from_slice(b"more");
    for step in [1, 3, 7, 1000] {
        assert_eq!(scan(&frame, step), Ok(Some(end)));
        assert_eq!(scan(&frame[..end - 1], step), Ok(None));
    }
}

#[test]
fn too_long_is_noticed_before_it_is_all_there() {
    assert_eq!(scan(b"HRS1\xff\xff\xff\xff", 1), Err(ScanError::TooLong));
    assert_eq!(scan(b"HRS1\x00\x10\x00\x00", 8), Err(ScanError::TooLong));
    let endless = vec![b'['; MAX_MESSAGE + 1];
    assert_eq!(scan(&endless, 4096), Err(ScanError::TooLong));
    let spaces = vec![b' '; MAX_MESSAGE + 1];
    assert_eq!(scan(&spaces, 4096), Err(ScanError::TooLong));
}

proptest! {
    #[test]
    fn frames_survive_the_way(bodies in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..50), 0..9)) {
        let slices: Vec<&[u8]> = bodies.iter().map(Vec::as_slice).collect();
        let (head, bodies) = request(&slices);
        let frame = encode(&head, &bodies);
        prop_assert_eq!(scan(&frame, 5), Ok(Some(frame.len())));
        let (again, cut) = decode_request(&frame).unwrap();
        prop_assert_eq!(again, head);
        prop_assert_eq!(cut, bodies);
    }

    #[test]
    fn hostile_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), step in 1usize..9, framed: bool) {
        if framed && bytes.len() >= 8 {
            bytes[..4].copy_from_slice(MAGIC);
            let length = u32::try_from(bytes.len() - 8).unwrap();
            bytes[4..8].copy_from_slice(&length.to_be_bytes());
        }
        let _ = scan(&bytes, step);
        let bytes = Bytes::from(bytes);
        let _ = decode_request(&bytes);
        let _ = decode_reply(&bytes);
    }

    #[test]
    fn mutated_frames_never_panic(at in any::<prop::sample::Index>(), with: u8) {
        let (head, bodies) = request(&[b"{\"a\":1}", b"[]"]);
        let mut frame = encode(&head, &bodies).to_vec();
        let at = at.index(frame.len());
        frame[at] = with;
        let _ = scan(&frame, 3);
        let _ = decode_request(&frame.into());
    }

    #[test]
    fn whole_json_values_end_where_they_end(value in "[a-z\\[\\]{}\"\\\\]{0,20}") {
        let text = serde_json::to_string(&vec![value]).unwrap();
        prop_assert_eq!(scan(format!("{text} tail").as_bytes(), 2), Ok(Some(text.len())));
    }
}
