//! What the command line prints when something is wrong, for people and for programs.

use std::{os::unix::fs::symlink, process::Command};

use horus_tests::{Horus, Outcome, binary};

/// With `--json`, stdout holds one JSON value with a message, and the command did not succeed.
fn json_error(args: &[&str], code: i32) -> Outcome {
    let outcome = Horus::default().run(args);
    assert_eq!(outcome.code, code, "{outcome:?}");
    let message = outcome.json()["error"]["message"].as_str().map(str::to_owned);
    assert!(message.is_some_and(|m| !m.is_empty()), "{outcome:?}");
    assert!(!outcome.stderr.is_empty(), "{outcome:?}");
    outcome
}

#[test]
fn every_failure_is_one_json_value_for_a_program() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let keys = path("keys");
    Horus::default().run(&["keys", "generate", "--dir", &keys]).ok();
    std::fs::write(path("binary"), [0xff, 0xfe, 0]).unwrap();
    std::fs::write(path("file"), "").unwrap();

    json_error(&["keys", "show", "--dir", &path("none"), "--json"], 1);
    json_error(&["keys", "import", "--seed-hex", "07", "--dir", &path("new"), "--json"], 2);
    json_error(&["keys", "sign", "--type", "jobs", &path("binary"), "--dir", &keys, "--json"], 1);
    json_error(&["keys", "verify", &path("none"), "--json"], 1);
    json_error(&["keys", "trust", "list", "--trust", &path("none"), "--json"], 1);
    json_error(&["workflow", "validate", &path("none"), "--json"], 1);
    json_error(&["workflow", "run", &path("none"), "--identity", &keys, "--json"], 1);
    json_error(&["hero", "parse", &path("none"), "--json"], 1);
    json_error(&["job", "run", "--runner", "sal", "--file", &path("binary"), "--identity", &keys, "--json"], 1);
    json_error(&["job", "status", "nonsense", "--identity", &keys, "--json"], 2);
    json_error(&["up", "--data-dir", &path("file"), "--identity", &keys, "--json"], 1);
    // What cannot even be parsed is told to the program too.
    json_error(&["job", "status", "--json", "--no-such-flag"], 2);
}

#[test]
fn a_value_beyond_its_limit_is_wrong_usage_and_told_with_the_limit() {
    let horus = Horus::default();
    let refused = |args: &[&str], told: &str| {
        let outcome = horus.run(args);
        assert_eq!(outcome.code, 2, "{args:?}: {outcome:?}");
        assert!(outcome.stderr.contains(told), "{args:?}: {outcome:?}");
    };
    for command in ["run", "submit"] {
        let job = |flag, value, told| {
            refused(&["job", command, "--runner", "sal", "--payload", "1", flag, value], told);
        };
        job("--timeout", "25h", "24 hours");
        job("--timeout", "0s", "longer than 0s");
        job("--run-within", "8d", "168 hours");
        refused(&["workflow", command, "w.yaml", "--run-within", "8d"], "168 hours");
        refused(&["workflow", command, "w.yaml", "--submit-within", "0s"], "longer than 0s");
    }
    let id = "12D3KooWRawPbxPtP1eZaJpumGnyWX2DcUyd3RQnydr3eAto4Az7";
    refused(&["keys", "certify", id, "--role", "observer", "--ttl", "0s"], "longer than 0s");
    // A seed with a typing error is still nearly a secret.
    let seed = format!("{}zz", "07".repeat(31));
    let outcome = horus.run(&["keys", "import", "--seed-hex", &seed, "--json"]);
    assert_eq!(outcome.code, 2, "{outcome:?}");
    assert!(outcome.stderr.contains("64 hex digits"), "{outcome:?}");
    assert!(!outcome.stderr.contains("0707") && !outcome.stdout.contains("0707"), "{outcome:?}");
}

#[test]
fn the_graph_of_a_workflow_is_one_json_value_for_a_program() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("w.yaml").display().to_string();
    let text = "workflow:\n  name: w\n  steps:\n    - {id: a, runner: noop, payload: x}\n    - {id: b, runner: sal, payload: '1', depends_on: [a]}\n";
    std::fs::write(&file, text).unwrap();
    let graph = Horus::default().run(&["workflow", "graph", &file, "--json"]).ok().json();
    let steps = serde_json::json!([
        { "id": "a", "runner": "noop", "depends_on": [] },
        { "id": "b", "runner": "sal", "depends_on": ["a"] },
    ]);
    assert_eq!(graph, serde_json::json!({ "name": "w", "steps": steps }));
    std::fs::write(&file, text.replace("[a]", "[c]")).unwrap();
    json_error(&["workflow", "graph", &file, "--json"], 1);
}

#[test]
fn an_error_keeps_its_kind_and_is_told_once() {
    let dir = tempfile::tempdir().unwrap();
    let none = dir.path().join("none").display().to_string();
    let call = |address: &str, code| json_error(&["call", address, "m", "--identity", &none, "--json"], code);
    let bad = call("ftp://x", 2);
    assert_eq!(bad.stderr.matches("is no address").count(), 1, "{bad:?}");
    let host = "mycelium://12D3KooWRawPbxPtP1eZaJpumGnyWX2DcUyd3RQnydr3eAto4Az7";
    let nowhere = format!("http://127.0.0.1:{}", horus_tests::free_port());
    let mesh = json_error(&["call", host, "m", "--identity", &none, "--mycelium-rpc", &nowhere, "--json"], 1);
    assert_eq!(mesh.json()["error"]["kind"], "DAEMON_DOWN", "{mesh:?}");
    let away = call(&format!("http://127.0.0.1:{}", horus_tests::free_port()), 1);
    assert_eq!(away.json()["error"]["kind"], "PEER_UNREACHABLE", "{away:?}");
    assert_eq!(away.json()["error"]["data"]["kind"], "PEER_UNREACHABLE", "as on the wire: {away:?}");
}

#[test]
fn a_wrong_passphrase_is_told_once_and_types_have_two_names() {
    let dir = tempfile::tempdir().unwrap();
    let keys = dir.path().join("keys").display().to_string();
    let file = dir.path().join("p.json").display().to_string();
    std::fs::write(&file, "{}").unwrap();
    let with = |p: &str| Horus { env: vec![("HORUS_PASSPHRASE".into(), p.into())] };
    with("right").run(&["keys", "generate", "--dir", &keys, "--passphrase"]).ok();
    let wrong = with("wrong").run(&["keys", "sign", "--type", "jobs", &file, "--dir", &keys, "--json"]);
    assert_eq!(wrong.code, 1);
    let message = wrong.json()["error"]["message"].as_str().unwrap().to_owned();
    assert_eq!(message.matches("passphrase").count(), 1, "{message}");
    let short = with("right").run(&["keys", "sign", "--type", "jobs", &file, "--dir", &keys]).ok().json();
    let long = with("right").run(&["keys", "sign", "--type", "jobs+json", &file, "--dir", &keys]).ok().json();
    assert_eq!(short["payloadType"], long["payloadType"]);
}

#[test]
fn a_link_speaks_of_itself() {
    let dir = tempfile::tempdir().unwrap();
    for role in ["runner", "supervisor", "coordinator"] {
        let link = dir.path().join(role);
        symlink(binary(), &link).unwrap();
        let help = Command::new(&link).arg("--help").output().unwrap();
        let text = String::from_utf8(help.stdout).unwrap();
        assert!(help.status.success() && text.contains(&format!("Usage: {role} [OPTIONS]")), "{text}");
        let wrong = Command::new(&link).args(["--no-such-flag"]).output().unwrap();
        assert_eq!(wrong.status.code(), Some(2));
        let version = Command::new(&link).arg("--version").output().unwrap();
        assert!(version.status.success());
    }
}

#[test]
fn a_variable_that_overrides_the_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    std::fs::write(path("c.toml"), format!("identity = {:?}\n", path("of-file"))).unwrap();
    let horus = Horus { env: vec![("HORUS_IDENTITY".into(), path("of-env"))] };
    let outcome = horus.run(&["supervisor", "--config", &path("c.toml")]);
    assert_eq!(outcome.code, 1, "{outcome:?}");
    assert!(outcome.stderr.contains("HORUS_IDENTITY overrides `identity`"), "{outcome:?}");
    assert!(outcome.stderr.contains("of-env"), "{outcome:?}");

    std::fs::write(path("c.toml"), "zork = 1\n").unwrap();
    let unknown = Horus::default().run(&["supervisor", "--config", &path("c.toml")]);
    assert_eq!(unknown.code, 2);
    assert!(unknown.stderr.contains("`zork`") && !unknown.stderr.contains("version"), "{unknown:?}");
}

#[test]
fn every_command_has_an_example() {
    let mut bare = Vec::new();
    visit(&mut Vec::new(), &mut bare);
    assert!(bare.is_empty(), "no example in the help of: {bare:?}");
}

fn visit(path: &mut Vec<String>, bare: &mut Vec<String>) {
    let mut args = path.clone();
    args.push("--help".to_owned());
    let help = Horus::default().run(&args).ok().stdout;
    if !help.contains("Example") {
        bare.push(path.join(" "));
    }
    let commands = help.lines().skip_while(|l| *l != "Commands:").skip(1).take_while(|l| !l.is_empty());
    // Names stand two spaces in; further lines of a description stand further in.
    let names: Vec<_> = commands
        .filter(|l| l.starts_with("  ") && !l.starts_with("   "))
        .filter_map(|l| l.split_whitespace().next())
        .filter(|name| *name != "help")
        .map(str::to_owned)
        .collect();
    for name in names {
        path.push(name);
        visit(path, bare);
        path.pop();
    }
}
