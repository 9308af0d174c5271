//! Roles on machines of their own, whose network is cut for longer than every lease while workflows with countable effects run:
//! afterwards all of them end, and the count matches. Machines are network namespaces, which only root may make.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use horus_tests::{Calls, Hands, Ledger, Network, Node, Running, TestRedis};

const LEASE: &str = "2s";
const PATIENCE: Duration = Duration::from_secs(120);

/// Connections between two machines each.
type Cables<'a> = &'a [(&'a Node, &'a Node)];

#[test]
fn a_cut_network_between_any_two_roles_loses_nothing_and_doubles_nothing() {
    let Some(mut network) = Network::new() else {
        println!("skipped: network namespaces cannot be made here (root can, with iproute2)");
        return;
    };
    let [queue_at, supervisor_at, runners_at, coordinator_at, journal_at]: [Node; 5] =
        std::array::from_fn(|_| network.node());
    let hands = Hands::new();
    let (queue, journal) = (TestRedis::start_at(&queue_at), TestRedis::start_at(&journal_at));
    hands.key("supervisor", "supervisor", "*");
    let coordinator = hands.key("coordinator", "coordinator", "*");
    let kinds = ["noop", "sal", "osiris"];
    kinds.iter().for_each(|kind| _ = hands.key(kind, "runner", kind));
    let url = queue.url();
    let args = ["supervisor", "--port", "8080", "--redis-url", &url, "--lease", LEASE];
    let mut roles = vec![hands.role_at(&supervisor_at, "supervisor", &args)];
    for kind in kinds {
        roles.push(hands.role_at(&runners_at, kind, &["runner", kind, "--redis-url", &url, "--lease", LEASE]));
    }
    let supervisor = format!("http://{}:8080", supervisor_at.address());
    let journal_url = journal.url();
    let args = ["coordinator", "--port", "9090", "--redis-url", &journal_url, "--supervisor", &supervisor];
    roles.push(hands.role_at(&coordinator_at, "coordinator", &args));
    let at = format!("http://{}:9090", coordinator_at.address());

    let directory = hands.path("ledger");
    std::fs::create_dir(&directory).unwrap();
    let (ledger, user) = (Ledger::new(&directory), hands.identity("me"));
    let over = AtomicBool::new(false);
    let submit = || {
        let (calls, mut ids) = (Calls::to(&at, None), Vec::new());
        while !over.load(Ordering::SeqCst) {
            let id = format!("w{}", ids.len());
            calls.submit_workflow(ledger.sign(&id, &user, &[coordinator]), PATIENCE);
            ids.push(id);
            thread::sleep(Duration::from_millis(120));
        }
        ids
    };
    // Each in seconds: a supervisor may be silent for six, a runner for two.
    let cuts: [(&str, u64, Cables<'_>); 4] = [
        ("coordinator | supervisor", 7, &[(&coordinator_at, &supervisor_at)]),
        ("supervisor and runners | Redis", 4, &[(&supervisor_at, &queue_at), (&runners_at, &queue_at)]),
        ("coordinator | its Redis", 4, &[(&coordinator_at, &journal_at)]),
        ("runners | Redis", 4, &[(&runners_at, &queue_at)]),
    ];
    let ids = thread::scope(|scope| {
        let submitting = scope.spawn(submit);
        for (name, seconds, cables) in cuts {
            thread::sleep(Duration::from_secs(1));
            println!("cut: {name}");
            cables.iter().for_each(|(a, b)| network.cut(a, b));
            thread::sleep(Duration::from_secs(seconds));
            cables.iter().for_each(|(a, b)| network.mend(a, b));
        }
        over.store(true, Ordering::SeqCst);
        submitting.join().unwrap()
    });
    let mended = Instant::now();
    let views = Calls::to(&at, Some(user)).ended(&ids, PATIENCE);
    println!("{} workflows, all ended {:?} after the last cut", ids.len(), mended.elapsed());
    let mut problems: Vec<String> =
        ids.iter().zip(&views).flat_map(|(id, view)| ledger.problems(view, hands.records(&supervisor, id))).collect();
    let given_up = views.iter().filter(|view| view["steps"]["once"]["status"] == "failed").count();
    println!("{given_up} steps that must not run twice were given up");
    for url in [&url, &journal_url] {
        let doctor = hands.horus.run(&["doctor", "--redis-url", url, "--json"]);
        if doctor.code != 0 {
            problems.push(format!("doctor of {url}: {}{}", doctor.stdout, doctor.stderr));
        }
    }
    let logs: String = roles.iter().map(Running::log).collect();
    assert!(problems.is_empty(), "{logs}\n{} problems:\n{}", problems.len(), problems.join("\n"));
}
