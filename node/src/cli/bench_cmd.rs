//! `horus bench ...`: resolves what to measure, and prints the figures.

use std::{process::ExitCode, sync::Arc};

use horus_keys::RunnerKind;
use horus_transport::{Address, ClientOptions, RpcClient, RpcError};
use serde::Serialize;

use super::{
    args::TransportArg,
    args_client::{BenchCommand, BenchTarget},
    client::{CALL_TIMEOUT, Session, block_on, connect, coordinator_address, supervisor_address},
    output::{Failure, print_json, print_line},
};
use crate::api::supervisor::{ListRunners, ListRunnersParams};
use crate::bench::{self, Environment, JobsPlan, OneWay, PathsPlan, RpcPlan, Shape, WorkflowPlan};

pub(super) fn run(command: BenchCommand) -> Result<ExitCode, Failure> {
    match command {
        BenchCommand::Jobs { runner, payload, count, concurrency, batch, sequential, submit_only, target } => {
            let session = open(&supervisor_address(&target.supervisor), &target)?;
            let verifier = session.verifier()?;
            let plan = JobsPlan {
                payload: payload.unwrap_or_else(|| own_payload(&runner)),
                runner,
                count: count as usize,
                concurrency: concurrency as usize,
                batch: batch as usize,
                sequential,
                submit_only,
            };
            let report = block_on(async {
                let environment = environment(&session, &target).await?;
                let work = bench::jobs(
                    &session.rpc,
                    &session.keys.identity,
                    session.certificates(),
                    &verifier,
                    &plan,
                    environment,
                );
                work.await.map_err(|e| session.failure(&e))
            })?;
            print(&session, &report)
        }
        BenchCommand::Workflow { chain, fan, count, runner, target } => {
            let session = open(&coordinator_address(&target.coordinator), &target)?;
            let shape = match (chain, fan) {
                (Some(n), _) => Shape::Chain(n),
                (None, Some(n)) => Shape::Fan(n),
                (None, None) => return Err(Failure::usage("give --chain N or --fan N")),
            };
            let plan = WorkflowPlan { shape, count, runner };
            let report = block_on(async {
                let environment = environment(&session, &target).await?;
                let certificates = session.certificates();
                bench::workflow(&session.rpc, &session.keys.identity, &certificates, &plan, environment)
                    .await
                    .map_err(|e: RpcError| session.failure(&e))
            })?;
            print(&session, &report)
        }
        BenchCommand::Rpc { address: Some(address), against_raw: true, count, concurrency, target, .. } => {
            by_each_path(&address, count, concurrency, &target)
        }
        BenchCommand::Rpc { address, against, against_raw: _, signed, count, concurrency, target } => {
            let session = open(&address.unwrap_or_else(|| supervisor_address(&target.supervisor)), &target)?;
            // Without keys: a signature would only be work that the other server does not look at.
            let against = against
                .map(|other| connect(&other, None, None, &target.client, CALL_TIMEOUT).map(|(rpc, _way)| rpc))
                .transpose()?;
            let plan = RpcPlan { signed, count: count as usize, concurrency: concurrency as usize, against };
            let report = block_on(async {
                let environment = environment(&session, &target).await?;
                bench::rpc(&session.rpc, plan, environment).await.map_err(|e| session.failure(&e))
            })?;
            print(&session, &report)
        }
    }
}

/// RPC by each path to a host of the mesh, then by bare messages.
fn by_each_path(address: &str, count: u32, concurrency: u32, target: &BenchTarget) -> Result<ExitCode, Failure> {
    let address = supervisor_address(address);
    let Ok(to @ Address::Mycelium { .. }) = address.parse() else {
        let problem = "--against-raw compares with bare messages to a host of the mesh: give --address mycelium://...";
        return Err(Failure::usage(problem));
    };
    let modes = match target.client.way.transport {
        TransportArg::Auto => vec![TransportArg::Http, TransportArg::Messages],
        only => vec![only],
    };
    let open_by = |mode| {
        let mut target = target.clone();
        target.client.way.transport = mode;
        open(&address, &target)
    };
    let sessions = modes.into_iter().map(open_by).collect::<Result<Vec<_>, _>>()?;
    let session = &sessions[0];
    let report = block_on(async {
        let mut ways = Vec::new();
        for session in &sessions {
            ways.push(OneWay { client: session.rpc.clone(), mesh: session.way.mesh().await.clone() });
        }
        let mesh = ways[0].mesh.clone();
        let options = ClientOptions {
            identity: Some(session.keys.identity.clone()),
            certificate: session.certificate.clone(),
            timeout: CALL_TIMEOUT,
            carriers: Some(Arc::new(mesh.raw())),
            ..ClientOptions::default()
        };
        let client = RpcClient::connect(to, options).map_err(|e| session.failure(&e))?;
        let plan = PathsPlan { concurrency: concurrency as usize, count: count as usize };
        let environment = environment(session, target).await?;
        bench::paths(&ways, &OneWay { client, mesh }, plan, environment).await.map_err(|e| session.failure(&e))
    })?;
    print(session, &report)
}

fn open(address: &str, target: &BenchTarget) -> Result<Session, Failure> {
    Session::open(address, &target.client)
}

/// What a job of this kind does when nothing else is asked for.
fn own_payload(runner: &RunnerKind) -> String {
    match runner.as_str() {
        "sal" => "40 + 2",
        "osiris" => "osiris.model(\"bench\").create(#{ n: 1 }).id",
        "hero" => "!!play.echo message:'hello'",
        _ => "",
    }
    .to_owned()
}

/// The supervisor knows the Redis behind its queue; without it the figures are told without.
async fn environment(session: &Session, target: &BenchTarget) -> Result<Environment, Failure> {
    let (rpc, _way) = connect(
        &supervisor_address(&target.supervisor),
        Some(&session.keys),
        session.certificate.as_ref(),
        &target.client,
        CALL_TIMEOUT,
    )?;
    let list = rpc.call::<ListRunners>(&ListRunnersParams::default()).await;
    let redis = list.ok().and_then(|l| l.redis).map_or(serde_json::Value::Null, |r| serde_json::json!(r));
    Ok(Environment::new(redis))
}

fn print<T: Serialize>(session: &Session, report: &T) -> Result<ExitCode, Failure> {
    if session.json {
        print_json(report)?;
    } else {
        let text = serde_json::to_string_pretty(report).map_err(|e| Failure::failed(e.to_string()))?;
        print_line(&text)?;
    }
    Ok(ExitCode::SUCCESS)
}
