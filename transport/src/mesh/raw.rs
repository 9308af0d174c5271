//! One message for each request, and nothing else: what a plain use of the daemon reaches, to measure
//! ours against. Node, requests, signatures and replies are the same; the way is not.

use std::net::Ipv6Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use horus_keys::Timestamp;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::Shared;
use super::carrier::HostCarrier;
use super::daemon::Pushed;
use super::frame::{self, EntryHead, EntryState, RequestHead};
use super::peer::Outcome;
use crate::address::Address;
use crate::carrier::{Carrier, CarrierFactory, Outbound};
use crate::error::{ErrorKind, RpcError};

/// Messages that wait for replies at a time: the daemon takes 100 calls in all.
const PLACES: usize = 90;

/// Makes carriers that push each request as a message of its own (`pushMessage` with a reply timeout)
/// and bring what the node's forward socket answers. No call waits for another, travels with another,
/// or is sent again. For measurements only: it leaves the daemon a message a call to look after.
#[derive(Clone)]
pub struct RawMessages(pub(super) Arc<Shared>);

impl CarrierFactory for RawMessages {
    fn carrier(&self, address: &Address) -> Result<Arc<dyn Carrier>, RpcError> {
        let Address::Mycelium { host, topic, pin } = address else {
            let problem = format!("{address} names no host of the mesh: bare messages go to a mycelium:// address");
            return Err(RpcError::new(ErrorKind::NoService, problem));
        };
        let topic = topic.clone().unwrap_or_else(|| self.0.options.default_topic.clone());
        let host = HostCarrier { shared: Arc::clone(&self.0), host: *host, topic: topic.clone(), pin: *pin };
        Ok(Arc::new(RawCarrier {
            shared: Arc::clone(&self.0),
            ip: host.target().ip,
            topic,
            session: format!("{:016x}{:016x}", super::random(), super::random()),
            numbers: AtomicU64::new(0),
            places: Semaphore::new(PLACES),
        }))
    }
}

struct RawCarrier {
    shared: Arc<Shared>,
    ip: Ipv6Addr,
    topic: String,
    session: String,
    numbers: AtomicU64,
    places: Semaphore,
}

impl RawCarrier {
    async fn exchange(&self, request: Outbound) -> Outcome {
        let wait = request.deadline.saturating_duration_since(Instant::now());
        let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        let n = self.numbers.fetch_add(1, Ordering::Relaxed);
        let len = request.body.len();
        let head = RequestHead {
            session: self.session.clone(),
            sent_at: Timestamp::now().as_millis(),
            hold_ms: wait_ms,
            first: false,
            nudge: false,
            entries: vec![EntryHead { n, len, auth: request.authorization, wait_ms, resume: false }],
        };
        let message = frame::encode(&head, &[request.body]);
        let wait = wait + Duration::from_secs(1);
        let _place = self.places.acquire().await.expect("the semaphore is never closed");
        request.sendings.begin()?;
        match self.shared.daemon.push(self.ip, &self.topic, &message, wait).await? {
            Pushed::Reply(reply) if reply.src_ip == self.ip => read(&reply.payload),
            Pushed::Reply(reply) => {
                let problem = format!("{} answered in the place of {}", reply.src_ip, self.ip);
                Err(RpcError::new(ErrorKind::InvalidReply, problem))
            }
            Pushed::Id { .. } => {
                let problem = format!("no reply to a bare message to [{}] within the time given", self.ip);
                Err(RpcError::new(ErrorKind::TimedOut, problem))
            }
        }
    }
}

impl Carrier for RawCarrier {
    fn send(&self, request: Outbound) -> BoxFuture<'_, Outcome> {
        self.exchange(request).boxed()
    }
}

/// The reply to the only request of a message.
fn read(payload: &Bytes) -> Outcome {
    let unexpected = |what: &str| Err(RpcError::new(ErrorKind::InvalidReply, format!("a bare message: {what}")));
    if !frame::is_frame(payload) {
        return unexpected("the node refused it");
    }
    let (head, bodies) = frame::decode_reply(payload)?;
    match (head.entries.first().map(|entry| entry.state), bodies.into_iter().next()) {
        (Some(EntryState::Done), Some(body)) => Ok(Some(body)),
        (Some(EntryState::Silent), _) => Ok(None),
        _ => unexpected("the node was not done within the time given"),
    }
}
