//! `horus keys` as a user and as a program call it.

use std::os::unix::fs::PermissionsExt as _;

use horus_tests::Horus;

#[test]
fn the_known_vector_holds() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path().to_str().unwrap();
    let made =
        Horus::default().run(&["keys", "import", "--seed-hex", &"07".repeat(32), "--dir", d, "--json"]).ok().json();
    assert_eq!(made["peer_id"], "12D3KooWRawPbxPtP1eZaJpumGnyWX2DcUyd3RQnydr3eAto4Az7");
    assert_eq!(made["mesh_public_key"], "761d88ec830413919dfe9d4d1d56f17e653c8c994082df5b137b90a0ae6edf74");
    assert_eq!(made["overlay_ip"], "5c6:4896:5bc7:a56f:1510:c6d1:f1a5:e9e2");
    let shown = Horus::default().run(&["keys", "show", "--dir", d, "--json"]).ok().json();
    assert_eq!(made, shown);
}

#[test]
fn keys_are_private_and_never_overwritten_by_accident() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path().to_str().unwrap();
    let first = Horus::default().run(&["keys", "generate", "--dir", d, "--json"]).ok().json();
    for name in ["identity.pem", "mesh.key", "sealing.key"] {
        let mode = std::fs::metadata(dir.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    let again = Horus::default().run(&["keys", "generate", "--dir", d, "--json"]);
    assert_eq!(again.code, 1);
    assert!(again.stderr.contains("--force"), "{again:?}");
    assert_eq!(Horus::default().run(&["keys", "show", "--dir", d, "--json"]).ok().json(), first);

    std::fs::set_permissions(dir.path().join("identity.pem"), std::fs::Permissions::from_mode(0o644)).unwrap();
    let refused = Horus::default().run(&["keys", "show", "--dir", d]);
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.contains("chmod") || refused.stderr.contains("readable"), "{refused:?}");
}

#[test]
fn a_passphrase_protects_the_identity() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path().to_str().unwrap();
    let with = |p: &str| Horus { env: vec![("HORUS_PASSPHRASE".into(), p.into())] };
    with("correct horse").run(&["keys", "generate", "--dir", d, "--passphrase"]).ok();
    let pem = std::fs::read_to_string(dir.path().join("identity.pem")).unwrap();
    assert!(pem.contains("ENCRYPTED"), "{pem}");
    Horus::default().run(&["keys", "show", "--dir", d]).ok();
    with("correct horse").run(&["keys", "export", "--dir", d]).ok();
    let wrong = with("wrong").run(&["keys", "export", "--dir", d]);
    assert_eq!(wrong.code, 1);
    assert!(wrong.stderr.contains("passphrase"), "{wrong:?}");
}

#[test]
fn what_is_signed_verifies_and_one_flipped_bit_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path().join("k").display().to_string();
    let horus = Horus::default();
    let me = horus.run(&["keys", "generate", "--dir", &d, "--json"]).ok().json();
    let payload = dir.path().join("p.json");
    std::fs::write(&payload, "{\"peer_id\": 1}").unwrap();
    let envelope = horus.run(&["keys", "sign", "--type", "cancel", payload.to_str().unwrap(), "--dir", &d]).ok().stdout;
    let file = dir.path().join("e.json");
    std::fs::write(&file, &envelope).unwrap();
    let good = horus.run(&["keys", "verify", file.to_str().unwrap(), "--json"]).ok().json();
    assert_eq!(good["signers"][0]["peer_id"], me["peer_id"]);

    // Not in a policy: exit 1, although the signature is right.
    let trust = dir.path().join("trust.toml");
    std::fs::write(&trust, "").unwrap();
    let t = trust.to_str().unwrap();
    assert_eq!(horus.run(&["keys", "verify", file.to_str().unwrap(), "--trust", t]).code, 1);
    let id = me["peer_id"].as_str().unwrap();
    horus.run(&["keys", "trust", "add", id, "--role", "submitter", "--runner", "*", "--trust", t]).ok();
    horus.run(&["keys", "verify", file.to_str().unwrap(), "--trust", t]).ok();
    horus.run(&["keys", "trust", "remove", id, "--trust", t]).ok();
    assert_eq!(horus.run(&["keys", "verify", file.to_str().unwrap(), "--trust", t]).code, 1);

    let bytes = envelope.trim().as_bytes();
    for at in (0..bytes.len()).step_by(7) {
        let mut bad = bytes.to_vec();
        bad[at] ^= 1;
        std::fs::write(&file, &bad).unwrap();
        let outcome = horus.run(&["keys", "verify", file.to_str().unwrap()]);
        assert_eq!(outcome.code, 1, "byte {at} flipped is accepted: {}", String::from_utf8_lossy(&bad));
    }
}

#[test]
fn what_is_revoked_is_shown_and_not_trusted_by_mistake() {
    let dir = tempfile::tempdir().unwrap();
    let trust = dir.path().join("trust.toml").display().to_string();
    let id = "12D3KooWRawPbxPtP1eZaJpumGnyWX2DcUyd3RQnydr3eAto4Az7";
    let keys = |args: &[&str]| Horus::default().run(&[&["keys", "trust"], args, &["--trust", &trust]].concat());
    let add = ["add", id, "--role", "submitter", "--runner", "*"];
    keys(&add).ok();
    let removed = keys(&["remove", id]).ok();
    assert!(!removed.stdout.contains("trusted no more"), "{removed:?}");
    assert!(removed.stderr.contains("certificate") && removed.stderr.contains("trust revoke"), "{removed:?}");

    keys(&add).ok();
    let digest = format!("sha256:{}", "0a".repeat(32));
    let text = std::fs::read_to_string(&trust).unwrap();
    std::fs::write(&trust, format!("{text}\n[[revoked]]\ncertificate = \"{digest}\"\n")).unwrap();
    let before = keys(&["list", "--json"]).ok().json();
    assert_eq!(before["keys"][0]["revoked"], false, "{before}");
    assert_eq!(before["revoked"], serde_json::json!([{ "certificate": digest }]), "{before}");

    keys(&["revoke", id]).ok();
    let after = keys(&["list", "--json"]).ok().json();
    assert_eq!(after["keys"][0]["revoked"], true, "{after}");
    assert_eq!(after["revoked"][1]["id"], id, "{after}");
    let told = keys(&["list"]).ok().stdout;
    assert!(told.contains("trusts nobody") && !told.contains("submitter"), "{told}");
    assert!(told.contains(&format!("revoked: key {id}")) && told.contains(&format!("certificate {digest}")), "{told}");

    let again = keys(&add);
    assert_eq!(again.code, 1, "{again:?}");
    assert!(again.stderr.contains("[[revoked]]") && !again.stdout.contains("is trusted"), "{again:?}");
    // That it is gone from the list changes nothing now: there is nothing more to do.
    let removed = keys(&["remove", id]).ok();
    assert!(removed.stderr.is_empty(), "{removed:?}");
}

#[test]
fn a_grant_that_allows_nothing_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let (keys, trust) = (path("keys"), path("trust.toml"));
    let horus = Horus::default();
    let id = horus.run(&["keys", "generate", "--dir", &keys, "--json"]).ok().json();
    let id = id["peer_id"].as_str().unwrap();
    for role in ["submitter", "runner"] {
        let certify = ["keys", "certify", id, "--role", role, "--dir", &keys];
        let bare = horus.run(&certify).ok();
        assert!(bare.stderr.contains("--runner"), "{bare:?}");
        bare.json();
        let useful = horus.run(&[&certify[..], &["--runner", "sal"]].concat()).ok();
        assert!(useful.stderr.is_empty(), "{useful:?}");
        let added = horus.run(&["keys", "trust", "add", id, "--role", role, "--trust", &trust]).ok();
        assert!(added.stderr.contains("--runner"), "{added:?}");
    }
    let observer = horus.run(&["keys", "certify", id, "--role", "observer,coordinator", "--dir", &keys]).ok();
    assert!(observer.stderr.is_empty(), "{observer:?}");
}

#[test]
fn wrong_usage_exits_with_2() {
    let horus = Horus::default();
    assert_eq!(horus.run(&["keys", "certify", "nobody", "--role", "submitter"]).code, 2);
    assert_eq!(horus.run(&["no-such-command"]).code, 2);
    assert_eq!(horus.run(&["--help"]).code, 0);
}

#[test]
fn heroscript_is_parsed_to_json() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("s.hero");
    std::fs::write(&file, "// fetches\n!!http.get url:'http://x/y//z' // a note\n    timeout: 5s\n").unwrap();
    let actions = Horus::default().run(&["hero", "parse", file.to_str().unwrap(), "--json"]).ok().json();
    assert_eq!(actions[0]["actor"], "http");
    assert_eq!(actions[0]["name"], "get");
    assert_eq!(actions[0]["level"], 2);
    assert_eq!(actions[0]["comment"], "fetches");
    assert_eq!(actions[0]["params"][0]["value"], "http://x/y//z");
    assert_eq!(actions[0]["params"][1]["key"], "timeout");
}
