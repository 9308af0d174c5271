//! RPC calls: how many per second, and how long one takes.

use std::time::Instant;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use horus_transport::{GetNodeInfo, NoParams, RpcClient, RpcError};
use serde::Serialize;

use super::stats::{Environment, Latencies, per_s};
use crate::api::supervisor::{ListRunners, ListRunnersParams};

/// What to measure.
#[derive(Debug, Clone, Copy)]
pub struct RpcPlan {
    /// A signed call instead of an open one.
    pub signed: bool,
    /// How many calls.
    pub count: usize,
    /// Calls at a time.
    pub concurrency: usize,
}

/// The figures.
#[derive(Debug, Clone, Serialize)]
pub struct RpcReport {
    method: &'static str,
    signed: bool,
    calls: usize,
    concurrency: usize,
    calls_per_s: f64,
    latency_ms_p50: f64,
    latency_ms_p99: f64,
    environment: Environment,
}

/// Measures calls.
///
/// # Errors
/// The first call that fails.
pub async fn rpc(rpc: &RpcClient, plan: RpcPlan, environment: Environment) -> Result<RpcReport, RpcError> {
    let one = || async {
        let started = Instant::now();
        if plan.signed {
            rpc.call::<ListRunners>(&ListRunnersParams::default()).await?;
        } else {
            rpc.call::<GetNodeInfo>(&NoParams {}).await?;
        }
        Ok::<_, RpcError>(started.elapsed())
    };
    for _ in 0..plan.concurrency {
        one().await?;
    }
    let started = Instant::now();
    let samples: Vec<_> =
        stream::iter((0..plan.count).map(|_| one())).buffer_unordered(plan.concurrency).try_collect().await?;
    let elapsed = started.elapsed();
    let latencies = Latencies::new(samples);
    Ok(RpcReport {
        method: if plan.signed { "list_runners" } else { "get_node_info" },
        signed: plan.signed,
        calls: plan.count,
        concurrency: plan.concurrency,
        calls_per_s: per_s(plan.count, elapsed),
        latency_ms_p50: latencies.percentile_ms(50),
        latency_ms_p99: latencies.percentile_ms(99),
        environment,
    })
}
