//! How the sal runner is set up.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::script::ScriptLimits;

/// Settings of [`super::SalExecutor`].
#[derive(Debug, Clone)]
pub struct SalOptions {
    /// The program to start as fork server; it must call [`super::child_main`] when its first argument is [`super::CHILD_COMMAND`].
    /// Default: the running binary itself.
    pub program: PathBuf,
    /// Directory of `*.rhai` files whose functions every script can call.
    pub script_lib: Option<PathBuf>,
    /// Where the jobs' scratch directories are made. Default: the system's directory for temporary files.
    pub scratch_dir: PathBuf,
    /// Variables of the runner's environment that scripts see too. Everything else is withheld, since it may hold the runner's secrets.
    pub pass_env: Vec<String>,
    /// Bounds on values inside a script. Default: no sizes, since `resources` bounds the memory of each job's process.
    pub script: ScriptLimits,
    /// Bounds on its process, and on each one that it starts.
    pub resources: ResourceLimits,
}

/// Limits that the kernel keeps for the job process, and for each program that it starts (`setrlimit(2)`). None leaves a limit as the runner has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ResourceLimits {
    /// Address space of each process, in bytes. Default 4 GiB.
    pub address_space_bytes: Option<u64>,
    /// Largest file that may be written, in bytes. Default 1 GiB.
    pub file_bytes: Option<u64>,
    /// Most processes and threads of the runner's user, as the kernel counts them: over all of the machine, and not for root. Default 4,096.
    pub processes: Option<u64>,
    /// Most open files of each process. Default 1,024.
    pub open_files: Option<u64>,
}

/// What programs need to find their way, and no secrets of Horus (`HORUS_*` is never passed).
const PASS_ENV: [&str; 22] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "TZ",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "SSH_AUTH_SOCK",
    "KUBECONFIG",
    "DOCKER_HOST",
    "REDIS_HOST",
    "REDIS_PORT",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
];

impl Default for SalOptions {
    fn default() -> Self {
        Self {
            // Through /proc the same binary is found even after its file was replaced by an upgrade.
            program: PathBuf::from("/proc/self/exe"),
            script_lib: None,
            scratch_dir: std::env::temp_dir(),
            pass_env: PASS_ENV.map(str::to_owned).to_vec(),
            script: ScriptLimits::default(),
            resources: ResourceLimits::default(),
        }
    }
}

impl Default for ResourceLimits {
    fn default() -> Self {
        Self {
            address_space_bytes: Some(4 << 30),
            file_bytes: Some(1 << 30),
            processes: Some(4096),
            open_files: Some(1024),
        }
    }
}
