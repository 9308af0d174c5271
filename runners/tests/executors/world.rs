//! Jobs that passed admission, from a submitter whom the runners trust.

use std::{sync::LazyLock, time::Duration};

use horus_keys::{Digest, Envelope, Identity, PayloadType, Role, Timestamp, Trust, TrustPolicy, TrustedKey};
use horus_runners::{
    admission::{Admission, Audience, SignedReceipts, SignedWorkflow, Verifier},
    executor::{Context, ExecutionError, Executor},
    job::{Job, JobBatch, JobSpec, LocalId},
};
use serde_json::{Value, value::RawValue};
use std::sync::Arc;

static VERIFIER: LazyLock<(Identity, Verifier)> = LazyLock::new(|| {
    let submitter = Identity::from_seed(&[2; 32]);
    let runners = ["sal", "osiris"].map(|kind| kind.parse().unwrap()).to_vec();
    let key = TrustedKey { id: submitter.peer_id(), name: None, roles: vec![Role::Submitter], runners };
    let policy = TrustPolicy { keys: vec![key], ..TrustPolicy::default() };
    (submitter, Verifier::new(Trust::new(policy)))
});

/// A signed and admitted job, changed by `edit` before it is signed.
pub(crate) fn job(kind: &str, script: &str, edit: impl FnOnce(&mut JobSpec)) -> Job {
    let (submitter, verifier) = &*VERIFIER;
    let until = Timestamp::now().saturating_add(Duration::from_secs(3600));
    let mut spec = JobSpec::new(LocalId::generate(), kind.parse().unwrap(), script, until);
    edit(&mut spec);
    let batch = JobBatch { aud: vec![submitter.peer_id()], jobs: vec![spec], certificates: vec![] };
    let batch = verifier.batch(&Envelope::sign_json(submitter, PayloadType::Jobs, &batch)).unwrap();
    let workflows = |_: &Digest| None::<Arc<SignedWorkflow>>;
    let receipts = |_: &Digest| None::<Arc<SignedReceipts>>;
    let me = submitter.peer_id();
    let audience = Audience::Supervisor(&me);
    let at = Admission { batch: &batch, audience, workflows: &workflows, receipts: &receipts, now: Timestamp::now() };
    verifier.admit(at).unwrap().remove(0)
}

pub(crate) fn raw(json: &str) -> Box<RawValue> {
    RawValue::from_string(json.to_owned()).unwrap()
}

/// What a run gave: the output, or the error; and the log.
pub(crate) struct Ran {
    pub(crate) result: Result<String, ExecutionError>,
    pub(crate) context: Context,
}

impl Ran {
    pub(crate) fn output(&self) -> Value {
        match &self.result {
            Ok(text) => serde_json::from_str(text).unwrap(),
            Err(e) => panic!("{e}\n{}", self.log()),
        }
    }

    pub(crate) fn error(&self) -> &ExecutionError {
        self.result.as_ref().expect_err("should have failed")
    }

    pub(crate) fn log(&self) -> String {
        self.context.log.lines().into_iter().map(|line| line.text + "\n").collect()
    }
}

pub(crate) async fn execute(executor: &impl Executor, job: &Job, context: Context) -> Ran {
    let result = executor.execute(job, &context).await.map(|output| output.get().to_owned());
    Ran { result, context }
}

/// Runs it as the worker does: `cancel` fires when the time is over.
pub(crate) async fn execute_for(executor: &impl Executor, job: &Job, timeout: Duration) -> Ran {
    let context = Context::detached(timeout);
    let cancel = context.cancel.clone();
    let timer = tokio::spawn(async move {
        tokio::time::sleep(timeout).await;
        cancel.cancel();
    });
    let ran = execute(executor, job, context).await;
    timer.abort();
    ran
}
