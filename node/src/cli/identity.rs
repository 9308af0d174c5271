//! Which keys a command acts with: directories, passphrases, trust policy, certificate.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use horus_keys::{Envelope, KeyDir, KeyDirError, PeerId, Trust};
use zeroize::Zeroizing;

/// Environment variable that holds the passphrase where nobody can be asked.
const PASSPHRASE: &str = "HORUS_PASSPHRASE";

/// The identity directory: as given, else the default.
///
/// # Errors
/// No home directory is known.
pub fn resolve_dir(given: Option<&Path>) -> Result<PathBuf> {
    match given {
        Some(dir) => Ok(dir.to_owned()),
        None => horus_keys::default_dir().context("neither XDG_CONFIG_HOME nor HOME is set: give --identity DIR"),
    }
}

/// Loads the keys in a directory, asking for the passphrase if they have one.
///
/// # Errors
/// There are none (tells how to make some), they cannot be read, or the passphrase is wrong.
pub fn load(dir: &Path) -> Result<KeyDir> {
    let keys = load_by(KeyDir::load, dir)?;
    if KeyDir::has_empty_certificate(dir) {
        eprintln!(
            "horus: {} is empty, which counts as no certificate: put there what `horus keys certify` printed, or remove it",
            dir.join("cert.json").display()
        );
    }
    Ok(keys)
}

/// Loads the keys without their certificate, be it good or not: for commands that work on the keys themselves.
///
/// # Errors
/// As [`load`].
pub fn load_uncertified(dir: &Path) -> Result<KeyDir> {
    load_by(KeyDir::load_uncertified, dir)
}

/// What a key's passphrase comes from.
type Ask = fn() -> Result<Option<Zeroizing<String>>, String>;

fn load_by(load: fn(&Path, Ask) -> Result<KeyDir, KeyDirError>, dir: &Path) -> Result<KeyDir> {
    if !KeyDir::exists(dir) {
        bail!("there is no identity in {0}: make one with `horus keys generate --dir {0}`", dir.display());
    }
    load(dir, || ask_passphrase("Passphrase: ").map(Some).map_err(|e| format!("{e:#}")))
        .with_context(|| format!("cannot use the identity in {}", dir.display()))
}

/// The name of the key in a directory; a passphrase is asked for only where it is not written down beside the key.
///
/// # Errors
/// As [`load`].
pub fn load_peer_id(dir: &Path) -> Result<PeerId> {
    match KeyDir::summary_of(dir) {
        Ok(summary) => Ok(summary.peer_id),
        Err(_) => Ok(load(dir)?.identity.peer_id()),
    }
}

/// The certificate to present: as given, else the one in the directory.
///
/// # Errors
/// A file that cannot be read or is no envelope.
pub fn certificate(given: Option<&Path>, keys: &KeyDir) -> Result<Option<Envelope>> {
    let Some(path) = given else { return Ok(keys.certificate.clone()) };
    let bytes = read_bounded(path, 64 * 1024)?;
    let envelope = Envelope::from_json(&bytes).with_context(|| format!("{} is no certificate", path.display()))?;
    Ok(Some(envelope))
}

/// The trust policy: as given, else `trust.toml` in the identity directory.
///
/// # Errors
/// The file that was given is missing, or it does not parse.
pub fn trust(given: Option<&Path>, identity_dir: &Path) -> Result<Trust> {
    let path = match given {
        Some(path) if !path.exists() => bail!(
            "there is no trust policy at {0}: make one with `horus keys trust add PEER_ID --role ROLE --trust {0}`",
            path.display()
        ),
        Some(path) => path.to_owned(),
        None => identity_dir.join("trust.toml"),
    };
    Trust::open(&path).with_context(|| format!("cannot use the trust policy {}", path.display()))
}

/// The passphrase from the environment, else from the terminal.
///
/// # Errors
/// There is no terminal to ask on.
pub fn ask_passphrase(prompt: &str) -> Result<Zeroizing<String>> {
    if let Ok(passphrase) = std::env::var(PASSPHRASE) {
        return Ok(Zeroizing::new(passphrase));
    }
    let typed = rpassword::prompt_password(prompt)
        .with_context(|| format!("the key has a passphrase and there is no terminal to ask on: set {PASSPHRASE}"))?;
    Ok(Zeroizing::new(typed))
}

/// A new passphrase: from the environment, else typed twice.
///
/// # Errors
/// There is no terminal, the two differ, or it is empty.
pub fn new_passphrase() -> Result<Zeroizing<String>> {
    let first = ask_passphrase("New passphrase: ")?;
    if first.is_empty() {
        bail!("an empty passphrase protects nothing: leave --passphrase out, or give one");
    }
    if std::env::var_os(PASSPHRASE).is_none() && *ask_passphrase("Once more: ")? != *first {
        bail!("the two passphrases differ: nothing was written");
    }
    Ok(first)
}

/// Reads a file, or standard input for `-`, of at most `limit` bytes.
///
/// # Errors
/// It cannot be read or is longer.
pub fn read_bounded(path: &Path, limit: u64) -> Result<Vec<u8>> {
    use std::io::Read as _;
    let shown = path.display();
    let mut bytes = Vec::new();
    let read = if path == Path::new("-") {
        std::io::stdin().lock().take(limit + 1).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(path).and_then(|f| f.take(limit + 1).read_to_end(&mut bytes))
    };
    read.with_context(|| format!("cannot read {shown}"))?;
    if bytes.len() as u64 > limit {
        bail!("{shown} is longer than the {limit} bytes that are allowed");
    }
    Ok(bytes)
}

/// Reads UTF-8 text, as [`read_bounded`].
///
/// # Errors
/// As there, or the text is no UTF-8.
pub fn read_text(path: &Path, limit: u64) -> Result<String> {
    String::from_utf8(read_bounded(path, limit)?)
        .map_err(|e| anyhow::anyhow!("{} is no UTF-8 text: byte {}", path.display(), e.utf8_error().valid_up_to()))
}
