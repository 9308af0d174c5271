//! A workflow that is cancelled while its supervisor stands still, with a step in its queue.

use std::{fs, time::Duration};

use horus_tests::{Calls, Hands, TestRedis, Valid, free_port, sign_workflow};
use nix::sys::signal::Signal;

const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn a_step_that_waits_at_a_supervisor_that_stands_still_does_not_run_after_its_workflow_was_cancelled() {
    let hands = Hands::new();
    // All keys before the first role: a policy that changes is read again within seconds only.
    hands.key("supervisor", "supervisor", "*");
    hands.key("sal", "runner", "sal");
    let coordinator = hands.key("coordinator", "coordinator", "*");
    let (at_work, own, me) = (TestRedis::start(), TestRedis::start(), hands.identity("me"));
    let (port, url) = (free_port().to_string(), at_work.url());
    let supervisor = hands.role("supervisor", &["supervisor", "--port", &port, "--redis-url", &url]);
    let at_supervisor = format!("http://127.0.0.1:{port}");
    let runner = hands.role("sal", &["runner", "sal", "--redis-url", &url, "--concurrency", "1"]);
    let port = free_port().to_string();
    let args = ["coordinator", "--port", &port, "--redis-url", &own.url(), "--supervisor", &at_supervisor];
    let mut runs = hands.role("coordinator", &args);
    let at = format!("http://127.0.0.1:{port}");
    let calls = Calls::to(&at, Some(me.clone()));
    let submit = |id: &str, script: String| {
        let text = format!("workflow:\n  name: x\n  steps:\n    - {{id: a, runner: sal, payload: '{script}'}}\n");
        calls.submit_workflow(sign_workflow(&me, id, text, &[coordinator], Valid::LONG), PATIENCE);
    };
    let [held, begun, ran] = ["held", "begun", "ran"].map(|name| hands.path(name));
    fs::write(&held, "").unwrap();
    // The one place is taken until the file is gone, so that the other step waits in the queue.
    let waits = format!(
        "file_write_append(\"{}\", \"x\"); while exist(\"{}\") {{ sleep(1); }} 1",
        begun.display(),
        held.display()
    );
    submit("before", waits);
    Hands::until("the first step runs", PATIENCE, || begun.exists().then_some(()));
    submit("cancelled", format!("file_write_append(\"{}\", \"x\"); 1", ran.display()));
    let job = Hands::until("the second one is in the queue", PATIENCE, || {
        let view = calls.workflow("cancelled").ok()?;
        let job = view.steps["a"].job_id.as_ref()?.to_string();
        let shown = hands.horus.run(&["job", "status", &job, "--supervisor", &at_supervisor, "--json"]);
        (shown.code == 0 && shown.json()["status"] == "queued").then_some(job)
    });

    supervisor.signal(Signal::SIGSTOP);
    hands.horus.run(&["workflow", "cancel", "cancelled", "--coordinator", &at]).ok();
    let view = calls.ended(&["cancelled".to_owned()], PATIENCE).remove(0);
    assert_eq!((&view["status"], &view["steps"]["a"]["status"]), (&"cancelled".into(), &"unknown".into()), "{view:#}");
    // Nor does it matter who remembers it.
    runs.signal(Signal::SIGKILL);
    runs = hands.role("coordinator", &args);
    supervisor.signal(Signal::SIGCONT);
    hands.becomes(&at_supervisor, &job, "cancelled");
    fs::remove_file(&held).unwrap();
    let view = calls.ended(&["before".to_owned()], PATIENCE).remove(0);
    assert_eq!(view["status"], "succeeded", "{view:#}");
    assert!(!ran.exists(), "{}", runs.log());
    for redis in [&at_work, &own] {
        let doctor = hands.horus.run(&["doctor", "--redis-url", &redis.url(), "--json"]);
        assert_eq!(doctor.code, 0, "{doctor:?}");
    }
    drop(runner);
}
