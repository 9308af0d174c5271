//! Bad input gets a clear error, and nothing is queued or changed.

use horus_tests::House;
use serde_json::{Value, json};

fn workflows(house: &House) -> usize {
    house.run(&["workflow", "list", "--json"]).ok().json()["workflows"].as_array().unwrap().len()
}

fn jobs(house: &House) -> usize {
    house.run(&["job", "list", "--json"]).ok().json()["jobs"].as_array().unwrap().len()
}

/// Posts a body to a role, and gives status and body.
fn post(address: &str, body: Vec<u8>) -> (u16, Value) {
    let url = address.split('#').next().unwrap().to_owned();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = reqwest::Client::new();
        let sent = client.post(url).header("content-type", "application/json").body(body).send().await.unwrap();
        let status = sent.status().as_u16();
        (status, serde_json::from_slice(&sent.bytes().await.unwrap()).unwrap())
    })
}

#[test]
fn workflows_that_are_bombs_are_refused_quickly() {
    let house = House::start();
    let mut many = "workflow:\n  name: many\n  steps:\n".to_owned();
    for n in 0..100_001 {
        many += &format!("    - {{id: s{n}, runner: noop, payload: ''}}\n");
    }
    let mut alias = "a: &a [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for n in 0..12 {
        let (this, last) = ((b'b' + n) as char, (b'a' + n) as char);
        alias += &format!("{this}: &{this} [*{last}, *{last}, *{last}, *{last}, *{last}, *{last}, *{last}, *{last}]\n");
    }
    let cyclic = "workflow:\n  name: c\n  steps:\n    - {id: a, runner: noop, payload: '', depends_on: [b]}\n    - {id: b, runner: noop, payload: '', depends_on: [a]}\n";
    let deep = format!("workflow: {}{}", "[".repeat(10_000), "]".repeat(10_000));
    for (what, text, needle) in [
        ("100,001 steps", many.as_str(), "100001"),
        ("an alias bomb", alias.as_str(), ""),
        ("a circle", cyclic, "a -> b -> a"),
        ("deep nesting", deep.as_str(), ""),
        ("no YAML", "workflow: [", ""),
    ] {
        let file = house.file("bad.yaml", text);
        let started = std::time::Instant::now();
        let run = house.run(&["workflow", "run", &file, "--json"]);
        assert_eq!(run.code, 1, "{what}: {}", run.stderr);
        let answer = run.json();
        assert_eq!(answer["error"]["kind"], "INVALID_WORKFLOW", "{what}: {answer}");
        assert!(run.stderr.contains(needle), "{what}: {}", run.stderr);
        assert!(started.elapsed().as_secs() < 30, "{what} took {:?}", started.elapsed());
    }
    let latin1 = house.file("latin1.yaml", "");
    std::fs::write(&latin1, b"workflow:\n  name: caf\xe9\n").unwrap();
    let run = house.run(&["workflow", "validate", &latin1, "--json"]);
    assert_eq!((run.code, run.json()["errors"][0]["line"].clone()), (1, json!(2)), "{run:?}");
    assert_eq!(workflows(&house), 0, "none of them was stored");
    assert_eq!(jobs(&house), 0);
}

#[test]
fn bytes_that_are_no_call_get_an_error_and_change_nothing() {
    let house = House::start();
    let nested = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    let call =
        |params: &str| format!("{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"create_jobs\",\"params\":{params}}}");
    for address in [&house.ready.supervisor, &house.ready.coordinator] {
        for (what, body) in [
            ("nothing", Vec::new()),
            ("no JSON", b"hello".to_vec()),
            ("bad UTF-8", b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"get_node_info\xff\"}".to_vec()),
            ("nested 10,000 deep", nested.clone().into_bytes()),
            ("no envelope", call("{}").into_bytes()),
            ("an envelope of nothing", call("{\"envelope\":{}}").into_bytes()),
            ("no base64", call("{\"envelope\":{\"payload\":\"%%\",\"payloadType\":\"application/vnd.horus.jobs+json\",\"signatures\":[]}}").into_bytes()),
            ("17 MiB", vec![b' '; 17 << 20]),
        ] {
            let (status, answer) = post(address, body);
            assert!(status == 200 || (400..500).contains(&status), "{what}: {status}");
            assert!(answer["error"]["message"].as_str().is_some_and(|m| !m.is_empty()), "{what}: {answer}");
            assert!(answer["error"]["data"]["kind"].is_string(), "{what}: {answer}");
        }
    }
    // Without a signature nothing but the open methods answers.
    for method in ["list_jobs", "get_job", "cancel_job", "list_runners", "wait_jobs", "delete_job"] {
        let body = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": {} }).to_string().into_bytes();
        let (_, answer) = post(&house.ready.supervisor, body);
        assert_eq!(answer["error"]["data"]["kind"], "UNAUTHENTICATED", "{method}: {answer}");
    }
    assert_eq!(jobs(&house), 0);
    house.run(&["job", "run", "--runner", "noop", "--payload", "1"]).ok();
}

#[test]
fn a_stranger_can_submit_nothing() {
    let house = House::start();
    let keys = house.data_dir().join("stranger").display().to_string();
    house.run(&["keys", "generate", "--dir", &keys]).ok();
    for args in [
        vec!["job", "submit", "--runner", "sal", "--payload", "1", "--identity", &keys, "--json"],
        vec!["job", "list", "--identity", &keys, "--json"],
        vec!["workflow", "list", "--identity", &keys, "--json"],
    ] {
        let run = house.run(&args);
        assert_eq!(run.code, 1, "{args:?}: {run:?}");
        assert_eq!(run.json()["error"]["kind"], "UNTRUSTED_SIGNER", "{args:?}: {run:?}");
    }
    assert_eq!(jobs(&house), 0);
}
