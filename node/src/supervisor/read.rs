//! Reading and steering jobs: views, results, logs, lists, cancel and delete.

use std::sync::Arc;

use futures::future::try_join_all;
use horus_keys::{Role, Timestamp};
use horus_runners::job::JobId;
use horus_runners::queue::{JobFilter, JobView, cursor_is_valid, log_cursor_is_valid};
use horus_transport::{Caller, ErrorKind, RpcError};

use super::owners::Owner;
use super::visibility::Sight;
use super::{Supervisor, errors, wire};
use crate::api::supervisor::{
    Deleted, Job, JobIdParams, JobPage, JobResult, JobState, ListJobsParams, LogPage, LogParams, MAX_LIST,
    MAX_LOG_LINES,
};

/// Log lines in a page unless asked otherwise.
const LOG_LINES: usize = 200;
/// Jobs in a page unless asked otherwise.
const LIST: usize = 100;
/// How many pages in a row may hold nothing that a coordinator sees before it gets an empty one.
const LIST_LOOKS: usize = 10;
/// How many jobs are asked for at a time when their owners are not known.
const OWNERS_AT_A_TIME: usize = 256;

impl Supervisor {
    pub(super) async fn get_job(self: Arc<Self>, caller: Caller, params: JobIdParams) -> Result<Job, RpcError> {
        self.gate.check()?;
        let sight = self.sight(&caller)?;
        let view = self.view(&params.job_id).await?;
        if !sight.sees(&Owner::from(&view)) {
            return Err(errors::no_job(&params.job_id));
        }
        Ok(view)
    }

    pub(super) async fn get_job_status(
        self: Arc<Self>,
        caller: Caller,
        params: JobIdParams,
    ) -> Result<JobState, RpcError> {
        let Job { job_id, status, .. } = self.get_job(caller, params).await?;
        Ok(JobState { job_id, status })
    }

    pub(super) async fn get_job_result(
        self: Arc<Self>,
        caller: Caller,
        params: JobIdParams,
    ) -> Result<JobResult, RpcError> {
        self.gate.check()?;
        let sight = self.sight(&caller)?;
        let ids = [params.job_id];
        self.require_visible(sight, &ids).await?;
        let [id] = ids;
        let result = self.gate.pass(self.queue.result(&id).await)?;
        result.map(wire::result).ok_or_else(|| errors::no_job(&id))
    }

    pub(super) async fn get_job_logs(self: Arc<Self>, caller: Caller, params: LogParams) -> Result<LogPage, RpcError> {
        self.gate.check()?;
        let sight = self.sight(&caller)?;
        let limit = page_size(params.limit, LOG_LINES, MAX_LOG_LINES)?;
        check_cursor(params.cursor.as_deref(), log_cursor_is_valid)?;
        let ids = [params.job_id];
        self.require_visible(sight, &ids).await?;
        let page = self.queue.logs(&ids[0], params.cursor.as_deref(), limit).await;
        self.gate.pass(page)?.ok_or_else(|| errors::no_job(&ids[0]))
    }

    pub(super) async fn list_jobs(
        self: Arc<Self>,
        caller: Caller,
        params: ListJobsParams,
    ) -> Result<JobPage, RpcError> {
        self.gate.check()?;
        let sight = self.sight(&caller)?;
        let limit = page_size(params.limit, LIST, MAX_LIST)?;
        check_cursor(params.cursor.as_deref(), cursor_is_valid)?;
        if let Some(submitter) = params.submitter
            && submitter != sight.caller()
            && !sight.sees_all()
        {
            return Err(RpcError::new(
                ErrorKind::NotAllowed,
                "you may list your own jobs only: leave out `submitter`, or ask for the role observer",
            ));
        }
        let mut filter = JobFilter { runner: params.runner, status: params.status, submitter: params.submitter };
        // A coordinator also sees the steps of workflows that name it, which are others' jobs.
        let delegates = self.trust.allows(sight.caller(), Role::Coordinator, Timestamp::now());
        if !sight.sees_all() && !delegates {
            filter.submitter = Some(sight.caller());
        }
        let mut cursor = params.cursor;
        for _ in 0..LIST_LOOKS {
            let page = self.queue.list(&filter, cursor.as_deref(), limit).await;
            let mut page = self.gate.pass(page)?;
            page.jobs.retain(|job| sight.sees(&Owner::from(job)));
            if !page.jobs.is_empty() || page.cursor.is_none() {
                return Ok(page);
            }
            cursor = page.cursor;
        }
        Ok(JobPage { jobs: Vec::new(), cursor })
    }

    pub(super) async fn cancel_job(self: Arc<Self>, caller: Caller, params: JobIdParams) -> Result<JobState, RpcError> {
        self.require_steerable(&caller, &params.job_id).await?;
        let status = self.gate.pass(self.queue.cancel(&params.job_id).await)?;
        let status = status.ok_or_else(|| errors::no_job(&params.job_id))?;
        tracing::info!(job = %params.job_id, %status, by = ?caller.peer, "cancelled");
        Ok(JobState { job_id: params.job_id, status })
    }

    pub(super) async fn delete_job(self: Arc<Self>, caller: Caller, params: JobIdParams) -> Result<Deleted, RpcError> {
        self.require_steerable(&caller, &params.job_id).await?;
        let deleted = self.gate.pass(self.queue.delete(&params.job_id).await)?;
        if deleted {
            self.owners.forget(&params.job_id);
            tracing::info!(job = %params.job_id, by = ?caller.peer, "deleted");
        }
        Ok(Deleted { deleted })
    }

    /// Refuses if the caller may not see one of the jobs, or there is none of that id.
    pub(super) async fn require_visible(&self, sight: Sight, ids: &[JobId]) -> Result<(), RpcError> {
        // Whether they exist is found out when they are read.
        if sight.sees_all() {
            return Ok(());
        }
        for some in ids.chunks(OWNERS_AT_A_TIME) {
            let owners = try_join_all(some.iter().map(|id| self.owner(id))).await?;
            for (id, owner) in some.iter().zip(owners) {
                if !sight.sees(&owner) {
                    return Err(errors::no_job(id));
                }
            }
        }
        Ok(())
    }

    /// Refuses if the caller may not change the job.
    async fn require_steerable(&self, caller: &Caller, id: &JobId) -> Result<(), RpcError> {
        self.gate.check()?;
        let sight = self.sight(caller)?;
        let owner = self.owner(id).await?;
        if sight.steers(&owner) {
            Ok(())
        } else if sight.sees(&owner) {
            Err(errors::not_yours(id))
        } else {
            Err(errors::no_job(id))
        }
    }

    async fn owner(&self, id: &JobId) -> Result<Owner, RpcError> {
        if let Some(owner) = self.owners.get(id) {
            return Ok(owner);
        }
        let view = self.view(id).await?;
        Ok(Owner::from(&view))
    }

    async fn view(&self, id: &JobId) -> Result<JobView, RpcError> {
        let view = self.gate.pass(self.queue.get(id).await)?.ok_or_else(|| errors::no_job(id))?;
        self.owners.insert(id, Owner::from(&view));
        Ok(view)
    }
}

/// A cursor must be one of ours.
fn check_cursor(cursor: Option<&str>, is_valid: fn(&str) -> bool) -> Result<(), RpcError> {
    if cursor.is_some_and(|cursor| !is_valid(cursor)) {
        return Err(errors::invalid("cursor is none that this method gave: leave it out to start anew"));
    }
    Ok(())
}

/// How many entries a page has: no more than asked for, and no more than there may be.
fn page_size(asked: Option<u32>, default: usize, most: usize) -> Result<usize, RpcError> {
    match asked.map_or(default, |limit| usize::try_from(limit).unwrap_or(most)) {
        0 => Err(errors::invalid("limit is 0: give at least 1")),
        limit => Ok(limit.min(most)),
    }
}
