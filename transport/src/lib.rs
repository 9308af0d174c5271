//! How the roles of Horus call each other: OpenRPC over HTTP, and over whatever else carries bytes.
//!
//! - An [`Address`] says where a node is; a [`RpcClient`] calls it.
//! - A [`Method`] is one type with name, access, parameters and result. A [`MethodTable`] ties methods
//!   to their handlers and writes the OpenRPC document.
//! - A [`Dispatcher`] serves a table: bytes of a request in, bytes of the reply out. It reads JSON-RPC
//!   2.0 to the letter, checks call signatures ([`Security`]) and holds the [`Limits`]. Every carrier
//!   hands its requests to it, so that no method knows which one carried a call.
//! - [`RpcServer`] carries requests over HTTP, with or without TLS.
//! - With the feature `simulator`, a mesh of simulated mycelium daemons stands in for the real ones.
//! - A [`Carrier`] takes a client's requests to a node; HTTP is one.
//! - A [`Mesh`] serves and calls over Mycelium: by messages, or by HTTP where there is a path for it.
//!
//! The crate knows no job and no workflow.

mod address;
mod auth;
#[cfg(feature = "baseline")]
mod baseline;
mod carrier;
mod client;
mod dispatch;
mod error;
mod exchange;
mod jsonrpc;
mod mesh;
mod method;
mod node_info;
mod nonce;
mod openrpc;
mod params;
mod rate;
mod replay;
mod server;
#[cfg(all(unix, feature = "simulator"))]
pub mod simulator;
mod table;

pub use address::{Address, AddressError, Host, is_overlay};
pub use auth::Security;
#[cfg(feature = "baseline")]
pub use baseline::Baseline;
pub use carrier::{Carrier, CarrierFactory, Outbound, Sendings};
pub use client::{Call, ClientOptions, RpcClient, decode};
pub use dispatch::Dispatcher;
pub use error::{ErrorKind, RpcError};
pub use exchange::{Inbound, Limits, Reply};
pub use mesh::{
    DaemonStatus, KnownNode, LinkStatus, Mesh, MeshOptions, MeshStatus, NodeStatus, PathKind, PathStatus, RawMessages,
    ServiceState, Subnet, SubnetError, TopicStatus, TransportMode,
};
pub use method::{Access, Caller, Example, Method, NoParams};
pub use node_info::{GetNodeInfo, NodeInfo, VerifiedNode};
pub use nonce::{MemoryNonces, NonceStore};
pub use openrpc::ServiceInfo;
pub use rate::{Origin, RateLimits};
pub use server::{Health, RpcServer, ServerError, ServerOptions, TlsFiles};
pub use table::MethodTable;

#[cfg(test)]
mod tests;
