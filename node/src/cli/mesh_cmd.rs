//! `horus mesh status`: the daemon of this machine, and the mesh as the roles here see it.

use std::process::ExitCode;

use horus_transport::{MeshStatus, NoParams, NodeStatus, RpcError};
use serde_json::json;

use super::{
    args_mesh::{MeshCommand, MeshStatusArgs},
    client::{Session, block_on, coordinator_address, supervisor_address},
    output::{Failure, print_json, print_line, printable, table},
};
use crate::api::{GetMeshStatus, MeshReport};
use crate::role::HOW_TO_GET_A_DAEMON;

pub(super) fn run(command: MeshCommand) -> Result<ExitCode, Failure> {
    let MeshCommand::Status(args) = command;
    status(&args)
}

/// The exit status is 1 if no daemon answers, so that a script can wait for one.
fn status(args: &MeshStatusArgs) -> Result<ExitCode, Failure> {
    let coordinator = Session::open(&coordinator_address(&args.coordinator), &args.client)?;
    let supervisor = Session::open(&supervisor_address(&args.supervisor), &args.client)?;
    let (own, roles) = block_on(async {
        let own = coordinator.way.mesh().await.status().await;
        let ask = |session: &Session| {
            let rpc = session.rpc.clone();
            async move { rpc.call::<GetMeshStatus>(&NoParams {}).await }
        };
        let (coordinator, supervisor) = tokio::join!(ask(&coordinator), ask(&supervisor));
        Ok((own, [("coordinator", coordinator), ("supervisor", supervisor)]))
    })?;
    if args.client.json {
        let mut all = json!({ "daemon": own.daemon, "links": own.links });
        for (role, report) in &roles {
            all[role] = match report {
                Ok(report) => json!(report),
                Err(error) => json!({ "error": error.to_string() }),
            };
        }
        print_json(&all)?;
    } else {
        show(&own, &roles)?;
    }
    Ok(if own.daemon.up { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn show(own: &MeshStatus, roles: &[(&str, Result<MeshReport, RpcError>)]) -> Result<(), Failure> {
    let daemon = &own.daemon;
    match (&daemon.overlay_ip, &daemon.error) {
        (Some(ip), None) => {
            let tun = if daemon.tun { "with a TUN" } else { "without a TUN: messages only" };
            print_line(&format!("daemon  {} is up, {tun}", daemon.url))?;
            print_line(&format!("address {ip}"))?;
            if let Some(key) = daemon.mesh_public_key {
                print_line(&format!("key     {key}"))?;
            }
        }
        (_, error) => {
            let error = error.as_deref().unwrap_or("it did not answer");
            print_line(&printable(&format!("daemon  {} is down: {error}", daemon.url)))?;
            print_line(&format!("to get one, {HOW_TO_GET_A_DAEMON}"))?;
        }
    }
    for link in &own.links {
        print_line(&printable(&format!("peer    {} {}", link.endpoint, link.state)))?;
    }
    for (role, report) in roles {
        print_line("")?;
        match report {
            Err(error) => print_line(&printable(&format!("{role}: {error}")))?,
            Ok(report) => show_role(role, report)?,
        }
    }
    Ok(())
}

fn show_role(role: &str, report: &MeshReport) -> Result<(), Failure> {
    let nodes = report.status.iter().flat_map(|status| &status.nodes).chain(&report.others);
    match &report.status {
        Some(status) => show_part(role, status)?,
        None => print_line(&format!("{role}: takes no part in the mesh"))?,
    }
    let rows: Vec<_> = nodes.map(node_row).collect();
    if rows.is_empty() {
        return print_line(&format!("{role}: knows no other node yet"));
    }
    print_line(&table(["NODE", "ADDRESS", "TOPIC", "PATH", "LATENCY", "CALLS", "LAST ERROR"], rows))
}

/// What a role serves and has sent.
fn show_part(role: &str, status: &MeshStatus) -> Result<(), Failure> {
    for topic in &status.topics {
        let state = serde_json::to_value(&topic.state).unwrap_or_default();
        let state = state["state"].as_str().unwrap_or_default().to_owned();
        print_line(&printable(&format!("{role}: serves {} ({state}), transport {}", topic.topic, status.transport)))?;
    }
    print_line(&format!("{role}: {} messages sent, {} replies", status.messages_sent, status.replies_received))
}

fn node_row(node: &NodeStatus) -> [String; 7] {
    let path = node.in_use();
    let url = node.paths.first().and_then(|path| path.url.clone()).unwrap_or_default();
    let none = if node.paths.is_empty() { "not called yet" } else { "none works" };
    [
        node.peer_id.map(|peer| peer.to_string()).unwrap_or_default(),
        node.overlay_ip.map_or(url, |ip| ip.to_string()),
        node.topic.clone().unwrap_or_default(),
        node.path.map_or_else(|| none.to_owned(), |path| path.to_string()),
        path.and_then(|path| path.latency_ms).map(|ms| format!("{ms:.1} ms")).unwrap_or_default(),
        node.outstanding.to_string(),
        node.last_error().map(|(at, error)| format!("{at}: {error}")).unwrap_or_default(),
    ]
}
