//! Latency and throughput against the raw daemon, on the same daemons in the same run, and what is left behind.
//!
//! As root, alone on the machine:
//! `HORUS_MEASURE=0 MYCELIUM_BIN=mycelium cargo test --release -p horus-transport --test mesh_rpc measured -- --nocapture`
//!
//! `HORUS_MEASURE` is the round trip of the link in milliseconds, 0 for none but that of two network namespaces.
//! `HORUS_MEASURE_CALLS` (100000), `HORUS_MEASURE_RAW_S` (30) and `HORUS_MEASURE_WHAT` (`single,ours,raw`) say how much.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use horus_transport::*;

use crate::real::RealMesh;
use crate::service::*;
use crate::world::World;

const CALLERS: usize = 64;
/// Throughput is told for each such span.
const SPAN: Duration = Duration::from_secs(5);
/// For so long the idle daemons are watched afterwards.
const IDLE: Duration = Duration::from_secs(20);

fn setting(name: &str, usual: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| usual.to_owned())
}

fn report(what: &str, mut took: Vec<Duration>) {
    took.sort_unstable();
    let at = |share: usize| took[(took.len() * share / 100).min(took.len() - 1)].as_secs_f64() * 1e3;
    eprintln!(
        "{what}: {} calls, ms: p50 {:.1}, p90 {:.1}, p99 {:.1}, max {:.1}",
        took.len(),
        at(50),
        at(90),
        at(99),
        at(100)
    );
}

/// Calls one after another, with a pause.
async fn one_by_one(what: &str, client: &RpcClient, count: usize, pause: Duration) {
    let mut took = Vec::new();
    for _ in 0..count {
        let begin = Instant::now();
        client.call::<Who>(&NoParams {}).await.unwrap();
        took.push(begin.elapsed());
        tokio::time::sleep(pause).await;
    }
    report(what, took);
}

/// Many callers, each of which waits for its reply before it calls again.
async fn at_once(what: &str, client: &RpcClient, calls: usize, most: Duration) {
    let left = Arc::new(AtomicUsize::new(calls));
    let begin = Instant::now();
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let (client, left) = (client.clone(), Arc::clone(&left));
            tokio::spawn(async move {
                let mut took = Vec::new();
                let one = |n: usize| n.checked_sub(1);
                while begin.elapsed() < most && left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one).is_ok() {
                    let at = Instant::now();
                    client.call::<Who>(&NoParams {}).await.unwrap();
                    took.push((begin.elapsed(), at.elapsed()));
                }
                took
            })
        })
        .collect();
    let mut took = Vec::new();
    for caller in callers {
        took.extend(caller.await.unwrap());
    }
    let lasted = begin.elapsed();
    let spans = lasted.as_secs_f64() / SPAN.as_secs_f64();
    let mut counts = vec![0_u32; spans.ceil() as usize];
    for (at, _) in &took {
        counts[(at.as_secs_f64() / SPAN.as_secs_f64()) as usize] += 1;
    }
    let counts: Vec<_> = counts.iter().take(spans as usize).map(|count| count / SPAN.as_secs() as u32).collect();
    eprintln!(
        "{what}: {:.0} calls/s over {lasted:.1?}; by {SPAN:?}: {counts:?}",
        took.len() as f64 / lasted.as_secs_f64()
    );
    report(what, took.into_iter().map(|(_, took)| took).collect());
}

/// What the daemons do when nobody asks anything of them.
async fn idle(what: &str, mesh: &RealMesh) {
    let before = [mesh.cpu(0), mesh.cpu(1)];
    tokio::time::sleep(IDLE).await;
    for (node, name) in ["the caller's", "the callee's"].into_iter().enumerate() {
        let share = (mesh.cpu(node) - before[node]).as_secs_f64() / IDLE.as_secs_f64();
        eprintln!("{what}: {name} daemon idle afterwards: {:.1} % of a core", share * 100.0);
    }
}

/// What lies in the inboxes, whatever its topic.
async fn inboxes(mesh: &RealMesh) {
    for (daemon, name) in mesh.daemons().iter().zip(["the caller's", "the callee's"]) {
        let mut left = 0;
        while daemon.pop_any(false).await.is_some() {
            left += 1;
        }
        eprintln!("left in {name} inbox: {left} messages");
    }
}

pub(crate) async fn measure() {
    let Ok(round_trip) = std::env::var("HORUS_MEASURE") else { return };
    let round_trip = Duration::from_millis(round_trip.parse().expect("HORUS_MEASURE is a number of milliseconds"));
    let calls = setting("HORUS_MEASURE_CALLS", "100000").parse().unwrap();
    let raw_for = Duration::from_secs(setting("HORUS_MEASURE_RAW_S", "30").parse().unwrap());
    let what = setting("HORUS_MEASURE_WHAT", "single,ours,raw");
    let Some(mesh) = RealMesh::up_over(2, round_trip).await else { return };
    let mesh = Arc::new(mesh);
    let optimised = if cfg!(debug_assertions) { "debug" } else { "release" };
    let cores = std::thread::available_parallelism().unwrap();
    eprintln!("{optimised} build, {cores} cores, link with a round trip of {round_trip:?} more than none");
    if what.contains("single") {
        let world = World::real(&mesh).await;
        one_by_one("horus, single (first)", &world.client(), 25, Duration::from_millis(100)).await;
        one_by_one("raw, single", &world.raw_client(), 25, Duration::from_millis(100)).await;
        one_by_one("horus, single", &world.client(), 25, Duration::from_millis(100)).await;
        world.end().await;
        inboxes(&mesh).await;
    }
    for way in ["ours", "raw"].into_iter().filter(|way| what.contains(way)) {
        // What one run leaves in the daemons must not slow the other.
        for node in 0..2 {
            mesh.stop(node);
        }
        for node in 0..2 {
            mesh.start(node).await;
        }
        let world = World::real(&mesh).await;
        let is_ours = way == "ours";
        let (client, most) = match is_ours {
            true => (world.client(), Duration::from_secs(600)),
            false => (world.raw_client(), raw_for),
        };
        client.call::<Who>(&NoParams {}).await.unwrap();
        let what = format!("{way}, {CALLERS} callers");
        let (before, cpu) = (world.messages().await, [mesh.cpu(0), mesh.cpu(1)]);
        at_once(&what, &client, calls, most).await;
        eprintln!(
            "{what}: {} messages, replies counted; the daemons computed {:?} and {:?}",
            world.messages().await - before,
            mesh.cpu(0) - cpu[0],
            mesh.cpu(1) - cpu[1]
        );
        idle(&what, &mesh).await;
        world.end().await;
        inboxes(&mesh).await;
    }
}
