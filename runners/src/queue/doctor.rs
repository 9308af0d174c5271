//! Finds what is wrong with a queue: every job belongs in exactly one list.

use std::collections::BTreeSet;

use horus_keys::RunnerKind;
use redis::Value;
use serde::{Deserialize, Serialize};

use super::{Queue, QueueError, connection::Args, keys, scripts, views::text};

/// Something that must not be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Finding {
    /// The kind whose queue it is.
    pub runner: RunnerKind,
    /// The job, the batch or the key that it is about.
    pub about: String,
    /// What is wrong, as a sentence that goes on from its name.
    pub problem: String,
}

/// Ids that are checked in one go.
const CHUNK: usize = 500;

impl Queue {
    /// Checks the queues of all kinds, while they work. Empty if all is well. Takes some 10 us a job of the server's time, in slices of 500
    /// jobs.
    ///
    /// In a cluster, records that no index knows are not looked for.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`]
    pub async fn doctor(&self) -> Result<Vec<Finding>, QueueError> {
        let mut findings = Vec::new();
        for kind in self.kinds().await? {
            findings.extend(self.doctor_of(&kind).await?);
        }
        Ok(findings)
    }

    /// Checks the queue of one kind.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`]
    pub async fn doctor_of(&self, kind: &RunnerKind) -> Result<Vec<Finding>, QueueError> {
        let mut ids = BTreeSet::new();
        for name in ["jobs", "pending:high", "pending:normal", "pending:low", "delayed", "done", "expiry"] {
            self.members(kind, name, "ZSCAN", &mut ids).await?;
        }
        self.members(kind, "active", "HSCAN", &mut ids).await?;
        let prefix = keys::key(kind, "job:");
        let mut batches = BTreeSet::new();
        if !self.connection.is_cluster() {
            let mut found = BTreeSet::new();
            self.scan("SCAN", None, &format!("{}:*", keys::base(kind)), &mut found).await?;
            let batch_prefix = keys::key(kind, "batch:");
            for key in found {
                if let Some(id) = key.strip_prefix(&prefix) {
                    ids.insert(id.to_owned());
                } else if let Some(digest) = key.strip_prefix(&batch_prefix) {
                    batches.insert(digest.to_owned());
                }
            }
        }
        let ids: Vec<String> = ids.into_iter().collect();
        let mut findings = Vec::new();
        for chunk in ids.chunks(CHUNK) {
            let mut args = Args::new();
            for id in chunk {
                args.push(id);
            }
            let reply: Vec<String> = self.connection.run(&scripts::DOCTOR, &keys::base(kind), &args).await?;
            for pair in reply.as_chunks::<2>().0 {
                let about = format!("{}-{}", kind.as_str(), pair[0]);
                findings.push(Finding { runner: kind.clone(), about, problem: pair[1].clone() });
            }
        }
        findings.extend(self.check_batches(kind, batches).await?);
        findings.extend(self.check_wake(kind).await?);
        Ok(findings)
    }

    /// A batch must go with its last unfinished job. Counted by looking twice, because jobs come and go while we count.
    async fn check_batches(&self, kind: &RunnerKind, batches: BTreeSet<String>) -> Result<Vec<Finding>, QueueError> {
        let mut findings = Vec::new();
        if batches.is_empty() {
            return Ok(findings);
        }
        let mut waiting = BTreeSet::new();
        for name in ["pending:high", "pending:normal", "pending:low", "delayed"] {
            self.members(kind, name, "ZSCAN", &mut waiting).await?;
        }
        self.members(kind, "active", "HSCAN", &mut waiting).await?;
        let mut used = BTreeSet::new();
        let waiting: Vec<String> = waiting.into_iter().collect();
        for chunk in waiting.chunks(CHUNK) {
            let mut pipeline = redis::pipe();
            for id in chunk {
                pipeline.cmd("HGET").arg(keys::key(kind, &format!("job:{id}"))).arg("batch");
            }
            let found: Vec<Option<String>> = self.connection.pipeline(&pipeline).await?;
            used.extend(found.into_iter().flatten());
        }
        for digest in batches.difference(&used) {
            let mut get = redis::cmd("HGET");
            get.arg(keys::key(kind, &format!("batch:{digest}"))).arg("refs");
            let refs: Option<i64> = self.connection.query(&get).await?;
            let Some(refs) = refs else { continue };
            // A job of it may have moved from list to list between the looks: only one that nobody ever took is certain.
            let busy = self.depth_total(kind).await? > 0;
            if !busy || refs <= 0 {
                let problem = format!("claims to be needed by {refs} unfinished jobs, but there are none");
                findings.push(Finding { runner: kind.clone(), about: format!("batch {digest}"), problem });
            }
        }
        Ok(findings)
    }

    async fn depth_total(&self, kind: &RunnerKind) -> Result<u64, QueueError> {
        let depth = self.depth(kind).await?;
        Ok(depth.queued + depth.delayed + depth.active)
    }

    async fn check_wake(&self, kind: &RunnerKind) -> Result<Vec<Finding>, QueueError> {
        let length: i64 = self.connection.query(redis::cmd("LLEN").arg(keys::key(kind, "wake"))).await?;
        Ok(if length > 1 {
            let problem = format!("has {length} elements, and should have at most one");
            vec![Finding { runner: kind.clone(), about: "wake".to_owned(), problem }]
        } else {
            Vec::new()
        })
    }

    async fn members(
        &self,
        kind: &RunnerKind,
        name: &str,
        verb: &str,
        into: &mut BTreeSet<String>,
    ) -> Result<(), QueueError> {
        let mut pairs = Vec::new();
        self.scan_values(verb, Some(&keys::key(kind, name)), "*", &mut pairs).await?;
        into.extend(pairs.into_iter().step_by(2));
        Ok(())
    }

    async fn scan(
        &self,
        verb: &str,
        key: Option<&str>,
        pattern: &str,
        into: &mut BTreeSet<String>,
    ) -> Result<(), QueueError> {
        let mut values = Vec::new();
        self.scan_values(verb, key, pattern, &mut values).await?;
        into.extend(values);
        Ok(())
    }

    async fn scan_values(
        &self,
        verb: &str,
        key: Option<&str>,
        pattern: &str,
        into: &mut Vec<String>,
    ) -> Result<(), QueueError> {
        let mut cursor = "0".to_owned();
        loop {
            let mut scan = redis::cmd(verb);
            if let Some(key) = key {
                scan.arg(key);
            }
            scan.arg(&cursor).arg("MATCH").arg(pattern).arg("COUNT").arg(1000);
            let (next, values): (String, Vec<Value>) = self.connection.query(&scan).await?;
            into.extend(values.iter().filter_map(text).map(str::to_owned));
            if next == "0" {
                return Ok(());
            }
            cursor = next;
        }
    }
}
