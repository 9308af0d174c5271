//! A supervisor with a runner, in memory: it admits jobs by the real rules, and its runner does what the payload says.
//!
//! `echo` gives its input, `text ...` a string, `fail CODE` fails, `flaky N` fails before attempt N, `slow MS` takes its time,
//! `hold` goes on until it is cancelled.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use horus_keys::{Digest, Envelope, Identity, NodeAnnouncement, PayloadType, PeerId, Role, Timestamp, Trust};
use horus_runners::admission::{Admission, Audience, SignedReceipts, SignedWorkflow, Verifier};
use horus_runners::job::{Ending, Job, JobError, JobId, JobStatus, Receipt, ReceiptBatch};
use horus_transport::{
    Address, Caller, Dispatcher, ErrorKind, GetNodeInfo, Limits, MemoryNonces, MethodTable, NoParams, NodeInfo,
    RateLimits, RpcError, RpcServer, Security, ServerOptions, ServiceInfo,
};
use serde_json::value::RawValue;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::api::supervisor::{
    CancelJob, CreateJobs, CreateJobsParams, CreatedJob, CreatedJobs, GetJobLogs, JobIdParams, JobResult, JobState,
    ListRunners, ListRunnersParams, LogLine, LogPage, LogParams, LogStream, ReceiptAt, Runner, RunnerState, Runners,
    StoreDocuments, StoreDocumentsParams, StoredDocuments, WaitJobs, WaitJobsParams, WaitedJobs,
};

/// Trouble that the supervisor can be told to make.
#[derive(Default)]
pub(crate) struct Trouble {
    /// It does what it is asked and answers with an error, as if the answer were lost.
    pub(crate) deaf: AtomicBool,
    /// It has no room.
    pub(crate) full: AtomicBool,
    /// It refuses every job.
    pub(crate) forbids: AtomicBool,
    /// It knows nothing of the key that signed the workflow, and so does not even look at the jobs.
    pub(crate) distrusts: AtomicBool,
    /// It signs receipts with a key that nobody trusts.
    pub(crate) forges: AtomicBool,
    /// It says `lost` of everything.
    pub(crate) loses: AtomicBool,
    /// It keeps no documents that come ahead of jobs.
    pub(crate) keeps_nothing: AtomicBool,
    /// What it answers to the next calls that bring jobs: it takes those of these kinds, and refuses the call all the same.
    pub(crate) refusals: Mutex<VecDeque<(&'static [&'static str], RpcError)>>,
}

#[derive(Clone)]
struct Held {
    spec: Digest,
    submitter: PeerId,
    result: JobResult,
}

pub(crate) struct Fake {
    me: Identity,
    runner: Identity,
    verifier: Verifier,
    pub(crate) trouble: Trouble,
    jobs: Mutex<HashMap<JobId, Held>>,
    workflows: Mutex<HashMap<Digest, Arc<SignedWorkflow>>>,
    receipts: Mutex<HashMap<Digest, Arc<SignedReceipts>>>,
    ended: Notify,
    /// How often each script was begun.
    pub(crate) begun: Mutex<HashMap<JobId, usize>>,
    pub(crate) calls: AtomicUsize,
    /// Calls that brought documents ahead of jobs.
    pub(crate) ahead: AtomicUsize,
    pub(crate) at_once: AtomicUsize,
    pub(crate) most_at_once: AtomicUsize,
    cancelled: Mutex<HashMap<JobId, CancellationToken>>,
}

/// A fake that serves.
pub(crate) struct Serving {
    pub(crate) fake: Arc<Fake>,
    pub(crate) address: Address,
    stop: CancellationToken,
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Serving {
    /// Stops listening, as if the host were gone; what it holds stays.
    pub(crate) fn vanish(&self) {
        self.stop.cancel();
    }
}

pub(crate) async fn serve(me: &Identity, runner: &Identity, trust: &Trust) -> Serving {
    let fake = Arc::new(Fake {
        me: me.clone(),
        runner: runner.clone(),
        verifier: Verifier::new(trust.clone()),
        trouble: Trouble::default(),
        jobs: Mutex::default(),
        workflows: Mutex::default(),
        receipts: Mutex::default(),
        ended: Notify::new(),
        begun: Mutex::default(),
        calls: AtomicUsize::new(0),
        ahead: AtomicUsize::new(0),
        at_once: AtomicUsize::new(0),
        most_at_once: AtomicUsize::new(0),
        cancelled: Mutex::default(),
    });
    serve_at(fake, trust, "127.0.0.1:0".parse().unwrap()).await
}

pub(crate) async fn serve_at(fake: Arc<Fake>, trust: &Trust, at: std::net::SocketAddr) -> Serving {
    let table = MethodTable::new(ServiceInfo { title: "fake".into(), version: "0".into(), description: String::new() })
        .method::<GetNodeInfo, _, _>(Fake::info)
        .method::<CreateJobs, _, _>(Fake::create)
        .method::<StoreDocuments, _, _>(Fake::store)
        .method::<WaitJobs, _, _>(Fake::wait)
        .method::<CancelJob, _, _>(Fake::cancel)
        .method::<GetJobLogs, _, _>(Fake::logs)
        .method::<ListRunners, _, _>(Fake::runners);
    let security = Security {
        me: fake.me.peer_id(),
        trust: trust.clone(),
        nonces: Arc::new(MemoryNonces::new()),
        rates: RateLimits::default(),
    };
    // What fits into a message of the mesh.
    let limits = Limits { request_bytes: 1 << 20, ..Limits::default() };
    let dispatcher = Dispatcher::new(table, Arc::clone(&fake), security, limits);
    let options = ServerOptions { listen: vec![at], ..ServerOptions::default() };
    let server = RpcServer::bind(dispatcher, options).await.unwrap();
    let address = format!("http://{}", server.local_addrs()[0]).parse().unwrap();
    let stop = CancellationToken::new();
    tokio::spawn(server.serve(stop.clone()));
    Serving { fake, address, stop }
}

impl Fake {
    pub(crate) fn job_count(&self) -> usize {
        self.jobs.lock().unwrap().len()
    }

    fn lost_answer<T>(&self, answer: T) -> Result<T, RpcError> {
        if self.trouble.deaf.load(Ordering::SeqCst) {
            return Err(RpcError::new(ErrorKind::RedisUnavailable, "the answer is lost"));
        }
        Ok(answer)
    }

    async fn info(self: Arc<Self>, _: Caller, _: NoParams) -> Result<NodeInfo, RpcError> {
        let announcement = NodeAnnouncement {
            roles: vec![Role::Supervisor],
            topics: vec![],
            runners: vec![],
            addresses: vec![],
            mesh_public_key: None,
            sealing_public_key: None,
            expires_at: Timestamp::now().saturating_add(Duration::from_secs(600)),
        };
        let envelope = announcement.sign(&self.me);
        Ok(NodeInfo {
            envelope,
            peer_id: self.me.peer_id(),
            role: Role::Supervisor,
            version: "0".into(),
            certificate: None,
        })
    }

    async fn runners(self: Arc<Self>, _: Caller, _: ListRunnersParams) -> Result<Runners, RpcError> {
        let runner = |kind: &str| Runner {
            name: kind.into(),
            runner: kind.parse().unwrap(),
            peer_id: Some(self.runner.peer_id()),
            state: RunnerState::Alive,
            running: 0,
            concurrency: 8,
            queued: 0,
            worker: None,
            last_seen: None,
        };
        self.lost_answer(Runners { runners: vec![runner("noop"), runner("sal")], redis: None, labels: BTreeMap::new() })
    }

    async fn create(self: Arc<Self>, _: Caller, params: CreateJobsParams) -> Result<CreatedJobs, RpcError> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        if self.trouble.full.load(Ordering::SeqCst) {
            return Err(RpcError::new(ErrorKind::QueueFull, "full"));
        }
        if self.trouble.forbids.load(Ordering::SeqCst) {
            return Err(RpcError::new(ErrorKind::NotAllowed, "not here").with("index", 0));
        }
        if self.trouble.distrusts.load(Ordering::SeqCst) {
            return Err(RpcError::new(ErrorKind::UntrustedSigner, "nothing is known of that key here"));
        }
        let refused = |refusal: horus_runners::admission::Refusal| {
            let error = RpcError::new(ErrorKind::from_name(refusal.kind.as_str()).unwrap(), refusal.message);
            match refusal.index {
                Some(index) => error.with("index", index),
                None => error,
            }
        };
        if let Some(workflow) = params.workflow {
            let workflow = self.verifier.workflow(&workflow.read()?).map_err(refused)?;
            self.workflows.lock().unwrap().insert(workflow.digest, workflow);
        }
        for receipts in params.receipts {
            let receipts = self.verifier.receipts(&receipts.read()?).map_err(refused)?;
            self.receipts.lock().unwrap().insert(receipts.digest, receipts);
        }
        let batch = self.verifier.batch(&params.envelope.read()?).map_err(refused)?;
        let me = self.me.peer_id();
        let jobs = self
            .verifier
            .admit(Admission {
                batch: &batch,
                audience: Audience::Supervisor(&me),
                workflows: &|digest| self.workflows.lock().unwrap().get(digest).cloned(),
                receipts: &|digest| self.receipts.lock().unwrap().get(digest).cloned(),
                now: Timestamp::now(),
            })
            .map_err(refused)?;
        let planned = self.trouble.refusals.lock().unwrap().pop_front();
        let mut created = Vec::new();
        for job in jobs {
            if planned.as_ref().is_some_and(|(takes, _)| !takes.contains(&job.id.runner().as_str())) {
                continue;
            }
            let mut held = self.jobs.lock().unwrap();
            if let Some(known) = held.get(&job.id) {
                assert_eq!(known.spec, job.spec, "the same attempt came with another spec");
                created.push(CreatedJob { job_id: job.id.clone(), status: known.result.status, created: false });
                continue;
            }
            let result = JobResult {
                job_id: job.id.clone(),
                status: JobStatus::Queued,
                output: None,
                error: None,
                receipt: None,
            };
            held.insert(job.id.clone(), Held { spec: job.spec, submitter: job.submitter, result });
            created.push(CreatedJob { job_id: job.id.clone(), status: JobStatus::Queued, created: true });
            drop(held);
            tokio::spawn(Arc::clone(&self).execute(job));
        }
        match planned {
            Some((_, refusal)) => Err(refusal),
            None => self.lost_answer(CreatedJobs { jobs: created }),
        }
    }

    async fn store(self: Arc<Self>, _: Caller, params: StoreDocumentsParams) -> Result<StoredDocuments, RpcError> {
        self.ahead.fetch_add(1, Ordering::SeqCst);
        if self.trouble.keeps_nothing.load(Ordering::SeqCst) {
            return Err(RpcError::new(ErrorKind::RedisUnavailable, "no room for documents"));
        }
        let stored = params.receipts.len() + usize::from(params.workflow.is_some());
        if let Some(workflow) = params.workflow {
            let workflow = self.verifier.workflow(&workflow.read()?).unwrap();
            self.workflows.lock().unwrap().insert(workflow.digest, workflow);
        }
        for receipts in params.receipts {
            let receipts = self.verifier.receipts(&receipts.read()?).unwrap();
            self.receipts.lock().unwrap().insert(receipts.digest, receipts);
        }
        Ok(StoredDocuments { stored })
    }

    async fn execute(self: Arc<Self>, job: Job) {
        *self.begun.lock().unwrap().entry(job.id.clone()).or_default() += 1;
        let token = CancellationToken::new();
        self.cancelled.lock().unwrap().insert(job.id.clone(), token.clone());
        let now = self.at_once.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_at_once.fetch_max(now, Ordering::SeqCst);
        let started_at = Timestamp::now();
        let (word, rest) = job.payload.split_once(' ').unwrap_or((&job.payload, ""));
        let attempt = job.delegation.as_ref().map_or(1, |delegation| delegation.attempt);
        let input = job.input.as_ref().map_or("null", |input| input.get()).to_owned();
        let fail = |code: &str| Err(JobError::new(code, "as it was told to"));
        let end: Result<String, JobError> = match word {
            "echo" => Ok(input),
            "text" => Ok(serde_json::to_string(rest).unwrap()),
            "fail" => fail(rest),
            "flaky" if attempt < rest.parse().unwrap() => fail("FLAKY"),
            "flaky" => Ok(attempt.to_string()),
            "slow" => {
                tokio::time::sleep(Duration::from_millis(rest.parse().unwrap())).await;
                Ok("\"done\"".to_owned())
            }
            "hold" => {
                token.cancelled().await;
                fail("CANCELLED")
            }
            other => panic!("what is {other}?"),
        };
        self.at_once.fetch_sub(1, Ordering::SeqCst);
        let outcome = match &end {
            Ok(_) => JobStatus::Succeeded,
            Err(_) if token.is_cancelled() => JobStatus::Cancelled,
            Err(_) => JobStatus::Failed,
        };
        let receipt = Receipt::of(
            &job,
            &Ending {
                attempt: 1,
                started_at,
                finished_at: Timestamp::now(),
                outcome,
                output: end.as_deref().ok(),
                error: end.as_ref().err(),
            },
        );
        let forged = Identity::from_seed(&[99; 32]);
        let signer = if self.trouble.forges.load(Ordering::SeqCst) { &forged } else { &self.runner };
        let batch = ReceiptBatch { receipts: vec![receipt], certificates: vec![] };
        let envelope = Envelope::sign_json(signer, PayloadType::Receipts, &batch);
        let mut jobs = self.jobs.lock().unwrap();
        let held = jobs.get_mut(&job.id).unwrap();
        if self.trouble.loses.load(Ordering::SeqCst) {
            held.result.status = JobStatus::Lost;
        } else {
            held.result.status = outcome;
            held.result.output = end.as_ref().ok().map(|text| RawValue::from_string(text.clone()).unwrap());
            held.result.error = end.err();
            held.result.receipt = Some(ReceiptAt { envelope: Some(envelope), digest: None, index: 0 });
        }
        drop(jobs);
        self.ended.notify_waiters();
    }

    async fn wait(self: Arc<Self>, caller: Caller, params: WaitJobsParams) -> Result<WaitedJobs, RpcError> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        assert!(caller.peer.is_some());
        let until = tokio::time::Instant::now() + Duration::from_millis(params.timeout_ms);
        loop {
            let ended = self.ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            let mut waited = WaitedJobs::default();
            for id in &params.job_ids {
                let held = self.jobs.lock().unwrap().get(id).cloned();
                let held = held.ok_or_else(|| {
                    RpcError::new(ErrorKind::JobNotFound, "no such job").with("job_id", id.to_string())
                })?;
                if held.result.status.is_final() {
                    waited.done.push(held.result);
                } else {
                    waited.pending.push(id.clone());
                }
            }
            let enough = if params.any { !waited.done.is_empty() } else { waited.pending.is_empty() };
            if enough || tokio::time::Instant::now() >= until {
                return self.lost_answer(waited);
            }
            let _ = tokio::time::timeout_at(until, ended).await;
        }
    }

    async fn cancel(self: Arc<Self>, _: Caller, params: JobIdParams) -> Result<JobState, RpcError> {
        let token = self.cancelled.lock().unwrap().get(&params.job_id).cloned();
        let token = token.ok_or_else(|| RpcError::new(ErrorKind::JobNotFound, "no such job"))?;
        token.cancel();
        Ok(JobState { job_id: params.job_id, status: JobStatus::Running })
    }

    async fn logs(self: Arc<Self>, _: Caller, params: LogParams) -> Result<LogPage, RpcError> {
        let from: usize = params.cursor.map_or(0, |cursor| cursor.parse().unwrap());
        if !self.jobs.lock().unwrap().contains_key(&params.job_id) {
            return Err(RpcError::new(ErrorKind::JobNotFound, "no such job"));
        }
        let all = (0..5).map(|n| LogLine {
            time: Timestamp::from_millis(1000 + n),
            stream: LogStream::Stdout,
            text: format!("line {n}"),
        });
        let lines: Vec<LogLine> = all.skip(from).take(params.limit.unwrap() as usize).collect();
        let cursor = (from + lines.len()).to_string();
        Ok(LogPage { lines, cursor })
    }

    /// Whose jobs it holds.
    pub(crate) fn submitters(&self) -> Vec<PeerId> {
        self.jobs.lock().unwrap().values().map(|held| held.submitter).collect()
    }
}
