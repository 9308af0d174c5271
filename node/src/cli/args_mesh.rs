//! What can be typed about the mesh, as clap types.

use clap::{Args, Subcommand};

use super::args::TransportArg;
use super::args_client::ClientArgs;

/// The way to `mycelium://` and `topic:` addresses.
#[derive(Debug, Args, Clone)]
pub struct WayArgs {
    /// How to reach other nodes
    #[arg(long, value_enum, default_value_t = TransportArg::Auto)]
    pub transport: TransportArg,
    /// JSON-RPC address of the mycelium daemon
    #[arg(long, env = "HORUS_MYCELIUM_RPC", default_value = "http://127.0.0.1:8990", value_name = "URL")]
    pub mycelium_rpc: String,
    /// Allow plain http:// outside the overlay where a node of the mesh cannot be reached otherwise
    #[arg(long)]
    pub allow_plain: bool,
}

/// `horus mesh ...`
#[derive(Debug, Subcommand)]
pub enum MeshCommand {
    /// Show the daemon, the own address, its peers, and every known node with the path in use, latency and last error
    #[command(
        after_help = "Examples:\n  horus mesh status\n  horus mesh status --json --mycelium-rpc http://127.0.0.1:8990"
    )]
    Status(MeshStatusArgs),
}

/// `horus mesh status`
#[derive(Debug, Args, Clone)]
pub struct MeshStatusArgs {
    /// The coordinator that is asked which nodes it knows
    #[arg(long, env = "HORUS_COORDINATOR", default_value = "http://127.0.0.1:9090", value_name = "ADDRESS")]
    pub coordinator: String,
    /// The supervisor that is asked which nodes it knows
    #[arg(long, env = "HORUS_SUPERVISOR", default_value = "http://127.0.0.1:8080", value_name = "ADDRESS")]
    pub supervisor: String,
    /// Who calls, and how.
    #[command(flatten)]
    pub client: ClientArgs,
}
