//! Files that are written whole or not at all, and files that only their owner may read.

use std::fs::{self, File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

/// Replaces `path` by a file with these bytes and mode: written beside it, synced, renamed over it, and
/// the rename synced. A reader or a crash sees the old file or the new one.
pub(crate) fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let dir = parent(path);
    // The temporary file is 0600 from its first moment.
    let mut file = tempfile::Builder::new().prefix(".horus-").tempfile_in(&dir)?;
    file.write_all(bytes)?;
    file.as_file().set_permissions(Permissions::from_mode(mode))?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|e| e.error)?;
    sync_dir(&dir)
}

/// Makes creations, renames and removals in `dir` survive a power failure.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// The directory that a file lies in.
pub(crate) fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Removes a file that may not be there.
pub(crate) fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// What reading a file gave.
pub(crate) struct Contents {
    /// The bytes, wiped after use.
    pub(crate) bytes: Zeroizing<Vec<u8>>,
    /// The permission bits, taken from the open file and not from its path.
    pub(crate) mode: u32,
    /// The user that the file belongs to.
    pub(crate) owner: u32,
}

/// Reads a file of at most `max` bytes; a longer one is an error of kind `FileTooLarge`, and what is no
/// regular file of kind `InvalidInput`. The file may be reached through symbolic links.
pub(crate) fn read(path: &Path, max: usize) -> io::Result<Contents> {
    // Opening a FIFO would wait for a writer.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    // Room for everything at once: a vector that grows leaves copies of secrets behind.
    let expected = usize::try_from(metadata.len()).unwrap_or(max).min(max);
    let mut bytes = Zeroizing::new(Vec::with_capacity(expected + 1));
    file.take(max as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > max {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("longer than {max} bytes")));
    }
    Ok(Contents { bytes, mode: metadata.permissions().mode() & 0o7777, owner: metadata.uid() })
}
