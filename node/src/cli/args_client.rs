//! The client commands as clap types: `workflow`, `job`, `runners`, `call`, `discover`, `bench`.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand, ValueEnum};
use horus_keys::RunnerKind;
use horus_runners::job::limits::{MAX_TIMEOUT, RUN_UNTIL_AHEAD};

use super::args_mesh::WayArgs;
use super::{parse_duration, parse_duration_within};

/// Who calls, and how.
#[derive(Debug, Args, Clone)]
pub struct ClientArgs {
    /// Directory of your keys [default: ~/.config/horus]
    #[arg(long, env = "HORUS_IDENTITY", value_name = "DIR")]
    pub identity: Option<PathBuf>,
    /// Trust policy that receipts are checked with [default: trust.toml in the identity directory]
    #[arg(long, env = "HORUS_TRUST", value_name = "FILE")]
    pub trust: Option<PathBuf>,
    /// Your certificate by an owner [default: cert.json in the identity directory]
    #[arg(long, value_name = "FILE")]
    pub cert: Option<PathBuf>,
    /// Further certificate authority (PEM) to accept on https
    #[arg(long, value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,
    /// The mycelium daemon, and the way to nodes.
    #[command(flatten)]
    pub way: WayArgs,
    /// One JSON value on stdout, nothing else
    #[arg(long)]
    pub json: bool,
}

/// A command that speaks to a coordinator.
#[derive(Debug, Args, Clone)]
pub struct CoordinatorTarget {
    /// The coordinator's address
    #[arg(long, env = "HORUS_COORDINATOR", default_value = "http://127.0.0.1:9090", value_name = "ADDRESS")]
    pub coordinator: String,
    /// Who calls, and how.
    #[command(flatten)]
    pub client: ClientArgs,
}

/// A command that speaks to a supervisor.
#[derive(Debug, Args, Clone)]
pub struct SupervisorTarget {
    /// The supervisor's address
    #[arg(long, env = "HORUS_SUPERVISOR", default_value = "http://127.0.0.1:8080", value_name = "ADDRESS")]
    pub supervisor: String,
    /// Who calls, and how.
    #[command(flatten)]
    pub client: ClientArgs,
}

/// What a workflow submission consists of.
#[derive(Debug, Args, Clone)]
pub struct SubmitWorkflowArgs {
    /// The workflow (YAML); `-` reads standard input
    pub file: PathBuf,
    /// Id of the workflow; one that is taken is refused [default: a new UUIDv7]
    #[arg(long)]
    pub id: Option<String>,
    /// An input: `key=value`, the value as JSON if it parses, else as a string
    #[arg(long, value_name = "K=V")]
    pub input: Vec<String>,
    /// PeerIds of further coordinators that may execute it [default: the one it is submitted to]
    #[arg(long, value_name = "PEER_ID", value_delimiter = ',')]
    pub delegate: Vec<horus_keys::PeerId>,
    /// The workflow may not be submitted later than this from now
    #[arg(long, default_value = "10m", value_name = "DURATION", value_parser = parse_duration_within(None))]
    pub submit_within: Duration,
    /// Nothing of it may run later than this from now; at most 7d
    #[arg(long, default_value = "24h", value_name = "DURATION", value_parser = parse_duration_within(Some(RUN_UNTIL_AHEAD)))]
    pub run_within: Duration,
    /// Where to.
    #[command(flatten)]
    pub target: CoordinatorTarget,
}

/// `horus workflow ...`
#[derive(Debug, Subcommand)]
pub enum WorkflowCommand {
    /// Sign and submit a workflow, follow it to its end, print its outputs
    #[command(
        after_help = "Examples:\n  horus workflow run pipeline.yaml\n  horus workflow run pipeline.yaml --id nightly-2026-11-21 --input url='\"http://example.com\"' --json"
    )]
    Run(SubmitWorkflowArgs),
    /// Sign and submit a workflow, and return at once
    #[command(after_help = "Example:\n  horus workflow submit pipeline.yaml --id nightly --json")]
    Submit(SubmitWorkflowArgs),
    /// Show a workflow and its steps
    #[command(after_help = "Examples:\n  horus workflow status nightly\n  horus workflow status nightly --json")]
    Status {
        /// The workflow's id
        workflow_id: String,
        /// Where to.
        #[command(flatten)]
        target: CoordinatorTarget,
    },
    /// Follow a workflow to its end
    #[command(after_help = "Example:\n  horus workflow watch nightly")]
    Watch {
        /// The workflow's id
        workflow_id: String,
        /// Where to.
        #[command(flatten)]
        target: CoordinatorTarget,
    },
    /// List workflows, newest first
    #[command(
        after_help = "Examples:\n  horus workflow list --status running\n  horus workflow list --name pipeline --limit 5 --json"
    )]
    List {
        /// Only those of this name
        #[arg(long)]
        name: Option<String>,
        /// Only those in this state
        #[arg(long)]
        status: Option<String>,
        /// At most this many
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
        /// Where to.
        #[command(flatten)]
        target: CoordinatorTarget,
    },
    /// Cancel a workflow: what runs is stopped, what waits never starts
    #[command(after_help = "Example:\n  horus workflow cancel nightly")]
    Cancel {
        /// The workflow's id
        workflow_id: String,
        /// Where to.
        #[command(flatten)]
        target: CoordinatorTarget,
    },
    /// Print the logs of a workflow's steps
    #[command(after_help = "Examples:\n  horus workflow logs nightly\n  horus workflow logs nightly --step fetch")]
    Logs {
        /// The workflow's id
        workflow_id: String,
        /// Only this step
        #[arg(long)]
        step: Option<String>,
        /// Where to.
        #[command(flatten)]
        target: CoordinatorTarget,
    },
    /// Print the graph of a workflow file
    #[command(
        after_help = "Examples:\n  horus workflow graph pipeline.yaml\n  horus workflow graph pipeline.yaml --format dot | dot -Tsvg > pipeline.svg\n  horus workflow graph pipeline.yaml --json"
    )]
    Graph {
        /// The workflow (YAML); `-` reads standard input
        file: PathBuf,
        /// As text, or as Graphviz dot or Mermaid source
        #[arg(long, value_enum, default_value_t = GraphFormat::Text)]
        format: GraphFormat,
        /// One JSON value on stdout, nothing else: the steps, each with those that it depends on
        #[arg(long, conflicts_with = "format")]
        json: bool,
    },
    /// Check a workflow file without submitting it; needs no server
    #[command(
        after_help = "Examples:\n  horus workflow validate pipeline.yaml\n  horus workflow validate - --json < pipeline.yaml"
    )]
    Validate {
        /// The workflow (YAML); `-` reads standard input
        file: PathBuf,
        /// One JSON value on stdout, nothing else
        #[arg(long)]
        json: bool,
    },
}

/// How `workflow graph` draws.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum GraphFormat {
    /// Stages, top to bottom.
    Text,
    /// Graphviz.
    Dot,
    /// Mermaid.
    Mermaid,
}

/// What a job consists of.
#[derive(Debug, Args, Clone)]
pub struct SubmitJobArgs {
    /// Runner kind: hero, sal, osiris, or one of your own
    #[arg(long, value_name = "KIND")]
    pub runner: RunnerKind,
    /// The script
    #[arg(long, value_name = "TEXT", conflicts_with = "file", required_unless_present = "file")]
    pub payload: Option<String>,
    /// File with the script; `-` reads standard input
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Id of the job; one that is taken is refused [default: a new UUIDv7]
    #[arg(long)]
    pub id: Option<String>,
    /// What the script sees as `input`
    #[arg(long, value_name = "JSON")]
    pub input: Option<String>,
    /// An environment variable
    #[arg(long, value_name = "K=V")]
    pub env: Vec<String>,
    /// End the job after this long; at most 24h [default: 5m]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration_within(Some(MAX_TIMEOUT)))]
    pub timeout: Option<Duration>,
    /// May run twice if its runner dies in the middle
    #[arg(long)]
    pub idempotent: bool,
    /// Which queue it waits in
    #[arg(long, value_enum, default_value_t = PriorityArg::Normal)]
    pub priority: PriorityArg,
    /// Start no earlier than this from now
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub delay: Option<Duration>,
    /// A label
    #[arg(long, value_name = "K=V")]
    pub label: Vec<String>,
    /// It may not start later than this from now; at most 7d
    #[arg(long, default_value = "24h", value_name = "DURATION", value_parser = parse_duration_within(Some(RUN_UNTIL_AHEAD)))]
    pub run_within: Duration,
    /// Where to.
    #[command(flatten)]
    pub target: SupervisorTarget,
}

/// `--priority`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PriorityArg {
    /// First.
    High,
    /// The default.
    Normal,
    /// When nothing else waits.
    Low,
}

/// `horus job ...`
#[derive(Debug, Subcommand)]
pub enum JobCommand {
    /// Sign and submit a job, wait for it, print its checked result
    #[command(
        after_help = "Examples:\n  horus job run --runner sal --payload '40 + 2'\n  horus job run --runner hero --file fetch.hero --timeout 30s --json\n  horus job run --runner osiris --payload 'osiris.model(\"notes\").count()'"
    )]
    Run(SubmitJobArgs),
    /// Sign and submit a job, and return at once
    #[command(after_help = "Example:\n  horus job submit --runner sal --payload '40 + 2' --id sum")]
    Submit(SubmitJobArgs),
    /// Show a job
    #[command(after_help = "Example:\n  horus job status sal-sum")]
    Status {
        /// The job's id, `<runner>-<id>`
        job_id: String,
        /// Where to.
        #[command(flatten)]
        target: SupervisorTarget,
    },
    /// Print a finished job's result, checked against its receipt
    #[command(after_help = "Examples:\n  horus job result sal-sum --wait\n  horus job result sal-sum --json")]
    Result {
        /// The job's id, `<runner>-<id>`
        job_id: String,
        /// Wait for the job to finish
        #[arg(long)]
        wait: bool,
        /// Where to.
        #[command(flatten)]
        target: SupervisorTarget,
    },
    /// Print a job's log
    #[command(after_help = "Example:\n  horus job logs sal-sum --follow")]
    Logs {
        /// The job's id, `<runner>-<id>`
        job_id: String,
        /// Go on printing until the job has finished
        #[arg(long, short)]
        follow: bool,
        /// Where to.
        #[command(flatten)]
        target: SupervisorTarget,
    },
    /// List jobs, newest first
    #[command(
        after_help = "Examples:\n  horus job list --runner sal --status failed\n  horus job list --limit 5 --json"
    )]
    List {
        /// Only those of this runner kind
        #[arg(long)]
        runner: Option<RunnerKind>,
        /// Only those in this state
        #[arg(long)]
        status: Option<String>,
        /// At most this many
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
        /// Where to.
        #[command(flatten)]
        target: SupervisorTarget,
    },
    /// Cancel a job, wherever it is
    #[command(after_help = "Example:\n  horus job cancel sal-sum")]
    Cancel {
        /// The job's id, `<runner>-<id>`
        job_id: String,
        /// Where to.
        #[command(flatten)]
        target: SupervisorTarget,
    },
}

/// `horus runners ...`
#[derive(Debug, Subcommand)]
pub enum RunnersCommand {
    /// List the runners of a supervisor
    #[command(
        after_help = "Examples:\n  horus runners list\n  horus runners list --supervisor http://127.0.0.1:8080 --json"
    )]
    List(SupervisorTarget),
    /// Ask whether a runner is alive
    #[command(after_help = "Example:\n  horus runners ping sal")]
    Ping {
        /// Its name
        name: String,
        /// Where to.
        #[command(flatten)]
        target: SupervisorTarget,
    },
    /// Forget a runner that is gone
    #[command(after_help = "Example:\n  horus runners remove sal")]
    Remove {
        /// Its name
        name: String,
        /// Where to.
        #[command(flatten)]
        target: SupervisorTarget,
    },
}

/// `horus call`
#[derive(Debug, Args)]
pub struct CallArgs {
    /// The node: http://host:port, mycelium://..., topic:...
    pub address: String,
    /// The method
    pub method: String,
    /// Its parameters, as JSON
    pub params: Option<String>,
    /// Give up after this long
    #[arg(long, default_value = "30s", value_name = "DURATION", value_parser = parse_duration)]
    pub timeout: Duration,
    /// Who calls, and how.
    #[command(flatten)]
    pub client: ClientArgs,
}

/// `horus discover`
#[derive(Debug, Args)]
pub struct DiscoverArgs {
    /// The node: http://host:port, mycelium://..., topic:...
    pub address: String,
    /// Who calls, and how.
    #[command(flatten)]
    pub client: ClientArgs,
}

/// Whom `bench` measures.
#[derive(Debug, Args, Clone)]
pub struct BenchTarget {
    /// The supervisor's address
    #[arg(long, env = "HORUS_SUPERVISOR", default_value = "http://127.0.0.1:8080", value_name = "ADDRESS")]
    pub supervisor: String,
    /// The coordinator's address
    #[arg(long, env = "HORUS_COORDINATOR", default_value = "http://127.0.0.1:9090", value_name = "ADDRESS")]
    pub coordinator: String,
    /// Who calls, and how.
    #[command(flatten)]
    pub client: ClientArgs,
}

/// `horus bench ...`
#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// Jobs per second, or, with --sequential, the time of one job from submission to checked result
    #[command(
        after_help = "Examples:\n  horus bench jobs --count 20000 --concurrency 32 --json\n  horus bench jobs --sequential --count 300\n  horus bench jobs --runner sal --count 2000"
    )]
    Jobs {
        /// Runner kind; noop, sal and osiris have a payload of their own
        #[arg(long, default_value = "noop", value_name = "KIND")]
        runner: RunnerKind,
        /// The script, instead of the kind's own
        #[arg(long, value_name = "TEXT")]
        payload: Option<String>,
        /// How many jobs
        #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        count: u32,
        /// Batches under way at a time; what the runner does at a time is its own --concurrency
        #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=1024))]
        concurrency: u32,
        /// Jobs in a signed batch
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=256))]
        batch: u32,
        /// One job at a time
        #[arg(long)]
        sequential: bool,
        /// Only submit, and leave the jobs in the queue; for a kind that no runner serves, see `horus call`'s register_runner
        #[arg(long, conflicts_with = "sequential")]
        submit_only: bool,
        /// Whom.
        #[command(flatten)]
        target: BenchTarget,
    },
    /// The time of whole workflows of noop steps
    #[command(after_help = "Examples:\n  horus bench workflow --chain 3\n  horus bench workflow --fan 1000 --json")]
    Workflow {
        /// So many steps in a row
        #[arg(long, value_name = "N", conflicts_with = "fan", value_parser = clap::value_parser!(u32).range(1..=100_000))]
        chain: Option<u32>,
        /// One step, then so many at once, then one that waits for all of them
        #[arg(long, value_name = "N", required_unless_present = "chain", value_parser = clap::value_parser!(u32).range(1..=99_900))]
        fan: Option<u32>,
        /// How many workflows, one after the other
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        count: u32,
        /// Runner kind of the steps
        #[arg(long, default_value = "noop", value_name = "KIND")]
        runner: RunnerKind,
        /// Whom.
        #[command(flatten)]
        target: BenchTarget,
    },
    /// RPC calls per second and their latency
    #[command(
        after_help = "Examples:\n  horus bench rpc --address http://127.0.0.1:8080\n  horus bench rpc --signed --concurrency 64\n  horus bench rpc --against http://127.0.0.1:8181\n  horus bench rpc --address mycelium://12D3KooW... --against-raw --concurrency 64 --json"
    )]
    Rpc {
        /// The node [default: the supervisor]
        #[arg(long, value_name = "ADDRESS")]
        address: Option<String>,
        /// Another server, called in turns with the node and unsigned, to compare with: examples/bare_rpc.rs is one
        #[arg(long, value_name = "ADDRESS")]
        against: Option<String>,
        /// Measure signed calls to a mycelium:// address by each path (see --transport), and then each call as a bare message of
        /// its own, which the raw daemon carries; it has those to look after for 10 minutes
        #[arg(long, requires = "address", conflicts_with = "against")]
        against_raw: bool,
        /// A signed call (list_runners) instead of an open one (get_node_info), which nodes of the mesh allow strangers only so often
        #[arg(long)]
        signed: bool,
        /// How many calls
        #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
        count: u32,
        /// Calls at a time
        #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=1024))]
        concurrency: u32,
        /// Whom.
        #[command(flatten)]
        target: BenchTarget,
    },
}
