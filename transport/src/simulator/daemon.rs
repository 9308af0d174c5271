//! One running daemon: what it keeps in memory, and what its API does with it.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::faults::Draws;
use super::mesh::{Host, Mesh};
use super::topics::Topics;
use super::wire::{Message, MessageId, MessageInfo, Progress, Received};

/// The longest topic, in bytes.
const TOPIC_BYTES: usize = 255;
/// How often requests nobody waits for any more, and messages long done, are forgotten.
const SWEEP: Duration = Duration::from_secs(60);

/// A daemon from its start to its stop. Everything in it is forgotten then.
pub(super) struct Daemon {
    pub(super) mesh: Arc<Mesh>,
    /// Its number in the mesh.
    pub(super) index: usize,
    /// Seconds since the epoch.
    pub(super) started: u64,
    /// Held during every API call: a popMessage that waits keeps all others waiting.
    pub(super) api: tokio::sync::Mutex<()>,
    pub(super) topics: Mutex<Topics>,
    pub(super) inbox: Mutex<Inbox>,
    /// Something new lies in the inbox.
    pub(super) arrived: Notify,
    /// Some message of this daemon was acknowledged.
    pub(super) acknowledged: Notify,
    /// Those who wait for replies.
    pub(super) waiting: Mutex<HashMap<MessageId, oneshot::Sender<Received>>>,
    outbox: Mutex<HashMap<MessageId, Sent>>,
    ids: Draws,
    next_id: AtomicU64,
    stopped: CancellationToken,
    tasks: TaskTracker,
}

/// Messages that arrived.
#[derive(Default)]
pub(super) struct Inbox {
    /// Those that are announced and not yet whole.
    pub(super) announced: HashSet<MessageId>,
    /// Whole ones, oldest first. The daemon sets no bound.
    pub(super) messages: VecDeque<Received>,
}

/// A message that was sent.
struct Sent {
    info: MessageInfo,
    at: Instant,
}

/// The topic is longer than 255 bytes.
#[derive(Debug)]
pub(super) struct TopicTooLong;

impl Daemon {
    pub(super) fn start(mesh: Arc<Mesh>, index: usize, started: u64) -> Arc<Self> {
        let ids = Draws(mesh.faults().seed).with(index as u64).with(started);
        let daemon = Arc::new(Self {
            mesh,
            index,
            started,
            api: tokio::sync::Mutex::default(),
            topics: Mutex::default(),
            inbox: Mutex::default(),
            arrived: Notify::new(),
            acknowledged: Notify::new(),
            waiting: Mutex::default(),
            outbox: Mutex::default(),
            ids,
            next_id: AtomicU64::new(0),
            stopped: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        let sweeper = Arc::clone(&daemon);
        daemon.spawn(async move {
            loop {
                tokio::time::sleep(SWEEP).await;
                sweeper.sweep();
            }
        });
        daemon
    }

    /// Runs a task that ends with the daemon.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stopped = self.stopped.clone();
        self.tasks.spawn(async move {
            stopped.run_until_cancelled(task).await;
        });
    }

    /// Ends all tasks, and with them all connections, without waiting for anything to finish.
    pub(super) fn kill(&self) {
        self.stopped.cancel();
        self.tasks.close();
    }

    /// Until the killed daemon is gone.
    pub(super) async fn gone(&self) {
        self.tasks.wait().await;
    }

    pub(super) fn host(&self) -> &Host {
        self.mesh.host(self.index)
    }

    /// Sends a message, and says where its reply will come if one is awaited.
    pub(super) fn push(
        self: &Arc<Self>,
        dst_ip: IpAddr,
        topic: Vec<u8>,
        payload: Vec<u8>,
        await_reply: bool,
    ) -> Result<(MessageId, Option<oneshot::Receiver<Received>>), TopicTooLong> {
        if topic.len() > TOPIC_BYTES {
            return Err(TopicTooLong);
        }
        let id = MessageId(self.ids.with(self.next_id.fetch_add(1, Ordering::Relaxed)).next());
        let reply = await_reply.then(|| {
            let (sender, receiver) = oneshot::channel();
            lock(&self.waiting).insert(id, sender);
            receiver
        });
        self.send(self.message(id, false, dst_ip, topic, payload));
        Ok((id, reply))
    }

    /// Answers the message with that id. Nobody checks that there was one.
    pub(super) fn reply(self: &Arc<Self>, id: MessageId, dst_ip: IpAddr, payload: Vec<u8>) {
        self.send(self.message(id, true, dst_ip, Vec::new(), payload));
    }

    fn message(&self, id: MessageId, is_reply: bool, dst_ip: IpAddr, topic: Vec<u8>, payload: Vec<u8>) -> Message {
        let host = self.host();
        let (src_ip, src_pk) = (host.address.into(), host.key);
        Message { id, is_reply, src_ip, src_pk, dst_ip, topic, payload: Bytes::from(payload) }
    }

    fn send(self: &Arc<Self>, message: Message) {
        self.host().traffic.sent(message.is_reply, message.payload.len());
        let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let info = MessageInfo {
            dst: message.dst_ip,
            state: Progress::Pending,
            created,
            deadline: created.saturating_add(self.mesh.faults().give_up.as_secs()),
            msg_len: message.payload.len(),
        };
        lock(&self.outbox).insert(message.id, Sent { info, at: Instant::now() });
        self.spawn(super::transmit::transmit(Arc::clone(self), Arc::new(message)));
    }

    pub(super) fn info(&self, id: MessageId) -> Option<MessageInfo> {
        lock(&self.outbox).get(&id).map(|sent| sent.info.clone())
    }

    /// Notes how far a message has come, unless it was given up meanwhile.
    pub(super) fn progress(&self, id: MessageId, state: Progress) {
        if let Some(sent) = lock(&self.outbox).get_mut(&id)
            && sent.info.state != Progress::Aborted
        {
            sent.info.state = state;
        }
    }

    /// The receiver says that somebody read the message.
    pub(super) fn was_read(&self, id: MessageId) {
        if let Some(sent) = lock(&self.outbox).get_mut(&id)
            && sent.info.state == Progress::Received
        {
            sent.info.state = Progress::Read;
        }
    }

    /// Takes the oldest message, of that topic if one is given, and waits for one if need be. With
    /// `peek` it stays where it is. As in the real daemon, nobody else gets to use the API meanwhile.
    pub(super) async fn pop(self: &Arc<Self>, peek: bool, topic: Option<Vec<u8>>, wait: Duration) -> Option<Received> {
        let _api = self.api.lock().await;
        let taken = tokio::time::timeout(wait, async {
            loop {
                let arrived = self.arrived.notified();
                tokio::pin!(arrived);
                // Before looking, or what arrives in between would be missed.
                arrived.as_mut().enable();
                if let Some(message) = self.take(peek, topic.as_deref()) {
                    return message;
                }
                arrived.await;
            }
        });
        let received = taken.await.ok()?;
        let reader = Arc::clone(self);
        let (sender, id) = (received.message.src_ip, received.message.id);
        self.spawn(async move { super::transmit::notify_read(&reader, sender, id).await });
        Some(received)
    }

    fn take(&self, peek: bool, topic: Option<&[u8]>) -> Option<Received> {
        let mut inbox = lock(&self.inbox);
        let fits = |received: &Received| topic.is_none_or(|topic| received.message.topic == topic);
        let at = inbox.messages.iter().position(fits)?;
        if peek { inbox.messages.get(at).cloned() } else { inbox.messages.remove(at) }
    }

    /// Drops those who wait no more, and messages sent long ago.
    fn sweep(&self) {
        lock(&self.waiting).retain(|_, reply| !reply.is_closed());
        let remembered = self.mesh.faults().give_up * 2;
        lock(&self.outbox).retain(|_, sent| sent.at.elapsed() < remembered);
    }
}

/// A panic in a test leaves no harm in what the locks of the simulator guard.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
