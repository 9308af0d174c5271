//! RPC to a node of the mesh by each path, against the raw daemon in the same run: the same calls, each pushed as a message of
//! its own.

use std::time::{Duration, Instant};

use futures::{StreamExt as _, TryStreamExt as _, future, stream};
use horus_transport::{Address, Mesh, Method as _, PathKind, RpcClient, RpcError};
use serde::Serialize;

use super::stats::{Environment, Latencies, per_s, round};
use crate::api::supervisor::{ListRunners, ListRunnersParams};

/// Calls one after another, to see what a single one takes.
const SINGLE: usize = 25;
/// The rate is also told for each such span: the raw daemon gets slower with every message.
const SPAN: Duration = Duration::from_secs(5);
/// The raw daemon is measured at least so long, unless its calls are done, and at most as long as the slowest path.
const RAW_LEAST: Duration = Duration::from_secs(10);

/// What to measure.
#[derive(Debug, Clone, Copy)]
pub struct PathsPlan {
    /// How many calls at a time.
    pub concurrency: usize,
    /// How many calls in all.
    pub count: usize,
}

/// The figures.
#[derive(Debug, Clone, Serialize)]
pub struct PathsReport {
    address: Address,
    method: &'static str,
    signed: bool,
    concurrency: usize,
    paths: Vec<PathFigures>,
    raw: Figures,
    environment: Environment,
}

/// One path, or why there is none.
#[derive(Debug, Clone, Serialize)]
struct PathFigures {
    /// Which; absent if none works.
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<PathKind>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(flatten)]
    figures: Option<Figures>,
    /// What a single call takes beyond a raw message and its reply, in the median.
    #[serde(skip_serializing_if = "Option::is_none")]
    single_over_raw_ms: Option<f64>,
    /// Calls per second, by those of the raw daemon.
    #[serde(skip_serializing_if = "Option::is_none")]
    ratio_to_raw: Option<f64>,
}

/// What was reached.
#[derive(Debug, Clone, Serialize)]
struct Figures {
    /// One call after another.
    single: Latency,
    /// Many at a time.
    many: Load,
}

/// How long calls took, in milliseconds.
#[derive(Debug, Clone, Serialize)]
struct Latency {
    calls: usize,
    latency_ms_p50: f64,
    latency_ms_p90: f64,
    latency_ms_p99: f64,
}

impl Latency {
    fn of(samples: Vec<Duration>) -> Self {
        let calls = samples.len();
        let latencies = Latencies::new(samples);
        let [p50, p90, p99] = [50, 90, 99].map(|p| latencies.percentile_ms(p));
        Self { calls, latency_ms_p50: p50, latency_ms_p90: p90, latency_ms_p99: p99 }
    }
}

/// Calls by many callers.
#[derive(Debug, Clone, Serialize)]
struct Load {
    #[serde(flatten)]
    latency: Latency,
    seconds: f64,
    calls_per_s: f64,
    /// The same for each 5 seconds, as far as they were whole.
    calls_per_s_each_5s: Vec<f64>,
    /// Messages that this host sent for them; each brought a reply.
    messages: u64,
}

/// A client that takes one way, and the hold on the daemon that it goes through.
#[derive(Debug)]
pub struct OneWay {
    /// The client.
    pub client: RpcClient,
    /// Its mesh.
    pub mesh: Mesh,
}

impl OneWay {
    async fn call(&self) -> Result<Duration, RpcError> {
        let started = Instant::now();
        self.client.call::<ListRunners>(&ListRunnersParams::default()).await?;
        Ok(started.elapsed())
    }

    /// The path in use.
    async fn path(&self) -> Option<PathKind> {
        self.mesh.status().await.nodes.iter().find_map(|node| node.path)
    }

    async fn single(&self) -> Result<Latency, RpcError> {
        let mut samples = Vec::with_capacity(SINGLE);
        for _ in 0..SINGLE {
            samples.push(self.call().await?);
        }
        Ok(Latency::of(samples))
    }

    /// Calls until all are made or the time is over.
    async fn many(&self, plan: PathsPlan, most: Duration) -> Result<(Load, Duration), RpcError> {
        // As many at a time as later, so that all connections are there.
        future::try_join_all((0..plan.concurrency).map(|_| self.call())).await?;
        let messages = self.mesh.status().await.messages_sent;
        let started = Instant::now();
        let samples: Vec<(Duration, Duration)> = stream::iter(0..plan.count)
            .take_while(|_| future::ready(started.elapsed() < most))
            .map(|_| async { self.call().await.map(|took| (started.elapsed(), took)) })
            .buffer_unordered(plan.concurrency)
            .try_collect()
            .await?;
        let lasted = started.elapsed();
        let whole = (lasted.as_secs_f64() / SPAN.as_secs_f64()) as usize;
        let ended_in = |span: usize| {
            let span = SPAN * span as u32..SPAN * (span as u32 + 1);
            samples.iter().filter(|(at, _)| span.contains(at)).count()
        };
        let load = Load {
            seconds: round(lasted.as_secs_f64()),
            calls_per_s: per_s(samples.len(), lasted),
            calls_per_s_each_5s: (0..whole).map(|span| per_s(ended_in(span), SPAN)).collect(),
            messages: self.mesh.status().await.messages_sent - messages,
            latency: Latency::of(samples.into_iter().map(|(_, took)| took).collect()),
        };
        Ok((load, lasted))
    }
}

/// Measures each way, then the raw daemon: what it leaves behind would slow the others.
///
/// # Errors
/// The first call that fails, but for those of a way that does not work at all.
pub async fn paths(
    ways: &[OneWay],
    raw: &OneWay,
    plan: PathsPlan,
    environment: Environment,
) -> Result<PathsReport, RpcError> {
    let mut paths = Vec::new();
    let mut slowest = RAW_LEAST;
    raw.call().await?;
    let raw_single = raw.single().await?;
    for way in ways {
        if let Err(e) = way.call().await {
            let (path, error) = (None, Some(e.to_string()));
            paths.push(PathFigures { path, error, figures: None, single_over_raw_ms: None, ratio_to_raw: None });
            continue;
        }
        // The first ones find out how the link is.
        for _ in 0..3 {
            way.call().await?;
        }
        let single = way.single().await?;
        let over = single.latency_ms_p50 - raw_single.latency_ms_p50;
        let path = way.path().await;
        let (many, lasted) = way.many(plan, Duration::MAX).await?;
        slowest = slowest.max(lasted);
        let figures = Some(Figures { single, many });
        paths.push(PathFigures {
            path,
            error: None,
            figures,
            single_over_raw_ms: Some(round(over)),
            ratio_to_raw: None,
        });
    }
    let (many, _) = raw.many(plan, slowest).await?;
    for path in &mut paths {
        path.ratio_to_raw = path.figures.as_ref().map(|own| round(own.many.calls_per_s / many.calls_per_s.max(1.0)));
    }
    Ok(PathsReport {
        address: raw.client.address().clone(),
        method: ListRunners::NAME,
        signed: true,
        concurrency: plan.concurrency,
        paths,
        raw: Figures { single: raw_single, many },
        environment,
    })
}
