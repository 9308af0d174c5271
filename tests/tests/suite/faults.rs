//! Everything is killed and stopped at random while workflows with countable effects run; at the end the count must match.
//!
//! The short form is a test like the others. The long one, for as long as one likes, and a seed that failed:
//!
//!     HORUS_FAULT_SECONDS=3600 HORUS_FAULT_SEED=42 cargo test -p horus-tests --test suite faults -- --nocapture
//!
//! The seed repeats which role is hit, when and how; the processes' own timing it cannot repeat.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use horus_keys::{Envelope, Identity, KeyDir, PeerId};
use horus_node::api::coordinator::{GetWorkflowStatus, SubmitWorkflow, SubmitWorkflowParams, WorkflowStatusParams};
use horus_tests::{Chance, House, Ledger};
use horus_transport::{ClientOptions, RpcClient};
use nix::{sys::signal::Signal, unistd::Pid};
use serde_json::Value;

/// Workflows of the short form; the long one submits so many a minute.
const WORKFLOWS: usize = 200;
/// How long the short form goes on hitting.
const SHORT: Duration = Duration::from_secs(30);
/// How long a runner may be silent. Stops are longer.
const LEASE: Duration = Duration::from_secs(3);
/// How long everything may take to end once nothing is hit any more.
const SETTLE: Duration = Duration::from_secs(120);

fn key(dir: &Path) -> Identity {
    KeyDir::load(dir, || Ok(None)).unwrap().identity
}

fn signal(pid: i32, signal: Signal) {
    let _ = nix::sys::signal::kill(Pid::from_raw(pid), signal);
}

/// Submits until every workflow is accepted: the very same envelope again when nobody knows whether it was.
struct Submitter {
    address: String,
    accepted: Arc<AtomicUsize>,
}

impl Submitter {
    fn run(self, envelopes: Vec<Envelope>, pace: Duration) -> thread::JoinHandle<()> {
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let client = RpcClient::connect(self.address.parse().unwrap(), ClientOptions::default()).unwrap();
                for envelope in envelopes {
                    let params = SubmitWorkflowParams { envelope: envelope.into() };
                    let deadline = Instant::now() + SETTLE;
                    while let Err(error) =
                        client.call_with_timeout::<SubmitWorkflow>(&params, Duration::from_secs(5)).await
                    {
                        assert!(Instant::now() < deadline, "a workflow is not accepted: {error}");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                    self.accepted.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(pace).await;
                }
            });
        })
    }
}

/// Hits one role after the other until `until`, then lets all go on.
fn hit(house: &House, chance: &mut Chance, until: Instant) -> BTreeMap<String, usize> {
    let mut hits = BTreeMap::new();
    let mut stopped: Vec<(Instant, i32)> = Vec::new();
    while Instant::now() < until {
        thread::sleep(Duration::from_millis(300 + chance.ms(1500).unsigned_abs()));
        stopped.retain(|(at, pid)| {
            let over = Instant::now() >= *at;
            if over {
                signal(*pid, Signal::SIGCONT);
            }
            !over
        });
        let mut roles = house.roles();
        roles.retain(|(name, pid)| name != "runner-hero" && stopped.iter().all(|(_, stopped)| stopped != pid));
        roles.sort();
        if roles.is_empty() {
            continue;
        }
        let (name, pid) = chance.pick(&roles).clone();
        let how = if chance.below(3) == 0 {
            let pause = LEASE + Duration::from_millis(1500 + chance.ms(5000).unsigned_abs());
            stopped.push((Instant::now() + pause, pid));
            signal(pid, Signal::SIGSTOP);
            "stop"
        } else {
            signal(pid, Signal::SIGKILL);
            "kill"
        };
        println!("{how} {name}");
        *hits.entry(format!("{how} {name}")).or_insert(0) += 1;
    }
    for (_, pid) in stopped {
        signal(pid, Signal::SIGCONT);
    }
    hits
}

/// Waits until all workflows have ended, and gives how they did.
fn ended(house: &House, user: &Identity, ids: &[String], patience: Duration) -> Vec<Value> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let options = ClientOptions::signed(user.clone(), None);
        let client = RpcClient::connect(house.ready.coordinator.parse().unwrap(), options).unwrap();
        let (deadline, mut views) = (Instant::now() + patience, Vec::new());
        for id in ids {
            let params = WorkflowStatusParams { workflow_id: id.parse().unwrap(), steps: None };
            loop {
                let shown = client.call_with_timeout::<GetWorkflowStatus>(&params, Duration::from_secs(5)).await;
                if let Ok(view) = &shown
                    && view.status.is_final()
                {
                    views.push(serde_json::to_value(view).unwrap());
                    break;
                }
                assert!(Instant::now() < deadline, "workflow {id} does not end: {shown:#?}\n{}", tail(house));
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        views
    })
}

/// How many records each workflow has made.
fn records(house: &House) -> BTreeMap<String, usize> {
    let mut count = BTreeMap::new();
    let mut after = String::new();
    loop {
        let script = format!("osiris.model(\"ledger\").list(#{{limit: 500, after: \"{after}\"}})");
        let script = if after.is_empty() { script.replace(", after: \"\"", "") } else { script };
        let page = house.run(&["job", "run", "--runner", "osiris", "--payload", &script, "--json"]).ok().json();
        let page = page["output"].as_array().unwrap().clone();
        for record in &page {
            *count.entry(record["workflow"].as_str().unwrap().to_owned()).or_insert(0) += 1;
        }
        match page.last().filter(|_| page.len() == 500) {
            Some(last) => after = last["id"].as_str().unwrap().to_owned(),
            None => return count,
        }
    }
}

/// The last lines of what all roles say.
fn tail(house: &House) -> String {
    let log = house.up.log();
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(400)..].join("\n")
}

#[test]
fn whatever_dies_every_workflow_ends_and_the_ledger_matches() {
    let mut chance = Chance::from_environment();
    let seconds = std::env::var("HORUS_FAULT_SECONDS").ok().and_then(|text| text.parse().ok());
    let long = seconds.map_or(SHORT, Duration::from_secs);
    let count = usize::try_from(long.as_secs() / 60).unwrap().max(1) * WORKFLOWS;

    let lease = horus_keys::duration::format(LEASE);
    let house = House::start_with(&["--appendfsync", "always", "--lease", &lease]);
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::new(dir.path());
    let user = key(&house.data_dir().parent().unwrap().join("me"));
    let coordinator: PeerId = key(&house.data_dir().join("keys/coordinator")).peer_id();
    let ids: Vec<String> = (0..count).map(|n| format!("w{n}")).collect();
    let envelopes = ids.iter().map(|id| ledger.sign(id, &user, &[coordinator])).collect();

    let accepted = Arc::new(AtomicUsize::new(0));
    let submitter = Submitter { address: house.ready.coordinator.clone(), accepted: accepted.clone() };
    let pace = long * 8 / 10 / u32::try_from(count).unwrap();
    let submitting = submitter.run(envelopes, pace);
    let hits = hit(&house, &mut chance, Instant::now() + long);
    assert!(submitting.join().is_ok(), "{}\nevery workflow is to be accepted", tail(&house));
    println!("{hits:?}; {} workflows accepted", accepted.load(Ordering::Relaxed));

    let began = Instant::now();
    let views = ended(&house, &user, &ids, SETTLE + long / 10);
    println!("all had ended after {:?}", began.elapsed());
    let records = records(&house);
    let mut problems = Vec::new();
    for (id, view) in ids.iter().zip(&views) {
        problems.extend(ledger.problems(view, records.get(id).copied().unwrap_or(0)));
    }
    let unknown = views.iter().filter(|view| view["steps"]["once"]["status"] == "failed").count();
    println!("{unknown} steps that must not run twice were given up");
    // One that has just been started again may hold nothing yet; what is wrong stays wrong.
    let doctor = house.run(&["doctor", "--redis-url", &house.ready.redis_url, "--json"]);
    if doctor.code != 0 {
        problems.push(format!("doctor: {}{}", doctor.stdout, doctor.stderr));
    }
    assert!(problems.is_empty(), "{}\n\n{} problems:\n{}", tail(&house), problems.len(), problems.join("\n"));
}
