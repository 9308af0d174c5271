//! What goes into a dispatcher and what comes out, and how much of it.

use std::time::Duration;

use bytes::Bytes;

use crate::error::{ErrorKind, RpcError};
use crate::jsonrpc::{self, NULL_ID};
use crate::rate::Origin;

/// The bounds of what one request may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The longest request, in bytes.
    pub request_bytes: usize,
    /// The most calls in one batch.
    pub batch: usize,
    /// The longest reply, in bytes.
    pub response_bytes: usize,
    /// How long calls may go on when the node stops, before they are answered with
    /// [`ErrorKind::ShuttingDown`]. Long polls are ended at once.
    pub drain: Duration,
}

impl Default for Limits {
    /// 16 MiB, 256 calls, 64 MiB, 10 s.
    fn default() -> Self {
        Self { request_bytes: 16 << 20, batch: 256, response_bytes: 64 << 20, drain: Duration::from_secs(10) }
    }
}

/// A request as a carrier delivers it.
#[derive(Debug, Clone)]
pub struct Inbound {
    /// The JSON-RPC text.
    pub body: Bytes,
    /// The value of `Authorization`, or of the same field in a message: `Horus <base64url>`.
    pub authorization: Option<String>,
    /// Where it came from.
    pub origin: Origin,
}

/// What the carrier takes back.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// The JSON-RPC text; none if the request held notifications only.
    pub body: Option<Bytes>,
    /// The error, if the request was refused before its calls were looked at. `body` says it too.
    pub refused: Option<ErrorKind>,
}

impl Reply {
    /// A reply with that text.
    #[must_use]
    pub fn of(body: Bytes) -> Self {
        Self { body: Some(body), refused: None }
    }

    /// The reply to a request that is refused as a whole, for errors that the carrier finds.
    #[must_use]
    pub fn refusal(error: &RpcError) -> Self {
        let mut body = Vec::new();
        jsonrpc::write_error(&mut body, NULL_ID, error);
        Self { body: Some(body.into()), refused: Some(error.kind) }
    }
}
