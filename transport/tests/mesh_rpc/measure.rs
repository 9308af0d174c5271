//! Latency and throughput against the raw daemon, in one run: `cargo test --release -- --ignored measure`.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::client::Daemon;
use crate::service::*;
use crate::world::World;

/// How long each throughput is measured.
const RUN: Duration = Duration::from_secs(6);
const CALLERS: usize = 64;

fn report(what: &str, mut took: Vec<Duration>) {
    took.sort_unstable();
    let at = |share: usize| took[(took.len() * share / 100).min(took.len() - 1)];
    eprintln!("{what}: {} calls, p50 {:?}, p90 {:?}, max {:?}", took.len(), at(50), at(90), at(100));
}

/// Calls one after another.
async fn one_by_one<F: Future<Output = ()>>(what: &str, count: usize, call: impl Fn() -> F) {
    let mut took = Vec::new();
    for _ in 0..count {
        let begin = Instant::now();
        call().await;
        took.push(begin.elapsed());
    }
    report(what, took);
}

/// Many callers, each of which waits for its reply before it calls again.
async fn at_once<F>(what: &str, call: impl Fn() -> F + Clone + Send + 'static)
where
    F: Future<Output = ()> + Send,
{
    let begin = Instant::now();
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let call = call.clone();
            tokio::spawn(async move {
                let mut took = Vec::new();
                while begin.elapsed() < RUN {
                    let begin = Instant::now();
                    call().await;
                    took.push(begin.elapsed());
                }
                took
            })
        })
        .collect();
    let mut took = Vec::new();
    for caller in callers {
        took.extend(caller.await.unwrap());
    }
    eprintln!("{what}: {:.0} calls/s", took.len() as f64 / begin.elapsed().as_secs_f64());
    report(what, took);
}

pub(crate) async fn measure(world: &World, daemons: &[Daemon]) {
    let [caller, callee] = daemons else { panic!("two daemons") };
    let request = json!({"jsonrpc": "2.0", "id": 1, "method": "get_node_info", "params": {}}).to_string();
    let client = world.client();
    client.peer().await.unwrap();
    let raw = {
        let (caller, callee) = (caller.clone(), callee.clone());
        move || {
            let (caller, callee, request) = (caller.clone(), callee.clone(), request.clone());
            async move { drop(caller.request(&callee, TOPIC, request.as_bytes(), 30).await) }
        }
    };
    let ours = move || {
        let client = client.clone();
        async move {
            client.call::<Who>(&horus_transport::NoParams {}).await.unwrap();
        }
    };
    one_by_one("raw, single", 25, raw.clone()).await;
    one_by_one("horus, single", 50, ours.clone()).await;
    let before = world.messages().await;
    at_once("horus, 64 callers", ours.clone()).await;
    eprintln!("messages: {}", world.messages().await - before);
    at_once("raw, 64 callers", raw).await;
    at_once("horus, 64 callers", ours).await;
}
