//! `horus runners`, `supervisors`, `call`, `discover`, `hero` and `doctor`.

use std::process::ExitCode;

use horus_runners::hero;
use horus_transport::NoParams;
use serde_json::{json, value::RawValue};

use super::{
    args::{DoctorArgs, HeroCommand},
    args_client::{CallArgs, CoordinatorTarget, DiscoverArgs, RunnersCommand},
    client::{Session, block_on, connect},
    identity::{load, read_text, resolve_dir},
    output::{Failure, print_json, print_line, printable, table},
};
use crate::api::{
    coordinator::ListSupervisors,
    supervisor::{ListRunners, ListRunnersParams, PingRunner, RemoveRunner, RunnerParams},
};
use crate::workflow::Selector;

/// Longest heroscript that is parsed.
const MAX_SCRIPT: u64 = 4 * 1024 * 1024;

pub(super) fn runners(command: RunnersCommand) -> Result<ExitCode, Failure> {
    match command {
        RunnersCommand::List(target) => {
            let session = Session::supervisor(&target)?;
            let list = block_on(session.call::<ListRunners>(&ListRunnersParams::default()))?;
            if session.json {
                print_json(&list)?;
            } else {
                let mut seen = std::collections::BTreeSet::new();
                let repeats = list.runners.iter().any(|r| !seen.insert(&r.name));
                let rows = list.runners.iter().map(|r| {
                    let state = serde_json::to_value(r.state).unwrap_or_default();
                    [
                        r.name.clone(),
                        r.runner.to_string(),
                        state.as_str().unwrap_or_default().to_owned(),
                        format!("{}/{}", r.running, r.concurrency),
                        r.queued.to_string(),
                        r.last_seen.map(|t| t.to_string()).unwrap_or_default(),
                        // Of several processes with one name, `ping` and `remove` take the id.
                        r.worker.clone().filter(|_| repeats).unwrap_or_default(),
                    ]
                });
                let worker = if repeats { "WORKER" } else { "" };
                print_line(&table(["NAME", "KIND", "STATE", "RUNNING", "QUEUED", "LAST SEEN", worker], rows))?;
            }
            Ok(ExitCode::SUCCESS)
        }
        RunnersCommand::Ping { name, target } => {
            let session = Session::supervisor(&target)?;
            let pong = block_on(session.call::<PingRunner>(&RunnerParams { name: Some(name), runner: None }))?;
            let value = json!(pong);
            if session.json {
                print_json(&value)?;
            } else {
                print_line(&printable(&value.to_string()))?;
            }
            let alive = value["state"].as_str().is_none_or(|s| s == "alive");
            Ok(if alive { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        RunnersCommand::Remove { name, target } => {
            let session = Session::supervisor(&target)?;
            let removed = block_on(session.call::<RemoveRunner>(&RunnerParams { name: Some(name), runner: None }))?;
            let value = json!(removed);
            if session.json {
                print_json(&value)?;
            } else {
                print_line(&printable(&value.to_string()))?;
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

pub(super) fn supervisors(target: &CoordinatorTarget) -> Result<ExitCode, Failure> {
    let session = Session::coordinator(target)?;
    let list = block_on(session.call::<ListSupervisors>(&NoParams {}))?;
    if session.json {
        print_json(&list)?;
    } else {
        let labels = if list.supervisors.iter().any(|s| !s.labels.is_empty()) { "LABELS" } else { "" };
        let rows = list.supervisors.iter().map(|s| {
            let state = serde_json::to_value(s.state).unwrap_or_default();
            let kinds: Vec<_> = s.runners.iter().map(ToString::to_string).collect();
            [
                s.address.clone(),
                state.as_str().unwrap_or_default().to_owned(),
                s.path.map_or_else(|| "none works".to_owned(), |path| path.to_string()),
                s.latency_ms.map(|l| format!("{l} ms")).unwrap_or_default(),
                kinds.join(","),
                s.outstanding.to_string(),
                Selector::Labels(s.labels.clone()).to_string(),
                match (&s.error, &s.last_error, s.last_error_at) {
                    (Some(now), ..) => now.clone(),
                    (None, Some(before), Some(at)) => format!("{at}: {before}"),
                    _ => String::new(),
                },
            ]
        });
        print_line(&table(
            ["ADDRESS", "STATE", "PATH", "LATENCY", "RUNNERS", "OUTSTANDING", labels, "LAST ERROR"],
            rows,
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Signs if there is an identity: an open method can be called without one.
pub(super) fn call(args: &CallArgs) -> Result<ExitCode, Failure> {
    let params = match &args.params {
        Some(text) => {
            RawValue::from_string(text.clone()).map_err(|e| Failure::usage(format!("PARAMS is no JSON: {e}")))?
        }
        None => RawValue::from_string("{}".to_owned()).map_err(|e| Failure::failed(e.to_string()))?,
    };
    let dir = resolve_dir(args.client.identity.as_deref())?;
    let keys = if horus_keys::KeyDir::exists(&dir) { Some(load(&dir)?) } else { None };
    let certificate = keys
        .as_ref()
        .map(|keys| super::identity::certificate(args.client.cert.as_deref(), keys))
        .transpose()?
        .flatten();
    let (rpc, _way) = connect(&args.address, keys.as_ref(), certificate.as_ref(), &args.client, args.timeout)?;
    let outcome = block_on(async { rpc.call_raw(&args.method, &params).await.map_err(|e| Failure::rpc(&e)) })?;
    if args.client.json {
        print_line(outcome.get())?;
    } else {
        let value: Result<serde_json::Value, _> = serde_json::from_str(outcome.get());
        let pretty = value.and_then(|v| serde_json::to_string_pretty(&v)).unwrap_or_else(|_| outcome.get().to_owned());
        print_line(&pretty)?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn discover(args: &DiscoverArgs) -> Result<ExitCode, Failure> {
    call(&CallArgs {
        address: args.address.clone(),
        method: "rpc.discover".to_owned(),
        params: None,
        timeout: super::client::CALL_TIMEOUT,
        client: args.client.clone(),
    })
}

pub(super) fn hero(command: &HeroCommand) -> Result<ExitCode, Failure> {
    let HeroCommand::Parse { file, json } = command;
    let text = read_text(file, MAX_SCRIPT)?;
    let actions = hero::parse(&text).map_err(|e| Failure::failed(format!("{}: {e}", file.display())))?;
    if *json {
        print_json(&actions)?;
        return Ok(ExitCode::SUCCESS);
    }
    for action in &actions {
        print_line(&printable(&format!("{}{}.{}", "!".repeat(usize::from(action.level)), action.actor, action.name)))?;
        for param in &action.params {
            print_line(&printable(&format!("    {}: {}", param.key, param.value)))?;
        }
        for arg in &action.args {
            print_line(&printable(&format!("    {arg}")))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What is wrong is an exit status of 1, so that a script can act on it.
pub(super) fn doctor(args: &DoctorArgs) -> Result<ExitCode, Failure> {
    let findings = block_on(async { crate::doctor::examine(&args.redis_url).await.map_err(Failure::from) })?;
    if args.json {
        print_json(&json!({ "healthy": findings.is_empty(), "findings": findings }))?;
    } else if findings.is_empty() {
        print_line("nothing wrong found")?;
    } else {
        for finding in &findings {
            print_line(&printable(finding))?;
        }
    }
    Ok(if findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
