use super::*;
use crate::identity::Identity;
use crate::role::Role;
use std::os::unix::fs::symlink;

fn id(seed: u8) -> PeerId {
    Identity::from_seed(&[seed; 32]).peer_id()
}

fn key(seed: u8, roles: &[Role], runners: &[&str]) -> TrustedKey {
    TrustedKey {
        id: id(seed),
        name: Some(format!("key {seed}")),
        roles: roles.to_vec(),
        runners: runners.iter().map(|text| text.parse().unwrap()).collect(),
    }
}

struct File {
    _dir: tempfile::TempDir,
    path: PathBuf,
}

fn file(text: &str) -> File {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("trust.toml");
    if !text.is_empty() {
        fs::write(&path, text).unwrap();
    }
    File { _dir: dir, path }
}

fn text(file: &File) -> String {
    fs::read_to_string(&file.path).unwrap()
}

fn written() -> String {
    format!(
        "# The policy of our house.\n# Ask Ann before you change it.\n\n\
         # Ann's laptop\n[[key]]\nid = \"{}\" # fingerprint checked by phone\nroles = [\"owner\"] # the only one\nrunners = []\n\n\
         # --- build hosts ---\n\n# the old one\n[[key]]\nid = \"{}\"\nname = 'old'\nroles = ['submitter']\nrunners = [\"hero\"]\n\n\
         [[key]]\nid = \"{}\"\nroles = [\"runner\"]\n\n# the end\n",
        id(1),
        id(2),
        id(3)
    )
}

#[test]
fn a_new_file_gets_a_header_and_the_key() {
    let file = file("");
    let ann = key(1, &[Role::Owner, Role::Submitter], &["*"]);
    assert!(TrustPolicy::add(&file.path, &ann).unwrap());
    assert_eq!(TrustPolicy::load(&file.path).unwrap().keys, [ann]);
    assert_eq!(
        text(&file),
        format!(
            "{HEADER}\n[[key]]\nid = \"{}\"\nname = \"key 1\"\nroles = [\"owner\", \"submitter\"]\nrunners = [\"*\"]\n",
            id(1)
        )
    );
}

#[test]
fn adding_a_key_changes_nothing_else() {
    let file = file(&written());
    let new = key(4, &[Role::Observer], &[]);
    assert!(TrustPolicy::add(&file.path, &new).unwrap());
    let after = text(&file);
    for line in written().lines() {
        assert!(after.contains(line), "{line}\nis missing in\n{after}");
    }
    assert!(after.starts_with(written().trim_end_matches("\n# the end\n")), "{after}");
    assert_eq!(TrustPolicy::load(&file.path).unwrap().keys.last(), Some(&new));
}

#[test]
fn adding_a_key_again_replaces_its_entry_in_place() {
    let file = file(&written());
    assert!(!TrustPolicy::add(&file.path, &key(1, &[Role::Owner, Role::Observer], &["sal"])).unwrap());
    let policy = TrustPolicy::load(&file.path).unwrap();
    assert_eq!(policy.keys.len(), 3);
    assert_eq!(policy.keys[0], key(1, &[Role::Owner, Role::Observer], &["sal"]));
    let after = text(&file);
    for kept in ["# Ann's laptop\n[[key]]", "# fingerprint checked by phone", "# the only one", "# the end"] {
        assert!(after.contains(kept), "{kept}\nis missing in\n{after}");
    }
    let before = after;
    assert!(!TrustPolicy::add(&file.path, &key(1, &[Role::Owner, Role::Observer], &["sal"])).unwrap());
    assert_eq!(text(&file), before);
}

#[test]
fn removing_a_key_takes_its_comment_along_and_no_other() {
    let file = file(&written());
    assert!(TrustPolicy::remove(&file.path, id(2)).unwrap());
    let after = text(&file);
    assert!(!after.contains("the old one") && after.contains("--- build hosts ---"), "{after}");
    assert!(TrustPolicy::remove(&file.path, id(1)).unwrap());
    let after = text(&file);
    assert!(after.starts_with("# The policy of our house.\n# Ask Ann before you change it.\n"), "{after}");
    assert!(!after.contains("laptop"), "{after}");
    assert!(TrustPolicy::remove(&file.path, id(3)).unwrap());
    let after = text(&file);
    for kept in ["# The policy of our house.", "--- build hosts ---", "# the end"] {
        assert!(after.contains(kept), "{kept}\nis missing in\n{after}");
    }
    assert!(TrustPolicy::load(&file.path).unwrap().keys.is_empty());
    assert!(!TrustPolicy::remove(&file.path, id(3)).unwrap());
    assert_eq!(text(&file), after);
}

#[test]
fn revocations_are_added_once() {
    let file = file(&written());
    let digest = crate::Digest::of(b"certificate");
    assert!(TrustPolicy::revoke(&file.path, Revocation::Id(id(2))).unwrap());
    assert!(TrustPolicy::revoke(&file.path, Revocation::Certificate(digest)).unwrap());
    let after = text(&file);
    assert!(!TrustPolicy::revoke(&file.path, Revocation::Id(id(2))).unwrap());
    assert_eq!(text(&file), after);
    let policy = TrustPolicy::load(&file.path).unwrap();
    assert_eq!(policy.revoked, [Revocation::Id(id(2)), Revocation::Certificate(digest)]);
    assert_eq!(policy.keys.len(), 3);
}

#[test]
fn a_file_that_is_not_valid_is_left_alone() {
    let bad = "[[key]]\nid = \"nobody\"\n";
    let inline = format!("key = [{{ id = \"{}\", roles = [] }}]\n", id(1));
    for text_before in [bad, &inline] {
        let file = file(text_before);
        assert!(TrustPolicy::add(&file.path, &key(4, &[], &[])).is_err());
        assert_eq!(text(&file), text_before);
    }
    let file = file(&written());
    let bad_name = TrustedKey { name: Some("\u{7}".into()), ..key(4, &[], &[]) };
    assert!(TrustPolicy::add(&file.path, &bad_name).is_err());
    assert_eq!(text(&file), written());
}

#[test]
fn mode_and_link_stay() {
    let file = file(&written());
    fs::set_permissions(&file.path, fs::Permissions::from_mode(0o640)).unwrap();
    let link = file.path.with_file_name("link.toml");
    symlink(&file.path, &link).unwrap();
    TrustPolicy::add(&link, &key(4, &[Role::Runner], &["sal"])).unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(fs::metadata(&file.path).unwrap().permissions().mode() & 0o777, 0o640);
    assert!(TrustPolicy::load(&file.path).unwrap().key(&id(4)).is_some());
}

#[test]
fn of_many_edits_at_once_none_is_lost() {
    let file = file("");
    std::thread::scope(|scope| {
        for seed in 1..=12u8 {
            let path = &file.path;
            scope.spawn(move || TrustPolicy::add(path, &key(seed, &[Role::Runner], &["sal"])).unwrap());
        }
    });
    assert_eq!(TrustPolicy::load(&file.path).unwrap().keys.len(), 12);
}
