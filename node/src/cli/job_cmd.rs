//! `horus job ...`

use std::{process::ExitCode, time::Duration};

use horus_keys::{Envelope, PayloadType, Timestamp};
use horus_runners::job::{JobBatch, JobId, JobSpec, JobStatus, LocalId, Priority, limits};
use serde_json::json;

use super::{
    args_client::{JobCommand, PriorityArg, SubmitJobArgs},
    away::{self, Away},
    client::{POLL, Session, block_on, json_or_string, pairs, spinner},
    identity::read_text,
    output::{Failure, print_json, print_line, printable, table},
};
use crate::api::supervisor::{
    CancelJob, CreateJob, CreateJobParams, GetJob, GetJobLogs, JobIdParams, JobResult, ListJobs, ListJobsParams,
    LogParams, WaitJobs, WaitJobsParams,
};

pub(super) fn run(command: JobCommand) -> Result<ExitCode, Failure> {
    match command {
        JobCommand::Run(args) => block_on(submit(&args, true)),
        JobCommand::Submit(args) => block_on(submit(&args, false)),
        JobCommand::Status { job_id, target } => {
            let session = Session::supervisor(&target)?;
            let job = block_on(session.call::<GetJob>(&JobIdParams { job_id: parse_id(&job_id)? }))?;
            if session.json {
                print_json(&job)?;
            } else {
                print_line(&format!(
                    "{}  {}  attempt {}  created {}",
                    job.job_id, job.status, job.attempt, job.created_at
                ))?;
                if let Some(error) = &job.error {
                    print_line(&printable(&format!("{}: {}", error.code, error.message)))?;
                }
            }
            Ok(ExitCode::SUCCESS)
        }
        JobCommand::Result { job_id, wait, target } => {
            let session = Session::supervisor(&target)?;
            block_on(result(&session, parse_id(&job_id)?, wait))
        }
        JobCommand::Logs { job_id, follow, target } => {
            let session = Session::supervisor(&target)?;
            block_on(logs(&session, parse_id(&job_id)?, follow))
        }
        JobCommand::List { runner, status, limit, target } => {
            let session = Session::supervisor(&target)?;
            let status = status
                .map(|s| s.parse::<JobStatus>())
                .transpose()
                .map_err(|e| Failure::usage(format!("--status: {e}")))?;
            let params = ListJobsParams { runner, status, limit: Some(limit), ..ListJobsParams::default() };
            let page = block_on(session.call::<ListJobs>(&params))?;
            if session.json {
                print_json(&page)?;
            } else {
                let rows = page.jobs.iter().map(|j| {
                    [j.job_id.to_string(), j.status.to_string(), j.attempt.to_string(), j.created_at.to_string()]
                });
                print_line(&table(["JOB", "STATUS", "ATTEMPT", "CREATED"], rows))?;
            }
            Ok(ExitCode::SUCCESS)
        }
        JobCommand::Cancel { job_id, target } => {
            let session = Session::supervisor(&target)?;
            let state = block_on(session.call::<CancelJob>(&JobIdParams { job_id: parse_id(&job_id)? }))?;
            if session.json {
                print_json(&state)?;
            } else {
                print_line(&format!("{}  {}", state.job_id, state.status))?;
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn parse_id(text: &str) -> Result<JobId, Failure> {
    text.parse().map_err(|e| Failure::usage(format!("`{text}` is no job id (<runner>-<id>): {e}")))
}

async fn submit(args: &SubmitJobArgs, wait: bool) -> Result<ExitCode, Failure> {
    let session = Session::supervisor(&args.target)?;
    let verifier = if wait { Some(session.verifier()?) } else { None };
    let spec = spec(args)?;
    let job_id = spec.job_id();
    let supervisor = session.rpc.peer().await.map_err(|e| session.failure(&e))?;
    let batch = JobBatch { aud: vec![supervisor], jobs: vec![spec], certificates: session.certificates() };
    let envelope = Envelope::sign_json(&session.keys.identity, PayloadType::Jobs, &batch);
    let params = CreateJobParams { envelope: envelope.into(), workflow: None, receipts: Vec::new() };
    let created = away::submit::<CreateJob>(&session.rpc, &params, "job", &job_id).await?;
    match verifier {
        Some(verifier) => follow(&session, &verifier, job_id, Away::new(true)).await,
        None => {
            if session.json {
                print_json(&created)?;
            } else {
                print_line(&format!("{}  {}", created.job_id, created.status))?;
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn spec(args: &SubmitJobArgs) -> Result<JobSpec, Failure> {
    let payload = match (&args.payload, &args.file) {
        (Some(text), _) => text.clone(),
        (None, Some(file)) => read_text(file, limits::PAYLOAD_BYTES as u64)?,
        (None, None) => return Err(Failure::usage("give --payload or --file")),
    };
    let id = match &args.id {
        Some(id) => LocalId::new(id).map_err(|e| Failure::usage(format!("--id: {e}")))?,
        None => LocalId::generate(),
    };
    let now = Timestamp::now();
    let mut spec = JobSpec::new(id, args.runner.clone(), payload, now + args.run_within);
    spec.input = args
        .input
        .as_deref()
        .map(|text| {
            serde_json::value::RawValue::from_string(text.to_owned())
                .map_err(|e| Failure::usage(format!("--input is no JSON: {e}; a string needs quotes: '\"text\"'")))
        })
        .transpose()?;
    spec.env = pairs(&args.env, "--env")?;
    spec.labels = pairs(&args.label, "--label")?;
    spec.timeout_ms = args.timeout.map(millis);
    spec.idempotent = args.idempotent.then_some(true);
    spec.priority = match args.priority {
        PriorityArg::High => Some(Priority::High),
        PriorityArg::Normal => None,
        PriorityArg::Low => Some(Priority::Low),
    };
    spec.not_before = args.delay.map(|d| now + d);
    Ok(spec)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Waits for the end and prints the checked result.
async fn follow(
    session: &Session,
    verifier: &horus_runners::admission::Verifier,
    job_id: JobId,
    away: Away,
) -> Result<ExitCode, Failure> {
    let bar = spinner(session.json, format!("{job_id}"));
    let outcome = wait(session, &job_id, away).await;
    bar.finish_and_clear();
    let result = outcome?;
    check(session, verifier, &result)?;
    show(session, &result)
}

async fn wait(session: &Session, job_id: &JobId, mut away: Away) -> Result<JobResult, Failure> {
    let params =
        WaitJobsParams { job_ids: vec![job_id.clone()], timeout_ms: millis(POLL), any: true, share_receipts: false };
    loop {
        match session.rpc.call_with_timeout::<WaitJobs>(&params, POLL + Duration::from_secs(10)).await {
            Ok(waited) => match waited.done.into_iter().next() {
                Some(result) => return Ok(result),
                None => away.is_back(),
            },
            Err(error) => away.wait(error, "job", job_id).await?,
        }
    }
}

async fn result(session: &Session, job_id: JobId, wait_for_it: bool) -> Result<ExitCode, Failure> {
    let verifier = session.verifier()?;
    if wait_for_it {
        return follow(session, &verifier, job_id, Away::new(false)).await;
    }
    let result = session.call::<crate::api::supervisor::GetJobResult>(&JobIdParams { job_id }).await?;
    if !result.status.is_final() {
        let text = format!("{} is still {}: wait for it with --wait", result.job_id, result.status);
        return Err(Failure::failed(text));
    }
    check(session, &verifier, &result)?;
    show(session, &result)
}

/// A result counts only with a receipt that matches it, by a key trusted for that runner kind. What never ran to an
/// end has no receipt: it has no output either.
fn check(session: &Session, verifier: &horus_runners::admission::Verifier, result: &JobResult) -> Result<(), Failure> {
    let fail = |text: String| Failure::failed(text);
    let receipt = result.receipt.as_ref().and_then(|r| r.envelope.as_ref().map(|e| (e, r.index)));
    let Some((envelope, index)) = receipt else {
        return match result.status {
            JobStatus::Succeeded | JobStatus::Failed | JobStatus::TimedOut => Err(fail(format!(
                "{} is said to have {}, but there is no receipt of a runner for it: the result is not accepted",
                result.job_id, result.status
            ))),
            _ => Ok(()),
        };
    };
    let output = result.output.as_ref().map(|o| o.get().as_bytes());
    let checked = verifier.check_result(envelope, index, &result.job_id, None, output, Timestamp::now());
    match checked {
        Ok(receipt) if receipt.outcome == result.status => Ok(()),
        Ok(receipt) => Err(fail(format!(
            "the receipt of {} says {}, the supervisor says {}: the result is not accepted",
            result.job_id, receipt.outcome, result.status
        ))),
        Err(refusal) => {
            let why = session.explain(&refusal, envelope, result.job_id.runner());
            Err(fail(format!("the result of {} is not accepted: {why}", result.job_id)))
        }
    }
}

fn show(session: &Session, result: &JobResult) -> Result<ExitCode, Failure> {
    if session.json {
        let output = result.output.clone().map_or_else(|| json_or_string("null"), Ok)?;
        let mut text = serde_json::Map::new();
        text.insert("job_id".into(), json!(result.job_id));
        text.insert("status".into(), json!(result.status));
        if let Some(error) = &result.error {
            text.insert("error".into(), json!(error));
        }
        if let Some(receipt) = &result.receipt {
            text.insert("receipt".into(), json!(receipt));
        }
        // The output goes out as the very text that the receipt covers.
        let rest = serde_json::to_string(&text).map_err(|e| Failure::failed(e.to_string()))?;
        print_line(&format!("{},\"output\":{}}}", &rest[..rest.len() - 1], output.get()))?;
    } else if let Some(output) = &result.output {
        let value: Result<serde_json::Value, _> = serde_json::from_str(output.get());
        let pretty = value.and_then(|v| serde_json::to_string_pretty(&v)).unwrap_or_else(|_| output.get().to_owned());
        print_line(&pretty)?;
    }
    if result.status == JobStatus::Succeeded {
        return Ok(ExitCode::SUCCESS);
    }
    let why = result.error.as_ref().map(|e| format!(": {}: {}", e.code, e.message)).unwrap_or_default();
    eprintln!("{}", printable(&format!("horus: {} {}{why}", result.job_id, result.status)));
    Ok(ExitCode::FAILURE)
}

async fn logs(session: &Session, job_id: JobId, follow: bool) -> Result<ExitCode, Failure> {
    let mut cursor = None;
    let mut all = Vec::new();
    let wait = WaitJobsParams { job_ids: vec![job_id.clone()], timeout_ms: 1000, any: true, share_receipts: false };
    let mut ended = !follow;
    loop {
        let params = LogParams { job_id: job_id.clone(), cursor: cursor.clone(), limit: Some(1000) };
        let page = session.call::<GetJobLogs>(&params).await?;
        cursor = Some(page.cursor);
        let empty = page.lines.is_empty();
        if session.json {
            all.extend(page.lines);
        } else {
            for line in page.lines {
                let stream = serde_json::to_value(line.stream).unwrap_or_default();
                print_line(&printable(&format!("{} {:6} {}", line.time, stream.as_str().unwrap_or(""), line.text)))?;
            }
        }
        if empty && ended {
            break;
        }
        if empty {
            // The job's end is pushed; its log meanwhile is looked at once a second.
            let waited = session.rpc.call_with_timeout::<WaitJobs>(&wait, Duration::from_secs(15)).await;
            ended = !waited.map_err(|e| session.failure(&e))?.done.is_empty();
        }
    }
    if session.json {
        print_json(&json!({ "lines": all, "cursor": cursor }))?;
    }
    Ok(ExitCode::SUCCESS)
}
