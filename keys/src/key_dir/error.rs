//! What can be wrong with a directory of keys.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::documents::DocumentError;
use crate::error::KeyError;
use crate::peer_id::PeerId;

/// Why a directory of keys could not be made or read.
#[derive(Debug, Error)]
pub enum KeyDirError {
    /// The file system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// There are keys already.
    #[error("{} exists already; nothing was changed. To replace the keys for ever, give --force", .0.display())]
    Exists(PathBuf),
    /// There is no identity.
    #[error("there is no {}; make the keys with `horus keys generate --dir {}`", path.display(), dir.display())]
    Missing {
        /// The file that is missing.
        path: PathBuf,
        /// The directory that it is missing from.
        dir: PathBuf,
    },
    /// The making of the keys was interrupted.
    #[error("the keys in {} are incomplete: whatever made them was interrupted, or is still at it. Run it again", .0.display())]
    Incomplete(PathBuf),
    /// Others than the owner may read a secret.
    #[error("{} can be read or written by others (mode {mode:o}): run `chmod 600 {}`, and consider the key known to them", path.display(), path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A key file has not 32 bytes.
    #[error("{} holds {found} bytes, not the 32 of a key; restore it, or make new keys", path.display())]
    WrongSize {
        /// The file.
        path: PathBuf,
        /// How many bytes it holds.
        found: usize,
    },
    /// `mesh.key` belongs to another identity.
    #[error("{} does not belong to the identity {peer_id} beside it; restore it, or tie the daemon's key to the identity with `horus keys bind`", path.display())]
    MeshMismatch {
        /// The file.
        path: PathBuf,
        /// The identity.
        peer_id: PeerId,
    },
    /// `identity.pem` is not usable, or needs a passphrase.
    #[error("{}: {source}", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: KeyError,
    },
    /// Asking for the passphrase failed.
    #[error("cannot get the passphrase of {}: {reason}", path.display())]
    Passphrase {
        /// The file that needs it.
        path: PathBuf,
        /// What went wrong.
        reason: String,
    },
    /// `cert.json` or `binding.json` is not usable.
    #[error("{}: {source}; remove the file, or get a new one (by `horus keys certify` or `horus keys bind`)", path.display())]
    Document {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: DocumentError,
    },
    /// `cert.json`, `binding.json` or `peer_id` belongs to another identity.
    #[error("{} belongs to {found}, but the identity here is {peer_id}; remove the file or get the right one", path.display())]
    ForeignDocument {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        found: PeerId,
        /// Who we are.
        peer_id: PeerId,
    },
}

/// For `map_err`: what was tried, and on what.
pub(super) fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> KeyDirError {
    let path = path.to_owned();
    move |source| KeyDirError::Io { action, path, source }
}
