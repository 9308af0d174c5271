//! JSON-RPC 2.0 to the letter, over a socket.

use std::time::Instant;

use super::*;

#[tokio::test]
async fn calls_by_name_and_by_position() {
    let world = World::start().await;
    for params in [r#"{"value":7}"#, "[7]", "[7,0]", r#"{"pause_ms":null,"value":7}"#] {
        let reply = world.json(&request("1", "echo", params)).await;
        assert_eq!(reply, serde_json::json!({"jsonrpc":"2.0","id":1,"result":{"value":7}}));
    }
    let reply = world.json(r#"{"jsonrpc":"2.0","id":"s","method":"note"}"#).await;
    assert_eq!(reply, serde_json::json!({"jsonrpc":"2.0","id":"s","result":null}));
}

#[tokio::test]
async fn texts_pass_byte_for_byte_in_both_directions() {
    let world = World::start().await;
    let odd = "{\"a\" :  12345678901234567890123,\"b\":1.10 ,\t\"c\":[ 1e2,\"\\u00e9\\/\" ] }";
    for id in ["12345678901234567890123", "-1.50", "\"\\u0041\"", "null"] {
        let (status, text) = world.post(request(id, "echo", &format!("{{\"value\": {odd} }}"))).await;
        assert_eq!(status, 200);
        let expected = format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":{{\"value\":{odd}}}}}");
        assert_eq!(text, expected);
    }
    let client = world.client(None);
    let value = RawValue::from_string(odd.to_owned()).unwrap();
    let result = client.call::<Echo>(&EchoParams { value: value.clone(), pause_ms: None }).await.unwrap();
    assert_eq!(result.value.get(), odd);
    let raw = client.call_raw("echo", &[&value]).await.unwrap();
    assert_eq!(raw.get(), format!("{{\"value\":{odd}}}"));
}

#[tokio::test]
async fn the_examples_of_the_specification() {
    let world = World::start().await;
    let error = async |body: &str| {
        let reply = world.json(body).await;
        (reply["id"].clone(), reply["error"]["code"].as_i64().unwrap())
    };
    assert_eq!(error(r#"{"jsonrpc": "2.0", "method": "foobar", "id": "1"}"#).await, ("1".into(), -32601));
    assert_eq!(error(r#"{"jsonrpc": "2.0", "method": "foobar, "params": "bar", "baz]"#).await, (Value::Null, -32700));
    assert_eq!(error(r#"{"jsonrpc": "2.0", "method": 1, "params": "bar"}"#).await, (Value::Null, -32600));
    assert_eq!(error("[]").await, (Value::Null, -32600));
    assert_eq!(error(r#"[{"jsonrpc": "2.0", "method""#).await, (Value::Null, -32700));
    assert_eq!(error(&request("5", "echo", "{}")).await, (5.into(), -32602));

    let reply = world.json("[1,2,3]").await;
    assert_eq!(reply.as_array().unwrap().len(), 3);
    assert!(reply.as_array().unwrap().iter().all(|e| e["error"]["code"] == -32600 && e["id"].is_null()));

    let batch = format!(
        r#"[{}, {{"jsonrpc": "2.0", "method": "note"}}, {}, {{"foo": "boo"}}, {}, {{"jsonrpc": "2.0", "method": "nope"}}]"#,
        request("1", "echo", "[1]"),
        request("\"2\"", "echo", "[2]"),
        request("5", "foo.get", "{}")
    );
    let reply = world.json(&batch).await;
    let ids: Vec<&Value> = reply.as_array().unwrap().iter().map(|entry| &entry["id"]).collect();
    assert_eq!(ids, [&Value::from(1), &"2".into(), &Value::Null, &5.into()]);
    assert_eq!(world.state.noted.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn notifications_run_and_get_no_body() {
    let world = World::start().await;
    let note = r#"{"jsonrpc":"2.0","method":"note"}"#;
    assert_eq!(world.post(note).await, (204, String::new()));
    assert_eq!(world.post(format!("[{note},{note}]")).await, (204, String::new()));
    assert_eq!(world.post(r#"{"jsonrpc":"2.0","method":"nothing of that name"}"#).await, (204, String::new()));
    assert_eq!(world.state.noted.load(Ordering::SeqCst), 3);
    world.client(None).notify(&Call::new::<Note>(&NoParams {}).unwrap()).await.unwrap();
    assert_eq!(world.state.noted.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn the_entries_of_a_batch_run_concurrently_and_keep_their_order() {
    let world = World::start().await;
    let calls: Vec<Call> = (0..20)
        .map(|i| Call::raw("echo", &serde_json::json!({"value": i, "pause_ms": 300 - 10 * i})).unwrap())
        .collect();
    let begun = Instant::now();
    let replies = world.client(None).batch(&calls, Duration::from_secs(10)).await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(3), "one after another it takes over 4 s");
    assert_eq!(world.state.most_pausing.load(Ordering::SeqCst), 20);
    for (i, reply) in replies.into_iter().enumerate() {
        assert_eq!(decode::<Echo>(&reply.unwrap()).unwrap().value.get(), i.to_string());
    }
}

#[tokio::test]
async fn a_panic_is_an_error_of_that_call_only() {
    let world = World::start().await;
    let calls = [Call::raw("panic", &NoParams {}).unwrap(), Call::raw("echo", &[1]).unwrap()];
    let client = world.client(None);
    let replies = client.batch(&calls, Duration::from_secs(10)).await.unwrap();
    let error = replies[0].as_ref().unwrap_err();
    assert_eq!(error.kind, ErrorKind::Internal);
    assert!(!error.message.contains("on purpose"), "the cause is for the log");
    assert!(replies[1].is_ok());
    assert_eq!(client.call::<Panic>(&NoParams {}).await.unwrap_err().kind, ErrorKind::Internal);
}

#[tokio::test]
async fn whatever_comes_in_something_valid_comes_out() {
    let world = World::start().await;
    let valid = request("1", "echo", r#"{"value":[1,{"a":"b"}]}"#).into_bytes();
    let mut corpus: Vec<Vec<u8>> = vec![
        vec![],
        vec![0],
        vec![0xff; 10],
        b"null".to_vec(),
        b"true".to_vec(),
        b"\"\\ud800\"".to_vec(),
        b"{\"\\ud800\":1}".to_vec(),
        vec![b'['; 100_000],
        vec![b'{'; 100_000],
        vec![b'"'; 1000],
        b"\xef\xbb\xbf{}".to_vec(),
        b"[[[[]]]]".to_vec(),
        b"{\"jsonrpc\":\"2.0\",\"id\":1}".to_vec(),
        format!("[{}]", vec!["1"; 257].join(",")).into_bytes(),
    ];
    corpus.extend((0..valid.len()).map(|end| valid[..end].to_vec()));
    for at in 0..valid.len() {
        for flip in [0x01, 0x20, 0x80] {
            let mut mutant = valid.clone();
            mutant[at] ^= flip;
            corpus.push(mutant);
        }
    }
    for body in corpus {
        let inbound = Inbound { body: body.clone().into(), authorization: None, origin: Origin::Local };
        let reply = world.dispatcher.dispatch(inbound).await;
        // No body only where a mutation made a notification of it.
        let Some(text) = reply.body else { continue };
        let shown = String::from_utf8_lossy(&body);
        let value: Value = serde_json::from_slice(&text).unwrap_or_else(|e| panic!("{shown}: {e}"));
        let first = value.get(0).unwrap_or(&value);
        assert_eq!(first["jsonrpc"], "2.0", "{shown}");
        assert!(first.get("result").is_some() || first["error"]["data"]["kind"].is_string(), "{shown}");
    }
    assert_eq!(world.post(&valid).await.0, 200);
}
