//! Methods about the supervisors that a coordinator sends steps to.

use std::collections::BTreeMap;

use horus_keys::{PeerId, RunnerKind, Timestamp};
use horus_transport::PathKind;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::{EnvelopeText, NoParams, rpc_method};

/// Parameters of `register_supervisor`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RegisterSupervisorParams {
    /// The supervisor's announcement (`application/vnd.horus.node+json`), signed with its own key.
    pub envelope: EnvelopeText,
    /// An owner's certificate of the supervisor's key (`application/vnd.horus.member+json`), for a coordinator that knows the
    /// owner only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<EnvelopeText>,
}

/// Result of `register_supervisor`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Registered {
    /// Until when the coordinator uses the supervisor, unless it announces itself again: the announcement's own expiry, but
    /// at most an hour from now.
    pub expires_at: Timestamp,
}

/// How a supervisor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SupervisorState {
    /// It answers.
    Alive,
    /// Its latest call failed; it has been silent for a few seconds at most.
    Late,
    /// It has been silent for longer, never answered, or is not to be trusted: it gets no steps.
    Gone,
}

/// A supervisor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SupervisorView {
    /// The address at which the coordinator calls it.
    pub address: String,
    /// The key that it signs with, once it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_id: Option<PeerId>,
    /// How it is.
    pub state: SupervisorState,
    /// The runner kinds that its machine has.
    pub runners: Vec<RunnerKind>,
    /// How many steps it has from this coordinator.
    pub outstanding: u32,
    /// How long a short call takes on the path in use, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<u64>,
    /// How calls get there now: `overlay` (HTTP to its overlay address), `messages` or `http`; absent while no path works.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathKind>,
    /// Its labels, which a step's `supervisor` key can ask for.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Why it gets no steps, or what its latest call failed with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What failed last, on any path, also when it works again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// When that was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error_at: Option<Timestamp>,
    /// Until when it is used: for one that announced itself, not for those given by `--supervisor`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

/// Result of `list_supervisors`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Supervisors {
    /// The supervisors, those given by `--supervisor` first, in their order.
    pub supervisors: Vec<SupervisorView>,
}

rpc_method!(
    /// `register_supervisor`: a supervisor announces itself. To be repeated before `expires_at`.
    RegisterSupervisor,
    "register_supervisor",
    "Announce a supervisor",
    RegisterSupervisorParams => Registered,
    [InvalidEnvelope, BadSignature, UntrustedSigner, NotAllowed, Expired]
);
rpc_method!(
    /// `list_supervisors`: the supervisors that the coordinator knows, and how they are.
    ListSupervisors,
    "list_supervisors",
    "List the supervisors",
    NoParams => Supervisors,
    []
);
