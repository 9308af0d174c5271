//! A wall clock that can be set while a process runs, by libfaketime. The monotonic clock goes on as it is.

use std::path::{Path, PathBuf};

/// The wall clock of the processes that were started with [`WallClock::env`].
#[derive(Debug)]
pub struct WallClock {
    library: PathBuf,
    file: PathBuf,
}

impl WallClock {
    /// A clock that is right. `None` where libfaketime is not installed.
    ///
    /// # Panics
    /// Its file cannot be written.
    pub fn new(dir: &Path, name: &str) -> Option<Self> {
        let clock = Self { library: library()?, file: dir.join(format!("{name}.clock")) };
        clock.set("+0");
        Some(clock)
    }

    /// Sets it off the true time, as `+5h` or `-3h` say.
    ///
    /// # Panics
    /// Its file cannot be written.
    pub fn set(&self, offset: &str) {
        // Read at every look at the clock: it must never be there half.
        let new = self.file.with_extension("new");
        std::fs::write(&new, format!("{offset}\n")).expect("a file can be written");
        std::fs::rename(&new, &self.file).expect("a file can be renamed");
    }

    /// What a process needs so that this is its clock.
    pub fn env(&self) -> Vec<(&'static str, String)> {
        vec![
            ("LD_PRELOAD", self.library.display().to_string()),
            ("FAKETIME_TIMESTAMP_FILE", self.file.display().to_string()),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ]
    }
}

/// Where distributions put it: beside the machine's other libraries, in a directory of its own.
fn library() -> Option<PathBuf> {
    let mut places: Vec<PathBuf> = ["/usr/lib", "/usr/lib64", "/usr/local/lib", "/lib"].map(PathBuf::from).into();
    let beside = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    places.extend(beside.map(|entry| entry.path()));
    let library = |place: PathBuf| place.join("faketime").join("libfaketimeMT.so.1");
    places.into_iter().map(library).find(|path| path.is_file())
}
