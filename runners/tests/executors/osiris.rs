//! The osiris runner on SQLite: the API, transactions, delivery twice, concurrency, limits.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use horus_keys::Identity;
use horus_runners::{
    executor::Context,
    job::{Job, JobSpec, LocalId},
    osiris::{OsirisExecutor, OsirisOptions},
};
use serde_json::{Value, json};
use sqlx::Connection;
use tempfile::TempDir;

use crate::world::{Ran, execute, execute_for, job, raw};

crate::tests!(
    records_have_fields_id_and_times,
    the_whole_api,
    searches_see_the_jobs_own_changes,
    large_models_are_paged,
    mistakes_are_named,
    a_failed_job_stores_nothing,
    a_job_delivered_twice_takes_effect_once,
    another_job_under_a_remembered_id_is_refused,
    concurrent_counters_lose_nothing,
    concurrent_searches_are_serialisable,
    an_endless_loop_hinders_nobody,
    memory_hogs_end,
    two_processes_share_a_database,
    records_survive_a_restart,
    it_is_fast,
);

const LONG: Duration = Duration::from_secs(60);

pub(crate) struct Store {
    pub(crate) executor: OsirisExecutor,
    _dir: Option<TempDir>,
}

async fn store() -> Store {
    let dir = tempfile::tempdir().unwrap();
    let executor = open(&dir).await;
    Store { executor, _dir: Some(dir) }
}

async fn open(dir: &TempDir) -> OsirisExecutor {
    let url = format!("sqlite://{}/sub/osiris.db", dir.path().display());
    OsirisExecutor::open(OsirisOptions::new(url)).await.unwrap()
}

impl Store {
    pub(crate) async fn on(url: &str) -> Self {
        Self { executor: OsirisExecutor::open(OsirisOptions::new(url)).await.unwrap(), _dir: None }
    }

    async fn run(&self, script: &str) -> Ran {
        execute_for(&self.executor, &job("osiris", script, |_| {}), LONG).await
    }

    async fn output(&self, script: &str) -> Value {
        self.run(script).await.output()
    }

    async fn code(&self, script: &str) -> String {
        self.run(script).await.error().code.clone()
    }
}

async fn records_have_fields_id_and_times() {
    let store = store().await;
    let job = job("osiris", "let model = osiris.model(\"results\");\nmodel.create(input.process);", |spec| {
        spec.input = Some(raw(r#"{"process":{"n":18446744073709551615,"list":[1,{"x":null}],"f":1.0}}"#));
    });
    let stored = execute_for(&store.executor, &job, LONG).await.output();
    let all = store.output("osiris.model(\"results\").list()").await;
    let record = all[0].as_object().unwrap();
    assert_eq!(all, json!([stored]));
    assert_eq!(record.len(), 6);
    assert_eq!(record["n"].to_string(), "18446744073709551615");
    assert_eq!((record["list"].to_string(), record["f"].to_string()), (r#"[1,{"x":null}]"#.into(), "1.0".into()));
    let id: uuid::Uuid = record["id"].as_str().unwrap().parse().unwrap();
    assert_eq!(id.get_version_num(), 7);
    assert!(record["created_at"].as_str().unwrap().ends_with('Z'));
    assert_eq!(record["created_at"], record["updated_at"]);
}

async fn the_whole_api() {
    api_works(&store().await).await;
}

/// The same on every database.
pub(crate) async fn api_works(store: &Store) {
    let created = store.output("osiris.model(\"users\").create(#{id: \"ann\", name: \"Ann\", age: 41})").await;
    assert_eq!((&created["id"], &created["name"]), (&json!("ann"), &json!("Ann")));
    assert_eq!(store.output("osiris.model(\"users\").get(\"ann\")").await, created);
    assert_eq!(store.output("osiris.model(\"users\").get(\"bob\")").await, Value::Null);
    assert_eq!(store.output("osiris.model(\"others\").get(\"ann\")").await, Value::Null);
    let updated = store.output("osiris.model(\"users\").update(\"ann\", #{age: 42})").await;
    assert_eq!((&updated["name"], &updated["age"]), (&json!("Ann"), &json!(42)));
    assert_eq!(updated["created_at"], created["created_at"]);
    let script = "let m = osiris.model(\"users\"); let u = m.get(\"ann\"); u.age += 1; u.remove(\"name\"); m.update(u)";
    let replaced = store.output(script).await;
    assert_eq!((replaced.get("name"), &replaced["age"]), (None, &json!(43)));
    let script = "let m = osiris.model(\"users\"); m.update(m.get(\"ann\"), #{name: \"Anna\"}).name";
    assert_eq!(store.output(script).await, "Anna");
    store
        .output("let m = osiris.model(\"users\"); for n in 1..=5 { m.create(#{id: `u${n}`, even: n % 2 == 0, n: n}); }")
        .await;
    assert_eq!(store.output("osiris.model(\"users\").count()").await, 6);
    assert_eq!(store.output("osiris.model(\"users\").count(#{even: true})").await, 2);
    assert_eq!(
        store.output("osiris.model(\"users\").find(#{even: false}).map(|u| u.id)").await,
        json!(["u1", "u3", "u5"])
    );
    assert_eq!(store.output("osiris.model(\"users\").find(#{n: 4.0})[0].id").await, "u4");
    let page = "osiris.model(\"users\").list(#{limit: 2, after: \"u2\"}).map(|u| u.id)";
    assert_eq!(store.output(page).await, json!(["u3", "u4"]));
    assert_eq!(store.output("osiris.model(\"users\").delete(\"u1\")").await, true);
    assert_eq!(store.output("let m = osiris.model(\"users\"); m.delete(m.get(\"u2\"))").await, true);
    assert_eq!(store.output("osiris.model(\"users\").delete(\"u1\")").await, false);
    assert_eq!(store.output("osiris.model(\"users\").list().map(|u| u.id)").await, json!(["ann", "u3", "u4", "u5"]));
    // Text that needs care in SQL and JSON.
    let odd = "let m = osiris.model(\"odd\"); let r = m.create(#{id: \"ü'\\\"\\\\$1\", \"k'\\\"\": \"\\x00\\u2028é\"}); [m.get(r.id), m.count(#{\"k'\\\"\": \"\\x00\\u2028é\"})]";
    let first = store.output(odd).await;
    let again = store.output("osiris.model(\"odd\").find(#{\"k'\\\"\": \"\\x00\\u2028é\"})").await;
    assert_eq!((&again[0], &first[1]), (&first[0], &json!(1)));
}

async fn searches_see_the_jobs_own_changes() {
    let store = store().await;
    store.output("let m = osiris.model(\"m\"); for n in 1..=4 { m.create(#{id: `${n}`, v: 1}); }").await;
    let script = r#"
        let m = osiris.model("m");
        m.delete("1"); m.update("2", #{v: 2}); m.create(#{id: "0", v: 1}); m.create(#{id: "9", v: 2}); m.delete("9");
        #{ids: m.list().map(|r| r.id), ones: m.find(#{v: 1}).map(|r| r.id), count: m.count(), twos: m.count(#{v: 2}),
           page: m.list(#{limit: 2, after: "0"}).map(|r| r.id), gone: m.get("1"), again: m.create(#{id: "1", v: 3}).v}"#;
    let expected = json!({"ids": ["0", "2", "3", "4"], "ones": ["0", "3", "4"], "count": 4, "twos": 1, "page": ["2", "3"], "gone": null, "again": 3});
    assert_eq!(store.output(script).await, expected);
    assert_eq!(
        store.output("osiris.model(\"m\").list().map(|r| [r.id, r.v])").await,
        json!([["0", 1], ["1", 3], ["2", 2], ["3", 1], ["4", 1]])
    );
}

async fn large_models_are_paged() {
    let store = store().await;
    for _ in 0..2 {
        store.output("let m = osiris.model(\"big\"); for n in 0..6000 { m.create(#{n: n}); }").await;
    }
    assert_eq!(store.output("osiris.model(\"big\").count()").await, 12_000);
    assert_eq!(store.output("osiris.model(\"big\").count(#{n: 5999})").await, 2);
    let ran = store.run("osiris.model(\"big\").list().len()").await;
    assert!(ran.error().code == "TOO_LARGE" && ran.error().message.contains("limit"), "{}", ran.error());
    let script = r#"
        let m = osiris.model("big"); let seen = 0; let after = "";
        loop { let page = m.list(#{limit: 5000, after: after}); seen += page.len(); if page.len() < 5000 { break; } after = page[-1].id; }
        seen"#;
    assert_eq!(store.output(script).await, 12_000);
    assert_eq!(
        store.code("let m = osiris.model(\"big\"); for n in 0..10001 { m.create(#{n: n}); }").await,
        "TOO_LARGE"
    );
    assert_eq!(store.output("osiris.model(\"big\").count()").await, 12_000);
}

async fn mistakes_are_named() {
    let store = store().await;
    store.output("osiris.model(\"m\").create(#{id: \"a\"})").await;
    assert_eq!(store.code("osiris.model(\"m\").create(#{id: \"a\"})").await, "RECORD_EXISTS");
    assert_eq!(store.code("osiris.model(\"m\").update(\"b\", #{})").await, "RECORD_NOT_FOUND");
    assert_eq!(store.code("osiris.model(\"m\").create([1])").await, "INVALID_RECORD");
    assert_eq!(store.code("osiris.model(\"m\").create(#{f: |x| x})").await, "INVALID_RECORD");
    assert_eq!(store.code("osiris.model(\"m\").get(7)").await, "INVALID_RECORD");
    assert_eq!(store.code("osiris.model(\"m\").update(\"a\", #{id: \"b\"})").await, "INVALID_RECORD");
    assert_eq!(store.code("osiris.model(\"../m\")").await, "INVALID_MODEL");
    assert_eq!(store.code("osiris.model(\"m\").list(#{offset: 1})").await, "INVALID_QUERY");
    assert_eq!(store.code("osiris.model(\"m\")").await, "OUTPUT_INVALID");
    assert_eq!(store.code("import \"x\" as x;").await, "SCRIPT_ERROR");
    assert_eq!(
        store
            .output(
                "let code = (); try { osiris.model(\"m\").create(#{id: \"a\"}); } catch (e) { code = e.code; } code"
            )
            .await,
        "RECORD_EXISTS"
    );
    assert_eq!(store.output("fn f() { osiris.model(\"m\").count() } f()").await, 1);
}

async fn a_failed_job_stores_nothing() {
    let store = store().await;
    assert_eq!(store.code("osiris.model(\"m\").create(#{}); throw \"no\"").await, "SCRIPT_ERROR");
    assert_eq!(
        store.code("osiris.model(\"m\").create(#{}); let s = \"x\"; while s.len() < 600000 { s += s; } s").await,
        "OUTPUT_TOO_LARGE"
    );
    assert_eq!(store.output("osiris.model(\"m\").count()").await, 0);
}

async fn a_job_delivered_twice_takes_effect_once() {
    let store = store().await;
    let script = "print(\"runs\"); osiris.model(\"m\").create(#{}).id";
    let job = job("osiris", script, |spec| spec.id = LocalId::new("once").unwrap());
    let first = execute_for(&store.executor, &job, LONG).await;
    let second = execute_for(&store.executor, &job, LONG).await;
    assert_eq!(first.output(), second.output());
    assert!(first.log().contains("runs") && !second.log().contains("runs"));
    // At the same time, too.
    let job = crate::world::job("osiris", "osiris.model(\"m\").create(#{}).id", |_| {});
    let context = || Context::detached(LONG);
    let runs = futures::future::join_all((0..8).map(|_| execute(&store.executor, &job, context()))).await;
    assert!(runs.iter().all(|ran| ran.output() == runs[0].output()));
    assert_eq!(store.output("osiris.model(\"m\").count()").await, 2);
}

async fn another_job_under_a_remembered_id_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    ids_are_not_mixed_up(&format!("sqlite://{}/osiris.db", dir.path().display())).await;
}

/// The same on every database.
pub(crate) async fn ids_are_not_mixed_up(url: &str) {
    let store = Store::on(url).await;
    let id = LocalId::new("orders-7").unwrap();
    let create = "osiris.model(\"ids\").create(input)";
    let order = |script: &str, edit: fn(&mut JobSpec)| {
        job("osiris", script, |spec| {
            spec.id = id.clone();
            spec.input = Some(raw(r#"{"order":1}"#));
            edit(spec);
        })
    };
    let first = execute_for(&store.executor, &order(create, |_| {}), LONG).await.output();
    // The same job sent again, though it is signed anew and has more time.
    let later = |spec: &mut JobSpec| spec.run_until = spec.run_until.map(|at| at.saturating_add(LONG));
    assert_eq!(execute_for(&store.executor, &order(create, later), LONG).await.output(), first);
    let mut foreign = order(create, |_| {});
    foreign.submitter = Identity::from_seed(&[9; 32]).peer_id();
    let others = [
        foreign,
        order("osiris.model(\"ids\").create(#{order: 2})", |_| {}),
        order(create, |spec| spec.input = Some(raw(r#"{"order":2}"#))),
        order(create, |spec| spec.env = [("DAY".to_owned(), "2".to_owned())].into()),
    ];
    for other in &others {
        let ran = execute_for(&store.executor, other, LONG).await;
        assert_eq!(ran.error().code, "ID_CONFLICT", "{}", ran.error());
        assert!(ran.error().message.contains("another id"), "{}", ran.error());
    }
    assert_eq!(store.output("osiris.model(\"ids\").count()").await, 1);
    // At the same time: one of them takes effect, and the others learn that it was not theirs.
    let at_once = ["2", "3"].map(|order| {
        job("osiris", create, |spec| {
            spec.id = LocalId::new("orders-8").unwrap();
            spec.input = Some(raw(&format!(r#"{{"order":{order}}}"#)));
        })
    });
    let context = || Context::detached(LONG);
    let ran = futures::future::join_all(at_once.iter().map(|job| execute(&store.executor, job, context()))).await;
    let refused: Vec<&Ran> = ran.iter().filter(|ran| ran.result.is_err()).collect();
    assert_eq!((refused.len(), refused[0].error().code.as_str()), (1, "ID_CONFLICT"));
    assert_eq!(store.output("osiris.model(\"ids\").count()").await, 2);
    // A database of before: of its jobs nobody knows what they were.
    drop(store);
    let mut before = sqlx::AnyConnection::connect(url).await.unwrap();
    sqlx::query("ALTER TABLE osiris_jobs DROP COLUMN content").execute(&mut before).await.unwrap();
    before.close().await.unwrap();
    let store = Store::on(url).await;
    assert_eq!(execute_for(&store.executor, &others[1], LONG).await.output(), first);
    assert_eq!(store.output("osiris.model(\"ids\").count()").await, 2);
}

async fn concurrent_counters_lose_nothing() {
    counters_lose_nothing(&[&store().await]).await;
}

/// Many jobs read and write one record, through all the given executors of one database.
pub(crate) async fn counters_lose_nothing(stores: &[&Store]) {
    const JOBS: usize = 60;
    stores[0].output("osiris.model(\"counters\").create(#{id: \"c\", n: 0})").await;
    let script = "let m = osiris.model(\"counters\"); let c = m.get(\"c\"); c.n += 1; m.update(c); m.create(#{id: `seen-${c.n}`}); c.n";
    let jobs: Vec<Job> = (0..JOBS).map(|_| job("osiris", script, |_| {})).collect();
    let runs = jobs.iter().enumerate().map(|(n, job)| execute_for(&stores[n % stores.len()].executor, job, LONG));
    let mut seen: Vec<i64> =
        futures::future::join_all(runs).await.iter().map(|ran| ran.output().as_i64().unwrap()).collect();
    seen.sort_unstable();
    assert_eq!(seen, (1..=JOBS as i64).collect::<Vec<_>>());
    assert_eq!(stores[0].output("osiris.model(\"counters\").count()").await, JOBS as i64 + 1);
}

async fn concurrent_searches_are_serialisable() {
    let store = store().await;
    // Each takes the next free number as seen by a search: without checks of searches, two would take the same.
    let script = "let m = osiris.model(\"tickets\"); m.create(#{number: m.count()}).number";
    let jobs: Vec<Job> = (0..30).map(|_| job("osiris", script, |_| {})).collect();
    let runs = futures::future::join_all(jobs.iter().map(|job| execute_for(&store.executor, job, LONG))).await;
    let mut numbers: Vec<i64> = runs.iter().map(|ran| ran.output().as_i64().unwrap()).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..30).collect::<Vec<_>>());
}

async fn an_endless_loop_hinders_nobody() {
    let store = Arc::new(store().await);
    let mut loops = Vec::new();
    for script in ["osiris.model(\"m\").create(#{}); loop { }", "osiris.model(\"m\").count(); sleep(1000)"] {
        let store = store.clone();
        loops.push(tokio::spawn(async move {
            execute_for(&store.executor, &job("osiris", script, |_| {}), Duration::from_secs(3))
                .await
                .error()
                .code
                .clone()
        }));
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    store.output("osiris.model(\"m\").create(#{})").await;
    assert!(loops.iter().all(|running| !running.is_finished()), "it waited for the others");
    for code in loops {
        assert_eq!(code.await.unwrap(), "TIMED_OUT");
    }
    assert_eq!(store.output("osiris.model(\"m\").count()").await, 1);
    // A dropped future stops its script: else the eight threads would be taken by now.
    for _ in 0..10 {
        let endless = job("osiris", "loop { }", |_| {});
        let running = execute(&store.executor, &endless, Context::detached(LONG));
        assert!(tokio::time::timeout(Duration::from_millis(20), running).await.is_err());
    }
    assert_eq!(store.output("1").await, 1);
}

async fn memory_hogs_end() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = OsirisOptions::new(format!("sqlite://{}/o.db", dir.path().display()));
    options.memory_bytes = 400 << 20;
    let store = Store { executor: OsirisExecutor::open(options).await.unwrap(), _dir: Some(dir) };
    // The last two stay within the bounds of single values, and meet that of the process.
    let many: String = (0..200).map(|n| format!("let s{n} = s + {n};")).collect();
    for hog in [
        "let s = \"x\"; loop { s += s; }",
        "let a = [1]; loop { a += a; }",
        "fn f(x) { f(x + 1) } f(0)",
        "let s = \"\"; s.pad(10000000000, 'x')",
        "let a = []; a.pad(10000000000, 1)",
        "blob(10000000000, 0)",
        &format!("let s = \"x\"; while s.len() < 4000000 {{ s += s; }} {many}"),
        "let s = \"x\"; while s.len() < 4000000 { s += s; } fn f(n, s) { let t = s + n; f(n + 1, t) } f(0, s)",
    ] {
        assert_eq!(store.code(hog).await, "SCRIPT_LIMIT", "{hog}");
    }
    assert_eq!(store.output("1").await, 1);
}

async fn two_processes_share_a_database() {
    let dir = tempfile::tempdir().unwrap();
    let one = Store { executor: open(&dir).await, _dir: None };
    let two = Store { executor: open(&dir).await, _dir: Some(dir) };
    counters_lose_nothing(&[&one, &two]).await;
}

async fn records_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store { executor: open(&dir).await, _dir: None };
    let once = job("osiris", "osiris.model(\"m\").create(#{id: \"a\"})", |_| {});
    let first = execute_for(&store.executor, &once, LONG).await.output();
    drop(store);
    let store = Store { executor: open(&dir).await, _dir: Some(dir) };
    assert_eq!(execute_for(&store.executor, &once, LONG).await.output(), first);
    assert_eq!(store.output("osiris.model(\"m\").count()").await, 1);
}

async fn it_is_fast() {
    const JOBS: usize = 4000;
    let store = store().await;
    let script = "osiris.model(\"results\").create(input)";
    let jobs: Vec<Job> = (0..JOBS)
        .map(|_| job("osiris", script, |spec| spec.input = Some(raw(r#"{"a":1,"b":"some text","c":[1,2,3]}"#))))
        .collect();
    let started = Instant::now();
    let mut waiting = futures::stream::FuturesUnordered::new();
    let mut jobs = jobs.iter();
    use futures::StreamExt;
    waiting.extend(jobs.by_ref().take(16).map(|job| execute(&store.executor, job, Context::detached(LONG))));
    while let Some(ran) = waiting.next().await {
        assert!(ran.result.is_ok());
        waiting.extend(jobs.next().map(|job| execute(&store.executor, job, Context::detached(LONG))));
    }
    let rate = JOBS as f64 / started.elapsed().as_secs_f64();
    let one = job("osiris", script, |spec| spec.input = Some(raw("{}")));
    let started = Instant::now();
    execute(&store.executor, &one, Context::detached(LONG)).await.output();
    println!("osiris: {rate:.0} inserts/s with 16 at once; one alone {:?}", started.elapsed());
    if !cfg!(debug_assertions) {
        assert!(rate > 1500.0);
    }
}
