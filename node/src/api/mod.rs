//! The RPC methods of the roles: one type per method.
//!
//! A method type names the method, its parameters, its result and who may call it. The same type registers the handler,
//! writes the OpenRPC entry and types the client's call, so the three cannot drift apart. The roles meet here and only
//! here: neither imports the other.
//!
//! Who may call what is one table: [`access`].

pub mod access;
pub mod coordinator;
mod envelope;
mod mesh;
pub mod supervisor;

pub use envelope::EnvelopeText;
pub use horus_transport::{GetNodeInfo, NoParams, NodeInfo};
pub use mesh::{GetMeshStatus, KnownAnnouncement, KnownNodes, ListNodes, ListNodesParams, MeshReport};

/// Declares an RPC method type: documentation, type name, wire name, summary, parameters, result, the kinds of errors that are
/// its own, and `long_poll` if it waits for something to happen.
///
/// The documentation is the method's description in the OpenRPC document too. Its access comes from the table in [`access`];
/// a method missing there does not compile.
macro_rules! rpc_method {
    (
        $(#[doc = $doc:literal])* $method:ident, $name:literal, $summary:literal, $params:ty => $result:ty,
        [$($error:ident),*] $(, $long_poll:ident)?
    ) => {
        $(#[doc = $doc])*
        #[derive(Debug, Clone, Copy)]
        pub struct $method;

        impl horus_transport::Method for $method {
            const NAME: &'static str = $name;
            const SUMMARY: &'static str = $summary;
            const DESCRIPTION: &'static str = concat!($($doc, "\n"),*).trim_ascii();
            const ACCESS: horus_transport::Access = $crate::api::access::of($name);
            const ERRORS: &'static [horus_transport::ErrorKind] = &[$(horus_transport::ErrorKind::$error),*];
            $(const LONG_POLL: bool = rpc_method!(@ $long_poll);)?
            type Params = $params;
            type Result = $result;
        }
    };
    (@ long_poll) => { true };
}
pub(crate) use rpc_method;
