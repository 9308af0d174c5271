use super::*;
use crate::role::Role;
use crate::timestamp::Timestamp;
use std::os::unix::fs::symlink;

fn alice() -> Identity {
    Identity::from_seed(&[1; 32])
}

fn bob() -> Identity {
    Identity::from_seed(&[2; 32])
}

fn never() -> Result<Option<Zeroizing<String>>, String> {
    panic!("nobody must be asked for the passphrase of a plain key")
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

/// The names in a directory, sorted.
fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

struct Dir {
    _temporary: tempfile::TempDir,
    path: PathBuf,
}

fn dir() -> Dir {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("a/keys");
    Dir { _temporary: temporary, path }
}

fn whole() -> (Dir, KeyDir) {
    let dir = dir();
    let keys = KeyDir::create(&dir.path, alice(), None, false).unwrap();
    (dir, keys)
}

#[test]
fn what_was_made_is_loaded() {
    let (dir, made) = whole();
    let loaded = KeyDir::load(&dir.path, never).unwrap();
    assert_eq!(loaded.summary(), made.summary());
    assert_eq!(loaded.identity.peer_id(), alice().peer_id());
    assert!(KeyDir::exists(&dir.path) && !KeyDir::is_encrypted(&dir.path).unwrap());
    assert_eq!(names(&dir.path), [IDENTITY, MESH, PEER_ID, SEALING]);
    assert_eq!(fs::read(dir.path.join(MESH)).unwrap(), *alice().mesh_secret());
    assert_eq!(mode(&dir.path), 0o700);
    for name in [IDENTITY, MESH, SEALING] {
        assert_eq!(mode(&dir.path.join(name)), 0o600, "{name}");
    }
}

#[test]
fn the_summary_is_that_of_the_contract() {
    let (_dir, keys) = whole();
    let json = serde_json::to_value(keys.summary()).unwrap();
    assert_eq!(json["peer_id"], alice().peer_id().to_string());
    assert_eq!(json["public_key"], hex::encode(alice().peer_id().public_key()));
    assert_eq!(json["overlay_ip"], alice().peer_id().overlay_address().to_string());
    assert_eq!(json["mesh_public_key"].as_str().unwrap().len(), 64);
    assert_ne!(json["sealing_public_key"], json["mesh_public_key"]);
}

#[test]
fn keys_are_replaced_by_force_only() {
    let (dir, made) = whole();
    assert!(matches!(KeyDir::create(&dir.path, bob(), None, false), Err(KeyDirError::Exists(_))));
    assert_eq!(KeyDir::load(&dir.path, never).unwrap().summary(), made.summary());
    KeyDir::create(&dir.path, bob(), None, true).unwrap();
    let loaded = KeyDir::load(&dir.path, never).unwrap();
    assert_eq!(loaded.identity.peer_id(), bob().peer_id());
    assert_ne!(loaded.sealing.public(), made.sealing.public());
    assert_eq!(names(&dir.path), [IDENTITY, MESH, PEER_ID, SEALING]);
}

#[test]
fn a_key_that_somebody_put_there_is_not_overwritten() {
    let dir = dir();
    fs::create_dir_all(&dir.path).unwrap();
    fs::write(dir.path.join(MESH), [5; 32]).unwrap();
    let error = KeyDir::create(&dir.path, alice(), None, false).unwrap_err();
    assert!(matches!(&error, KeyDirError::Exists(path) if path.ends_with(MESH)), "{error}");
    assert_eq!(fs::read(dir.path.join(MESH)).unwrap(), [5; 32]);
    assert!(!KeyDir::exists(&dir.path));
}

#[test]
fn a_passphrase_is_asked_for_and_checked() {
    let dir = dir();
    KeyDir::create(&dir.path, alice(), Some("correct horse"), false).unwrap();
    assert!(KeyDir::is_encrypted(&dir.path).unwrap());
    let load = |passphrase: Result<Option<&str>, &str>| {
        KeyDir::load(&dir.path, || passphrase.map(|p| p.map(|p| Zeroizing::new(p.to_owned()))).map_err(str::to_owned))
    };
    assert_eq!(load(Ok(Some("correct horse"))).unwrap().identity.peer_id(), alice().peer_id());
    let error = load(Ok(Some("wrong"))).unwrap_err();
    assert!(matches!(error, KeyDirError::Key { source: KeyError::WrongPassphrase, .. }), "{error}");
    let error = load(Ok(None)).unwrap_err();
    assert!(matches!(error, KeyDirError::Key { source: KeyError::PassphraseNeeded, .. }), "{error}");
    let error = load(Err("no terminal")).unwrap_err();
    assert!(error.to_string().contains("no terminal"), "{error}");
}

/// `mesh.key` is enough to sign with: beside an encrypted identity it would void the passphrase.
#[test]
fn a_passphrase_is_not_voided_by_a_mesh_key_in_the_clear() {
    let (dir, plain) = whole();
    let encrypted = KeyDir::create(&dir.path, alice(), Some("p"), true).unwrap();
    assert_eq!(names(&dir.path), [IDENTITY, PEER_ID, SEALING]);
    assert_eq!(encrypted.summary(), plain.summary());
    let loaded = KeyDir::load(&dir.path, || Ok(Some(Zeroizing::new("p".into())))).unwrap();
    assert_eq!(loaded.summary(), plain.summary());

    let mesh = dir.path.with_file_name("mesh-for-the-daemon");
    loaded.export_mesh_key(&mesh).unwrap();
    assert_eq!((fs::read(&mesh).unwrap().as_slice(), mode(&mesh)), (alice().mesh_secret().as_slice(), 0o600));
}

#[test]
fn the_summary_needs_no_passphrase() {
    let dir = dir();
    let made = KeyDir::create(&dir.path, alice(), Some("p"), false).unwrap();
    assert_eq!(KeyDir::summary_of(&dir.path).unwrap(), made.summary());
    KeyDir::save_binding(&dir.path, &Binding::prove(&alice(), &[5; 32])).unwrap();
    let bound = KeyDir::summary_of(&dir.path).unwrap();
    assert_eq!(bound.mesh_public_key, MeshPublicKey::of_secret(&[5; 32]));

    let (plain, made) = whole();
    assert_eq!(KeyDir::summary_of(&plain.path).unwrap(), made.summary());
    fs::write(plain.path.join(".incomplete"), "started").unwrap();
    assert!(matches!(KeyDir::summary_of(&plain.path), Err(KeyDirError::Incomplete(_))));
}

#[test]
fn a_name_that_is_not_the_keys_is_refused() {
    let (dir, _) = whole();
    fs::write(dir.path.join(PEER_ID), bob().peer_id().to_string()).unwrap();
    let error = KeyDir::load(&dir.path, never).unwrap_err();
    assert!(matches!(error, KeyDirError::ForeignDocument { .. }), "{error}");
    fs::remove_file(dir.path.join(PEER_ID)).unwrap();
    KeyDir::load(&dir.path, never).unwrap();
}

#[test]
fn another_passphrase_for_the_same_identity_keeps_what_belongs_to_it() {
    let (dir, made) = whole();
    KeyDir::save_binding(&dir.path, &Binding::prove(&alice(), &[5; 32])).unwrap();
    KeyDir::create(&dir.path, alice(), Some("p"), true).unwrap();
    let loaded = KeyDir::load(&dir.path, || Ok(Some(Zeroizing::new("p".into())))).unwrap();
    assert_eq!(loaded.sealing.public(), made.sealing.public());
    assert!(loaded.binding.is_some());
    // But not for another one.
    let replaced = KeyDir::create(&dir.path, bob(), None, true).unwrap();
    assert!(replaced.binding.is_none());
    assert_ne!(replaced.sealing.public(), made.sealing.public());
}

#[test]
fn secrets_that_others_can_read_are_refused() {
    let (dir, _) = whole();
    for name in [IDENTITY, MESH, SEALING] {
        let path = dir.path.join(name);
        for bad in [0o640, 0o604, 0o620, 0o610, 0o666] {
            fs::set_permissions(&path, Permissions::from_mode(bad)).unwrap();
            let error = KeyDir::load(&dir.path, never).unwrap_err();
            assert!(matches!(error, KeyDirError::Exposed { mode, .. } if mode == bad), "{name}: {error}");
            assert!(error.to_string().contains("chmod 600"), "{error}");
        }
        fs::set_permissions(&path, Permissions::from_mode(0o400)).unwrap();
    }
    KeyDir::load(&dir.path, never).unwrap();
}

#[test]
fn damaged_and_mixed_up_directories_are_refused() {
    let damage = |name: &str, bytes: &[u8]| {
        let (dir, _) = whole();
        fs::write(dir.path.join(name), bytes).unwrap();
        KeyDir::load(&dir.path, never).unwrap_err()
    };
    assert!(matches!(damage(MESH, &[1; 31]), KeyDirError::WrongSize { found: 31, .. }));
    assert!(matches!(damage(SEALING, &[1; 33]), KeyDirError::WrongSize { found: 33, .. }));
    assert!(matches!(damage(MESH, &[1; 32]), KeyDirError::MeshMismatch { .. }));
    assert!(matches!(damage(IDENTITY, b"\xff"), KeyDirError::Key { .. }));
    assert!(matches!(damage(IDENTITY, &[b'A'; MAX_PEM_BYTES + 1]), KeyDirError::Io { .. }));
    let others = bob().to_pkcs8_pem(None).unwrap();
    assert!(matches!(damage(IDENTITY, others.as_bytes()), KeyDirError::ForeignDocument { .. }));
    for name in [IDENTITY, MESH, SEALING] {
        let (dir, _) = whole();
        fs::remove_file(dir.path.join(name)).unwrap();
        let error = KeyDir::load(&dir.path, never).unwrap_err();
        assert!(matches!(&error, KeyDirError::Missing { path, .. } if path.ends_with(name)), "{error}");
    }
}

#[test]
fn links_are_followed() {
    let (dir, made) = whole();
    let link = dir.path.with_file_name("link");
    symlink(&dir.path, &link).unwrap();
    let elsewhere = dir.path.with_file_name("elsewhere.pem");
    fs::rename(dir.path.join(IDENTITY), &elsewhere).unwrap();
    symlink(&elsewhere, dir.path.join(IDENTITY)).unwrap();
    assert_eq!(KeyDir::load(&link, never).unwrap().summary(), made.summary());
}

/// Whatever `create` had written when it was killed: nobody takes it for whole, and it can be made anew.
#[test]
fn a_half_made_directory_is_refused_and_can_be_made_again() {
    let (source, _) = whole();
    let steps: [&[&str]; 5] =
        [&[], &[".mesh.key.new"], &[MESH], &[MESH, SEALING, ".identity.pem.new"], &[MESH, SEALING, IDENTITY]];
    for there in steps {
        let dir = dir();
        fs::create_dir_all(&dir.path).unwrap();
        fs::write(dir.path.join(".incomplete"), "started").unwrap();
        for name in there {
            let from = if name.starts_with('.') { IDENTITY } else { name };
            fs::copy(source.path.join(from), dir.path.join(name)).unwrap();
        }
        assert!(!KeyDir::exists(&dir.path), "{there:?}");
        let error = KeyDir::load(&dir.path, never).unwrap_err();
        assert!(matches!(error, KeyDirError::Incomplete(_)), "{there:?}: {error}");
        KeyDir::create(&dir.path, bob(), None, false).unwrap();
        assert_eq!(KeyDir::load(&dir.path, never).unwrap().identity.peer_id(), bob().peer_id());
        assert_eq!(names(&dir.path), [IDENTITY, MESH, PEER_ID, SEALING], "{there:?}");
    }
}

#[test]
fn a_replacement_that_was_interrupted_mixes_no_keys() {
    let (dir, _) = whole();
    // Killed after the new mesh.key, before the new identity.
    fs::write(dir.path.join(".incomplete"), "started").unwrap();
    fs::write(dir.path.join(MESH), *bob().mesh_secret()).unwrap();
    assert!(matches!(KeyDir::load(&dir.path, never), Err(KeyDirError::Incomplete(_))));
    KeyDir::create(&dir.path, bob(), None, true).unwrap();
    assert_eq!(KeyDir::load(&dir.path, never).unwrap().identity.peer_id(), bob().peer_id());
}

#[test]
fn of_many_that_make_keys_at_once_one_wins() {
    let dir = dir();
    let results: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8u8)
            .map(|seed| {
                let path = &dir.path;
                scope.spawn(move || KeyDir::create(path, Identity::from_seed(&[seed + 1; 32]), None, false))
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let mut winners = results.iter().filter_map(|result| result.as_ref().ok());
    let winner = winners.next().expect("one makes the keys");
    assert!(winners.next().is_none());
    assert!(results.iter().filter_map(|r| r.as_ref().err()).all(|e| matches!(e, KeyDirError::Exists(_))));
    assert_eq!(KeyDir::load(&dir.path, never).unwrap().summary(), winner.summary());
    assert_eq!(names(&dir.path), [IDENTITY, MESH, PEER_ID, SEALING]);
}

#[test]
fn certificate_and_binding_are_kept_and_must_be_our_own() {
    let (dir, _) = whole();
    let certificate = Certificate {
        peer_id: alice().peer_id(),
        name: None,
        roles: vec![Role::Submitter],
        runners: vec![],
        expires_at: Timestamp::from_millis(0),
    };
    let signed = certificate.sign(&bob()).unwrap();
    KeyDir::save_certificate(&dir.path, &signed).unwrap();
    let daemon = [5; 32];
    KeyDir::save_binding(&dir.path, &Binding::prove(&alice(), &daemon)).unwrap();

    let loaded = KeyDir::load(&dir.path, never).unwrap();
    assert_eq!(loaded.certificate, Some(signed.clone()));
    assert_eq!(loaded.mesh_public_key, MeshPublicKey::of_secret(&daemon));
    assert_eq!(loaded.summary().overlay_ip, loaded.mesh_public_key.overlay_address());
    // The daemon's own key may then lie there in place of ours.
    fs::write(dir.path.join(MESH), daemon).unwrap();
    KeyDir::load(&dir.path, never).unwrap();

    assert!(KeyDir::save_certificate(&dir.path, &Binding::prove(&alice(), &daemon)).is_err());
    assert!(KeyDir::save_binding(&dir.path, &signed).is_err());

    KeyDir::save_binding(&dir.path, &Binding::prove(&bob(), &daemon)).unwrap();
    let error = KeyDir::load(&dir.path, never).unwrap_err();
    assert!(matches!(error, KeyDirError::ForeignDocument { .. }), "{error}");
    fs::write(dir.path.join(BINDING), "{}").unwrap();
    let error = KeyDir::load(&dir.path, never).unwrap_err();
    assert!(matches!(error, KeyDirError::Document { .. }), "{error}");
}

#[test]
fn a_bad_certificate_keeps_nobody_from_the_keys() {
    let (dir, whole) = whole();
    let path = dir.path.join(CERTIFICATE);
    for empty in ["", "\n"] {
        fs::write(&path, empty).unwrap();
        assert!(KeyDir::has_empty_certificate(&dir.path));
        assert_eq!(KeyDir::load(&dir.path, never).unwrap().certificate, None, "it counts as none");
    }
    fs::write(&path, "horus: no such key").unwrap();
    assert!(!KeyDir::has_empty_certificate(&dir.path));
    let error = KeyDir::load(&dir.path, never).unwrap_err();
    assert!(matches!(error, KeyDirError::Document { .. }), "{error}");
    let message = error.to_string();
    assert!(message.contains("cert.json") && message.contains("remove the file"), "{message}");
    let keys = KeyDir::load_uncertified(&dir.path, never).unwrap();
    assert_eq!((keys.summary(), keys.certificate), (whole.summary(), None));
    assert_eq!(KeyDir::summary_of(&dir.path).unwrap(), whole.summary());
    fs::remove_file(&path).unwrap();
    assert!(!KeyDir::has_empty_certificate(&dir.path));
}

#[test]
fn debug_shows_no_secret() {
    let (_dir, keys) = whole();
    let shown = format!("{keys:?}");
    for secret in [alice().seed(), alice().mesh_secret(), keys.sealing.to_bytes()] {
        assert!(!shown.contains(&hex::encode(*secret)) && !shown.contains(&format!("{secret:?}")), "{shown}");
    }
}
