//! The runner of one's own from `examples/`: a kind that Horus does not have.

use std::process::{Command, Stdio};

use horus_tests::{House, Running, binary};

#[test]
fn a_runner_of_ones_own_takes_jobs_of_its_kind() {
    let house = House::start();
    let example = binary().with_file_name("examples").join("custom_runner");
    assert!(example.is_file(), "build the examples first: cargo build --examples");
    let keys = house.data_dir().join("keys/wordcount").display().to_string();
    let made = house.run(&["keys", "generate", "--dir", &keys, "--json"]).ok().json();
    let id = made["peer_id"].as_str().unwrap();
    let policy = house.data_dir().join("trust.toml").display().to_string();
    let mine = house.data_dir().parent().unwrap().join("me/trust.toml").display().to_string();
    for trust in [&policy, &mine] {
        house.run(&["keys", "trust", "add", id, "--role", "runner", "--runner", "wordcount", "--trust", trust]).ok();
    }
    // Before it comes nobody takes its jobs.
    let early = house.run(&["job", "run", "--runner", "wordcount", "--payload", "a b", "--json"]);
    assert_eq!(early.code, 1);
    assert!(early.stdout.contains("UNKNOWN_RUNNER"), "{early:?}");

    let mut command = Command::new(example);
    command.args(["--redis-url", &house.ready.redis_url, "--identity", &keys, "--trust", &policy]).stdin(Stdio::null());
    let _runner = Running::start(&mut command, &house.data_dir().join("wordcount.log"));
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    let done = loop {
        let run = house.run(&["job", "run", "--runner", "wordcount", "--payload", "one two  three", "--json"]);
        if run.code == 0 {
            break run.json();
        }
        assert!(std::time::Instant::now() < deadline, "{run:?}");
        std::thread::sleep(std::time::Duration::from_millis(100));
    };
    assert_eq!(done["output"]["words"], 3, "{done}");
    let logs = house.run(&["job", "logs", done["job_id"].as_str().unwrap()]).ok();
    assert!(logs.stdout.contains("counted 3 words"), "{logs:?}");
}
