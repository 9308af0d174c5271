//! The wire form of a message: bare JSON-RPC text, or a frame that holds several requests.
//!
//! A frame is `HRS1`, the length of all that follows (u32, big endian), a header (one JSON object and
//! a line feed), and the bodies of the entries one after another. An entry is one request of one
//! caller: a JSON-RPC text with its own authorization. Requests and replies are framed alike; a
//! request that is bare JSON-RPC text is answered by bare JSON-RPC text.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::error::{ErrorKind, RpcError};

/// No message is longer, in bytes: longer ones do not arrive reliably.
pub(super) const MAX_MESSAGE: usize = 1 << 20;
/// No frame holds more entries.
pub(super) const MAX_ENTRIES: usize = 256;
/// What begins every frame.
pub(super) const MAGIC: &[u8; 4] = b"HRS1";
/// Magic and length.
const PREFIX: usize = 8;
/// What an entry may take in a header besides its authorization, in bytes.
pub(super) const ENTRY_OVERHEAD: usize = 128;
/// What a header may take besides its entries, in bytes, with the padding.
pub(super) const HEAD_OVERHEAD: usize = 768;
/// The daemon cuts messages into chunks of that length.
const CHUNK: usize = 1300;
/// ... and drops the last of several chunks if it is shorter than that (0.7.10, `handle_message`): the
/// message never arrives.
const LEAST_CHUNK: usize = 250;

/// The header of a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct RequestHead {
    /// Tells this caller's entries from those of others: 32 hexadecimal digits that nobody can guess.
    pub(super) session: String,
    /// When it was sent, in milliseconds since the epoch by the sender's clock.
    pub(super) sent_at: i64,
    /// How long the reply may be held back until something is done.
    pub(super) hold_ms: u64,
    /// Whether the reply should come as soon as one entry is done, as for long polls.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) first: bool,
    /// Whether this is no request but wakes the daemons on both ends; see `nudge.rs`.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) nudge: bool,
    /// What is asked.
    #[serde(default)]
    pub(super) entries: Vec<EntryHead>,
}

/// One request of one caller.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct EntryHead {
    /// Its number in the session. The same number never means two different requests.
    pub(super) n: u64,
    /// The length of its body in bytes.
    #[serde(default)]
    pub(super) len: usize,
    /// The value of `Authorization`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) auth: Option<String>,
    /// How long its caller still waits.
    #[serde(default)]
    pub(super) wait_ms: u64,
    /// Whether it was sent before, and comes without its body now.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) resume: bool,
}

/// The header of a reply.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct ReplyHead {
    /// Changes when the node or its daemon was restarted: what was on its way then is lost.
    pub(super) boot: String,
    /// How long the node took, in milliseconds.
    #[serde(default)]
    pub(super) took_ms: u64,
    /// An answer to every entry of the request.
    #[serde(default)]
    pub(super) entries: Vec<ReplyEntry>,
}

/// What became of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ReplyEntry {
    /// Its number.
    pub(super) n: u64,
    /// How far it is.
    pub(super) state: EntryState,
    /// The length of its reply in bytes.
    #[serde(default)]
    pub(super) len: usize,
}

/// How far an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum EntryState {
    /// Its reply is here.
    Done,
    /// It is done, and the reply is nothing, as to notifications.
    Silent,
    /// It goes on, or its reply did not fit: ask again by `resume`.
    Again,
    /// The node does not know it: send it with its body.
    Lost,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

/// By how much a message of that length must grow for the daemon to deliver it.
fn padding(length: usize) -> usize {
    match length % CHUNK {
        short @ 1..LEAST_CHUNK if length > CHUNK => LEAST_CHUNK - short,
        _ => 0,
    }
}

/// JSON text of a length that the daemon delivers: with white space behind it, if need be.
pub(super) fn deliverable(text: Bytes) -> Bytes {
    let padding = padding(text.len());
    if padding == 0 {
        return text;
    }
    let mut padded = text.to_vec();
    padded.resize(text.len() + padding, b' ');
    padded.into()
}

/// Writes a frame, of a length that the daemon delivers.
pub(super) fn encode<H: Serialize>(head: &H, bodies: &[Bytes]) -> Bytes {
    let mut head = serde_json::to_vec(head).expect("a header is numbers and strings");
    let bodies_length = bodies.iter().map(Bytes::len).sum::<usize>();
    // White space behind the header's JSON.
    head.resize(head.len() + padding(PREFIX + head.len() + 1 + bodies_length), b' ');
    let length = head.len() + 1 + bodies_length;
    let mut frame = Vec::with_capacity(PREFIX + length);
    frame.extend_from_slice(MAGIC);
    let length = u32::try_from(length).expect("messages are bounded far below 4 GiB");
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(&head);
    frame.push(b'\n');
    for body in bodies {
        frame.extend_from_slice(body);
    }
    frame.into()
}

/// Whether the message is a frame, and not bare JSON-RPC text.
pub(super) fn is_frame(message: &[u8]) -> bool {
    message.starts_with(MAGIC)
}

/// Takes a frame apart, into the text of its header and what follows.
fn split(message: &Bytes) -> Result<(&[u8], Bytes), RpcError> {
    let rest = message.strip_prefix(MAGIC).ok_or_else(|| malformed("it does not begin with HRS1"))?;
    let (length, rest) = rest.split_first_chunk::<4>().ok_or_else(|| malformed("it ends in its length"))?;
    if u32::from_be_bytes(*length) as usize != rest.len() {
        return Err(malformed("its length is not the one that it says"));
    }
    let end = rest.iter().position(|b| *b == b'\n').ok_or_else(|| malformed("its header has no end"))?;
    Ok((&rest[..end], message.slice(PREFIX + end + 1..)))
}

/// Reads the frame of a request: its header, and a body for each entry.
///
/// # Errors
/// [`ErrorKind::InvalidRequest`] or [`ErrorKind::TooLarge`].
pub(super) fn decode_request(message: &Bytes) -> Result<(RequestHead, Vec<Bytes>), RpcError> {
    let (head, rest) = split(message)?;
    let head: RequestHead = serde_json::from_slice(head).map_err(|e| malformed(&format!("its header: {e}")))?;
    if head.entries.len() > MAX_ENTRIES {
        let message = format!("a message may hold {MAX_ENTRIES} entries: send several messages");
        return Err(RpcError::new(ErrorKind::TooLarge, message).with("limit", MAX_ENTRIES));
    }
    let bodies = cut(rest, head.entries.iter().map(|entry| entry.len))?;
    Ok((head, bodies))
}

/// Reads the frame of a reply.
///
/// # Errors
/// [`ErrorKind::InvalidRequest`], to be told to the caller as [`ErrorKind::InvalidReply`].
pub(super) fn decode_reply(message: &Bytes) -> Result<(ReplyHead, Vec<Bytes>), RpcError> {
    let (head, rest) = split(message)?;
    let head: ReplyHead = serde_json::from_slice(head).map_err(|e| malformed(&format!("its header: {e}")))?;
    let bodies = cut(rest, head.entries.iter().map(|entry| entry.len))?;
    Ok((head, bodies))
}

/// Cuts the bodies apart, which must fill the frame exactly.
fn cut(mut rest: Bytes, lengths: impl Iterator<Item = usize>) -> Result<Vec<Bytes>, RpcError> {
    let mut bodies = Vec::new();
    for length in lengths {
        if length > rest.len() {
            return Err(malformed("its bodies are shorter than its header says"));
        }
        bodies.push(rest.split_to(length));
    }
    if rest.is_empty() { Ok(bodies) } else { Err(malformed("its bodies are longer than its header says")) }
}

fn malformed(problem: &str) -> RpcError {
    RpcError::new(ErrorKind::InvalidRequest, format!("not a Horus frame: {problem}"))
}

/// Finds the end of a message while it arrives: the sender does not close its side.
#[derive(Debug, Default)]
pub(super) struct Scanner {
    seen: usize,
    form: Form,
}

#[derive(Debug, Default)]
enum Form {
    /// Only white space so far.
    #[default]
    Unknown,
    /// Collects magic and length.
    Prefix { bytes: [u8; PREFIX], have: usize },
    /// A frame of that length in all.
    Frame { total: usize },
    /// JSON text.
    Json { depth: usize, in_string: bool, escaped: bool },
}

/// Why a message cannot be read to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum ScanError {
    /// Longer than [`MAX_MESSAGE`].
    #[error("a message may have {MAX_MESSAGE} bytes: send less at once, or use HTTP")]
    TooLong,
    /// Neither JSON nor a frame.
    #[error("a message must be a JSON-RPC object, an array of them, or a frame that begins with HRS1")]
    NoMessage,
}

impl Scanner {
    /// Looks at the next bytes. `Some` is the length of the whole message, once its end is there;
    /// what comes after it does not belong to it.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Result<Option<usize>, ScanError> {
        for (at, byte) in bytes.iter().enumerate() {
            if let Form::Frame { total } = self.form {
                self.seen += bytes.len() - at;
                return Ok((self.seen >= total).then_some(total));
            }
            self.seen += 1;
            if self.seen > MAX_MESSAGE {
                return Err(ScanError::TooLong);
            }
            if self.step(*byte)? {
                return Ok(Some(self.seen));
            }
        }
        Ok(match self.form {
            Form::Frame { total } if self.seen >= total => Some(total),
            _ => None,
        })
    }

    /// Whether that byte is the last one of the message.
    fn step(&mut self, byte: u8) -> Result<bool, ScanError> {
        match &mut self.form {
            Form::Unknown => match byte {
                b' ' | b'\t' | b'\r' | b'\n' => {}
                b'{' | b'[' => self.form = Form::Json { depth: 1, in_string: false, escaped: false },
                // A frame begins with the first byte of the message.
                b'H' if self.seen == 1 => {
                    let mut bytes = [0; PREFIX];
                    bytes[0] = byte;
                    self.form = Form::Prefix { bytes, have: 1 };
                }
                _ => return Err(ScanError::NoMessage),
            },
            Form::Prefix { bytes, have } => {
                bytes[*have] = byte;
                *have += 1;
                if *have <= MAGIC.len() && bytes[..*have] != MAGIC[..*have] {
                    return Err(ScanError::NoMessage);
                }
                if *have == PREFIX {
                    let length = [bytes[4], bytes[5], bytes[6], bytes[7]];
                    let total = PREFIX.saturating_add(u32::from_be_bytes(length) as usize);
                    if total > MAX_MESSAGE {
                        return Err(ScanError::TooLong);
                    }
                    self.form = Form::Frame { total };
                }
            }
            Form::Json { escaped, .. } if *escaped => *escaped = false,
            Form::Json { in_string: true, escaped, .. } if byte == b'\\' => *escaped = true,
            Form::Json { in_string, .. } if byte == b'"' => *in_string = !*in_string,
            Form::Json { in_string: false, depth, .. } => match byte {
                b'{' | b'[' => *depth += 1,
                b'}' | b']' => {
                    *depth -= 1;
                    return Ok(*depth == 0);
                }
                _ => {}
            },
            Form::Json { .. } | Form::Frame { .. } => {}
        }
        Ok(false)
    }
}

#[cfg(test)]
#[path = "frame_tests.rs"]
mod tests;
