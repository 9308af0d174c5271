use super::super::HeroExecutor;
use super::*;
use crate::executor::Executor;
use crate::job::Job;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// A server that answers every request with what `answer` makes of it, then closes.
async fn server(answer: impl Fn(&str) -> String + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            loop {
                let mut chunk = [0; 4096];
                let read = stream.read(&mut chunk).await.unwrap();
                request.extend_from_slice(&chunk[..read]);
                if read == 0 || is_complete(&String::from_utf8_lossy(&request)) {
                    break;
                }
            }
            let answer = answer(&String::from_utf8_lossy(&request));
            // The client may have seen enough and be gone.
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    address
}

fn is_complete(request: &str) -> bool {
    let Some((head, body)) = request.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length:").map(str::to_owned));
    length.is_none_or(|length| body.len() >= length.trim().parse().unwrap())
}

fn response(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-type: text/html\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

async fn run(script: &str) -> Result<String, ExecutionError> {
    let executor = HeroExecutor::built_in().unwrap();
    let context = Context::detached(Duration::from_secs(20));
    let job = Job::unsigned("hero", script);
    executor.execute(&job, &context).await.map(|output| output.get().to_owned())
}

#[tokio::test]
async fn the_body_is_json_if_it_parses_whatever_its_type() {
    let address = server(|request| match request.split([' ', '?']).nth(1).unwrap() {
        "/json" => response("200 OK", " {\"n\": 12345678901234567890, \"f\": 1.0}\n"),
        "/empty" => response("204 No Content", ""),
        _ => response("200 OK", "plain {text"),
    })
    .await;
    let get = |path: &str| format!("!!http.get url:'http://{address}{path}?a=b//c'");
    assert_eq!(run(&get("/json")).await.unwrap(), "{\"n\": 12345678901234567890, \"f\": 1.0}");
    assert_eq!(run(&get("/text")).await.unwrap(), "\"plain {text\"");
    assert_eq!(run(&get("/empty")).await.unwrap(), "\"\"");
    assert_eq!(run(&format!("!!http.get http://{address}/text")).await.unwrap(), "\"plain {text\"");
}

#[tokio::test]
async fn method_headers_and_body_arrive() {
    let address = server(|request| response("200 OK", request)).await;
    let script = format!(
        "!!http.post url:http://{address}/x?q=1
    headers: 'X-One: 1, Accept: text/html, application/json'
    body:'
        {{\"say\": \"it's\"}}
        '"
    );
    let echoed: String = serde_json::from_str(&run(&script).await.unwrap()).unwrap();
    let lower = echoed.to_lowercase();
    assert!(echoed.starts_with("POST /x?q=1 HTTP/1.1"), "{echoed}");
    for header in
        ["x-one: 1", "accept: text/html, application/json", "content-type: application/json", "user-agent: horus/"]
    {
        assert!(lower.contains(header), "{header} in {echoed}");
    }
    assert!(echoed.ends_with("\r\n\r\n{\"say\": \"it's\"}"), "{echoed}");
    for (action, method) in [("put", "PUT"), ("patch", "PATCH"), ("delete", "DELETE")] {
        let script = format!("!!http.{action} url:http://{address}/ body:'text' headers:'{{\"X-Two\":\"2\"}}'");
        let echoed = run(&script).await.unwrap();
        assert!(echoed.starts_with(&format!("\"{method} /")) && echoed.contains("x-two: 2"), "{echoed}");
        assert!(echoed.contains("text/plain"), "{echoed}");
    }
}

#[tokio::test]
async fn head_gives_status_and_headers() {
    let address = server(|request| {
        if request.starts_with("HEAD") {
            "HTTP/1.1 200 OK\r\nx-a: 1\r\nx-a: 2\r\ncontent-length: 9\r\n\r\n".into()
        } else {
            String::new()
        }
    })
    .await;
    let output = run(&format!("!!http.head url:http://{address}/")).await.unwrap();
    let output: serde_json::Value = serde_json::from_str(&output).unwrap();
    assert_eq!(output["status"], 200);
    assert_eq!(output["headers"]["x-a"], "1, 2");
}

#[tokio::test]
async fn a_refusal_fails_with_status_and_excerpt() {
    let address = server(|_| response("404 Not Found", &format!("nothing here {}", "x".repeat(100_000)))).await;
    let error = run(&format!("\n!!http.get url:'http://user:pw@{address}/a?token=secret'")).await.unwrap_err();
    assert_eq!(error.code, "HTTP_STATUS");
    assert!(error.message.starts_with("line 2, http.get: GET http://127.0.0.1"), "{error}");
    assert!(error.message.contains("404 Not Found: nothing here") && error.message.len() < 3000, "{error}");
    assert!(!error.message.contains("secret") && !error.message.contains("pw"), "{error}");
}

#[tokio::test]
async fn bodies_are_bounded() {
    let announced = server(|_| format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\nx", usize::MAX >> 1)).await;
    let streamed =
        server(|_| format!("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{}", "x".repeat(limits::OUTPUT_BYTES + 1)))
            .await;
    for address in [announced, streamed] {
        let error = run(&format!("!!http.get url:http://{address}/")).await.unwrap_err();
        assert_eq!(error.code, "OUTPUT_TOO_LARGE", "{error}");
    }
}

#[tokio::test]
async fn redirects_are_followed_up_to_a_bound() {
    let address = server(|request| {
        let n: u32 = request.split(' ').nth(1).unwrap()[1..].parse().unwrap();
        if n == 0 {
            response("200 OK", "there")
        } else {
            format!("HTTP/1.1 302 Found\r\nlocation: /{}\r\ncontent-length: 0\r\n\r\n", n - 1)
        }
    })
    .await;
    assert_eq!(run(&format!("!!http.get url:http://{address}/10")).await.unwrap(), "\"there\"");
    assert_eq!(run(&format!("!!http.get url:http://{address}/11")).await.unwrap_err().code, "HTTP_REDIRECT");
}

#[tokio::test]
async fn headers_and_bodies_go_to_no_other_server() {
    let other = server(|request| response("200 OK", request)).await;
    let address = server(move |request| match request.split(' ').nth(1).unwrap().split('?').next().unwrap() {
        "/near" => "HTTP/1.1 307 See\r\nlocation: /end\r\ncontent-length: 0\r\n\r\n".to_owned(),
        "/far" => format!("HTTP/1.1 307 See\r\nlocation: http://{other}/x?q=1\r\ncontent-length: 0\r\n\r\n"),
        _ => response("200 OK", request),
    })
    .await;
    for script in [
        format!("!!http.get url:http://{address}/far headers:'X-Api-Key: s3cr3t'"),
        format!("!!http.post url:http://{address}/far body:'s3cr3t'"),
    ] {
        let error = run(&script).await.unwrap_err();
        assert_eq!(error.code, "HTTP_REDIRECT", "{error}");
        assert!(error.message.contains(&format!("http://{other}")), "{error}");
        assert!(!error.message.contains("s3cr3t") && !error.message.contains("q=1"), "{error}");
    }
    let near = run(&format!("!!http.get url:http://{address}/near headers:'X-Api-Key: key'")).await.unwrap();
    assert!(near.contains("GET /end") && near.contains("x-api-key: key"), "{near}");
    // What carries nothing of the script may go elsewhere, and does not tell from where.
    let far = run(&format!("!!http.get url:'http://user:pw@{address}/far?token=s3cr3t'")).await.unwrap().to_lowercase();
    assert!(far.contains("get /x?q=1"), "{far}");
    assert!(!["s3cr3t", "referer", "authorization"].iter().any(|told| far.contains(told)), "{far}");
}

#[tokio::test]
async fn a_url_that_is_none_is_not_shown() {
    for url in
        ["api.example.com/?token=s3cr3t", "user:s3cr3t@example.com/", "s3cr3t:x@example.com", "http://u:s3cr3t@h:x/"]
    {
        let error = run(&format!("!!http.get url:'{url}'")).await.unwrap_err();
        assert_eq!(error.code, "INVALID_PARAMETER");
        assert!(error.message.contains("http://") && !error.message.contains("s3cr3t"), "{error}");
    }
}

#[tokio::test]
async fn what_does_not_answer_times_out_or_is_cancelled() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let error = run(&format!("!!http.get url:http://{address}/ timeout:50ms")).await.unwrap_err();
    assert_eq!(error.code, "HTTP_TIMEOUT");

    let executor = HeroExecutor::built_in().unwrap();
    let context = Context::detached(Duration::from_secs(20));
    let job = Job::unsigned("hero", &format!("!!http.get url:http://{address}/"));
    context.cancel.cancel();
    assert_eq!(executor.execute(&job, &context).await.unwrap_err().code, "CANCELLED");

    drop(listener);
    let error = run(&format!("!!http.get url:http://{address}/")).await.unwrap_err();
    assert_eq!(error.code, "HTTP_CONNECT");
    assert!(error.message.contains("refused"), "{error}");
}

#[tokio::test]
async fn parameters_are_checked_with_a_hint() {
    for (script, says) in [
        ("!!http.get", "url:'http://...'"),
        ("!!http.get url:'ftp://x/'", "only http:// and https://"),
        ("!!http.get url:'nonsense'", "is no URL"),
        ("!!http.get url:'http://x/' timeout:soon", "number of seconds"),
        ("!!http.get url:'http://x/' headers:'nonsense'", "Name: value"),
        ("!!http.get url:'http://x/' headers:'a b: 1'", "no header name"),
    ] {
        let error = run(script).await.unwrap_err();
        assert_eq!(error.code, "INVALID_PARAMETER", "{script}");
        assert!(error.message.contains(says), "{error}");
    }
}

#[test]
fn headers_are_read_from_lines_lists_and_json() {
    let read = |text: &str| {
        let headers = parse_headers(text).unwrap();
        headers.iter().map(|(n, v)| format!("{n}={}", v.to_str().unwrap())).collect::<Vec<_>>()
    };
    assert_eq!(read("A: 1\n\nB: x, y"), ["a=1", "b=x, y"]);
    assert_eq!(read("\"A: 1\",\"B: http://x/\""), ["a=1", "b=http://x/"]);
    assert_eq!(read("Date: Mon, 1 Jan 2024 10:00:00 GMT, B: 2"), ["date=Mon, 1 Jan 2024 10:00:00 GMT", "b=2"]);
    assert_eq!(read("{\"A\": \"1, B: 2\"}"), ["a=1, B: 2"]);
    assert!(read("").is_empty());
}

#[test]
fn loopback_and_overlay_need_no_proxy() {
    let near = |url: &str| is_near(&url.parse().unwrap());
    assert!(near("http://localhost:1/") && near("http://127.9.9.9/") && near("http://[::1]/"));
    assert!(near("http://[5c6:1::2]/") && near("http://[400::]/"));
    assert!(!near("http://example.com/") && !near("http://10.0.0.1/") && !near("http://[2001:db8::1]/"));
}
