//! What can go wrong in a call, in the form in which it travels.

use std::fmt;

use serde::ser::SerializeStruct;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

/// The member of `data` that says whether the call may be at the node although it failed, see [`RpcError::was_sent`].
pub(crate) const SENT: &str = "sent";

/// No message of an error is longer on the wire, in bytes; what is beyond is cut off.
const MAX_MESSAGE: usize = 16 * 1024;

macro_rules! error_kinds {
    ($(#[doc = $meaning:literal] $variant:ident = $name:literal, $code:literal;)*) => {
        /// The kind of an error: what a program decides on, while the message is for its reader.
        ///
        /// On the wire it is `data.kind` in SCREAMING_SNAKE. Every kind has one JSON-RPC code.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum ErrorKind {
            $(#[doc = $meaning] #[doc = concat!("\n\nWire: `", $name, "`, code ", stringify!($code), ".")] $variant,)*
        }

        impl ErrorKind {
            /// Every kind, in the order of their declaration.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The name on the wire, in SCREAMING_SNAKE.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }

            /// What it means, in a sentence.
            #[must_use]
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $meaning.trim_ascii()),* }
            }

            /// The JSON-RPC error code: those of JSON-RPC 2.0, section 5.1, where it has one, else
            /// one of the range that it leaves to servers.
            #[must_use]
            pub const fn code(self) -> i64 {
                match self { $(Self::$variant => $code),* }
            }
        }
    };
}

error_kinds! {
    /// The request is not JSON.
    ParseError = "PARSE_ERROR", -32700;
    /// The request is JSON, but no JSON-RPC 2.0 request.
    InvalidRequest = "INVALID_REQUEST", -32600;
    /// This node does not serve that method.
    MethodNotFound = "METHOD_NOT_FOUND", -32601;
    /// The parameters do not fit the method's schema.
    InvalidParams = "INVALID_PARAMS", -32602;
    /// A fault of the node itself; its log says more.
    Internal = "INTERNAL", -32603;
    /// An error of a kind that this version does not know; `data` holds what was received.
    Other = "OTHER", -32000;
    /// The call needs a call signature, or the one that it has is not valid.
    Unauthenticated = "UNAUTHENTICATED", -32001;
    /// The caller is known, but may not do this.
    NotAllowed = "NOT_ALLOWED", -32002;
    /// Too many calls by a stranger, or too many failed ones; `data.retry_after_ms` says when to come back.
    RateLimited = "RATE_LIMITED", -32003;
    /// A documented limit of size, count or depth was exceeded.
    TooLarge = "TOO_LARGE", -32004;
    /// The deadline of the call passed without an answer.
    TimedOut = "TIMED_OUT", -32005;
    /// The node is stopping: ask again when it is back, or ask another one.
    ShuttingDown = "SHUTTING_DOWN", -32006;
    /// An envelope or the document in it is malformed.
    InvalidEnvelope = "INVALID_ENVELOPE", -32010;
    /// A signature does not match what it should sign.
    BadSignature = "BAD_SIGNATURE", -32011;
    /// The signature is right, but this node does not trust its key for this.
    UntrustedSigner = "UNTRUSTED_SIGNER", -32012;
    /// A document or certificate is past its time.
    Expired = "EXPIRED", -32013;
    /// The id was used before for something else.
    IdConflict = "ID_CONFLICT", -32014;
    /// No runner of that kind or name is known here.
    UnknownRunner = "UNKNOWN_RUNNER", -32020;
    /// The workflow that a delegation refers to must be sent along.
    WorkflowUnknown = "WORKFLOW_UNKNOWN", -32021;
    /// A step's job does not follow from the signed workflow and its receipts.
    DelegationMismatch = "DELEGATION_MISMATCH", -32022;
    /// The workflow's definition has errors; `data.errors` lists them.
    InvalidWorkflow = "INVALID_WORKFLOW", -32023;
    /// No job has that id.
    JobNotFound = "JOB_NOT_FOUND", -32024;
    /// No workflow has that id.
    WorkflowNotFound = "WORKFLOW_NOT_FOUND", -32025;
    /// The queue is at its limit: come back later.
    QueueFull = "QUEUE_FULL", -32026;
    /// The node cannot reach its Redis, or Redis refuses to work.
    RedisUnavailable = "REDIS_UNAVAILABLE", -32030;
    /// Nothing answers at the address.
    PeerUnreachable = "PEER_UNREACHABLE", -32040;
    /// The host is there, but nobody serves the topic or role that was asked for.
    NoService = "NO_SERVICE", -32041;
    /// The local Mycelium daemon does not answer.
    DaemonDown = "DAEMON_DOWN", -32042;
    /// Something answered, but not as JSON-RPC 2.0 or not as the method's result.
    InvalidReply = "INVALID_REPLY", -32043;
}

impl ErrorKind {
    /// The kind with that name on the wire, if this version knows it.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.as_str() == name)
    }

    fn from_code(code: i64) -> Self {
        let known = Self::ALL.iter().copied().find(|kind| kind.code() == code);
        // Codes outside the ones that JSON-RPC defines mean something else on another server.
        known.filter(|_| code <= -32600).unwrap_or(Self::Other)
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The error of a call: a message that says what to do, a kind to decide on, and further facts.
///
/// Wire form, as JSON-RPC 2.0 has it: `{code, message, data: {kind, ...}}`. Kind and data survive the
/// way over the wire and back, also a kind that this version does not know.
#[derive(Debug, Clone, PartialEq)]
pub struct RpcError {
    /// The JSON-RPC code; [`ErrorKind::code`] for every error that Horus makes.
    pub code: i64,
    /// What happened and what to do about it, for a reader. At most 16 KiB travel.
    pub message: String,
    /// What happened, for a program.
    pub kind: ErrorKind,
    /// The other members of `data`, such as `index`, `role` or `retry_after_ms`.
    pub data: Option<Map<String, Value>>,
}

impl RpcError {
    /// An error of that kind.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { code: kind.code(), message: message.into(), kind, data: None }
    }

    /// The same error with one more member in `data`. `kind` is reserved and ignored.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        if name != "kind" {
            self.data.get_or_insert_default().insert(name.to_owned(), value.into());
        }
        self
    }

    /// A member of `data`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.data.as_ref()?.get(name)
    }

    /// Whether the call may be at the node although it failed with this. A client says so of every call that was not answered, and of one
    /// that was answered by an error after it had been sent more than once: the answer is to one of the sendings, and another may have been
    /// accepted, or may be under way still. `None`: it was sent once, and this is the answer.
    #[must_use]
    pub fn was_sent(&self) -> Option<bool> {
        self.get(SENT)?.as_bool()
    }

    /// The node's answer to one of so many sendings. How many there were, the node cannot know.
    pub(crate) fn of_one_sending(mut self, sendings: u32) -> Self {
        if sendings > 1 {
            return self.with(SENT, true);
        }
        self.data = self.data.filter(|data| data.keys().any(|name| name != SENT));
        self.data.as_mut().map(|data| data.remove(SENT));
        self
    }

    /// A fault of this node. `cause` goes to the log only; the caller gets a reference to find it by.
    pub fn internal(cause: impl fmt::Display) -> Self {
        let reference = reference();
        tracing::error!(reference, "internal error: {cause}");
        Self::new(
            ErrorKind::Internal,
            format!("internal error; the node's log has the cause under reference {reference}"),
        )
        .with("reference", reference)
    }

    /// [`ErrorKind::InvalidParams`].
    pub fn invalid_params(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidParams, message)
    }
}

/// Tells one internal error from the others in a log: process start and a counter.
fn reference() -> String {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU32, Ordering};
    static START: LazyLock<u32> = LazyLock::new(|| {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since.map_or(0, |since| since.subsec_nanos() ^ std::process::id())
    });
    static COUNTER: AtomicU32 = AtomicU32::new(1);
    format!("{:08x}-{}", *START, COUNTER.fetch_add(1, Ordering::Relaxed))
}

impl fmt::Display for RpcError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.get("kind").and_then(Value::as_str).unwrap_or(self.kind.as_str());
        write!(f, "{kind}: {}", self.message)
    }
}

impl std::error::Error for RpcError {}

impl Serialize for RpcError {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut data = self.data.clone().unwrap_or_default();
        // An error of an unknown kind is passed on under the name that it came with.
        if self.kind != ErrorKind::Other || !data.contains_key("kind") {
            data.insert("kind".into(), self.kind.as_str().into());
        }
        let mut end = self.message.len().min(MAX_MESSAGE);
        while !self.message.is_char_boundary(end) {
            end -= 1;
        }
        let mut error = serializer.serialize_struct("RpcError", 3)?;
        error.serialize_field("code", &self.code)?;
        error.serialize_field("message", &self.message[..end])?;
        error.serialize_field("data", &data)?;
        error.end()
    }
}

impl<'de> Deserialize<'de> for RpcError {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Wire {
            code: i64,
            message: String,
            #[serde(default)]
            data: Option<Value>,
        }
        let Wire { code, message, data } = Wire::deserialize(deserializer)?;
        let mut data = match data {
            None | Some(Value::Null) => Map::new(),
            Some(Value::Object(members)) => members,
            // Another server's data can be anything.
            Some(other) => Map::from_iter([("data".to_owned(), other)]),
        };
        let kind = match data.get("kind").and_then(Value::as_str) {
            Some(name) => match ErrorKind::from_name(name) {
                Some(kind) => {
                    data.remove("kind");
                    kind
                }
                None => ErrorKind::Other,
            },
            None => ErrorKind::from_code(code),
        };
        Ok(Self { code, message, kind, data: (!data.is_empty()).then_some(data) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_survives_the_wire() {
        for kind in ErrorKind::ALL {
            let error = RpcError::new(*kind, "do this").with("index", 3);
            let text = serde_json::to_string(&error).unwrap();
            let value: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(value["data"]["kind"], kind.as_str());
            assert_eq!(value["data"]["index"], 3);
            assert_eq!(value["code"], kind.code());
            assert_eq!(serde_json::from_str::<RpcError>(&text).unwrap(), error);
        }
    }

    #[test]
    fn codes_and_names_are_unique() {
        for (i, a) in ErrorKind::ALL.iter().enumerate() {
            for b in &ErrorKind::ALL[..i] {
                assert_ne!(a.code(), b.code());
                assert_ne!(a.as_str(), b.as_str());
            }
        }
    }

    #[test]
    fn an_unknown_kind_is_passed_on_unchanged() {
        let text = r#"{"code":-32077,"message":"m","data":{"kind":"FROM_THE_FUTURE","x":[1]}}"#;
        let error: RpcError = serde_json::from_str(text).unwrap();
        assert_eq!(error.kind, ErrorKind::Other);
        assert_eq!(error.to_string(), "FROM_THE_FUTURE: m");
        let again: Value = serde_json::from_str(&serde_json::to_string(&error).unwrap()).unwrap();
        assert_eq!(again, serde_json::from_str::<Value>(text).unwrap());
    }

    #[test]
    fn errors_of_other_servers_are_read() {
        let error: RpcError = serde_json::from_str(r#"{"code":-32601,"message":"no","data":"text"}"#).unwrap();
        assert_eq!(error.kind, ErrorKind::MethodNotFound);
        assert_eq!(error.get("data"), Some(&Value::from("text")));
        let error: RpcError = serde_json::from_str(r#"{"code":-32001,"message":"x"}"#).unwrap();
        assert_eq!((error.kind, error.code), (ErrorKind::Other, -32001));
    }

    #[test]
    fn long_messages_are_cut_at_a_character() {
        let error = RpcError::new(ErrorKind::Internal, "é".repeat(MAX_MESSAGE));
        let text = serde_json::to_string(&error).unwrap();
        let back: RpcError = serde_json::from_str(&text).unwrap();
        assert!(back.message.len() <= MAX_MESSAGE && back.message.starts_with('é'));
    }
}
