//! What has to lie on disk before anything starts: keys for the host and for every role, and who trusts whom.

use std::{
    collections::BTreeMap,
    fs::File,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use horus_keys::{Identity, KeyDir, PeerId, Role, RunnerPattern, TrustPolicy, TrustedKey};
use nix::fcntl::{Flock, FlockArg};

/// The keys that `up` makes: the host's, and one of its own for every role.
pub const ROLES: [&str; 7] =
    ["host", "supervisor", "coordinator", "runner-hero", "runner-sal", "runner-osiris", "runner-noop"];

/// A role and its key.
#[derive(Debug, Clone)]
pub struct RoleKeys {
    /// Directory of the key.
    pub dir: PathBuf,
    /// Its name.
    pub peer_id: PeerId,
}

/// Everything that lies ready.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The policy that every role of this Horus reads.
    pub trust_file: PathBuf,
    /// The user who was trusted.
    pub user: PeerId,
    /// The user's identity directory.
    pub user_dir: PathBuf,
    /// By role name.
    pub keys: BTreeMap<String, RoleKeys>,
}

impl Setup {
    /// Directory of a role's keys.
    pub fn key_dir(&self, role: &str) -> &Path {
        &self.keys[role].dir
    }

    /// Name of a role's key.
    pub fn peer_id(&self, role: &str) -> PeerId {
        self.keys[role].peer_id
    }
}

/// Makes what is missing and leaves what is there as it is, so that it can be killed and run again at any point.
///
/// # Errors
/// A directory that cannot be made, a key that cannot be read, a policy that does not parse.
pub(super) fn prepare(data_dir: &Path, identity_dir: &Path) -> Result<Setup> {
    make_dir(data_dir)?;
    make_dir(&data_dir.join("keys"))?;
    let mut keys = BTreeMap::new();
    for role in ROLES {
        let dir = data_dir.join("keys").join(role);
        let peer_id = ensure_identity(&dir)?;
        keys.insert(role.to_owned(), RoleKeys { dir, peer_id });
    }
    let user = ensure_identity(identity_dir)?;
    let trust_file = data_dir.join("trust.toml");
    let setup = Setup { trust_file, user, user_dir: identity_dir.to_owned(), keys };
    trust_each_other(&setup)?;
    Ok(setup)
}

/// One `up` per data directory.
///
/// # Errors
/// Another one is running there.
pub(super) fn lock(data_dir: &Path) -> Result<Flock<File>> {
    let path = data_dir.join("up.lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, _)| {
        anyhow::anyhow!(
            "a `horus up` is running on {} already: stop it, or give another --data-dir",
            data_dir.display()
        )
    })
}

fn make_dir(path: &Path) -> Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| format!("cannot make the directory {}: choose another with --data-dir", path.display()))
}

fn ensure_identity(dir: &Path) -> Result<PeerId> {
    if KeyDir::exists(dir) {
        return crate::cli::identity::load_peer_id(dir);
    }
    let made = KeyDir::create(dir, Identity::generate(), None, false)
        .with_context(|| format!("cannot make an identity in {}", dir.display()))?;
    Ok(made.identity.peer_id())
}

/// The roles trust the user and each other, each for what it does and nothing more; the user's own policy learns
/// the runners, whose receipts the command line checks.
fn trust_each_other(setup: &Setup) -> Result<()> {
    let all = [RunnerPattern::Any];
    let mut wanted = vec![
        key(setup.user, "user", &[Role::Owner, Role::Submitter, Role::Operator], &all),
        key(setup.peer_id("supervisor"), "supervisor", &[Role::Supervisor], &all),
        key(setup.peer_id("coordinator"), "coordinator", &[Role::Coordinator], &all),
    ];
    let mut runners = Vec::new();
    for kind in ["hero", "sal", "osiris", "noop"] {
        let name = format!("runner-{kind}");
        runners.push(key(
            setup.peer_id(&name),
            &name,
            &[Role::Runner],
            &[RunnerPattern::Kind(kind.parse().context("a runner kind")?)],
        ));
    }
    wanted.extend(runners.iter().cloned());
    add_missing(&setup.trust_file, &wanted)?;
    runners.push(key(setup.peer_id("supervisor"), "supervisor", &[Role::Supervisor], &all));
    runners.push(key(setup.peer_id("coordinator"), "coordinator", &[Role::Coordinator], &all));
    add_missing(&setup.user_dir.join("trust.toml"), &runners)
}

/// Adds what is not there: an entry that its owner has changed stays as it is.
fn add_missing(file: &Path, wanted: &[TrustedKey]) -> Result<()> {
    let policy = TrustPolicy::load(file).with_context(|| format!("cannot read the trust policy {}", file.display()))?;
    for entry in wanted {
        if !policy.keys.iter().any(|k| k.id == entry.id) {
            TrustPolicy::add(file, entry)
                .with_context(|| format!("cannot write the trust policy {}", file.display()))?;
        }
    }
    Ok(())
}

fn key(id: PeerId, name: &str, roles: &[Role], runners: &[RunnerPattern]) -> TrustedKey {
    TrustedKey { id, name: Some(name.to_owned()), roles: roles.to_vec(), runners: runners.to_vec() }
}

/// The data directory when none is given: `$XDG_DATA_HOME/horus`, else `~/.local/share/horus`.
///
/// # Errors
/// Neither variable is set.
pub fn default_data_dir() -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os("XDG_DATA_HOME").filter(|d| !d.is_empty()) {
        return Ok(PathBuf::from(dir).join("horus"));
    }
    match std::env::var_os("HOME").filter(|d| !d.is_empty()) {
        Some(home) => Ok(PathBuf::from(home).join(".local/share/horus")),
        None => bail!("neither XDG_DATA_HOME nor HOME is set: give --data-dir"),
    }
}
