//! The daemon's JSON-RPC API.
//!
//! The real daemon serves it with jsonrpsee as it comes, and so does the simulator: requests and
//! responses of 10 MiB at most, 100 requests at a time, and HTTP 429 for more.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jsonrpsee::core::RpcResult;
use jsonrpsee::server::{IntoResponse, RpcModule, Server, serve as serve_connection, stop_channel};
use jsonrpsee::types::{ErrorCode, ErrorObjectOwned, Params};
use serde_json::json;
use tokio::net::TcpListener;

use super::daemon::{Daemon, lock};
use super::params::Reader;
use super::topics::Subnet;
use super::wire::{MessageId, NodeInfo, Peer, Push, Pushed};

/// The daemon's own error codes.
mod code {
    pub(super) const BAD_IP: i32 = -32007;
    pub(super) const UNKNOWN_IP: i32 = -32008;
    pub(super) const BAD_TOPIC_FILTER: i32 = -32013;
    pub(super) const TOPIC_TOO_LONG: i32 = -32015;
    pub(super) const BAD_REPLY_ID: i32 = -32018;
    pub(super) const UNKNOWN_MESSAGE: i32 = -32019;
    pub(super) const BAD_MESSAGE_ID: i32 = -32020;
    pub(super) const BAD_TOPIC: i32 = -32021;
    pub(super) const BAD_SUBNET: i32 = -32023;
    pub(super) const UNKNOWN_TOPIC: i32 = -32030;
}

/// Answers API calls at that socket until the daemon is killed.
pub(super) fn serve(daemon: &Arc<Daemon>, listener: TcpListener) {
    let module = module(Arc::clone(daemon));
    let owner = Arc::clone(daemon);
    daemon.spawn(async move {
        // Nobody asks it to stop in good order: a daemon is killed.
        let (stop, _server) = stop_channel();
        let service = Server::builder().to_service_builder().build(module, stop);
        loop {
            let Ok((connection, _)) = listener.accept().await else {
                // Out of file descriptors, most likely.
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            };
            _ = connection.set_nodelay(true);
            let service = service.clone();
            owner.spawn(async move {
                _ = serve_connection(connection, service).await;
            });
        }
    });
}

fn module(daemon: Arc<Daemon>) -> RpcModule<Arc<Daemon>> {
    let mut module = RpcModule::new(daemon);
    node_methods(&mut module);
    message_methods(&mut module);
    topic_methods(&mut module);
    module
}

/// Adds a method, and counts its calls.
fn add<R, F>(
    module: &mut RpcModule<Arc<Daemon>>,
    name: &'static str,
    method: impl Fn(Arc<Daemon>, Params<'static>) -> F + Clone + Send + Sync + 'static,
) where
    RpcResult<R>: IntoResponse + 'static,
    F: Future<Output = RpcResult<R>> + Send + 'static,
{
    let added = module.register_async_method(name, move |params, daemon, _| {
        daemon.host().traffic.called(name);
        method(Arc::clone(&daemon), params)
    });
    added.expect("every name is used once");
}

fn node_methods(module: &mut RpcModule<Arc<Daemon>>) {
    add(module, "getInfo", |daemon, _| async move {
        let _api = daemon.api.lock().await;
        Ok(info(&daemon))
    });
    add(module, "getPeers", |daemon, _| async move {
        let _api = daemon.api.lock().await;
        Ok(peers(&daemon))
    });
    add(module, "getPublicKeyFromIp", |daemon, params| async move {
        let ip: String = Reader::new(&params)?.required("ip")?;
        let ip = ip.parse().map_err(|_| error(code::BAD_IP))?;
        let _api = daemon.api.lock().await;
        // A wire that is cut goes unnoticed for long; a daemon that is down does not. The own address
        // has no route, so its key is not known.
        let index = daemon.mesh.find(ip).filter(|index| *index != daemon.index);
        let host = index.map(|index| daemon.mesh.host(index)).filter(|host| host.is_running());
        Ok(host.ok_or_else(|| error(code::UNKNOWN_IP))?.key)
    });
}

fn info(daemon: &Daemon) -> NodeInfo {
    let host = daemon.host();
    let [a, b, c, d, ..] = host.address.segments();
    NodeInfo {
        node_subnet: format!("{}/64", std::net::Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0)),
        node_ip: host.address.into(),
        node_pubkey: host.key,
        node_start_time: daemon.started,
    }
}

/// Every daemon connects to those before it.
fn peers(daemon: &Daemon) -> Vec<Peer> {
    let mesh = &daemon.mesh;
    let others = mesh.hosts().iter().enumerate().filter(|(index, _)| *index != daemon.index);
    others
        .map(|(index, host)| {
            let outgoing = index < daemon.index;
            let socket = format!("127.0.0.1:{}", host.api.port());
            Peer {
                endpoint: json!({"proto": "tcp", "addr": {"socket": socket}}),
                kind: if outgoing { "static" } else { "inbound" },
                connection_state: if host.is_running() { "alive" } else { "dead" },
                tx_bytes: 0,
                rx_bytes: 0,
                discovered: 0,
                last_connected: host.is_running().then_some(0),
            }
        })
        .collect()
}

fn message_methods(module: &mut RpcModule<Arc<Daemon>>) {
    add(module, "popMessage", |daemon, params| async move {
        let mut params = Reader::new(&params)?;
        let peek: bool = params.optional("peek")?.unwrap_or(false);
        let timeout: u64 = params.optional("timeout")?.unwrap_or(0);
        let topic: Option<String> = params.optional("topic")?;
        let topic = topic.map(|topic| decode(&topic, code::BAD_TOPIC_FILTER)).transpose()?;
        if timeout > 0 {
            daemon.host().traffic.blocking_pop();
        }
        Ok(daemon.pop(peek, topic, Duration::from_secs(timeout)).await)
    });
    add(module, "pushMessage", |daemon, params| async move {
        let mut params = Reader::new(&params)?;
        let Push { dst, topic, payload } = params.required("message")?;
        let timeout: Option<u64> = params.optional("reply_timeout")?;
        let topic = topic.map(|topic| topic.0).unwrap_or_default();
        let pushed = {
            let _api = daemon.api.lock().await;
            daemon.push(dst.ip(), topic, payload.0, timeout.is_some())
        };
        let (id, reply) = pushed.map_err(|_| error(code::TOPIC_TOO_LONG))?;
        let (Some(timeout), Some(reply)) = (timeout, reply) else { return Ok(Pushed::Id { id }) };
        match tokio::time::timeout(Duration::from_secs(timeout), reply).await {
            Ok(Ok(reply)) => Ok(Pushed::Reply(reply)),
            Ok(Err(_)) | Err(_) => Ok(Pushed::Id { id }),
        }
    });
    add(module, "pushMessageReply", |daemon, params| async move {
        let mut params = Reader::new(&params)?;
        let id: String = params.required("id")?;
        let Push { dst, payload, .. } = params.required("message")?;
        let id = id.parse().map_err(|()| error(code::BAD_REPLY_ID))?;
        let _api = daemon.api.lock().await;
        daemon.reply(id, dst.ip(), payload.0);
        Ok(true)
    });
    add(module, "getMessageInfo", |daemon, params| async move {
        let id: String = Reader::new(&params)?.required("id")?;
        let id: MessageId = id.parse().map_err(|()| error(code::BAD_MESSAGE_ID))?;
        let _api = daemon.api.lock().await;
        daemon.info(id).ok_or_else(|| error(code::UNKNOWN_MESSAGE))
    });
}

fn topic_methods(module: &mut RpcModule<Arc<Daemon>>) {
    add(module, "getDefaultTopicAction", |daemon, _| async move {
        let _api = daemon.api.lock().await;
        Ok(!lock(&daemon.topics).refuse_others)
    });
    add(module, "setDefaultTopicAction", |daemon, params| async move {
        let accept: bool = Reader::new(&params)?.required("accept")?;
        let _api = daemon.api.lock().await;
        lock(&daemon.topics).refuse_others = !accept;
        Ok(true)
    });
    add(module, "getTopics", |daemon, _| async move {
        let _api = daemon.api.lock().await;
        Ok(lock(&daemon.topics).names().map(|name| STANDARD.encode(name)).collect::<Vec<_>>())
    });
    add(module, "addTopic", |daemon, params| async move {
        let topic = topic(&mut Reader::new(&params)?)?;
        let _api = daemon.api.lock().await;
        lock(&daemon.topics).add(topic);
        Ok(true)
    });
    add(module, "removeTopic", |daemon, params| async move {
        let topic = topic(&mut Reader::new(&params)?)?;
        let _api = daemon.api.lock().await;
        lock(&daemon.topics).remove(&topic);
        Ok(true)
    });
    add(module, "getTopicSources", |daemon, params| async move {
        let topic = topic(&mut Reader::new(&params)?)?;
        let _api = daemon.api.lock().await;
        let topics = lock(&daemon.topics);
        let sources = topics.sources(&topic).ok_or_else(|| error(code::UNKNOWN_TOPIC))?;
        Ok(sources.iter().map(ToString::to_string).collect::<Vec<_>>())
    });
    add(module, "addTopicSource", |daemon, params| async move {
        let (topic, subnet) = topic_and_subnet(&params)?;
        let _api = daemon.api.lock().await;
        lock(&daemon.topics).add_source(topic, subnet);
        Ok(true)
    });
    add(module, "removeTopicSource", |daemon, params| async move {
        let (topic, subnet) = topic_and_subnet(&params)?;
        let _api = daemon.api.lock().await;
        lock(&daemon.topics).remove_source(&topic, subnet);
        Ok(true)
    });
    add(module, "getTopicForwardSocket", |daemon, params| async move {
        let topic = topic(&mut Reader::new(&params)?)?;
        let _api = daemon.api.lock().await;
        Ok(lock(&daemon.topics).socket(&topic).map(|path| path.to_string_lossy().into_owned()))
    });
    add(module, "setTopicForwardSocket", |daemon, params| async move {
        let mut params = Reader::new(&params)?;
        let topic = topic(&mut params)?;
        let path: String = params.required("socket_path")?;
        let _api = daemon.api.lock().await;
        lock(&daemon.topics).set_socket(&topic, Some(path.into()));
        Ok(true)
    });
    add(module, "removeTopicForwardSocket", |daemon, params| async move {
        let topic = topic(&mut Reader::new(&params)?)?;
        let _api = daemon.api.lock().await;
        lock(&daemon.topics).set_socket(&topic, None);
        Ok(true)
    });
}

fn topic(params: &mut Reader<'_>) -> RpcResult<Vec<u8>> {
    decode(&params.required::<String>("topic")?, code::BAD_TOPIC)
}

fn topic_and_subnet(params: &Params<'_>) -> RpcResult<(Vec<u8>, Subnet)> {
    let mut params = Reader::new(params)?;
    let topic: String = params.required("topic")?;
    let subnet: String = params.required("subnet")?;
    Ok((decode(&topic, code::BAD_TOPIC)?, subnet.parse().map_err(|()| error(code::BAD_SUBNET))?))
}

fn decode(base64: &str, code: i32) -> RpcResult<Vec<u8>> {
    STANDARD.decode(base64).map_err(|_| error(code))
}

fn error(code: i32) -> ErrorObjectOwned {
    ErrorCode::from(code).into()
}
