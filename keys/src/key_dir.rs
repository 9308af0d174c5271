//! Keys on disk: a directory with `identity.pem`, `mesh.key`, `sealing.key` and `peer_id`.
//!
//! `mesh.key` holds the secret scalar of the very key in `identity.pem` (see [`Identity::mesh_secret`]):
//! in the clear beside an encrypted `identity.pem` it would void the passphrase. So an identity with a
//! passphrase has no `mesh.key`; who wants a daemon to run on it exports one, knowing that.

mod error;
mod marker;

use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{self, Write};
use std::net::Ipv6Addr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::documents::{Binding, Certificate, DocumentError};
use crate::envelope::Envelope;
use crate::error::KeyError;
use crate::files;
use crate::identity::{Identity, is_encrypted_pem};
use crate::overlay::{MeshPublicKey, SealingPublicKey};
use crate::peer_id::PeerId;
use crate::sealed::SealingKey;
use error::io_error;
use marker::Marker;

pub use error::KeyDirError;

const IDENTITY: &str = "identity.pem";
const MESH: &str = "mesh.key";
const SEALING: &str = "sealing.key";
/// The name of the identity, in text: it can be shown without the passphrase.
const PEER_ID: &str = "peer_id";
const CERTIFICATE: &str = "cert.json";
const BINDING: &str = "binding.json";

const MAX_PEM_BYTES: usize = 64 * 1024;
const MAX_DOCUMENT_BYTES: usize = 64 * 1024;

/// The keys of one role, host or person, as they lie in a directory.
#[derive(Debug, Clone)]
pub struct KeyDir {
    /// `identity.pem`: who we are.
    pub identity: Identity,
    /// `sealing.key`: opens the secrets that are sealed to us.
    pub sealing: SealingKey,
    /// The public key of the host's Mycelium daemon: that of the binding, else the identity's own.
    pub mesh_public_key: MeshPublicKey,
    /// `cert.json`: what an owner certifies about us.
    pub certificate: Option<Envelope>,
    /// `binding.json`: ties a daemon with a key of its own to the identity.
    pub binding: Option<Envelope>,
}

/// What may be told about a directory of keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KeySummary {
    /// The name of the identity.
    pub peer_id: PeerId,
    /// Its Ed25519 public key, in hexadecimal.
    pub public_key: String,
    /// The public key of the Mycelium daemon.
    pub mesh_public_key: MeshPublicKey,
    /// The key to seal secrets to.
    pub sealing_public_key: SealingPublicKey,
    /// The overlay address of the daemon.
    pub overlay_ip: Ipv6Addr,
}

impl KeyDir {
    /// Writes the keys of `identity` and a new sealing key into `dir`, which is made (mode 0700) if it
    /// is not there. Files are 0600, written whole and synced. Interrupted at any point, the directory
    /// is taken by nobody for a whole one, and `create` can be run again.
    ///
    /// With `force`, keys of another identity are replaced, and its certificate and binding removed;
    /// for the same identity (a new passphrase) sealing key, certificate and binding are kept.
    ///
    /// With a passphrase no `mesh.key` is written: see [`KeyDir::export_mesh_key`].
    ///
    /// # Errors
    /// [`KeyDirError::Exists`] if any of the key files is there and `force` is not set.
    pub fn create(dir: &Path, identity: Identity, passphrase: Option<&str>, force: bool) -> Result<Self, KeyDirError> {
        let pem_path = dir.join(IDENTITY);
        let pem =
            identity.to_pkcs8_pem(passphrase).map_err(|source| KeyDirError::Key { path: pem_path.clone(), source })?;
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io_error("make", dir))?;

        let marker = Marker::lock(dir)?;
        if !force && !marker.was_started {
            for name in [IDENTITY, MESH, SEALING] {
                let path = dir.join(name);
                if path.symlink_metadata().is_ok() {
                    marker.finish()?;
                    return Err(KeyDirError::Exists(path));
                }
            }
        }
        let kept = if marker.was_started { None } else { sealing_key_of(dir, &identity) };
        marker.start()?;
        let sealing = match kept {
            Some(sealing) => sealing,
            None => {
                for name in [CERTIFICATE, BINDING] {
                    let path = dir.join(name);
                    files::remove_if_there(&path).map_err(io_error("remove", &path))?;
                }
                SealingKey::generate()
            }
        };
        if passphrase.is_some() {
            let path = dir.join(MESH);
            files::remove_if_there(&path).map_err(io_error("remove", &path))?;
        } else {
            write_key(dir, MESH, identity.mesh_secret().as_ref())?;
        }
        write_key(dir, PEER_ID, format!("{}\n", identity.peer_id()).as_bytes())?;
        write_key(dir, SEALING, sealing.to_bytes().as_ref())?;
        write_key(dir, IDENTITY, pem.as_bytes())?;
        let mut keys = Self::with_binding(dir, identity, sealing)?;
        keys.certificate = read_certificate(dir, keys.identity.peer_id())?;
        marker.finish()?;
        Ok(keys)
    }

    /// Reads a directory of keys. `passphrase` is called only if `identity.pem` is encrypted.
    ///
    /// # Errors
    /// [`KeyDirError`] if anything is missing, half made, readable or writable by others, or does not
    /// belong together. An expired certificate is no error: whoever is shown it decides. An empty one counts as none.
    pub fn load(
        dir: &Path,
        passphrase: impl FnOnce() -> Result<Option<Zeroizing<String>>, String>,
    ) -> Result<Self, KeyDirError> {
        let mut keys = Self::load_uncertified(dir, passphrase)?;
        keys.certificate = read_certificate(dir, keys.identity.peer_id())?;
        Ok(keys)
    }

    /// The same, but looks at no certificate: for work on the keys themselves, such as making a certificate that replaces a bad
    /// one.
    ///
    /// # Errors
    /// As [`KeyDir::load`].
    pub fn load_uncertified(
        dir: &Path,
        passphrase: impl FnOnce() -> Result<Option<Zeroizing<String>>, String>,
    ) -> Result<Self, KeyDirError> {
        if Marker::is_started(dir) {
            return Err(KeyDirError::Incomplete(dir.to_owned()));
        }
        let path = dir.join(IDENTITY);
        let pem = read_pem(dir)?;
        let key_error = |source| KeyDirError::Key { path: path.clone(), source };
        let identity = if is_encrypted_pem(&pem) {
            let passphrase = passphrase()
                .map_err(|reason| KeyDirError::Passphrase { path: path.clone(), reason })?
                .ok_or_else(|| key_error(KeyError::PassphraseNeeded))?;
            Identity::from_pkcs8_pem(&pem, Some(&passphrase))
        } else {
            Identity::from_pkcs8_pem(&pem, None)
        }
        .map_err(key_error)?;
        let sealing = SealingKey::from_bytes(&*read_key(dir, SEALING)?);
        let peer_id = identity.peer_id();
        if let Some(found) = read_peer_id(dir)?
            && found != peer_id
        {
            return Err(KeyDirError::ForeignDocument { path: dir.join(PEER_ID), found, peer_id });
        }
        let mesh = match read_key(dir, MESH) {
            Err(KeyDirError::Missing { .. }) if is_encrypted_pem(&pem) => None,
            other => Some(MeshPublicKey::of_secret(&*other?)),
        };
        let keys = Self::with_binding(dir, identity, sealing)?;
        if mesh.is_some_and(|mesh| mesh != peer_id.mesh_public_key() && mesh != keys.mesh_public_key) {
            return Err(KeyDirError::MeshMismatch { path: dir.join(MESH), peer_id });
        }
        Ok(keys)
    }

    /// What may be told about the keys in `dir`, read without a passphrase.
    ///
    /// # Errors
    /// [`KeyDirError`] if anything that this needs is missing, half made, or exposed to others.
    pub fn summary_of(dir: &Path) -> Result<KeySummary, KeyDirError> {
        let named = if Self::is_encrypted(dir)? { read_peer_id(dir)? } else { None };
        let Some(peer_id) = named else {
            return Self::load_uncertified(dir, || Ok(None)).map(|keys| keys.summary());
        };
        if Marker::is_started(dir) {
            return Err(KeyDirError::Incomplete(dir.to_owned()));
        }
        let sealing = SealingKey::from_bytes(&*read_key(dir, SEALING)?);
        let mesh_public_key = read_binding(dir, peer_id)?.map_or_else(|| peer_id.mesh_public_key(), |(_, mesh)| mesh);
        Ok(summarise(peer_id, mesh_public_key, sealing.public()))
    }

    /// Writes the key file of a Mycelium daemon that is to run on this identity: 32 raw bytes, mode 0600,
    /// for `mycelium -k`.
    ///
    /// Whoever reads that file can sign as this identity, passphrase or not.
    ///
    /// # Errors
    /// [`KeyDirError::Io`].
    pub fn export_mesh_key(&self, path: &Path) -> Result<(), KeyDirError> {
        files::replace(path, self.identity.mesh_secret().as_ref(), 0o600).map_err(io_error("write", path))
    }

    /// Whether `identity.pem` needs a passphrase.
    ///
    /// # Errors
    /// [`KeyDirError`] if it cannot be read.
    pub fn is_encrypted(dir: &Path) -> Result<bool, KeyDirError> {
        read_pem(dir).map(|pem| is_encrypted_pem(&pem))
    }

    /// Whether there is a whole identity. A half-made one does not count.
    #[must_use]
    pub fn exists(dir: &Path) -> bool {
        dir.join(IDENTITY).exists() && !Marker::is_started(dir)
    }

    /// What may be told about the keys.
    #[must_use]
    pub fn summary(&self) -> KeySummary {
        summarise(self.identity.peer_id(), self.mesh_public_key, self.sealing.public())
    }

    /// Keeps a certificate in `cert.json`, in place of an earlier one.
    ///
    /// # Errors
    /// [`KeyDirError::Document`] if it is none, [`KeyDirError::Io`].
    pub fn save_certificate(dir: &Path, certificate: &Envelope) -> Result<(), KeyDirError> {
        let path = dir.join(CERTIFICATE);
        Certificate::read(certificate).map_err(|source| KeyDirError::Document { path: path.clone(), source })?;
        save(&path, certificate)
    }

    /// Keeps a binding in `binding.json`, in place of an earlier one.
    ///
    /// # Errors
    /// [`KeyDirError::Document`] if it is none, [`KeyDirError::Io`].
    pub fn save_binding(dir: &Path, binding: &Envelope) -> Result<(), KeyDirError> {
        let path = dir.join(BINDING);
        Binding::check(binding).map_err(|source| KeyDirError::Document { path: path.clone(), source })?;
        save(&path, binding)
    }

    /// Whether a `cert.json` without content lies there, as a shell leaves it when the command fails whose output was to go there.
    #[must_use]
    pub fn has_empty_certificate(dir: &Path) -> bool {
        let read = files::read(&dir.join(CERTIFICATE), MAX_DOCUMENT_BYTES);
        read.is_ok_and(|contents| contents.bytes.iter().all(u8::is_ascii_whitespace))
    }

    /// Adds the binding, if it lies there, to the keys.
    fn with_binding(dir: &Path, identity: Identity, sealing: SealingKey) -> Result<Self, KeyDirError> {
        let peer_id = identity.peer_id();
        let binding = read_binding(dir, peer_id)?;
        let mesh_public_key = binding.as_ref().map_or_else(|| peer_id.mesh_public_key(), |(_, mesh)| *mesh);
        let binding = binding.map(|(envelope, _)| envelope);
        Ok(Self { identity, sealing, mesh_public_key, certificate: None, binding })
    }
}

/// Where keys lie if nothing else is said: `$XDG_CONFIG_HOME/horus`, else `~/.config/horus`. `None`
/// without a home.
#[must_use]
pub fn default_dir() -> Option<PathBuf> {
    // The XDG base directory specification: a relative path is to be ignored.
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_CONFIG_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".config")))
        .map(|config| config.join("horus"))
}

/// The sealing key in `dir`, if the keys there are those of `identity`: secrets may be under way to it.
fn sealing_key_of(dir: &Path, identity: &Identity) -> Option<SealingKey> {
    if read_peer_id(dir).ok()?? != identity.peer_id() {
        return None;
    }
    read_key(dir, SEALING).ok().map(|secret| SealingKey::from_bytes(&secret))
}

/// Writes a secret so that it is there whole or not at all. The temporary name is always the same, so
/// that interruptions leave no heap of secrets; the marker's lock keeps it ours.
fn write_key(dir: &Path, name: &str, bytes: &[u8]) -> Result<(), KeyDirError> {
    let path = dir.join(name);
    let temporary = dir.join(format!(".{name}.new"));
    let write = || {
        files::remove_if_there(&temporary)?;
        let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&temporary)?;
        file.set_permissions(Permissions::from_mode(0o600))?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, &path)?;
        files::sync_dir(dir)
    };
    write().map_err(io_error("write", &path))
}

fn save(path: &Path, document: &Envelope) -> Result<(), KeyDirError> {
    files::replace(path, document.to_json().as_bytes(), 0o600).map_err(io_error("write", path))
}

fn read_pem(dir: &Path) -> Result<Zeroizing<String>, KeyDirError> {
    let path = dir.join(IDENTITY);
    let bytes = read_secret(dir, &path, MAX_PEM_BYTES)?;
    match std::str::from_utf8(&bytes) {
        Ok(text) => Ok(Zeroizing::new(text.to_owned())),
        Err(_) => Err(KeyDirError::Key { path, source: KeyError::Pem("it is not text".into()) }),
    }
}

fn read_key(dir: &Path, name: &str) -> Result<Zeroizing<[u8; 32]>, KeyDirError> {
    let path = dir.join(name);
    let bytes = read_secret(dir, &path, MAX_PEM_BYTES)?;
    let found = bytes.len();
    let mut key = Zeroizing::new([0u8; 32]);
    if found != key.len() {
        return Err(KeyDirError::WrongSize { path, found });
    }
    key.copy_from_slice(&bytes);
    Ok(key)
}

/// The name in `peer_id`. A directory that people put together may have none.
fn read_peer_id(dir: &Path) -> Result<Option<PeerId>, KeyDirError> {
    let path = dir.join(PEER_ID);
    let contents = match files::read(&path, 1024) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(io_error("read", &path))?,
    };
    let text = String::from_utf8_lossy(&contents.bytes);
    text.trim().parse().map(Some).map_err(|source| KeyDirError::Key { path, source })
}

/// The certificate in `dir`, if there is one. An empty file is none: a shell empties it before the command that fills it runs.
fn read_certificate(dir: &Path, peer_id: PeerId) -> Result<Option<Envelope>, KeyDirError> {
    if KeyDir::has_empty_certificate(dir) {
        return Ok(None);
    }
    let read = |envelope: &Envelope| Certificate::read(envelope).map(|(_, found)| (found.peer_id, ()));
    Ok(read_document(&dir.join(CERTIFICATE), peer_id, read)?.map(|(envelope, ())| envelope))
}

/// The binding in `dir`, and the mesh key that it ties to `peer_id`.
fn read_binding(dir: &Path, peer_id: PeerId) -> Result<Option<(Envelope, MeshPublicKey)>, KeyDirError> {
    read_document(&dir.join(BINDING), peer_id, |envelope| {
        Binding::check(envelope).map(|binding| (binding.peer_id, binding.mesh_public_key))
    })
}

fn summarise(peer_id: PeerId, mesh_public_key: MeshPublicKey, sealing_public_key: SealingPublicKey) -> KeySummary {
    KeySummary {
        peer_id,
        public_key: hex::encode(peer_id.public_key()),
        mesh_public_key,
        sealing_public_key,
        overlay_ip: mesh_public_key.overlay_address(),
    }
}

fn read_secret(dir: &Path, path: &Path, max: usize) -> Result<Zeroizing<Vec<u8>>, KeyDirError> {
    let contents = files::read(path, max).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => KeyDirError::Missing { path: path.to_owned(), dir: dir.to_owned() },
        _ => KeyDirError::Io { action: "read", path: path.to_owned(), source },
    })?;
    if contents.mode & 0o077 != 0 {
        return Err(KeyDirError::Exposed { path: path.to_owned(), mode: contents.mode });
    }
    Ok(contents.bytes)
}

/// Reads a signed document that may be missing but, if it is there, must be about `peer_id`.
fn read_document<T>(
    path: &Path,
    peer_id: PeerId,
    check: impl FnOnce(&Envelope) -> Result<(PeerId, T), DocumentError>,
) -> Result<Option<(Envelope, T)>, KeyDirError> {
    let contents = match files::read(path, MAX_DOCUMENT_BYTES) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(io_error("read", path))?,
    };
    let checked = Envelope::from_json(&contents.bytes)
        .map_err(DocumentError::from)
        .and_then(|envelope| check(&envelope).map(|(found, value)| (envelope, found, value)));
    let (envelope, found, value) = checked.map_err(|source| KeyDirError::Document { path: path.to_owned(), source })?;
    if found != peer_id {
        return Err(KeyDirError::ForeignDocument { path: path.to_owned(), found, peer_id });
    }
    Ok(Some((envelope, value)))
}

#[cfg(test)]
mod tests;
