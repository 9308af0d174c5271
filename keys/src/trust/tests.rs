use super::*;
use crate::identity::Identity;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

fn who(seed: u8) -> Identity {
    Identity::from_seed(&[seed; 32])
}

fn owner() -> Identity {
    who(1)
}

fn alice() -> PeerId {
    who(2).peer_id()
}

fn now() -> Timestamp {
    Timestamp::from_millis(1_795_284_000_000)
}

fn later() -> Timestamp {
    now() + Duration::from_secs(3600)
}

fn kind(text: &str) -> RunnerKind {
    text.parse().unwrap()
}

fn entry(id: PeerId, roles: &[Role], runners: &[&str]) -> TrustedKey {
    let runners = runners.iter().map(|text| text.parse().unwrap()).collect();
    TrustedKey { id, name: None, roles: roles.to_vec(), runners }
}

fn trust(keys: Vec<TrustedKey>, revoked: Vec<Revocation>) -> Trust {
    Trust::new(TrustPolicy { keys, revoked })
}

fn owner_only() -> Trust {
    trust(vec![entry(owner().peer_id(), &[Role::Owner], &[])], vec![])
}

fn certificate(id: PeerId, roles: &[Role], runners: &[&str], expires_at: Timestamp) -> Certificate {
    let key = entry(id, roles, runners);
    Certificate { peer_id: id, name: Some("by owner".into()), roles: key.roles, runners: key.runners, expires_at }
}

fn submitter_certificate() -> Envelope {
    certificate(alice(), &[Role::Submitter], &["hero"], later()).sign(&owner()).unwrap()
}

#[test]
fn by_default_nobody_may_do_anything() {
    for trust in [trust(vec![], vec![]), Trust::open(Path::new("/nonexistent/trust.toml")).unwrap()] {
        for role in Role::ALL {
            assert!(!trust.allows(alice(), role, now()));
        }
        assert!(!trust.known(alice(), now()) && trust.roles_of(alice(), now()).is_empty());
        assert!(trust.present(&submitter_certificate(), now()).is_err());
    }
}

#[test]
fn a_key_may_do_what_its_entry_says() {
    let trust = trust(vec![entry(alice(), &[Role::Submitter], &["hero"])], vec![]);
    assert!(trust.allows(alice(), Role::Submitter, now()));
    assert!(trust.allows_runner(alice(), Role::Submitter, &kind("hero"), now()));
    assert!(!trust.allows_runner(alice(), Role::Submitter, &kind("sal"), now()));
    assert!(!trust.allows_runner(alice(), Role::Runner, &kind("hero"), now()));
    assert_eq!(trust.roles_of(alice(), now()), [Role::Submitter]);
    assert!(!trust.known(who(3).peer_id(), now()));
}

#[test]
fn no_role_implies_another_but_an_owner_sees_and_steers() {
    for role in Role::ALL {
        let trust = trust(vec![entry(alice(), &[role], &["*"])], vec![]);
        let expected: &[Role] = match role {
            Role::Owner => &[Role::Owner, Role::Observer, Role::Operator],
            _ => &[role],
        };
        assert_eq!(trust.roles_of(alice(), now()), expected);
        for asked in Role::ALL {
            assert_eq!(trust.allows_runner(alice(), asked, &kind("sal"), now()), expected.contains(&asked));
        }
    }
}

#[test]
fn runners_that_are_not_listed_are_not_granted() {
    let trust = trust(vec![entry(alice(), &[Role::Submitter], &[])], vec![]);
    assert!(trust.allows(alice(), Role::Submitter, now()));
    assert!(!trust.allows_runner(alice(), Role::Submitter, &kind("hero"), now()));
}

#[test]
fn a_certificate_by_an_owner_grants_until_it_expires() {
    let trust = owner_only();
    assert!(!trust.allows(alice(), Role::Submitter, now()));
    for _ in 0..2 {
        assert_eq!(trust.present(&submitter_certificate(), now()).unwrap(), alice());
    }
    assert!(trust.allows_runner(alice(), Role::Submitter, &kind("hero"), now()));
    assert!(!trust.allows_runner(alice(), Role::Submitter, &kind("sal"), now()));
    assert!(!trust.allows(alice(), Role::Runner, now()));
    assert_eq!(trust.name_of(alice()).as_deref(), Some("by owner"));
    assert!(trust.allows(alice(), Role::Submitter, later() - Duration::from_millis(1)));
    assert!(!trust.allows(alice(), Role::Submitter, later()));
    assert!(!trust.known(alice(), later()));
    // Both when it is known and when it is new.
    assert!(matches!(trust.present(&submitter_certificate(), later()), Err(TrustError::Document(_))));
    assert!(matches!(owner_only().present(&submitter_certificate(), later()), Err(TrustError::Document(_))));
}

#[test]
fn a_certificate_by_anybody_else_grants_nothing() {
    let trust = trust(
        vec![entry(owner().peer_id(), &[Role::Owner], &[]), entry(who(3).peer_id(), &[Role::Operator], &["*"])],
        vec![],
    );
    for issuer in [who(3), who(4), who(2)] {
        let forged = certificate(alice(), &[Role::Submitter], &["*"], later()).sign(&issuer).unwrap();
        let error = trust.present(&forged, now()).unwrap_err();
        assert!(matches!(error, TrustError::NotByAnOwner(id) if id == issuer.peer_id()), "{error}");
        assert!(!trust.known(alice(), now()));
    }
    // One owner among several signers is enough.
    let mut by_two = certificate(alice(), &[Role::Submitter], &["*"], later()).sign(&who(4)).unwrap();
    by_two.add_signature(&owner()).unwrap();
    assert!(trust.present(&by_two, now()).is_ok());
}

#[test]
fn a_forged_signature_over_a_known_certificate_changes_nothing() {
    let trust = owner_only();
    let good = submitter_certificate();
    let json = good.to_json();
    let bad = Envelope::from_json(json.replace("member", "node").as_bytes()).unwrap();
    trust.present(&good, now()).unwrap();
    assert!(trust.present(&bad, now()).is_err());
}

#[test]
fn role_and_runner_must_come_from_the_same_grant() {
    let trust = owner_only();
    let submitter_of_hero = submitter_certificate();
    let runner_of_sal = certificate(alice(), &[Role::Runner], &["sal"], later()).sign(&owner()).unwrap();
    trust.present(&submitter_of_hero, now()).unwrap();
    trust.present(&runner_of_sal, now()).unwrap();
    assert!(trust.allows_runner(alice(), Role::Runner, &kind("sal"), now()));
    assert!(!trust.allows_runner(alice(), Role::Submitter, &kind("sal"), now()));
    assert_eq!(trust.roles_of(alice(), now()), [Role::Submitter, Role::Runner]);
}

#[test]
fn what_is_revoked_may_nothing() {
    let keys =
        || vec![entry(owner().peer_id(), &[Role::Owner], &[]), entry(who(5).peer_id(), &[Role::Submitter], &["*"])];
    let certificate = submitter_certificate();

    let key_revoked = trust(keys(), vec![Revocation::Id(alice()), Revocation::Id(who(5).peer_id())]);
    assert!(matches!(key_revoked.present(&certificate, now()), Err(TrustError::KeyRevoked(id)) if id == alice()));
    assert!(!key_revoked.allows(who(5).peer_id(), Role::Submitter, now()), "though it is listed as trusted");
    assert!(key_revoked.is_revoked(alice()));

    let one_revoked = trust(keys(), vec![Revocation::Certificate(certificate.digest())]);
    assert!(matches!(one_revoked.present(&certificate, now()), Err(TrustError::CertificateRevoked(_))));
    let renewed = super::tests::certificate(alice(), &[Role::Submitter], &["hero"], later() + Duration::from_secs(1));
    assert!(one_revoked.present(&renewed.sign(&owner()).unwrap(), now()).is_ok());

    let owner_revoked = trust(keys(), vec![Revocation::Id(owner().peer_id())]);
    assert!(matches!(owner_revoked.present(&certificate, now()), Err(TrustError::NotByAnOwner(_))));
}

#[test]
fn a_reload_judges_old_certificates_by_the_new_policy() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("trust.toml");
    TrustPolicy::add(&path, &entry(owner().peer_id(), &[Role::Owner], &[])).unwrap();
    let trust = Trust::open(&path).unwrap();
    let clone = trust.clone();
    trust.present(&submitter_certificate(), now()).unwrap();
    assert!(!trust.reload().unwrap());
    assert!(clone.allows(alice(), Role::Submitter, now()));

    // A broken file changes nothing.
    let good = fs::read_to_string(&path).unwrap();
    fs::write(&path, "[[key]]\nid = 5").unwrap();
    assert!(trust.reload().is_err());
    assert!(clone.allows(alice(), Role::Submitter, now()));
    fs::write(&path, &good).unwrap();
    assert!(!trust.reload().unwrap());

    TrustPolicy::revoke(&path, Revocation::Certificate(submitter_certificate().digest())).unwrap();
    assert!(clone.allows(alice(), Role::Submitter, now()), "not before the reload");
    assert!(trust.reload().unwrap());
    assert!(!clone.allows(alice(), Role::Submitter, now()));

    fs::write(&path, &good).unwrap();
    assert!(trust.reload().unwrap());
    assert!(clone.allows(alice(), Role::Submitter, now()));
    TrustPolicy::remove(&path, owner().peer_id()).unwrap();
    assert!(trust.reload().unwrap());
    assert!(!clone.allows(alice(), Role::Submitter, now()), "its issuer is no owner any more");

    fs::remove_file(&path).unwrap();
    assert!(trust.reload().unwrap());
    assert!(trust.policy().keys.is_empty());
}

#[test]
fn certificates_are_forgotten_when_there_are_too_many() {
    let trust = owner_only();
    let used = submitter_certificate();
    trust.present(&used, now()).unwrap();
    let issue = |n: u16, expires_at| {
        let mut seed = [7; 32];
        seed[..2].copy_from_slice(&n.to_le_bytes());
        certificate(Identity::from_seed(&seed).peer_id(), &[Role::Runner], &["sal"], expires_at)
    };
    for n in 0..4200u16 {
        let certificate = issue(n, later());
        // Signing and verifying thousands would only take time here.
        let envelope = Envelope::sign(&owner(), PayloadType::Member, n.to_le_bytes().to_vec());
        let seen = Seen::new(certificate, envelope.digest(), vec![owner().peer_id()]);
        trust.write().certificates.insert(seen, now());
        assert!(trust.allows(alice(), Role::Submitter, now()), "what is used stays, {n}");
    }
    let first = issue(0, later()).peer_id;
    let last = issue(4199, later()).peer_id;
    assert!(!trust.known(first, now()) && trust.known(last, now()));
}

#[test]
fn a_policy_that_others_can_write_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("trust.toml");
    fs::write(&path, "").unwrap();
    for mode in [0o666, 0o646, 0o664, 0o620] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let error = Trust::open(&path).unwrap_err().to_string();
        assert!(error.contains("chmod go-w"), "{error}");
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    Trust::open(&path).unwrap();

    for (owner, user) in [(0, 0), (0, 1000), (1000, 1000)] {
        policy::owned(&path, owner, user).unwrap();
    }
    for (owner, user) in [(1001, 1000), (1000, 0)] {
        let error = policy::owned(&path, owner, user).unwrap_err().to_string();
        assert!(error.contains(&format!("chown {user} ")), "{error}");
    }
    // Only root can give a file away.
    if nix::unistd::geteuid().is_root() {
        std::os::unix::fs::chown(&path, Some(12_345), None).unwrap();
        assert!(matches!(Trust::open(&path), Err(TrustError::Owned { owner: 12_345, .. })));
    }
}
