//! What lies beside the workflows: the lists of their ids, cancellations for other coordinators, and who is alive.

use std::collections::HashMap;

use horus_keys::{PeerId, Timestamp};
use horus_runners::job::{JobId, WorkflowId};
use redis::AsyncCommands;

use super::{Store, StoreError};

const ALL: &str = "horus:workflows";
const ACTIVE: &str = "horus:workflows:active";
const REQUESTS: &str = "horus:workflows:requests";
const CANCELS: &str = "horus:workflows:cancels";
const SUBMITTERS: &str = "horus:workflows:submitters";
const COORDINATORS: &str = "horus:coordinators";

fn of(peer: &PeerId) -> String {
    format!("{ALL}:of:{peer}")
}

/// Jobs that one command names at most.
const JOBS: usize = 1000;

/// An id in a list, and when the workflow was accepted.
pub(crate) type Listed = (WorkflowId, Timestamp);

impl Store {
    /// Notes that a workflow is about to be stored, so that it is found again whatever happens next. Returns whether it was
    /// not noted before.
    pub(crate) async fn note_active(&self, id: &WorkflowId) -> Result<bool, StoreError> {
        Ok(self.link.clone().sadd(ACTIVE, id.as_str()).await?)
    }

    /// Notes that a workflow has ended, or was never stored.
    pub(crate) async fn note_ended(&self, id: &WorkflowId) -> Result<(), StoreError> {
        Ok(self.link.clone().srem(ACTIVE, id.as_str()).await?)
    }

    /// The workflows that have not ended, and perhaps some that have.
    pub(crate) async fn active(&self) -> Result<Vec<WorkflowId>, StoreError> {
        let ids: Vec<String> = self.link.clone().smembers(ACTIVE).await?;
        Ok(ids.iter().filter_map(|id| id.parse().ok()).collect())
    }

    /// The workflows of which anything is stored; in a cluster, those of the list of all.
    pub(crate) async fn stored(&self) -> Result<Vec<WorkflowId>, StoreError> {
        let mut link = self.link.clone();
        if link.is_cluster() {
            let ids: Vec<String> = link.zrange(ALL, 0, -1).await?;
            return Ok(ids.iter().filter_map(|id| id.parse().ok()).collect());
        }
        let (mut cursor, mut found) = ("0".to_owned(), Vec::new());
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(&cursor).arg("MATCH").arg("horus:wf:{*}:meta").arg("COUNT").arg(1000);
            let (next, keys): (String, Vec<String>) = scan.query_async(&mut link).await?;
            let id = |key: &String| key.strip_prefix("horus:wf:{")?.strip_suffix("}:meta")?.parse().ok();
            found.extend(keys.iter().filter_map(id));
            if next == "0" {
                return Ok(found);
            }
            cursor = next;
        }
    }

    /// Puts a workflow into the lists. Doing it again changes nothing.
    pub(crate) async fn list_in(&self, id: &WorkflowId, by: &PeerId, at: Timestamp) -> Result<(), StoreError> {
        let mut link = self.link.clone();
        let () = link.sadd(SUBMITTERS, by.to_string()).await?;
        let () = link.zadd(ALL, id.as_str(), at.as_millis()).await?;
        let () = link.zadd(of(by), id.as_str(), at.as_millis()).await?;
        Ok(())
    }

    /// Takes workflows that are not stored any more out of a list.
    pub(crate) async fn list_out(&self, of_peer: Option<&PeerId>, ids: &[WorkflowId]) -> Result<(), StoreError> {
        if ids.is_empty() {
            return Ok(());
        }
        let names: Vec<&str> = ids.iter().map(WorkflowId::as_str).collect();
        let list = of_peer.map_or_else(|| ALL.to_owned(), of);
        Ok(self.link.clone().zrem(list, names).await?)
    }

    /// Ids from a list, newest first, after that one.
    pub(crate) async fn listed(
        &self,
        of_peer: Option<&PeerId>,
        after: Option<&Listed>,
        count: usize,
    ) -> Result<Vec<Listed>, StoreError> {
        let list = of_peer.map_or_else(|| ALL.to_owned(), of);
        let max = after.map_or_else(|| "+inf".to_owned(), |(_, at)| at.as_millis().to_string());
        let mut found = Vec::new();
        let mut skip = 0;
        loop {
            let page: Vec<(String, i64)> = redis::cmd("ZREVRANGEBYSCORE")
                .arg(&list)
                .arg(&max)
                .arg("-inf")
                .arg("WITHSCORES")
                .arg("LIMIT")
                .arg(skip)
                .arg(count + 1)
                .query_async(&mut self.link.clone())
                .await?;
            skip += page.len();
            let last = page.len() <= count;
            for (id, at) in page {
                // Those of the same millisecond come in descending order of their ids.
                let seen = after.is_some_and(|(last, then)| at == then.as_millis() && id.as_str() >= last.as_str());
                if let (false, Ok(id)) = (seen, id.parse()) {
                    found.push((id, Timestamp::from_millis(at)));
                }
            }
            if last || found.len() >= count {
                found.truncate(count);
                return Ok(found);
            }
        }
    }

    /// The oldest ids of the list of all.
    pub(crate) async fn oldest(&self, count: usize) -> Result<Vec<WorkflowId>, StoreError> {
        let last = isize::try_from(count).unwrap_or(isize::MAX) - 1;
        let ids: Vec<String> = self.link.clone().zrange(ALL, 0, last).await?;
        Ok(ids.iter().filter_map(|id| id.parse().ok()).collect())
    }

    /// Takes out of every submitter's list what is older than the oldest workflow in the list of all, and than that time: what
    /// is being listed now stands in one list before the other.
    pub(crate) async fn trim_lists(&self, before: Timestamp) -> Result<(), StoreError> {
        let mut link = self.link.clone();
        let oldest: Vec<(String, i64)> = link.zrange_withscores(ALL, 0, 0).await?;
        let before = oldest.first().map_or(before.as_millis(), |(_, at)| before.as_millis().min(*at));
        let before = format!("({before}");
        let submitters: Vec<String> = link.smembers(SUBMITTERS).await?;
        for peer in submitters.iter().filter_map(|peer| peer.parse::<PeerId>().ok()) {
            let () = link.zrembyscore(of(&peer), "-inf", &before).await?;
            if !link.exists::<_, bool>(of(&peer)).await? {
                let () = link.srem(SUBMITTERS, peer.to_string()).await?;
            }
        }
        Ok(())
    }

    /// Asks the owner of a workflow, another coordinator, to cancel it.
    pub(crate) async fn request_cancel(&self, id: &WorkflowId, by: &PeerId) -> Result<(), StoreError> {
        let () = self.link.clone().hset_nx(REQUESTS, id.as_str(), by.to_string()).await?;
        Ok(())
    }

    /// What other coordinators ask for.
    pub(crate) async fn requests(&self) -> Result<Vec<(WorkflowId, PeerId)>, StoreError> {
        let all: HashMap<String, String> = self.link.clone().hgetall(REQUESTS).await?;
        Ok(all.iter().filter_map(|(id, by)| Some((id.parse().ok()?, by.parse().ok()?))).collect())
    }

    /// Notes that a request was heard.
    pub(crate) async fn request_done(&self, id: &WorkflowId) -> Result<(), StoreError> {
        Ok(self.link.clone().hdel(REQUESTS, id.as_str()).await?)
    }

    /// Notes jobs that their supervisors are still to cancel, up to that time. Noting them again changes nothing.
    pub(crate) async fn note_cancels(&self, jobs: &[(PeerId, JobId)], until: Timestamp) -> Result<(), StoreError> {
        for jobs in jobs.chunks(JOBS) {
            let members: Vec<(i64, String)> =
                jobs.iter().map(|(peer, job)| (until.as_millis(), format!("{peer} {job}"))).collect();
            let () = self.link.clone().zadd_multiple(CANCELS, &members).await?;
        }
        Ok(())
    }

    /// The jobs that are still to be cancelled. Those whose time is over are forgotten.
    pub(crate) async fn cancels(&self, now: Timestamp) -> Result<Vec<(PeerId, JobId)>, StoreError> {
        let (all,): (Vec<String>,) = redis::pipe()
            .zrembyscore(CANCELS, "-inf", now.as_millis())
            .ignore()
            .zrange(CANCELS, 0, -1)
            .query_async(&mut self.link.clone())
            .await?;
        let read = |text: &String| {
            let (peer, job) = text.split_once(' ')?;
            Some((peer.parse().ok()?, job.parse().ok()?))
        };
        Ok(all.iter().filter_map(read).collect())
    }

    /// Notes that jobs are cancelled, or have ended.
    pub(crate) async fn cancels_done(&self, jobs: &[(PeerId, JobId)]) -> Result<(), StoreError> {
        for jobs in jobs.chunks(JOBS) {
            let members: Vec<String> = jobs.iter().map(|(peer, job)| format!("{peer} {job}")).collect();
            let () = self.link.clone().zrem(CANCELS, members).await?;
        }
        Ok(())
    }

    /// A sign of life of a running coordinator.
    pub(crate) async fn beat(&self, instance: &str) -> Result<(), StoreError> {
        let () = self.link.clone().hincr(COORDINATORS, instance, 1).await?;
        Ok(())
    }

    /// The counters of all coordinators that run, or ran.
    pub(crate) async fn beats(&self) -> Result<HashMap<String, u64>, StoreError> {
        Ok(self.link.clone().hgetall(COORDINATORS).await?)
    }

    /// Takes a coordinator that stopped, or died, out of the list.
    pub(crate) async fn forget(&self, instance: &str) -> Result<(), StoreError> {
        Ok(self.link.clone().hdel(COORDINATORS, instance).await?)
    }
}
