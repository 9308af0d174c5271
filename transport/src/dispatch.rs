//! From the bytes of a request to the bytes of its reply, whatever carried them.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use horus_keys::{CallClaims, Timestamp};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::auth::{Security, Signed, replayed};
use crate::error::{ErrorKind, RpcError};
use crate::exchange::{Inbound, Limits, Reply};
use crate::jsonrpc::{self, Request};
use crate::method::{Access, Caller};
use crate::rate::{Admitted, Rates};
use crate::replay::{CallKey, Joined, Replays};
use crate::table::{MethodTable, Methods, Running};

/// A longer request is hashed and parsed on a thread that may block, in bytes.
const LARGE: usize = 256 << 10;
/// How long a long poll may still answer by itself when the node stops.
const LONG_POLL_GRACE: Duration = Duration::from_millis(250);

/// Serves the methods of one role: reads, authenticates, authorises, runs, writes. Cheap to clone.
///
/// Every carrier hands its requests to the same dispatcher, so that methods, limits, access and
/// errors are the same on all.
///
/// - The entries of a batch run concurrently; the replies stand in the order of the calls.
/// - Notifications run, but get no reply. One call signature covers all of a request.
/// - A signed request is accepted once. An identical repeat, while the first is running or for two
///   minutes after, gets the first one's reply.
#[derive(Clone)]
pub struct Dispatcher(Arc<Inner>);

struct Inner {
    methods: Methods,
    security: Security,
    rates: Rates,
    replays: Replays,
    limits: Limits,
    stopping: CancellationToken,
}

/// A request that was read, with its calls ready to run.
struct Prepared {
    signed: Option<Signed>,
    is_batch: bool,
    calls: Vec<Prepare>,
}

struct Prepare {
    /// `None`: a notification.
    id: Option<Box<str>>,
    long_poll: bool,
    /// The parameters of a call that is as good as the envelope in them: nobody who is known here signed it.
    envelope: Option<Bytes>,
    run: Result<Running, RpcError>,
}

/// A call that ended: its id, and the text of its result.
type Done = (Option<Box<str>>, Result<Vec<u8>, RpcError>);

impl Dispatcher {
    /// Serves that table.
    #[must_use]
    #[allow(clippy::needless_pass_by_value, reason = "from here on the state is the dispatcher's")]
    pub fn new<S: Send + Sync + 'static>(
        table: MethodTable<S>,
        state: Arc<S>,
        security: Security,
        limits: Limits,
    ) -> Self {
        Self(Arc::new(Inner {
            methods: table.bind(&state),
            rates: Rates::new(security.rates),
            security,
            replays: Replays::new(),
            limits,
            stopping: CancellationToken::new(),
        }))
    }

    /// The OpenRPC document of the methods, as text.
    #[must_use]
    pub fn openrpc(&self) -> bytes::Bytes {
        self.0.methods.document()
    }

    /// The bounds that requests are held to.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.0.limits
    }

    /// The node stops: new calls are refused, long polls end at once, others after
    /// [`Limits::drain`].
    pub fn stop(&self) {
        self.0.stopping.cancel();
    }

    /// Answers one request. When the future is dropped, so are the calls in it, unless an identical
    /// repeat waits for them too.
    pub async fn dispatch(&self, request: Inbound) -> Reply {
        let inner = &self.0;
        let limit = inner.limits.request_bytes;
        if request.body.len() > limit {
            return Reply::refusal(&too_large(limit));
        }
        let names_known = || inner.security.names_known(&request, Timestamp::now());
        let admitted = match inner.rates.admit(request.origin, names_known) {
            Ok(admitted) => admitted,
            Err(e) => return Reply::refusal(&e),
        };
        let prepared = if request.body.len() > LARGE {
            let inner = Arc::clone(inner);
            let prepare = tokio::task::spawn_blocking(move || inner.prepare(&request, admitted));
            prepare.await.unwrap_or_else(|e| Err(RpcError::internal(e)))
        } else {
            inner.prepare(&request, admitted)
        };
        let Prepared { signed, is_batch, calls } = match prepared {
            Ok(prepared) => prepared,
            Err(e) => return Reply::refusal(&e),
        };
        match signed {
            // The nonces of strangers are not kept: they may call nothing that a repeat could harm.
            Some(signed) if signed.trusted => self.once(signed, admitted, is_batch, calls).await,
            _ => Arc::clone(inner).run(admitted, is_batch, calls).await,
        }
    }

    /// Runs a signed request, unless it was made before.
    async fn once(&self, signed: Signed, admitted: Admitted, is_batch: bool, calls: Vec<Prepare>) -> Reply {
        let inner = Arc::clone(&self.0);
        let (number, nonce) = signed.nonce;
        let key: CallKey = (signed.caller, number, signed.body);
        // A long poll changes nothing: to make it again harms nobody, and it need not wait for its nonce to be kept.
        let harmless = calls.iter().all(|call| call.long_poll);
        let joined = self.0.replays.join(key, move |nonce_taken| {
            async move {
                if !harmless && !nonce_taken.load(Ordering::Acquire) {
                    let ttl = CallClaims::NONCE_LIFETIME;
                    let fresh = inner.security.nonces.remember(signed.caller, &nonce, ttl).await;
                    let refused = match fresh {
                        Ok(true) => None,
                        Ok(false) => Some(replayed()),
                        Err(e) => Some(e),
                    };
                    if let Some(error) = refused {
                        inner.replays.forget(&key);
                        let failed = calls.into_iter().map(|call| call.failed(&error)).collect();
                        return inner.run(admitted, is_batch, failed).await;
                    }
                    nonce_taken.store(true, Ordering::Release);
                }
                let reply = Arc::clone(&inner).run(admitted, is_batch, calls).await;
                inner.replays.answered(key, &reply);
                reply
            }
            .boxed()
        });
        match joined {
            Joined::Pending(pending) => pending.await,
            Joined::Answered(reply) => reply,
        }
    }
}

impl Prepare {
    fn failed(self, error: &RpcError) -> Self {
        Self { run: Err(error.clone()), ..self }
    }
}

impl Inner {
    /// Reads the request, finds out who calls, and readies every call that this caller may make.
    fn prepare(&self, request: &Inbound, admitted: Admitted) -> Result<Prepared, RpcError> {
        let now = Timestamp::now();
        let body = &request.body;
        let entries = jsonrpc::read(body, self.limits.batch);
        let authentic =
            request.authorization.as_deref().map(|value| self.security.authenticate(value, body, now)).transpose();
        if authentic.is_err() {
            self.rates.failed(admitted);
        }
        let trusted = matches!(&authentic, Ok(Some(signed)) if signed.trusted);
        if entries.is_err() && !trusted {
            self.rates.stranger(admitted.origin)?;
        }
        let (is_batch, entries) = match entries? {
            Request::Single(entry) => (false, vec![entry]),
            Request::Batch(entries) => (true, entries),
        };
        let ready = |entry: jsonrpc::Entry<'_>| {
            let mut prepare = Prepare {
                id: entry.id.map(Box::from),
                long_poll: false,
                envelope: None,
                run: Err(RpcError::new(ErrorKind::Internal, "")),
            };
            prepare.run = self.ready(entry, &mut prepare, body, &authentic, admitted, now);
            prepare
        };
        let calls = entries.into_iter().map(ready).collect();
        Ok(Prepared { signed: authentic.ok().flatten(), is_batch, calls })
    }

    fn ready(
        &self,
        entry: jsonrpc::Entry<'_>,
        prepare: &mut Prepare,
        body: &Bytes,
        authentic: &Result<Option<Signed>, RpcError>,
        admitted: Admitted,
        now: Timestamp,
    ) -> Result<Running, RpcError> {
        if self.stopping.is_cancelled() {
            return Err(shutting_down());
        }
        let signed = authentic.as_ref().map_err(RpcError::clone)?.as_ref();
        let method = entry.call.and_then(|call| {
            let method = self.methods.get(&call.method).ok_or_else(|| unknown(&call.method))?;
            Ok((call, method))
        });
        let trusted = signed.is_some_and(|signed| signed.trusted);
        let open = method.as_ref().map_or(true, |(_, method)| method.access == Access::Open);
        // Open methods, and noise. Envelopes are counted when they are refused.
        if open && !trusted {
            self.rates.stranger(admitted.origin)?;
        }
        let (call, method) = method?;
        prepare.long_poll = method.long_poll;
        let allowed = self.security.allow(&call.method, method.access, signed, now);
        if let Err(e) = allowed {
            // Who is known and may not do this has proved who it is.
            if !trusted {
                self.rates.failed(admitted);
            }
            return Err(e);
        }
        if method.access == Access::Envelope && !trusted {
            prepare.envelope = call.params.map(|params| body.slice_ref(params.get().as_bytes()));
        }
        let caller = Caller { peer: signed.map(|signed| signed.caller) };
        (method.start)(caller, call.params)
    }

    /// Runs all calls of a request and writes the reply.
    async fn run(self: Arc<Self>, admitted: Admitted, is_batch: bool, calls: Vec<Prepare>) -> Reply {
        if !is_batch {
            let Some(call) = calls.into_iter().next() else { return Reply { body: None, refused: None } };
            let (id, result) = self.run_one(admitted, call).await;
            let mut body = Vec::new();
            self.write(&mut body, id.as_deref(), &result);
            return Reply { body: (!body.is_empty()).then(|| body.into()), refused: None };
        }
        let mut results: Vec<Option<Done>> = Vec::new();
        results.resize_with(calls.len(), || None);
        // Tasks of their own, so that they use all cores; dropped with the set.
        let mut running = JoinSet::new();
        for (at, call) in calls.into_iter().enumerate() {
            if call.run.is_err() {
                results[at] = Some(self.run_one(admitted, call).await);
            } else {
                let inner = Arc::clone(&self);
                running.spawn(async move { (at, inner.run_one(admitted, call).await) });
            }
        }
        while let Some(done) = running.join_next().await {
            // Panics are caught inside; nobody else cancels the tasks.
            if let Ok((at, result)) = done {
                results[at] = Some(result);
            }
        }
        let mut body = Vec::new();
        for (id, result) in results.into_iter().flatten() {
            if id.is_some() {
                body.push(if body.is_empty() { b'[' } else { b',' });
                self.write(&mut body, id.as_deref(), &result);
            }
        }
        if !body.is_empty() {
            body.push(b']');
        }
        Reply { body: (!body.is_empty()).then(|| body.into()), refused: None }
    }

    async fn run_one(&self, admitted: Admitted, call: Prepare) -> Done {
        let Prepare { id, long_poll, envelope, run, .. } = call;
        let running = match run {
            Ok(running) => AssertUnwindSafe(running).catch_unwind(),
            Err(e) => return (id, Err(e)),
        };
        let result = tokio::select! {
            biased;
            result = running => result.unwrap_or_else(|panic| Err(panicked(&*panic))),
            () = self.ended(long_poll) => Err(shutting_down()),
        };
        // What a known key signed may be refused as often as it comes: a coordinator brings the steps of all its users.
        if let (Some(params), Err(e)) = (envelope, &result)
            && is_authentication(e.kind)
            && !self.security.vouches(&params, Timestamp::now())
        {
            self.rates.failed(admitted);
        }
        (id, result)
    }

    /// Resolves when a call has to end because the node stops.
    async fn ended(&self, long_poll: bool) {
        self.stopping.cancelled().await;
        tokio::time::sleep(if long_poll { LONG_POLL_GRACE } else { self.limits.drain }).await;
    }

    /// Appends a response, for a notification nothing.
    fn write(&self, body: &mut Vec<u8>, id: Option<&str>, result: &Result<Vec<u8>, RpcError>) {
        let Some(id) = id else { return };
        let limit = self.limits.response_bytes;
        match result {
            Ok(result) if body.len() + result.len() > limit => {
                let message = format!("the reply would be longer than {limit} bytes: ask for less at once");
                jsonrpc::write_error(body, id, &RpcError::new(ErrorKind::TooLarge, message).with("limit", limit));
            }
            Ok(result) => jsonrpc::write_result(body, id, result),
            Err(e) => jsonrpc::write_error(body, id, e),
        }
    }
}

/// Whether an error means that an envelope did not prove what its sender may.
fn is_authentication(kind: ErrorKind) -> bool {
    use ErrorKind::{BadSignature, InvalidEnvelope, NotAllowed, UntrustedSigner};
    matches!(kind, BadSignature | InvalidEnvelope | NotAllowed | UntrustedSigner)
}

pub(crate) fn too_large(limit: usize) -> RpcError {
    let message = format!("a request may have {limit} bytes: send less at once");
    RpcError::new(ErrorKind::TooLarge, message).with("limit", limit)
}

fn shutting_down() -> RpcError {
    RpcError::new(ErrorKind::ShuttingDown, "this node is stopping: ask again in a moment, or ask another one")
}

fn unknown(method: &str) -> RpcError {
    let name: String = method.chars().take(64).collect();
    RpcError::new(
        ErrorKind::MethodNotFound,
        format!("no method `{name}` here: rpc.discover lists them; is this the right role's port?"),
    )
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> RpcError {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    RpcError::internal(format!("a handler panicked: {}", text.unwrap_or("(no message)")))
}
