//! The registry of runners.

use std::time::Duration;

use horus_node::api::supervisor::*;
use horus_transport::ErrorKind;

use crate::harness::*;

fn named(name: &str) -> RunnerParams {
    RunnerParams { name: Some(name.to_owned()), runner: None }
}

#[tokio::test]
async fn a_runner_is_known_by_its_heartbeat() {
    let place = Place::new().await;
    let worker = place.work("fake").await;
    let listed = place.call::<ListRunners>(&place.alice, ListRunnersParams::default()).await.unwrap();
    assert_eq!(listed.runners.len(), 1);
    let runner = &listed.runners[0];
    assert_eq!((runner.name.as_str(), runner.runner.as_ref()), ("fake-1", "fake"));
    assert_eq!((runner.state, runner.peer_id), (RunnerState::Alive, Some(place.runner.peer_id())));
    assert_eq!((runner.running, runner.concurrency), (0, 4));
    let other = ListRunnersParams { runner: Some("other".parse().unwrap()) };
    assert!(place.call::<ListRunners>(&place.alice, other).await.unwrap().runners.is_empty());

    let by_kind = RunnerParams { name: None, runner: Some("fake".parse().unwrap()) };
    for params in [named("fake-1"), by_kind, named(runner.worker.as_ref().unwrap())] {
        assert_eq!(place.call::<GetRunner>(&place.alice, params).await.unwrap().name, "fake-1");
    }
    let pong = place.call::<PingRunner>(&place.alice, named("fake-1")).await.unwrap();
    assert!(pong.answered && pong.latency_ms.is_some(), "{pong:?}");
    is(&place.refused::<RemoveRunner>(&place.operator, named("fake-1")).await, ErrorKind::NotAllowed);

    let unknown = place.refused::<GetRunner>(&place.alice, named("fake-2")).await;
    is(&unknown, ErrorKind::UnknownRunner);
    assert!(unknown.message.contains("fake-1 (fake)"), "{unknown}");
    is(&place.refused::<GetRunner>(&place.alice, RunnerParams::default()).await, ErrorKind::InvalidParams);

    drop(worker);
    eventually("it is gone", async || {
        let found = place.call::<ListRunners>(&place.alice, ListRunnersParams::default()).await.unwrap().runners;
        found.iter().all(|runner| runner.state == RunnerState::Gone).then_some(())
    })
    .await;
    // Jobs of its kind are accepted all the same: it may come back.
    place.submit(&place.alice, "x").await;
}

#[tokio::test]
async fn a_kind_can_be_announced_before_its_runner_starts() {
    let place = Place::new().await;
    let refused = place.create(&place.sign(&place.alice, vec![spec("x")])).await.unwrap_err();
    is(&refused, ErrorKind::UnknownRunner);
    assert!(refused.message.contains("horus runner"), "{refused}");

    let params = RegisterRunnerParams { runner: "fake".parse().unwrap(), name: Some("soon".into()) };
    is(&place.refused::<RegisterRunner>(&place.alice, params.clone()).await, ErrorKind::NotAllowed);
    let bad = RegisterRunnerParams { name: Some("a b".into()), ..params.clone() };
    is(&place.refused::<RegisterRunner>(&place.operator, bad).await, ErrorKind::InvalidParams);
    let runner = place.call::<RegisterRunner>(&place.operator, params).await.unwrap();
    assert_eq!((runner.name.as_str(), runner.state, runner.last_seen), ("soon", RunnerState::Gone, None));
    place.submit(&place.alice, "x").await;
    let pong = place.call::<PingRunner>(&place.alice, named("soon")).await.unwrap();
    assert!(!pong.answered);

    let removed = place.call::<RemoveRunner>(&place.operator, named("soon")).await.unwrap();
    assert!(removed.removed);
    is(&place.refused::<GetRunner>(&place.alice, named("soon")).await, ErrorKind::UnknownRunner);
    // The last runner of a kind takes it along; one that comes brings it back, and finds what had been accepted.
    let late = place.sign(&place.alice, vec![spec("late")]);
    is(&place.create(&late).await.unwrap_err(), ErrorKind::UnknownRunner);
    let _worker = place.work("fake").await;
    eventually("jobs are accepted again", async || place.create(&late).await.ok().map(drop)).await;
}

#[tokio::test]
async fn jobs_of_a_runner_that_died_are_not_forgotten() {
    let place = Place::new().await;
    place.announce("fake").await;
    let mut short = spec("x");
    short.run_until = Some(later(1));
    let mut delayed = spec("later");
    delayed.not_before = Some(later(1));
    let created = place.create(&place.sign(&place.alice, vec![short.clone(), delayed.clone()])).await.unwrap();
    assert_eq!(created.jobs[1].status, horus_runners::job::JobStatus::Delayed);
    // Nobody works: what time brings is brought by the supervisor.
    let expired = place.ended(&place.alice, &short.job_id()).await;
    assert_eq!(expired.status, horus_runners::job::JobStatus::Expired);
    eventually("it is due", async || {
        let id = JobIdParams { job_id: delayed.job_id() };
        let job = place.call::<GetJobStatus>(&place.alice, id).await.unwrap();
        (job.status == horus_runners::job::JobStatus::Queued).then_some(())
    })
    .await;
    let began = std::time::Instant::now();
    let _worker = place.work("fake").await;
    assert!(place.ended(&place.alice, &delayed.job_id()).await.output.is_some());
    assert!(began.elapsed() < Duration::from_secs(5));
}
