//! What runner, fork server and job process say to each other. All are the same binary of the same build, so there are no versions.
//!
//! Control messages are JSON, one each in a packet (`SOCK_SEQPACKET`). Job and result are one length-prefixed frame each on a stream socket.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    path::PathBuf,
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use super::options::ResourceLimits;
use crate::script::{ScriptFailure, ScriptLimits};

/// Largest control message, in bytes.
pub(super) const PACKET_BYTES: usize = 32 * 1024;
/// Largest job or result, in bytes: payload, input, env and secrets, with room for JSON escapes.
pub(super) const FRAME_BYTES: usize = 16 * 1024 * 1024;

/// Runner to fork server. The first message is `Init`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Request {
    Init(Box<Init>),
    /// Fork a job process; with three file descriptors: work socket, log pipe for stdout, log pipe for stderr.
    Start {
        job: u64,
    },
    /// Kill it and all that it started.
    Kill {
        job: u64,
    },
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Init {
    pub(super) script: ScriptLimits,
    pub(super) resources: ResourceLimits,
    pub(super) script_lib: Option<PathBuf>,
    /// Parent of all scratch directories, removed when the runner is gone.
    pub(super) scratch: PathBuf,
}

/// Fork server to runner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Event {
    /// The engine is built; how many functions the library has.
    Ready { functions: usize },
    /// It cannot be: the server leaves.
    Unusable { message: String },
    /// The job process is gone with all that it started.
    Ended { job: u64, ending: Ending },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Ending {
    Exited(i32),
    Signalled(i32),
    /// It never was: `fork` failed with this errno.
    NotForked(i32),
}

/// Runner to job process.
#[derive(Serialize)]
pub(super) struct WorkRef<'a> {
    pub(super) job_id: &'a str,
    pub(super) script: &'a str,
    pub(super) input: Option<&'a RawValue>,
    pub(super) env: &'a BTreeMap<String, String>,
    pub(super) secrets: BTreeMap<&'a str, &'a str>,
    pub(super) scratch: &'a str,
}

/// The same on the other side.
#[derive(Deserialize)]
pub(super) struct Work {
    pub(super) job_id: String,
    pub(super) script: String,
    pub(super) input: Option<Box<RawValue>>,
    pub(super) env: BTreeMap<String, String>,
    /// Not wiped: the process ends with the job.
    pub(super) secrets: BTreeMap<String, String>,
    pub(super) scratch: String,
}

/// Job process to runner.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Report {
    /// The output's JSON text, or why there is none.
    pub(super) outcome: Result<String, ScriptFailure>,
    /// The script left processes behind: the job ends when the fork server has ended them.
    pub(super) left_children: bool,
}

/// One message as a packet.
pub(super) fn packet<T: Serialize>(message: &T) -> Vec<u8> {
    serde_json::to_vec(message).expect("control messages have string keys and no maps")
}

/// A frame: length (u32, big endian), then JSON. Wiped after use, since secrets may be inside.
pub(super) fn frame<T: Serialize>(message: &T) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(1024));
    bytes.extend_from_slice(&[0; 4]);
    serde_json::to_writer(&mut *bytes, message)?;
    let length = bytes.len() - 4;
    if length > FRAME_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{length} bytes, at most {FRAME_BYTES}")));
    }
    let length = u32::try_from(length).expect("FRAME_BYTES fits u32");
    bytes[..4].copy_from_slice(&length.to_be_bytes());
    Ok(bytes)
}

/// Length of the frame that this header starts.
pub(super) fn frame_length(header: [u8; 4]) -> io::Result<usize> {
    let length = u32::from_be_bytes(header) as usize;
    if length > FRAME_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a frame of {length} bytes")));
    }
    Ok(length)
}

/// Blocking side of the work socket.
pub(super) fn read_frame<T: DeserializeOwned>(mut from: impl Read) -> io::Result<T> {
    let mut header = [0; 4];
    from.read_exact(&mut header)?;
    let mut bytes = Zeroizing::new(vec![0; frame_length(header)?]);
    from.read_exact(&mut bytes)?;
    Ok(serde_json::from_slice(&bytes)?)
}

/// Blocking side of the work socket.
pub(super) fn write_frame<T: Serialize>(mut to: impl Write, message: &T) -> io::Result<()> {
    to.write_all(&frame(message)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_crosses_unchanged() {
        let input = RawValue::from_string(r#"{"n": 12345678901234567890123}"#.to_owned()).unwrap();
        let env = BTreeMap::from([("A".to_owned(), "b\n\u{0}".to_owned())]);
        let sent = WorkRef {
            job_id: "sal-1",
            script: "input.n",
            input: Some(&input),
            env: &env,
            secrets: BTreeMap::from([("k", "v")]),
            scratch: "/tmp/x",
        };
        let bytes = frame(&sent).unwrap();
        let work: Work = read_frame(bytes.as_slice()).unwrap();
        assert_eq!(work.input.unwrap().get(), input.get());
        assert_eq!((work.env, work.secrets["k"].as_str(), work.script.as_str()), (env, "v", "input.n"));
    }

    #[test]
    fn a_hostile_length_is_refused_before_it_is_allocated() {
        let error = read_frame::<Report>(&[0xff, 0xff, 0xff, 0xff][..]).err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(read_frame::<Report>(&[0, 0, 0, 9, b'{'][..]).is_err());
    }
}
