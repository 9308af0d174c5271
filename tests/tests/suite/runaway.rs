//! Scripts that misbehave end at their timeout, their children gone and their log capped; the runner stays well.

use std::time::{Duration, Instant};

use horus_tests::House;

fn count_processes(mark: &str) -> usize {
    let Ok(entries) = std::fs::read_dir("/proc") else { return 0 };
    entries
        .flatten()
        .filter(|e| std::fs::read(e.path().join("cmdline")).is_ok_and(|c| String::from_utf8_lossy(&c).contains(mark)))
        .filter(|e| std::fs::read_to_string(e.path().join("stat")).is_ok_and(|s| !s.contains(") Z ")))
        .count()
}

fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !is_so() {
        assert!(Instant::now() < deadline, "not within five seconds: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn well(house: &House) {
    let after = house.run(&["job", "run", "--runner", "sal", "--payload", "40 + 2", "--json"]).ok().json();
    assert_eq!(after["output"], 42);
}

#[test]
fn a_loop_without_end_ends_at_its_timeout() {
    let house = House::start();
    for runner in ["sal", "osiris"] {
        let started = Instant::now();
        let args = ["job", "run", "--runner", runner, "--payload", "loop { }", "--timeout", "1s", "--json"];
        let run = house.run(&args);
        assert_eq!(run.code, 1, "{run:?}");
        assert_eq!(run.json()["status"], "timed_out", "{run:?}");
        assert!(started.elapsed() < Duration::from_secs(6), "{runner}: {:?}", started.elapsed());
    }
    well(&house);
    let osiris = house.run(&["job", "run", "--runner", "osiris", "--payload", "1 + 1", "--json"]).ok().json();
    assert_eq!(osiris["output"], 2);
}

#[test]
fn children_of_a_script_are_gone_with_it() {
    let house = House::start();
    let mark = format!("{}.25", 4000 + std::process::id() % 5000);
    // A script of several lines is run by a shell: children in the background, in sessions of their own, and orphans.
    let script = format!(
        "run(\"sleep {mark} &\\nsetsid sleep {mark} &\\n(setsid sh -c 'sleep {mark} & sleep {mark}' &)\\nsleep {mark}\").execute()"
    );
    let pattern = format!("sleep\0{mark}");
    let submit = ["job", "submit", "--runner", "sal", "--payload", &script, "--id", "forks", "--timeout", "3s"];
    house.run(&submit).ok();
    wait_for("its children are there", || count_processes(&pattern) >= 5);
    let run = house.run(&["job", "result", "sal-forks", "--wait", "--json"]);
    assert_eq!(run.json()["status"], "timed_out", "{run:?}");
    wait_for("its children are gone", || count_processes(&pattern) == 0);
    well(&house);
}

#[test]
fn a_hundred_megabytes_of_output_leave_a_capped_log() {
    let house = House::start();
    let script = "let line = \"\"; line.pad(100000, \"x\"); for i in 0..1050 { print(line); } loop {}";
    let args = ["job", "run", "--runner", "sal", "--payload", script, "--id", "noisy", "--timeout", "8s", "--json"];
    let run = house.horus.run_for(&args, Duration::from_secs(60));
    assert_eq!(run.json()["status"], "timed_out", "{}", run.stderr);
    let log = house.run(&["job", "logs", "sal-noisy"]).ok();
    assert!(log.stdout.len() < 6 * 1024 * 1024, "the log has {} bytes", log.stdout.len());
    assert!(log.stdout.contains("dropped"), "it says that lines were dropped");
    well(&house);
}

#[test]
fn a_cancelled_job_stops_within_a_second() {
    let house = House::start();
    for (runner, payload) in [("sal", "loop { }"), ("osiris", "loop { }")] {
        let id = format!("c-{runner}");
        let full = format!("{runner}-{id}");
        house.run(&["job", "submit", "--runner", runner, "--payload", payload, "--id", &id]).ok();
        wait_for_status(&house, &full, "running");
        // What two commands take beside that is the machine's affair.
        let before = Instant::now();
        wait_for_status(&house, &full, "running");
        let command = before.elapsed();
        let started = Instant::now();
        house.run(&["job", "cancel", &full]).ok();
        wait_for_status(&house, &full, "cancelled");
        let (took, limit) = (started.elapsed(), Duration::from_secs(1) + 4 * command);
        assert!(took < limit, "{runner}: {took:?}, and a command takes {command:?}");
    }
    // One that waits for its time is cancelled at once.
    house.run(&["job", "submit", "--runner", "sal", "--payload", "1", "--id", "later", "--delay", "1h"]).ok();
    house.run(&["job", "cancel", "sal-later"]).ok();
    wait_for_status(&house, "sal-later", "cancelled");
}

fn wait_for_status(house: &House, job: &str, wanted: &str) {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let status = house.run(&["job", "status", job, "--json"]).ok().json()["status"].clone();
        if status == wanted {
            return;
        }
        assert!(Instant::now() < deadline, "{job} is {status}, not {wanted}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
