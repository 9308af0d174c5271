//! The commands that run a role: flags into a resolved configuration, then the role until it is told to stop.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, Result};
use horus_runners::{
    hero::HeroExecutor,
    noop::NoopExecutor,
    osiris::{OsirisExecutor, OsirisOptions},
    queue::QueueOptions,
    sal::{SalExecutor, SalOptions},
};

use horus_keys::{PeerId, Role};
use horus_transport::{Address, ClientOptions, TlsFiles};

use super::{
    args::{CoordinatorArgs, MeshArg, RoleArgs, RunnerArgs, RunnerKindArg, ServeArgs, SupervisorArgs, UpArgs},
    client::pairs,
    identity,
    output::Failure,
};
use crate::{
    coordinator::{self, CoordinatorConfig},
    role::{Common, CommonOptions, LogFormat, MeshConfig, MeshUse, Shutdown, start_logging},
    runner_role,
    supervisor::{self, SupervisorConfig},
    up::{self, UpConfig},
    workflow::Selector,
};

/// Jobs that an osiris runner executes at a time by default.
const OSIRIS_CONCURRENCY: u32 = 16;
/// How long a role may still take that must stop at once.
const LAST_WORDS: Duration = Duration::from_secs(1);

pub(super) fn up(args: UpArgs) -> Result<ExitCode, Failure> {
    start_logging(&args.log, LogFormat::Text).map_err(Failure::usage)?;
    let data_dir = match args.data_dir {
        Some(dir) => dir,
        None => up::default_data_dir()?,
    };
    let data_dir =
        std::path::absolute(&data_dir).context("cannot resolve the data directory").map_err(Failure::from)?;
    if changes_in_a_url(&data_dir) {
        return Err(Failure::usage(format!(
            "the data directory {} has a `?`, a `#`, or a `%` and two hex digits in its path, which mean something else in the addresses \
             of the databases that lie there: give another --data-dir",
            data_dir.display()
        )));
    }
    let config = UpConfig {
        data_dir,
        identity_dir: identity::resolve_dir(args.identity.as_deref())?,
        supervisor_port: args.supervisor_port,
        coordinator_port: args.coordinator_port,
        mesh: args.mesh,
        mycelium_rpc: args.mycelium_rpc,
        coordinators: args.coordinator,
        labels: labels(&args.label)?,
        script_lib: args.script_lib,
        hero_cli: args.hero_cli,
        redis_url: args.redis_url,
        appendfsync: args.appendfsync,
        concurrency: args.concurrency,
        max_queue: args.max_queue,
        lease: args.lease,
        retention: args.retention,
        log: args.log,
        grace: args.grace,
        json: args.json,
    };
    // The parent of children that die with the thread that made them: one thread, this one.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start")
        .map_err(Failure::from)?;
    runtime.block_on(up::run(config))?;
    Ok(ExitCode::SUCCESS)
}

/// Whether a path would be read as another one, or cut off, at the end of a URL.
fn changes_in_a_url(path: &Path) -> bool {
    let path = path.as_os_str().as_encoded_bytes();
    let is_escape = |bytes: &[u8]| bytes[0] == b'%' && bytes[1..].iter().all(u8::is_ascii_hexdigit);
    path.contains(&b'?') || path.contains(&b'#') || path.windows(3).any(is_escape)
}

pub(super) fn supervisor(args: &SupervisorArgs) -> Result<ExitCode, Failure> {
    let coordinators = addresses("--coordinator", &args.coordinator)?;
    let labels = labels(&args.label)?;
    let client = client_options(&args.serve);
    serve(Role::Supervisor, &args.role, &args.serve, args.port, |common| async move {
        let queue = QueueOptions {
            max_queue: args.max_queue,
            retention: args.retention,
            lease: args.lease,
            ..QueueOptions::default()
        };
        let running = supervisor::start(common, SupervisorConfig { queue, labels, coordinators, client }).await?;
        running.stopped().await;
        Ok(())
    })
}

pub(super) fn coordinator(args: &CoordinatorArgs) -> Result<ExitCode, Failure> {
    let supervisors = addresses("--supervisor", &args.supervisor)?;
    let client = client_options(&args.serve);
    serve(Role::Coordinator, &args.role, &args.serve, args.port, |common| async move {
        let config = CoordinatorConfig { supervisors, client, retention: args.retention };
        let running = coordinator::start(common, config).await?;
        running.stopped().await;
        Ok(())
    })
}

fn addresses(flag: &str, texts: &[String]) -> Result<Vec<Address>, Failure> {
    let parsed = texts.iter().map(|text| text.parse().with_context(|| flag.to_owned()));
    parsed.collect::<Result<_>>().map_err(|e| Failure::usage(format!("{e:#}")))
}

/// The labels of a supervisor: whatever a step can ask for, and nothing else.
fn labels(words: &[String]) -> Result<BTreeMap<String, String>, Failure> {
    let labels = pairs(words, "--label")?;
    Selector::check_labels(&labels).map_err(|why| Failure::usage(format!("--label: {why}")))?;
    Ok(labels)
}

fn client_options(serve: &ServeArgs) -> ClientOptions {
    ClientOptions { ca: serve.tls_ca.clone(), allow_plain: serve.way.allow_plain, ..ClientOptions::default() }
}

/// Common to the roles with a port: logging, keys, trust, signals, a runtime.
fn serve<F, Fut>(kind: Role, role: &RoleArgs, serve: &ServeArgs, port: u16, start: F) -> Result<ExitCode, Failure>
where
    F: FnOnce(Common) -> Fut,
    Fut: Future<Output = Result<()>>,
{
    start_logging(&role.log, LogFormat::Text).map_err(Failure::usage)?;
    let options = common_options(role, serve, port)?;
    let runtime = runner_role::runtime()?;
    runtime.block_on(async {
        let shutdown = Shutdown::on_signals().context("cannot watch for signals")?;
        let keys = identity::load(&options.identity)?;
        // After a reboot Redis may come later than we do.
        tokio::select! {
            there = runner_role::connect(&role.redis_url) => drop(there?),
            () = shutdown.draining() => return Ok(()),
        }
        let mesh = mesh_config(serve, &options, keys.identity.peer_id())?;
        let mut common = Common::with_keys(&keys, options, shutdown.clone())?;
        common.join_mesh(mesh, kind).await?;
        let work = start(common);
        tokio::pin!(work);
        // Draining has a bound; what is not finished then is left as a crash would leave it, which loses nothing.
        let told_again = async {
            tokio::select! {
                () = shutdown.stopped() => {}
                () = async { shutdown.draining().await; tokio::time::sleep(role.grace).await } => {}
            }
        };
        tokio::select! {
            outcome = &mut work => outcome,
            () = told_again => {
                shutdown.stop();
                // It may be waiting for a Redis that hangs.
                tokio::time::timeout(LAST_WORDS, work).await.unwrap_or(Ok(()))
            }
        }
    })?;
    Ok(ExitCode::SUCCESS)
}

fn mesh_config(serve: &ServeArgs, options: &CommonOptions, role: PeerId) -> Result<MeshConfig> {
    let mut config = MeshConfig::new(&options.identity.join("mesh"));
    if let Some(dir) = &serve.mesh_socket_dir {
        config.socket_dir.clone_from(dir);
    }
    config.usage = match serve.mesh {
        MeshArg::Auto => MeshUse::Auto,
        MeshArg::Off => MeshUse::Off,
        MeshArg::Require => MeshUse::Require,
    };
    config.daemon_url.clone_from(&serve.way.mycelium_rpc);
    config.transport = serve.way.transport.into();
    config.allow_plain = serve.way.allow_plain;
    config.allow.clone_from(&serve.mesh_allow);
    config.topic_suffix.clone_from(&serve.topic);
    config.ca.clone_from(&serve.tls_ca);
    // A daemon that was started with the role's own mesh.key is known by the role's name.
    config.hosts = vec![role];
    if let Some(dir) = &serve.host_identity {
        config.hosts.insert(0, identity::load_peer_id(dir)?);
    }
    Ok(config)
}

fn common_options(role: &RoleArgs, serve: &ServeArgs, port: u16) -> Result<CommonOptions> {
    let identity_dir = identity::resolve_dir(role.identity.as_deref())?;
    let trust = match &role.trust {
        Some(path) if !path.exists() => anyhow::bail!(
            "there is no trust policy at {0}: make one with `horus keys trust add PEER_ID --role submitter --runner '*' --trust {0}`",
            path.display()
        ),
        Some(path) => path.clone(),
        None => identity_dir.join("trust.toml"),
    };
    let mut listen = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, port))];
    listen.extend(serve.listen.iter().filter(|a| !(a.port() == port && a.ip().is_loopback())));
    // An address that covers loopback takes its place.
    if listen[1..].iter().any(|a| a.ip().is_unspecified() && a.port() == port) {
        listen.remove(0);
    }
    let mut options = CommonOptions::new(&identity_dir, &trust, &role.redis_url, listen);
    options.certificate = role.cert.clone();
    options.tls = match (&serve.tls_cert, &serve.tls_key) {
        (Some(cert), Some(key)) => Some(TlsFiles { certificate: cert.clone(), key: key.clone() }),
        _ => None,
    };
    Ok(options)
}

pub(super) fn runner(args: RunnerArgs) -> Result<ExitCode, Failure> {
    let cores = std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1));
    let runtime = runner_role::runtime()?;
    let RunnerArgs { kind, script_lib, hero_cli, osiris_url, options } = args;
    runtime.block_on(async move {
        match kind {
            RunnerKindArg::Noop => runner_role::run(options, 32, |_| async { Ok(NoopExecutor) }).await,
            RunnerKindArg::Hero => {
                runner_role::run(options, 4, |_| async move {
                    HeroExecutor::new(hero_cli.as_deref()).context("the hero runner cannot start")
                })
                .await
            }
            RunnerKindArg::Sal => {
                let sal = SalOptions { script_lib, ..SalOptions::default() };
                runner_role::run(options, cores.max(4), |_| async move { Ok(SalExecutor::new(sal)) }).await
            }
            RunnerKindArg::Osiris => {
                // What ends together is committed together: 16 jobs at a time are twice as many a second as 4.
                let concurrency = options.concurrency.unwrap_or(OSIRIS_CONCURRENCY);
                runner_role::run(options, OSIRIS_CONCURRENCY, |identity_dir| async move {
                    let url =
                        osiris_url.unwrap_or_else(|| format!("sqlite://{}", identity_dir.join("osiris.db").display()));
                    let mut osiris = OsirisOptions::new(url);
                    osiris.script_lib = script_lib;
                    osiris.threads = osiris.threads.max(concurrency as usize);
                    OsirisExecutor::open(osiris).await.context("the osiris runner cannot start")
                })
                .await
            }
        }
    })?;
    Ok(ExitCode::SUCCESS)
}
