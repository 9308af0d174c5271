//! A role to call: methods of every kind.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use horus_keys::{Identity, NodeAnnouncement, PeerId, Role, Timestamp, Trust, TrustPolicy, TrustedKey};
use horus_transport::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// The topic that it serves.
pub(crate) const TOPIC: &str = "horus.supervisor";

pub(crate) struct State {
    pub(crate) me: Identity,
    pub(crate) addresses: OnceLock<Vec<String>>,
    pub(crate) mesh_public_key: Option<horus_keys::MeshPublicKey>,
    pub(crate) counted: AtomicU32,
    pub(crate) noted: AtomicU32,
    pub(crate) bell: watch::Sender<u32>,
}

#[derive(Serialize, Deserialize, JsonSchema)]
pub(crate) struct EchoParams {
    pub(crate) text: String,
    #[serde(default)]
    pub(crate) pause_ms: u64,
}

#[derive(Serialize, Deserialize, JsonSchema)]
pub(crate) struct SizeParams {
    pub(crate) bytes: usize,
}

#[derive(Serialize, Deserialize, JsonSchema)]
pub(crate) struct RingParams {
    /// Waits until the bell has rung so often.
    pub(crate) rings: u32,
    pub(crate) timeout_ms: u64,
}

macro_rules! method {
    ($type:ident, $name:literal, $access:expr, $params:ty, $result:ty, $long:literal) => {
        pub(crate) enum $type {}
        impl Method for $type {
            const NAME: &'static str = $name;
            const SUMMARY: &'static str = "For tests";
            const ACCESS: Access = $access;
            const LONG_POLL: bool = $long;
            type Params = $params;
            type Result = $result;
        }
    };
}

method!(Echo, "echo", Access::Open, EchoParams, String, false);
method!(Count, "count", Access::Roles(&[Role::Submitter]), NoParams, u32, false);
method!(Operate, "operate", Access::Roles(&[Role::Operator]), NoParams, u32, false);
method!(Who, "who", Access::Roles(&[Role::Submitter]), NoParams, PeerId, false);
method!(Note, "note", Access::Open, NoParams, (), false);
method!(Big, "big", Access::Open, SizeParams, String, false);
method!(Fail, "fail", Access::Open, NoParams, (), false);
method!(WaitBell, "wait_bell", Access::Roles(&[Role::Submitter]), RingParams, bool, true);

fn announce(state: &State) -> NodeInfo {
    let announcement = NodeAnnouncement {
        roles: vec![Role::Supervisor],
        topics: vec![TOPIC.into()],
        runners: Vec::new(),
        addresses: state.addresses.get().cloned().unwrap_or_default(),
        mesh_public_key: state.mesh_public_key,
        sealing_public_key: None,
        expires_at: Timestamp::now() + Duration::from_secs(600),
    };
    let envelope = announcement.sign(&state.me);
    NodeInfo {
        envelope,
        peer_id: state.me.peer_id(),
        role: Role::Supervisor,
        version: "test".into(),
        certificate: None,
    }
}

fn table() -> MethodTable<State> {
    let info = ServiceInfo { title: "test".into(), version: "1".into(), description: String::new() };
    MethodTable::new(info)
        .method::<GetNodeInfo, _, _>(|state: Arc<State>, _, _| async move { Ok(announce(&state)) })
        .method::<Echo, _, _>(|_, _, p: EchoParams| async move {
            tokio::time::sleep(Duration::from_millis(p.pause_ms)).await;
            Ok(p.text)
        })
        .method::<Count, _, _>(|s: Arc<State>, _, _| async move { Ok(s.counted.fetch_add(1, Ordering::SeqCst) + 1) })
        .method::<Operate, _, _>(|_, _, _| async move { Ok(1) })
        .method::<Who, _, _>(|_, caller: Caller, _| async move { caller.signed() })
        .method::<Note, _, _>(|s: Arc<State>, _, _| async move {
            s.noted.fetch_add(1, Ordering::SeqCst);
            Ok(())
        })
        .method::<Big, _, _>(|_, _, p: SizeParams| async move { Ok("x".repeat(p.bytes)) })
        .method::<Fail, _, _>(|_, _, _| async move {
            Err(RpcError::new(ErrorKind::QueueFull, "come back later").with("limit", 7))
        })
        .method::<WaitBell, _, _>(|s: Arc<State>, _, p: RingParams| async move {
            let mut bell = s.bell.subscribe();
            let rung = bell.wait_for(|rings| *rings >= p.rings);
            Ok(tokio::time::timeout(Duration::from_millis(p.timeout_ms), rung).await.is_ok())
        })
}

/// Who may call: a submitter.
pub(crate) fn friend() -> Identity {
    Identity::from_seed(&[1; 32])
}

/// Somebody unknown.
pub(crate) fn stranger() -> Identity {
    Identity::from_seed(&[2; 32])
}

pub(crate) fn policy(me: &Identity) -> Trust {
    let key = |identity: &Identity, role| TrustedKey {
        id: identity.peer_id(),
        name: None,
        roles: vec![role],
        runners: Vec::new(),
    };
    let keys = vec![key(&friend(), Role::Submitter), key(me, Role::Supervisor)];
    Trust::new(TrustPolicy { keys, ..TrustPolicy::default() })
}

pub(crate) fn dispatcher(state: &Arc<State>) -> Dispatcher {
    let security = Security::new(state.me.peer_id(), policy(&state.me));
    Dispatcher::new(table(), Arc::clone(state), security, Limits { drain: Duration::from_secs(1), ..Limits::default() })
}

pub(crate) fn state(seed: u8) -> State {
    State {
        me: Identity::from_seed(&[seed; 32]),
        addresses: OnceLock::new(),
        mesh_public_key: None,
        counted: AtomicU32::new(0),
        noted: AtomicU32::new(0),
        bell: watch::channel(0).0,
    }
}
