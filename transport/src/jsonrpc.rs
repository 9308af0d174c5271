//! The texts of JSON-RPC 2.0: requests are read to the letter, responses written around results that
//! are texts already.

use std::borrow::Cow;
use std::fmt;

use horus_keys::{MAX_JSON_DEPTH, check_json_depth};
use serde::de::{DeserializeSeed, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::error::{ErrorKind, RpcError};

/// An id is echoed, so it must not be used to make us carry weight.
const MAX_ID: usize = 1024;
/// What is answered when no id could be read (JSON-RPC 2.0, section 5).
pub(crate) const NULL_ID: &str = "null";

/// The body of a request.
pub(crate) enum Request<'a> {
    Single(Entry<'a>),
    Batch(Vec<Entry<'a>>),
}

/// One call in it.
pub(crate) struct Entry<'a> {
    /// The text of the id; `None` in a notification, which gets no reply.
    pub(crate) id: Option<&'a str>,
    /// What to call, or why it is no valid request.
    pub(crate) call: Result<Call<'a>, RpcError>,
}

pub(crate) struct Call<'a> {
    pub(crate) method: Cow<'a, str>,
    /// An array or an object.
    pub(crate) params: Option<&'a RawValue>,
}

/// Reads a request of at most `max_batch` entries. Parameters may nest [`MAX_JSON_DEPTH`] deep.
///
/// # Errors
/// The one error that is the reply to all of it, with the id null.
pub(crate) fn read(body: &[u8], max_batch: usize) -> Result<Request<'_>, RpcError> {
    let text = std::str::from_utf8(body).map_err(|e| {
        let at = e.valid_up_to();
        RpcError::new(ErrorKind::ParseError, format!("not UTF-8: invalid byte at offset {at}"))
    })?;
    let text = text.trim_matches([' ', '\t', '\r', '\n']);
    let is_batch = text.starts_with('[');
    // Around the parameters lie the request object and the batch.
    if !check_json_depth(text.as_bytes(), MAX_JSON_DEPTH + 1 + usize::from(is_batch)) {
        return Err(RpcError::new(
            ErrorKind::TooLarge,
            format!("JSON nested more than {MAX_JSON_DEPTH} deep: flatten the parameters"),
        ));
    }
    if !is_batch {
        return read_single(text);
    }
    let entries = read_batch(text, max_batch)?;
    if entries.is_empty() {
        return Err(RpcError::new(ErrorKind::InvalidRequest, "an empty batch: send at least one call"));
    }
    Ok(Request::Batch(entries.into_iter().map(|raw| entry(raw.get())).collect()))
}

fn read_single(text: &str) -> Result<Request<'_>, RpcError> {
    let whole: &RawValue = serde_json::from_str(text).map_err(|e| not_json(&e))?;
    Ok(Request::Single(entry(whole.get())))
}

fn read_batch(text: &str, max: usize) -> Result<Vec<&RawValue>, RpcError> {
    let mut too_many = false;
    let mut json = serde_json::Deserializer::from_str(text);
    let entries = Bounded { max, too_many: &mut too_many }.deserialize(&mut json);
    if too_many {
        return Err(RpcError::new(
            ErrorKind::TooLarge,
            format!("more than {max} calls in one batch: send several batches"),
        )
        .with("limit", max));
    }
    entries.and_then(|entries| json.end().map(|()| entries)).map_err(|e| not_json(&e))
}

/// Reads an array of at most `max` elements: without the bound 16 MiB of `1,1,1` would become a
/// vector of 128 MiB.
struct Bounded<'f> {
    max: usize,
    too_many: &'f mut bool,
}

impl<'de> DeserializeSeed<'de> for Bounded<'_> {
    type Value = Vec<&'de RawValue>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Bounded<'_> {
    type Value = Vec<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an array of at most {} calls", self.max)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = seq.next_element()? {
            if entries.len() == self.max {
                *self.too_many = true;
                return Err(serde::de::Error::custom("too many"));
            }
            entries.push(entry);
        }
        Ok(entries)
    }
}

fn not_json(e: &serde_json::Error) -> RpcError {
    RpcError::new(ErrorKind::ParseError, format!("the request is not JSON: {e}"))
}

/// The members of a request, each as text: what they should be is checked one by one, so that the id
/// can be echoed when another member is wrong.
#[derive(Deserialize)]
struct Members<'a> {
    #[serde(borrow, default, deserialize_with = "present")]
    jsonrpc: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    id: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    method: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    params: Option<&'a RawValue>,
}

/// Tells `null` from absent: an id of null is answered, a notification is not.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// Reads one entry, whose text is known to be JSON.
fn entry(text: &str) -> Entry<'_> {
    let invalid = |id, problem: &str| Entry {
        id: Some(id),
        call: Err(RpcError::new(ErrorKind::InvalidRequest, format!("not a JSON-RPC 2.0 request: {problem}"))),
    };
    // serde would also take an array for the struct.
    if !text.starts_with('{') {
        return invalid(NULL_ID, "it must be an object");
    }
    let members: Members<'_> = match serde_json::from_str(text) {
        Ok(members) => members,
        Err(e) => return invalid(NULL_ID, &e.to_string()),
    };
    let id = match members.id.map(RawValue::get) {
        Some(id) if id.len() > MAX_ID => {
            return invalid(NULL_ID, &format!("its id is longer than {MAX_ID} bytes"));
        }
        Some(id) if !id.starts_with(|c: char| matches!(c, '"' | '-' | 'n') || c.is_ascii_digit()) => {
            return invalid(NULL_ID, "its id must be a string, a number or null");
        }
        id => id,
    };
    let echo = id.unwrap_or(NULL_ID);
    let version = members.jsonrpc.map_or("", RawValue::get);
    if serde_json::from_str::<Text<'_>>(version).is_ok_and(|version| version.0 == "2.0") {
        let params = members.params;
        return match members.method.map(|raw| serde_json::from_str::<Text<'_>>(raw.get())) {
            Some(Ok(Text(method))) => match params {
                Some(raw) if !raw.get().starts_with(['{', '[']) => {
                    invalid(echo, "its params must be an object or an array")
                }
                params => Entry { id, call: Ok(Call { method, params }) },
            },
            Some(Err(_)) => invalid(echo, "its method must be a string"),
            None => invalid(echo, "it has no method"),
        };
    }
    invalid(echo, "its member jsonrpc must be \"2.0\"")
}

/// A JSON string, borrowed if it has no escapes.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// Appends `{"jsonrpc":"2.0","id":ID,"result":RESULT}`.
pub(crate) fn write_result(into: &mut Vec<u8>, id: &str, result: &[u8]) {
    into.reserve(id.len() + result.len() + 40);
    write_head(into, id);
    into.extend_from_slice(b"\"result\":");
    into.extend_from_slice(result);
    into.push(b'}');
}

/// Appends `{"jsonrpc":"2.0","id":ID,"error":ERROR}`.
pub(crate) fn write_error(into: &mut Vec<u8>, id: &str, error: &RpcError) {
    write_head(into, id);
    into.extend_from_slice(b"\"error\":");
    serde_json::to_writer(&mut *into, error).expect("an error is a map of strings and JSON values");
    into.push(b'}');
}

fn write_head(into: &mut Vec<u8>, id: &str) {
    into.extend_from_slice(b"{\"jsonrpc\":\"2.0\",\"id\":");
    into.extend_from_slice(id.as_bytes());
    into.push(b',');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn single(text: &str) -> Entry<'_> {
        match read(text.as_bytes(), 4).map_err(|e| e.to_string()).unwrap() {
            Request::Single(entry) => entry,
            Request::Batch(_) => panic!("a batch"),
        }
    }

    fn refused(body: &[u8]) -> ErrorKind {
        read(body, 4).map(|_| ()).unwrap_err().kind
    }

    #[test]
    fn ids_are_echoed_as_they_are() {
        for id in ["1", "-7", "0", "1.50", "1e400", "123456789012345678901234567890", "null", r#""a \u00e9""#] {
            let text = format!(r#" {{"id" : {id} ,"method":"m","jsonrpc":"2.0"}} "#);
            let entry = single(&text);
            assert_eq!(entry.id, Some(id));
            assert!(entry.call.is_ok());
        }
        assert_eq!(single(r#"{"jsonrpc":"2.0","method":"m"}"#).id, None);
    }

    #[test]
    fn names_may_be_escaped_and_params_stay_as_they_are() {
        let entry = single(r#"{"jsonrpc":"2\u002e0","method":"\u006d","params":[ 1.10, {"b" : 1} ],"x":1}"#);
        let call = entry.call.unwrap();
        assert_eq!(call.method, "m");
        assert_eq!(call.params.unwrap().get(), r#"[ 1.10, {"b" : 1} ]"#);
    }

    #[test]
    fn invalid_requests_keep_their_id_where_it_can_be_read() {
        for (text, id, expected) in [
            ("1", "null", "must be an object"),
            ("\"x\"", "null", "must be an object"),
            ("{}", "null", "jsonrpc"),
            (r#"{"jsonrpc":"1.0","id":3,"method":"m"}"#, "3", "jsonrpc"),
            (r#"{"jsonrpc":2.0,"id":3,"method":"m"}"#, "3", "jsonrpc"),
            (r#"{"jsonrpc":"2.0","id":3}"#, "3", "no method"),
            (r#"{"jsonrpc":"2.0","id":3,"method":1,"params":"bar"}"#, "3", "method must be a string"),
            (r#"{"jsonrpc":"2.0","id":"q","method":"m","params":"bar"}"#, "\"q\"", "params"),
            (r#"{"jsonrpc":"2.0","id":4,"method":"m","params":null}"#, "4", "params"),
            (r#"{"jsonrpc":"2.0","id":[1],"method":"m"}"#, "null", "id must be"),
            (r#"{"jsonrpc":"2.0","id":true,"method":"m"}"#, "null", "id must be"),
            (r#"{"jsonrpc":"2.0","id":1,"id":2,"method":"m"}"#, "null", "duplicate field"),
        ] {
            let entry = single(text);
            assert_eq!(entry.id, Some(id), "{text}");
            let error = entry.call.map(|_| ()).unwrap_err();
            assert_eq!(error.kind, ErrorKind::InvalidRequest);
            assert!(error.message.contains(expected), "{text}: {}", error.message);
        }
    }

    #[test]
    fn what_is_not_json_is_refused_as_a_whole() {
        for body in [
            &b""[..],
            b" ",
            b"{",
            b"{\"a\":}",
            b"[1,",
            b"[1]x",
            b"nul",
            b"{} {}",
            b"[{},]",
            b"\xff",
            b"{\"a\":\"\xc3\"}",
            b"{\"jsonrpc\": \"2.0\", \"method\": \"foobar, \"params\": \"bar\", \"baz]",
        ] {
            assert_eq!(refused(body), ErrorKind::ParseError, "{}", String::from_utf8_lossy(body));
        }
    }

    #[test]
    fn limits_hold() {
        assert_eq!(refused(b"[]"), ErrorKind::InvalidRequest);
        assert_eq!(refused(b"[1,2,3,4,5]"), ErrorKind::TooLarge);
        let Ok(Request::Batch(entries)) = read(b"[1,2,3,[]]", 4) else { panic!() };
        assert!(entries.iter().all(|entry| entry.call.is_err() && entry.id == Some("null")));
        let nested = |depth: usize| {
            let params = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
            format!(r#"{{"jsonrpc":"2.0","id":1,"method":"m","params":{params}}}"#)
        };
        assert!(single(&nested(64)).call.is_ok());
        assert!(read(format!("[{}]", nested(64)).as_bytes(), 4).is_ok());
        assert_eq!(refused(nested(65).as_bytes()), ErrorKind::TooLarge);
        assert_eq!(refused(nested(10_000).as_bytes()), ErrorKind::TooLarge);
        assert_eq!(refused("[".repeat(10_000).as_bytes()), ErrorKind::TooLarge);
        let long = format!(r#"{{"jsonrpc":"2.0","id":"{}","method":"m"}}"#, "x".repeat(MAX_ID));
        assert_eq!(single(&long).id, Some("null"));
    }

    #[test]
    fn responses_are_written_around_texts() {
        let mut text = Vec::new();
        write_result(&mut text, "\"a\"", b"{\"x\": 1.10}");
        assert_eq!(text, br#"{"jsonrpc":"2.0","id":"a","result":{"x": 1.10}}"#);
        text.clear();
        write_error(&mut text, "7", &RpcError::new(ErrorKind::QueueFull, "later"));
        assert_eq!(
            String::from_utf8(text).unwrap(),
            r#"{"jsonrpc":"2.0","id":7,"error":{"code":-32026,"message":"later","data":{"kind":"QUEUE_FULL"}}}"#
        );
    }
}
