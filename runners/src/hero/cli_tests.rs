use super::super::HeroExecutor;
use super::*;
use crate::executor::Executor;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Instant;
use tempfile::TempDir;

/// A `hero` that is this shell script.
fn hero(body: &str) -> (TempDir, HeroExecutor) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hero");
    std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    let executor = HeroExecutor::new(Some(&path)).unwrap();
    (dir, executor)
}

async fn run_job(body: &str, job: &Job, context: &Context) -> Result<String, ExecutionError> {
    let (_dir, executor) = hero(body);
    executor.execute(job, context).await.map(|output| output.get().to_owned())
}

fn context() -> Context {
    Context::detached(Duration::from_secs(30))
}

/// A shell line that starts a process which outlives the script and tells its id in `file`.
fn straggler(file: &Path) -> String {
    format!("sleep 300 & echo $! > {}", file.display())
}

async fn is_gone(file: &Path) -> bool {
    let pid: i32 = std::fs::read_to_string(file).unwrap().trim().parse().unwrap();
    let deadline = Instant::now() + Duration::from_secs(5);
    while Instant::now() < deadline {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // A zombie has ended; its new parent may take a while to notice.
        if stat.is_empty() || stat.contains(") Z ") {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    false
}

#[tokio::test]
async fn the_script_goes_to_run_p_file_and_stdout_is_the_output() {
    let mut job = Job::unsigned("hero", "!!play.echo content:'hi'");
    job.env.insert("NAME".into(), "value".into());
    job.input = Some(serde_json::value::RawValue::from_string("{\"fetch\":[1]}".into()).unwrap());
    let mut context = context();
    context.secrets.insert("TOKEN".into(), zeroize::Zeroizing::new("t0".into()));
    let body = "echo \"$1 $2\"; cat \"$3\"; echo; echo \"$NAME $TOKEN $HORUS_JOB_ID\"; cat \"$HORUS_INPUT_FILE\"; echo oops >&2";
    let output = run_job(body, &job, &context).await.unwrap();
    let text: String = serde_json::from_str(&output).unwrap();
    let expected = format!("run -p\n!!play.echo content:'hi'\nvalue t0 {}\n{{\"fetch\":[1]}}", job.id);
    assert_eq!(text, expected);
    let lines = context.log.lines();
    assert!(lines.iter().any(|l| l.stream == LogStream::Stderr && l.text == "oops"));
    assert!(lines.iter().any(|l| l.stream == LogStream::Stdout && l.text == "run -p"));
}

#[tokio::test]
async fn json_on_stdout_is_json() {
    let job = Job::unsigned("hero", "");
    assert_eq!(run_job("echo '{\"a\": 1.0}'", &job, &context()).await.unwrap(), "{\"a\": 1.0}");
    assert_eq!(run_job("true", &job, &context()).await.unwrap(), "\"\"");
}

#[tokio::test]
async fn the_runners_own_environment_stays_out() {
    let job = Job::unsigned("hero", "");
    let output = run_job("env", &job, &context()).await.unwrap();
    assert!(output.contains("PATH=") && !output.contains("CARGO"), "{output}");
}

#[tokio::test]
async fn a_failure_shows_stderr() {
    let job = Job::unsigned("hero", "");
    let error = run_job("echo out; echo 'no such action' >&2; exit 3", &job, &context()).await.unwrap_err();
    assert_eq!(error.code, "HERO_CLI_FAILED");
    assert!(error.message.contains("exit status: 3") && error.message.contains("no such action"), "{error}");
    let error = run_job("kill -9 $$", &job, &context()).await.unwrap_err();
    assert!(error.message.contains("signal: 9") && error.message.contains("printed nothing"), "{error}");
}

#[tokio::test]
async fn too_much_output_is_an_error_and_the_log_is_bounded() {
    let context = context();
    let job = Job::unsigned("hero", "");
    let error = run_job("yes 0123456789 | head -c 20000000", &job, &context).await.unwrap_err();
    assert_eq!(error.code, "OUTPUT_TOO_LARGE");
    assert!(context.log.lines().len() <= limits::LOG_LINES + 1);
}

#[tokio::test]
async fn children_left_behind_do_not_hold_up_the_job_and_are_killed() {
    let dir = tempfile::tempdir().unwrap();
    let pid = dir.path().join("pid");
    let started = Instant::now();
    let job = Job::unsigned("hero", "");
    let output = run_job(&format!("{}; echo done", straggler(&pid)), &job, &context()).await.unwrap();
    assert_eq!(output, "\"done\"");
    assert!(started.elapsed() < Duration::from_secs(5));
    assert!(is_gone(&pid).await);
}

#[tokio::test]
async fn cancelling_ends_the_whole_group() {
    let dir = tempfile::tempdir().unwrap();
    let pid = dir.path().join("pid");
    let context = context();
    let cancel = context.cancel.clone();
    let file = pid.clone();
    tokio::spawn(async move {
        wait_for(&file).await;
        cancel.cancel();
    });
    // It ignores SIGTERM, as hostile scripts do.
    let body = format!("trap '' TERM; {}; while :; do sleep 1; done", straggler(&pid));
    let job = Job::unsigned("hero", "");
    let error =
        tokio::time::timeout(Duration::from_secs(10), run_job(&body, &job, &context)).await.unwrap().unwrap_err();
    assert_eq!(error.code, "CANCELLED");
    assert!(is_gone(&pid).await);
}

#[tokio::test]
async fn dropping_the_future_ends_the_whole_group() {
    let dir = tempfile::tempdir().unwrap();
    let pid = dir.path().join("pid");
    let (_hero, executor) = hero(&format!("{}; sleep 300", straggler(&pid)));
    let (job, context) = (Job::unsigned("hero", ""), context());
    {
        let run = executor.execute(&job, &context);
        tokio::select! {
            result = run => panic!("it ended by itself: {result:?}"),
            () = wait_for(&pid) => {}
        }
    }
    assert!(is_gone(&pid).await);
}

async fn wait_for(file: &Path) {
    while std::fs::read_to_string(file).map_or(true, |text| !text.ends_with('\n')) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn a_command_that_is_none_is_refused() {
    let error = HeroExecutor::new(Some(&PathBuf::from("/nonexistent/hero"))).unwrap_err();
    assert!(error.to_string().contains("/nonexistent/hero"));
    let file = tempfile::NamedTempFile::new().unwrap();
    assert!(HeroExecutor::new(Some(file.path())).is_err(), "not executable");
}
