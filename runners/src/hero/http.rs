//! The actions `http.*`.

use super::action::{Action, split_list};
use super::executor::text_output;
use super::interpreter::bad_parameter;
use crate::executor::{Context, ExecutionError, Output};
use crate::job::limits;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Response, Url, redirect};
use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write;
use std::net::IpAddr;
use std::time::Duration;
use tokio::time::Instant;

/// Most redirections that are followed.
const MAX_REDIRECTS: usize = 10;
/// Most headers of a request.
const MAX_HEADERS: usize = 64;
/// How much of the body of a refusal the error shows.
const EXCERPT_BYTES: usize = 2 * 1024;
/// A server that cannot be reached in this time is taken for unreachable.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    Get,
    Post,
    Put,
    Patch,
    Delete,
    Head,
}

impl Method {
    fn http(self) -> reqwest::Method {
        match self {
            Self::Get => reqwest::Method::GET,
            Self::Post => reqwest::Method::POST,
            Self::Put => reqwest::Method::PUT,
            Self::Patch => reqwest::Method::PATCH,
            Self::Delete => reqwest::Method::DELETE,
            Self::Head => reqwest::Method::HEAD,
        }
    }
}

/// A request as an action describes it.
#[derive(Debug)]
pub(super) struct Request {
    method: Method,
    url: Url,
    headers: HeaderMap,
    body: Option<String>,
    timeout: Option<Duration>,
}

impl Request {
    /// Reads the parameters `url, headers?, body?, timeout?`; a single argument stands for the URL.
    pub(super) fn new(method: Method, action: &Action) -> Result<Self, ExecutionError> {
        let url = match (action.get("url"), action.args.as_slice()) {
            (Some(url), _) => url,
            (None, [url]) => url,
            _ => return Err(bad_parameter("it needs url:'http://...'")),
        };
        // The text is not shown: of what is no URL nobody can tell which part is a password or a token.
        let parsed = Url::parse(url).map_err(|e| {
            bad_parameter(format_args!("its url is no URL: {e}; write all of it, as in http://host/path"))
        })?;
        if !matches!(parsed.scheme(), "http" | "https") {
            return Err(bad_parameter("its url is of another kind: only http:// and https:// are fetched"));
        }
        let mut headers = parse_headers(action.get("headers").unwrap_or_default())?;
        let body = action.get("body").map(str::to_owned);
        if let Some(body) = body.as_deref().filter(|_| !headers.contains_key(CONTENT_TYPE)) {
            let is_json = body.starts_with(['{', '[']) && serde_json::from_str::<serde::de::IgnoredAny>(body).is_ok();
            let kind = if is_json { "application/json" } else { "text/plain; charset=utf-8" };
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        }
        let timeout = action.get("timeout").map(parse_timeout).transpose()?;
        Ok(Self { method, url: parsed, headers, body, timeout })
    }

    /// Method and URL for messages, without what may be secret: user, password and query.
    fn shown(&self) -> String {
        let mut url = self.url.clone();
        url.set_query(None);
        url.set_fragment(None);
        // These fail only for URLs that cannot have a user.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        format!("{} {url}", self.method.http())
    }
}

/// A number of seconds, or a duration such as `500ms` or `1m30s`.
fn parse_timeout(text: &str) -> Result<Duration, ExecutionError> {
    let seconds = text.parse::<u32>().map(|s| Duration::from_secs(s.into())).ok();
    let parsed = seconds.or_else(|| horus_keys::duration::parse(text).ok()).filter(|d| !d.is_zero());
    parsed.ok_or_else(|| {
        bad_parameter(format_args!("timeout {text:?}: write a number of seconds, or a duration such as 10s or 1m30s"))
    })
}

/// `Name: value` lines, a list of them, or a JSON object.
fn parse_headers(text: &str) -> Result<HeaderMap, ExecutionError> {
    let pairs: Vec<(String, String)> = if text.starts_with('{') {
        let object: BTreeMap<String, String> = serde_json::from_str(text).map_err(|e| {
            bad_parameter(format_args!("headers looks like a JSON object of strings, but is none: {e}"))
        })?;
        object.into_iter().collect()
    } else {
        let lines = if text.contains('\n') { text.split('\n').map(str::to_owned).collect() } else { header_list(text) };
        lines.iter().filter(|line| !line.trim().is_empty()).map(|line| header_pair(line)).collect::<Result<_, _>>()?
    };
    if pairs.len() > MAX_HEADERS {
        return Err(bad_parameter(format_args!("more than {MAX_HEADERS} headers")));
    }
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        let parsed_name = HeaderName::try_from(name.trim());
        let parsed_name = parsed_name.map_err(|_| bad_parameter(format_args!("{name:?} is no header name")))?;
        let parsed_value = HeaderValue::from_str(value.trim());
        // The value is not shown: it may be a token.
        let mut parsed_value = parsed_value.map_err(|_| {
            bad_parameter(format_args!("the value of header {name} has a character that headers cannot have"))
        })?;
        parsed_value.set_sensitive(true);
        headers.append(parsed_name, parsed_value);
    }
    Ok(headers)
}

fn header_pair(line: &str) -> Result<(String, String), ExecutionError> {
    let pair = line.split_once(':').map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()));
    pair.ok_or_else(|| {
        bad_parameter("headers is written 'Name: value, Name: value', one per line, or as a JSON object")
    })
}

/// Items of a list of headers. A comma within a value does not end it: what follows has no `Name:`.
fn header_list(text: &str) -> Vec<String> {
    let mut headers: Vec<String> = Vec::new();
    for item in split_list(text) {
        let begins = item.split_once(':').is_some_and(|(name, _)| HeaderName::try_from(name.trim()).is_ok());
        match headers.last_mut().filter(|_| !begins) {
            Some(last) => {
                last.push_str(", ");
                last.push_str(&item);
            }
            None => headers.push(item),
        }
    }
    headers
}

/// Sends requests.
#[derive(Debug)]
pub(super) struct Http {
    /// For requests with nothing of the script but the URL.
    bare: Clients,
    /// For those with headers or a body.
    laden: Clients,
}

#[derive(Debug)]
struct Clients {
    any: Client,
    /// For this machine and the overlay, which no proxy of the environment can reach.
    direct: Client,
}

impl Clients {
    fn new(redirects: fn(redirect::Attempt<'_>) -> redirect::Action) -> Result<Self, reqwest::Error> {
        let builder = || {
            Client::builder()
                .user_agent(concat!("horus/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(CONNECT_TIMEOUT)
                // It would tell the next server the query of the URL.
                .referer(false)
                .redirect(redirect::Policy::custom(redirects))
        };
        Ok(Self { any: builder().build()?, direct: builder().no_proxy().build()? })
    }
}

fn follow(attempt: redirect::Attempt<'_>) -> redirect::Action {
    redirect::Policy::limited(MAX_REDIRECTS).redirect(attempt)
}

/// Headers and bodies may be secret, and are for the server that the script names.
fn follow_within_origin(attempt: redirect::Attempt<'_>) -> redirect::Action {
    let origin = attempt.url().origin();
    if attempt.previous().iter().all(|url| url.origin() == origin) {
        return follow(attempt);
    }
    let origin = origin.ascii_serialization();
    attempt.error(format!(
        "{origin} is another server, which does not get the headers and body of this action: name the URL there in \
         the script, or give none"
    ))
}

impl Http {
    pub(super) fn new() -> Result<Self, reqwest::Error> {
        Ok(Self { bare: Clients::new(follow)?, laden: Clients::new(follow_within_origin)? })
    }

    /// Sends a request; its output is the body, for `head` status and headers.
    pub(super) async fn send(&self, request: Request, context: &Context) -> Result<Output, ExecutionError> {
        let started = Instant::now();
        let shown = request.shown();
        let left = context.deadline.saturating_duration_since(started);
        let timeout = request.timeout.map_or(left, |timeout| timeout.min(left));
        // A body has a header, too: its type.
        let clients = if request.headers.is_empty() { &self.bare } else { &self.laden };
        let client = if is_near(&request.url) { &clients.direct } else { &clients.any };
        let mut builder = client.request(request.method.http(), request.url).headers(request.headers).timeout(timeout);
        if let Some(body) = request.body {
            builder = builder.body(body);
        }
        let failed = |error: reqwest::Error| failure(&shown, error, timeout);
        let mut response = builder.send().await.map_err(failed)?;
        let status = response.status();
        if status.is_client_error() || status.is_server_error() {
            let body = excerpt(&mut response).await;
            let message = format_args!("{shown} answered {status}: {body}");
            return Err(ExecutionError::new("HTTP_STATUS", message));
        }
        let output = if request.method == Method::Head {
            Output::from_value(&head(&response))?
        } else {
            let body = read(&mut response, &shown, failed).await?;
            text_output(&body_text(body, context))?
        };
        let took = started.elapsed().as_millis();
        context.log.system(&format!("{shown} answered {status}, took {took} ms"));
        Ok(output)
    }
}

/// Whether a URL leads to this machine or to an overlay address (400::/7).
fn is_near(url: &Url) -> bool {
    let Some(host) = url.host_str() else { return false };
    match host.trim_matches(['[', ']']).parse::<IpAddr>() {
        Ok(IpAddr::V6(ip)) => ip.is_loopback() || ip.octets()[0] & 0xfe == 0x04,
        Ok(ip) => ip.is_loopback(),
        Err(_) => host == "localhost" || host.ends_with(".localhost"),
    }
}

/// Reads a body of at most the size of an output.
async fn read(
    response: &mut Response,
    shown: &str,
    failed: impl Fn(reqwest::Error) -> ExecutionError,
) -> Result<Vec<u8>, ExecutionError> {
    let limit = limits::OUTPUT_BYTES;
    let announced = response.content_length().and_then(|length| usize::try_from(length).ok()).unwrap_or(0);
    let mut body = Vec::with_capacity(announced.min(limit));
    let mut fits = announced <= limit;
    while fits {
        let Some(chunk) = response.chunk().await.map_err(&failed)? else { return Ok(body) };
        fits = body.len() + chunk.len() <= limit;
        body.extend_from_slice(&chunk);
    }
    let message = format_args!(
        "the answer to {shown} exceeds {limit} bytes, which is the limit of an output: ask for less of it"
    );
    Err(ExecutionError::new("OUTPUT_TOO_LARGE", message))
}

fn body_text(body: Vec<u8>, context: &Context) -> String {
    String::from_utf8(body).unwrap_or_else(|error| {
        context.log.system("the answer is not UTF-8 text: what is not was replaced");
        String::from_utf8_lossy(error.as_bytes()).into_owned()
    })
}

/// The beginning of the body of a refusal, as far as it can be had.
async fn excerpt(response: &mut Response) -> String {
    let mut body = Vec::new();
    while body.len() < EXCERPT_BYTES {
        match response.chunk().await {
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            _ => break,
        }
    }
    body.truncate(EXCERPT_BYTES);
    let text = String::from_utf8_lossy(&body);
    let text = text.trim();
    if text.is_empty() { "(no body)".to_owned() } else { text.to_owned() }
}

fn head(response: &Response) -> serde_json::Value {
    let mut headers: BTreeMap<&str, String> = BTreeMap::new();
    for (name, value) in response.headers() {
        let value = String::from_utf8_lossy(value.as_bytes());
        headers
            .entry(name.as_str())
            .and_modify(|all| {
                all.push_str(", ");
                all.push_str(&value);
            })
            .or_insert_with(|| value.to_string());
    }
    serde_json::json!({ "status": response.status().as_u16(), "headers": headers })
}

/// What went wrong, with all causes: the outermost says little.
fn failure(shown: &str, error: reqwest::Error, timeout: Duration) -> ExecutionError {
    let error = error.without_url();
    let (code, mut message) = if error.is_timeout() {
        ("HTTP_TIMEOUT", format!("{shown} was not answered within {timeout:.1?}"))
    } else if error.is_redirect() {
        ("HTTP_REDIRECT", format!("{shown} redirects to where it is not followed"))
    } else if error.is_connect() {
        ("HTTP_CONNECT", format!("{shown}: the server cannot be reached"))
    } else {
        ("HTTP_ERROR", format!("{shown} failed: {error}"))
    };
    let mut cause = error.source();
    while let Some(error) = cause {
        let _ = write!(message, ": {error}");
        cause = error.source();
    }
    ExecutionError::new(code, message)
}

#[cfg(test)]
#[path = "http_tests.rs"]
mod tests;
