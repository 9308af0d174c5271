//! The Unix socket that the daemon hands messages to, and one's own calls to such a socket.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::answer::{Answerer, refuse};
use super::frame::{self, Scanner};
use super::ledger::busy;
use crate::error::{ErrorKind, RpcError};
use crate::rate::Origin;

/// A whole message must be there within that time.
const READ: Duration = Duration::from_secs(5);
/// A reply must be taken within that time.
const WRITE: Duration = Duration::from_secs(10);
/// How long a socket may take to accept, to be looked whether somebody is there.
const ALIVE: Duration = Duration::from_secs(1);
/// Messages that are answered at a time, long polls included.
const MAX_CONNECTIONS: usize = 768;
/// No reply on a socket is read beyond that, in bytes.
const MAX_REPLY: usize = frame::MAX_MESSAGE + 4096;
/// The system's bound for the path of a socket, with its final zero.
const MAX_PATH: usize = 107;

/// Whether somebody listens on that socket. One that must not be connected to is held for alive: it is another user's.
pub(super) async fn is_alive(path: &Path) -> bool {
    match tokio::time::timeout(ALIVE, UnixStream::connect(path)).await {
        Ok(Ok(_)) | Err(_) => true,
        Ok(Err(e)) => e.kind() == io::ErrorKind::PermissionDenied,
    }
}

/// The error of a topic that another process of this host serves at that socket.
pub(super) fn taken(topic: &str, socket: &str) -> RpcError {
    RpcError::new(
        ErrorKind::IdConflict,
        format!(
            "another process on this host serves the topic {topic} at {socket}: stop it, or start this one with \
             `--topic SUFFIX`, so that it serves {topic}.SUFFIX"
        ),
    )
    .with("topic", topic)
}

/// A socket that is bound. Its file is removed when it is dropped.
pub(super) struct Socket {
    listener: UnixListener,
    path: PathBuf,
}

impl Socket {
    /// Binds the socket of a topic in that directory, mode 0600, in the place of one that was left
    /// behind.
    ///
    /// # Errors
    /// If another process listens there, the path is too long, or the system refuses.
    pub(super) async fn bind(directory: &Path, topic: &str) -> Result<Self, RpcError> {
        let path = std::path::absolute(directory.join(format!("{topic}.sock"))).map_err(RpcError::internal)?;
        let shown = path.display();
        let refused = |problem: String| RpcError::new(ErrorKind::Internal, problem);
        if path.as_os_str().len() > MAX_PATH {
            let problem = format!(
                "{shown} is too long for the path of a socket (at most {MAX_PATH} bytes): choose a shorter data directory"
            );
            return Err(refused(problem));
        }
        std::fs::create_dir_all(directory)
            .map_err(|e| refused(format!("cannot make the directory {}: {e}", directory.display())))?;
        if path.exists() {
            if is_alive(&path).await {
                return Err(taken(topic, &shown.to_string()));
            }
            std::fs::remove_file(&path).map_err(|e| refused(format!("cannot remove the stale socket {shown}: {e}")))?;
        }
        // Bound under another name and moved, so that it is never there with other rights.
        let temporary = path.with_extension(format!("{}.new", std::process::id()));
        let _ = std::fs::remove_file(&temporary);
        let bound = UnixListener::bind(&temporary).and_then(|listener| {
            std::fs::set_permissions(&temporary, std::fs::Permissions::from_mode(0o600))?;
            std::fs::rename(&temporary, &path)?;
            Ok(listener)
        });
        let listener = bound.map_err(|e| refused(format!("cannot listen on the socket {shown}: {e}")))?;
        Ok(Self { listener, path })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Answers messages until `stop`, then those that are being answered to their end.
    pub(super) async fn serve(&self, answerer: &Arc<Answerer>, stop: &CancellationToken) {
        let tasks = TaskTracker::new();
        let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let accepted = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    let permit = Arc::clone(&room).try_acquire_owned().ok();
                    let answerer = Arc::clone(answerer);
                    tasks.spawn(async move {
                        converse(stream, &answerer, permit.is_some()).await;
                        drop(permit);
                    });
                }
                Err(e) => {
                    // Most likely no file descriptors are left: trying at once again would burn a core.
                    tracing::warn!("cannot accept a message of the mycelium daemon: {e}");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
        tasks.close();
        let patience = answerer.dispatcher().limits().drain + Duration::from_secs(2);
        let _ = tokio::time::timeout(patience, tasks.wait()).await;
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Reads one message and answers it, in any case with something.
async fn converse(mut stream: UnixStream, answerer: &Answerer, has_room: bool) {
    let message = tokio::time::timeout(READ, read_message(&mut stream)).await;
    let reply = match message {
        Ok(Ok(Some(message))) if has_room => {
            // What comes through the socket may be from anybody; the daemon does not say from whom.
            answerer.answer(message, Origin::Overlay).await
        }
        Ok(Ok(Some(_))) => refuse(&busy()),
        // Nothing came: somebody only looked whether the socket is alive.
        Ok(Ok(None)) => return,
        Ok(Err(e)) => refuse(&e),
        Err(_) => refuse(&RpcError::new(
            ErrorKind::ParseError,
            format!("the message did not come to its end within {} s: send it whole", READ.as_secs()),
        )),
    };
    let write = async {
        stream.write_all(&reply).await?;
        stream.shutdown().await
    };
    match tokio::time::timeout(WRITE, write).await {
        Ok(Ok(())) => {}
        Ok(Err(e)) => tracing::debug!("the mycelium daemon did not take a reply: {e}"),
        Err(_) => tracing::debug!("the mycelium daemon did not take a reply in time"),
    }
}

/// Reads a message to the end that it has in itself. `None` if not a byte came.
async fn read_message(stream: &mut UnixStream) -> Result<Option<Bytes>, RpcError> {
    let mut scanner = Scanner::default();
    let mut message = BytesMut::new();
    loop {
        let before = message.len();
        message.reserve(16 * 1024);
        match stream.read_buf(&mut message).await {
            Ok(0) | Err(_) if message.is_empty() => return Ok(None),
            Ok(0) | Err(_) => {
                return Err(RpcError::new(ErrorKind::ParseError, "the message ends in its middle"));
            }
            Ok(_) => {}
        }
        let end = scanner.feed(&message[before..]).map_err(|e| {
            let kind = match e {
                frame::ScanError::TooLong => ErrorKind::TooLarge,
                frame::ScanError::NoMessage => ErrorKind::ParseError,
            };
            RpcError::new(kind, e.to_string())
        })?;
        if let Some(end) = end {
            return Ok(Some(message.freeze().slice(..end)));
        }
    }
}

/// Hands a message to a socket of this machine, as the daemon would, and brings the reply.
pub(super) async fn call_local(path: &Path, message: &[u8], deadline: Instant) -> io::Result<Bytes> {
    let exchange = async {
        let mut stream = UnixStream::connect(path).await?;
        stream.write_all(message).await?;
        let mut reply = BytesMut::new();
        while stream.read_buf(&mut reply).await? > 0 {
            if reply.len() > MAX_REPLY {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the reply is too long"));
            }
        }
        if reply.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(reply.freeze())
    };
    tokio::time::timeout_at(deadline, exchange).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
