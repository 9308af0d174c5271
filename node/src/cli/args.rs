//! What can be typed: the command line as clap types. Nothing here does work; `cli::run` resolves and acts.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::args_client::{BenchCommand, CallArgs, DiscoverArgs, JobCommand, RunnersCommand, WorkflowCommand};
use super::args_keys::KeysCommand;

const EXAMPLES: &str = "\
Examples:
  horus up                                   a whole Horus on this machine
  horus workflow run pipeline.yaml           sign, submit and follow a workflow
  horus job run --runner sal --payload '40 + 2'
  horus keys generate                        an identity of your own
  horus call http://127.0.0.1:8080 get_node_info";

/// Signed jobs and workflows across machines that find each other on the Mycelium overlay.
#[derive(Debug, Parser)]
#[command(name = "horus", version, after_help = EXAMPLES, propagate_version = true, max_term_width = 110)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Every command of the binary.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a whole Horus on this machine: Redis, supervisor, runners and coordinator, each a process
    #[command(
        after_help = "Examples:\n  horus up\n  horus up --data-dir ./state --supervisor-port 8080 --coordinator-port 9090\n  horus up --redis-url redis://localhost:6379 --json"
    )]
    Up(UpArgs),
    /// Run a coordinator: executes workflows and sends their ready steps to supervisors
    #[command(
        after_help = "Example:\n  horus coordinator --port 9090 --redis-url redis://localhost:6379 \\\n      --supervisor http://localhost:8080 --supervisor http://localhost:8081"
    )]
    Coordinator(CoordinatorArgs),
    /// Run a supervisor: checks signatures, queues jobs in this machine's Redis, answers for its runners
    #[command(
        after_help = "Examples:\n  horus supervisor --port 8080 --redis-url redis://localhost:6379\n  horus supervisor --coordinator mycelium://12D3KooW... --cert cert.json"
    )]
    Supervisor(SupervisorArgs),
    /// Run a runner: pulls jobs of one kind from this machine's Redis and executes them
    #[command(
        after_help = "Examples:\n  horus runner sal --redis-url redis://localhost:6379 --concurrency 4\n  horus runner osiris --osiris-url sqlite:///var/lib/horus/osiris.db"
    )]
    Runner(RunnerArgs),
    /// Run, submit and follow workflows
    #[command(subcommand)]
    #[command(after_help = "Examples:\n  horus workflow run pipeline.yaml\n  horus workflow validate pipeline.yaml")]
    Workflow(WorkflowCommand),
    /// Run, submit and follow single jobs
    #[command(subcommand)]
    #[command(
        after_help = "Examples:\n  horus job run --runner sal --payload '40 + 2'\n  horus job list --status failed"
    )]
    Job(JobCommand),
    /// Make and use keys: identities, envelopes, certificates, the trust policy
    #[command(subcommand)]
    #[command(
        after_help = "Examples:\n  horus keys generate\n  horus keys trust add 12D3KooW... --role submitter --runner '*'"
    )]
    Keys(KeysCommand),
    /// See and steer the runners of a supervisor
    #[command(subcommand)]
    #[command(after_help = "Examples:\n  horus runners list\n  horus runners ping sal")]
    Runners(RunnersCommand),
    /// See the Mycelium mesh
    #[command(subcommand)]
    #[command(after_help = "Examples:\n  horus mesh status\n  horus mesh status --json")]
    Mesh(super::args_mesh::MeshCommand),
    /// See the supervisors of a coordinator
    #[command(subcommand)]
    #[command(after_help = "Example:\n  horus supervisors list")]
    Supervisors(SupervisorsCommand),
    /// Call any method of any node
    #[command(
        after_help = "Examples:\n  horus call http://127.0.0.1:8080 get_node_info\n  horus call http://127.0.0.1:8080 list_jobs '{\"runner\": \"sal\", \"limit\": 5}'\n  horus call mycelium://12D3KooW.../horus.coordinator get_node_info\n  horus call topic:horus.supervisor list_runners"
    )]
    Call(CallArgs),
    /// Print the OpenRPC document of a node
    #[command(after_help = "Example:\n  horus discover http://127.0.0.1:8080 > openrpc.json")]
    Discover(DiscoverArgs),
    /// Measure a Horus that is up
    #[command(subcommand)]
    #[command(
        after_help = "Examples:\n  horus bench jobs --count 20000\n  horus bench workflow --fan 1000 --json\n  horus bench rpc --signed"
    )]
    Bench(BenchCommand),
    /// Work with heroscript
    #[command(subcommand)]
    #[command(after_help = "Example:\n  horus hero parse fetch.hero")]
    Hero(HeroCommand),
    /// Check the queues and workflows in a Redis for anything that is wrong, and name it
    #[command(after_help = "Examples:\n  horus doctor\n  horus doctor --redis-url redis://localhost:6379 --json")]
    Doctor(DoctorArgs),
}

/// `horus supervisors ...`
#[derive(Debug, Subcommand)]
pub enum SupervisorsCommand {
    /// List the supervisors that a coordinator knows
    #[command(
        after_help = "Examples:\n  horus supervisors list\n  horus supervisors list --coordinator http://127.0.0.1:9090 --json"
    )]
    List(super::args_client::CoordinatorTarget),
}

/// `horus hero ...`
#[derive(Debug, Subcommand)]
pub enum HeroCommand {
    /// Parse a heroscript and print its actions
    #[command(after_help = "Examples:\n  horus hero parse fetch.hero\n  horus hero parse - --json < fetch.hero")]
    Parse {
        /// The script; `-` reads standard input.
        file: PathBuf,
        /// One JSON array on stdout.
        #[arg(long)]
        json: bool,
    },
}

/// `horus doctor`
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// The Redis to check.
    #[arg(long, env = "HORUS_REDIS_URL", default_value = "redis://127.0.0.1:6379", value_name = "URL")]
    pub redis_url: String,
    /// One JSON value on stdout.
    #[arg(long)]
    pub json: bool,
}

/// What every role takes.
#[derive(Debug, Args, Clone)]
pub struct RoleArgs {
    /// Directory of this role's keys [default: ~/.config/horus]
    #[arg(long, env = "HORUS_IDENTITY", value_name = "DIR")]
    pub identity: Option<PathBuf>,
    /// Trust policy: who may do what [default: trust.toml in the identity directory]
    #[arg(long, env = "HORUS_TRUST", value_name = "FILE")]
    pub trust: Option<PathBuf>,
    /// Certificate by an owner for this role's key [default: cert.json in the identity directory]
    #[arg(long, value_name = "FILE")]
    pub cert: Option<PathBuf>,
    /// What to log: error, warn, info, debug, trace, or a filter such as `horus_node=debug`
    #[arg(long, default_value = "info", value_name = "LEVEL")]
    pub log: String,
    /// TOML file with the same names as these flags; flags and environment win
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The Redis of this machine: redis://host, rediss://host, redis+unix:///path, or redis-cluster://host:port,host:port
    #[arg(long, env = "HORUS_REDIS_URL", default_value = "redis://127.0.0.1:6379", value_name = "URL")]
    pub redis_url: String,
    /// How long a stopping role may take to finish what it has begun
    #[arg(long, default_value = "10s", value_name = "DURATION", value_parser = super::parse_duration)]
    pub grace: std::time::Duration,
}

/// What a role with a port takes.
#[derive(Debug, Args, Clone)]
pub struct ServeArgs {
    /// Further addresses to listen on, beside loopback, such as 0.0.0.0:8080
    #[arg(long, value_name = "ADDR")]
    pub listen: Vec<std::net::SocketAddr>,
    /// Whether to use a mycelium daemon: one that is running (now or later), none, or fail without one
    #[arg(long, value_enum, default_value_t = MeshArg::Auto)]
    pub mesh: MeshArg,
    /// The mycelium daemon, and the way to other nodes.
    #[command(flatten)]
    pub way: super::args_mesh::WayArgs,
    /// Take messages from this part of the overlay only, such as 5c6:1:2:3::/64; may be repeated [default: 400::/7, all of it]
    #[arg(long, value_name = "SUBNET")]
    pub mesh_allow: Vec<horus_transport::Subnet>,
    /// Added to the topic, `horus.supervisor` or `horus.coordinator`, when a host has several such roles
    #[arg(long, value_name = "SUFFIX", value_parser = parse_topic)]
    pub topic: Option<String>,
    /// Identity directory of this host, whose mesh.key the mycelium daemon was started with: others can then name the host by
    /// its PeerId
    #[arg(long, value_name = "DIR")]
    pub host_identity: Option<PathBuf>,
    /// Directory of the socket that the mycelium daemon hands messages to [default: `mesh` in the identity directory]
    #[arg(long, value_name = "DIR")]
    pub mesh_socket_dir: Option<PathBuf>,
    /// TLS certificate chain (PEM) for the listener
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// TLS private key (PEM) for the listener
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Further certificate authority (PEM) to accept when calling https nodes
    #[arg(long, value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,
}

fn parse_topic(text: &str) -> Result<String, String> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if text.is_empty() || text.len() > 32 || !text.bytes().all(fits) {
        return Err("a suffix is 1 to 32 characters of A-Z a-z 0-9 . _ -".to_owned());
    }
    Ok(text.to_owned())
}

/// Which carrier calls to other nodes take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TransportArg {
    /// The best path that works.
    Auto,
    /// Mycelium messages only.
    Messages,
    /// HTTP only.
    Http,
}

/// `horus coordinator`
#[derive(Debug, Args, Clone)]
pub struct CoordinatorArgs {
    /// Port on loopback
    #[arg(long, default_value_t = 9090)]
    pub port: u16,
    /// A supervisor to send steps to; several may be given
    #[arg(long, value_name = "ADDRESS", env = "HORUS_SUPERVISOR", value_delimiter = ',')]
    pub supervisor: Vec<String>,
    /// Forget ended workflows, their outputs and receipts after this long; that their ids are taken, after `run_until`
    #[arg(long, default_value = "7d", value_name = "DURATION", value_parser = super::parse_duration)]
    pub retention: std::time::Duration,
    /// What every role takes.
    #[command(flatten)]
    pub role: RoleArgs,
    /// Listening and calling.
    #[command(flatten)]
    pub serve: ServeArgs,
}

/// `horus supervisor`
#[derive(Debug, Args, Clone)]
pub struct SupervisorArgs {
    /// Port on loopback
    #[arg(long, default_value_t = 8080)]
    pub port: u16,
    /// A coordinator to announce this supervisor to; several may be given
    #[arg(long, value_name = "ADDRESS", env = "HORUS_COORDINATOR", value_delimiter = ',')]
    pub coordinator: Vec<String>,
    /// What steps can choose this supervisor by (`supervisor: zone=eu`); may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    pub label: Vec<String>,
    /// Refuse new jobs (QUEUE_FULL) while a runner's queue holds this many
    #[arg(long, default_value_t = 1_000_000, value_name = "JOBS")]
    pub max_queue: u64,
    /// Give a runner's jobs up when its heartbeat has stood still for this long
    #[arg(long, default_value = "15s", value_name = "DURATION", value_parser = super::parse_duration)]
    pub lease: std::time::Duration,
    /// Forget finished jobs, their output and logs after this long
    #[arg(long, default_value = "7d", value_name = "DURATION", value_parser = super::parse_duration)]
    pub retention: std::time::Duration,
    /// What every role takes.
    #[command(flatten)]
    pub role: RoleArgs,
    /// Listening and calling.
    #[command(flatten)]
    pub serve: ServeArgs,
}

/// `horus runner KIND`
#[derive(Debug, Args, Clone)]
pub struct RunnerArgs {
    /// Which executor: hero, sal, osiris or noop
    #[arg(value_enum)]
    pub kind: RunnerKindArg,
    /// Directory of *.rhai files whose functions every script can call (sal, osiris)
    #[arg(long, value_name = "DIR")]
    pub script_lib: Option<PathBuf>,
    /// The hero command line tool [default: `hero` on PATH, else the built-in interpreter]
    #[arg(long, value_name = "PATH")]
    pub hero_cli: Option<PathBuf>,
    /// Where Osiris keeps its records: sqlite:///path or postgres://user@host/db [default: osiris.db in the identity directory]
    #[arg(long, value_name = "URL")]
    pub osiris_url: Option<String>,
    /// What a runner of any kind is told.
    #[command(flatten)]
    pub options: RunnerOptions,
}

/// What a runner of any kind is told.
#[derive(Debug, Clone, Args)]
pub struct RunnerOptions {
    /// Jobs at a time [default: 4, for sal the number of cores if that is more, 16 for osiris, 32 for noop]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub concurrency: Option<u32>,
    /// Name in the registry [default: the kind]
    #[arg(long)]
    pub name: Option<String>,
    /// Take only jobs addressed to these supervisors (PeerIds) [default: those that the trust policy holds as supervisors]
    #[arg(long, value_name = "PEER_ID", value_delimiter = ',')]
    pub audience: Vec<horus_keys::PeerId>,
    /// How long it may be silent before its jobs are given to others
    #[arg(long, default_value = "15s", value_name = "DURATION", value_parser = super::parse_duration)]
    pub lease: std::time::Duration,
    /// What every role takes.
    #[command(flatten)]
    pub role: RoleArgs,
    /// For one configuration of all roles.
    #[command(flatten)]
    pub unused: NetworkArgs,
}

/// Network flags that every role takes. A runner speaks to its Redis only: it takes them, so that one configuration serves all
/// roles of a machine, and says that they do nothing.
#[derive(Debug, Args, Clone)]
pub struct NetworkArgs {
    /// Taken for the sake of one configuration for all roles: a runner listens nowhere
    #[arg(long, value_name = "ADDR", hide_short_help = true)]
    pub listen: Vec<std::net::SocketAddr>,
    /// Taken for the sake of one configuration for all roles: a runner calls no other node
    #[arg(long, value_name = "MODE", value_enum, hide_short_help = true)]
    pub transport: Option<TransportArg>,
    /// Taken for the sake of one configuration for all roles: a runner calls no daemon
    #[arg(long, value_name = "URL", hide_short_help = true)]
    pub mycelium_rpc: Option<String>,
}

/// The command line of a runner of one's own.
#[derive(Debug, Parser)]
#[command(version, about = "A Horus runner: pulls jobs of its kind from this machine's Redis and executes them")]
pub struct RunnerCli {
    /// What a runner of any kind is told.
    #[command(flatten)]
    pub options: RunnerOptions,
}

/// The executors that the binary has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RunnerKindArg {
    /// Heroscript.
    Hero,
    /// Rhai with the SAL modules, a child process per job.
    Sal,
    /// Rhai with the Osiris object store.
    Osiris,
    /// Returns its input; for measurements.
    Noop,
}

/// `horus up`
#[derive(Debug, Args, Clone)]
pub struct UpArgs {
    /// Where everything is kept [default: ~/.local/share/horus]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Port of the supervisor; 0 takes a free one
    #[arg(long, default_value_t = 8080)]
    pub supervisor_port: u16,
    /// Port of the coordinator; 0 takes a free one
    #[arg(long, default_value_t = 9090)]
    pub coordinator_port: u16,
    /// Whether to use a mycelium daemon: one that is running, none, or fail without one
    #[arg(long, value_enum, default_value_t = MeshArg::Auto)]
    pub mesh: MeshArg,
    /// JSON-RPC address of the mycelium daemon
    #[arg(long, env = "HORUS_MYCELIUM_RPC", default_value = "http://127.0.0.1:8990", value_name = "URL")]
    pub mycelium_rpc: String,
    /// A further coordinator, on another machine, that the supervisor announces itself to; may be repeated
    #[arg(long, value_name = "ADDRESS")]
    pub coordinator: Vec<String>,
    /// What steps can choose this machine's supervisor by (`supervisor: zone=eu`); may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    pub label: Vec<String>,
    /// Directory of *.rhai files whose functions every script can call
    #[arg(long, value_name = "DIR")]
    pub script_lib: Option<PathBuf>,
    /// The hero command line tool [default: `hero` on PATH, else the built-in interpreter]
    #[arg(long, value_name = "PATH")]
    pub hero_cli: Option<PathBuf>,
    /// Use this Redis instead of starting one
    #[arg(long, env = "HORUS_REDIS_URL", value_name = "URL")]
    pub redis_url: Option<String>,
    /// When the own Redis writes to disk: `always` survives its kill -9 at any moment, `everysec` may lose two seconds
    #[arg(long, value_enum, default_value_t = FsyncArg::Everysec)]
    pub appendfsync: FsyncArg,
    /// Your identity, trusted to submit [default: ~/.config/horus]
    #[arg(long, env = "HORUS_IDENTITY", value_name = "DIR")]
    pub identity: Option<PathBuf>,
    /// Jobs at a time for each runner [default: by kind]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub concurrency: Option<u32>,
    /// Refuse new jobs (QUEUE_FULL) while a runner's queue holds this many
    #[arg(long, default_value_t = 1_000_000, value_name = "JOBS")]
    pub max_queue: u64,
    /// Give a runner's jobs up when its heartbeat has stood still for this long
    #[arg(long, default_value = "15s", value_name = "DURATION", value_parser = super::parse_duration)]
    pub lease: std::time::Duration,
    /// Forget finished jobs and ended workflows, with their outputs and logs, after this long
    #[arg(long, default_value = "7d", value_name = "DURATION", value_parser = super::parse_duration)]
    pub retention: std::time::Duration,
    /// What to log
    #[arg(long, default_value = "info", value_name = "LEVEL")]
    pub log: String,
    /// How long stopping may take
    #[arg(long, default_value = "10s", value_name = "DURATION", value_parser = super::parse_duration)]
    pub grace: std::time::Duration,
    /// TOML file with the same names as these flags; flags and environment win
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print the ready line as one JSON value
    #[arg(long)]
    pub json: bool,
}

/// `--mesh`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum MeshArg {
    /// Use a daemon if one is running.
    Auto,
    /// No mesh.
    Off,
    /// Fail without a daemon.
    Require,
}

/// `--appendfsync`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FsyncArg {
    /// Before every answer.
    Always,
    /// Once a second.
    Everysec,
}
