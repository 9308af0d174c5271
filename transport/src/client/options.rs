//! How a client calls.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use horus_keys::{Envelope, Identity};

use crate::carrier::CarrierFactory;

/// How an [`RpcClient`](crate::RpcClient) calls. The default signs nothing.
#[derive(Clone)]
pub struct ClientOptions {
    /// Signs the calls that need it.
    pub identity: Option<Identity>,
    /// An owner's certificate of the identity (`member+json`), sent along with signed calls.
    pub certificate: Option<Envelope>,
    /// How long a call may take, connecting included. 30 s by default.
    pub timeout: Duration,
    /// How long connecting may take. 5 s by default.
    pub connect_timeout: Duration,
    /// A PEM file with the certificates of the authorities to trust for `https://`, instead of the
    /// system's.
    pub ca: Option<PathBuf>,
    /// Whether an overlay address may fall back to plain `http://`.
    pub allow_plain: bool,
    /// The longest reply that is read, in bytes. 64 MiB by default.
    pub response_bytes: usize,
    /// The way to `mycelium://` and `topic:` addresses, if this process has one.
    pub carriers: Option<Arc<dyn CarrierFactory>>,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            identity: None,
            certificate: None,
            timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(5),
            ca: None,
            allow_plain: false,
            response_bytes: 64 << 20,
            carriers: None,
        }
    }
}

impl ClientOptions {
    /// Signs with that identity and shows that certificate.
    #[must_use]
    pub fn signed(identity: Identity, certificate: Option<Envelope>) -> Self {
        Self { identity: Some(identity), certificate, ..Self::default() }
    }
}

impl fmt::Debug for ClientOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientOptions")
            .field("identity", &self.identity)
            .field("timeout", &self.timeout)
            .field("ca", &self.ca)
            .field("allow_plain", &self.allow_plain)
            .finish_non_exhaustive()
    }
}
