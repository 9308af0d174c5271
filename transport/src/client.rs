//! The caller's side of RPC.

mod call;
mod fares;
mod http;
mod options;

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use horus_keys::{CallClaims, Identity, PeerId, Timestamp};
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::time::Instant;

use crate::address::Address;
use crate::carrier::{Carrier, Outbound, Sendings};
use crate::error::{ErrorKind, RpcError, SENT};
use crate::mesh::NodeStatus;
use crate::method::{Method, NoParams};
use crate::node_info::{GetNodeInfo, VerifiedNode};

pub use call::Call;
pub(crate) use http::HttpCarrier;
pub use options::ClientOptions;

/// Calls one node, or for a topic any node that serves it. Cheap to clone; clones share connections.
///
/// Nothing is connected before the first call. Every call has a deadline. Calls of methods that need
/// it are signed for the node's key, which the client learns from the address (`#PeerId`) or from the
/// node's signed `get_node_info`, once. If the address pins a key, the node is asked who it is before
/// the first call, and refused if it is another.
#[derive(Clone)]
pub struct RpcClient(Arc<Shared>);

struct Shared {
    address: Address,
    carrier: Arc<dyn Carrier>,
    options: ClientOptions,
    /// Who answers, once known.
    node: RwLock<Option<Arc<VerifiedNode>>>,
    /// Held while asking, so that many first calls ask once.
    asking: tokio::sync::Mutex<()>,
}

impl RpcClient {
    /// A client for that address.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidParams`] if the TLS authorities cannot be read, [`ErrorKind::NoService`] for
    /// an overlay address when the options know no way there.
    pub fn connect(address: Address, options: ClientOptions) -> Result<Self, RpcError> {
        let carrier: Arc<dyn Carrier> = match (&address, &options.carriers) {
            (Address::Http { url, .. }, _) => Arc::new(http::HttpCarrier::new(url, &options)?),
            (_, Some(carriers)) => carriers.carrier(&address)?,
            (_, None) => {
                return Err(RpcError::new(
                    ErrorKind::NoService,
                    format!(
                        "{address} lies on the Mycelium overlay, but this process has no mycelium daemon \
                         configured: use the node's http:// or https:// address"
                    ),
                ));
            }
        };
        Ok(Self::with_carrier(address, carrier, options))
    }

    /// A client whose requests that carrier takes; the address is for messages and for its pin.
    #[must_use]
    pub fn with_carrier(address: Address, carrier: Arc<dyn Carrier>, options: ClientOptions) -> Self {
        let node = RwLock::new(None);
        let asking = tokio::sync::Mutex::new(());
        Self(Arc::new(Shared { address, carrier, options, node, asking }))
    }

    /// The address that is called.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.0.address
    }

    /// How calls get there now: the path in use, its latency, what failed last. Asks nobody. `None` for a
    /// carrier that does not tell, and for a topic of which no node is known.
    #[must_use]
    pub fn status(&self) -> Option<NodeStatus> {
        let mut status = self.0.carrier.status()?;
        status.peer_id = status.peer_id.or(self.address().pin()).or_else(|| self.known().map(|node| node.peer_id));
        Some(status)
    }

    /// Resolves when a way to the node that had failed works again, where that is looked for in the background: on the
    /// mesh. Over HTTP it never does.
    pub async fn recovered(&self) {
        self.0.carrier.recovered().await;
    }

    /// The identity that signs, if there is one.
    #[must_use]
    pub fn identity(&self) -> Option<&Identity> {
        self.0.options.identity.as_ref()
    }

    /// Calls `M`, within the timeout of the options.
    ///
    /// # Errors
    /// The node's error, or what kept its reply from coming.
    pub async fn call<M: Method>(&self, params: &M::Params) -> Result<M::Result, RpcError> {
        self.call_with_timeout::<M>(params, self.0.options.timeout).await
    }

    /// Calls `M` with a timeout of its own. For a long poll it must be longer than the wait asked for.
    ///
    /// # Errors
    /// As [`RpcClient::call`].
    pub async fn call_with_timeout<M: Method>(
        &self,
        params: &M::Params,
        timeout: Duration,
    ) -> Result<M::Result, RpcError> {
        let (reply, sendings) = self.single(&Call::new::<M>(params)?, timeout).await?;
        let result = call::read_single(&reply).map_err(|e| e.of_one_sending(sendings))?;
        decode::<M>(result)
    }

    /// Calls any method; the parameters are an object or an array. The result's text is the node's,
    /// byte for byte. Signed if there is an identity, but for `rpc.discover` and `get_node_info`.
    ///
    /// # Errors
    /// As [`RpcClient::call`].
    pub async fn call_raw<P: Serialize + ?Sized>(&self, method: &str, params: &P) -> Result<Box<RawValue>, RpcError> {
        let (reply, sendings) = self.single(&Call::raw(method, params)?, self.0.options.timeout).await?;
        call::read_single(&reply).map(ToOwned::to_owned).map_err(|e| e.of_one_sending(sendings))
    }

    /// Makes several calls in one request, under one signature. At most 256. The replies stand in the
    /// order of the calls; see [`decode`] for typed results.
    ///
    /// # Errors
    /// What befell the request as a whole; each call has its own result besides.
    pub async fn batch(
        &self,
        calls: &[Call],
        timeout: Duration,
    ) -> Result<Vec<Result<Box<RawValue>, RpcError>>, RpcError> {
        if calls.is_empty() {
            return Ok(Vec::new());
        }
        let mut body = vec![b'['];
        for (id, call) in calls.iter().enumerate() {
            if id > 0 {
                body.push(b',');
            }
            call.write(&mut body, Some(id));
        }
        body.push(b']');
        let sign = calls.iter().any(|call| call.sign);
        let long_poll = calls.iter().any(|call| call.long_poll);
        let deadline = Instant::now() + timeout;
        let (reply, sendings) = self.exchange(body.into(), sign, long_poll, deadline).await?;
        let results = reply.ok_or_else(empty).and_then(|reply| call::read_batch(&reply, calls.len()));
        let of_one = |e: RpcError| e.of_one_sending(sendings);
        Ok(results.map_err(of_one)?.into_iter().map(|result| result.map_err(of_one)).collect())
    }

    /// Sends a call that gets no reply.
    ///
    /// # Errors
    /// If it could not be sent, or the node refused the request as a whole.
    pub async fn notify(&self, call: &Call) -> Result<(), RpcError> {
        let mut body = Vec::new();
        call.write(&mut body, None);
        let deadline = Instant::now() + self.0.options.timeout;
        match self.exchange(body.into(), call.sign, call.long_poll, deadline).await? {
            (None, _) => Ok(()),
            (Some(reply), sendings) => call::read_single(&reply).map(|_| ()).map_err(|e| e.of_one_sending(sendings)),
        }
    }

    /// The key of the node: the one that the address pins, or that its signed `get_node_info` proves.
    ///
    /// # Errors
    /// As [`RpcClient::node`].
    pub async fn peer(&self) -> Result<PeerId, RpcError> {
        Ok(self.node().await?.peer_id)
    }

    /// Who the node is. Asked once and then remembered.
    ///
    /// # Errors
    /// As [`RpcClient::call`], and those of [`NodeInfo::verify`](crate::NodeInfo::verify).
    pub async fn node(&self) -> Result<Arc<VerifiedNode>, RpcError> {
        self.node_by(Instant::now() + self.0.options.timeout).await
    }

    async fn node_by(&self, deadline: Instant) -> Result<Arc<VerifiedNode>, RpcError> {
        if let Some(node) = self.known() {
            return Ok(node);
        }
        let Ok(_asking) = tokio::time::timeout_at(deadline, self.0.asking.lock()).await else {
            let address = self.address();
            let message = format!(
                "{address} was asked who it is, and did not say so within the time given: give the call more time"
            );
            return Err(RpcError::new(ErrorKind::TimedOut, message));
        };
        if let Some(node) = self.known() {
            return Ok(node);
        }
        let call = Call::new::<GetNodeInfo>(&NoParams {})?;
        let mut body = Vec::new();
        call.write(&mut body, Some(0));
        let reply = self.send(body.into(), None, false, deadline, Sendings::default()).await?.ok_or_else(empty)?;
        let info = decode::<GetNodeInfo>(call::read_single(&reply)?)?;
        let node = Arc::new(info.verify(self.0.address.pin(), Timestamp::now())?);
        *self.0.node.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&node));
        Ok(node)
    }

    fn known(&self) -> Option<Arc<VerifiedNode>> {
        self.0.node.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Forgets who the node is, to ask it again: it may have been set up anew.
    pub fn forget_node(&self) {
        *self.0.node.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// The reply, and how often the call was sent.
    async fn single(&self, call: &Call, timeout: Duration) -> Result<(Bytes, u32), RpcError> {
        let mut body = Vec::with_capacity(call.params.get().len() + call.method.len() + 64);
        call.write(&mut body, Some(0));
        let deadline = Instant::now() + timeout;
        let (reply, sendings) = self.exchange(body.into(), call.sign, call.long_poll, deadline).await?;
        Ok((reply.ok_or_else(empty)?, sendings))
    }

    /// Takes a request to the node, and counts how often it was sent.
    async fn exchange(
        &self,
        body: Bytes,
        sign: bool,
        long_poll: bool,
        deadline: Instant,
    ) -> Result<(Option<Bytes>, u32), RpcError> {
        let sendings = Sendings::default();
        let outcome = self.exchange_signed(body, sign, long_poll, deadline, &sendings).await;
        let count = sendings.close();
        match outcome {
            Ok(reply) => Ok((reply, count)),
            Err(e) => Err(e.with(SENT, count > 0)),
        }
    }

    /// Signs if it should, sends, and signs anew once if the signature was for another node or was
    /// used up.
    async fn exchange_signed(
        &self,
        body: Bytes,
        sign: bool,
        long_poll: bool,
        deadline: Instant,
        sendings: &Sendings,
    ) -> Result<Option<Bytes>, RpcError> {
        let identity = self.identity().filter(|_| sign);
        if identity.is_none() && self.0.address.pin().is_some() {
            self.node_by(deadline).await?;
        }
        let Some(identity) = identity else {
            return self.send(body, None, long_poll, deadline, sendings.clone()).await;
        };
        let authorization = self.authorize(identity, &body, deadline).await?;
        let reply = self.send(body.clone(), authorization, long_poll, deadline, sendings.clone()).await?;
        let again = match refusal_reason(reply.as_ref()).as_deref() {
            // The node has another key now than the one it proved before.
            Some("audience") => {
                self.forget_node();
                true
            }
            Some("replayed") => true,
            _ => false,
        };
        if !again {
            return Ok(reply);
        }
        let authorization = self.authorize(identity, &body, deadline).await?;
        self.send(body, authorization, long_poll, deadline, sendings.clone()).await
    }

    async fn authorize(
        &self,
        identity: &Identity,
        body: &Bytes,
        deadline: Instant,
    ) -> Result<Option<String>, RpcError> {
        let aud = match self.node_by(deadline).await {
            Ok(node) => node.peer_id,
            // A JSON-RPC server of another kind: it can be called, but not with our signature.
            Err(e) if e.kind == ErrorKind::MethodNotFound && self.0.address.pin().is_none() => {
                return Ok(None);
            }
            Err(e) => return Err(e),
        };
        let certificate = self.0.options.certificate.as_ref();
        let value = CallClaims::authorize(identity, aud, body, Timestamp::now(), certificate);
        Ok(Some(format!("Horus {value}")))
    }

    async fn send(
        &self,
        body: Bytes,
        authorization: Option<String>,
        long_poll: bool,
        deadline: Instant,
        sendings: Sendings,
    ) -> Result<Option<Bytes>, RpcError> {
        self.0.carrier.send(Outbound { body, authorization, deadline, long_poll, sendings }).await
    }
}

impl fmt::Debug for RpcClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RpcClient({})", self.0.address)
    }
}

/// Reads a result of `M`.
///
/// # Errors
/// [`ErrorKind::InvalidReply`] if it does not fit the method's schema.
pub fn decode<M: Method>(result: &RawValue) -> Result<M::Result, RpcError> {
    serde_json::from_str(result.get())
        .map_err(|e| call::invalid(&format!("the result of {} is not as expected ({e})", M::NAME)))
}

/// Why the node refused the signature of a request, if it did. A batch says so in every reply.
fn refusal_reason(reply: Option<&Bytes>) -> Option<String> {
    let reply = reply?;
    let name = ErrorKind::Unauthenticated.as_str().as_bytes();
    // Looked for only in replies that may hold it: short ones with the kind's name in them.
    if reply.len() > 1 << 20 || !reply.windows(name.len()).any(|window| window == name) {
        return None;
    }
    let error = match call::read_batch(reply, 1) {
        Ok(results) => results.into_iter().next()?.err()?,
        Err(e) => e,
    };
    let reason = error.get("reason").and_then(Value::as_str)?;
    (error.kind == ErrorKind::Unauthenticated).then(|| reason.to_owned())
}

fn empty() -> RpcError {
    call::invalid("the reply is empty")
}
