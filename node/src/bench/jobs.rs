//! Jobs: how many per second end to end, how many when queue and runners are measured apart, and how long one takes.

use std::time::{Duration, Instant};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use horus_keys::{Envelope, Identity, PayloadType, PeerId, RunnerKind, Timestamp};
use horus_runners::{
    admission::Verifier,
    job::{JobBatch, JobId, JobSpec, JobStatus, LocalId},
};
use horus_transport::{ErrorKind, RpcClient, RpcError};
use serde::Serialize;

use super::stats::{Environment, Latencies, per_s};
use crate::api::supervisor::{CreateJobs, CreateJobsParams, WaitJobs, WaitJobsParams};

/// How long the last jobs of a run may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// Queued jobs become due all at once after this long, so that submitting and processing are measured apart.
const HOLD: Duration = Duration::from_secs(1);

/// What to measure.
#[derive(Debug, Clone)]
pub struct JobsPlan {
    /// Runner kind.
    pub runner: RunnerKind,
    /// Script of every job.
    pub payload: String,
    /// How many jobs.
    pub count: usize,
    /// Batches under way at a time.
    pub concurrency: usize,
    /// Jobs in a signed batch.
    pub batch: usize,
    /// One job at a time.
    pub sequential: bool,
    /// Only submit, and leave the jobs where they are.
    pub submit_only: bool,
}

/// The figures; those that were not measured are left out.
#[derive(Debug, Clone, Serialize)]
pub struct JobsReport {
    runner: RunnerKind,
    jobs: usize,
    concurrency: usize,
    batch: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    submit_per_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    process_per_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    end_to_end_per_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    latency_ms_p50: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    latency_ms_p99: Option<f64>,
    environment: Environment,
}

struct Bench<'a> {
    rpc: &'a RpcClient,
    identity: &'a Identity,
    certificates: Vec<Envelope>,
    supervisor: PeerId,
    verifier: &'a Verifier,
    plan: &'a JobsPlan,
}

/// Measures jobs.
///
/// # Errors
/// What the supervisor refused, or a job that did not succeed.
pub async fn jobs(
    rpc: &RpcClient,
    identity: &Identity,
    certificates: Vec<Envelope>,
    verifier: &Verifier,
    plan: &JobsPlan,
    environment: Environment,
) -> Result<JobsReport, RpcError> {
    let supervisor = rpc.peer().await?;
    let bench = Bench { rpc, identity, certificates, supervisor, verifier, plan };
    let mut report = JobsReport {
        runner: plan.runner.clone(),
        jobs: plan.count,
        concurrency: plan.concurrency,
        batch: plan.batch,
        submit_per_s: None,
        process_per_s: None,
        end_to_end_per_s: None,
        latency_ms_p50: None,
        latency_ms_p99: None,
        environment,
    };
    if plan.submit_only {
        let started = Instant::now();
        bench.submit_all(None).await?;
        report.submit_per_s = Some(per_s(plan.count, started.elapsed()));
        return Ok(report);
    }
    bench.end_to_end(plan.batch.min(plan.count)).await?;
    if plan.sequential {
        let latencies = bench.one_at_a_time().await?;
        report.latency_ms_p50 = Some(latencies.percentile_ms(50));
        report.latency_ms_p99 = Some(latencies.percentile_ms(99));
        return Ok(report);
    }
    let (submitting, processing) = bench.apart().await?;
    report.submit_per_s = Some(per_s(plan.count, submitting));
    report.process_per_s = Some(per_s(plan.count, processing));
    report.end_to_end_per_s = Some(per_s(plan.count, bench.end_to_end(plan.count).await?));
    Ok(report)
}

impl Bench<'_> {
    /// Batches are submitted while the runners work; each waits for its own results.
    async fn end_to_end(&self, count: usize) -> Result<Duration, RpcError> {
        let started = Instant::now();
        let batches = sizes(count, self.plan.batch);
        stream::iter(batches.into_iter().map(|size| async move {
            let ids = self.submit(size, None).await?;
            self.collect(ids).await
        }))
        .buffer_unordered(self.plan.concurrency)
        .try_collect::<Vec<()>>()
        .await?;
        Ok(started.elapsed())
    }

    /// Everything is submitted for a moment in the future, then processed.
    async fn apart(&self) -> Result<(Duration, Duration), RpcError> {
        let guess = Duration::from_micros(self.plan.count as u64 * 100) + HOLD;
        let due = Timestamp::now() + guess;
        let started = Instant::now();
        let ids = self.submit_all(Some(due)).await?;
        let submitting = started.elapsed();
        tokio::time::sleep(due.since(Timestamp::now())).await;
        let started = Instant::now();
        stream::iter(ids.into_iter().map(|ids| self.collect(ids)))
            .buffer_unordered(self.plan.concurrency)
            .try_collect::<Vec<()>>()
            .await?;
        Ok((submitting, started.elapsed()))
    }

    async fn submit_all(&self, not_before: Option<Timestamp>) -> Result<Vec<Vec<JobId>>, RpcError> {
        let batches = sizes(self.plan.count, self.plan.batch);
        stream::iter(batches.into_iter().map(|size| self.submit(size, not_before)))
            .buffer_unordered(self.plan.concurrency)
            .try_collect()
            .await
    }

    async fn one_at_a_time(&self) -> Result<Latencies, RpcError> {
        let mut samples = Vec::with_capacity(self.plan.count);
        for _ in 0..self.plan.count {
            let started = Instant::now();
            let ids = self.submit(1, None).await?;
            self.collect(ids).await?;
            samples.push(started.elapsed());
        }
        Ok(Latencies::new(samples))
    }

    async fn submit(&self, size: usize, not_before: Option<Timestamp>) -> Result<Vec<JobId>, RpcError> {
        let run_until = Timestamp::now() + Duration::from_secs(3600);
        let jobs: Vec<JobSpec> = (0..size)
            .map(|_| {
                let mut spec =
                    JobSpec::new(LocalId::generate(), self.plan.runner.clone(), self.plan.payload.clone(), run_until);
                spec.not_before = not_before;
                spec
            })
            .collect();
        let ids = jobs.iter().map(JobSpec::job_id).collect();
        let batch = JobBatch { aud: vec![self.supervisor], jobs, certificates: self.certificates.clone() };
        let envelope = Envelope::sign_json(self.identity, PayloadType::Jobs, &batch);
        self.rpc
            .call::<CreateJobs>(&CreateJobsParams { envelope: envelope.into(), workflow: None, receipts: Vec::new() })
            .await?;
        Ok(ids)
    }

    /// Waits for all of them and checks every receipt.
    async fn collect(&self, mut ids: Vec<JobId>) -> Result<(), RpcError> {
        while !ids.is_empty() {
            let params = WaitJobsParams {
                job_ids: ids,
                timeout_ms: u64::try_from(PATIENCE.as_millis()).unwrap_or(u64::MAX),
                any: false,
                share_receipts: true,
            };
            let waited = self.rpc.call_with_timeout::<WaitJobs>(&params, PATIENCE + Duration::from_secs(10)).await?;
            if waited.done.is_empty() {
                return Err(RpcError::new(ErrorKind::TimedOut, "no job finished for two minutes: is a runner alive?"));
            }
            for result in &waited.done {
                let fail = |text: String| RpcError::new(ErrorKind::Other, format!("{}: {text}", result.job_id));
                if result.status != JobStatus::Succeeded {
                    let why = result.error.as_ref().map(|e| e.message.clone()).unwrap_or_default();
                    return Err(fail(format!("{} {why}", result.status)));
                }
                let (envelope, index) =
                    waited.receipt_of(result).ok_or_else(|| fail("there is no receipt".to_owned()))?;
                let output = result.output.as_ref().map(|o| o.get().as_bytes());
                self.verifier
                    .check_result(envelope, index, &result.job_id, None, output, Timestamp::now())
                    .map_err(|r| fail(r.message))?;
            }
            ids = waited.pending;
        }
        Ok(())
    }
}

fn sizes(count: usize, batch: usize) -> Vec<usize> {
    let mut sizes = vec![batch; count / batch];
    if !count.is_multiple_of(batch) {
        sizes.push(count % batch);
    }
    sizes
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_job_is_in_a_batch() {
        assert_eq!(super::sizes(101, 50), [50, 50, 1]);
        assert_eq!(super::sizes(50, 50), [50]);
        assert_eq!(super::sizes(3, 50), [3]);
    }
}
