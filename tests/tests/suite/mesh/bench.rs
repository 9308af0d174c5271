//! `horus bench rpc` to a host of the mesh.

use std::time::Duration;

use super::{
    scene::{Over, Scene},
    world::{World, underlay},
};

#[test]
fn calls_by_each_path_are_measured_against_bare_messages() {
    let scene = Scene::start(World::simulated(), Over::Messages, 1);
    let address = format!("mycelium://{}", scene.world.host(1));
    let bench = ["bench", "rpc", "--address", &address, "--against-raw", "--count", "300", "--concurrency", "16"];
    let report = scene.horus(0, Some("me"), &[&bench[..], &["--json"]].concat());
    let paths = report["paths"].as_array().unwrap();
    assert_eq!(paths.len(), 2, "{report:#}");
    // Simulated hosts have no TUN; why there is no such path is told.
    assert!(paths[0]["error"].as_str().unwrap().contains("no path"), "{report:#}");
    let (ours, raw) = (&paths[1], &report["raw"]);
    assert_eq!(ours["path"], "messages", "{report:#}");
    for figures in [ours, raw] {
        assert_eq!(figures["many"]["calls"], 300, "{report:#}");
        for part in ["single", "many"] {
            let at = |name: &str| figures[part][name].as_f64().unwrap();
            assert!(at("latency_ms_p50") > 0.0 && at("latency_ms_p99") >= at("latency_ms_p50"), "{report:#}");
        }
    }
    assert_eq!(raw["many"]["messages"], 300, "each call was a message: {report:#}");
    assert!(ours["many"]["messages"].as_u64().unwrap() < 150, "calls travel together: {report:#}");
    assert!(ours["ratio_to_raw"].as_f64().unwrap() > 0.0 && ours["single_over_raw_ms"].is_number(), "{report:#}");
    let (ok, out) = scene.try_horus(0, Some("me"), &["bench", "rpc", "--address", "http://x", "--against-raw"]);
    assert!(!ok && out.contains("mycelium://"), "{out}");
}

/// Figures for docs/MESH.md, no check. `HORUS_MEASURE` is the round trip of the links in milliseconds:
/// `HORUS_MEASURE=10 MYCELIUM_BIN=mycelium cargo test --release -p horus-tests --test suite measured_paths -- --nocapture`
#[test]
fn measured_paths() {
    let Ok(round_trip) = std::env::var("HORUS_MEASURE") else { return };
    let round_trip = Duration::from_millis(round_trip.parse().expect("HORUS_MEASURE is a number of milliseconds"));
    let Some(world) = World::real_over(true, round_trip) else { return };
    let mut scene = Scene::empty(world);
    scene.trusted("me", "submitter,operator", "*");
    scene.trusted("s1", "supervisor", "*");
    let plain = format!("{}:{}", underlay(1), scene.ports[1]);
    scene.supervisor(1, Over::Auto, &["--listen", &plain]);
    let mesh = format!("mycelium://{}", scene.world.host(1));
    scene.until("the supervisor answers by every path", Duration::from_secs(60), || {
        let by = |way: &str| scene.try_horus(0, Some("me"), &["call", &mesh, "list_runners", "--transport", way]).0;
        (by("messages") && by("http")).then_some(())
    });
    let count = std::env::var("HORUS_MEASURE_CALLS").unwrap_or_else(|_| "20000".into());
    let bench = ["bench", "rpc", "--concurrency", "64", "--count", &count, "--json", "--address"];
    // Plain HTTP does not go over the slow links, but below them.
    let plain = scene.horus(0, Some("me"), &[&bench[..], &[&format!("http://{plain}"), "--signed"]].concat());
    eprintln!("plain HTTP, without the slow link: {plain:#}");
    let paths = scene.horus(0, Some("me"), &[&bench[..], &[&mesh, "--against-raw"]].concat());
    eprintln!("a round trip of {round_trip:?} more than none: {paths:#}");
}
