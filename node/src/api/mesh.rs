//! Methods about the mesh, which every role with a port serves.

use horus_keys::{Envelope, PeerId};
use horus_transport::{MeshStatus, NodeStatus};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::{NoParams, rpc_method};

/// Result of `get_mesh_status`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct MeshReport {
    /// Whether the node takes part in the mesh.
    pub used: bool,
    /// How the mesh looks from there: the daemon, its links, the topics, and every known node with its paths.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<MeshStatus>,
    /// The nodes that it calls by an `http://` or `https://` address, beside the mesh.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<NodeStatus>,
}

/// Parameters of `list_nodes`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListNodesParams {
    /// Only those that serve this topic, such as `horus.supervisor`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
}

/// A node that announced itself.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct KnownAnnouncement {
    /// Its key.
    pub peer_id: PeerId,
    /// Its announcement (`application/vnd.horus.node+json`), signed by itself.
    pub envelope: Envelope,
    /// An owner's certificate of its key, if it showed one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<Envelope>,
}

/// Result of `list_nodes`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct KnownNodes {
    /// The node that answers, and those that it knows and trusts.
    pub nodes: Vec<KnownAnnouncement>,
}

rpc_method!(
    /// `get_mesh_status`: how the Mycelium mesh looks from this node. Asks its own daemon only and sends no message.
    GetMeshStatus,
    "get_mesh_status",
    "Show the mesh as this node sees it",
    NoParams => MeshReport,
    []
);
rpc_method!(
    /// `list_nodes`: the live nodes that this one knows, with their signed announcements, so that the caller can reach them.
    ListNodes,
    "list_nodes",
    "List the nodes that are known here",
    ListNodesParams => KnownNodes,
    []
);
