//! RPC calls: how many per second, and how long one takes.

use std::time::{Duration, Instant};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use horus_transport::{GetNodeInfo, Method as _, NoParams, RpcClient, RpcError};
use serde::Serialize;

use super::stats::{Environment, Latencies, median, per_s};
use crate::api::supervisor::{ListRunners, ListRunnersParams};

/// So many rounds, each with a share of the calls: what else the machine does befalls both nodes of a comparison alike.
const ROUNDS: usize = 5;

/// What to measure.
#[derive(Debug, Clone)]
pub struct RpcPlan {
    /// A signed call instead of an open one.
    pub signed: bool,
    /// How many calls.
    pub count: usize,
    /// Calls at a time.
    pub concurrency: usize,
    /// Another server, which is called in turns with the node; its client signs nothing if it has no identity.
    pub against: Option<RpcClient>,
}

/// The figures.
#[derive(Debug, Clone, Serialize)]
pub struct RpcReport {
    method: &'static str,
    signed: bool,
    calls: usize,
    concurrency: usize,
    #[serde(flatten)]
    figures: Figures,
    /// The other server's.
    #[serde(skip_serializing_if = "Option::is_none")]
    against: Option<Figures>,
    /// Calls per second of the node by those of the other server: the median of the rounds.
    #[serde(skip_serializing_if = "Option::is_none")]
    ratio: Option<f64>,
    environment: Environment,
}

/// What one server reached; calls per second are the median of the rounds.
#[derive(Debug, Clone, Serialize)]
struct Figures {
    calls_per_s: f64,
    latency_ms_p50: f64,
    latency_ms_p99: f64,
}

/// The rounds of one server.
#[derive(Default)]
struct Rounds {
    per_s: Vec<f64>,
    samples: Vec<Duration>,
}

/// Measures calls.
///
/// # Errors
/// The first call that fails.
pub async fn rpc(rpc: &RpcClient, plan: RpcPlan, environment: Environment) -> Result<RpcReport, RpcError> {
    let mut ours = Rounds::default();
    let mut theirs = Rounds::default();
    let share = plan.count.div_ceil(ROUNDS);
    for round in 0..ROUNDS {
        let count = share.min(plan.count - (share * round).min(plan.count));
        if count == 0 {
            break;
        }
        ours.run(rpc, &plan, count).await?;
        if let Some(other) = &plan.against {
            theirs.run(other, &plan, count).await?;
        }
    }
    let ratio =
        plan.against.is_some().then(|| median(ours.per_s.iter().zip(&theirs.per_s).map(|(a, b)| a / b).collect()));
    Ok(RpcReport {
        method: if plan.signed { ListRunners::NAME } else { GetNodeInfo::NAME },
        signed: plan.signed,
        calls: plan.count,
        concurrency: plan.concurrency,
        figures: ours.figures(),
        against: plan.against.is_some().then(|| theirs.figures()),
        ratio: ratio.map(super::stats::round),
        environment,
    })
}

impl Rounds {
    /// One round, after some calls that do not count.
    async fn run(&mut self, rpc: &RpcClient, plan: &RpcPlan, count: usize) -> Result<(), RpcError> {
        let one = || async {
            let started = Instant::now();
            if plan.signed {
                rpc.call::<ListRunners>(&ListRunnersParams::default()).await?;
            } else {
                rpc.call::<GetNodeInfo>(&NoParams {}).await?;
            }
            Ok::<_, RpcError>(started.elapsed())
        };
        // As many at a time as later, so that all connections are there.
        futures::future::try_join_all((0..plan.concurrency).map(|_| one())).await?;
        let started = Instant::now();
        let samples: Vec<_> =
            stream::iter((0..count).map(|_| one())).buffer_unordered(plan.concurrency).try_collect().await?;
        self.per_s.push(per_s(count, started.elapsed()));
        self.samples.extend(samples);
        Ok(())
    }

    fn figures(self) -> Figures {
        let latencies = Latencies::new(self.samples);
        Figures {
            calls_per_s: median(self.per_s),
            latency_ms_p50: latencies.percentile_ms(50),
            latency_ms_p99: latencies.percentile_ms(99),
        }
    }
}
