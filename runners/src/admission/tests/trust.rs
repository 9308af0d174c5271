//! Certificates, submissions and results.

use horus_keys::{Certificate, Revocation};

use super::*;

fn certificate(world: &World, peer: &Identity, roles: &[Role], expires_at: Timestamp) -> Envelope {
    let document = Certificate {
        peer_id: peer.peer_id(),
        name: None,
        roles: roles.to_vec(),
        runners: vec!["hero".parse().unwrap()],
        expires_at,
    };
    Envelope::sign_json(&world.owner, PayloadType::Member, &document)
}

fn certified(world: &World, certificates: Vec<Envelope>) -> Envelope {
    let batch = JobBatch { aud: vec![world.supervisor.peer_id()], jobs: vec![world.job("a")], certificates };
    Envelope::sign_json(&world.stranger, PayloadType::Jobs, &batch)
}

#[test]
fn a_certificate_in_the_batch_opens_the_door_until_it_expires() {
    let world = World::new();
    let cert = certificate(&world, &world.stranger, &[Role::Submitter], world.later(60));
    let envelope = certified(&world, vec![cert.clone()]);
    assert_eq!(world.admit(&envelope).unwrap()[0].submitter, world.stranger.peer_id());
    let batch = world.verifier.batch(&envelope).unwrap();
    let later = Admission { now: world.later(61), ..world.ask(&batch, &|_| None, &|_| None) };
    let refusal = world.verifier.admit(later).unwrap_err();
    assert!(refusal.kind == RefusalKind::UntrustedSigner && refusal.message.contains("certificate"), "{refusal}");
    assert_eq!(world.refused(&certified(&world, vec![cert; 5])), RefusalKind::TooLarge);
}

#[test]
fn a_certificate_grants_what_it_says_if_an_owner_signed_it() {
    let world = World::new();
    let wrong_role = certificate(&world, &world.stranger, &[Role::Runner], world.later(60));
    assert_eq!(world.refused(&certified(&world, vec![wrong_role])), RefusalKind::NotAllowed);
    let world = World::new();
    let somebody_else = certificate(&world, &world.hero, &[Role::Submitter], world.later(60));
    assert_eq!(world.refused(&certified(&world, vec![somebody_else])), RefusalKind::UntrustedSigner);
    let forged = Envelope::sign(
        &world.alice,
        PayloadType::Member,
        certificate(&world, &world.stranger, &[Role::Submitter], world.later(60)).payload().to_vec(),
    );
    assert_eq!(world.refused(&certified(&world, vec![forged])), RefusalKind::UntrustedSigner);
}

#[test]
fn revocation_holds_for_batches_in_memory() {
    let world = World::new();
    let policy = (*world.verifier.trust().policy()).clone();
    let envelope = world.batch(&world.alice, vec![world.job("a")]);
    assert!(world.admit(&envelope).is_ok());
    let revoked = TrustPolicy { revoked: vec![Revocation::Id(world.alice.peer_id())], ..policy };
    let world = World { verifier: Verifier::new(Trust::new(revoked)), ..world };
    assert!(matches!(world.refused(&envelope), RefusalKind::UntrustedSigner | RefusalKind::NotAllowed));
}

#[test]
fn a_strangers_workflow_is_not_even_read() {
    let case = Case::with(|_, s| s.definition = "this: is: not: yaml".to_owned());
    let stranger = Envelope::sign(&case.world.stranger, PayloadType::Workflow, case.workflow.payload().to_vec());
    assert_eq!(case.world.verifier.workflow(&stranger).unwrap_err().kind, RefusalKind::UntrustedSigner);
    let refusal = case.world.verifier.workflow(&case.workflow).unwrap_err();
    assert_eq!((refusal.kind, refusal.problems.len()), (RefusalKind::InvalidWorkflow, 1), "{refusal}");
}

#[test]
fn what_was_accepted_is_read_whoever_is_trusted_now_but_its_steps_are_not_admitted() {
    let case = Case::new();
    let (world, stranger) = (&case.world, &case.world.stranger);
    let by_stranger = Envelope::sign(stranger, PayloadType::Workflow, case.workflow.payload().to_vec());
    let workflow = world.verifier.accepted_workflow(&by_stranger).unwrap();
    assert_eq!(workflow.signer, stranger.peer_id());
    let batch = world.verifier.batch(&world.batch(&world.coordinator, vec![case.step("fetch", 1, None, &[])])).unwrap();
    let refusal = world.verifier.admit(world.ask(&batch, &|_| Some(workflow.clone()), &|_| None)).unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::UntrustedSigner);
    let refused = world.verifier.check_submission(&workflow, &world.coordinator.peer_id(), world.now).unwrap_err();
    assert_eq!(refused.kind, RefusalKind::UntrustedSigner, "also once it is in memory");
    let mut forged: serde_json::Value = serde_json::from_str(&by_stranger.to_json()).unwrap();
    forged["signatures"][0]["keyid"] = json!(world.alice.peer_id());
    let forged = Envelope::from_json(forged.to_string().as_bytes()).unwrap();
    assert_eq!(world.verifier.accepted_workflow(&forged).unwrap_err().kind, RefusalKind::BadSignature);
}

#[test]
fn a_submission_is_checked_before_its_first_step() {
    let check = |case: &Case| {
        let workflow = case.world.verifier.workflow(&case.workflow).unwrap();
        case.world
            .verifier
            .check_submission(&workflow, &case.world.coordinator.peer_id(), case.world.now)
            .map_err(|r| r.kind)
    };
    assert_eq!(check(&Case::new()), Ok(()));
    assert_eq!(check(&Case::with(|world, s| s.submit_by = world.now)), Err(RefusalKind::Expired));
    assert_eq!(check(&Case::with(|world, s| s.run_until = world.now)), Err(RefusalKind::Expired));
    assert_eq!(
        check(&Case::with(|world, s| s.coordinators = vec![world.owner.peer_id()])),
        Err(RefusalKind::NotAllowed)
    );
    let osiris = PIPELINE.replace("id: store, runner: sal", "id: store, runner: osiris");
    assert_eq!(check(&Case::with(|_, s| s.definition = osiris)), Err(RefusalKind::NotAllowed));
}

#[test]
fn a_result_is_believed_only_with_a_matching_receipt() {
    let case = Case::new();
    let (world, done) = (&case.world, case.done());
    let (fetch, spec) = (case.job_id("fetch", 1), Digest::of(b"its spec"));
    let check = |envelope: &Envelope, index, id, spec: Option<&Digest>, output: Option<&str>| {
        world.verifier.check_result(envelope, index, id, spec, output.map(str::as_bytes), world.now).map_err(|r| r.kind)
    };
    assert_eq!(check(&done, 0, &fetch, Some(&spec), Some("[1, 2]")).unwrap().outcome, JobStatus::Succeeded);
    let mismatch = Some(RefusalKind::DelegationMismatch);
    assert_eq!(check(&done, 0, &fetch, None, Some("[1,2]")).err(), mismatch, "altered output");
    assert_eq!(check(&done, 0, &fetch, None, None).err(), mismatch, "output withheld");
    assert_eq!(check(&done, 0, &fetch, Some(&Digest::of(b"x")), Some("[1, 2]")).err(), mismatch, "another job");
    assert_eq!(check(&done, 1, &fetch, None, Some("null")).err(), mismatch, "somebody else's receipt");
    assert_eq!(check(&done, 2, &fetch, None, Some("[1, 2]")).err(), Some(RefusalKind::InvalidEnvelope));
    for (signer, kind) in
        [(&world.stranger, RefusalKind::UntrustedSigner), (&world.supervisor, RefusalKind::NotAllowed)]
    {
        let forged = Envelope::sign(signer, PayloadType::Receipts, done.payload().to_vec());
        assert_eq!(check(&forged, 0, &fetch, None, Some("[1, 2]")).err(), Some(kind));
    }
}

#[test]
fn receipts_that_contradict_themselves_are_refused() {
    let case = Case::new();
    let refused = |receipt: Receipt| case.world.verifier.receipts(&case.signed(vec![receipt])).unwrap_err().kind;
    let good = || case.receipt("fetch", 1, JobStatus::Succeeded, Some("1"));
    assert_eq!(refused(Receipt { outcome: JobStatus::Running, output: None, ..good() }), RefusalKind::InvalidEnvelope);
    assert_eq!(refused(Receipt { outcome: JobStatus::Failed, ..good() }), RefusalKind::InvalidEnvelope);
    assert_eq!(refused(Receipt { output: None, ..good() }), RefusalKind::InvalidEnvelope);
    assert_eq!(refused(Receipt { runner: "sal".parse().unwrap(), ..good() }), RefusalKind::InvalidEnvelope);
    assert_eq!(case.world.verifier.receipts(&case.signed(vec![])).unwrap_err().kind, RefusalKind::InvalidEnvelope);
    assert_eq!(case.world.verifier.receipts(&case.signed(vec![good(); 257])).unwrap_err().kind, RefusalKind::TooLarge);
    let unknown = json!({"receipts": [{"job_id": "hero-a"}]});
    let envelope = Envelope::sign_json(&case.world.hero, PayloadType::Receipts, &unknown);
    assert_eq!(case.world.verifier.receipts(&envelope).unwrap_err().kind, RefusalKind::InvalidEnvelope);
}
