//! Client and server against each other and against raw sockets.

mod auth;
mod client;
mod discover;
mod http;
mod limits;
mod rpc;
mod shutdown;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use horus_keys::{Identity, NodeAnnouncement, Role, Timestamp, Trust, TrustPolicy, TrustedKey};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use crate::*;

/// What the handlers of the tests work on.
pub(super) struct State {
    me: Identity,
    /// How often `count` ran.
    pub(super) counted: AtomicU32,
    /// How often `note` ran.
    pub(super) noted: AtomicU32,
    /// How often `count` and `wait` began.
    pub(super) begun: AtomicU32,
    /// How many `echo`s stood in their pause at once, now and at most.
    pub(super) pausing: AtomicU32,
    pub(super) most_pausing: AtomicU32,
}

/// A value to give back.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct EchoParams {
    /// Given back byte for byte.
    pub(super) value: Box<RawValue>,
    /// How long to wait before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) pause_ms: Option<u64>,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(super) struct EchoResult {
    pub(super) value: Box<RawValue>,
}

pub(super) enum Echo {}
impl Method for Echo {
    const NAME: &'static str = "echo";
    const SUMMARY: &'static str = "Gives back a value";
    const ACCESS: Access = Access::Open;
    type Params = EchoParams;
    type Result = EchoResult;

    fn examples() -> Vec<Example> {
        let value = serde_json::json!({"value": [1, 2]});
        vec![Example { name: "a list", params: value.clone(), result: value }]
    }
}

/// How long to take.
#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PauseParams {
    /// In milliseconds.
    #[serde(default)]
    pub(super) pause_ms: u64,
}

pub(super) enum Count {}
impl Method for Count {
    const NAME: &'static str = "count";
    const SUMMARY: &'static str = "Counts its calls";
    const ACCESS: Access = Access::Roles(&[Role::Submitter, Role::Operator]);
    type Params = PauseParams;
    type Result = u32;
}

pub(super) enum Wait {}
impl Method for Wait {
    const NAME: &'static str = "wait";
    const SUMMARY: &'static str = "Waits";
    const ACCESS: Access = Access::Open;
    const LONG_POLL: bool = true;
    type Params = PauseParams;
    type Result = ();
}

/// What to do with an envelope.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SubmitParams {
    /// Whether it is accepted.
    pub(super) good: bool,
    /// The envelope, which nobody looks at here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) envelope: Option<horus_keys::Envelope>,
}

pub(super) enum Submit {}
impl Method for Submit {
    const NAME: &'static str = "submit";
    const SUMMARY: &'static str = "Takes an envelope";
    const ACCESS: Access = Access::Envelope;
    const ERRORS: &'static [ErrorKind] = &[ErrorKind::QueueFull];
    type Params = SubmitParams;
    type Result = bool;
}

pub(super) enum Note {}
impl Method for Note {
    const NAME: &'static str = "note";
    const SUMMARY: &'static str = "Notes that it was called";
    const ACCESS: Access = Access::Open;
    type Params = NoParams;
    type Result = ();
}

pub(super) enum Panic {}
impl Method for Panic {
    const NAME: &'static str = "panic";
    const SUMMARY: &'static str = "Panics";
    const ACCESS: Access = Access::Open;
    type Params = NoParams;
    type Result = ();
}

/// How much to say.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct BigParams {
    /// In bytes.
    pub(super) bytes: usize,
}

pub(super) enum Big {}
impl Method for Big {
    const NAME: &'static str = "big";
    const SUMMARY: &'static str = "Says much";
    const ACCESS: Access = Access::Open;
    type Params = BigParams;
    type Result = String;
}

async fn echo(state: Arc<State>, _: Caller, params: EchoParams) -> Result<EchoResult, RpcError> {
    if let Some(pause) = params.pause_ms {
        let now = state.pausing.fetch_add(1, Ordering::SeqCst) + 1;
        state.most_pausing.fetch_max(now, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(pause)).await;
        state.pausing.fetch_sub(1, Ordering::SeqCst);
    }
    Ok(EchoResult { value: params.value })
}

async fn count(state: Arc<State>, caller: Caller, params: PauseParams) -> Result<u32, RpcError> {
    caller.signed()?;
    state.begun.fetch_add(1, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(params.pause_ms)).await;
    Ok(state.counted.fetch_add(1, Ordering::SeqCst) + 1)
}

async fn submit(_: Arc<State>, _: Caller, params: SubmitParams) -> Result<bool, RpcError> {
    if params.good { Ok(true) } else { Err(RpcError::new(ErrorKind::BadSignature, "refused")) }
}

pub(super) fn announcement(me: &Identity) -> NodeInfo {
    let announcement = NodeAnnouncement {
        roles: vec![Role::Supervisor],
        topics: vec!["horus.supervisor".into()],
        runners: Vec::new(),
        addresses: Vec::new(),
        mesh_public_key: None,
        sealing_public_key: None,
        expires_at: Timestamp::now() + Duration::from_secs(600),
    };
    NodeInfo {
        envelope: announcement.sign(me),
        peer_id: me.peer_id(),
        role: Role::Supervisor,
        version: "0.1.0".into(),
        certificate: None,
    }
}

pub(super) fn table() -> MethodTable<State> {
    let info = ServiceInfo { title: "Test".into(), version: "1".into(), description: "For tests".into() };
    MethodTable::new(info)
        .method::<Echo, _, _>(echo)
        .method::<Count, _, _>(count)
        .method::<Submit, _, _>(submit)
        .method::<Wait, _, _>(async |state: Arc<State>, _: Caller, params: PauseParams| {
            state.begun.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(params.pause_ms)).await;
            Ok(())
        })
        .method::<Note, _, _>(async |state: Arc<State>, _: Caller, _: NoParams| {
            state.noted.fetch_add(1, Ordering::SeqCst);
            Ok(())
        })
        .method::<Panic, _, _>(async |_: Arc<State>, _: Caller, _: NoParams| panic!("on purpose"))
        .method::<Big, _, _>(async |_: Arc<State>, _: Caller, params: BigParams| Ok("x".repeat(params.bytes)))
        .method::<GetNodeInfo, _, _>(async |state: Arc<State>, _: Caller, _: NoParams| Ok(announcement(&state.me)))
}

/// A server and the keys around it.
pub(super) struct World {
    pub(super) state: Arc<State>,
    pub(super) dispatcher: Dispatcher,
    pub(super) address: SocketAddr,
    pub(super) owner: Identity,
    pub(super) operator: Identity,
    pub(super) observer: Identity,
    pub(super) trust: Trust,
    pub(super) stop: CancellationToken,
    pub(super) served: tokio::task::JoinHandle<()>,
}

/// What may be other than usual.
#[derive(Default)]
pub(super) struct Setup {
    pub(super) options: ServerOptions,
    pub(super) limits: Limits,
    pub(super) rates: RateLimits,
}

impl World {
    pub(super) async fn start() -> Self {
        Self::with(Setup::default()).await
    }

    pub(super) async fn with(setup: Setup) -> Self {
        let me = Identity::generate();
        let [owner, operator, observer] = [(); 3].map(|()| Identity::generate());
        let key = |identity: &Identity, role| TrustedKey {
            id: identity.peer_id(),
            name: None,
            roles: vec![role],
            runners: Vec::new(),
        };
        let trust = Trust::new(TrustPolicy {
            keys: vec![key(&owner, Role::Owner), key(&operator, Role::Operator), key(&observer, Role::Observer)],
            revoked: Vec::new(),
        });
        let mut security = Security::new(me.peer_id(), trust.clone());
        security.rates = setup.rates;
        let state = Arc::new(State {
            me,
            counted: AtomicU32::new(0),
            noted: AtomicU32::new(0),
            begun: AtomicU32::new(0),
            pausing: AtomicU32::new(0),
            most_pausing: AtomicU32::new(0),
        });
        let dispatcher = Dispatcher::new(table(), Arc::clone(&state), security, setup.limits);
        let mut options = setup.options;
        if options.listen.is_empty() {
            options.listen = vec!["127.0.0.1:0".parse().unwrap()];
        }
        let server = RpcServer::bind(dispatcher.clone(), options).await.unwrap();
        let address = server.local_addrs()[0];
        let stop = CancellationToken::new();
        let served = tokio::spawn(server.serve(stop.clone()));
        Self { state, dispatcher, address, owner, operator, observer, trust, stop, served }
    }

    pub(super) fn me(&self) -> horus_keys::PeerId {
        self.state.me.peer_id()
    }

    pub(super) fn counted(&self) -> u32 {
        self.state.counted.load(Ordering::SeqCst)
    }

    pub(super) fn url(&self) -> Address {
        format!("http://{}", self.address).parse().unwrap()
    }

    pub(super) fn client(&self, identity: Option<&Identity>) -> RpcClient {
        let options = ClientOptions { identity: identity.cloned(), ..ClientOptions::default() };
        RpcClient::connect(self.url(), options).unwrap()
    }

    /// Posts a body over a socket of its own; status and body of the answer.
    pub(super) async fn post(&self, body: impl AsRef<[u8]>) -> (u16, String) {
        self.post_with("", body).await
    }

    pub(super) async fn post_with(&self, headers: &str, body: impl AsRef<[u8]>) -> (u16, String) {
        let body = body.as_ref();
        let head = format!(
            "POST / HTTP/1.1\r\nhost: h\r\nconnection: close\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n{headers}\r\n",
            body.len()
        );
        self.exchange(&[head.as_bytes(), body].concat()).await
    }

    /// Sends these bytes and reads until the server closes.
    pub(super) async fn exchange(&self, bytes: &[u8]) -> (u16, String) {
        let mut socket = TcpStream::connect(self.address).await.unwrap();
        // The server may answer and close before it has taken everything.
        let _ = socket.write_all(bytes).await;
        read_answer(&mut socket).await
    }

    /// Posts a call or a batch and reads the answer as JSON.
    pub(super) async fn json(&self, body: &str) -> Value {
        let (status, text) = self.post(body).await;
        assert_eq!(status, 200, "{text}");
        serde_json::from_str(&text).unwrap()
    }
}

pub(super) async fn read_answer(socket: &mut TcpStream) -> (u16, String) {
    let mut answer = Vec::new();
    let read = socket.read_to_end(&mut answer);
    let _ = tokio::time::timeout(Duration::from_secs(20), read).await.expect("the server closes");
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    (status, body.to_owned())
}

/// Waits until something is so, for 30 s at most.
pub(super) async fn until(what: &str, is_so: impl Fn() -> bool) {
    for _ in 0..3000 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what}: not within 30 s");
}

/// A call as text.
pub(super) fn request(id: &str, method: &str, params: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{params}}}"#)
}
