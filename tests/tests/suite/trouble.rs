//! A cut network, a full queue, a full disk: what is refused is told, what was accepted goes on by itself.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use horus_tests::{Cut, Hands, TestRedis, free_port};
use nix::sys::signal::Signal;

fn healthy(hands: &Hands, url: &str) {
    let doctor = hands.horus.run(&["doctor", "--redis-url", url, "--json"]);
    assert_eq!(doctor.code, 0, "{doctor:?}");
}

/// Status of `/healthz`.
fn health(at: &str) -> u16 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let answer = runtime.block_on(async { reqwest::get(format!("{at}/healthz")).await });
    answer.map_or(0, |answer| answer.status().as_u16())
}

#[test]
fn a_runner_that_is_cut_off_loses_its_jobs_and_its_late_results_are_refused() {
    let (hands, redis, port) = (Hands::new(), TestRedis::start(), free_port().to_string());
    hands.key("supervisor", "supervisor", "*");
    hands.key("sal", "runner", "sal");
    hands.key("other", "runner", "sal");
    let (url, at) = (redis.url(), format!("http://127.0.0.1:{port}"));
    let _supervisor = hands.role("supervisor", &["supervisor", "--port", &port, "--redis-url", &url, "--lease", "2s"]);
    let cable = Cut::before(redis.port());
    let through = format!("redis://127.0.0.1:{}", cable.port());
    let runner = hands.role("sal", &["runner", "sal", "--redis-url", &through, "--lease", "2s", "--name", "far"]);
    let file = hands.path("effects").display().to_string();
    let script = |name: &str| format!("file_write_append(\"{file}\", \"{name}\\n\"); sleep(5); 1");
    let wrote = |name: &str| {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        text.lines().filter(|line| *line == name).count()
    };
    Hands::until("the runner is there", Duration::from_secs(20), || {
        runner.log().contains("waits for jobs").then_some(())
    });
    let once = hands.submit(&at, "sal", &script("once"), &["--id", "once"]);
    let again = hands.submit(&at, "sal", &script("again"), &["--id", "again", "--idempotent"]);
    Hands::until("both run", Duration::from_secs(20), || (wrote("once") + wrote("again") == 2).then_some(()));
    cable.cut();
    hands.becomes(&at, &once, "lost");
    let _other = hands.role("other", &["runner", "sal", "--redis-url", &url, "--lease", "2s", "--name", "near"]);
    Hands::until("it is delivered again", Duration::from_secs(20), || (wrote("again") == 2).then_some(()));
    // The first execution ends while nobody hears of it; then the network is back.
    std::thread::sleep(Duration::from_secs(5));
    cable.mend();
    hands.becomes(&at, &again, "succeeded");
    assert_eq!(hands.status(&at, &once), "lost", "a late result changes nothing");
    assert_eq!((wrote("once"), wrote("again")), (1, 2));
    let told = |job: &str| hands.horus.run(&["job", "logs", job, "--supervisor", &at]).stdout;
    Hands::until("the log tells of it", Duration::from_secs(20), || told(&once).contains("was refused").then_some(()));
    healthy(&hands, &url);
}

#[test]
fn a_full_queue_refuses_jobs_and_holds_workflows_back_until_there_is_room() {
    let (hands, redis, port, gate) =
        (Hands::new(), TestRedis::start(), free_port().to_string(), free_port().to_string());
    hands.key("supervisor", "supervisor", "*");
    hands.key("noop", "runner", "noop");
    hands.key("coordinator", "coordinator", "*");
    let (url, at, gate_at) = (redis.url(), format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{gate}"));
    let args = ["supervisor", "--port", &port, "--redis-url", &url, "--max-queue", "10", "--lease", "60s"];
    let _supervisor = hands.role("supervisor", &args);
    let runner = hands.role("noop", &["runner", "noop", "--redis-url", &url, "--lease", "60s"]);
    let args = ["coordinator", "--port", &gate, "--redis-url", &url, "--supervisor", &at];
    let _coordinator = hands.role("coordinator", &args);
    Hands::until("the runner is there", Duration::from_secs(20), || {
        runner.log().contains("waits for jobs").then_some(())
    });
    runner.signal(Signal::SIGSTOP);
    let submit = |n: usize| {
        let id = format!("j{n}");
        let args = ["job", "submit", "--runner", "noop", "--payload", "1", "--id", &id, "--supervisor", &at, "--json"];
        hands.horus.run(&args)
    };
    let mut accepted = 0;
    let refused = loop {
        let outcome = submit(accepted);
        if outcome.code != 0 {
            break outcome;
        }
        accepted += 1;
        assert!(accepted <= 42, "beyond --max-queue jobs are refused");
    };
    // A hint that the stopped runner asked for before is answered with nothing: all of them wait.
    assert!(accepted >= 10 && refused.stdout.contains("QUEUE_FULL"), "{accepted}: {refused:?}");

    let mut text = "workflow:\n  name: wide\n  steps:\n".to_owned();
    for n in 0..100 {
        text += &format!("    - {{id: s{n}, runner: noop, payload: '1'}}\n");
    }
    let file = hands.path("wide.yaml");
    std::fs::write(&file, text).unwrap();
    let args = ["workflow", "submit", file.to_str().unwrap(), "--id", "wide", "--coordinator", &gate_at, "--json"];
    hands.horus.run(&args).ok();
    std::thread::sleep(Duration::from_secs(1));
    runner.signal(Signal::SIGCONT);
    for n in 0..accepted {
        hands.becomes(&at, &format!("noop-j{n}"), "succeeded");
    }
    Hands::until("the workflow ends", Duration::from_secs(60), || {
        let shown = hands.horus.run(&["workflow", "status", "wide", "--coordinator", &gate_at, "--json"]).ok().json();
        (shown["status"] == "succeeded").then_some(())
    });
    submit(accepted).ok();
    healthy(&hands, &url);
}

/// A small file system of its own; gone at the end.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None` where one may not mount.
    fn mount(at: &Path) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"]).arg(at).stderr(Stdio::null());
        mount.status().is_ok_and(|status| status.success()).then(|| Self(at.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_of_redis_is_told_and_lived_through() {
    let hands = Hands::new();
    let Some(disk) = SmallDisk::mount(&hands.path("disk")) else {
        println!("skipped: a file system cannot be mounted here (root can)");
        return;
    };
    let (redis, port) = (TestRedis::start_in(&disk.0, "everysec"), free_port().to_string());
    hands.key("supervisor", "supervisor", "*");
    hands.key("noop", "runner", "noop");
    let (url, at) = (redis.url(), format!("http://127.0.0.1:{port}"));
    let _supervisor = hands.role("supervisor", &["supervisor", "--port", &port, "--redis-url", &url]);
    let runner = hands.role("noop", &["runner", "noop", "--redis-url", &url]);
    Hands::until("the runner is there", Duration::from_secs(20), || {
        runner.log().contains("waits for jobs").then_some(())
    });
    let first = hands.submit(&at, "noop", "1", &["--id", "first"]);
    hands.becomes(&at, &first, "succeeded");

    let ballast = disk.0.join("ballast");
    let _ = std::fs::write(&ballast, vec![0; 8 << 20]);
    let payload = "x".repeat(60_000);
    let submit = |id: &str| {
        let args =
            ["job", "submit", "--runner", "noop", "--payload", &payload, "--id", id, "--supervisor", &at, "--json"];
        hands.horus.run(&args)
    };
    let (mut accepted, mut n) = (Vec::new(), 0);
    let refused = Hands::until("jobs are refused", Duration::from_secs(30), || {
        n += 1;
        let outcome = submit(&format!("j{n}"));
        if outcome.code == 0 {
            accepted.push(format!("noop-j{n}"));
            return None;
        }
        Some(outcome)
    });
    assert!(refused.stdout.contains("REDIS_UNAVAILABLE"), "{refused:?}");
    Hands::until("/healthz says so", Duration::from_secs(10), || (health(&at) == 503).then_some(()));

    std::fs::remove_file(&ballast).unwrap();
    Hands::until("/healthz is well again", Duration::from_secs(30), || (health(&at) == 200).then_some(()));
    Hands::until("jobs are accepted again", Duration::from_secs(30), || (submit("last").code == 0).then_some(()));
    accepted.push("noop-last".to_owned());
    for job in &accepted {
        hands.becomes(&at, job, "succeeded");
    }
    healthy(&hands, &url);
}
