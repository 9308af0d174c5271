//! `horus up`: a whole Horus on one machine. Its own Redis (unless one is given), a supervisor, a runner of each
//! kind and a coordinator, each a process with a key of its own. A child that dies is started again.

mod children;
mod ready;
mod redis_server;
mod setup;

use std::{collections::BTreeMap, net::TcpListener, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, bail};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::cli::args::{FsyncArg, MeshArg};
use crate::role::{MeshConfig, MeshUse, RoleMesh};
use children::{ChildSpec, Children};
pub use children::{WITH_PARENT, with_parent};
pub use setup::{ROLES, RoleKeys, Setup, default_data_dir};

/// What `up` was asked for, resolved.
#[derive(Debug, Clone)]
pub struct UpConfig {
    /// Where everything is kept.
    pub data_dir: PathBuf,
    /// The user's identity directory.
    pub identity_dir: PathBuf,
    /// Port of the supervisor, 0 for a free one.
    pub supervisor_port: u16,
    /// Port of the coordinator, 0 for a free one.
    pub coordinator_port: u16,
    /// Whether to use a mycelium daemon.
    pub mesh: MeshArg,
    /// JSON-RPC address of the mycelium daemon.
    pub mycelium_rpc: String,
    /// Coordinators on other machines that the supervisor announces itself to.
    pub coordinators: Vec<String>,
    /// The labels of the supervisor.
    pub labels: BTreeMap<String, String>,
    /// Directory of functions for every script.
    pub script_lib: Option<PathBuf>,
    /// The hero command line tool.
    pub hero_cli: Option<PathBuf>,
    /// A Redis that is there already.
    pub redis_url: Option<String>,
    /// Durability of the own Redis.
    pub appendfsync: FsyncArg,
    /// Jobs at a time for each runner.
    pub concurrency: Option<u32>,
    /// Jobs that may wait for each runner.
    pub max_queue: u64,
    /// After how long without a sign of life a runner has lost its jobs.
    pub lease: Duration,
    /// How long finished jobs and ended workflows are kept.
    pub retention: Duration,
    /// Log filter of every role.
    pub log: String,
    /// How long stopping may take.
    pub grace: Duration,
    /// Ready line as JSON.
    pub json: bool,
}

/// Starts everything, prints the ready line, and watches over it until SIGTERM or SIGINT.
///
/// # Errors
/// What kept it from starting, with what to do about it. A child that dies later is no error: it is started again.
pub async fn run(config: UpConfig) -> Result<()> {
    let setup = setup::prepare(&config.data_dir, &config.identity_dir)?;
    let _lock = setup::lock(&config.data_dir)?;
    look_for_daemon(&config, &setup).await?;
    let supervisor_port = choose_port(config.supervisor_port, "--supervisor-port")?;
    let coordinator_port = choose_port(config.coordinator_port, "--coordinator-port")?;

    let stop = CancellationToken::new();
    let kill = CancellationToken::new();
    spawn_signal_watch(stop.clone(), kill.clone())?;

    // Redis outlives the roles: they hand back what they have claimed before it stops.
    let mut redis = Children::default();
    let redis_url = match &config.redis_url {
        Some(url) => url.clone(),
        None => {
            let server = redis_server::find()?;
            let plan = redis_server::plan(&server, &config.data_dir, config.appendfsync)?;
            redis.start(plan.child.clone());
            redis_server::wait_until_up(&plan, &mut redis, &stop).await?;
            plan.url
        }
    };

    let mut roles = Children::default();
    for spec in role_specs(&config, &setup, &redis_url, supervisor_port, coordinator_port)? {
        roles.start(spec);
    }
    let redis_url = config.redis_url.as_deref().map_or(redis_url, crate::runner_role::without_password);
    let endpoints = ready::Endpoints { supervisor_port, coordinator_port, redis_url };
    let outcome = tokio::select! {
        ready = ready::wait(&endpoints, &setup) => match ready {
            Ok(()) => {
                ready::announce(&endpoints, &setup, &config)?;
                watch(&mut roles, &mut redis, &stop).await;
                Ok(())
            }
            Err(error) => Err(error),
        },
        failed = children::first_hopeless(&mut roles) => Err(failed),
        () = stop.cancelled() => Ok(()),
    };
    roles.stop(config.grace + Duration::from_secs(2), &kill, Duration::ZERO).await;
    // Redis alone has something to write down: killed in the middle it may lose its last second.
    redis.stop(Duration::from_secs(10), &kill, Duration::from_secs(2)).await;
    outcome
}

async fn watch(roles: &mut Children, redis: &mut Children, stop: &CancellationToken) {
    tokio::select! {
        () = roles.supervise() => {}
        () = redis.supervise() => {}
        () = stop.cancelled() => info!("stopping"),
    }
}

/// The first signal drains, the second stops at once.
fn spawn_signal_watch(stop: CancellationToken, kill: CancellationToken) -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut term = signal(SignalKind::terminate()).context("cannot watch SIGTERM")?;
    let mut int = signal(SignalKind::interrupt()).context("cannot watch SIGINT")?;
    tokio::spawn(async move {
        for token in [stop, kill] {
            tokio::select! { _ = term.recv() => {} _ = int.recv() => {} }
            token.cancel();
        }
    });
    Ok(())
}

/// A port that is free now: 0 asks the system for one. A port that is taken is told before anything is started.
fn choose_port(port: u16, flag: &str) -> Result<u16> {
    match TcpListener::bind(("127.0.0.1", port)) {
        Ok(listener) => Ok(listener.local_addr().context("no local address")?.port()),
        Err(error) => bail!(
            "port {port} on 127.0.0.1 cannot be used: {error}. Stop what listens there, or choose another port with {flag}"
        ),
    }
}

fn role_specs(
    config: &UpConfig,
    setup: &Setup,
    redis_url: &str,
    supervisor_port: u16,
    coordinator_port: u16,
) -> Result<Vec<ChildSpec>> {
    let exe = std::env::current_exe().context("cannot find the own binary")?;
    let trust = setup.trust_file.display().to_string();
    let common = |role: &str, args: Vec<String>| {
        let mut all = args;
        all.extend([
            "--identity".to_owned(),
            setup.key_dir(role).display().to_string(),
            "--trust".to_owned(),
            trust.clone(),
            "--log".to_owned(),
            config.log.clone(),
            "--grace".to_owned(),
            horus_keys::duration::format(config.grace),
        ]);
        ChildSpec { name: role.to_owned(), program: exe.clone(), args: all, redis_url: Some(redis_url.to_owned()) }
    };
    let supervisor_id = setup.peer_id("supervisor");
    let lease = horus_keys::duration::format(config.lease);
    let retention = horus_keys::duration::format(config.retention);
    let mesh = mesh_args(config, setup);
    let supervisor = [
        "supervisor",
        "--port",
        &supervisor_port.to_string(),
        "--max-queue",
        &config.max_queue.to_string(),
        "--lease",
        &lease,
        "--retention",
        &retention,
    ];
    let mut supervisor = supervisor.map(str::to_owned).to_vec();
    supervisor.extend(mesh.iter().cloned());
    for address in &config.coordinators {
        supervisor.extend(["--coordinator".to_owned(), address.clone()]);
    }
    for (key, value) in &config.labels {
        supervisor.extend(["--label".to_owned(), format!("{key}={value}")]);
    }
    let mut specs = vec![common("supervisor", supervisor)];
    for kind in ["hero", "sal", "osiris", "noop"] {
        let mut args = vec![
            "runner".to_owned(),
            kind.to_owned(),
            "--name".to_owned(),
            kind.to_owned(),
            "--audience".to_owned(),
            supervisor_id.to_string(),
            "--lease".to_owned(),
            lease.clone(),
        ];
        if let Some(dir) = config.script_lib.as_ref().filter(|_| matches!(kind, "sal" | "osiris")) {
            args.extend(["--script-lib".to_owned(), absolute(dir)?]);
        }
        if let Some(path) = config.hero_cli.as_ref().filter(|_| kind == "hero") {
            // A bare name is looked up on PATH by the runner.
            let is_bare = path.file_name() == Some(path.as_os_str());
            let path = if is_bare { path.display().to_string() } else { absolute(path)? };
            args.extend(["--hero-cli".to_owned(), path]);
        }
        if kind == "osiris" {
            let db = config.data_dir.join("osiris.db");
            args.extend(["--osiris-url".to_owned(), format!("sqlite://{}", db.display())]);
        }
        if let Some(n) = config.concurrency {
            args.extend(["--concurrency".to_owned(), n.to_string()]);
        }
        specs.push(common(&format!("runner-{kind}"), args));
    }
    let mut coordinator = vec![
        "coordinator".to_owned(),
        "--port".to_owned(),
        coordinator_port.to_string(),
        "--supervisor".to_owned(),
        format!("http://127.0.0.1:{supervisor_port}#{supervisor_id}"),
        "--retention".to_owned(),
        retention,
    ];
    coordinator.extend(mesh);
    specs.push(common("coordinator", coordinator));
    Ok(specs)
}

fn absolute(path: &std::path::Path) -> Result<String> {
    let path = std::path::absolute(path).with_context(|| format!("cannot resolve {}", path.display()))?;
    if !path.exists() {
        bail!("{} does not exist", path.display());
    }
    Ok(path.display().to_string())
}

/// Looks whether a mycelium daemon answers, before anything is started that would need one.
///
/// # Errors
/// None does, and one is required: tells how to get one.
async fn look_for_daemon(config: &UpConfig, setup: &Setup) -> Result<()> {
    if config.mesh == MeshArg::Off {
        return Ok(());
    }
    let mut mesh = MeshConfig::new(&config.data_dir.join("mesh"));
    mesh.daemon_url.clone_from(&config.mycelium_rpc);
    mesh.usage = if config.mesh == MeshArg::Require { MeshUse::Require } else { MeshUse::Auto };
    let trust = horus_keys::Trust::new(horus_keys::TrustPolicy::default());
    let Some(mesh) = RoleMesh::join(mesh, &trust, horus_keys::Role::Supervisor).await? else { return Ok(()) };
    let host = setup.peer_id("host");
    match mesh.daemon_key() {
        Some(key) if key == host.mesh_public_key() => info!(%host, "this host is on the mesh by its PeerId"),
        Some(key) => info!(
            %key,
            "this host is on the mesh by its daemon's key; start the daemon with -k {}/mesh.key to be known by a PeerId",
            setup.key_dir("host").display()
        ),
        None => {}
    }
    mesh.leave().await;
    Ok(())
}

/// What the roles with a port are told of the mesh.
fn mesh_args(config: &UpConfig, setup: &Setup) -> Vec<String> {
    let usage = match config.mesh {
        MeshArg::Off => return vec!["--mesh".to_owned(), "off".to_owned()],
        // That there is one was checked; it may be away for a moment when a role starts again.
        MeshArg::Auto | MeshArg::Require => "auto",
    };
    [
        ("--mesh", usage.to_owned()),
        ("--mycelium-rpc", config.mycelium_rpc.clone()),
        ("--host-identity", setup.key_dir("host").display().to_string()),
        ("--mesh-socket-dir", config.data_dir.join("mesh").display().to_string()),
    ]
    .into_iter()
    .flat_map(|(flag, value)| [flag.to_owned(), value])
    .collect()
}
