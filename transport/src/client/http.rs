//! Requests over HTTP.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::FutureExt;
use futures::future::BoxFuture;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, StatusCode};
use reqwest::{Certificate, Client, Response, Url};

use crate::carrier::{Carrier, Outbound};
use crate::client::fares::Fares;
use crate::client::options::ClientOptions;
use crate::error::{ErrorKind, RpcError};
use crate::mesh::NodeStatus;

/// Below the server's idle timeout, so that it is seldom the server that closes first.
const IDLE: Duration = Duration::from_secs(20);
/// So much of a reply that is no JSON-RPC is shown, in characters.
const EXCERPT: usize = 120;

/// Keep-alive HTTP/1.1 to one address.
pub(crate) struct HttpCarrier {
    client: Client,
    url: Url,
    response_bytes: usize,
    fares: Fares,
}

impl HttpCarrier {
    pub(crate) fn new(url: &Url, options: &ClientOptions) -> Result<Self, RpcError> {
        let mut builder = Client::builder()
            .connect_timeout(options.connect_timeout)
            .pool_idle_timeout(IDLE)
            .tcp_nodelay(true)
            .http1_only()
            // Nodes are addressed, not looked for: neither a proxy nor a redirect has a say.
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none());
        if url.scheme() == "http" {
            // Saves loading the system's certificates, 10 ms and more.
            builder = builder.tls_certs_only([]);
        } else if let Some(path) = &options.ca {
            let pem = std::fs::read(path).map_err(|e| {
                let path = path.display();
                RpcError::invalid_params(format!("cannot read the TLS authorities in {path}: {e}"))
            })?;
            let roots = Certificate::from_pem_bundle(&pem).ok().filter(|roots| !roots.is_empty());
            let Some(roots) = roots else {
                let path = path.display();
                return Err(RpcError::invalid_params(format!("{path} holds no PEM certificate")));
            };
            builder = builder.tls_certs_only(roots);
        }
        let client =
            builder.build().map_err(|e| RpcError::internal(format!("no HTTP client could be made: {}", causes(&e))))?;
        Ok(Self { client, url: url.clone(), response_bytes: options.response_bytes, fares: Fares::default() })
    }

    async fn exchange(&self, request: &Outbound) -> Result<Option<Bytes>, RpcError> {
        let mut headers = HeaderMap::with_capacity(2);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(authorization) = &request.authorization {
            let value = HeaderValue::try_from(authorization).map_err(RpcError::internal)?;
            headers.insert(AUTHORIZATION, value);
        }
        let post = async || {
            request.sendings.begin()?;
            let post = self.client.post(self.url.clone()).headers(headers.clone());
            let sent = post.body(request.body.clone()).send().await;
            if sent.as_ref().is_err_and(reqwest::Error::is_connect) {
                // No connection came about, so that the node certainly has not got the request.
                request.sendings.undo();
            }
            Ok::<_, RpcError>(sent)
        };
        let sent = match post().await? {
            // The connection closed while it idled in the pool, or the node went away: both look the
            // same. A second try is safe, see `Carrier`.
            Err(e) if e.is_request() && !e.is_connect() && !e.is_timeout() => post().await?,
            other => other,
        };
        let response = sent.map_err(|e| self.failed(&e))?;
        let status = response.status();
        if status == StatusCode::NO_CONTENT {
            return Ok(None);
        }
        let body = self.read(response).await?;
        if looks_like_json(&body) {
            return Ok(Some(body));
        }
        let text: String = String::from_utf8_lossy(&body).chars().take(EXCERPT).collect();
        Err(RpcError::new(
            ErrorKind::InvalidReply,
            format!(
                "{} answered HTTP {status} and not JSON-RPC: is that the port of a Horus node? It says: {text:?}",
                self.url
            ),
        ))
    }

    async fn read(&self, mut response: Response) -> Result<Bytes, RpcError> {
        let limit = self.response_bytes;
        let too_long = || {
            let message = format!("the reply of {} is longer than {limit} bytes: ask for less at once", self.url);
            RpcError::new(ErrorKind::TooLarge, message).with("limit", limit)
        };
        if response.content_length().is_some_and(|length| length > limit as u64) {
            return Err(too_long());
        }
        let Some(first) = response.chunk().await.map_err(|e| self.failed(&e))? else {
            return Ok(Bytes::new());
        };
        // Most replies are one chunk, which needs no copy.
        let mut whole: Option<BytesMut> = None;
        while let Some(chunk) = response.chunk().await.map_err(|e| self.failed(&e))? {
            let whole = whole.get_or_insert_with(|| BytesMut::from(&first[..]));
            if whole.len() + chunk.len() > limit {
                return Err(too_long());
            }
            whole.extend_from_slice(&chunk);
        }
        let body = whole.map_or(first, BytesMut::freeze);
        if body.len() > limit { Err(too_long()) } else { Ok(body) }
    }

    fn failed(&self, e: &reqwest::Error) -> RpcError {
        let url = &self.url;
        let why = causes(e);
        if e.is_timeout() {
            let message = format!("{url} did not accept a connection in time: is the host up, and the port open?");
            return RpcError::new(ErrorKind::PeerUnreachable, message);
        }
        let hint = if why.contains("refused") {
            "nothing listens there: start the node, or check the port"
        } else if why.contains("certificate") || why.contains("tls") || why.contains("TLS") {
            "TLS failed: check the scheme, and the authorities given by --tls-ca"
        } else if why.contains("dns") || why.contains("lookup") {
            "the name is not known: check the host"
        } else if e.is_connect() {
            "check address, network and firewall"
        } else {
            "the connection broke before the reply was there: the node may have stopped; its log says more"
        };
        RpcError::new(ErrorKind::PeerUnreachable, format!("cannot reach {url}: {hint} ({why})"))
            .with("address", url.as_str())
    }
}

impl Carrier for HttpCarrier {
    fn send(&self, request: Outbound) -> BoxFuture<'_, Result<Option<Bytes>, RpcError>> {
        async move {
            let under_way = self.fares.begin(!request.long_poll);
            let exchange = self.exchange(&request);
            let outcome = tokio::time::timeout_at(request.deadline, exchange).await.unwrap_or_else(|_| {
                Err(RpcError::new(
                    ErrorKind::TimedOut,
                    format!(
                        "no reply from {} within the time given: it may be busy or cut off; \
                             calls can be sent again",
                        self.url
                    ),
                ))
            });
            under_way.end(outcome.as_ref().err());
            outcome
        }
        .boxed()
    }

    fn status(&self) -> Option<NodeStatus> {
        Some(self.fares.status(&self.url))
    }
}

fn looks_like_json(body: &[u8]) -> bool {
    body.trim_ascii_start().first().is_some_and(|first| matches!(first, b'{' | b'['))
}

/// The innermost causes, which reqwest's own message leaves out.
fn causes(e: &reqwest::Error) -> String {
    let mut text = String::new();
    let mut cause = std::error::Error::source(e);
    while let Some(e) = cause {
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&e.to_string());
        cause = e.source();
    }
    if text.is_empty() { e.to_string() } else { text }
}
