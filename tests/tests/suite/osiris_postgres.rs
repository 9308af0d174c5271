//! Osiris on PostgreSQL, with its runner and its database killed at any moment: every job takes effect exactly once.

use std::{collections::BTreeMap, thread, time::Duration};

use horus_keys::{Envelope, PayloadType, Timestamp};
use horus_runners::job::{JobBatch, JobSpec};
use horus_tests::{Calls, Hands, Postgres, TestRedis, free_port};
use nix::sys::signal::Signal;

const JOBS: usize = 600;
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn every_job_takes_effect_once_whether_the_runner_or_postgresql_is_killed() {
    let Some(postgres) = Postgres::start() else {
        println!("skipped: no PostgreSQL server programs under /usr/lib/postgresql");
        return;
    };
    let (hands, redis, port) = (Hands::new(), TestRedis::start(), free_port().to_string());
    let (url, at) = (redis.url(), format!("http://127.0.0.1:{port}"));
    let supervisor = hands.key("supervisor", "supervisor", "*");
    let args = ["supervisor", "--port", &port, "--redis-url", &url, "--lease", "2s"];
    let _supervisor = hands.role("supervisor", &args);
    hands.key("osiris", "runner", "osiris");
    let database = postgres.url();
    let start = || {
        let args = ["runner", "osiris", "--redis-url", &url, "--lease", "2s", "--osiris-url", &database];
        let runner = hands.role("osiris", &args);
        Hands::until("the runner waits for jobs", PATIENCE, || {
            let list = hands.horus.run(&["runners", "list", "--supervisor", &at, "--json"]);
            list.stdout.contains("alive").then_some(())
        });
        runner
    };
    let mut runner = start();
    let (calls, me) = (Calls::to(&at, Some(hands.identity("me"))), hands.identity("me"));
    let until = Timestamp::now() + Duration::from_secs(3600);
    // Each counts itself in a record of its own, and all of them in one: what runs twice is seen there.
    let job = |n: usize| {
        let script = format!(
            "let total = osiris.model(\"total\"); let own = osiris.model(\"own\"); \
             own.create(#{{job: \"j{n}\"}}); \
             let all = total.get(\"t{0}\"); \
             if all == () {{ total.create(#{{id: \"t{0}\", n: 1}}); }} else {{ total.update(\"t{0}\", #{{n: all.n + 1}}); }} \
             {n}",
            n % 50
        );
        JobSpec::new(format!("j{n}").parse().unwrap(), "osiris".parse().unwrap(), script, until)
    };
    let all: Vec<JobSpec> = (0..JOBS).map(job).collect();
    let submit = || {
        let calls = Calls::to(&at, None);
        for some in all.chunks(20) {
            let batch = JobBatch { aud: vec![supervisor], jobs: some.to_vec(), certificates: Vec::new() };
            calls.submit_jobs(Envelope::sign_json(&me, PayloadType::Jobs, &batch), PATIENCE);
            thread::sleep(Duration::from_millis(150));
        }
    };
    thread::scope(|scope| {
        let submitting = scope.spawn(submit);
        for _ in 0..2 {
            thread::sleep(Duration::from_millis(700));
            postgres.kill();
            thread::sleep(Duration::from_millis(1500));
            postgres.run();
            thread::sleep(Duration::from_millis(500));
            runner.signal(Signal::SIGKILL);
            runner = start();
        }
        submitting.join().unwrap();
    });
    for n in 0..JOBS {
        let job = format!("osiris-j{n}");
        Hands::until(&format!("{job} has ended"), PATIENCE, || {
            let params = horus_node::api::supervisor::JobIdParams { job_id: job.parse().unwrap() };
            let result = calls.insist::<horus_node::api::supervisor::GetJobResult>(&params, PATIENCE);
            assert!(
                !result.status.is_final() || result.status == horus_runners::job::JobStatus::Succeeded,
                "{result:?}\n{}",
                runner.log()
            );
            result.status.is_final().then_some(())
        });
    }
    let ask = |script: &str| {
        let args = ["job", "run", "--runner", "osiris", "--payload", script, "--supervisor", &at, "--json"];
        hands.horus.run(&args).ok().json()["output"].clone()
    };
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let own = ask("let all = []; let after = \"\"; loop { \
                   let page = osiris.model(\"own\").list(if after == \"\" { #{limit: 500} } else { #{limit: 500, after: after} }); \
                   for r in page { all.push(r.job); after = r.id; } if page.len() < 500 { break; } } all");
    for name in own.as_array().unwrap() {
        *seen.entry(name.as_str().unwrap().to_owned()).or_default() += 1;
    }
    let wrong: Vec<_> = (0..JOBS).map(|n| format!("j{n}")).filter(|job| seen.get(job) != Some(&1)).collect();
    assert!(wrong.is_empty(), "not exactly once: {wrong:?}");
    let total = ask("let n = 0; for r in osiris.model(\"total\").list() { n += r.n; } n");
    assert_eq!(total, JOBS, "the counters agree");
    let doctor = hands.horus.run(&["doctor", "--redis-url", &url, "--json"]);
    assert_eq!(doctor.code, 0, "{doctor:?}");
}
