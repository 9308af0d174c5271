//! Nodes that do not answer: who has something there waits for them, and does not submit it twice.

use std::fmt::Display;
use std::time::{Duration, Instant};

use horus_transport::{ErrorKind, Method, RpcClient, RpcError};

use super::output::Failure;

/// For so long a node may be away before who waits for it gives up.
const AWAY: Duration = Duration::from_secs(120);
/// For so long a submission that nobody answers is sent again.
const AGAIN: Duration = Duration::from_secs(40);
/// Between two calls to a node that is away.
const PAUSE: Duration = Duration::from_secs(1);

/// How long a node has been away.
pub(super) struct Away {
    /// Whether it is known that there is something to wait for.
    has_something: bool,
    since: Option<Instant>,
}

impl Away {
    /// Of a node that has what is waited for, as far as is known.
    pub(super) const fn new(has_something: bool) -> Self {
        Self { has_something, since: None }
    }

    /// It has answered.
    pub(super) fn is_back(&mut self) {
        *self = Self::new(true);
    }

    /// Waits a moment if the node is away rather than refusing, has what is waited for, and is not away for too long.
    ///
    /// # Errors
    /// The error, as that of the job or workflow (`what`) with that id.
    pub(super) async fn wait(&mut self, error: RpcError, what: &str, id: impl Display) -> Result<(), Failure> {
        let since = *self.since.get_or_insert_with(Instant::now);
        if !is_away(error.kind) || !self.has_something {
            return Err(Failure::rpc(&error));
        }
        if since.elapsed() > AWAY {
            let hint = format!("{what} {id} was accepted: ask `horus {what} status {id}` how it goes on");
            return Err(Failure::rpc(&error).about(what, id, &hint));
        }
        tokio::time::sleep(PAUSE).await;
        Ok(())
    }
}

/// Whether a node may be asked again that answered so, or not at all.
pub(super) const fn is_away(kind: ErrorKind) -> bool {
    use ErrorKind::{DaemonDown, NoService, PeerUnreachable, RedisUnavailable, TimedOut};
    matches!(kind, PeerUnreachable | TimedOut | NoService | DaemonDown | RedisUnavailable)
}

/// Submits what is signed: a job or a workflow (`what`) with that id. While nobody says whether it has come it is sent again, which is
/// safe, for its id is accepted once.
///
/// # Errors
/// What the node answered. If it may have been accepted all the same, the failure names it and says how to find out: who submits it
/// anew makes another one.
pub(super) async fn submit<M: Method>(
    rpc: &RpcClient,
    params: &M::Params,
    what: &str,
    id: impl Display,
) -> Result<M::Result, Failure> {
    submit_for::<M>(rpc, params, AGAIN).await.map_err(|(error, may_be_there)| {
        let failure = Failure::rpc(&error);
        if !may_be_there {
            return failure;
        }
        let hint = format!(
            "whether {what} {id} was accepted is not known: ask `horus {what} status {id}` before you submit it again"
        );
        failure.about(what, id, &hint)
    })
}

/// Submits, also again for so long; the error, and whether it may have been accepted all the same.
async fn submit_for<M: Method>(
    rpc: &RpcClient,
    params: &M::Params,
    again: Duration,
) -> Result<M::Result, (RpcError, bool)> {
    let (began, mut may_be_there) = (Instant::now(), false);
    loop {
        let error = match rpc.call::<M>(params).await {
            Ok(result) => return Ok(result),
            Err(error) => error,
        };
        // One that answers of its Redis may have been stopped half-way; it would be asked again by hand.
        let is_silent = is_away(error.kind) && error.kind != ErrorKind::RedisUnavailable;
        may_be_there |= error.was_sent() == Some(true) || error.kind == ErrorKind::RedisUnavailable;
        if !may_be_there || !is_silent || began.elapsed() > again {
            return Err((error, may_be_there));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex};

    use horus_keys::{Envelope, Identity, PayloadType};
    use horus_transport::ClientOptions;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::api::coordinator::{SubmitWorkflow, SubmitWorkflowParams};

    /// The bodies of requests, as far as they were read.
    type Bodies = Arc<Mutex<Vec<serde_json::Value>>>;

    /// A coordinator whose first replies are lost, and a client that does not wait for long.
    async fn coordinator(lost: usize) -> (RpcClient, Bodies) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let (bodies, calls) = (Bodies::default(), Arc::new(AtomicUsize::new(0)));
        let seen = Arc::clone(&bodies);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (seen, calls) = (Arc::clone(&seen), Arc::clone(&calls));
                tokio::spawn(async move { answer(stream, &seen, &calls, lost).await });
            }
        });
        let options = ClientOptions { timeout: Duration::from_millis(400), ..ClientOptions::default() };
        (RpcClient::connect(address.parse().unwrap(), options).unwrap(), bodies)
    }

    async fn answer(mut stream: TcpStream, seen: &Mutex<Vec<serde_json::Value>>, calls: &AtomicUsize, lost: usize) {
        let mut text = Vec::new();
        while stream.read_buf(&mut text).await.is_ok_and(|len| len > 0) {
            let Some(body) = text.windows(4).position(|at| at == b"\r\n\r\n").map(|at| &text[at + 4..]) else {
                continue;
            };
            let Ok(body) = serde_json::from_slice::<serde_json::Value>(body) else { continue };
            let id = body["id"].clone();
            seen.lock().unwrap().push(body);
            text.clear();
            if calls.fetch_add(1, Ordering::SeqCst) < lost {
                continue;
            }
            let result = serde_json::json!({ "workflow_id": "w", "status": "running", "created": true });
            let reply = serde_json::json!({ "jsonrpc": "2.0", "id": id, "result": result }).to_string();
            let head =
                format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", reply.len());
            stream.write_all(format!("{head}{reply}").as_bytes()).await.unwrap();
        }
    }

    fn params() -> SubmitWorkflowParams {
        let envelope = Envelope::sign(&Identity::generate(), PayloadType::Workflow, b"{}".to_vec());
        SubmitWorkflowParams { envelope: envelope.into() }
    }

    #[tokio::test]
    async fn a_submission_whose_answer_is_lost_is_sent_again_as_it_was() {
        let (rpc, bodies) = coordinator(1).await;
        submit::<SubmitWorkflow>(&rpc, &params(), "workflow", "w").await.unwrap();
        let bodies = bodies.lock().unwrap();
        assert_eq!(bodies.len(), 2);
        assert_eq!(bodies[0]["params"], bodies[1]["params"], "nothing is signed anew");
    }

    #[tokio::test]
    async fn who_gives_up_on_a_submission_knows_that_it_may_be_there() {
        let (rpc, bodies) = coordinator(usize::MAX).await;
        let (error, may_be_there) =
            submit_for::<SubmitWorkflow>(&rpc, &params(), Duration::from_secs(1)).await.unwrap_err();
        assert!(error.kind == ErrorKind::TimedOut && may_be_there, "{error:?}");
        assert!(bodies.lock().unwrap().len() > 1);
    }

    #[tokio::test]
    async fn a_node_that_is_not_there_is_not_waited_for() {
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let rpc = RpcClient::connect(format!("http://{closed}").parse().unwrap(), ClientOptions::default()).unwrap();
        let failure = submit::<SubmitWorkflow>(&rpc, &params(), "workflow", "w").await.unwrap_err();
        assert!(!format!("{failure:?}").contains("is not known"), "{failure:?}");
        let mut away = Away::new(false);
        let error = RpcError::new(ErrorKind::PeerUnreachable, "nobody is there");
        assert!(away.wait(error.clone(), "workflow", "w").await.is_err(), "it may be the wrong address");
        away.is_back();
        assert!(away.wait(error, "workflow", "w").await.is_ok(), "it was there before");
    }
}
