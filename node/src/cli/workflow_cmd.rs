//! `horus workflow ...`

mod graph;
mod progress;

use std::{path::Path, process::ExitCode, time::Duration};

use horus_keys::{Envelope, PayloadType, Timestamp};
use horus_runners::{
    definition::{self, Problem},
    job::{StepId, WorkflowId, WorkflowSubmission, limits},
};
use serde_json::json;

use super::{
    args_client::{CoordinatorTarget, SubmitWorkflowArgs, WorkflowCommand},
    away::{self, Away},
    client::{POLL, Session, block_on, json_or_string, pairs},
    identity::{read_bounded, read_text},
    output::{Failure, print_json, print_line, printable, table},
};
use crate::{
    api::coordinator::{
        CancelWorkflow, GetWorkflowLogs, GetWorkflowStatus, ListWorkflows, ListWorkflowsParams, StepDetail, StepView,
        SubmitWorkflow, SubmitWorkflowParams, WaitWorkflow, WaitWorkflowParams, WorkflowIdParams, WorkflowLogParams,
        WorkflowStatusParams, WorkflowView,
    },
    workflow::{StepStatus, WorkflowStatus, all_problems},
};

pub(super) fn run(command: WorkflowCommand) -> Result<ExitCode, Failure> {
    match command {
        WorkflowCommand::Run(args) => block_on(submit(&args, true)),
        WorkflowCommand::Submit(args) => block_on(submit(&args, false)),
        WorkflowCommand::Status { workflow_id, target } => {
            let session = open(&target)?;
            let params = WorkflowStatusParams { workflow_id: parse_id(&workflow_id)?, steps: Some(StepDetail::All) };
            let view = block_on(session.call::<GetWorkflowStatus>(&params))?;
            if session.json {
                print_json(&view)?;
            } else {
                show_steps(&view)?;
            }
            Ok(ExitCode::SUCCESS)
        }
        WorkflowCommand::Watch { workflow_id, target } => {
            let session = open(&target)?;
            block_on(async { end(&session, &follow(&session, parse_id(&workflow_id)?, Away::new(false)).await?) })
        }
        WorkflowCommand::List { name, status, limit, target } => list(&target, name, status.as_deref(), limit),
        WorkflowCommand::Cancel { workflow_id, target } => {
            let session = open(&target)?;
            let params = WorkflowIdParams { workflow_id: parse_id(&workflow_id)? };
            let state = block_on(session.call::<CancelWorkflow>(&params))?;
            if session.json {
                print_json(&state)?;
            } else {
                print_line(&format!("{}  {}", state.workflow_id, state.status.as_str()))?;
            }
            Ok(ExitCode::SUCCESS)
        }
        WorkflowCommand::Logs { workflow_id, step, target } => {
            let session = open(&target)?;
            let step = step.map(|s| StepId::new(&s)).transpose().map_err(|e| Failure::usage(format!("--step: {e}")))?;
            block_on(logs(&session, parse_id(&workflow_id)?, step))
        }
        WorkflowCommand::Graph { file, format, json } => {
            graph::print(&read_definition(&file)?, if json { None } else { Some(format) })
        }
        WorkflowCommand::Validate { file, json } => validate_file(&file, json),
    }
}

fn open(target: &CoordinatorTarget) -> Result<Session, Failure> {
    Session::coordinator(target)
}

fn parse_id(text: &str) -> Result<WorkflowId, Failure> {
    WorkflowId::new(text).map_err(|e| Failure::usage(format!("`{text}` is no workflow id: {e}")))
}

fn read_definition(file: &Path) -> Result<String, Failure> {
    Ok(read_text(file, limits::WORKFLOW_BYTES as u64)?)
}

async fn submit(args: &SubmitWorkflowArgs, wait: bool) -> Result<ExitCode, Failure> {
    let session = open(&args.target)?;
    let definition = read_definition(&args.file)?;
    let id = match &args.id {
        Some(id) => WorkflowId::new(id).map_err(|e| Failure::usage(format!("--id: {e}")))?,
        None => WorkflowId::generate(),
    };
    let mut inputs = std::collections::BTreeMap::new();
    for (key, value) in pairs(&args.input, "--input")? {
        inputs.insert(key, json_or_string(&value)?);
    }
    let mut coordinators = vec![session.rpc.peer().await.map_err(|e| session.failure(&e))?];
    coordinators.extend(args.delegate.iter().filter(|p| **p != coordinators[0]).copied().collect::<Vec<_>>());
    let now = Timestamp::now();
    let submission = WorkflowSubmission {
        id: id.clone(),
        definition,
        inputs: (!inputs.is_empty()).then_some(inputs),
        coordinators,
        submit_by: now + args.submit_within,
        run_until: now + args.run_within,
        certificates: session.certificates(),
    };
    let envelope = Envelope::sign_json(&session.keys.identity, PayloadType::Workflow, &submission);
    let params = SubmitWorkflowParams { envelope: envelope.into() };
    let submitted = away::submit::<SubmitWorkflow>(&session.rpc, &params, "workflow", &id).await;
    let submitted = submitted.map_err(|failure| failure.in_file(&args.file))?;
    if wait {
        return end(&session, &follow(&session, id, Away::new(true)).await?);
    }
    if session.json {
        print_json(
            &json!({ "workflow_id": submitted.workflow_id, "status": submitted.status, "outputs": {}, "steps": {} }),
        )?;
    } else {
        print_line(&format!("{}  {}", submitted.workflow_id, submitted.status.as_str()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A step that waits for a supervisor for so long makes people ask why.
const SAY_WHY: Duration = Duration::from_secs(3);

/// Follows a workflow to its end; a coordinator that is away for a while does not end the watch.
async fn follow(session: &Session, workflow_id: WorkflowId, mut away: Away) -> Result<WorkflowView, Failure> {
    let mut progress = progress::Progress::new(session.json, workflow_id.to_string());
    let mut after_revision = Some(0);
    loop {
        let poll = if progress.has_unsaid() { SAY_WHY } else { POLL };
        let params = WaitWorkflowParams {
            workflow_id: workflow_id.clone(),
            after_revision,
            timeout_ms: u64::try_from(poll.as_millis()).unwrap_or(u64::MAX),
            steps: Some(StepDetail::Active),
        };
        let waited = session.rpc.call_with_timeout::<WaitWorkflow>(&params, poll + Duration::from_secs(10)).await;
        let view = match waited {
            Ok(view) => view,
            Err(error) => {
                progress.show_away(&error);
                away.wait(error, "workflow", &workflow_id).await?;
                continue;
            }
        };
        away.is_back();
        progress.show(&view, after_revision == Some(view.revision));
        if view.status.is_final() {
            progress.finish();
            let params = WorkflowStatusParams { workflow_id, steps: Some(StepDetail::All) };
            return session.call::<GetWorkflowStatus>(&params).await;
        }
        after_revision = Some(view.revision);
    }
}

/// Outputs count only with the receipts of runners that the caller trusts: a coordinator's word is not enough.
fn check_outputs(session: &Session, view: &WorkflowView) -> Result<(), Failure> {
    let Some(outputs) = view.outputs.as_ref().filter(|o| !o.is_empty()) else { return Ok(()) };
    let verifier = session.verifier()?;
    for (name, output) in outputs {
        let refuse = |why: String| {
            Failure::failed(format!("the output `{name}` of {} is not accepted: {why}", view.workflow_id))
        };
        let proof = view.output_receipts.get(name);
        let proof = proof.and_then(|p| Some((p, view.receipts.iter().find(|e| e.digest() == p.digest)?)));
        let Some((proof, envelope)) = proof else {
            return Err(refuse("the coordinator has no receipt of a runner for it".to_owned()));
        };
        let text = Some(output.get().as_bytes());
        verifier
            .check_result(envelope, proof.index, &proof.job_id, None, text, Timestamp::now())
            .map_err(|refusal| refuse(session.explain(&refusal, envelope, proof.job_id.runner())))?;
    }
    Ok(())
}

fn end(session: &Session, view: &WorkflowView) -> Result<ExitCode, Failure> {
    check_outputs(session, view)?;
    if session.json {
        print_json(view)?;
    } else {
        show_steps(view)?;
        if let Some(outputs) = view.outputs.as_ref().filter(|o| !o.is_empty()) {
            print_line("\noutputs")?;
            for (name, output) in outputs {
                let value: Result<serde_json::Value, _> = serde_json::from_str(output.get());
                let pretty =
                    value.and_then(|v| serde_json::to_string_pretty(&v)).unwrap_or_else(|_| output.get().to_owned());
                print_line(&printable(&format!("{name}: {pretty}")))?;
            }
        }
    }
    if view.status == WorkflowStatus::Succeeded {
        return Ok(ExitCode::SUCCESS);
    }
    let why = view.error.as_ref().map(|e| format!(": {}: {}", e.code, e.message)).unwrap_or_default();
    eprintln!("{}", printable(&format!("horus: workflow {} {}{why}", view.workflow_id, view.status.as_str())));
    Ok(ExitCode::FAILURE)
}

fn show_steps(view: &WorkflowView) -> Result<(), Failure> {
    print_line(&printable(&format!("{}  {}  {}", view.workflow_id, view.name, view.status.as_str())))?;
    let rows = in_order(view).into_iter().map(|(id, step)| {
        let took = match (step.started_at, step.finished_at) {
            (Some(from), Some(to)) => format!("{:.3} s", to.since(from).as_secs_f64()),
            _ => String::new(),
        };
        let note = step.error.as_ref().map(|e| first_line(&e.message)).or_else(|| step.waiting_for.clone());
        [
            id.to_string(),
            step.status.as_str().to_owned(),
            step.attempt.to_string(),
            took,
            step.job_id.as_ref().map(ToString::to_string).unwrap_or_default(),
            note.unwrap_or_default(),
        ]
    });
    print_line(&table(["STEP", "STATUS", "ATTEMPT", "TOOK", "JOB", ""], rows))?;
    if view.steps_omitted > 0 {
        print_line(&format!("... and {} more steps", view.steps_omitted))?;
    }
    Ok(())
}

/// The steps as they ran; what has not started yet comes last, by name.
fn in_order(view: &WorkflowView) -> Vec<(&StepId, &StepView)> {
    let mut steps: Vec<_> = view.steps.iter().collect();
    steps.sort_by_key(|(_, step)| (step.started_at.is_none(), step.started_at, step.finished_at));
    steps
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

fn list(
    target: &CoordinatorTarget,
    name: Option<String>,
    status: Option<&str>,
    limit: u32,
) -> Result<ExitCode, Failure> {
    let session = open(target)?;
    let status = status
        .map(|s| serde_json::from_value::<WorkflowStatus>(json!(s)))
        .transpose()
        .map_err(|e| Failure::usage(format!("--status: {e}")))?;
    let params = ListWorkflowsParams { name, status, cursor: None, limit: Some(limit) };
    let page = block_on(session.call::<ListWorkflows>(&params))?;
    if session.json {
        print_json(&page)?;
    } else {
        let rows = page.workflows.iter().map(|w| {
            [
                w.workflow_id.to_string(),
                w.name.clone(),
                w.status.as_str().to_owned(),
                w.steps.to_string(),
                w.created_at.to_string(),
            ]
        });
        print_line(&table(["WORKFLOW", "NAME", "STATUS", "STEPS", "CREATED"], rows))?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn logs(session: &Session, workflow_id: WorkflowId, step: Option<StepId>) -> Result<ExitCode, Failure> {
    let mut cursor = None;
    let mut all = Vec::new();
    loop {
        let params = WorkflowLogParams {
            workflow_id: workflow_id.clone(),
            step: step.clone(),
            cursor: cursor.clone(),
            limit: Some(1000),
        };
        let page = session.call::<GetWorkflowLogs>(&params).await?;
        let last = page.lines.is_empty() || cursor.as_deref() == Some(page.cursor.as_str());
        cursor = Some(page.cursor);
        for line in &page.lines {
            if !session.json {
                let stream = serde_json::to_value(line.stream).unwrap_or_default();
                let stream = stream.as_str().unwrap_or("").to_owned();
                print_line(&printable(&format!("{} {} {stream:6} {}", line.time, line.step, line.text)))?;
            }
        }
        for gap in &page.missing {
            eprintln!("{}", printable(&format!("horus: the log of {} is not to be had: {}", gap.step, gap.reason)));
        }
        if session.json {
            all.extend(page.lines);
        }
        if last {
            break;
        }
    }
    if session.json {
        print_json(&json!({ "lines": all, "cursor": cursor }))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Everything that is wrong with a definition, but for runner kinds: those only a coordinator knows.
fn check(bytes: &[u8]) -> Vec<Problem> {
    match std::str::from_utf8(bytes) {
        Ok(text) => all_problems(text, None, []),
        Err(_) => definition::parse_bytes(bytes).err().unwrap_or_default(),
    }
}

/// Checks a file without a server: bytes that are no UTF-8 are a problem of the file like any other.
fn validate_file(file: &Path, json: bool) -> Result<ExitCode, Failure> {
    let bytes = read_bounded(file, limits::WORKFLOW_BYTES as u64)?;
    let problems = check(&bytes);
    if json {
        print_json(&json!({ "valid": problems.is_empty(), "errors": problems }))?;
    } else {
        for p in &problems {
            eprintln!("{}", printable(&format!("{}:{}:{}: {}", file.display(), p.line, p.column, p.message)));
        }
        if problems.is_empty() {
            print_line(&format!("{} is valid", file.display()))?;
            eprintln!("horus: whether there are runners of the kinds it names is checked when it is submitted");
        }
    }
    Ok(if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The statuses in the order in which a step goes through them.
const ORDER: [StepStatus; 10] = [
    StepStatus::Succeeded,
    StepStatus::Running,
    StepStatus::Dispatched,
    StepStatus::Retrying,
    StepStatus::Ready,
    StepStatus::Pending,
    StepStatus::Unknown,
    StepStatus::Failed,
    StepStatus::Skipped,
    StepStatus::Cancelled,
];
