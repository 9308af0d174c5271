use std::net::SocketAddr;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::*;
use crate::mesh::{Mesh, MeshOptions};

/// How long a node takes for a call: longer than it takes until there is doubt whether it is still there.
const TAKES: Duration = Duration::from_millis(1000);

/// A route by overlay HTTP, which worked, and by messages. No daemon is needed for what is tested here.
async fn route(http: SocketAddr) -> Arc<Route> {
    let daemon_url = Url::parse("http://127.0.0.1:1").unwrap();
    let http_options = crate::ClientOptions { allow_plain: true, ..crate::ClientOptions::default() };
    let options = MeshOptions { daemon_url, http: http_options, ..MeshOptions::new("unused") };
    let shared = Mesh::start(options).await.0;
    let ip = Ipv6Addr::new(0x400, 0, 0, 0, 0, 0, 0, 1);
    let target = Target { ip, key: None, topic: "horus.other".into(), pin: None };
    let overlay =
        Path::http(PathKind::Overlay, format!("http://{http}").parse().unwrap(), &shared.options.http).unwrap();
    overlay.set_up(Some(Duration::from_millis(1)));
    let all = vec![Arc::new(overlay), Arc::new(Path::messages(shared.peer(&target)))];
    let route = Route::new(Arc::clone(&shared), target);
    let made_from = (shared.known.version(), shared.watcher.state().generation);
    *route.lock() = Paths { all, made_from, used: Instant::now() };
    Arc::new(route)
}

/// A request that is too large for a message.
fn large() -> Outbound {
    let body = Bytes::from(vec![b' '; super::super::peer::MAX_REQUEST + 1]);
    let deadline = Instant::now() + Duration::from_secs(10);
    Outbound { body, authorization: None, deadline, long_poll: false, sendings: crate::carrier::Sendings::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_call_waits_for_the_path_that_takes_it() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let route = route(closed).await;
    // The second call finds the path marked as failed.
    for _ in 0..2 {
        let request = large();
        let error = route.send(request.clone()).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::PeerUnreachable, "{error:?}");
        assert_eq!(request.sendings.close(), 0, "{error:?}");
        assert_eq!(route.current_paths()[0].health().is_up, Some(false));
    }
    // As long as nobody knows whether this host has a TUN, that it is too large is not the last word.
    route.lock().all.remove(0);
    let error = route.send(large()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::DaemonDown, "{error:?}");
    assert_eq!(error.get("sent"), Some(&false.into()), "{error:?}");
}

/// A listener whose queue is full once one connection came: the next ones are not accepted.
fn narrow() -> TcpListener {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    socket.listen(1).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_call_in_doubt_is_not_answered_by_the_path_that_cannot_take_it() {
    let listener = narrow();
    let address = listener.local_addr().unwrap();
    let route = route(address).await;
    let call = tokio::spawn(async move { route.send(large()).await });
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut queued = Vec::new();
    while let Ok(Ok(other)) = tokio::time::timeout(Duration::from_millis(50), TcpStream::connect(address)).await {
        queued.push(other);
    }
    let (mut read, mut write) = stream.split();
    let answer = async {
        tokio::time::sleep(TAKES).await;
        // In vain if the host was given up meanwhile.
        let _ = write.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await;
    };
    let take = async {
        let mut buffer = vec![0; 1 << 16];
        while read.read(&mut buffer).await.is_ok_and(|len| len > 0) {}
    };
    // The connection ends with the call.
    let (outcome, (), ()) = tokio::join!(call, answer, take);
    let outcome = outcome.unwrap();
    match outcome {
        Ok(reply) => assert_eq!(reply, Some(Bytes::from_static(b"{}"))),
        // A machine that is too slow for this answers later than the host is given up.
        Err(error) => assert_eq!(error.kind, ErrorKind::PeerUnreachable, "{error:?}"),
    }
}

/// The seam between a client and a route.
struct By(Arc<Route>);

impl crate::carrier::Carrier for By {
    fn send(&self, request: Outbound) -> futures::future::BoxFuture<'_, Outcome> {
        Box::pin(self.0.send(request))
    }
}

/// Reads requests, and says that to each; nothing at all if it is empty.
async fn says(text: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut buffer = vec![0; 1 << 16];
            let _ = stream.read(&mut buffer).await;
            let head = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", text.len());
            let _ = stream.write_all(if text.is_empty() { "" } else { &head }.as_bytes()).await;
            let _ = stream.write_all(text.as_bytes()).await;
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_by_one_path_says_nothing_of_what_another_has_taken() {
    let full = r#"{"jsonrpc":"2.0","id":0,"error":{"code":-32026,"message":"full","data":{"kind":"QUEUE_FULL"}}}"#;
    let route = route(says("").await).await;
    let other = format!("http://{}", says(full).await).parse().unwrap();
    let other = Path::http(PathKind::Http, other, &route.shared.options.http).unwrap();
    other.set_up(None);
    route.lock().all[1] = Arc::new(other);
    let address = "mycelium://[400::1]/horus.other".parse().unwrap();
    let client = crate::RpcClient::with_carrier(address, Arc::new(By(route)), crate::ClientOptions::default());
    for expected in [Some(&true.into()), None] {
        // The second time the path that failed is left alone.
        let error = client.call_raw("x", &[0; 0]).await.unwrap_err();
        assert_eq!((error.kind, error.get("sent")), (ErrorKind::QueueFull, expected), "{error:?}");
    }
}
