//! Workflows that run, and submissions that are refused.

use super::*;
use crate::api::coordinator::{
    CancelWorkflow, GetWorkflowLogs, ListWorkflows, ListWorkflowsParams, ValidateWorkflow, ValidateWorkflowParams,
    WorkflowIdParams, WorkflowLogParams,
};
use crate::workflow::WorkflowStatus;
use std::sync::atomic::Ordering;

#[tokio::test(flavor = "multi_thread")]
async fn a_diamond_runs_with_its_middle_at_the_same_time_and_outputs_passed_on() {
    let world = World::new(1).await;
    let node = world.start().await;
    let text = workflow(&[
        "start noop text go",
        "a noop slow 200 <- start",
        "b noop slow 200 <- start",
        "c sal slow 200 <- start",
        "aggregate noop echo <- a b c",
        "finish noop echo <- aggregate start",
    ]);
    world.submit(&node, "diamond", &text).await;
    let view = world.end(&node, "diamond").await;
    assert_eq!(view.status, WorkflowStatus::Succeeded, "{view:?}");
    assert_eq!(
        output(&view, "finish"),
        serde_json::json!({"aggregate": {"a": "done", "b": "done", "c": "done"}, "start": "go"})
    );
    assert_eq!(view.counts[&StepStatus::Succeeded], 6);
    assert_eq!(world.supervisors[0].fake.most_at_once.load(Ordering::SeqCst), 3);
    let begun = world.supervisors[0].fake.begun.lock().unwrap().clone();
    assert!(begun.len() == 6 && begun.values().all(|n| *n == 1));
    assert!(world.supervisors[0].fake.submitters().iter().all(|peer| *peer == world.user.peer_id()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wide_workflow_is_shared_between_supervisors_and_costs_few_calls() {
    let world = World::new(2).await;
    let node = world.start().await;
    world.ready(&node).await;
    let mut lines = vec!["start noop text go".to_owned()];
    lines.extend((0..600).map(|n| format!("s{n} noop text x <- start")));
    let all = (0..600).map(|n| format!("s{n}")).collect::<Vec<_>>().join(" ");
    lines.push(format!("end noop text fine <- {all}"));
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    world.submit(&node, "wide", &workflow(&lines)).await;
    let view = world.end(&node, "wide").await;
    assert_eq!((view.status, output(&view, "end")), (WorkflowStatus::Succeeded, "fine".into()));
    for serving in &world.supervisors {
        assert!(serving.fake.job_count() > 200, "{}", serving.fake.job_count());
        assert!(serving.fake.calls.load(Ordering::SeqCst) < 120, "{:?}", serving.fake.calls);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_much_for_one_call_goes_in_several() {
    let world = World::new(2).await;
    let node = world.start().await;
    world.ready(&node).await;
    // A fan-in that needs some 2 MB of receipts, where a request may have 1 MiB.
    let mut lines: Vec<String> = (0..3000).map(|n| format!("s{n} noop text x")).collect();
    let all = (0..3000).map(|n| format!("s{n}")).collect::<Vec<_>>().join(" ");
    lines.push(format!("end noop text fine <- {all}"));
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    world.submit(&node, "fan-in", &workflow(&lines)).await;
    let view = world.end(&node, "fan-in").await;
    assert_eq!((view.status, output(&view, "end")), (WorkflowStatus::Succeeded, "fine".into()), "{:?}", view.error);
    let ahead: usize = world.supervisors.iter().map(|serving| serving.fake.ahead.load(Ordering::SeqCst)).sum();
    assert!((4..40).contains(&ahead), "{ahead}");

    // Large inputs: two steps fit into a batch, but not into a request; and the workflow itself goes alone.
    let large = format!("large noop text {}", "x".repeat(400 << 10));
    let mut lines = vec![large];
    lines.extend((0..6).map(|n| format!("s{n} noop text small <- large")));
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    world.submit(&node, "large", &workflow(&lines)).await;
    let view = world.end(&node, "large").await;
    assert_eq!(view.status, WorkflowStatus::Succeeded, "{:?}", view.error);
    for serving in &world.supervisors {
        assert!(serving.fake.begun.lock().unwrap().values().all(|n| *n == 1), "nothing ran twice");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_are_retried_tolerated_or_end_what_depends_on_them() {
    let world = World::new(1).await;
    let node = world.start().await;
    let text = workflow(&[
        "again noop flaky 3 | , retry: {max_attempts: 3, initial_interval: 10ms}",
        "never noop fail NO | , retry: {max_attempts: 5, non_retryable: [NO]}",
        "may noop fail SOFT | , continue_on_error: true",
        "after_may noop echo <- may again",
        "after_never noop echo <- never",
        "further noop echo <- after_never again",
    ]);
    world.submit(&node, "trouble", &text).await;
    let view = world.end(&node, "trouble").await;
    assert_eq!(view.status, WorkflowStatus::Failed);
    let error = view.error.clone().unwrap();
    assert!(error.code == "NO" && error.message.contains("`never`"), "{error:?}");
    assert_eq!((status_of(&view, "again"), view.steps["again"].attempt), (StepStatus::Succeeded, 3));
    assert_eq!((status_of(&view, "never"), view.steps["never"].attempt), (StepStatus::Failed, 1));
    assert_eq!(status_of(&view, "may"), StepStatus::Failed);
    assert_eq!(output(&view, "after_may"), serde_json::json!({"again": 3}));
    assert_eq!(status_of(&view, "after_never"), StepStatus::Skipped);
    assert_eq!(status_of(&view, "further"), StepStatus::Skipped);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_submitted_twice_runs_once_and_another_under_its_id_is_refused() {
    let world = World::new(1).await;
    let node = world.start().await;
    let text = workflow(&["a noop text x"]);
    let envelope = world.submit(&node, "twice", &text).await;
    world.end(&node, "twice").await;
    let again = world.send(&node, &envelope).await.unwrap();
    assert!(!again.created && again.status == WorkflowStatus::Succeeded);
    let other = world.sign(&World::submission("twice", &text));
    assert_eq!(kind(world.send(&node, &other).await), ErrorKind::IdConflict);
    // The same payload, but another submitter would be responsible for it.
    let twin = Envelope::sign(&key(2), PayloadType::Workflow, envelope.payload().to_vec());
    assert_eq!(kind(world.send(&node, &twin).await), ErrorKind::IdConflict);
    assert_eq!(world.supervisors[0].fake.job_count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_not_be_submitted_leaves_nothing_behind() {
    let world = World::new(1).await;
    let node = world.start().await;
    let good = || World::submission("bad", &workflow(&["a noop text x"]));
    let past = Timestamp::now().saturating_sub(Duration::from_secs(1));
    let far = Timestamp::now().saturating_add(Duration::from_secs(8 * 24 * 3600));

    let mut submission = good();
    submission.submit_by = past;
    assert_eq!(kind(world.send(&node, &world.sign(&submission)).await), ErrorKind::Expired);
    let mut submission = good();
    submission.run_until = far;
    assert!(world.send(&node, &world.sign(&submission)).await.is_err());
    let mut submission = good();
    submission.coordinators = vec![key(11).peer_id()];
    assert_eq!(kind(world.send(&node, &world.sign(&submission)).await), ErrorKind::NotAllowed);
    let by = |who: u8| Envelope::sign_json(&key(who), PayloadType::Workflow, &good());
    assert_eq!(kind(world.send(&node, &by(77)).await), ErrorKind::UntrustedSigner);
    assert_eq!(kind(world.send(&node, &by(3)).await), ErrorKind::NotAllowed);

    let text = "workflow:
  name: x
  steps:
    - {id: a, runner: lua, payload: x, depends_on: [b]}
    - {id: b, runner: noop, payload: x, depends_on: [a]}
";
    let error = world.send(&node, &world.sign(&World::submission("bad", text))).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::InvalidWorkflow);
    let errors = error.get("errors").unwrap().as_array().unwrap().clone();
    assert_eq!(errors.len(), 2, "{errors:?}");
    assert!(errors.iter().all(|problem| problem["line"] == 4), "{errors:?}");
    let unknown_key = text.replace("depends_on: [a]", "dependson: [a]");
    let error = world.send(&node, &world.sign(&World::submission("bad", &unknown_key))).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::InvalidWorkflow);
    let errors = error.get("errors").unwrap().to_string();
    assert!(errors.contains("dependson"), "{errors}");

    let client = world.client(&node, &world.user);
    let listed = client.call::<ListWorkflows>(&ListWorkflowsParams::default()).await.unwrap();
    assert!(listed.workflows.is_empty(), "{listed:?}");
    assert_eq!(world.supervisors[0].fake.job_count(), 0);
    let params = ValidateWorkflowParams { definition: text.into(), inputs: None };
    let validation = client.call::<ValidateWorkflow>(&params).await.unwrap();
    assert!(!validation.valid && validation.errors.len() == 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_workflow_stops_its_running_steps_and_starts_no_more() {
    let world = World::new(1).await;
    let node = world.start().await;
    let text = workflow(&["a noop hold", "b noop text x", "c noop echo <- a"]);
    world.submit(&node, "stop", &text).await;
    world.until(&node, "stop", |view| status_of(view, "b") == StepStatus::Succeeded).await;
    let params = WorkflowIdParams { workflow_id: "stop".parse().unwrap() };
    let stranger = world.client(&node, &key(2)).call::<CancelWorkflow>(&params).await;
    assert_eq!(kind(stranger), ErrorKind::WorkflowNotFound);
    assert!(world.client(&node, &key(3)).call::<CancelWorkflow>(&params).await.is_err(), "an observer only looks");
    world.client(&node, &key(4)).call::<CancelWorkflow>(&params).await.unwrap();
    let view = world.end(&node, "stop").await;
    assert_eq!(view.status, WorkflowStatus::Cancelled);
    assert_eq!((status_of(&view, "a"), status_of(&view, "c")), (StepStatus::Cancelled, StepStatus::Cancelled));
    assert_eq!(status_of(&view, "b"), StepStatus::Succeeded);
    let again = world.client(&node, &world.user).call::<CancelWorkflow>(&params).await.unwrap();
    assert_eq!(again.status, WorkflowStatus::Cancelled);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_submitter_sees_its_own_and_an_observer_all() {
    let world = World::new(1).await;
    let node = world.start().await;
    for n in 0..5 {
        world.submit(&node, &format!("w{n}"), &workflow(&["a noop text x"])).await;
        world.end(&node, &format!("w{n}")).await;
    }
    let list = async |who: u8, cursor: Option<String>, limit: u32| {
        let params = ListWorkflowsParams { cursor, limit: Some(limit), ..ListWorkflowsParams::default() };
        world.client(&node, &key(who)).call::<ListWorkflows>(&params).await.unwrap()
    };
    assert!(list(2, None, 10).await.workflows.is_empty());
    assert_eq!(list(3, None, 10).await.workflows.len(), 5);
    let mut ids = Vec::new();
    let mut cursor = None;
    loop {
        let page = list(1, cursor, 2).await;
        ids.extend(page.workflows.iter().map(|workflow| workflow.workflow_id.to_string()));
        cursor = page.cursor;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(ids, ["w4", "w3", "w2", "w1", "w0"], "newest first, each once");
    let params = WorkflowStatusParams { workflow_id: "w1".parse().unwrap(), steps: None };
    let foreign = world.client(&node, &key(2)).call::<GetWorkflowStatus>(&params).await;
    assert_eq!(kind(foreign), ErrorKind::WorkflowNotFound);
    assert_eq!(world.client(&node, &key(3)).call::<GetWorkflowStatus>(&params).await.unwrap().name, "test");
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_of_all_steps_are_read_to_their_end_each_line_once() {
    let world = World::new(2).await;
    let node = world.start().await;
    let lines: Vec<String> = (0..30).map(|n| format!("s{n} noop text x")).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    world.submit(&node, "logs", &workflow(&lines)).await;
    world.end(&node, "logs").await;
    let client = world.client(&node, &world.user);
    let read = async |step: Option<&str>, limit: u32| {
        let (mut all, mut cursor) = (Vec::new(), None);
        loop {
            let params = WorkflowLogParams {
                workflow_id: "logs".parse().unwrap(),
                step: step.map(|step| step.parse().unwrap()),
                cursor,
                limit: Some(limit),
            };
            let page = client.call::<GetWorkflowLogs>(&params).await.unwrap();
            assert!(page.missing.is_empty() && page.lines.len() <= limit as usize);
            if page.lines.is_empty() {
                return all;
            }
            all.extend(page.lines.into_iter().map(|line| (line.step.to_string(), line.text)));
            cursor = Some(page.cursor);
        }
    };
    for limit in [3, 7, 200] {
        let mut all = read(None, limit).await;
        assert_eq!(all.len(), 150, "limit {limit}");
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 150, "limit {limit}");
    }
    assert_eq!(read(Some("s7"), 2).await.len(), 5);
}
