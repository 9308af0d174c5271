//! What somebody gets whom no trust policy knows: the open methods, and a clear refusal for every other one.

use std::collections::BTreeMap;
use std::time::Duration;

use horus_keys::Timestamp;
use serde_json::{Value, json};

use super::{
    scene::{Over, Scene},
    wide,
    world::World,
};

/// Anybody may call them.
const OPEN: [&str; 2] = ["get_node_info", "rpc.discover"];
/// What they carry is signed, so that the call need not be.
const CARRYING: [&str; 4] = ["create_job", "create_jobs", "register_supervisor", "submit_workflow"];

/// A document of that type, signed by the stranger.
fn forged(scene: &Scene, kind: &str, document: &Value) -> Value {
    let file = scene.file(&format!("{kind}.json"), &document.to_string());
    scene.horus(2, None, &["keys", "sign", "--type", kind, &file, "--dir", &scene.path("stranger")])
}

/// Parameters for every method that would do, if they were those of somebody who may.
fn parameters(scene: &Scene) -> BTreeMap<&'static str, Value> {
    let later = Timestamp::now().saturating_add(Duration::from_secs(600));
    let [me, coordinator, supervisor] = ["stranger", "c", "s1"].map(|who| scene.identity(who).peer_id());
    let job = json!({"id": "theirs", "runner": "noop", "payload": "1", "run_until": later});
    let jobs = forged(scene, "jobs", &json!({"aud": [supervisor], "jobs": [job]}));
    let definition = wide(1, "runner: noop, payload: ''");
    let workflow = json!({"id": "theirs", "definition": definition, "coordinators": [coordinator], "submit_by": later,
        "run_until": later});
    let workflow = forged(scene, "workflow", &workflow);
    let node = json!({"roles": ["supervisor"], "topics": ["horus.supervisor"], "runners": ["noop"],
        "addresses": [format!("mycelium://{}", scene.world.host(2))],
        "mesh_public_key": scene.world.host(2).mesh_public_key(), "expires_at": later});
    let node = forged(scene, "node", &node);
    // A stranger can say anything of itself.
    let certificate = json!({"peer_id": me, "roles": ["owner", "supervisor"], "runners": ["*"], "expires_at": later});
    let certificate = forged(scene, "member", &certificate);
    let of_job = || json!({"job_id": "noop-mine"});
    let of_workflow = || json!({"workflow_id": "mine"});
    let of_runner = || json!({"runner": "noop"});
    BTreeMap::from([
        ("get_mesh_status", json!({})),
        ("list_nodes", json!({})),
        ("create_jobs", json!({"envelope": jobs})),
        ("create_job", json!({"envelope": jobs})),
        ("store_documents", json!({"runner": "noop", "workflow": workflow})),
        ("get_job", of_job()),
        ("get_job_status", of_job()),
        ("get_job_result", of_job()),
        ("get_job_logs", of_job()),
        ("wait_jobs", json!({"job_ids": ["noop-mine"], "timeout_ms": 1})),
        ("list_jobs", json!({})),
        ("cancel_job", of_job()),
        ("delete_job", of_job()),
        ("list_runners", json!({})),
        ("get_runner", of_runner()),
        ("ping_runner", of_runner()),
        ("register_runner", of_runner()),
        ("remove_runner", of_runner()),
        ("submit_workflow", json!({"envelope": workflow})),
        ("get_workflow_status", of_workflow()),
        ("wait_workflow", json!({"workflow_id": "mine", "timeout_ms": 1})),
        ("list_workflows", json!({})),
        ("cancel_workflow", of_workflow()),
        ("get_workflow_logs", of_workflow()),
        ("validate_workflow", json!({"definition": definition})),
        ("register_supervisor", json!({"envelope": node, "certificate": certificate})),
        ("list_supervisors", json!({})),
    ])
}

/// All methods of one role, unsigned and signed, at one address.
fn every_method(
    scene: &Scene,
    parameters: &BTreeMap<&str, Value>,
    from: usize,
    address: &str,
    transport: &str,
) -> usize {
    let call = |who: &str, method: &str, params: &Value| {
        let params = params.to_string();
        scene.try_horus(from, Some(who), &["call", address, method, &params, "--transport", transport, "--json"])
    };
    let (ok, document) = call("nobody", "rpc.discover", &json!({}));
    assert!(ok, "{document}");
    let document: Value = serde_json::from_str(&document).unwrap();
    let methods: Vec<_> = document["methods"].as_array().unwrap().iter().filter_map(|m| m["name"].as_str()).collect();
    assert!(methods.len() > 10, "{methods:?}");
    let mut refusals = 0;
    for method in &methods {
        for (who, unknown) in [("nobody", "UNAUTHENTICATED"), ("stranger", "UNTRUSTED_SIGNER")] {
            if OPEN.contains(method) {
                let (ok, out) = call(who, method, &json!({}));
                assert!(ok, "{address} {method}: it is open: {out}");
                continue;
            }
            let params = parameters.get(method).unwrap_or_else(|| panic!("{method} is missing in the table"));
            let (ok, out) = call(who, method, params);
            let kind = if CARRYING.contains(method) { "UNTRUSTED_SIGNER" } else { unknown };
            assert!(!ok && out.contains(kind), "{address} {method}, called by {who}: not {kind}: {out}");
            refusals += 1;
        }
    }
    refusals
}

/// Over HTTP and over messages.
fn a_stranger_is_refused(world: World, tun: bool) {
    let scene = Scene::start(world, if tun { Over::Auto } else { Over::Messages }, 1);
    scene.key("stranger");
    let parameters = parameters(&scene);
    // Something of ours, that a stranger could want to see or to stop.
    let job = ["job", "run", "--runner", "noop", "--payload", "1", "--id", "mine", "--json", "--supervisor"];
    let [h0, h1] = [0, 1].map(|host| scene.world.host(host));
    let (ok, out) = scene.try_horus(2, Some("me"), &[&job[..], &[&format!("mycelium://{h1}")]].concat());
    assert!(ok, "{out}");
    let file = scene.file("mine.yaml", &wide(1, "runner: noop, payload: ''"));
    scene.horus(0, Some("me"), &["workflow", "run", &file, "--id", "mine", "--json"]);

    let mut refusals = 0;
    for (host, role) in [(h0, "coordinator"), (h1, "supervisor")] {
        let at = if role == "coordinator" { 0 } else { 1 };
        refusals += every_method(&scene, &parameters, 2, &format!("mycelium://{host}/horus.{role}"), "messages");
        let loopback = format!("http://127.0.0.1:{}", scene.ports[at]);
        refusals += every_method(&scene, &parameters, at, &loopback, "auto");
        if tun {
            let overlay = format!("http://[{}]:{}", host.overlay_address(), scene.ports[at]);
            refusals += every_method(&scene, &parameters, 2, &overlay, "auto");
        }
    }
    eprintln!("{refusals} calls were refused");

    let seen = scene.supervisors();
    assert!(seen.len() == 1 && seen[0]["state"] == "alive", "{seen:#?}");
    let workflows = scene.horus(0, Some("me"), &["workflow", "list", "--json"]);
    assert_eq!(workflows["workflows"].as_array().map(Vec::len), Some(1), "{workflows:#}");
    let address = format!("http://127.0.0.1:{}", scene.ports[1]);
    let jobs = scene.horus(1, Some("me"), &["job", "list", "--supervisor", &address, "--json"]);
    assert!(jobs.to_string().contains("noop-mine") && !jobs.to_string().contains("noop-theirs"), "{jobs:#}");
    let runners = scene.horus(1, Some("me"), &["runners", "list", "--supervisor", &address, "--json"]);
    assert_eq!(runners.to_string().matches("\"alive\"").count(), 4, "{runners:#}");
}

#[test]
fn a_stranger_gets_nothing_but_the_open_methods() {
    a_stranger_is_refused(World::simulated(), false);
}

#[test]
fn on_real_daemons_a_stranger_gets_nothing_but_the_open_methods() {
    for tun in [false, true] {
        let Some(world) = World::real(tun) else { return };
        a_stranger_is_refused(world, tun);
    }
}
