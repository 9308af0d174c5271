//! The sal runner: output, isolation, limits, and that nothing survives a job.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use horus_runners::{
    executor::{Context, Executor, LogStream},
    sal::{ResourceLimits, SalExecutor, SalOptions},
};
use serde_json::json;
use zeroize::Zeroizing;

use crate::world::{Ran, execute, execute_for, job, raw};

crate::tests!(
    a_script_gets_its_input_and_gives_its_output,
    all_eight_sal_modules_are_there,
    print_and_programs_reach_the_log_in_order_as_it_happens,
    a_failed_script_says_where,
    each_job_has_a_process_and_a_scratch_directory_of_its_own,
    the_runners_environment_is_withheld,
    an_endless_loop_ends_at_its_timeout,
    children_end_with_their_job_even_daemons,
    children_left_behind_by_a_good_script_end_too,
    a_fork_bomb_ends,
    a_cancelled_job_stops_at_once,
    a_dropped_job_is_killed,
    a_flood_of_output_is_capped,
    memory_is_bounded,
    files_are_bounded,
    a_crash_is_told,
    a_killed_fork_server_is_replaced,
    nothing_outlives_a_killed_runner,
    the_script_library_is_there,
    it_is_fast,
);

const LONG: Duration = Duration::from_secs(60);

fn sal() -> SalExecutor {
    SalExecutor::new(SalOptions::default())
}

/// Rhai that runs a shell script: SAL gives a text of several lines to bash, and splits a single line at its spaces.
fn sh(script: &str) -> String {
    format!("run(`true\n{script}`)")
}

async fn run(script: &str) -> Ran {
    execute_for(&sal(), &job("sal", script, |_| {}), LONG).await
}

/// Whether some process has this text in its command line.
fn alive(mark: &str) -> bool {
    let mut processes = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    processes.any(|path| {
        fs::read(path.join("cmdline"))
            .is_ok_and(|line| String::from_utf8_lossy(&line).replace('\0', " ").contains(mark))
    })
}

/// A number of seconds that nobody else sleeps for, as a mark of one test's processes.
fn mark() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("{}.{:08}", 5000 + COUNT.fetch_add(1, Ordering::Relaxed), std::process::id())
}

async fn until(mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < Duration::from_secs(20), "did not come true");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn a_script_gets_its_input_and_gives_its_output() {
    let executor = sal();
    let script = "print(env.GREETING); #{sum: input.a + input.b.len(), big: input.big, secret: secrets.token}";
    let job = job("sal", script, |spec| {
        spec.input = Some(raw(r#"{"a": 40, "b": [1, 2], "big": 18446744073709551617}"#));
        spec.env.insert("GREETING".into(), "hello".into());
    });
    let mut context = Context::detached(LONG);
    context.secrets.insert("token".into(), Zeroizing::new("s3cret".into()));
    let ran = execute(&executor, &job, context).await;
    assert_eq!(ran.result.as_ref().unwrap(), r#"{"big":18446744073709551617,"secret":"s3cret","sum":42}"#);
    assert_eq!(ran.log(), "hello\n");
}

async fn all_eight_sal_modules_are_there() {
    let script = r#"
        file_write("a.txt", "one");
        let out = [
            file_read("a.txt"), exist("a.txt"),                                   // os
            run("echo two").silent().execute().stdout,                            // process
            dedent("   x"),                                                       // text
            tcp_check("127.0.0.1", 1),                                            // net
            type_of(git_tree_new("trees")),                                       // git
        ];
        // redisclient, postgresclient, kubernetes: no server here, so an error that is theirs.
        try { out.push(`${redis_ping()}`); } catch (e) { out.push(`${e}`); }
        try { out.push(`${pg_ping()}`); } catch (e) { out.push(`${e}`); }
        try { out.push(type_of(kubernetes_manager_new("default"))); } catch (e) { out.push(`${e}`); }
        out"#;
    // A cluster that speaks TLS, as they all do, and is not there.
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("kube.yaml");
    let text = r#"{apiVersion: v1, kind: Config, clusters: [{name: c, cluster: {server: "https://127.0.0.1:1"}}],
        users: [{name: u, user: {token: x}}], contexts: [{name: x, context: {cluster: c, user: u}}], current-context: x}"#;
    fs::write(&config, text).unwrap();
    let config = config.to_str().unwrap().to_owned();
    let job = job("sal", script, |spec| drop(spec.env.insert("KUBECONFIG".into(), config)));
    let output = execute_for(&sal(), &job, LONG).await.output();
    let output = output.as_array().unwrap();
    assert_eq!(output[0], "one");
    assert_eq!(output[1], true);
    assert_eq!(output[2], "two\n");
    assert_eq!(output[4], false);
    assert_eq!(output.len(), 9);
    assert!(output.iter().all(|text| !text.to_string().contains("Function not found")), "{output:?}");
    assert!(output[8].as_str().unwrap().contains("Failed to connect"), "{output:?}");
}

async fn print_and_programs_reach_the_log_in_order_as_it_happens() {
    let executor = sal();
    let script = format!(
        "print(\"first\"); run(\"echo second\").execute(); try {{ {}.silent().execute(); }} catch {{ }} debug(\"third\"); \
         print(\"fourth\"); sleep(60);",
        sh("exit 4")
    );
    let job = job("sal", &script, |_| {});
    let context = Context::detached(LONG);
    let (log, cancel) = (context.log.clone(), context.cancel.clone());
    let running = execute(&executor, &job, context);
    let watching = async {
        until(|| log.lines().iter().any(|line| line.text == "fourth")).await;
        cancel.cancel();
    };
    let (ran, ()) = tokio::join!(running, watching);
    assert_eq!(ran.error().code, "CANCELLED");
    let lines = ran.context.log.lines();
    let printed: Vec<&str> = lines.iter().filter(|l| l.stream == LogStream::Stdout).map(|l| l.text.as_str()).collect();
    assert_eq!(printed, ["first", "second", "fourth"]);
    let errors: String = lines.iter().filter(|l| l.stream == LogStream::Stderr).map(|l| l.text.clone()).collect();
    assert!(errors.contains("exit code: 4") && errors.contains("third"), "{errors}");
}

async fn a_failed_script_says_where() {
    let ran = run("let a = 1;\nlet b = a + nothing_here;").await;
    assert_eq!(ran.error().code, "SCRIPT_ERROR");
    assert!(ran.error().message.starts_with("line 2, column 13: Variable not found: nothing_here"), "{}", ran.error());
    let ran = run("throw #{code: \"NO_STOCK\", message: \"none\"}").await;
    assert_eq!(ran.error().code, "NO_STOCK");
    let ran = run(&format!("let a = 1;\n{}.silent().execute()", sh("echo because >&2; exit 3"))).await;
    assert!(
        ran.error().message.starts_with("line 3, column") && ran.error().message.contains("because"),
        "{}",
        ran.error()
    );
    let ran = run("run(\"false\").silent().ignore_error().execute()").await;
    assert_eq!(ran.output(), json!({"code": 1, "stderr": "", "stdout": "", "success": false}));
    let ran = run("let s = \"x\"; while s.len() < 600000 { s += s; } s").await;
    assert_eq!(ran.error().code, "OUTPUT_TOO_LARGE");
    // More than the frame between job process and runner takes.
    let large = "let s = \"x\"; while s.len() < 20000000 { s += s; }";
    let ran = run(&format!("{large} s")).await;
    assert_eq!(ran.error().code, "OUTPUT_TOO_LARGE", "{}", ran.error());
    let ran = run(&format!("{large} throw #{{code: \"MINE\", message: s}}")).await;
    assert_eq!(ran.error().code, "MINE", "{}", ran.error());
}

async fn each_job_has_a_process_and_a_scratch_directory_of_its_own() {
    let executor = sal();
    let script = format!(
        "let before = exist(\"left.txt\"); file_write(\"left.txt\", \"x\"); chdir(\"/\");
        let words = {}.silent().execute().stdout.split(); #{{before: before, dir: words[0], pid: words[1]}}",
        sh("echo $TMPDIR $PPID")
    );
    let script = script.as_str();
    let one = execute_for(&executor, &job("sal", script, |_| {}), LONG).await.output();
    let two = execute_for(&executor, &job("sal", script, |_| {}), LONG).await.output();
    assert_eq!((&one["before"], &two["before"]), (&json!(false), &json!(false)));
    assert_ne!(one["pid"], two["pid"]);
    assert_ne!(one["dir"], two["dir"]);
    for dir in [&one["dir"], &two["dir"]] {
        let dir = dir.as_str().unwrap().to_owned();
        until(|| !Path::new(&dir).exists()).await;
    }
}

async fn the_runners_environment_is_withheld() {
    // The tests run with one variable that nobody asked to pass on.
    assert!(std::env::vars().any(|(name, _)| name == "CARGO_MANIFEST_DIR" || name == "OLDPWD" || name == "PWD"));
    let script = "run(\"env\").silent().execute().stdout";
    let ran =
        execute_for(&sal(), &job("sal", script, |spec| drop(spec.env.insert("MINE".into(), "1".into()))), LONG).await;
    let output = ran.output();
    let variables = output.as_str().unwrap();
    assert!(
        !variables.contains("CARGO_")
            && !variables.contains("PWD=")
            && variables.contains("MINE=1")
            && variables.contains("PATH="),
        "{variables}"
    );
}

async fn an_endless_loop_ends_at_its_timeout() {
    let executor = sal();
    executor.prepare().await.unwrap();
    let started = Instant::now();
    let ran = execute_for(&executor, &job("sal", "loop { }", |_| {}), Duration::from_millis(300)).await;
    assert_eq!(ran.error().code, "TIMED_OUT");
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    assert_eq!(execute_for(&executor, &job("sal", "40 + 2", |_| {}), LONG).await.output(), 42);
}

async fn children_end_with_their_job_even_daemons() {
    let mark = mark();
    // In the group; in a session of its own; and a daemon whose parents are gone.
    let shell = format!("sleep {mark} & setsid sleep {mark} & (setsid sh -c 'sleep {mark} & sleep {mark}' &) ; wait");
    let script = format!("{}.execute()", sh(&shell));
    let executor = sal();
    let job = job("sal", &script, |_| {});
    let context = Context::detached(LONG);
    let cancel = context.cancel.clone();
    let watching = async {
        until(|| alive(&format!("sleep {mark}"))).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        cancel.cancel();
    };
    let (ran, ()) = tokio::join!(execute(&executor, &job, context), watching);
    assert_eq!(ran.error().code, "CANCELLED");
    assert!(!alive(&mark), "a process of the job lives on");
}

async fn children_left_behind_by_a_good_script_end_too() {
    let mark = mark();
    let left = sh(&format!("setsid sleep {mark} >/dev/null 2>&1 & sleep {mark} >/dev/null 2>&1 & true"));
    let script = format!("{left}.silent().execute().code");
    let ran = run(&script).await;
    assert_eq!(ran.output(), 0);
    assert!(!alive(&mark), "a process of the job lives on");
    assert!(ran.log().contains("left processes running"), "{}", ran.log());
}

async fn a_fork_bomb_ends() {
    let mark = mark();
    // Bounded by itself (3^5 processes), so that a broken test does not take the machine with it; each has a session of its own.
    let bomb = format!(
        "cat > bomb.sh <<'END'\n[ $2 -gt 0 ] && for i in 1 2 3; do setsid sh bomb.sh $1 $(($2 - 1)) & done\nsleep $1\nEND\nsh bomb.sh {mark} 5"
    );
    let script = format!("{}.silent().execute()", sh(&bomb));
    let executor = sal();
    let job = job("sal", &script, |_| {});
    let ran = execute_for(&executor, &job, Duration::from_millis(700)).await;
    assert_eq!(ran.error().code, "TIMED_OUT", "{}", ran.error());
    assert!(!alive(&mark), "a process of the job lives on");
    assert_eq!(execute_for(&executor, &crate::world::job("sal", "1", |_| {}), LONG).await.output(), 1);
}

async fn a_cancelled_job_stops_at_once() {
    let executor = sal();
    executor.prepare().await.unwrap();
    let context = Context::detached(LONG);
    let cancel = context.cancel.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(100)).await;
        cancel.cancel();
    });
    let started = Instant::now();
    let ran = execute(&executor, &job("sal", "sleep(60)", |_| {}), context).await;
    assert_eq!(ran.error().code, "CANCELLED");
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}

async fn a_dropped_job_is_killed() {
    let mark = mark();
    let executor = sal();
    let job = job("sal", &format!("run(\"sleep {mark}\").execute()"), |_| {});
    let context = Context::detached(LONG);
    let running = execute(&executor, &job, context);
    let started = until(|| alive(&mark));
    tokio::select! {
        _ = running => panic!("should run"),
        () = started => {}
    }
    until(|| !alive(&mark)).await;
}

async fn a_flood_of_output_is_capped() {
    let executor = sal();
    let script = "let line = \"x\"; while line.len() < 1000 { line += line; } loop { print(line); }";
    let ran = execute_for(&executor, &job("sal", script, |_| {}), Duration::from_secs(1)).await;
    assert_eq!(ran.error().code, "TIMED_OUT");
    assert!(ran.context.log.lines().len() <= 10_001);
    // 100 MB in one line, and 100 MB in lines.
    for flood in [
        "head -c 104857600 /dev/zero | tr '\\\\0' y >/proc/$PPID/fd/1",
        "yes a line of some length that a program might well print again and again | head -c 104857600 >/proc/$PPID/fd/1",
    ] {
        let ran = run(&format!("{}.silent().execute(); 7", sh(flood))).await;
        assert_eq!(ran.output(), 7);
        assert!(ran.log().len() <= 5 << 20 && ran.log().contains("were dropped"), "{}", ran.log().len());
    }
}

async fn memory_is_bounded() {
    let resources = ResourceLimits { address_space_bytes: Some(384 << 20), ..ResourceLimits::default() };
    let executor = SalExecutor::new(SalOptions { resources, ..SalOptions::default() });
    for hog in [
        "let s = \"x\"; loop { s += s; }",
        "let a = [1]; loop { a += a; }",
        "let s = \"x\"; while s.len() < 10000 { s += s; } let m = #{}; let i = 0; loop { m[`${i}`] = s + i; i += 1; }",
    ] {
        let ran = execute_for(&executor, &job("sal", hog, |_| {}), LONG).await;
        assert_eq!(ran.error().code, "SCRIPT_CRASHED", "{hog}: {} {}", ran.error(), ran.log());
    }
    let ran = execute_for(&executor, &job("sal", "fn f(x) { f(x + 1) } f(0)", |_| {}), LONG).await;
    assert_eq!(ran.error().code, "SCRIPT_LIMIT", "{}", ran.error());
    assert_eq!(execute_for(&executor, &job("sal", "1", |_| {}), LONG).await.output(), 1);
}

async fn files_are_bounded() {
    let resources = ResourceLimits { file_bytes: Some(1 << 20), ..ResourceLimits::default() };
    let executor = SalExecutor::new(SalOptions { resources, ..SalOptions::default() });
    let script =
        format!("{}.silent().execute().stdout", sh("head -c 10485760 /dev/zero > big || true; stat -c %s big"));
    let ran = execute_for(&executor, &job("sal", &script, |_| {}), LONG).await;
    let size: u64 = ran.output().as_str().unwrap().trim().parse().unwrap();
    assert!(size <= 1 << 20, "{size}");
}

async fn a_crash_is_told() {
    let ran = run(&format!("{}.silent().execute()", sh("kill -ABRT $PPID; sleep 60"))).await;
    assert_eq!(ran.error().code, "SCRIPT_CRASHED");
    assert!(ran.error().message.contains("SIGABRT"), "{}", ran.error());
}

async fn a_killed_fork_server_is_replaced() {
    let executor = sal();
    let kill = format!("{}.silent().execute(); sleep(60)", sh("kill -KILL $(cut -d ' ' -f 4 /proc/$PPID/stat)"));
    let ran = execute_for(&executor, &job("sal", &kill, |_| {}), LONG).await;
    assert_eq!(ran.error().code, "SAL_PROCESS_LOST", "{}", ran.error());
    assert_eq!(execute_for(&executor, &job("sal", "40 + 2", |_| {}), LONG).await.output(), 42);
}

async fn nothing_outlives_a_killed_runner() {
    let mark = mark();
    let script = format!("{}.execute(); run(\"setsid sleep {mark}\").execute()", sh("echo $TMPDIR"));
    let this = std::env::current_exe().unwrap();
    let mut runner = Command::new(this).args([crate::RUNNER, &script]).stdout(Stdio::piped()).spawn().unwrap();
    let mut dir = String::new();
    BufReader::new(runner.stdout.take().unwrap()).read_line(&mut dir).unwrap();
    until(|| alive(&mark)).await;
    assert!(Path::new(dir.trim()).exists(), "{dir}");
    runner.kill().unwrap();
    runner.wait().unwrap();
    until(|| !alive(&mark)).await;
    until(|| !Path::new(dir.trim()).exists()).await;
}

/// What the killed runner does: it executes one script, and prints the first line with a slash of its log.
pub(crate) async fn be_a_runner(script: &str) {
    let context = Context::detached(LONG);
    let log = context.log.clone();
    let (executor, job) = (sal(), job("sal", script, |_| {}));
    let watch = async {
        let mut found = None;
        until(|| {
            found = log.lines().into_iter().map(|line| line.text).find(|text| text.starts_with('/'));
            found.is_some()
        })
        .await;
        println!("{}", found.unwrap());
    };
    tokio::join!(execute(&executor, &job, context), watch);
}

async fn the_script_library_is_there() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("process.rhai"), "fn process_data(d) { d.map(|x| x * 2) }").unwrap();
    let options = SalOptions { script_lib: Some(dir.path().into()), ..SalOptions::default() };
    let executor = SalExecutor::new(options.clone());
    let job = job("sal", "process_data(input)", |spec| spec.input = Some(raw("[1,2]")));
    assert_eq!(execute_for(&executor, &job, LONG).await.output(), json!([2, 4]));
    fs::write(dir.path().join("broken.rhai"), "fn f() {\n let = 1 }").unwrap();
    let error = SalExecutor::new(options).prepare().await.unwrap_err();
    assert!(error.message.contains("broken.rhai, line 2"), "{error}");
}

async fn it_is_fast() {
    const JOBS: usize = 400;
    let executor = sal();
    executor.prepare().await.unwrap();
    let job = job("sal", "40 + 2", |_| {});
    let mut times = Vec::new();
    for _ in 0..JOBS {
        let started = Instant::now();
        assert_eq!(execute(&executor, &job, Context::detached(LONG)).await.output(), 42);
        times.push(started.elapsed());
    }
    times.sort();
    let started = Instant::now();
    for _ in 0..JOBS / 8 {
        futures::future::join_all((0..8).map(|_| execute(&executor, &job, Context::detached(LONG)))).await;
    }
    let rate = JOBS as f64 / started.elapsed().as_secs_f64();
    println!("sal: p50 {:?}, p99 {:?}, {rate:.0} jobs/s with 8 at once", times[JOBS / 2], times[JOBS * 99 / 100]);
    if !cfg!(debug_assertions) {
        assert!(times[JOBS / 2] < Duration::from_millis(10) && rate > 200.0);
    }
}
