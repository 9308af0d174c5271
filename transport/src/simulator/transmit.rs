//! How a message gets from one daemon to another, and what the other does with it.

use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::Instant;

use super::daemon::{Daemon, lock};
use super::faults::Fate;
use super::wire::{Message, MessageId, Progress, Received};

/// How often the daemon looks after a message that makes no progress.
const TICK: Duration = Duration::from_millis(100);
/// How long the daemon hears no acknowledgements after it took a message on.
const DEAF: Duration = Duration::from_millis(2);
/// How long a forward socket may take to take in a message.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// The content of one packet, in bytes.
const CHUNK: usize = 1300;

/// Takes a message to where it goes, or gives it up in the end.
pub(super) async fn transmit(daemon: Arc<Daemon>, message: Arc<Message>) {
    let faults = daemon.mesh.faults();
    let began = Instant::now();
    let id = message.id;
    let to = daemon.mesh.find(message.dst_ip).filter(|to| *to != daemon.index);
    let travel = async {
        let Some(to) = to else {
            // Nobody has the address, or only this daemon itself: no packet ever gets anywhere.
            return std::future::pending().await;
        };
        let fate = daemon.mesh.fate(daemon.index, to);
        let journey = Journey { daemon: &daemon, to, message: &message, fate, began };
        journey.travel(faults.tick).await;
    };
    if tokio::time::timeout(faults.give_up, travel).await.is_ok() {
        daemon.progress(id, Progress::Received);
        return;
    }
    daemon.progress(id, Progress::Aborted);
    if let Some(peer) = to.and_then(|to| daemon.mesh.reachable(daemon.index, to)) {
        lock(&peer.inbox).announced.remove(&id);
    }
}

/// Tells the sender of a message that somebody read it. Said once, whether it arrives or not.
pub(super) async fn notify_read(reader: &Daemon, sender: IpAddr, id: MessageId) {
    let Some(to) = reader.mesh.find(sender) else { return };
    tokio::time::sleep(reader.mesh.faults().delay).await;
    if let Some(peer) = reader.mesh.reachable(reader.index, to) {
        peer.was_read(id);
    }
}

struct Journey<'a> {
    daemon: &'a Arc<Daemon>,
    to: usize,
    message: &'a Arc<Message>,
    fate: Fate,
    began: Instant,
}

impl Journey<'_> {
    /// Three packets, each acknowledged: the announcement, the content (sent in one burst, so one
    /// packet stands for all of it), and the end.
    async fn travel(&self, tick: bool) {
        let Self { daemon, message, fate, .. } = self;
        if !fate.hold.is_zero() {
            tokio::time::sleep(fate.hold).await;
        }
        self.exchange(0, |peer| peer.announced(message)).await;
        let chunks = message.payload.len().div_ceil(CHUNK);
        daemon.progress(message.id, Progress::Sending { pending: 0, sent: chunks, acked: 0 });
        daemon.acknowledged.notify_waiters();
        if tick && self.began.elapsed() < DEAF {
            tokio::time::sleep_until(self.began + DEAF).await;
            tokio::select! {
                () = tokio::time::sleep_until(self.began + TICK) => {}
                () = daemon.acknowledged.notified() => {}
            }
        }
        // An empty message has no content to send.
        if chunks > 0 {
            self.exchange(1, |peer| lock(&peer.inbox).announced.contains(&message.id)).await;
            daemon.progress(message.id, Progress::Sending { pending: 0, sent: 0, acked: chunks });
            daemon.acknowledged.notify_waiters();
        }
        self.exchange(2, |peer| peer.complete(message, fate)).await;
    }

    /// Sends a packet until it is acknowledged.
    async fn exchange(&self, stage: u64, arrive: impl Fn(&Arc<Daemon>) -> bool) {
        let mut number = stage;
        loop {
            let sent = Instant::now();
            if self.attempt(number, &arrive).await {
                return;
            }
            number += 3;
            tokio::time::sleep_until(sent + TICK).await;
        }
    }

    /// Whether the packet got there, was taken, and its acknowledgement came back.
    async fn attempt(&self, number: u64, arrive: impl Fn(&Arc<Daemon>) -> bool) -> bool {
        if self.fate.loses(2 * number) {
            return false;
        }
        self.pass().await;
        let Some(peer) = self.peer() else { return false };
        if !arrive(&peer) || self.fate.loses(2 * number + 1) {
            return false;
        }
        self.pass().await;
        self.peer().is_some()
    }

    async fn pass(&self) {
        if !self.fate.delay.is_zero() {
            tokio::time::sleep(self.fate.delay).await;
        }
    }

    fn peer(&self) -> Option<Arc<Daemon>> {
        self.daemon.mesh.reachable(self.daemon.index, self.to)
    }
}

/// The receiver's side.
impl Daemon {
    /// A message is announced. Refused without a word if its topic does not take from its sender, or
    /// if the inbox holds a message with its id already; replies are always taken.
    fn announced(&self, message: &Message) -> bool {
        if !message.is_reply && !lock(&self.topics).accepts(&message.topic, message.src_ip) {
            return false;
        }
        let mut inbox = lock(&self.inbox);
        if inbox.messages.iter().any(|received| received.message.id == message.id) {
            return false;
        }
        inbox.announced.insert(message.id);
        true
    }

    /// All of a message is there. It is handed on once, however often its end is announced.
    fn complete(self: &Arc<Self>, message: &Arc<Message>, fate: &Fate) -> bool {
        if !lock(&self.inbox).announced.remove(&message.id) {
            return false;
        }
        if fate.lost {
            return true;
        }
        let received = Received { message: Arc::clone(message), dst_pk: self.host().key };
        if fate.twice {
            self.hand_on(received.clone());
        }
        self.hand_on(received);
        true
    }

    /// To whoever waits for this reply, else to the topic's socket, else into the inbox.
    fn hand_on(self: &Arc<Self>, received: Received) {
        self.host().traffic.received();
        let waiting = lock(&self.waiting).remove(&received.message.id);
        if let Some(waiting) = waiting {
            // Who asked may have stopped waiting.
            if let Err(received) = waiting.send(received) {
                self.keep(received);
            }
            return;
        }
        let socket = lock(&self.topics).socket(&received.message.topic).cloned();
        let Some(socket) = socket else { return self.keep(received) };
        let daemon = Arc::clone(self);
        self.spawn(async move {
            match forward(&socket, &received.message.payload).await {
                Ok(reply) => daemon.reply(received.message.id, received.message.src_ip, reply),
                Err(error) => {
                    tracing::debug!(socket = %socket.display(), %error, "a message falls into the inbox");
                    daemon.keep(received);
                }
            }
        });
    }

    fn keep(&self, received: Received) {
        lock(&self.inbox).messages.push_back(received);
        self.arrived.notify_waiters();
    }
}

/// Writes the payload, leaves the connection open, and reads until the other side closes it, however
/// long that takes.
async fn forward(socket: &Path, payload: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = UnixStream::connect(socket).await?;
    tokio::time::timeout(WRITE_TIMEOUT, stream.write_all(payload)).await??;
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).await?;
    if reply.is_empty() { Err(io::Error::from(io::ErrorKind::UnexpectedEof)) } else { Ok(reply) }
}
