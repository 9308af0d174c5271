//! Steps of signed workflows, and what a stolen coordinator's key cannot do.

use super::*;

#[test]
fn a_step_takes_everything_from_the_signed_workflow() {
    let case = Case::new();
    let receipts = case.done();
    let job = case.admit(case.step("process", 1, Some(GOOD_INPUT), &[&receipts])).unwrap();
    assert_eq!(job.payload, "process it");
    assert_eq!((job.submitter, job.delegate), (case.world.alice.peer_id(), Some(case.world.coordinator.peer_id())));
    assert_eq!(job.env, BTreeMap::from([("SHARED".into(), "workflow".into()), ("OVER".into(), "step".into())]));
    assert_eq!((job.timeout, job.idempotent), (Duration::from_secs(10), true));
    assert_eq!((&job.labels["team"], job.run_until), (&"core".to_owned(), case.world.later(3600)));
    assert_eq!(job.input.as_ref().unwrap().get(), GOOD_INPUT);
    assert_eq!(job.receipts, [receipts.digest()]);
    assert_eq!(job.secret_scope(), "nightly");
    assert!(case.world.verifier.known_workflow(&case.digest).is_some());
    assert!(case.world.verifier.known_receipts(&receipts.digest()).is_some());

    let first = case.admit(case.step("fetch", 1, None, &[])).unwrap();
    assert_eq!((first.timeout, first.input.unwrap().get()), (Duration::from_secs(300), "{}"));
}

#[test]
fn a_coordinator_cannot_run_a_script_of_its_own() {
    let case = Case::new();
    let plain = case.world.batch(&case.world.coordinator, vec![case.world.job("a")]);
    assert_eq!(case.admit_signed(&plain).unwrap_err().kind, RefusalKind::NotAllowed);
    type Change = (&'static str, fn(&mut JobSpec));
    let changes: [Change; 8] = [
        ("payload", |job| job.payload = Some("rm -rf".to_owned())),
        ("env", |job| job.env = BTreeMap::from([("PATH".into(), "/evil".into())])),
        ("timeout_ms", |job| job.timeout_ms = Some(1)),
        ("idempotent", |job| job.idempotent = Some(true)),
        ("priority", |job| job.priority = Some(crate::job::Priority::High)),
        ("not_before", |job| job.not_before = Some(Timestamp::now())),
        ("run_until", |job| job.run_until = Some(Timestamp::now())),
        ("labels", |job| job.labels = BTreeMap::from([("a".into(), "b".into())])),
    ];
    for (name, change) in changes {
        let mut spec = case.step("fetch", 1, None, &[]);
        change(&mut spec);
        case.mismatch(spec, name);
    }
}

#[test]
fn a_coordinator_cannot_run_a_step_that_is_not_signed() {
    let case = Case::new();
    case.mismatch(case.step("extra", 1, None, &[]), "no step `extra`");
    let mut elsewhere = case.step("fetch", 1, None, &[]);
    elsewhere.runner = "sal".parse().unwrap();
    case.mismatch(elsewhere, "signed for runner hero, not sal");
}

#[test]
fn a_coordinator_cannot_repeat_a_finished_step() {
    let case = Case::new();
    let mut renamed = case.step("fetch", 1, None, &[]);
    renamed.id = LocalId::new("another").unwrap();
    case.mismatch(renamed, "has the id");
    let delegation = Delegation { index: Some(0), ..case.delegation("fetch", 1) };
    case.mismatch(JobSpec::step("hero".parse().unwrap(), delegation, None, vec![]), "no index");
    case.mismatch(case.step("fetch", 0, None, &[]), "count from 1");
    case.mismatch(case.step("fetch", 2, None, &[]), "without a receipt");
    case.mismatch(case.step("fetch", 3, None, &[]), "allows 2");
    case.mismatch(case.step("check", 2, None, &[]), "allows 1");
    let succeeded = case.signed(vec![case.receipt("fetch", 1, JobStatus::Succeeded, Some("1"))]);
    case.mismatch(case.step("fetch", 2, None, &[&succeeded]), "without a receipt");
}

#[test]
fn a_failed_attempt_may_be_followed_by_another() {
    let case = Case::new();
    let failed = |code: &str, outcome| {
        let error = Some(crate::job::JobError::new(code, "it broke"));
        case.signed(vec![Receipt { error, ..case.receipt("fetch", 1, outcome, None) }])
    };
    assert!(case.admit(case.step("fetch", 2, None, &[&failed("HTTP_STATUS", JobStatus::Failed)])).is_ok());
    assert!(case.admit(case.step("fetch", 2, None, &[&failed("TIMED_OUT", JobStatus::TimedOut)])).is_ok());
    case.mismatch(case.step("fetch", 2, None, &[&failed("GONE", JobStatus::Failed)]), "may be retried");
    case.mismatch(case.step("fetch", 2, None, &[&failed("CANCELLED", JobStatus::Cancelled)]), "may be retried");
    case.mismatch(case.step("fetch", 3, None, &[&failed("HTTP_STATUS", JobStatus::Failed)]), "allows 2");

    // `process` is idempotent: it may be moved to another supervisor without proof, but not for ever.
    let done = case.done();
    for attempt in 1..=3 {
        assert!(case.admit(case.step("process", attempt, Some(GOOD_INPUT), &[&done])).is_ok());
    }
    case.mismatch(case.step("process", 4, Some(GOOD_INPUT), &[&done]), "allows 3");
}

#[test]
fn a_coordinator_cannot_invent_input() {
    let case = Case::new();
    let done = case.done();
    let process = |input: &str, receipts: &[&Envelope]| case.step("process", 1, Some(input), receipts);
    case.mismatch(process(r#"{"fetch": [1, 3], "check": null}"#, &[&done]), "`input.fetch`");
    case.mismatch(process(r#"{"fetch": [1,2], "check": null}"#, &[&done]), "`input.fetch`");
    case.mismatch(process(r#"{"check": null}"#, &[&done]), "`input.fetch` is missing");
    case.mismatch(process(r#"{"fetch": [1, 2]}"#, &[&done]), "failed for good");
    case.mismatch(process(r#"{"fetch": [1, 2], "check": null, "store": 1}"#, &[&done]), "does not depend");
    case.mismatch(process(r#"{"fetch": 0, "fetch": [1, 2], "check": null}"#, &[&done]), "twice");
    case.mismatch(process("[]", &[&done]), "an object");
    case.mismatch(process(GOOD_INPUT, &[]), "no receipt");
    case.mismatch(case.step("process", 1, None, &[&done]), "missing");
    case.mismatch(case.step("fetch", 1, Some(r#"{"extra": 1}"#), &[]), "does not depend");
    case.mismatch(process(GOOD_INPUT, &[&done, &done, &done, &done]), "at most 3");
}

#[test]
fn only_receipts_of_trusted_runners_for_this_workflow_count() {
    let case = Case::new();
    let receipts = || {
        vec![
            case.receipt("fetch", 1, JobStatus::Succeeded, Some("[1, 2]")),
            case.receipt("check", 1, JobStatus::Succeeded, Some("null")),
        ]
    };
    let refused = |signer: &Identity, receipts: Vec<Receipt>| {
        let batch = ReceiptBatch { receipts, certificates: vec![] };
        let envelope = Envelope::sign_json(signer, PayloadType::Receipts, &batch);
        case.mismatch(case.step("process", 1, Some(GOOD_INPUT), &[&envelope]), "no receipt");
    };
    for signer in [&case.world.coordinator, &case.world.stranger, &case.world.alice] {
        refused(signer, receipts());
    }
    // Somebody's plain job that was given the id of the step.
    refused(&case.world.hero, receipts().into_iter().map(|r| Receipt { workflow: None, ..r }).collect());
    // Another step's output, another attempt than the workflow allows.
    refused(&case.world.hero, vec![case.receipt("store", 1, JobStatus::Succeeded, Some("[1, 2]"))]);
    refused(&case.world.hero, vec![case.receipt("fetch", 3, JobStatus::Succeeded, Some("[1, 2]"))]);

    let second = case.signed(vec![
        case.receipt("fetch", 2, JobStatus::Succeeded, Some("[1, 2]")),
        case.receipt("check", 1, JobStatus::Succeeded, Some("null")),
    ]);
    assert!(case.admit(case.step("process", 1, Some(GOOD_INPUT), &[&second])).is_ok(), "any allowed attempt counts");
}

#[test]
fn a_dependency_that_may_fail_is_absent_only_if_it_failed_for_good() {
    let case = Case::new();
    let with = |outcome| {
        let fetched = case.receipt("fetch", 1, JobStatus::Succeeded, Some("[1, 2]"));
        case.signed(vec![fetched, case.receipt("check", 1, outcome, None)])
    };
    let without_check = r#"{"fetch": [1, 2]}"#;
    for outcome in [JobStatus::Failed, JobStatus::TimedOut] {
        assert!(case.admit(case.step("process", 1, Some(without_check), &[&with(outcome)])).is_ok(), "{outcome}");
    }
    // The coordinator may cancel what it sent: it must not choose the input by that.
    case.mismatch(case.step("process", 1, Some(without_check), &[&with(JobStatus::Cancelled)]), "failed for good");
    // What a runner refused was no attempt: its receipt is of no workflow.
    let fetched = case.receipt("fetch", 1, JobStatus::Succeeded, Some("[1, 2]"));
    let refused = Receipt { workflow: None, ..case.receipt("check", 1, JobStatus::Failed, None) };
    let signed = case.signed(vec![fetched, refused]);
    case.mismatch(case.step("process", 1, Some(without_check), &[&signed]), "failed for good");
    let refused = Receipt { workflow: None, ..case.receipt("fetch", 1, JobStatus::Failed, None) };
    case.mismatch(case.step("fetch", 2, None, &[&case.signed(vec![refused])]), "without a receipt");
    case.mismatch(case.step("process", 1, Some(without_check), &[&case.done()]), "failed for good");
    case.mismatch(case.step("process", 1, Some(GOOD_INPUT), &[&with(JobStatus::Failed)]), "input.check");
}

#[test]
fn a_dependency_whose_unknown_outcome_is_a_failure_may_be_absent_without_proof() {
    let case = Case::with(|_, submission| {
        submission.definition =
            PIPELINE.replace("continue_on_error: true", "continue_on_error: true, on_unknown: fail");
    });
    let fetched = case.signed(vec![case.receipt("fetch", 1, JobStatus::Succeeded, Some("[1, 2]"))]);
    assert!(case.admit(case.step("process", 1, Some(r#"{"fetch": [1, 2]}"#), &[&fetched])).is_ok());
    // What is given is proven all the same.
    case.mismatch(case.step("process", 1, Some(GOOD_INPUT), &[&fetched]), "input.check");

    // Each of the two words alone is not enough.
    let case = Case::new();
    let fetched = case.signed(vec![case.receipt("fetch", 1, JobStatus::Succeeded, Some("[1, 2]"))]);
    case.mismatch(case.step("process", 1, Some(r#"{"fetch": [1, 2]}"#), &[&fetched]), "on_unknown: fail");
    let case = Case::with(|_, submission| {
        submission.definition = PIPELINE.replace("continue_on_error: true", "on_unknown: fail");
    });
    let fetched = case.signed(vec![case.receipt("fetch", 1, JobStatus::Succeeded, Some("[1, 2]"))]);
    case.mismatch(case.step("process", 1, Some(r#"{"fetch": [1, 2]}"#), &[&fetched]), "needs the output");
}

#[test]
fn a_failure_is_final_when_no_attempt_is_left() {
    let definition = PIPELINE
        .replace("continue_on_error: true", "continue_on_error: true, retry: {max_attempts: 3, non_retryable: [GONE]}");
    let case = Case::with(|_, submission| submission.definition = definition);
    let failed = |attempt, code: &str| {
        let error = Some(crate::job::JobError::new(code, ""));
        let fetched = case.receipt("fetch", 1, JobStatus::Succeeded, Some("[1, 2]"));
        case.signed(vec![fetched, Receipt { error, ..case.receipt("check", attempt, JobStatus::Failed, None) }])
    };
    let process = |receipts: &Envelope| case.step("process", 1, Some(r#"{"fetch": [1, 2]}"#), &[receipts]);
    case.mismatch(process(&failed(1, "X")), "failed for good");
    assert!(case.admit(process(&failed(3, "X"))).is_ok());
    assert!(case.admit(process(&failed(1, "GONE"))).is_ok());
}

#[test]
fn a_coordinator_acts_only_for_workflows_that_name_it() {
    let case = Case::with(|world, submission| submission.coordinators = vec![world.owner.peer_id()]);
    let refusal = case.admit(case.step("fetch", 1, None, &[])).unwrap_err();
    assert!(refusal.kind == RefusalKind::NotAllowed && refusal.message.contains("does not name"), "{refusal}");

    // Named, but not trusted as coordinator.
    let case =
        Case::with(|world, submission| submission.coordinators = vec![world.stranger.peer_id(), world.alice.peer_id()]);
    let by = |signer: &Identity| {
        case.admit_signed(&case.world.batch(signer, vec![case.step("fetch", 1, None, &[])])).unwrap_err().kind
    };
    assert_eq!(by(&case.world.stranger), RefusalKind::UntrustedSigner);
    assert_eq!(by(&case.world.alice), RefusalKind::NotAllowed);
}

#[test]
fn a_coordinator_sends_jobs_only_to_supervisors_that_it_names() {
    let case = Case::new();
    let jobs = vec![case.step("fetch", 1, None, &[])];
    let batch = JobBatch { aud: vec![case.world.owner.peer_id()], jobs, certificates: vec![] };
    let envelope = Envelope::sign_json(&case.world.coordinator, PayloadType::Jobs, &batch);
    assert_eq!(case.admit_signed(&envelope).unwrap_err().kind, RefusalKind::NotAllowed);
}

#[test]
fn the_workflows_signer_must_be_allowed_what_the_step_does() {
    let case =
        Case::with(|_, s| s.definition = PIPELINE.replace("id: fetch, runner: hero", "id: fetch, runner: osiris"));
    let spec = JobSpec::step("osiris".parse().unwrap(), case.delegation("fetch", 1), None, vec![]);
    let refusal = case.admit(spec).unwrap_err();
    assert!(refusal.kind == RefusalKind::NotAllowed && refusal.message.contains("osiris"), "{refusal}");

    let case = Case::with(|world, s| s.run_until = world.now);
    assert_eq!(case.admit(case.step("fetch", 1, None, &[])).unwrap_err().kind, RefusalKind::Expired);
    let case = Case::with(|world, s| s.run_until = world.later(8 * 86_400));
    assert_eq!(case.admit(case.step("fetch", 1, None, &[])).unwrap_err().kind, RefusalKind::TooLarge);
}

#[test]
fn what_is_not_known_here_is_asked_for() {
    let case = Case::new();
    let (world, done) = (&case.world, case.done());
    let by_digest = |step: &str, input: Option<&str>| {
        let refs = vec![ReceiptRef::Digest(done.digest())];
        JobSpec { receipts: refs, ..case.step(step, 1, input, &[]) }
    };
    let batch =
        world.verifier.batch(&world.batch(&world.coordinator, vec![by_digest("process", Some(GOOD_INPUT))])).unwrap();
    let workflow = world.verifier.workflow(&case.workflow).unwrap();
    let receipts = world.verifier.receipts(&done).unwrap();
    fn refused(world: &World, at: Admission<'_>) -> Refusal {
        world.verifier.admit(at).unwrap_err()
    }
    assert_eq!(refused(world, world.ask(&batch, &|_| None, &|_| None)).kind, RefusalKind::WorkflowUnknown);
    let refusal = refused(world, world.ask(&batch, &|_| Some(workflow.clone()), &|_| None));
    assert_eq!((refusal.kind, refusal.kind.as_str()), (RefusalKind::ReceiptUnknown, "DELEGATION_MISMATCH"));
    let (workflows, known) = (|_: &Digest| Some(workflow.clone()), |_: &Digest| Some(receipts.clone()));
    assert!(world.verifier.admit(world.ask(&batch, &workflows, &known)).is_ok());

    // A stranger learns nothing about which workflows are known.
    let stranger = world.verifier.batch(&world.batch(&world.stranger, vec![by_digest("process", None)])).unwrap();
    assert_eq!(refused(world, world.ask(&stranger, &|_| None, &|_| None)).kind, RefusalKind::UntrustedSigner);
    // Another workflow under the digest that was asked for is not taken.
    let other = Case::with(|_, s| s.id = WorkflowId::new("other").unwrap());
    let other = world.verifier.workflow(&other.workflow).unwrap();
    assert_eq!(
        refused(world, world.ask(&batch, &|_| Some(other.clone()), &|_| None)).kind,
        RefusalKind::WorkflowUnknown
    );
}

#[test]
fn scripts_see_the_workflows_inputs_beside_the_outputs() {
    let case =
        Case::with(|_, s| s.inputs = Some(BTreeMap::from([("day".into(), raw("\"mon\"")), ("n".into(), raw("1.0"))])));
    let first = case.admit(case.step("fetch", 1, None, &[])).unwrap();
    assert_eq!(first.input.unwrap().get(), r#"{"day":"mon","n":1.0}"#);
    let second = case.admit(case.step("process", 1, Some(GOOD_INPUT), &[&case.done()])).unwrap();
    assert_eq!(second.input.unwrap().get(), r#"{"day":"mon","n":1.0,"fetch": [1, 2], "check": null}"#);

    let case = Case::with(|_, s| s.inputs = Some(BTreeMap::from([("fetch".into(), raw("1"))])));
    let refusal = case.admit(case.step("fetch", 1, None, &[])).unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::InvalidWorkflow, "{refusal}");
}

#[test]
fn a_step_of_ten_thousand_dependencies_is_admitted() {
    use std::fmt::Write;
    let n = crate::job::limits::DEPENDENCIES;
    let mut text = "workflow:\n  name: wide\n  steps:\n".to_owned();
    for i in 0..n {
        writeln!(text, "  - {{id: s{i}, runner: hero, payload: x}}").unwrap();
    }
    let all: Vec<_> = (0..n).map(|i| format!("s{i}")).collect();
    writeln!(text, "  - {{id: process, runner: sal, payload: x, depends_on: [{}]}}", all.join(",")).unwrap();
    let case = Case::with(|_, s| s.definition = text);
    let hero: RunnerKind = "hero".parse().unwrap();
    let receipts: Vec<_> = (0..n)
        .map(|i| Receipt {
            job_id: case.delegation(&format!("s{i}"), 1).job_id(&hero),
            ..case.receipt("fetch", 1, JobStatus::Succeeded, Some("7"))
        })
        .collect();
    let signed: Vec<_> = receipts.chunks(256).map(|some| case.signed(some.to_vec())).collect();
    let input: Vec<_> = (0..n).map(|i| format!("\"s{i}\":7")).collect();
    let refs = signed.iter().map(|e| ReceiptRef::Digest(e.digest())).collect();
    let spec = JobSpec { receipts: refs, ..case.step("process", 1, Some(&format!("{{{}}}", input.join(","))), &[]) };
    let world = &case.world;
    let verifier = &world.verifier;
    let known: std::collections::HashMap<_, _> =
        signed.iter().map(|e| (e.digest(), verifier.receipts(e).unwrap())).collect();
    let (workflow, batch) = (
        verifier.workflow(&case.workflow).unwrap(),
        verifier.batch(&world.batch(&world.coordinator, vec![spec])).unwrap(),
    );
    let started = std::time::Instant::now();
    let job =
        verifier.admit_one(world.ask(&batch, &|_| Some(workflow.clone()), &|d| known.get(d).cloned()), 0).unwrap();
    println!("a step of {n} dependencies: {:?}", started.elapsed());
    assert_eq!(job.receipts.len(), signed.len());
}
