//! Methods about the runners of the supervisor's machine.

use std::collections::BTreeMap;

use horus_keys::{PeerId, RunnerKind, Timestamp};
use horus_runners::queue::RunnerView;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use horus_runners::queue::{RunnerState, ServerFacts};

use crate::api::rpc_method;

/// A runner: one process that executes jobs of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Runner {
    /// The runner's name. Processes may share one.
    pub name: String,
    /// The id of this very process: its name and some random digits. Absent for a runner that was registered by hand and never
    /// came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
    /// The kind of jobs that it executes.
    pub runner: RunnerKind,
    /// The key that it signs receipts with. Absent for a runner that was registered by hand and never came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_id: Option<PeerId>,
    /// How it is.
    pub state: RunnerState,
    /// How many jobs it executes now.
    pub running: u32,
    /// How many it executes at most at a time.
    pub concurrency: u32,
    /// How many jobs of its kind wait in the queue, which all runners of the kind share.
    pub queued: u64,
    /// Its last heartbeat, by the clock of Redis. Absent if there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<Timestamp>,
}

impl From<RunnerView> for Runner {
    fn from(view: RunnerView) -> Self {
        Self {
            name: view.name,
            worker: Some(view.worker),
            runner: view.runner,
            peer_id: Some(view.peer_id),
            state: view.state,
            running: view.running,
            concurrency: view.concurrency,
            queued: view.queued,
            last_seen: Some(view.last_seen),
        }
    }
}

/// Parameters of `list_runners`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListRunnersParams {
    /// Only runners of this kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runner: Option<RunnerKind>,
}

/// Result of `list_runners`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Runners {
    /// The runners, by kind and name.
    pub runners: Vec<Runner>,
    /// The server behind the queue, and how durable it is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redis: Option<ServerFacts>,
    /// The labels of the supervisor (`--label`), which a step's `supervisor` key can ask for.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// Parameters that name one runner: by its name, or by its kind if that leaves no choice.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RunnerParams {
    /// The runner's name, or the id of one process (`worker`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The runner's kind: stands for the one runner of that kind or, if there are several, for the best of them (alive
    /// before late before gone). `remove_runner` wants the name then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runner: Option<RunnerKind>,
}

/// Parameters of `register_runner`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RegisterRunnerParams {
    /// The kind of runner that jobs may be queued for from now on.
    pub runner: RunnerKind,
    /// The runner's name: 1 to 64 of `A-Za-z0-9_.-`. The kind's name unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// Result of `ping_runner`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Pong {
    /// The runner, as `get_runner` shows it.
    #[serde(flatten)]
    pub runner: Runner,
    /// Whether its next heartbeat came in time. A runner whose did not is stopped, cut off from Redis, or beyond hope busy.
    pub answered: bool,
    /// How long its heartbeat was waited for, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<u64>,
}

/// Result of `remove_runner`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Removed {
    /// The runner, as it stood in the registry.
    #[serde(flatten)]
    pub runner: Runner,
    /// Whether something was removed. False when it was gone already, or still holds jobs that must be reaped first.
    pub removed: bool,
}

rpc_method!(
    /// `list_runners`: the runners of this machine, from their heartbeats.
    ListRunners,
    "list_runners",
    "List the runners of this machine",
    ListRunnersParams => Runners,
    [RedisUnavailable]
);
rpc_method!(
    /// `get_runner`: one runner.
    GetRunner,
    "get_runner",
    "Show a runner",
    RunnerParams => Runner,
    [UnknownRunner, RedisUnavailable]
);
rpc_method!(
    /// `ping_runner`: wait for a runner's next heartbeat, which comes every few seconds: a third of its lease.
    PingRunner,
    "ping_runner",
    "Wait for a sign of life of a runner",
    RunnerParams => Pong,
    [UnknownRunner, RedisUnavailable], long_poll
);
rpc_method!(
    /// `register_runner`: let jobs of a kind be queued before its first runner has started. A runner that starts registers
    /// itself: nobody needs this for one that runs.
    RegisterRunner,
    "register_runner",
    "Accept jobs of a kind whose runner has not started yet",
    RegisterRunnerParams => Runner,
    [RedisUnavailable]
);
rpc_method!(
    /// `remove_runner`: forget a runner that is gone. One that is alive registers itself again with its next heartbeat.
    RemoveRunner,
    "remove_runner",
    "Forget a runner that is gone",
    RunnerParams => Removed,
    [UnknownRunner, NotAllowed, RedisUnavailable]
);
