//! What the client says when something is wrong.

use std::time::Instant;

use tokio::net::TcpListener;

use super::*;

async fn error_at(address: &str, options: ClientOptions) -> RpcError {
    let client = RpcClient::connect(address.parse().unwrap(), options).unwrap();
    client.call::<Echo>(&EchoParams { value: RawValue::NULL.to_owned(), pause_ms: None }).await.map(|_| ()).unwrap_err()
}

/// A server that answers everything with these bytes.
async fn fake(answer: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                while socket.read(&mut buffer).await.is_ok_and(|read| read > 0) {
                    let _ = socket.write_all(answer.as_bytes()).await;
                }
            });
        }
    });
    address
}

fn http(body: &str) -> &'static str {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).leak()
}

#[tokio::test]
async fn nobody_there() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let error = error_at(&format!("http://{address}"), ClientOptions::default()).await;
    assert_eq!(error.kind, ErrorKind::PeerUnreachable);
    assert!(error.message.contains(&address.to_string()), "{error}");
    assert!(error.message.contains("nothing listens there"), "{error}");
    let error = error_at("http://no-such-host.invalid:1", ClientOptions::default()).await;
    assert_eq!(error.kind, ErrorKind::PeerUnreachable);
}

#[tokio::test]
async fn no_answer_in_time() {
    let world = World::start().await;
    let begun = Instant::now();
    let client = world.client(None);
    let params = PauseParams { pause_ms: 5000 };
    let error = client.call_with_timeout::<Wait>(&params, Duration::from_millis(200)).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::TimedOut);
    assert!(begun.elapsed() < Duration::from_secs(2));
    // Who accepts and says nothing.
    let address = fake("").await;
    let timeout = Duration::from_millis(200);
    let options = ClientOptions { timeout, ..ClientOptions::default() };
    assert_eq!(error_at(&format!("http://{address}"), options).await.kind, ErrorKind::TimedOut);
}

#[tokio::test]
async fn answers_that_are_none() {
    for (answer, expected) in [
        (http("<html>hello</html>"), "not JSON-RPC"),
        (http(""), "not JSON-RPC"),
        (http("{"), "not a JSON-RPC 2.0 response"),
        (http("{}"), "neither result nor error"),
        (http(r#"{"jsonrpc":"2.0","id":0,"result":{"wrong":1}}"#), "result of echo is not as expected"),
        ("HTTP/1.1 204 No Content\r\n\r\n", "empty"),
    ] {
        let address = fake(answer).await;
        let error = error_at(&format!("http://{address}"), ClientOptions::default()).await;
        assert_eq!(error.kind, ErrorKind::InvalidReply, "{error}");
        assert!(error.message.contains(expected), "{error}");
    }
    let address = fake("HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n").await;
    let error = error_at(&format!("http://{address}"), ClientOptions::default()).await;
    assert!(error.message.contains("302"), "redirects are not followed: {error}");
}

#[tokio::test]
async fn the_peer_is_learned_once_and_proven() {
    let world = World::start().await;
    let client = world.client(Some(&world.operator));
    assert_eq!(client.peer().await.unwrap(), world.me());
    assert_eq!(client.node().await.unwrap().announcement.roles, [Role::Supervisor]);
    let liar = async |info: NodeInfo| {
        let text = format!(r#"{{"jsonrpc":"2.0","id":0,"result":{}}}"#, serde_json::to_string(&info).unwrap());
        let address = fake(http(&text)).await;
        let options = ClientOptions::signed(world.operator.clone(), None);
        let client = RpcClient::connect(format!("http://{address}").parse().unwrap(), options).unwrap();
        client.call::<Count>(&PauseParams::default()).await.unwrap_err()
    };
    let somebody = Identity::generate();
    let wrong_peer = NodeInfo { peer_id: somebody.peer_id(), ..announcement(&world.owner) };
    assert_eq!(liar(wrong_peer).await.kind, ErrorKind::BadSignature);
    let mut expired = announcement(&somebody);
    let body: NodeAnnouncement = expired.envelope.verify(horus_keys::PayloadType::Node).unwrap().parse().unwrap();
    let body = NodeAnnouncement { expires_at: Timestamp::now() - Duration::from_secs(1), ..body };
    expired.envelope = body.sign(&somebody);
    assert_eq!(liar(expired).await.kind, ErrorKind::Expired);
}

#[tokio::test]
async fn a_pinned_key_must_be_the_one_that_answers() {
    let world = World::start().await;
    let right = RpcClient::connect(world.url().pinned(world.me()), ClientOptions::default()).unwrap();
    right.call::<Note>(&NoParams {}).await.unwrap();
    let wrong_pin = Identity::generate().peer_id();
    for options in [ClientOptions::default(), ClientOptions::signed(world.operator.clone(), None)] {
        let wrong = RpcClient::connect(world.url().pinned(wrong_pin), options).unwrap();
        let error = wrong.call::<Note>(&NoParams {}).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::UntrustedSigner);
        let both = [wrong_pin, world.me()].map(|peer| peer.to_string());
        assert!(both.iter().all(|peer| error.message.contains(peer)), "{error}");
        assert_eq!(wrong.call_raw("count", &NoParams {}).await.unwrap_err().kind, ErrorKind::UntrustedSigner);
    }
    assert_eq!(world.counted(), 0);
}

#[tokio::test]
async fn a_node_that_was_set_up_anew_is_asked_again() {
    let first = World::start().await;
    let client = first.client(Some(&first.operator));
    client.call::<Count>(&PauseParams::default()).await.unwrap();
    let World { address, operator, stop, served, .. } = first;
    stop.cancel();
    served.await.unwrap();
    // Another node with another key on the same port, that does not know the operator.
    let options = ServerOptions { listen: vec![address], ..ServerOptions::default() };
    let second = World::with(Setup { options, ..Setup::default() }).await;
    let error = client.call::<Count>(&PauseParams::default()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::UntrustedSigner, "{error}");
    assert!(error.message.contains(&operator.peer_id().to_string()));
    assert_eq!(client.peer().await.unwrap(), second.me());
}

#[tokio::test]
async fn the_overlay_needs_a_daemon() {
    let peer = Identity::generate().peer_id();
    for address in [format!("mycelium://{peer}"), "topic:horus.supervisor".into()] {
        let error = RpcClient::connect(address.parse().unwrap(), ClientOptions::default()).unwrap_err();
        assert_eq!(error.kind, ErrorKind::NoService);
        assert!(error.message.contains("no mycelium daemon configured"), "{error}");
    }
}

/// The seam for message carriers: requests go to a dispatcher in process.
struct InProcess(Dispatcher);

impl Carrier for InProcess {
    fn send(&self, request: Outbound) -> futures::future::BoxFuture<'_, Result<Option<bytes::Bytes>, RpcError>> {
        let Outbound { body, authorization, .. } = request;
        Box::pin(async move {
            let inbound = Inbound { body, authorization, origin: Origin::Local };
            Ok(self.0.dispatch(inbound).await.body)
        })
    }
}

#[tokio::test]
async fn another_carrier_carries_the_same() {
    let world = World::start().await;
    let address: Address = format!("mycelium://{}", world.me()).parse().unwrap();
    let carrier = Arc::new(InProcess(world.dispatcher.clone()));
    let options = ClientOptions::signed(world.operator.clone(), None);
    let client = RpcClient::with_carrier(address, carrier, options);
    assert_eq!(client.call::<Count>(&PauseParams::default()).await.unwrap(), 1);
    client.notify(&Call::new::<Note>(&NoParams {}).unwrap()).await.unwrap();
    assert_eq!(client.call_raw("nope", &NoParams {}).await.unwrap_err().kind, ErrorKind::MethodNotFound);
}

#[tokio::test]
async fn a_server_of_another_kind_can_be_called_unsigned() {
    let address = fake(http(r#"{"jsonrpc":"2.0","id":0,"error":{"code":-32601,"message":"no"}}"#)).await;
    let options = ClientOptions::signed(Identity::generate(), None);
    let client = RpcClient::connect(format!("http://{address}").parse().unwrap(), options).unwrap();
    let error = client.call_raw("anything", &NoParams {}).await.unwrap_err();
    assert_eq!((error.kind, error.message.as_str()), (ErrorKind::MethodNotFound, "no"));
}

#[tokio::test]
async fn a_connection_that_idled_too_long_costs_nobody_a_call() {
    let header_timeout = Duration::from_millis(100);
    let options = ServerOptions { header_timeout, ..ServerOptions::default() };
    let world = World::with(Setup { options, ..Setup::default() }).await;
    let client = world.client(None);
    for pause in [0, 95, 100, 105, 99, 101, 300] {
        tokio::time::sleep(Duration::from_millis(pause)).await;
        client.call::<Note>(&NoParams {}).await.unwrap();
    }
}

/// A server that closes the first connection when the request is there, and answers the second with this.
async fn broken(answer: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        for answer in ["", answer] {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut buffer = [0; 4096];
            assert!(socket.read(&mut buffer).await.unwrap() > 0);
            let _ = socket.write_all(answer.as_bytes()).await;
        }
    });
    address
}

const FULL: &str =
    r#"{"jsonrpc":"2.0","id":0,"error":{"code":-32026,"message":"full","data":{"kind":"QUEUE_FULL","sent":false}}}"#;

#[tokio::test]
async fn a_refusal_says_nothing_of_an_earlier_sending_of_the_same_call() {
    let error = error_at(&format!("http://{}", broken(http(FULL)).await), ClientOptions::default()).await;
    assert_eq!(error.kind, ErrorKind::QueueFull);
    assert_eq!(error.get("sent"), Some(&true.into()), "the first one may be there");
    let error = error_at(&format!("http://{}", fake(http(FULL)).await), ClientOptions::default()).await;
    assert_eq!(error.kind, ErrorKind::QueueFull);
    assert_eq!(error.get("sent"), None, "only this side knows what it has sent");
}

#[tokio::test]
async fn a_call_that_waits_for_the_key_of_its_node_was_not_sent() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = RpcClient::connect(
        format!("http://{}", listener.local_addr().unwrap()).parse().unwrap(),
        ClientOptions::signed(Identity::generate(), None),
    )
    .unwrap();
    let timeout = Duration::from_millis(200);
    let error = client.call_with_timeout::<Count>(&PauseParams::default(), timeout).await.unwrap_err();
    assert_eq!((error.kind, error.get("sent")), (ErrorKind::TimedOut, Some(&false.into())));
}

/// Takes requests and never answers.
struct Silent(Arc<tokio::sync::Notify>);

impl Carrier for Silent {
    fn send(&self, _: Outbound) -> futures::future::BoxFuture<'_, Result<Option<bytes::Bytes>, RpcError>> {
        self.0.notify_one();
        Box::pin(std::future::pending())
    }
}

#[tokio::test(start_paused = true)]
async fn a_short_call_is_not_held_up_by_a_long_one_that_asks_who_the_node_is() {
    let asked = Arc::new(tokio::sync::Notify::new());
    let options = ClientOptions { identity: Some(Identity::generate()), ..ClientOptions::default() };
    let address = "http://192.0.2.1:1".parse().unwrap();
    let client = RpcClient::with_carrier(address, Arc::new(Silent(Arc::clone(&asked))), options);
    let long = client.clone();
    let long = async move { long.call_with_timeout::<Count>(&PauseParams::default(), Duration::from_secs(70)).await };
    let long = tokio::spawn(long);
    asked.notified().await;
    let params = PauseParams::default();
    let short = client.call_with_timeout::<Count>(&params, Duration::from_millis(300));
    let error = tokio::time::timeout(Duration::from_secs(1), short).await.expect("it has its own time").unwrap_err();
    assert_eq!((error.kind, error.was_sent()), (ErrorKind::TimedOut, Some(false)), "{error}");
    long.abort();
}
