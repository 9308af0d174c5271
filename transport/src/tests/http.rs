//! What HTTP adds.

use std::path::Path;

use super::*;

#[tokio::test]
async fn only_what_is_served_is_served() {
    let world = World::start().await;
    let get = async |line: &str| {
        world.exchange(format!("{line} HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n").as_bytes()).await
    };
    assert_eq!(get("GET /healthz").await, (200, r#"{"status":"ok"}"#.into()));
    assert_eq!(get("HEAD /healthz").await, (200, String::new()));
    assert_eq!(get("GET /").await.0, 405);
    assert_eq!(get("DELETE /healthz").await.0, 405);
    assert_eq!(get("GET /nothing").await.0, 404);
    let (status, text) =
        world.exchange(b"POST / HTTP/1.1\r\nhost: h\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}").await;
    assert_eq!(status, 415, "a browser could send that across origins");
    assert!(text.contains("application/json"), "{text}");
    assert_eq!(world.exchange(b"nonsense\r\n\r\n").await.0, 400);
}

#[tokio::test]
async fn connections_are_kept() {
    let world = World::start().await;
    let mut socket = TcpStream::connect(world.address).await.unwrap();
    let body = request("1", "note", "{}");
    let one = format!(
        "POST / HTTP/1.1\r\nhost: h\r\ncontent-type: application/json; charset=utf-8\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    // Three requests in one packet, and the last asks to close.
    let last = one.replacen("host: h", "host: h\r\nconnection: close", 1);
    socket.write_all(format!("{one}{one}{last}").as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 3, "{answer}");
    assert_eq!(world.state.noted.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn health_is_the_nodes_own_word() {
    let health: Health = Arc::new(|| Box::pin(async { (false, serde_json::json!({"redis": "down"})) }));
    let options = ServerOptions { health: Some(health), ..ServerOptions::default() };
    let world = World::with(Setup { options, ..Setup::default() }).await;
    let answer = world.exchange(b"GET /healthz HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n").await;
    assert_eq!(answer, (503, r#"{"redis":"down"}"#.into()));
}

#[tokio::test]
async fn several_addresses_share_a_port() {
    let world = World::start().await;
    let listen = ["127.0.0.1:0", "[::1]:0", "127.0.0.2:0"].map(|address| address.parse().unwrap());
    let options = ServerOptions { listen: listen.to_vec(), ..ServerOptions::default() };
    let server = RpcServer::bind(world.dispatcher.clone(), options).await.unwrap();
    let addresses = server.local_addrs().to_vec();
    assert_eq!(addresses.len(), 3);
    assert!(addresses.iter().all(|address| address.port() == addresses[0].port()), "{addresses:?}");
    tokio::spawn(server.serve(world.stop.clone()));
    for address in addresses {
        let address = format!("http://{address}").parse().unwrap();
        let client = RpcClient::connect(address, ClientOptions::default()).unwrap();
        client.call::<Note>(&NoParams {}).await.unwrap();
    }
    let taken = ServerOptions { listen: vec![world.address], ..ServerOptions::default() };
    let error = RpcServer::bind(world.dispatcher.clone(), taken).await.unwrap_err().to_string();
    assert!(error.contains("another process has the port"), "{error}");
    let none = RpcServer::bind(world.dispatcher.clone(), ServerOptions::default()).await;
    assert!(matches!(none, Err(ServerError::NoAddress)));
}

#[tokio::test]
async fn tls_with_an_authority_of_ones_own() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/testdata");
    let tls = TlsFiles { certificate: data.join("server.pem"), key: data.join("server.key") };
    let options = ServerOptions { tls: Some(tls.clone()), ..ServerOptions::default() };
    let world = World::with(Setup { options, ..Setup::default() }).await;
    let address: Address = format!("https://localhost:{}", world.address.port()).parse().unwrap();
    let connect = |ca| {
        let identity = Some(world.operator.clone());
        let options = ClientOptions { identity, ca, ..ClientOptions::default() };
        RpcClient::connect(address.clone(), options)
    };
    let client = connect(Some(data.join("ca.pem"))).unwrap();
    assert_eq!(client.call::<Count>(&PauseParams::default()).await.unwrap(), 1);
    let error = connect(None).unwrap().call::<Note>(&NoParams {}).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::PeerUnreachable);
    assert!(error.message.contains("--tls-ca"), "{error}");
    let error = connect(Some(data.join("server.key"))).unwrap_err();
    assert!(error.message.contains("no PEM certificate"), "{error}");
    // Plain HTTP on the TLS port says nothing, and harms nothing.
    assert_eq!(world.post(request("1", "note", "{}")).await.0, 0);
    let swapped = TlsFiles { certificate: tls.key, key: tls.certificate };
    let options = ServerOptions { tls: Some(swapped), ..ServerOptions::default() };
    let error = RpcServer::bind(world.dispatcher.clone(), options).await.unwrap_err().to_string();
    assert!(error.contains("server.key") && error.contains("certificate"), "{error}");
}
