//! `get_workflow_logs`: the logs of the steps, read from the supervisors that have them.
//!
//! The order of the logs is that in which the steps were sent. A page looks at a window of them: those that have not ended, or
//! not been read to their end, and then the next. So the cursor stays small, however many steps there are.

use std::sync::Arc;

use horus_keys::PeerId;
use horus_runners::job::{StepId, step_job_id};
use horus_transport::{Caller, ErrorKind, RpcError};
use serde::{Deserialize, Serialize};

use super::live::Live;
use super::{Coordinator, Shared, Sight};
use crate::api::coordinator::{
    MAX_WORKFLOW_LOG_LINES, MissingLog, WorkflowLogLine, WorkflowLogPage, WorkflowLogParams,
};
use crate::api::supervisor::{GetJobLogs, LogPage, LogParams};
use crate::workflow::{State, StepAttempt, StepIndex};

/// Lines in a page unless asked otherwise.
const LINES: u32 = 200;
/// Logs that are read at a time.
const WINDOW: usize = 16;
/// Windows that one call reads, while they bring little.
const ROUNDS: usize = 8;

/// Where a reader is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Cursor {
    /// The first sent step whose log was not opened yet, by its place in the order of sending.
    #[serde(rename = "n")]
    next: u32,
    /// Logs that were opened and not read to their end: place, and the supervisor's cursor.
    #[serde(rename = "o", default)]
    open: Vec<(u32, Option<String>)>,
}

impl Cursor {
    fn read(text: &str) -> Result<Self, RpcError> {
        let read = serde_json::from_str::<Self>(text).ok().filter(|cursor| cursor.open.len() <= WINDOW);
        read.ok_or_else(|| {
            RpcError::invalid_params("cursor is none that get_workflow_logs gave: leave it out to begin anew")
        })
    }
}

/// A log to read.
struct Source {
    place: u32,
    cursor: Option<String>,
    step: StepAttempt,
    supervisor: PeerId,
    /// Nothing will be added to it any more.
    ended: bool,
    /// The same attempt was sent again, elsewhere.
    sent_again: bool,
}

impl Coordinator {
    pub(super) async fn get_workflow_logs(
        self: Arc<Self>,
        caller: Caller,
        params: WorkflowLogParams,
    ) -> Result<WorkflowLogPage, RpcError> {
        let sight = Sight::of(&caller, &self.shared.trust)?;
        let live = self.find(sight, &params.workflow_id).await?;
        let only = params.step.as_ref().map(|step| find_step(&live, step)).transpose()?;
        let limit = match params.limit.unwrap_or(LINES) {
            0 => return Err(RpcError::invalid_params("limit is 0: give at least 1")),
            n => n.min(MAX_WORKFLOW_LOG_LINES),
        };
        let mut cursor = params.cursor.as_deref().map(Cursor::read).transpose()?.unwrap_or_default();
        let (mut lines, mut missing) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let room = limit - u32::try_from(lines.len()).unwrap_or(limit);
            let sources = {
                let state = self.state(&live).await?;
                open(&state, &mut cursor, only, WINDOW.min(room as usize))
            };
            if sources.is_empty() {
                break;
            }
            let each = (room / u32::try_from(sources.len()).unwrap_or(1)).max(1);
            let pages = sources.iter().map(|source| read(&self.shared, &live, source, each));
            let pages = futures::future::join_all(pages).await;
            let mut closed = false;
            for (source, page) in sources.into_iter().zip(pages) {
                let id = &live.plan.step(source.step.0).id;
                let left = settle(source, page, each, id, &mut lines, &mut missing);
                closed |= left.is_none();
                cursor.open.extend(left);
            }
            if !closed || lines.len() >= limit as usize || !missing.is_empty() {
                break;
            }
        }
        lines.sort_by_key(|line| line.time);
        let cursor = serde_json::to_string(&cursor).map_err(RpcError::internal)?;
        Ok(WorkflowLogPage { lines, cursor, missing })
    }
}

fn find_step(live: &Live, step: &StepId) -> Result<StepIndex, RpcError> {
    live.plan
        .find(step)
        .ok_or_else(|| RpcError::invalid_params(format!("workflow {} has no step `{step}`: check its id", live.id)))
}

/// Takes what the cursor has open out of it, and what comes next.
fn open(state: &State, cursor: &mut Cursor, only: Option<StepIndex>, window: usize) -> Vec<Source> {
    let source = |place: u32, cursor: Option<String>| {
        let dispatch = state.dispatches.get(place as usize)?;
        let step = dispatch.step;
        if only.is_some_and(|only| only != step.0) {
            return None;
        }
        let at = state.step(step.0);
        Some(Source {
            place,
            cursor,
            step,
            supervisor: *state.supervisors.get(dispatch.supervisor as usize)?,
            ended: !at.status.has_job() || at.dispatch != Some(place) || state.status.is_final(),
            sent_again: at.attempt == step.1 && at.dispatch != Some(place),
        })
    };
    let mut kept = std::mem::take(&mut cursor.open);
    // What does not fit into this page keeps its place.
    cursor.open = kept.split_off(window.min(kept.len()));
    let mut sources: Vec<Source> = kept.into_iter().filter_map(|(place, at)| source(place, at)).collect();
    while sources.len() + cursor.open.len() < window && (cursor.next as usize) < state.dispatches.len() {
        sources.extend(source(cursor.next, None));
        cursor.next += 1;
    }
    sources
}

async fn read(shared: &Shared, live: &Live, source: &Source, limit: u32) -> Result<LogPage, RpcError> {
    let supervisor = shared.pool.find(&source.supervisor).ok_or_else(|| {
        RpcError::new(
            ErrorKind::PeerUnreachable,
            format!("its supervisor {} is not known to this coordinator now", source.supervisor),
        )
    })?;
    let planned = live.plan.step(source.step.0);
    let job_id = step_job_id(live.plan.workflow(), &planned.id, None, source.step.1, &planned.runner);
    let params = LogParams { job_id, cursor: source.cursor.clone(), limit: Some(limit) };
    supervisor.client.call::<GetJobLogs>(&params).await
}

/// Takes what was read. Returns the log's place in the cursor, unless it was read to its end.
fn settle(
    source: Source,
    page: Result<LogPage, RpcError>,
    asked: u32,
    id: &StepId,
    lines: &mut Vec<WorkflowLogLine>,
    missing: &mut Vec<MissingLog>,
) -> Option<(u32, Option<String>)> {
    let attempt = source.step.1;
    let page = match page {
        Ok(page) => page,
        Err(error) if error.kind == ErrorKind::JobNotFound => {
            if !source.ended {
                // It is still on its way there.
                return Some((source.place, source.cursor));
            }
            if !source.sent_again {
                let reason = "its supervisor has no log of it, or not any more".to_owned();
                missing.push(MissingLog { step: id.clone(), attempt, reason });
            }
            return None;
        }
        Err(error) => {
            let reason = format!("{error}; ask again with the same cursor");
            missing.push(MissingLog { step: id.clone(), attempt, reason });
            return Some((source.place, source.cursor));
        }
    };
    let count = page.lines.len();
    lines.extend(page.lines.into_iter().map(|line| WorkflowLogLine {
        time: line.time,
        step: id.clone(),
        attempt,
        stream: line.stream,
        text: line.text,
    }));
    let is_over = source.ended && count < asked as usize;
    (!is_over).then_some((source.place, Some(page.cursor)))
}
