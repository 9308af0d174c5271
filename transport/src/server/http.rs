//! One HTTP request and its response.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{ALLOW, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};
use serde_json::{Value, json};

use super::{Health, ServerOptions};
use crate::dispatch::{Dispatcher, too_large};
use crate::error::{ErrorKind, RpcError};
use crate::exchange::{Inbound, Reply};
use crate::rate::Origin;

/// How long `/healthz` answers the same: probes, however many, cost one look.
const HEALTH_AGE: Duration = Duration::from_millis(500);
/// How long the node may take to say how it is.
const HEALTH_PATIENCE: Duration = Duration::from_secs(3);
/// How long the rest of an over-long body is taken in, so that its sender comes to read the refusal.
const DISCARD: Duration = Duration::from_secs(5);

/// Answers the requests of all connections.
pub(super) struct Service {
    dispatcher: Dispatcher,
    body_timeout: Duration,
    health: Option<Health>,
    last_health: tokio::sync::Mutex<Option<(Instant, bool, Bytes)>>,
}

impl Service {
    pub(super) fn new(dispatcher: Dispatcher, options: &ServerOptions) -> Self {
        let health = options.health.clone();
        let last_health = tokio::sync::Mutex::new(None);
        Self { dispatcher, body_timeout: options.body_timeout, health, last_health }
    }

    pub(super) async fn respond(
        &self,
        request: Request<Incoming>,
        from: SocketAddr,
    ) -> Result<Response<Full<Bytes>>, Infallible> {
        let response = match (request.method(), request.uri().path()) {
            (&Method::POST, "/") => self.rpc(request, from).await,
            (&Method::GET | &Method::HEAD, "/healthz") => self.healthz().await,
            // The same document as `rpc.discover`, for tools that fetch and cannot call.
            (&Method::GET | &Method::HEAD, "/openrpc.json") => {
                response(StatusCode::OK, Some(self.dispatcher.openrpc()))
            }
            (method, "/" | "/healthz" | "/openrpc.json") => {
                let message =
                    format!("{method} is not served here: POST JSON-RPC 2.0 to /, or GET /healthz or /openrpc.json");
                let mut response = refusal(StatusCode::METHOD_NOT_ALLOWED, ErrorKind::InvalidRequest, message);
                response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST, GET, HEAD"));
                response
            }
            _ => {
                let message = "nothing here: POST JSON-RPC 2.0 to /, or GET /healthz or /openrpc.json";
                refusal(StatusCode::NOT_FOUND, ErrorKind::InvalidRequest, message)
            }
        };
        Ok(response)
    }

    async fn rpc(&self, request: Request<Incoming>, from: SocketAddr) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        // Browsers send other types across origins without asking: no page may call a local node.
        if !is_json(&head.headers) {
            let message = "send the header `content-type: application/json`";
            return refusal(StatusCode::UNSUPPORTED_MEDIA_TYPE, ErrorKind::InvalidRequest, message);
        }
        let limit = self.dispatcher.limits().request_bytes;
        let body = match tokio::time::timeout(self.body_timeout, read(body, limit)).await {
            Ok(Ok(body)) => body,
            Ok(Err(Unread::TooLong)) => {
                let reply = Reply::refusal(&too_large(limit));
                return response(StatusCode::PAYLOAD_TOO_LARGE, reply.body);
            }
            Ok(Err(Unread::Broken)) => {
                let message = "the request broke off";
                return refusal(StatusCode::BAD_REQUEST, ErrorKind::InvalidRequest, message);
            }
            Err(_) => {
                let message = format!("the request took longer than {:?} to arrive", self.body_timeout);
                return refusal(StatusCode::REQUEST_TIMEOUT, ErrorKind::TimedOut, message);
            }
        };
        let authorization = authorization(&head.headers);
        let origin = Origin::Network(from.ip());
        let reply = self.dispatcher.dispatch(Inbound { body, authorization, origin }).await;
        let status = match reply.refused {
            Some(ErrorKind::TooLarge) => StatusCode::PAYLOAD_TOO_LARGE,
            Some(ErrorKind::RateLimited) => StatusCode::TOO_MANY_REQUESTS,
            _ if reply.body.is_none() => StatusCode::NO_CONTENT,
            _ => StatusCode::OK,
        };
        response(status, reply.body)
    }

    async fn healthz(&self) -> Response<Full<Bytes>> {
        let mut last = self.last_health.lock().await;
        let known = last.as_ref().filter(|(at, ..)| at.elapsed() < HEALTH_AGE);
        let (well, text) = match known {
            Some((_, well, text)) => (*well, text.clone()),
            None => {
                let (well, value): (bool, Value) = match &self.health {
                    Some(health) => tokio::time::timeout(HEALTH_PATIENCE, health())
                        .await
                        .unwrap_or_else(|_| (false, json!({ "status": "the node does not say how it is within 3 s" }))),
                    None => (true, json!({ "status": "ok" })),
                };
                let text = Bytes::from(value.to_string());
                *last = Some((Instant::now(), well, text.clone()));
                (well, text)
            }
        };
        let status = if well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        response(status, Some(text))
    }
}

/// What a connection beyond the limit is told.
pub(super) fn busy() -> String {
    let error = RpcError::new(ErrorKind::RateLimited, "too many connections: close some, or come back later");
    let body = Reply::refusal(&error).body.unwrap_or_default();
    let body = String::from_utf8_lossy(&body);
    format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\n\
         connection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

enum Unread {
    TooLong,
    Broken,
}

async fn read(mut body: Incoming, limit: usize) -> Result<Bytes, Unread> {
    if body.size_hint().lower() > limit as u64 {
        discard(&mut body, limit).await;
        return Err(Unread::TooLong);
    }
    match Limited::new(&mut body, limit).collect().await {
        Ok(whole) => Ok(whole.to_bytes()),
        Err(e) if e.is::<LengthLimitError>() => {
            discard(&mut body, limit).await;
            Err(Unread::TooLong)
        }
        Err(_) => Err(Unread::Broken),
    }
}

/// Reads on for a while and forgets: who is still writing when the connection closes would see it
/// reset, and never the refusal.
async fn discard(body: &mut Incoming, limit: usize) {
    let rest = async {
        let mut seen = 0;
        while let Some(Ok(frame)) = body.frame().await {
            seen += frame.data_ref().map_or(0, Bytes::len);
            if seen > 2 * limit {
                break;
            }
        }
    };
    let _ = tokio::time::timeout(DISCARD, rest).await;
}

fn is_json(headers: &HeaderMap) -> bool {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = value.split(';').next().unwrap_or_default().trim();
    ["application/json", "application/json-rpc", "application/jsonrequest"]
        .iter()
        .any(|known| essence.eq_ignore_ascii_case(known))
}

/// Two of them, or one that is not text, are as good as a wrong one.
fn authorization(headers: &HeaderMap) -> Option<String> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let first = values.next()?;
    let text = first.to_str().ok().filter(|_| values.next().is_none());
    Some(text.unwrap_or_default().to_owned())
}

fn refusal(status: StatusCode, kind: ErrorKind, message: impl Into<String>) -> Response<Full<Bytes>> {
    response(status, Reply::refusal(&RpcError::new(kind, message)).body)
}

fn response(status: StatusCode, body: Option<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.clone().unwrap_or_default()));
    *response.status_mut() = status;
    if let Some(body) = body {
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    }
    response
}
