//! `wait_jobs`: the long poll.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use horus_keys::{Digest, Envelope};
use horus_runners::job::JobId;
use horus_transport::{Caller, ErrorKind, RpcError};
use tokio::time::Instant;

use super::create::LARGE_BYTES;
use super::{Supervisor, errors, wire};
use crate::api::supervisor::{JobResult, MAX_WAIT, MAX_WAIT_JOBS, WaitJobsParams, WaitedJobs};

/// How long a wait trusts hints before it looks at the truth by itself.
const LOOK_AGAIN: Duration = Duration::from_secs(20);
/// What the results of one answer may take, in bytes of JSON, roughly: an answer must fit into a message of 1 MiB. One
/// result always fits.
const ANSWER_BYTES: usize = 768 * 1024;
/// How many batches of receipts are verified ahead of being needed.
const AHEAD: usize = 2;
/// How many results are fetched at a time: they may have 512 KiB each.
const FETCH: usize = 64;

impl Supervisor {
    pub(super) async fn wait_jobs(
        self: Arc<Self>,
        caller: Caller,
        params: WaitJobsParams,
    ) -> Result<WaitedJobs, RpcError> {
        self.gate.check()?;
        let sight = self.sight(&caller)?;
        let ids = distinct(params.job_ids)?;
        let deadline = Instant::now() + Duration::from_millis(params.timeout_ms).min(MAX_WAIT);
        // Registered before the first look: a job that ends in between is hinted.
        let wait = self.waiters.register(&ids).map_err(|_| {
            RpcError::new(
                ErrorKind::RateLimited,
                "too many calls wait at this supervisor already: wait for several jobs in one call, or come back later",
            )
            .with("retry_after_ms", 1000)
        })?;
        self.require_visible(sight, &ids).await?;

        let mut answer = Answer::new(params.share_receipts);
        let mut look: Vec<JobId> = wait.unknown().to_vec();
        loop {
            self.collect(&mut answer, look).await?;
            let satisfied = if params.any { !answer.ended.is_empty() } else { answer.ended.len() == ids.len() };
            let now = Instant::now();
            if satisfied || answer.is_full() || now >= deadline || self.shutdown.is_draining() {
                self.look_ahead(&answer);
                return Ok(answer.finish(&ids));
            }
            look = tokio::select! {
                hints = wait.hinted() => {
                    hints.results.into_iter().for_each(|result| answer.take(wire::result(result)));
                    if hints.all { ids.clone() } else { hints.jobs }
                }
                () = tokio::time::sleep_until(deadline.min(now + LOOK_AGAIN)) => ids.clone(),
                () = self.shutdown.draining() => ids.clone(),
            };
            look.retain(|id| !answer.ended.contains(id));
        }
    }

    /// The receipts of a step come back with the steps after it, and are verified then. While the answer is on its way there is
    /// time to do so already.
    fn look_ahead(&self, answer: &Answer) {
        let small = |envelope: &Envelope| envelope.payload().len() < LARGE_BYTES;
        let is_step = |id: &JobId| self.owners.get(id).is_some_and(|owner| !owner.coordinators.is_empty());
        if answer.receipts.len() > AHEAD
            || !answer.receipts.values().all(small)
            || !answer.ended.iter().take(1).any(is_step)
        {
            return;
        }
        let (verifier, receipts) = (self.verifier.clone(), answer.receipts.values().cloned().collect::<Vec<_>>());
        tokio::spawn(async move { receipts.iter().for_each(|envelope| drop(verifier.receipts(envelope))) });
    }

    /// Looks at the truth of `jobs` and takes the results of those that have ended into the answer.
    async fn collect(&self, answer: &mut Answer, jobs: Vec<JobId>) -> Result<(), RpcError> {
        for some in jobs.chunks(FETCH) {
            if answer.is_full() {
                return Ok(());
            }
            let results = self.gate.pass(self.queue.results(some).await)?;
            for (id, result) in some.iter().zip(results) {
                let result = result.ok_or_else(|| errors::no_job(id))?;
                if result.status.is_final() {
                    answer.take(wire::result(result));
                }
            }
        }
        Ok(())
    }
}

/// The ids, each once, in their order.
fn distinct(ids: Vec<JobId>) -> Result<Vec<JobId>, RpcError> {
    if ids.is_empty() || ids.len() > MAX_WAIT_JOBS {
        return Err(errors::invalid(format!("job_ids names {} jobs: give 1 to {MAX_WAIT_JOBS}", ids.len())));
    }
    let mut seen = HashSet::with_capacity(ids.len());
    Ok(ids.into_iter().filter(|id| seen.insert(id.clone())).collect())
}

/// An answer as it grows, bounded in size.
struct Answer {
    share_receipts: bool,
    bytes: usize,
    /// A result that did not fit any more.
    overflowed: bool,
    ended: HashSet<JobId>,
    done: HashMap<JobId, JobResult>,
    receipts: HashMap<Digest, Envelope>,
}

impl Answer {
    fn new(share_receipts: bool) -> Self {
        Self {
            share_receipts,
            bytes: 0,
            overflowed: false,
            ended: HashSet::new(),
            done: HashMap::new(),
            receipts: HashMap::new(),
        }
    }

    fn is_full(&self) -> bool {
        self.overflowed
    }

    /// Takes a result of a job that has ended, if it still fits.
    fn take(&mut self, mut result: JobResult) {
        if self.ended.contains(&result.job_id) {
            return;
        }
        let mut shared = None;
        let mut size = plain_size(&result);
        if let Some(at) = &mut result.receipt
            && let Some(envelope) = at.envelope.take()
        {
            let digest = envelope.digest();
            if !self.share_receipts || !self.receipts.contains_key(&digest) {
                size += envelope_size(&envelope);
            }
            if self.share_receipts {
                at.digest = Some(digest);
                shared = Some((digest, envelope));
            } else {
                at.envelope = Some(envelope);
            }
        }
        if self.bytes + size > ANSWER_BYTES && !self.done.is_empty() {
            self.overflowed = true;
            return;
        }
        self.bytes += size;
        self.receipts.extend(shared);
        self.ended.insert(result.job_id.clone());
        self.done.insert(result.job_id.clone(), result);
    }

    /// The answer: results in the order of the ids that were asked for.
    fn finish(mut self, ids: &[JobId]) -> WaitedJobs {
        let mut waited = WaitedJobs { receipts: self.receipts.into_values().collect(), ..WaitedJobs::default() };
        for id in ids {
            match self.done.remove(id) {
                Some(result) => waited.done.push(result),
                None => waited.pending.push(id.clone()),
            }
        }
        waited
    }
}

fn plain_size(result: &JobResult) -> usize {
    let output = result.output.as_ref().map_or(0, |output| output.get().len());
    let error = result.error.as_ref().map_or(0, |error| error.code.len() + error.message.len());
    output + error + 256
}

/// The size of an envelope in JSON: its payload in base64, and some 300 bytes around it.
fn envelope_size(envelope: &Envelope) -> usize {
    envelope.payload().len().div_ceil(3) * 4 + 384
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::supervisor::ReceiptAt;
    use horus_keys::{Identity, PayloadType};
    use horus_runners::job::JobStatus;

    fn id(n: usize) -> JobId {
        format!("noop-{n}").parse().unwrap()
    }

    fn result(n: usize, output: usize, receipts: &Envelope) -> JobResult {
        JobResult {
            job_id: id(n),
            status: JobStatus::Succeeded,
            output: Some(serde_json::value::to_raw_value(&"x".repeat(output)).unwrap()),
            error: None,
            receipt: Some(ReceiptAt { envelope: Some(receipts.clone()), digest: None, index: n as u32 }),
        }
    }

    fn receipts(bytes: usize) -> Envelope {
        Envelope::sign(&Identity::generate(), PayloadType::Receipts, vec![b' '; bytes])
    }

    #[test]
    fn an_answer_fits_into_a_message_and_nothing_is_lost() {
        let envelope = receipts(1000);
        let ids: Vec<JobId> = (0..20).map(id).collect();
        let mut answer = Answer::new(false);
        (0..20).for_each(|n| answer.take(result(n, 100_000, &envelope)));
        assert!(answer.is_full());
        let waited = answer.finish(&ids);
        assert!(serde_json::to_vec(&waited).unwrap().len() < 1 << 20);
        assert!(!waited.done.is_empty());
        let named: Vec<JobId> =
            waited.done.iter().map(|r| r.job_id.clone()).chain(waited.pending.iter().cloned()).collect();
        assert_eq!(named, ids);
    }

    #[test]
    fn one_result_always_fits() {
        let mut answer = Answer::new(false);
        answer.take(result(0, 512 << 10, &receipts(600_000)));
        let waited = answer.finish(&[id(0)]);
        assert_eq!((waited.done.len(), waited.pending.len()), (1, 0));
    }

    #[test]
    fn shared_receipts_travel_once() {
        let envelope = receipts(20_000);
        let ids: Vec<JobId> = (0..256).map(id).collect();
        let mut answer = Answer::new(true);
        (0..256).for_each(|n| answer.take(result(n, 2, &envelope)));
        let waited = answer.finish(&ids);
        assert_eq!((waited.done.len(), waited.receipts.len()), (256, 1));
        let (found, index) = waited.receipt_of(&waited.done[7]).unwrap();
        assert_eq!((found.digest(), index), (envelope.digest(), 7));
        assert!(serde_json::to_vec(&waited).unwrap().len() < 100_000);
    }

    #[test]
    fn a_job_named_twice_is_one_job() {
        assert_eq!(distinct(vec![id(1), id(2), id(1)]).unwrap(), [id(1), id(2)]);
        assert!(distinct(vec![]).is_err());
        assert!(distinct((0..=MAX_WAIT_JOBS).map(id).collect()).is_err());
    }
}
