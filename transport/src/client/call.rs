//! Calls and their replies as JSON-RPC texts.

use std::collections::HashMap;

use bytes::Bytes;
use serde::Deserialize;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::error::{ErrorKind, RpcError};
use crate::method::Method;
use crate::node_info::GetNodeInfo;
use crate::openrpc::DISCOVER;

/// One call of a batch.
#[derive(Debug, Clone)]
pub struct Call {
    pub(super) method: String,
    pub(super) params: Box<RawValue>,
    pub(super) sign: bool,
    pub(super) long_poll: bool,
}

impl Call {
    /// A call of `M`. It is signed if the method asks for it.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidParams`] if the parameters cannot be written as JSON.
    pub fn new<M: Method>(params: &M::Params) -> Result<Self, RpcError> {
        let params = to_raw(params)?;
        Ok(Self { method: M::NAME.to_owned(), params, sign: M::ACCESS.needs_signature(), long_poll: M::LONG_POLL })
    }

    /// A call of any method, with an object or an array as parameters; a `RawValue` passes byte for
    /// byte. It is signed if the client has an identity.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidParams`] if the parameters cannot be written as JSON, or are neither an
    /// object nor an array.
    pub fn raw<P: Serialize + ?Sized>(method: &str, params: &P) -> Result<Self, RpcError> {
        let params = to_raw(params)?;
        if !params.get().starts_with(['{', '[']) {
            return Err(RpcError::invalid_params(
                "the parameters must be a JSON object or array, such as '{\"job_id\": \"...\"}'",
            ));
        }
        // These two must be callable before one knows whom one signs for.
        let sign = method != DISCOVER && method != GetNodeInfo::NAME;
        Ok(Self { method: method.to_owned(), params, sign, long_poll: false })
    }

    /// Appends the request object; without an id it is a notification.
    pub(super) fn write(&self, into: &mut Vec<u8>, id: Option<usize>) {
        into.extend_from_slice(b"{\"jsonrpc\":\"2.0\",");
        if let Some(id) = id {
            into.extend_from_slice(format!("\"id\":{id},").as_bytes());
        }
        into.extend_from_slice(b"\"method\":");
        serde_json::to_writer(&mut *into, &self.method).expect("a string is written to memory");
        into.extend_from_slice(b",\"params\":");
        into.extend_from_slice(self.params.get().as_bytes());
        into.push(b'}');
    }
}

fn to_raw<P: Serialize + ?Sized>(params: &P) -> Result<Box<RawValue>, RpcError> {
    serde_json::value::to_raw_value(params)
        .map_err(|e| RpcError::invalid_params(format!("the parameters cannot be written as JSON: {e}")))
}

#[derive(Deserialize)]
struct Response<'a> {
    #[serde(borrow, default, deserialize_with = "present")]
    id: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    result: Option<&'a RawValue>,
    #[serde(default)]
    error: Option<RpcError>,
}

/// Tells a result of `null` from none.
fn present<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(d).map(Some)
}

impl<'a> Response<'a> {
    fn outcome(self) -> Result<&'a RawValue, RpcError> {
        match (self.result, self.error) {
            (_, Some(error)) => Err(error),
            (Some(result), None) => Ok(result),
            (None, None) => Err(invalid("the reply has neither result nor error")),
        }
    }
}

/// The result of a single call, as text borrowed from the reply.
pub(super) fn read_single(reply: &Bytes) -> Result<&RawValue, RpcError> {
    let response: Response<'_> = serde_json::from_slice(reply).map_err(|e| not_a_response(&e))?;
    response.outcome()
}

/// The results of a batch of `count` calls with the ids 0 and up.
pub(super) fn read_batch(reply: &Bytes, count: usize) -> Result<Vec<Result<Box<RawValue>, RpcError>>, RpcError> {
    if !reply.trim_ascii_start().starts_with(b"[") {
        // The batch was refused as a whole.
        read_single(reply)?;
        return Err(invalid("a batch was answered by a single result"));
    }
    let responses: Vec<Response<'_>> = serde_json::from_slice(reply).map_err(|e| not_a_response(&e))?;
    let mut by_id: HashMap<usize, Response<'_>> = HashMap::with_capacity(count);
    for response in responses {
        let id = response.id.and_then(|id| id.get().parse().ok());
        if let Some(id) = id.filter(|id| *id < count) {
            by_id.insert(id, response);
        }
    }
    let of = |id: usize| match by_id.remove(&id) {
        Some(response) => response.outcome().map(ToOwned::to_owned),
        None => Err(invalid("this call of the batch was not answered")),
    };
    Ok((0..count).map(of).collect())
}

fn not_a_response(e: &serde_json::Error) -> RpcError {
    invalid(&format!("the reply is not a JSON-RPC 2.0 response: {e}"))
}

pub(super) fn invalid(problem: &str) -> RpcError {
    RpcError::new(
        ErrorKind::InvalidReply,
        format!("{problem}: is that a Horus node, and of a version like this one's?"),
    )
}
