//! A month of work in seconds: with retention of seconds instead of days, Redis is left with what retention and the memory of used
//! ids explain, and with nothing else.
//!
//! The short form is a test like the others; for a longer one:
//!
//!     HORUS_MONTH_SECONDS=600 cargo test -p horus-tests --test suite busy_month -- --nocapture

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    thread,
    time::{Duration, Instant},
};

use horus_keys::{Envelope, Identity, PayloadType, PeerId, Timestamp};
use horus_node::api::{
    coordinator::{CancelWorkflow, WorkflowIdParams},
    supervisor::{CancelJob, DeleteJob, JobIdParams, RegisterRunner, RegisterRunnerParams},
};
use horus_runners::job::{JobBatch, JobSpec};
use horus_tests::{Calls, Hands, TestRedis, Valid, free_port, sign_workflow};

const PATIENCE: Duration = Duration::from_secs(60);
const RETENTION: &str = "2s";
/// How long what is submitted may run.
const RUN_UNTIL: Duration = Duration::from_secs(600);
/// Ids are remembered for an hour longer.
const REMEMBERED: Duration = Duration::from_secs(3600 + 600 + 60);

/// Who submits, and to whom.
struct Load {
    me: Identity,
    supervisor: (PeerId, String),
    coordinator: (PeerId, String),
}

impl Load {
    fn batch(&self, jobs: Vec<JobSpec>) -> Envelope {
        let batch = JobBatch { aud: vec![self.supervisor.0], jobs, certificates: Vec::new() };
        Envelope::sign_json(&self.me, PayloadType::Jobs, &batch)
    }

    fn job(id: &str, kind: &str, payload: &str) -> JobSpec {
        JobSpec::new(id.parse().unwrap(), kind.parse().unwrap(), payload, Timestamp::now() + RUN_UNTIL)
    }

    /// Jobs that succeed, fail, are cancelled, expire, are deleted. Gives how many.
    fn jobs(&self, round: usize, until: Instant) -> usize {
        let calls = Calls::to(&self.supervisor.1, Some(self.me.clone()));
        let (mut count, mut n) = (0, 0);
        while Instant::now() < until {
            n += 1;
            let name = |what: &str| format!("r{round}-{n}-{what}");
            let mut jobs: Vec<JobSpec> = (0..90).map(|k| Self::job(&name(&k.to_string()), "noop", "1")).collect();
            for k in 0..4 {
                jobs.push(Self::job(&name(&format!("says{k}")), "sal", "for n in 0..50 { print(`line ${n}`); } \"x\""));
            }
            jobs.push(Self::job(&name("fails"), "sal", "throw \"broken\""));
            let mut later = Self::job(&name("later"), "noop", "1");
            later.not_before = Some(Timestamp::now() + RUN_UNTIL / 2);
            jobs.push(later);
            // Nobody serves this kind.
            let mut expires = Self::job(&name("expires"), "hero", "!!play.echo text:'x'");
            expires.run_until = Some(Timestamp::now() + Duration::from_secs(2));
            jobs.push(expires);
            count += jobs.len();
            calls.submit_jobs(self.batch(jobs), PATIENCE);
            let job =
                |kind: &str, what: &str| JobIdParams { job_id: format!("{kind}-{}", name(what)).parse().unwrap() };
            calls.insist::<CancelJob>(&job("noop", "later"), PATIENCE);
            calls.insist::<DeleteJob>(&job("noop", "later"), PATIENCE);
        }
        count
    }

    /// Workflows that succeed, fail, are cancelled. Gives how many.
    fn workflows(&self, round: usize, until: Instant) -> usize {
        let calls = Calls::to(&self.coordinator.1, Some(self.me.clone()));
        let mut n = 0;
        while Instant::now() < until {
            n += 1;
            let mut definition =
                "workflow:\n  name: month\n  steps:\n    - {id: a, runner: noop, payload: '1'}\n".to_owned();
            for k in 0..6 {
                writeln!(definition, "    - {{id: b{k}, runner: noop, payload: '1', depends_on: [a]}}").unwrap();
            }
            let last = match n % 5 {
                0 => "    - {id: c, runner: sal, payload: 'throw 1', depends_on: [a]}\n",
                1 => "    - {id: c, runner: sal, payload: 'sleep(20); 1', depends_on: [a]}\n",
                _ => "    - {id: c, runner: noop, payload: '1', depends_on: [b0, b1, b2, b3, b4, b5]}\n",
            };
            definition.push_str(last);
            let id = format!("r{round}-{n}");
            let valid = Valid { submit: Duration::from_secs(300), run: RUN_UNTIL };
            calls.submit_workflow(sign_workflow(&self.me, &id, definition, &[self.coordinator.0], valid), PATIENCE);
            if n % 5 == 1 {
                calls.insist::<CancelWorkflow>(&WorkflowIdParams { workflow_id: id.parse().unwrap() }, PATIENCE);
            }
            thread::sleep(Duration::from_millis(10));
        }
        n
    }

    fn both(&self, round: usize, long: Duration) -> (usize, usize) {
        let until = Instant::now() + long;
        thread::scope(|scope| {
            let jobs = scope.spawn(|| self.jobs(round, until));
            let workflows = scope.spawn(|| self.workflows(round, until));
            (jobs.join().unwrap(), workflows.join().unwrap())
        })
    }
}

/// A key that is left.
struct Left {
    name: String,
    ttl: Option<Duration>,
    bytes: u64,
    fields: Option<u64>,
}

fn left(redis: &TestRedis) -> Vec<Left> {
    let (mut link, mut cursor, mut names) = (redis.connection(), "0".to_owned(), Vec::new());
    loop {
        let mut scan = redis::cmd("SCAN");
        let (next, some): (String, Vec<String>) = scan.arg(&cursor).arg("COUNT").arg(1000).query(&mut link).unwrap();
        names.extend(some);
        if next == "0" {
            break;
        }
        cursor = next;
    }
    names.sort();
    names.dedup();
    let mut found = Vec::new();
    for some in names.chunks(500) {
        let mut pipe = redis::pipe();
        for name in some {
            pipe.cmd("PTTL").arg(name).cmd("MEMORY").arg("USAGE").arg(name).cmd("OBJECT").arg("ENCODING").arg(name);
        }
        let facts: Vec<(i64, Option<u64>, Option<String>)> = pipe
            .query::<Vec<redis::Value>>(&mut link)
            .unwrap()
            .as_chunks::<3>()
            .0
            .iter()
            .map(|[ttl, bytes, encoding]| {
                let read = |value: &redis::Value| redis::from_redis_value::<Option<u64>>(value.clone()).unwrap_or(None);
                let ttl: i64 = redis::from_redis_value(ttl.clone()).unwrap();
                (ttl, read(bytes), redis::from_redis_value(encoding.clone()).unwrap_or(None))
            })
            .collect();
        for (name, (ttl, bytes, encoding)) in some.iter().zip(facts) {
            if ttl == -2 {
                continue;
            }
            let is_stub = name.contains(":job:");
            let fields =
                (is_stub && encoding.is_some()).then(|| redis::cmd("HLEN").arg(name).query(&mut link).unwrap());
            let ttl = u64::try_from(ttl).ok().map(Duration::from_millis);
            found.push(Left { name: name.clone(), ttl, bytes: bytes.unwrap_or(0), fields });
        }
    }
    found
}

/// Its name without ids.
fn pattern(name: &str) -> String {
    if let Some(rest) = name.strip_prefix("horus:wf:{") {
        return format!("horus:wf:{{ID}}:{}", rest.rsplit(':').next().unwrap());
    }
    let parts: Vec<&str> = name.split(':').collect();
    match parts.as_slice() {
        ["horus", kind, what @ ("job" | "log" | "batch" | "wf" | "rc" | "worker"), ..] if kind.starts_with('{') => {
            format!("horus:{kind}:{what}:ID")
        }
        ["horus", what @ ("nonce" | "probe"), ..] => format!("horus:{what}:ID"),
        ["horus", "workflows", "of", _] => "horus:workflows:of:ID".to_owned(),
        _ => name.to_owned(),
    }
}

/// Why a key is not explained by what is documented, if it is not.
fn unexplained(key: &Left) -> Option<String> {
    let pattern = pattern(&key.name);
    let within = |most: Duration| key.ttl.is_some_and(|ttl| ttl <= most);
    let explained = match pattern.as_str() {
        "horus:kinds" | "horus:registered" | "horus:coordinators" => true,
        "horus:nonce:ID" => within(Duration::from_secs(180)),
        "horus:probe:ID" => within(Duration::from_secs(60)),
        "horus:wf:{ID}:meta" => within(REMEMBERED),
        _ => {
            let what = pattern.strip_prefix("horus:{").and_then(|rest| rest.split_once("}:")).map(|(_, what)| what);
            match what.unwrap_or_default() {
                "seq" | "wake" | "workers" | "worker:ID" => true,
                "wf:ID" | "rc:ID" => within(REMEMBERED),
                "job:ID" => within(REMEMBERED) && key.fields.is_some_and(|fields| fields <= 4),
                _ => false,
            }
        }
    };
    (!explained).then(|| format!("{} (expires in {:?}, {} bytes)", key.name, key.ttl, key.bytes))
}

fn used_memory(redis: &TestRedis) -> u64 {
    let info: String = redis::cmd("INFO").arg("memory").query(&mut redis.connection()).unwrap();
    let line = info.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap();
    line.trim().parse().unwrap()
}

#[test]
fn a_busy_month_leaves_in_redis_what_retention_explains_and_nothing_else() {
    let seconds = std::env::var("HORUS_MONTH_SECONDS").ok().and_then(|text| text.parse().ok());
    let long = Duration::from_secs(seconds.unwrap_or(5));
    let (hands, redis, port, gate) =
        (Hands::new(), TestRedis::start(), free_port().to_string(), free_port().to_string());
    let (url, at, gate_at) = (redis.url(), format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{gate}"));
    let supervisor = hands.key("supervisor", "supervisor", "*");
    let coordinator = hands.key("coordinator", "coordinator", "*");
    let args = ["supervisor", "--port", &port, "--redis-url", &url, "--retention", RETENTION];
    let mut roles = vec![hands.role("supervisor", &args)];
    for kind in ["noop", "sal"] {
        hands.key(kind, "runner", kind);
        roles.push(hands.role(kind, &["runner", kind, "--redis-url", &url]));
    }
    let args = ["coordinator", "--port", &gate, "--redis-url", &url, "--supervisor", &at, "--retention", RETENTION];
    roles.push(hands.role("coordinator", &args));
    let me = hands.identity("me");
    let hero = RegisterRunnerParams { runner: "hero".parse().unwrap(), name: None };
    Calls::to(&at, Some(me.clone())).insist::<RegisterRunner>(&hero, PATIENCE);
    let load = Load { me, supervisor: (supervisor, at), coordinator: (coordinator, gate_at) };
    let before = used_memory(&redis);

    let (mut kept_for_good, mut jobs_in_all) = (Vec::new(), 0);
    for round in 1..=2 {
        let (jobs, workflows) = load.both(round, long / 2);
        jobs_in_all += jobs;
        let full = used_memory(&redis);
        // What waits ends within its time, and is forgotten after its retention.
        let deadline = Instant::now() + PATIENCE;
        let left = loop {
            let left = left(&redis);
            let wrong: Vec<String> = left.iter().filter_map(unexplained).collect();
            if wrong.is_empty() {
                break left;
            }
            assert!(
                Instant::now() < deadline,
                "{} keys are left, among them:\n{}",
                wrong.len(),
                wrong[..wrong.len().min(20)].join("\n")
            );
            thread::sleep(Duration::from_millis(500));
        };
        let mut patterns: BTreeMap<String, (usize, u64)> = BTreeMap::new();
        for key in &left {
            let of = patterns.entry(pattern(&key.name)).or_default();
            *of = (of.0 + 1, of.1 + key.bytes);
        }
        let after = used_memory(&redis);
        println!(
            "{jobs} jobs, {workflows} workflows: {before} bytes before, {full} after the work, {after} after retention"
        );
        println!("left (keys, bytes): {patterns:?}");
        let memory_of_ids: u64 = left.iter().filter(|key| key.ttl.is_some()).map(|key| key.bytes).sum();
        assert!(
            after < before + 2 * memory_of_ids + (8 << 20),
            "{after} bytes, though what is left has {memory_of_ids}"
        );
        let stubs = patterns.iter().filter(|(name, _)| name.contains("}:job:")).map(|(_, of)| of);
        let (stubs, bytes) = stubs.fold((0, 0), |sum, of| (sum.0 + of.0, sum.1 + of.1));
        assert!(stubs >= jobs_in_all, "ids are remembered: {stubs} of {jobs_in_all}");
        assert!(bytes < stubs as u64 * 500, "an id that is remembered is small: {bytes} bytes for {stubs}");
        kept_for_good.push(left.into_iter().filter(|key| key.ttl.is_none()).map(|key| key.name).collect::<Vec<_>>());
    }
    let forgets_wake =
        |names: &[String]| names.iter().filter(|name| !name.ends_with(":wake")).cloned().collect::<Vec<_>>();
    assert_eq!(forgets_wake(&kept_for_good[0]), forgets_wake(&kept_for_good[1]), "more work leaves no more behind");
    let doctor = hands.horus.run(&["doctor", "--redis-url", &url, "--json"]);
    assert_eq!(doctor.code, 0, "{doctor:?}");
}
