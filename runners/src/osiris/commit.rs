//! The committer: groups of jobs that have ended, each group one short transaction.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use horus_keys::Timestamp;
use serde::Serialize;
use sqlx::{Any, Row, Transaction};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use super::{
    recorded::Before,
    store::{Store, database_error},
    trouble::Tries,
};
use crate::executor::ExecutionError;

/// Most jobs of one transaction.
const GROUP_JOBS: usize = 128;
/// A group is closed above this many bytes of JSON.
const GROUP_BYTES: usize = 8 * 1024 * 1024;
/// Time between two purges of outdated job ids.
const PURGE_EVERY: Duration = Duration::from_secs(300);

/// What a job has read and wants to write.
#[derive(Debug, Default)]
pub(super) struct Effects {
    /// Models that it searched, and their counters before it did.
    pub(super) scans: Vec<(String, i64)>,
    /// Records by model and id, and their revisions; none if there was none.
    pub(super) reads: Vec<(String, String, Option<i64>)>,
    pub(super) writes: Vec<Write>,
}

/// A record that becomes this, or is deleted if it has no body.
#[derive(Debug)]
pub(super) struct Write {
    pub(super) model: String,
    pub(super) id: String,
    pub(super) created_at: i64,
    pub(super) updated_at: i64,
    pub(super) body: Option<String>,
}

/// One job at its end.
#[derive(Debug)]
pub(super) struct Commit {
    pub(super) job_id: String,
    /// A digest of what makes it this job and not another of the same id.
    pub(super) content: String,
    /// None if the script failed: then it is only checked whether it failed over something outdated.
    pub(super) output: Option<String>,
    /// Until when the job could be delivered again.
    pub(super) keep_until: Timestamp,
    pub(super) effects: Effects,
}

impl Commit {
    fn bytes(&self) -> usize {
        let bodies: usize =
            self.effects.writes.iter().map(|w| w.body.as_ref().map_or(64, |body| body.len() + 128)).sum();
        bodies + self.output.as_ref().map_or(0, String::len) + self.effects.reads.len() * 64
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Its effects are stored; or, if it failed, what it had read still holds.
    Stored,
    /// A job of this id was stored before; nothing was changed now.
    Already(Before),
    /// Something that it read has changed: run it again.
    Outdated,
}

struct Submitted {
    commit: Commit,
    reply: oneshot::Sender<Result<Verdict, ExecutionError>>,
}

/// Takes jobs to the committer task, which ends when all clones are dropped.
#[derive(Clone)]
pub(super) struct Committer(mpsc::Sender<Submitted>);

impl Committer {
    pub(super) fn start(store: Store) -> Self {
        let (sender, mut submitted) = mpsc::channel(GROUP_JOBS);
        tokio::spawn(async move {
            let mut purge_at = Instant::now();
            while let Some(first) = submitted.recv().await {
                let group = gather(first, &mut submitted);
                settle(&store, group).await;
                if Instant::now() >= purge_at {
                    purge_at = Instant::now() + PURGE_EVERY;
                    purge(&store).await;
                }
            }
        });
        Self(sender)
    }

    pub(super) async fn commit(&self, commit: Commit) -> Result<Verdict, ExecutionError> {
        let gone = || ExecutionError::new("DATABASE_ERROR", "the database's writer has ended: restart the runner");
        let (reply, verdict) = oneshot::channel();
        self.0.send(Submitted { commit, reply }).await.map_err(|_| gone())?;
        verdict.await.map_err(|_| gone())?
    }
}

fn gather(first: Submitted, waiting: &mut mpsc::Receiver<Submitted>) -> Vec<Submitted> {
    let mut bytes = first.commit.bytes();
    let mut group = vec![first];
    while group.len() < GROUP_JOBS && bytes < GROUP_BYTES {
        let Ok(next) = waiting.try_recv() else { break };
        bytes += next.commit.bytes();
        group.push(next);
    }
    group
}

async fn settle(store: &Store, mut group: Vec<Submitted>) {
    let mut tries = Tries::new();
    loop {
        // Nobody waits any more for a job whose time is over: it must not take effect behind its back.
        group.retain(|submitted| !submitted.reply.is_closed());
        if group.is_empty() {
            return;
        }
        let (commits, replies): (Vec<_>, Vec<_>) = group.into_iter().map(|s| (s.commit, s.reply)).unzip();
        // Trying again is safe even if it is unknown whether a COMMIT took effect: the job ids are recorded in it.
        let failed = match apply(store, &commits).await {
            Ok(verdicts) => {
                for (reply, verdict) in replies.into_iter().zip(verdicts) {
                    let _ = reply.send(Ok(verdict));
                }
                return;
            }
            Err(error) => error,
        };
        group = commits.into_iter().zip(replies).map(|(commit, reply)| Submitted { commit, reply }).collect();
        if tries.again(&failed).await {
            continue;
        }
        if let [_] = group.as_slice() {
            for submitted in group {
                let _ = submitted.reply.send(Err(database_error(&failed)));
            }
            return;
        }
        // One job may be the reason (a record that the database refuses): the others should not suffer.
        for submitted in group {
            Box::pin(settle(store, vec![submitted])).await;
        }
        return;
    }
}

async fn purge(store: &Store) {
    let now = Timestamp::now().as_millis();
    if let Err(e) = sqlx::query(store.sql.purge).bind(now).execute(&store.pool).await {
        tracing::warn!(error = %e, "cannot purge outdated job ids from the osiris database");
    }
}

async fn apply(store: &Store, commits: &[Commit]) -> Result<Vec<Verdict>, sqlx::Error> {
    let mut transaction = store.pool.begin_with(store.sql.begin).await?;
    let mut seen = Seen::read(store, &mut transaction, commits).await?;
    let mut plan = Plan::default();
    let verdicts: Vec<Verdict> = commits.iter().map(|commit| seen.decide(commit, &mut plan)).collect();
    plan.write(store, &mut transaction).await?;
    transaction.commit().await?;
    Ok(verdicts)
}

fn json<T: Serialize + ?Sized>(value: &T) -> String {
    serde_json::to_string(value).expect("lists of strings and numbers are JSON")
}

/// What the database says inside the transaction, and what the group has added to it so far.
struct Seen<'a> {
    before: HashMap<String, Before>,
    changes: BTreeMap<String, i64>,
    /// Only of records that some job of the group has read.
    revisions: HashMap<(&'a str, &'a str), i64>,
}

/// The rows to write, in the order of the statements' parameters.
#[derive(Default)]
struct Plan<'a> {
    upserts: Vec<(&'a str, &'a str, i64, i64, i64, &'a str)>,
    deletes: Vec<(&'a str, &'a str)>,
    models: BTreeMap<&'a str, i64>,
    jobs: Vec<(&'a str, &'a str, i64, &'a str)>,
}

impl<'a> Seen<'a> {
    async fn read(
        store: &Store,
        transaction: &mut Transaction<'_, Any>,
        commits: &'a [Commit],
    ) -> Result<Self, sqlx::Error> {
        let effects = || commits.iter().map(|commit| &commit.effects);
        let models: BTreeSet<&str> = effects()
            .flat_map(|e| {
                let scanned = e.scans.iter().map(|(model, _)| model);
                scanned.chain(e.reads.iter().map(|(model, ..)| model)).chain(e.writes.iter().map(|write| &write.model))
            })
            .map(String::as_str)
            .collect();
        let mut changes = BTreeMap::new();
        if !models.is_empty() {
            let names = json(&models);
            let lock = |names: String| sqlx::query(store.sql.lock_models).bind(names);
            let mut rows = lock(names.clone()).fetch_all(&mut **transaction).await?;
            if rows.len() < models.len() {
                // A model's first time.
                sqlx::query(store.sql.ensure_models).bind(names.clone()).execute(&mut **transaction).await?;
                rows = lock(names).fetch_all(&mut **transaction).await?;
            }
            for row in rows {
                changes.insert(row.try_get(0)?, row.try_get(1)?);
            }
        }
        let ids: Vec<&str> = commits.iter().map(|commit| commit.job_id.as_str()).collect();
        let before = store.recorded_in(&mut **transaction, &ids).await?;
        let mut read: Vec<(&str, &str)> =
            effects().flat_map(|e| &e.reads).map(|(model, id, _)| (model.as_str(), id.as_str())).collect();
        read.sort_unstable();
        read.dedup();
        let mut revisions = HashMap::new();
        if !read.is_empty() {
            for row in sqlx::query(store.sql.revisions).bind(json(&read)).fetch_all(&mut **transaction).await? {
                let (model, id): (String, String) = (row.try_get(0)?, row.try_get(1)?);
                if let Ok(found) = read.binary_search_by(|(m, i)| (*m, *i).cmp(&(model.as_str(), id.as_str()))) {
                    revisions.insert(read[found], row.try_get(2)?);
                }
            }
        }
        Ok(Self { before, changes, revisions })
    }

    fn decide(&mut self, commit: &'a Commit, plan: &mut Plan<'a>) -> Verdict {
        if let Some(before) = self.before.get(&commit.job_id) {
            return Verdict::Already(before.clone());
        }
        let effects = &commit.effects;
        let scans_hold = effects.scans.iter().all(|(model, changes)| self.changes.get(model) == Some(changes));
        let reads_hold = effects
            .reads
            .iter()
            .all(|(model, id, revision)| self.revisions.get(&(model.as_str(), id.as_str())).copied() == *revision);
        if !scans_hold || !reads_hold {
            return Verdict::Outdated;
        }
        let Some(output) = &commit.output else { return Verdict::Stored };
        let changed: BTreeSet<&str> = effects.writes.iter().map(|write| write.model.as_str()).collect();
        for model in changed {
            let counter = self.changes.get_mut(model).expect("the models of all writes were read");
            *counter += 1;
            plan.models.insert(model, *counter);
        }
        for write in &effects.writes {
            let key = (write.model.as_str(), write.id.as_str());
            if let Some(body) = &write.body {
                // The model's counter never goes back, so no revision comes twice, not even of a record that was deleted and made again.
                let revision = plan.models[key.0];
                plan.upserts.push((key.0, key.1, revision, write.created_at, write.updated_at, body));
                self.revisions.insert(key, revision);
            } else {
                plan.deletes.push(key);
                self.revisions.remove(&key);
            }
        }
        plan.jobs.push((&commit.job_id, output, commit.keep_until.as_millis(), &commit.content));
        let before = Before { output: output.clone(), content: commit.content.clone() };
        self.before.insert(commit.job_id.clone(), before);
        Verdict::Stored
    }
}

impl Plan<'_> {
    async fn write(self, store: &Store, transaction: &mut Transaction<'_, Any>) -> Result<(), sqlx::Error> {
        let sql = store.sql;
        let models: Vec<_> = self.models.into_iter().collect();
        let steps = [
            (sql.upsert, (!self.upserts.is_empty()).then(|| json(&self.upserts))),
            (sql.delete, (!self.deletes.is_empty()).then(|| json(&self.deletes))),
            (sql.set_models, (!models.is_empty()).then(|| json(&models))),
            (sql.record, (!self.jobs.is_empty()).then(|| json(&self.jobs))),
        ];
        for (statement, rows) in steps {
            if let Some(rows) = rows {
                sqlx::query(statement).bind(rows).execute(&mut **transaction).await?;
            }
        }
        Ok(())
    }
}
