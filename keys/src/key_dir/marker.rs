//! Makes sure that a half-made directory of keys is never taken for a whole one.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::error::{KeyDirError, io_error};
use crate::files;

/// Lies there, with something in it, from before the first key is written until after the last one is.
const MARKER: &str = ".incomplete";

/// The lock of whoever makes keys in a directory, and the note that they are not complete yet.
pub(super) struct Marker {
    dir: PathBuf,
    file: File,
    /// Whether somebody before us started and was interrupted.
    pub(super) was_started: bool,
}

impl Marker {
    /// Waits until nobody else makes keys here.
    pub(super) fn lock(dir: &Path) -> Result<Self, KeyDirError> {
        let path = dir.join(MARKER);
        loop {
            let file = OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .mode(0o600)
                .open(&path)
                .map_err(io_error("make", &path))?;
            file.lock().map_err(io_error("lock", &path))?;
            // Whoever had the lock before us removed the file when done: then ours is not it any more.
            let ours = file.metadata().map_err(io_error("read", &path))?;
            match fs::symlink_metadata(&path) {
                Ok(there) if there.ino() == ours.ino() && there.dev() == ours.dev() => {
                    return Ok(Self { dir: dir.to_owned(), file, was_started: ours.len() > 0 });
                }
                _ => {}
            }
        }
    }

    pub(super) fn is_started(dir: &Path) -> bool {
        fs::symlink_metadata(dir.join(MARKER)).is_ok_and(|marker| marker.len() > 0)
    }

    /// From here on the directory is incomplete, also after a power failure.
    pub(super) fn start(&self) -> Result<(), KeyDirError> {
        (&self.file)
            .write_all(b"keys are being made here; if this file stays, that was interrupted\n")
            .and_then(|()| self.file.sync_all())
            .and_then(|()| files::sync_dir(&self.dir))
            .map_err(io_error("write", &self.dir.join(MARKER)))
    }

    /// The directory is as it should be.
    pub(super) fn finish(self) -> Result<(), KeyDirError> {
        let path = self.dir.join(MARKER);
        files::remove_if_there(&path).and_then(|()| files::sync_dir(&self.dir)).map_err(io_error("remove", &path))
    }
}
