//! Calls that come to grief on their way: what a supervisor may have got goes to no other, and what it certainly has not got does.

use std::sync::atomic::{AtomicU8, Ordering::SeqCst};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::workflow::WorkflowStatus;

/// The reply to the next call that brings jobs is lost ...
const LOSES: u8 = 1;
/// ... and for the one after it there is no room. Then all is well.
const BUSY: u8 = 2;
const WELL: u8 = 0;

/// A way to an HTTP server, and what is wrong with it.
async fn way(to: &Address, trouble: &Arc<AtomicU8>) -> Address {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    let to: SocketAddr = to.to_string().trim_start_matches("http://").parse().unwrap();
    let trouble = Arc::clone(trouble);
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            tokio::spawn(carry(near, to, Arc::clone(&trouble)));
        }
    });
    address
}

async fn carry(near: TcpStream, to: SocketAddr, trouble: Arc<AtomicU8>) {
    let Ok(far) = TcpStream::connect(to).await else { return };
    let (mut near, mut far) = (BufReader::new(near), BufReader::new(far));
    while let Some(request) = message(&mut near).await {
        let brings_jobs = request.windows(13).any(|window| window == b"\"create_jobs\"");
        let now = |state, next| brings_jobs && trouble.compare_exchange(state, next, SeqCst, SeqCst).is_ok();
        if now(BUSY, WELL) {
            let error = RpcError::new(ErrorKind::RateLimited, "too many connections");
            let body = serde_json::json!({ "jsonrpc": "2.0", "id": null, "error": error }).to_string();
            let head = "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nconnection: close\r\n";
            let reply = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
            let _ = near.write_all(reply.as_bytes()).await;
            return;
        }
        if far.write_all(&request).await.is_err() {
            return;
        }
        let Some(reply) = message(&mut far).await else { return };
        if now(LOSES, BUSY) || near.write_all(&reply).await.is_err() {
            return;
        }
    }
}

/// An HTTP request or response, with its head. `None` at the end of the connection.
async fn message(from: &mut BufReader<TcpStream>) -> Option<Vec<u8>> {
    let (mut text, mut length) = (Vec::new(), 0);
    loop {
        let begin = text.len();
        if from.read_until(b'\n', &mut text).await.ok()? == 0 {
            return None;
        }
        let line = String::from_utf8_lossy(&text[begin..]).to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        if line == "\r\n" {
            break;
        }
    }
    let head = text.len();
    text.resize(head + length, 0);
    from.read_exact(&mut text[head..]).await.ok()?;
    Some(text)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_call_may_have_brought_goes_to_no_other_when_it_is_refused_on_the_next_connection() {
    let mut world = World::new(2).await;
    let trouble = Arc::new(AtomicU8::new(WELL));
    world.supervisors[0].address = way(&world.supervisors[0].address, &trouble).await;
    let node = world.start().await;
    world.ready(&node).await;
    trouble.store(LOSES, SeqCst);
    world.submit(&node, "way", &workflow(&["a noop slow 300", "b noop slow 300"])).await;
    let view = world.end(&node, "way").await;
    assert_eq!(view.status, WorkflowStatus::Succeeded, "{view:?}");
    assert_eq!(trouble.load(SeqCst), WELL, "the call was made, lost, and refused");
    let begun: usize = world.supervisors.iter().map(|serving| serving.fake.begun.lock().unwrap().len()).sum();
    assert_eq!(begun, 2, "no step ran at both");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_never_left_goes_to_another_though_what_was_to_go_ahead_of_it_may_have_come() {
    let world = World::new(2).await;
    let node = world.start().await;
    world.ready(&node).await;
    let fake = &world.supervisors[0].fake;
    fake.trouble.keeps_nothing.store(true, SeqCst);
    // A workflow that does not fit into the call that brings the jobs.
    let large = format!("a noop text {}", "x".repeat(200 << 10));
    world.submit(&node, "ahead", &workflow(&[&large, "b noop text y", "c noop text z", "d noop text z"])).await;
    let view = world.end(&node, "ahead").await;
    assert_eq!(view.status, WorkflowStatus::Succeeded, "{:?}", view.error);
    assert!(fake.ahead.load(SeqCst) > 0 && fake.job_count() == 0);
    assert_eq!(world.supervisors[1].fake.job_count(), 4);
}
