//! Requests over HTTP/1.1, with or without TLS.

mod connections;
mod http;
mod stall;
mod tls;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::dispatch::Dispatcher;
use connections::Connections;
use http::Service;

/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Says whether the node is well, and how it is: the answer of `GET /healthz`, with status 200 or 503.
pub type Health = Arc<dyn Fn() -> BoxFuture<'static, (bool, Value)> + Send + Sync>;

/// Where and how an [`RpcServer`] listens.
#[derive(Clone)]
pub struct ServerOptions {
    /// The addresses to listen on. Port 0 takes a free one: one for all addresses, if that can be.
    pub listen: Vec<SocketAddr>,
    /// Serves HTTPS instead of plain HTTP.
    pub tls: Option<TlsFiles>,
    /// The most connections at a time; further ones are answered 503. 1024 by default.
    pub connections: usize,
    /// The most connections from one address (a /64 of IPv6). 256 by default; loopback may take three quarters of all.
    pub connections_per_origin: usize,
    /// How long a connection may take for the head of its next request, idling included. 30 s by default.
    pub header_timeout: Duration,
    /// How long a request's body may take. 20 s by default.
    pub body_timeout: Duration,
    /// How long a client may leave a reply untouched. 30 s by default.
    pub stall_timeout: Duration,
    /// What `/healthz` says. Without it, that the process runs.
    pub health: Option<Health>,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            listen: Vec::new(),
            tls: None,
            connections: 1024,
            connections_per_origin: 256,
            header_timeout: Duration::from_secs(30),
            body_timeout: Duration::from_secs(20),
            stall_timeout: Duration::from_secs(30),
            health: None,
        }
    }
}

/// A TLS certificate and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// PEM file with the certificate and those that lead to its authority, in this order.
    pub certificate: PathBuf,
    /// PEM file with the private key.
    pub key: PathBuf,
}

/// Why a server could not start.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {source}{}", hint(.source))]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// No address was given.
    #[error("no address to listen on was given: use --port or --listen")]
    NoAddress,
    /// The TLS certificate or its key cannot be used.
    #[error("TLS cannot be served with {}: {reason}", path.display())]
    Tls {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

fn hint(e: &io::Error) -> &'static str {
    match e.kind() {
        io::ErrorKind::AddrInUse => "; another process has the port: stop it, or choose another --port",
        io::ErrorKind::PermissionDenied => "; ports below 1024 need privileges: choose a higher --port",
        io::ErrorKind::AddrNotAvailable => "; this machine does not have that address",
        _ => "",
    }
}

/// Serves a [`Dispatcher`] over HTTP: `POST /` with JSON-RPC 2.0, and `GET /healthz`.
///
/// The HTTP status tells what happened to the HTTP exchange, not to the calls: a request that was read
/// is answered 200 (204 if it held notifications only), whatever its calls came to, refused
/// authentication included. 413 means over-long, 415 not `application/json`, 429 too many failed
/// authentications or stranger's calls, 503 too many connections; these too carry a JSON-RPC error.
pub struct RpcServer {
    dispatcher: Dispatcher,
    listeners: Vec<TcpListener>,
    addresses: Vec<SocketAddr>,
    tls: Option<TlsAcceptor>,
    options: ServerOptions,
}

impl RpcServer {
    /// Listens on all addresses of the options. Connections wait until [`RpcServer::serve`].
    ///
    /// # Errors
    /// [`ServerError`].
    pub async fn bind(dispatcher: Dispatcher, options: ServerOptions) -> Result<Self, ServerError> {
        let tls = options.tls.as_ref().map(tls::acceptor).transpose()?;
        let mut listeners = Vec::new();
        let mut addresses: Vec<SocketAddr> = Vec::new();
        for &address in &options.listen {
            let listener = listen(address, addresses.first().copied())
                .await
                .map_err(|source| ServerError::Bind { address, source })?;
            addresses.push(listener.local_addr().map_err(|source| ServerError::Bind { address, source })?);
            listeners.push(listener);
        }
        if listeners.is_empty() {
            return Err(ServerError::NoAddress);
        }
        Ok(Self { dispatcher, listeners, addresses, tls, options })
    }

    /// The addresses that it listens on, with the ports that were taken for port 0.
    #[must_use]
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Serves until `shutdown`. Then it takes no more connections, ends long polls, lets other calls
    /// finish for as long as [`Limits::drain`](crate::Limits::drain) says, and returns when all
    /// connections are closed.
    pub async fn serve(self, shutdown: CancellationToken) {
        let kill = CancellationToken::new();
        let tasks = TaskTracker::new();
        let server = Arc::new(Server {
            service: Arc::new(Service::new(self.dispatcher.clone(), &self.options)),
            connections: Connections::new(self.options.connections, self.options.connections_per_origin),
            tls: self.tls,
            stop: shutdown.clone(),
            kill: kill.clone(),
            stall_timeout: self.options.stall_timeout,
            header_timeout: self.options.header_timeout,
        });
        for listener in self.listeners {
            tasks.spawn(Arc::clone(&server).accept(listener, tasks.clone()));
        }
        tasks.close();
        shutdown.cancelled().await;
        self.dispatcher.stop();
        // Calls end themselves within the drain time; what is left afterwards does not read its reply.
        let patience = self.dispatcher.limits().drain + Duration::from_secs(2);
        if tokio::time::timeout(patience, tasks.wait()).await.is_err() {
            kill.cancel();
            tasks.wait().await;
        }
    }
}

impl fmt::Debug for RpcServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RpcServer").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

/// Port 0 takes the port of the first address, so that one port serves v4 and v6 alike; if that is
/// taken on this address, any.
async fn listen(address: SocketAddr, first: Option<SocketAddr>) -> io::Result<TcpListener> {
    if let Some(first) = first.filter(|first| address.port() == 0 && first.ip() != address.ip())
        && let Ok(listener) = TcpListener::bind(SocketAddr::new(address.ip(), first.port())).await
    {
        return Ok(listener);
    }
    TcpListener::bind(address).await
}

/// What all connections share.
struct Server {
    service: Arc<Service>,
    connections: Connections,
    tls: Option<TlsAcceptor>,
    stop: CancellationToken,
    kill: CancellationToken,
    stall_timeout: Duration,
    header_timeout: Duration,
}

impl Server {
    async fn accept(self: Arc<Self>, listener: TcpListener, tasks: TaskTracker) {
        loop {
            let accepted = tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, from)) => match self.connections.admit(from.ip()) {
                    Some(admitted) => {
                        let connection = Arc::clone(&self).connection(stream, from);
                        tasks.spawn(async move {
                            connection.await;
                            drop(admitted);
                        });
                    }
                    None => self.turn_away(&stream),
                },
                Err(e) => {
                    // Most likely no file descriptors are left: trying at once again would burn a core.
                    tracing::warn!("cannot accept a connection: {e}");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    /// Says why, as far as one packet can; TLS clients just see the connection close.
    fn turn_away(&self, stream: &TcpStream) {
        if self.tls.is_none() {
            let _ = stream.try_write(http::busy().as_bytes());
        }
    }

    async fn connection(self: Arc<Self>, stream: TcpStream, from: SocketAddr) {
        // Replies are written whole: waiting for more only delays them.
        let _ = stream.set_nodelay(true);
        let Some(tls) = &self.tls else { return self.converse(stream, from).await };
        let handshake = tokio::time::timeout(HANDSHAKE, tls.accept(stream));
        let handshake = tokio::select! {
            handshake = handshake => handshake,
            () = self.stop.cancelled() => return,
        };
        match handshake {
            Ok(Ok(stream)) => self.converse(stream, from).await,
            Ok(Err(e)) => tracing::debug!("TLS handshake with {from} failed: {e}"),
            Err(_) => tracing::debug!("TLS handshake with {from} timed out"),
        }
    }

    async fn converse<T>(&self, stream: T, from: SocketAddr)
    where
        T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    {
        let io = hyper_util::rt::TokioIo::new(stall::Stall::new(stream, self.stall_timeout));
        let service = hyper::service::service_fn(|request| self.service.respond(request, from));
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(hyper_util::rt::TokioTimer::new())
            .header_read_timeout(self.header_timeout)
            .max_headers(64)
            .serve_connection(io, service);
        tokio::pin!(connection);
        let mut stopping = false;
        loop {
            tokio::select! {
                result = connection.as_mut() => {
                    if let Err(e) = result {
                        tracing::debug!("connection from {from}: {e}");
                    }
                    return;
                }
                () = self.stop.cancelled(), if !stopping => {
                    stopping = true;
                    connection.as_mut().graceful_shutdown();
                }
                () = self.kill.cancelled() => return,
            }
        }
    }
}
