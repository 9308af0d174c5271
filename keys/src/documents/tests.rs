use super::*;
use std::time::Duration;

fn node() -> Identity {
    Identity::from_seed(&[1; 32])
}

fn now() -> Timestamp {
    Timestamp::from_millis(1_795_284_000_000)
}

fn announcement() -> NodeAnnouncement {
    NodeAnnouncement {
        roles: vec![Role::Supervisor],
        topics: vec!["horus.supervisor".into()],
        runners: vec!["hero".parse().unwrap()],
        addresses: vec!["http://10.0.0.1:8080".into()],
        mesh_public_key: Some(node().peer_id().mesh_public_key()),
        sealing_public_key: None,
        expires_at: now() + Duration::from_secs(60),
    }
}

fn certificate() -> Certificate {
    Certificate {
        peer_id: node().peer_id(),
        name: Some("build host".into()),
        roles: vec![Role::Submitter],
        runners: vec!["hero".parse().unwrap()],
        expires_at: now(),
    }
}

#[test]
fn an_announcement_is_that_of_its_only_signer_until_it_expires() {
    let envelope = announcement().sign(&node());
    assert_eq!(NodeAnnouncement::check(&envelope, now()).unwrap(), (node().peer_id(), announcement()));
    let later = announcement().expires_at;
    let error = NodeAnnouncement::check(&envelope, later).unwrap_err();
    assert!(matches!(error, DocumentError::Expired { .. }), "{error}");

    let mut by_two = envelope;
    by_two.add_signature(&Identity::from_seed(&[2; 32])).unwrap();
    assert!(NodeAnnouncement::check(&by_two, now()).is_err());
}

#[test]
fn announcements_have_the_fields_of_the_contract_and_tolerate_new_ones() {
    let json = serde_json::to_value(announcement()).unwrap();
    let mut fields: Vec<_> = json.as_object().unwrap().keys().map(String::as_str).collect();
    fields.sort_unstable();
    assert_eq!(
        fields,
        ["addresses", "expires_at", "mesh_public_key", "roles", "runners", "sealing_public_key", "topics"]
    );
    let mut newer = json;
    newer["load"] = 0.5.into();
    let envelope = Envelope::sign_json(&node(), PayloadType::Node, &newer);
    assert_eq!(NodeAnnouncement::check(&envelope, now()).unwrap().1, announcement());
}

#[test]
fn announcements_are_bounded() {
    let refused = |change: fn(&mut NodeAnnouncement)| {
        let mut announcement = announcement();
        change(&mut announcement);
        let result = NodeAnnouncement::check(&announcement.sign(&node()), now());
        assert!(matches!(result, Err(DocumentError::Invalid { .. })));
    };
    refused(|a| a.topics = vec![String::new(); 257]);
    refused(|a| a.addresses = vec![String::new(); 257]);
    refused(|a| a.topics = vec!["t".repeat(256)]);
    refused(|a| a.addresses = vec!["a".repeat(513)]);
}

#[test]
fn a_certificate_leads_back_to_itself() {
    let owner = Identity::from_seed(&[9; 32]);
    let envelope = certificate().sign(&owner).unwrap();
    let (verified, read) = Certificate::read(&envelope).unwrap();
    assert_eq!((verified.signer(), read), (owner.peer_id(), certificate()));
}

#[test]
fn what_no_certificate_may_grant_is_refused_on_both_sides() {
    let refused = |change: fn(&mut Certificate)| {
        let mut certificate = certificate();
        change(&mut certificate);
        assert!(certificate.sign(&node()).is_err(), "{certificate:?}");
        let forced = Envelope::sign_json(&node(), PayloadType::Member, &certificate);
        assert!(Certificate::read(&forced).is_err(), "{certificate:?}");
    };
    refused(|c| c.roles = vec![Role::Submitter, Role::Owner]);
    refused(|c| c.roles = vec![]);
    refused(|c| c.roles = vec![Role::Runner; 8]);
    refused(|c| c.runners = vec![RunnerPattern::Any; 65]);
    refused(|c| c.name = Some("n".repeat(129)));
    refused(|c| c.name = Some("\u{1b}[2J".into()));

    let mut restricted = serde_json::to_value(certificate()).unwrap();
    restricted["only_on_sundays"] = true.into();
    let envelope = Envelope::sign_json(&node(), PayloadType::Member, &restricted);
    let error = Certificate::read(&envelope).unwrap_err().to_string();
    assert!(error.contains("only_on_sundays"), "{error}");
}

#[test]
fn a_binding_is_made_with_the_daemons_secret_and_signed_by_the_identity_it_names() {
    let daemon_secret = [42; 32];
    let envelope = Binding::prove(&node(), &daemon_secret);
    let binding = Binding::check(&envelope).unwrap();
    assert_eq!(binding.peer_id, node().peer_id());
    assert_eq!(binding.mesh_public_key, MeshPublicKey::of_secret(&daemon_secret));

    let stolen = Envelope::sign_json(&Identity::from_seed(&[2; 32]), PayloadType::Binding, &binding);
    assert!(matches!(Binding::check(&stolen), Err(DocumentError::Invalid { .. })));
}
