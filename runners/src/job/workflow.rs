//! What a user signs to have a workflow run.

use std::collections::BTreeMap;

use horus_keys::{Envelope, PeerId, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{id::WorkflowId, json};

/// The payload of a `workflow+json` envelope.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WorkflowSubmission {
    /// Accepted once.
    pub id: WorkflowId,
    /// The YAML text.
    pub definition: String,
    /// Values that the scripts of all steps see as members of `input`, beside the outputs of their dependencies.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "json::unique_option")]
    #[schemars(with = "Option<BTreeMap<String, serde_json::Value>>")]
    pub inputs: Option<BTreeMap<String, Box<RawValue>>>,
    /// The coordinators that may send its steps to supervisors.
    pub coordinators: Vec<PeerId>,
    /// A coordinator accepts it until then.
    pub submit_by: Timestamp,
    /// Its steps are started until then, at most 7 days ahead.
    pub run_until: Timestamp,
    /// Certificates of the signer, at most 4.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub certificates: Vec<Envelope>,
}
