//! The Redis that `up` runs for itself: a Unix socket in the data directory, append-only file on, nothing evicted.

use std::{
    fs::File,
    io::Write as _,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use tokio_util::sync::CancellationToken;

use super::children::{ChildSpec, Children};
use crate::cli::args::FsyncArg;

/// Longest path that a Unix socket address holds on Linux, with its final NUL.
const SOCKET_PATH_MAX: usize = 108;
const START_PATIENCE: Duration = Duration::from_secs(60);

/// How the server will be run.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    /// The process.
    pub(super) child: ChildSpec,
    /// How to reach it.
    pub(super) url: String,
    socket: PathBuf,
    log_file: PathBuf,
}

/// Finds valkey-server or redis-server.
///
/// # Errors
/// Neither is installed: tells how to install one.
pub(super) fn find() -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut dirs: Vec<PathBuf> = std::env::split_paths(&path).collect();
    // Not on every user's PATH.
    dirs.extend(["/usr/bin", "/usr/sbin", "/usr/local/bin"].map(PathBuf::from));
    for name in ["valkey-server", "redis-server"] {
        if let Some(found) = dirs.iter().map(|d| d.join(name)).find(|p| p.is_file()) {
            return Ok(found);
        }
    }
    bail!(
        "no Redis server found: neither valkey-server nor redis-server is installed.\n\
         Install one:\n  \
         Debian, Ubuntu:  sudo apt-get install redis-server   (or valkey-server)\n  \
         Fedora:          sudo dnf install valkey\n  \
         Alpine:          sudo apk add valkey\n  \
         Arch:            sudo pacman -S valkey\n  \
         macOS:           brew install valkey\n\
         or use one that is running: horus up --redis-url redis://host:6379"
    )
}

/// Writes the server's configuration and says how to run it.
///
/// # Errors
/// A directory or file that cannot be written.
pub(super) fn plan(server: &Path, data_dir: &Path, appendfsync: FsyncArg) -> Result<Plan> {
    let data_dir = std::path::absolute(data_dir).context("cannot resolve the data directory")?;
    let dir = data_dir.join("redis");
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&dir)
        .with_context(|| format!("cannot make {}", dir.display()))?;
    let socket = socket_path(&dir)?;
    let log_file = dir.join("redis.log");
    let fsync = match appendfsync {
        FsyncArg::Always => "always",
        FsyncArg::Everysec => "everysec",
    };
    let text = format!(
        "port 0\nunixsocket {socket}\nunixsocketperm 700\ndir {dir}\nappendonly yes\nappendfsync {fsync}\n\
         save \"\"\nmaxmemory-policy noeviction\nlogfile {log}\ndaemonize no\nsupervised no\ndatabases 1\n\
         aof-load-truncated yes\nhz 10\n",
        socket = quote(&socket)?,
        dir = quote(&dir)?,
        log = quote(&log_file)?,
    );
    let config = dir.join("redis.conf");
    let mut file = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&config)
        .with_context(|| format!("cannot write {}", config.display()))?;
    file.write_all(text.as_bytes()).with_context(|| format!("cannot write {}", config.display()))?;
    let url = format!("redis+unix://{}", socket.display());
    let child = ChildSpec {
        name: "redis".to_owned(),
        program: server.to_owned(),
        args: vec![config.display().to_string()],
        redis_url: None,
    };
    Ok(Plan { child, url, socket, log_file })
}

/// Waits until the server answers PING, which it does once it has read its append-only file.
///
/// # Errors
/// It did not within a minute, or we were told to stop: tells where its log lies.
pub(super) async fn wait_until_up(plan: &Plan, children: &mut Children, stop: &CancellationToken) -> Result<()> {
    let deadline = tokio::time::Instant::now() + START_PATIENCE;
    let log = plan.log_file.display();
    while !answers(&plan.socket).await {
        if stop.is_cancelled() {
            bail!("stopped while Redis was starting");
        }
        if !children.all_running() {
            bail!("the Redis server does not start: see {log}");
        }
        if tokio::time::Instant::now() > deadline {
            bail!("the Redis server does not answer on {} within a minute: see {log}", plan.socket.display());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

async fn answers(socket: &Path) -> bool {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let ask = async {
        let mut stream = tokio::net::UnixStream::connect(socket).await.ok()?;
        stream.write_all(b"PING\r\n").await.ok()?;
        let mut reply = [0_u8; 5];
        stream.read_exact(&mut reply).await.ok()?;
        Some(&reply == b"+PONG")
    };
    tokio::time::timeout(Duration::from_secs(1), ask).await.ok().flatten().unwrap_or(false)
}

/// The socket lies in the data directory, unless that makes its path longer than an address can be.
fn socket_path(dir: &Path) -> Result<PathBuf> {
    let path = dir.join("redis.sock");
    if path.as_os_str().len() < SOCKET_PATH_MAX {
        return Ok(path);
    }
    let tag = horus_keys::Digest::of(dir.as_os_str().as_encoded_bytes()).hex();
    let base = std::env::var_os("XDG_RUNTIME_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let short = base.join(format!("horus-{}", &tag[..16]));
    match std::fs::DirBuilder::new().mode(0o700).create(&short) {
        Ok(()) => {}
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => check_owned(&short)?,
        Err(e) => return Err(e).with_context(|| format!("cannot make {}", short.display())),
    }
    Ok(short.join("redis.sock"))
}

/// A directory in a place that others can write to must be ours and ours alone.
fn check_owned(dir: &Path) -> Result<()> {
    use std::os::unix::fs::MetadataExt as _;
    let meta = std::fs::symlink_metadata(dir).with_context(|| format!("cannot look at {}", dir.display()))?;
    if !meta.is_dir() || meta.uid() != nix::unistd::getuid().as_raw() || meta.mode() & 0o077 != 0 {
        bail!("{} is not a private directory of yours: remove it, or choose a shorter --data-dir", dir.display());
    }
    Ok(())
}

/// A path as a quoted word of redis.conf.
fn quote(path: &Path) -> Result<String> {
    let Some(text) = path.to_str().filter(|t| !t.chars().any(char::is_control)) else {
        bail!("{} is not plain text: choose another --data-dir", path.display());
    };
    Ok(format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_data_dir_gets_a_short_socket() {
        let long = PathBuf::from("/tmp").join("x".repeat(120));
        let path = socket_path(&long).unwrap();
        assert!(path.as_os_str().len() < SOCKET_PATH_MAX, "{path:?}");
        assert_eq!(path, socket_path(&long).unwrap(), "the same directory gets the same socket");
        std::fs::remove_dir(path.parent().unwrap()).unwrap();
    }

    #[test]
    fn quotes_in_a_path_stay_inside_the_word() {
        assert_eq!(quote(Path::new("/a b/\"c\\")).unwrap(), "\"/a b/\\\"c\\\\\"");
        assert!(quote(Path::new("/a\nport 6379")).is_err());
    }
}
