use super::super::HeroExecutor;
use super::*;
use crate::executor::{Executor, LogStream};
use serde_json::value::RawValue;
use std::time::Duration;

fn job(script: &str) -> Job {
    let mut job = Job::unsigned("hero", script);
    job.env.insert("GREETING".into(), "hello".into());
    job.input = Some(RawValue::from_string("{\"fetch\":[1]}".into()).unwrap());
    job
}

async fn run(script: &str) -> (Result<String, ExecutionError>, Vec<String>) {
    let context = Context::detached(Duration::from_secs(5));
    let executor = HeroExecutor::built_in().unwrap();
    let result = executor.execute(&job(script), &context).await.map(|output| output.get().to_owned());
    let lines = context.log.lines().into_iter().filter(|l| l.stream == LogStream::Stdout).map(|l| l.text);
    (result, lines.collect())
}

#[tokio::test]
async fn the_last_action_gives_the_output() {
    let (output, log) = run("!!play.echo content:'one'\n!!play.echo content:'two words'").await;
    assert_eq!(output.unwrap(), "\"two words\"");
    assert_eq!(log, ["one", "two words"]);
}

#[tokio::test]
async fn placeholders_come_from_session_environment_and_input() {
    let script = "\
!!session.env_set key:'Name' val:'{GREETING} world'
!!session.env_set_once key:name val:'again'
!!session.env_set_once key:other value:'first'
!!play.echo content:'{NAME}, {other} {unknown} {} { {INPUT}'
";
    let (output, _) = run(script).await;
    let output: String = serde_json::from_str(&output.unwrap()).unwrap();
    assert_eq!(output, "hello world, first {unknown} {} { {\"fetch\":[1]}");
}

#[tokio::test]
async fn an_unknown_action_stops_the_script_before_it_starts() {
    let (output, log) = run("!!play.echo content:'one'\n\n!!git.clone url:'x'").await;
    let error = output.unwrap_err();
    assert_eq!(error.code, "UNKNOWN_ACTION");
    for part in ["line 3", "git.clone", "hero CLI", "http.get", "play.echo"] {
        assert!(error.message.contains(part), "{part} in {error}");
    }
    assert!(log.is_empty(), "nothing was executed");
}

#[tokio::test]
async fn scripts_that_say_nothing_or_nonsense_fail() {
    let error = run("just text").await.0.unwrap_err();
    assert_eq!(error.code, "SCRIPT_ERROR");
    assert!(error.message.contains("!!actor.name"));
    let error = run("!!play.echo content:'open").await.0.unwrap_err();
    assert!(error.message.starts_with("line 1, column 21"), "{error}");
    let error = run("!!session.env_set key:x").await.0.unwrap_err();
    assert_eq!(error.code, "INVALID_PARAMETER");
}

#[tokio::test]
async fn placeholders_cannot_grow_without_bound() {
    let double = "!!session.env_set key:a val:'{a}{a}'\n".repeat(30);
    let error = run(&format!("!!session.env_set key:a val:'0123456789'\n{double}")).await.0.unwrap_err();
    assert_eq!(error.code, "INVALID_PARAMETER");
    let mut job = job(&format!("!!play.echo content:'{}'", "{INPUT}".repeat(60_000)));
    job.input = Some(RawValue::from_string(format!("\"{}\"", "x".repeat(500_000))).unwrap());
    let context = Context::detached(Duration::from_secs(5));
    let error = HeroExecutor::built_in().unwrap().execute(&job, &context).await.unwrap_err();
    assert!(error.message.contains("placeholders"), "{error}");
}

#[tokio::test]
async fn the_values_of_one_action_grow_within_one_bound() {
    let run = async |script: &str| {
        let mut job = job(script);
        job.input = Some(RawValue::from_string(format!("\"{}\"", "x".repeat(100_000))).unwrap());
        let context = Context::detached(Duration::from_secs(20));
        HeroExecutor::built_in().unwrap().execute(&job, &context).await
    };
    for script in [
        format!("!!play.echo {}", "'{INPUT}' ".repeat(20)),
        format!("!!play.echo {}", (0..20).map(|n| format!("k{n}:'{{INPUT}}' ")).collect::<String>()),
    ] {
        let error = run(&script).await.unwrap_err();
        assert_eq!(error.code, "INVALID_PARAMETER", "{error}");
        assert!(error.message.contains("line 1, play.echo") && error.message.contains("placeholders"), "{error}");
    }
    // Each action has the bound for itself.
    run(&"!!play.echo '{INPUT}' '{INPUT}' '{INPUT}'\n".repeat(10)).await.unwrap();
}

#[tokio::test]
async fn a_long_script_lets_others_run() {
    let others = tokio::spawn(async {
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
    });
    run(&"!!play.echo content:'{INPUT}'\n".repeat(100)).await.0.unwrap();
    assert!(others.is_finished(), "nothing else ran on the thread meanwhile");
}

#[tokio::test]
async fn what_an_action_ignores_is_said_in_the_log() {
    let context = Context::detached(Duration::from_secs(5));
    let executor = HeroExecutor::built_in().unwrap();
    executor.execute(&job("!!play.echo content:x colour:red"), &context).await.unwrap();
    assert!(context.log.lines().iter().any(|l| l.stream == LogStream::System && l.text.contains("colour")));
}
