//! Accepting jobs.

use std::collections::{BTreeMap, BTreeSet};

use horus_keys::{Digest, Envelope, PeerId, RunnerKind};
use redis::Value;
use serde::{Deserialize, Serialize};

use super::{
    Queue, QueueError,
    connection::Args,
    keys::{self, Document},
    scripts,
    views::{status, text},
};
use crate::job::{Job, JobBatch, JobId, JobStatus, ReceiptRef};

/// What became of a pushed job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pushed {
    /// The full id.
    pub job_id: JobId,
    /// Where it stands: of a job that existed already, where it stood by then.
    pub status: JobStatus,
    /// Whether this call created it; false if the very same job had been accepted before.
    pub created: bool,
}

/// Documents that came ahead of their jobs are kept for so long.
const AHEAD_MS: i64 = 600_000;
/// Documents are kept this much longer than the jobs that need them may start.
const KEEP_MS: i64 = 3_600_000;

impl Queue {
    /// Whether [`Queue::push`] would accept the jobs, for all kinds of a batch before the first is pushed. Changes nothing.
    ///
    /// # Errors
    /// [`QueueError::IdConflict`], [`QueueError::Full`], [`QueueError::Unavailable`]
    pub async fn check(&self, jobs: &[Job]) -> Result<(), QueueError> {
        for (kind, jobs) in by_kind(jobs) {
            let mut args = Args::new();
            args.number(self.options.max_queue);
            for (_, job) in &jobs {
                args.push(job.id.local().as_str()).push(&job.spec.hex()).push(&job.submitter.to_string());
            }
            let reply: Vec<Value> = self.connection.run(&scripts::CHECK, &keys::base(kind), &args).await?;
            self.verdict(kind, &jobs, &reply)?;
        }
        Ok(())
    }

    /// Accepts the jobs of one batch. All jobs of one runner kind are accepted or none, and the kinds come in alphabetical order: when one is
    /// refused, those before it were accepted and those behind it were not (coordinators rely on that). A batch of several kinds is safe to
    /// push again after an error, since jobs that were accepted before are found by their ids.
    ///
    /// `workflows` and `receipts` are the documents that the jobs refer to ([`Job::workflow`], [`Job::receipts`]); those stored already may be
    /// left out. When the call returns, everything is in Redis.
    ///
    /// # Errors
    /// [`QueueError::IdConflict`], [`QueueError::Full`], [`QueueError::Missing`], [`QueueError::Unavailable`]
    pub async fn push(
        &self,
        jobs: &[Job],
        batch: &Envelope,
        workflows: &[&Envelope],
        receipts: &[&Envelope],
    ) -> Result<Vec<Pushed>, QueueError> {
        let mut given: BTreeMap<Document, &Envelope> = BTreeMap::new();
        given.extend(workflows.iter().map(|e| (Document::Workflow(e.digest()), *e)));
        given.extend(receipts.iter().map(|e| (Document::Receipts(e.digest()), *e)));
        let inline = inline_receipts(jobs, batch, &given);
        let batch_text = batch.to_json();
        let mut all: Vec<Option<Pushed>> = vec![None; jobs.len()];
        for (kind, jobs) in by_kind(jobs) {
            self.remember_kind(kind).await?;
            let mut send_all = false;
            let reply = loop {
                let args = self.push_args(
                    &Push {
                        kind,
                        jobs: &jobs,
                        batch: batch.digest(),
                        batch_text: &batch_text,
                        needs: needs(&jobs, &inline),
                        given: &given,
                    },
                    send_all,
                );
                let reply: Vec<Value> = self.connection.run(&scripts::PUSH, &keys::base(kind), &args).await?;
                let missing = matches!(reply.first(), Some(first) if text(first) == Some("missing"));
                if !missing || send_all {
                    break reply;
                }
                // What was stored before is gone, for example with its Redis: send the documents themselves.
                send_all = true;
            };
            self.verdict(kind, &jobs, &reply)?;
            for (n, (position, job)) in jobs.iter().enumerate() {
                let (Some(now), Some(Value::Int(created))) = (reply.get(1 + 2 * n), reply.get(2 + 2 * n)) else {
                    return Err(QueueError::corrupt("the reply to a push is too short"));
                };
                all[*position] = Some(Pushed { job_id: job.id.clone(), status: status(now)?, created: *created == 1 });
            }
            let mut stored = self.stored.lock().expect("no code panics while it holds this lock");
            for document in needs(&jobs, &inline) {
                stored.put((kind.clone(), document), ());
            }
        }
        Ok(all.into_iter().map(|pushed| pushed.expect("every job belongs to one kind")).collect())
    }

    /// Stores documents that jobs of that kind will refer to, for 10 minutes: the jobs must be pushed by then. For more than fits into the
    /// call that brings the jobs. `workflow` comes with the key that signed it.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`]
    pub async fn keep(
        &self,
        kind: &RunnerKind,
        workflow: Option<(&Envelope, PeerId)>,
        receipts: &[&Envelope],
    ) -> Result<(), QueueError> {
        let mut args = Args::new();
        args.number(AHEAD_MS);
        let workflow =
            workflow.map(|(envelope, signer)| (Document::Workflow(envelope.digest()), signer.to_string(), envelope));
        let receipts =
            receipts.iter().map(|envelope| (Document::Receipts(envelope.digest()), String::new(), *envelope));
        for (document, signer, envelope) in workflow.into_iter().chain(receipts) {
            args.push(document.prefix()).push(&document.digest().hex()).push(&signer).push(&envelope.to_json());
        }
        self.connection.run(&scripts::KEEP, &keys::base(kind), &args).await
    }

    fn push_args(&self, push: &Push<'_>, send_all: bool) -> Args {
        let latest = push.jobs.iter().map(|(_, job)| job.run_until.as_millis()).max().unwrap_or(0);
        let mut args = Args::new();
        args.number(self.options.max_queue).push(&push.batch.hex()).push(push.batch_text);
        args.number(latest.saturating_add(KEEP_MS)).number(push.needs.len());
        let mut stored = self.stored.lock().expect("no code panics while it holds this lock");
        for document in &push.needs {
            args.push(document.prefix()).push(&document.digest().hex());
            args.push(&push.signer_of(*document).map(|signer| signer.to_string()).unwrap_or_default());
            let known = !send_all && stored.get(&(push.kind.clone(), *document)).is_some();
            match push.given.get(document) {
                Some(envelope) if !known => args.push(&envelope.to_json()),
                _ => args.push(""),
            };
        }
        drop(stored);
        for (_, job) in push.jobs {
            push_job(&mut args, job);
        }
        args
    }

    /// Turns a refusal of the scripts into an error.
    fn verdict(&self, kind: &RunnerKind, jobs: &[(usize, &Job)], reply: &[Value]) -> Result<(), QueueError> {
        let number = |at: usize| match reply.get(at) {
            Some(Value::Int(number)) => usize::try_from(*number).unwrap_or(0),
            _ => 0,
        };
        match reply.first().and_then(text) {
            Some("ok") => Ok(()),
            Some("conflict") => {
                let job = jobs.get(number(1)).ok_or_else(|| QueueError::corrupt("a conflict of no job"))?.1;
                Err(QueueError::IdConflict { job_id: job.id.clone(), index: job.index })
            }
            Some("signer") => {
                let of = |job: &Job| job.workflow.as_ref().map(|(digest, _)| digest.hex());
                let digest = reply.get(1).and_then(text);
                let job = jobs.iter().find(|(_, job)| of(job).as_deref() == digest);
                let job = job.ok_or_else(|| QueueError::corrupt("another signer of no workflow"))?.1;
                Err(QueueError::IdConflict { job_id: job.id.clone(), index: job.index })
            }
            Some("full") => {
                Err(QueueError::Full { runner: kind.clone(), queued: number(1) as u64, max: self.options.max_queue })
            }
            Some("missing") => Err(QueueError::Missing {
                runner: kind.clone(),
                name: reply.get(1).and_then(text).unwrap_or("a document").to_owned(),
            }),
            _ => Err(QueueError::corrupt("unknown reply to a push")),
        }
    }
}

/// What one call of the script is about.
struct Push<'a> {
    kind: &'a RunnerKind,
    jobs: &'a [(usize, &'a Job)],
    batch: Digest,
    batch_text: &'a str,
    needs: BTreeSet<Document>,
    given: &'a BTreeMap<Document, &'a Envelope>,
}

impl Push<'_> {
    /// Who is responsible for a workflow. Two keys can sign one payload, so its digest does not say.
    fn signer_of(&self, document: Document) -> Option<PeerId> {
        let Document::Workflow(digest) = document else { return None };
        let of = |job: &Job| job.workflow.as_ref().is_some_and(|(workflow, _)| *workflow == digest);
        self.jobs.iter().find(|(_, job)| of(job)).map(|(_, job)| job.submitter)
    }
}

fn push_job(args: &mut Args, job: &Job) {
    args.push(job.id.local().as_str())
        .push(&job.spec.hex())
        .push(&job.submitter.to_string())
        .number(job.index)
        .push(job.priority.as_str())
        .flag(job.idempotent);
    match job.not_before {
        Some(time) => args.number(time.as_millis()),
        None => args.push(""),
    };
    args.number(job.run_until.as_millis());
    args.push(&job.delegate.map(|peer| peer.to_string()).unwrap_or_default());
    args.push(job.delegation.as_ref().map_or("", |delegation| delegation.step.as_str()));
    if job.labels.is_empty() {
        args.push("");
    } else {
        args.push(&serde_json::to_string(&job.labels).expect("a map of strings is always JSON"));
    }
    // Mostly there is one coordinator, which is the delegate, and nothing to store.
    let others = job.coordinators.iter().filter(|peer| job.delegate != Some(**peer)).map(ToString::to_string);
    args.push(&others.collect::<Vec<_>>().join(" "));
}

fn by_kind(jobs: &[Job]) -> BTreeMap<&RunnerKind, Vec<(usize, &Job)>> {
    let mut kinds: BTreeMap<&RunnerKind, Vec<(usize, &Job)>> = BTreeMap::new();
    for (position, job) in jobs.iter().enumerate() {
        kinds.entry(job.id.runner()).or_default().push((position, job));
    }
    kinds
}

/// The documents that jobs refer to, each once; not those that the batch itself carries.
fn needs(jobs: &[(usize, &Job)], inline: &BTreeSet<Digest>) -> BTreeSet<Document> {
    let mut needs = BTreeSet::new();
    for (_, job) in jobs {
        needs.extend(job.workflow.as_ref().map(|(digest, _)| Document::Workflow(*digest)));
        let beside = job.receipts.iter().filter(|digest| !inline.contains(digest));
        needs.extend(beside.map(|digest| Document::Receipts(*digest)));
    }
    needs
}

/// Receipts that travel inside the batch. It is read only if some are not among the given ones.
fn inline_receipts(jobs: &[Job], batch: &Envelope, given: &BTreeMap<Document, &Envelope>) -> BTreeSet<Digest> {
    let elsewhere = |digest: &Digest| !given.contains_key(&Document::Receipts(*digest));
    if !jobs.iter().flat_map(|job| &job.receipts).any(elsewhere) {
        return BTreeSet::new();
    }
    // Admission has read this very payload already, so it can be read.
    let Ok(batch) = serde_json::from_slice::<JobBatch>(batch.payload()) else { return BTreeSet::new() };
    let inline = batch.jobs.iter().flat_map(|job| &job.receipts).filter_map(|receipt| match receipt {
        ReceiptRef::Envelope(envelope) => Some(envelope.digest()),
        ReceiptRef::Digest(_) => None,
    });
    inline.filter(elsewhere).collect()
}
