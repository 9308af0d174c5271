//! Logs: as they come, in order, and bounded.

use horus_runners::{executor::LogStream, job::limits};

use crate::harness::*;

#[tokio::test]
async fn lines_come_in_order_and_pages_go_on_where_they_ended() {
    let (redis, world) = (Redis::start().await, World::new());
    let queue = redis.queue().await;
    let worker = world.work(&queue, Fake::default(), world.options("w"));
    let id = world.push_one(&queue, spec("log 2500")).await;
    ended(&queue, &id).await;
    let expected: Vec<String> = (0..2500).map(|n| format!("line {n}")).collect();
    assert_eq!(log(&queue, &id).await, expected, "all lines are there when the job has ended");
    let (mut found, mut cursor) = (Vec::new(), None);
    loop {
        let page = queue.logs(&id, cursor.as_deref(), 300).await.unwrap().unwrap();
        if page.lines.is_empty() {
            assert_eq!(Some(page.cursor), cursor, "it can be asked again");
            break;
        }
        found.extend(page.lines.into_iter().map(|line| line.text));
        cursor = Some(page.cursor);
    }
    assert_eq!(found, expected);
    assert!(queue.logs(&"fake-unknown".parse().unwrap(), None, 10).await.unwrap().is_none());
    worker.stop().await;
}

#[tokio::test]
async fn lines_are_there_while_the_job_runs() {
    let (redis, world) = (Redis::start().await, World::new());
    let queue = redis.queue().await;
    let worker = world.work(&queue, Fake::default(), world.options("w"));
    let id = world.push_one(&queue, spec("flood 5001")).await;
    eventually("a first line", async || (!log(&queue, &id).await.is_empty()).then_some(())).await;
    assert!(queue.result(&id).await.unwrap().unwrap().output.is_none(), "it runs still");
    ended(&queue, &id).await;
    worker.stop().await;
}

#[tokio::test]
async fn a_log_keeps_its_last_lines_and_says_what_is_gone() {
    let (redis, world) = (Redis::start().await, World::new());
    let queue = redis.queue().await;
    let worker = world.work(&queue, Fake::default(), world.options("w"));
    let total = 3 * limits::LOG_LINES;
    let id = world.push_one(&queue, spec(&format!("flood {total}"))).await;
    ended(&queue, &id).await;
    let (mut lines, mut cursor) = (Vec::new(), None);
    loop {
        let page = queue.logs(&id, cursor.as_deref(), 5000).await.unwrap().unwrap();
        if page.lines.is_empty() {
            break;
        }
        lines.extend(page.lines);
        cursor = Some(page.cursor);
    }
    let first = &lines[0];
    assert_eq!(first.stream, LogStream::System);
    let gone = total - limits::LOG_LINES;
    assert!(first.text.starts_with(&format!("{gone} older lines were dropped")), "{}", first.text);
    assert_eq!(lines.len(), limits::LOG_LINES + 1);
    assert_eq!(lines[1].text, format!("line {gone}"));
    assert_eq!(lines.last().unwrap().text, format!("line {}", total - 1));
    worker.stop().await;
    healthy(&queue).await;
}
