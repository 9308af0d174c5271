//! The signed workflows and receipts that the steps of a batch refer to by digest: from the call, from memory, or from Redis.
//!
//! Redis is not trusted: what comes from there is verified like what comes from the call.

use std::collections::HashMap;
use std::sync::Arc;

use futures::future::join_all;
use horus_keys::{Digest, Envelope, RunnerKind, Timestamp};
use horus_runners::admission::{SignedBatch, SignedReceipts, SignedWorkflow};
use horus_runners::job::ReceiptRef;
use horus_transport::{Caller, ErrorKind, RpcError};

use super::create::{LARGE_BYTES, within_limit};
use super::{Supervisor, errors};
use crate::api::supervisor::{StoreDocumentsParams, StoredDocuments};

/// Most bytes of receipts that one batch may make this supervisor read from Redis.
const MAX_RECEIPT_BYTES: usize = 64 << 20;
/// How many receipts are asked for at a time.
const FETCH: usize = 64;

/// What a batch refers to, as far as it is at hand.
#[derive(Default)]
pub(super) struct Documents {
    pub(super) workflows: HashMap<Digest, Arc<SignedWorkflow>>,
    pub(super) receipts: HashMap<Digest, Arc<SignedReceipts>>,
    /// Receipts that stand in the batch itself.
    inline: Vec<Envelope>,
}

impl Documents {
    /// The workflows and receipts, to be stored beside the queues of the jobs: the runner checks them again.
    pub(super) fn envelopes(&self) -> (Vec<&Envelope>, Vec<&Envelope>) {
        let workflows = self.workflows.values().map(|signed| &signed.envelope).collect();
        let receipts = self.receipts.values().map(|signed| &signed.envelope).chain(&self.inline).collect();
        (workflows, receipts)
    }
}

impl Supervisor {
    /// Gathers what the batch refers to. What cannot be found is left out: admission says so then.
    pub(super) async fn documents(
        &self,
        batch: &SignedBatch,
        workflow: Option<Envelope>,
        receipts: Vec<Envelope>,
    ) -> Result<Arc<Documents>, RpcError> {
        let mut wanted = Wanted::of(batch);
        let mut found = Documents { inline: inline(batch), ..Documents::default() };
        if wanted.is_empty() {
            return Ok(Arc::new(found));
        }
        if let Some(envelope) = workflow
            && wanted.workflows.contains_key(&envelope.digest())
        {
            let signed = self.verified_workflow(envelope).await?;
            wanted.workflows.remove(&signed.digest);
            found.workflows.insert(signed.digest, signed);
        }
        for envelope in receipts {
            if wanted.receipts.remove(&envelope.digest()).is_some() {
                let signed = self.verified_receipts(envelope).await?;
                found.receipts.insert(signed.digest, signed);
            }
        }
        wanted.workflows.retain(|digest, _| match self.verifier.known_workflow(digest) {
            Some(signed) => found.workflows.insert(*digest, signed).is_some(),
            None => true,
        });
        wanted.receipts.retain(|digest, _| match self.verifier.known_receipts(digest) {
            Some(signed) => found.receipts.insert(*digest, signed).is_some(),
            None => true,
        });
        self.read_workflows(wanted.workflows, &mut found).await?;
        self.read_receipts(wanted.receipts, &mut found).await?;
        Ok(Arc::new(found))
    }

    /// Keeps what steps will refer to that are sent next.
    pub(super) async fn store_documents(
        self: Arc<Self>,
        caller: Caller,
        params: StoreDocumentsParams,
    ) -> Result<StoredDocuments, RpcError> {
        let StoreDocumentsParams { runner, workflow, receipts } = params;
        self.gate.check()?;
        within_limit(&receipts)?;
        self.require_kind(&runner, None).await?;
        let now = Timestamp::now();
        let workflow = match workflow {
            Some(envelope) => Some(self.verified_workflow(envelope.read()?).await?),
            None => None,
        };
        if let Some(signed) = &workflow {
            let coordinator = caller.peer.ok_or_else(|| RpcError::internal("a coordinator without a key"))?;
            let checked = self.verifier.check_delegation(signed, &coordinator, &runner, now);
            checked.map_err(|refusal| errors::refused(&refusal))?;
        }
        let mut kept = Vec::with_capacity(receipts.len());
        for envelope in receipts {
            let receipts = self.verified_receipts(envelope.read()?).await?;
            // Steps that need them are refused then, with the reason.
            if self.verifier.check_receipts(&receipts, now).is_ok() {
                kept.push(receipts);
            }
        }
        let workflow = workflow.as_ref().map(|signed| (&signed.envelope, signed.signer));
        let receipts: Vec<&Envelope> = kept.iter().map(|signed| &signed.envelope).collect();
        self.gate.pass(self.queue.keep(&runner, workflow, &receipts).await)?;
        Ok(StoredDocuments { stored: receipts.len() + usize::from(workflow.is_some()) })
    }

    async fn read_workflows(&self, wanted: HashMap<Digest, RunnerKind>, found: &mut Documents) -> Result<(), RpcError> {
        for (digest, kind) in wanted {
            let Some(envelope) = self.gate.pass(self.queue.workflow(&kind, &digest).await)? else {
                continue;
            };
            match self.verified_workflow(envelope).await {
                Ok(signed) => {
                    found.workflows.insert(digest, signed);
                }
                Err(error) => tracing::warn!(%digest, %error, "Redis holds a workflow that is not valid"),
            }
        }
        Ok(())
    }

    async fn read_receipts(&self, wanted: HashMap<Digest, RunnerKind>, found: &mut Documents) -> Result<(), RpcError> {
        if wanted.is_empty() {
            return Ok(());
        }
        // Receipts lie with the runner kind that signed them, or with one that a step needed them for.
        let kinds = self.kinds_now().await?;
        let wanted: Vec<(Digest, RunnerKind)> = wanted.into_iter().collect();
        let mut bytes = 0;
        for some in wanted.chunks(FETCH) {
            for result in join_all(some.iter().map(|(digest, kind)| self.read_receipt(digest, kind, &kinds))).await {
                let Some(envelope) = result? else {
                    continue;
                };
                bytes += envelope.payload().len();
                if bytes > MAX_RECEIPT_BYTES {
                    return Err(RpcError::new(
                        ErrorKind::TooLarge,
                        format!(
                            "the batch refers to receipts of more than {MAX_RECEIPT_BYTES} bytes: send fewer steps in a batch"
                        ),
                    ));
                }
                let digest = envelope.digest();
                match self.verified_receipts(envelope).await {
                    Ok(signed) => {
                        found.receipts.insert(digest, signed);
                    }
                    Err(error) => tracing::warn!(%digest, %error, "Redis holds receipts that are not valid"),
                }
            }
        }
        Ok(())
    }

    async fn read_receipt(
        &self,
        digest: &Digest,
        kind: &RunnerKind,
        kinds: &[RunnerKind],
    ) -> Result<Option<Envelope>, RpcError> {
        for at in std::iter::once(kind).chain(kinds.iter().filter(|other| *other != kind)) {
            if let Some(envelope) = self.gate.pass(self.queue.receipts(at, digest).await)? {
                return Ok(Some(envelope));
            }
        }
        Ok(None)
    }

    async fn verified_workflow(&self, envelope: Envelope) -> Result<Arc<SignedWorkflow>, RpcError> {
        let verifier = self.verifier.clone();
        let large = envelope.payload().len() >= LARGE_BYTES;
        self.compute(large, move || verifier.workflow(&envelope)).await?.map_err(|refusal| errors::refused(&refusal))
    }

    async fn verified_receipts(&self, envelope: Envelope) -> Result<Arc<SignedReceipts>, RpcError> {
        let verifier = self.verifier.clone();
        let large = envelope.payload().len() >= LARGE_BYTES;
        self.compute(large, move || verifier.receipts(&envelope)).await?.map_err(|refusal| errors::refused(&refusal))
    }
}

/// Receipts that stand in the batch itself: the queue keeps them beside it all the same.
fn inline(batch: &SignedBatch) -> Vec<Envelope> {
    let references = batch.jobs.iter().flat_map(|(spec, _)| &spec.receipts);
    let envelopes = references.filter_map(|reference| match reference {
        ReceiptRef::Envelope(envelope) => Some(envelope.as_ref().clone()),
        ReceiptRef::Digest(_) => None,
    });
    envelopes.collect()
}

/// What a batch refers to by digest, with the runner kind of a step that does.
struct Wanted {
    workflows: HashMap<Digest, RunnerKind>,
    receipts: HashMap<Digest, RunnerKind>,
}

impl Wanted {
    fn of(batch: &SignedBatch) -> Self {
        let mut wanted = Self { workflows: HashMap::new(), receipts: HashMap::new() };
        for (spec, _) in &batch.jobs {
            let Some(delegation) = &spec.delegation else {
                continue;
            };
            wanted.workflows.entry(delegation.workflow).or_insert_with(|| spec.runner.clone());
            for receipt in &spec.receipts {
                if let ReceiptRef::Digest(digest) = receipt {
                    wanted.receipts.entry(*digest).or_insert_with(|| spec.runner.clone());
                }
            }
        }
        wanted
    }

    fn is_empty(&self) -> bool {
        self.workflows.is_empty() && self.receipts.is_empty()
    }
}
