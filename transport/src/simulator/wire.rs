//! What the daemon's JSON-RPC takes and gives.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use horus_keys::MeshPublicKey;
use serde::ser::SerializeStruct;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Names a message: 8 bytes, 16 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct MessageId(pub(super) u64);

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for MessageId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let is_hex = text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit());
        if is_hex { u64::from_str_radix(text, 16).map(Self).map_err(|_| ()) } else { Err(()) }
    }
}

impl Serialize for MessageId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A message to send.
#[derive(Deserialize)]
pub(super) struct Push {
    pub(super) dst: Destination,
    #[serde(default)]
    pub(super) topic: Option<Base64>,
    pub(super) payload: Base64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Destination {
    Ip(IpAddr),
    Pk(MeshPublicKey),
}

impl Destination {
    pub(super) fn ip(&self) -> IpAddr {
        match self {
            Self::Ip(ip) => *ip,
            Self::Pk(key) => key.overlay_address().into(),
        }
    }
}

/// Bytes in standard base64, padded.
pub(super) struct Base64(pub(super) Vec<u8>);

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD.decode(text).map(Self).map_err(serde::de::Error::custom)
    }
}

/// A message on its way.
#[derive(Clone)]
pub(super) struct Message {
    pub(super) id: MessageId,
    /// Whether it answers the message with that id.
    pub(super) is_reply: bool,
    pub(super) src_ip: IpAddr,
    pub(super) src_pk: MeshPublicKey,
    pub(super) dst_ip: IpAddr,
    pub(super) topic: Vec<u8>,
    pub(super) payload: Bytes,
}

/// A message that arrived.
#[derive(Clone)]
pub(super) struct Received {
    pub(super) message: Arc<Message>,
    pub(super) dst_pk: MeshPublicKey,
}

impl Serialize for Received {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let message = &self.message;
        let mut object = serializer.serialize_struct("Received", 7)?;
        object.serialize_field("id", &message.id)?;
        object.serialize_field("srcIp", &message.src_ip)?;
        object.serialize_field("srcPk", &message.src_pk)?;
        object.serialize_field("dstIp", &message.dst_ip)?;
        object.serialize_field("dstPk", &self.dst_pk)?;
        if !message.topic.is_empty() {
            object.serialize_field("topic", &STANDARD.encode(&message.topic))?;
        }
        object.serialize_field("payload", &STANDARD.encode(&message.payload))?;
        object.end()
    }
}

/// The answer to pushMessage.
#[derive(Serialize, Clone)]
#[serde(untagged)]
pub(super) enum Pushed {
    Reply(Received),
    /// Nobody waited for a reply, or none came in time.
    Id {
        id: MessageId,
    },
}

/// How far the sending of a message has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Progress {
    /// The receiver did not acknowledge the announcement.
    Pending,
    /// Its content is under way; in chunks.
    Sending { pending: usize, sent: usize, acked: usize },
    /// The receiver's daemon has all of it.
    Received,
    /// Somebody took it out of the receiver's inbox, or peeked at it.
    Read,
    /// Given up.
    Aborted,
}

/// The answer to getMessageInfo. Times in seconds since the epoch.
#[derive(Serialize, Clone)]
#[serde(rename_all = "camelCase")]
pub(super) struct MessageInfo {
    pub(super) dst: IpAddr,
    pub(super) state: Progress,
    pub(super) created: u64,
    pub(super) deadline: u64,
    pub(super) msg_len: usize,
}

/// The answer to getInfo.
#[derive(Serialize, Clone)]
#[serde(rename_all = "camelCase")]
pub(super) struct NodeInfo {
    pub(super) node_subnet: String,
    pub(super) node_ip: IpAddr,
    pub(super) node_pubkey: MeshPublicKey,
    /// Seconds since the epoch.
    pub(super) node_start_time: u64,
}

/// One entry of the answer to getPeers.
#[derive(Serialize, Clone)]
#[serde(rename_all = "camelCase")]
pub(super) struct Peer {
    pub(super) endpoint: serde_json::Value,
    #[serde(rename = "type")]
    pub(super) kind: &'static str,
    pub(super) connection_state: &'static str,
    pub(super) tx_bytes: u64,
    pub(super) rx_bytes: u64,
    pub(super) discovered: u64,
    pub(super) last_connected: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_ids_are_sixteen_digits() {
        let id = MessageId(0x0a);
        assert_eq!(id.to_string(), "000000000000000a");
        assert!("000000000000000A".parse::<MessageId>() == Ok(id));
        for bad in ["", "a", "00000000000000000a", "+00000000000000a", "000000000000000g"] {
            assert!(bad.parse::<MessageId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn progress_is_written_as_the_daemon_writes_it() {
        let text = |state| serde_json::to_string(&state).unwrap();
        assert_eq!(text(Progress::Pending), "\"pending\"");
        assert_eq!(
            text(Progress::Sending { pending: 0, sent: 2, acked: 1 }),
            r#"{"sending":{"pending":0,"sent":2,"acked":1}}"#
        );
    }
}
