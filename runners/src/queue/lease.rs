//! The queue as a worker sees it: claim, start, finish, give back, and the heartbeat that keeps its jobs its own.

use std::{sync::Arc, time::Duration};

use horus_keys::{Digest, Envelope, PeerId, RunnerKind, Timestamp};

use super::{
    Queue, QueueError,
    connection::{Args, BLOCK, Blocking},
    keys::{self, Document},
    logs::cancel_channel,
    scripts,
};
use crate::job::{JobStatus, LocalId};

/// What a worker says about itself.
#[derive(Debug, Clone)]
pub struct LeaseOptions {
    /// The kind that it serves.
    pub kind: RunnerKind,
    /// Name for people, `[A-Za-z0-9_.-]{1,48}`; other characters are replaced.
    pub name: String,
    /// The key that signs its receipts.
    pub peer_id: PeerId,
    /// How many jobs it executes at a time.
    pub concurrency: u32,
    /// Its jobs are given to others when it has shown no sign of life this long.
    pub lease: Duration,
}

/// One worker's hold on its jobs. Every process that serves a queue is a worker of its own, also when it bears the name of one before it.
#[derive(Debug, Clone)]
pub struct Lease {
    queue: Queue,
    base: Arc<str>,
    worker: Arc<str>,
    options: Arc<LeaseOptions>,
}

/// A claimed job: what Redis says of it. Nothing of it is believed before the batch is verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    /// The id within the kind.
    pub id: LocalId,
    /// Fencing token: what is done to the job names it, and is refused once the job was given to another.
    pub token: u64,
    /// The signed batch.
    pub batch: Digest,
    /// Position in the batch.
    pub index: u32,
    /// How often the job was started before.
    pub attempt: u32,
    /// Whether it is marked as running already, because it is idempotent.
    pub running: bool,
    /// It is not started after.
    pub run_until: Timestamp,
}

/// What a claim gave.
#[derive(Debug)]
pub struct Claim {
    /// Jobs that are pending still.
    pub pending: u64,
    /// Redis' time: when the jobs that are marked as running were.
    pub at: Timestamp,
    /// The jobs, most urgent first.
    pub jobs: Vec<Claimed>,
    /// Batches and other documents that the jobs need and the worker did not say it had.
    pub(crate) documents: Vec<(Document, String)>,
}

/// How a job ended.
#[derive(Debug, Clone)]
pub struct Finish {
    /// The id within the kind.
    pub id: LocalId,
    /// The token of its claim.
    pub token: u64,
    /// A final status.
    pub status: JobStatus,
    /// When it ended.
    pub finished_at: Timestamp,
    /// JSON text.
    pub output: Option<String>,
    /// JSON text of a [`crate::job::JobError`].
    pub error: Option<String>,
    /// Position of its receipt.
    pub index: u32,
}

/// What a heartbeat says about a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beat {
    /// Go on.
    Hold,
    /// Stop it: cancel was asked for.
    Cancel,
    /// Stop it: it is no longer this worker's.
    Gone,
}

/// A claim's reply: pending, now, rows, documents.
type ClaimReply = (u64, i64, Vec<(String, u64, String, u32, u32, i64, bool)>, Vec<String>);

impl Lease {
    /// Enters the register.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`]
    pub async fn register(queue: &Queue, options: LeaseOptions) -> Result<Self, QueueError> {
        let unique = uuid::Uuid::now_v7().simple().to_string();
        let name: String = options
            .name
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() || "_.-".contains(c) { c } else { '_' })
            .take(48)
            .collect();
        // The last digits of a UUIDv7 are random.
        let worker = format!("{name}.{}", &unique[unique.len() - 12..]);
        let lease = Self {
            queue: queue.clone(),
            base: keys::base(&options.kind).into(),
            worker: worker.into(),
            options: Arc::new(options),
        };
        lease.heartbeat(0, &[]).await?;
        Ok(lease)
    }

    /// The id of the worker: its name, a dot, and 12 random hex digits.
    #[must_use]
    pub fn worker(&self) -> &str {
        &self.worker
    }

    /// The queue.
    #[must_use]
    pub fn queue(&self) -> &Queue {
        &self.queue
    }

    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    pub(crate) fn kind(&self) -> &RunnerKind {
        &self.options.kind
    }

    /// Takes up to `want` jobs. `has` names the documents that need not be sent. Jobs that are declared idempotent, or all if they are so
    /// by nature, are marked as running.
    pub(crate) async fn claim(&self, want: usize, by_nature: bool, has: &[Document]) -> Result<Claim, QueueError> {
        let mut args = Args::new();
        args.push(&self.worker).number(want).flag(by_nature);
        for document in has {
            args.push(&document.name());
        }
        let (pending, now, rows, documents): ClaimReply =
            self.queue.connection.run(&scripts::CLAIM, &self.base, &args).await?;
        let mut claim = Claim {
            pending,
            at: Timestamp::from_millis(now),
            jobs: Vec::with_capacity(rows.len()),
            documents: Vec::new(),
        };
        for (id, token, batch, index, attempt, run_until, running) in rows {
            let id = LocalId::new(&id).map_err(QueueError::corrupt)?;
            let batch = keys::digest_of_hex(&batch).ok_or_else(|| QueueError::corrupt("the digest of a batch"))?;
            let run_until = Timestamp::from_millis(run_until);
            claim.jobs.push(Claimed { id, token, batch, index, attempt, running, run_until });
        }
        for pair in documents.as_chunks::<2>().0 {
            if let Some(name) = Document::parse(&pair[0]) {
                claim.documents.push((name, pair[1].clone()));
            }
        }
        Ok(claim)
    }

    /// Takes up to `want` jobs, with the batches they came in. Those that are declared idempotent are marked as running.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`]; jobs may be claimed all the same, see [`Lease::recover`].
    pub async fn claim_jobs(&self, want: usize) -> Result<Claim, QueueError> {
        self.claim(want, false, &[]).await
    }

    /// Marks jobs as running. Gives Redis' time, and per job how often it was started, this time included: 0 if it is no longer the
    /// worker's. Safe to repeat.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`]
    pub async fn start(&self, jobs: &[(&LocalId, u64, bool)]) -> Result<(Timestamp, Vec<u32>), QueueError> {
        let mut args = Args::new();
        args.push(&self.worker);
        for (id, token, idempotent) in jobs {
            args.push(id.as_str()).number(token).flag(*idempotent);
        }
        let reply: Vec<i64> = self.queue.connection.run(&scripts::START, &self.base, &args).await?;
        let Some((now, attempts)) = reply.split_first() else { return Err(QueueError::corrupt("the reply of start")) };
        Ok((Timestamp::from_millis(*now), attempts.iter().map(|n| u32::try_from(*n).unwrap_or(0)).collect()))
    }

    /// Stores results with their receipts. Per job: whether it was stored; false if the job is no longer the worker's, which its log then
    /// says. Safe to repeat.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`]
    pub async fn finish(&self, jobs: &[Finish], receipts: &Envelope) -> Result<Vec<bool>, QueueError> {
        let mut args = Args::new();
        args.push(&self.worker).push(&receipts.digest().hex()).push(&receipts.to_json());
        for job in jobs {
            args.push(job.id.as_str()).number(job.token).push(job.status.as_str()).number(job.finished_at.as_millis());
            args.push(job.output.as_deref().unwrap_or("")).push(job.error.as_deref().unwrap_or("")).number(job.index);
        }
        let reply: Vec<i64> = self.queue.connection.run(&scripts::FINISH, &self.base, &args).await?;
        Ok(reply.iter().map(|stored| *stored == 1).collect())
    }

    /// Gives jobs back to the queue: those that did not start, and idempotent ones that did. Per job: whether it went back.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`]
    pub async fn release(&self, jobs: &[(&LocalId, u64)]) -> Result<Vec<bool>, QueueError> {
        self.give_back(jobs, "").await
    }

    /// Gives up jobs that this worker cannot handle, as if it had died: they are delivered again, but not for ever. `why` goes into their logs.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`]
    pub async fn give_up(&self, jobs: &[(&LocalId, u64)], why: &str) -> Result<Vec<bool>, QueueError> {
        self.give_back(jobs, why).await
    }

    async fn give_back(&self, jobs: &[(&LocalId, u64)], why: &str) -> Result<Vec<bool>, QueueError> {
        let mut args = Args::new();
        args.push(&self.worker).push(why);
        for (id, token) in jobs {
            args.push(id.as_str()).number(token);
        }
        let reply: Vec<i64> = self.queue.connection.run(&scripts::RELEASE, &self.base, &args).await?;
        Ok(reply.iter().map(|given| *given == 1).collect())
    }

    /// Gives back what Redis believes this worker to hold, but it does not: jobs of a claim whose reply was lost, or of one that Redis
    /// executed only after the worker had given it up. Not to be called while a claim is under way. Gives how many there were.
    ///
    /// They are named by their tokens: should this call be executed late as well, it does not touch what was claimed since.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`]
    pub async fn recover(&self, held: &[LocalId]) -> Result<usize, QueueError> {
        let mut args = Args::new();
        args.push(&self.worker);
        let believed: Vec<String> = self.queue.connection.run(&scripts::HOLDS, &self.base, &args).await?;
        let believed = believed.as_chunks::<2>().0.iter();
        let believed = believed.filter_map(|[id, token]| Some((LocalId::new(id).ok()?, token.parse::<u64>().ok()?)));
        let unknown: Vec<(LocalId, u64)> = believed.filter(|(id, _)| !held.contains(id)).collect();
        if unknown.is_empty() {
            return Ok(0);
        }
        let unknown: Vec<(&LocalId, u64)> = unknown.iter().map(|(id, token)| (id, *token)).collect();
        let why = format!("worker {} did not hear that it had been given the job", self.worker);
        Ok(self.give_up(&unknown, &why).await?.into_iter().filter(|given| *given).count())
    }

    /// Shows life, and asks about the jobs that the worker holds.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`]
    pub async fn heartbeat(&self, running: usize, held: &[(LocalId, u64)]) -> Result<Vec<Beat>, QueueError> {
        let options = &self.options;
        let peer_id = options.peer_id.to_string();
        let facts = [
            ("name", options.name.as_str()),
            ("peer_id", &peer_id),
            ("concurrency", &options.concurrency.to_string()),
            ("running", &running.to_string()),
            ("lease_ms", &options.lease.as_millis().to_string()),
        ];
        let mut args = Args::new();
        args.push(&self.worker).number(facts.len());
        for (name, value) in facts {
            args.push(name).push(value);
        }
        for (id, token) in held {
            args.push(id.as_str()).number(token);
        }
        let (reply, announced): (Result<Vec<i64>, _>, _) = tokio::join!(
            self.queue.connection.run(&scripts::HEARTBEAT, &self.base, &args),
            self.queue.announce_kind(self.kind())
        );
        // Refused when memory is full, and most likely there already: it is tried again with every heartbeat.
        if let Err(e) = announced {
            tracing::debug!("cannot enter the runner kind: {e}");
        }
        let reply = reply?;
        let beat = |n: &i64| match n {
            0 => Beat::Hold,
            1 => Beat::Cancel,
            _ => Beat::Gone,
        };
        Ok(reply.iter().map(beat).collect())
    }

    /// Leaves the register, if the worker holds no jobs any more.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`]
    pub async fn unregister(&self) -> Result<(), QueueError> {
        let mut args = Args::new();
        args.push(&self.worker);
        self.queue.connection.run::<i64>(&scripts::UNREGISTER, &self.base, &args).await.map(drop)
    }

    /// The text of a document beside the queue.
    pub(crate) async fn document(&self, document: Document) -> Result<Option<String>, QueueError> {
        self.queue.document(self.kind(), document).await
    }

    /// A connection on which to wait for jobs.
    pub(crate) async fn waiter(&self) -> Result<Waiter, QueueError> {
        Ok(Waiter { link: self.queue.connection.blocking().await?, wake: keys::key(self.kind(), "wake") })
    }

    /// The ids of jobs to stop, as they are cancelled; ends when the connection is lost.
    pub(crate) async fn cancellations(
        &self,
    ) -> Result<impl futures::Stream<Item = String> + Send + Unpin + use<>, QueueError> {
        self.queue.connection.subscribe(&[cancel_channel(self.kind())]).await
    }
}

/// Waits for jobs on a connection of its own.
pub(crate) struct Waiter {
    link: Blocking,
    wake: String,
}

impl Waiter {
    /// Returns when there may be jobs, or after 5 s.
    pub(crate) async fn wait(&mut self) -> Result<(), QueueError> {
        let mut pop = redis::cmd("BLPOP");
        pop.arg(&self.wake).arg(BLOCK.as_secs());
        self.link.query::<redis::Value>(&pop).await.map(drop)
    }
}
