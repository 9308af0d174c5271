//! The command line: parse, resolve, run, and turn the outcome into an exit status (0 done, 1 it ran and failed, 2 usage).

pub mod args;
pub mod args_client;
pub mod args_keys;
pub mod args_mesh;
mod away;
mod bench_cmd;
mod client;
mod config_file;
pub mod identity;
mod job_cmd;
mod keys_cmd;
mod mesh_cmd;
mod misc_cmd;
mod output;
mod roles;
mod way;
mod workflow_cmd;

use std::{ffi::OsString, path::Path, process::ExitCode, time::Duration};

use clap::{CommandFactory as _, FromArgMatches as _, Parser as _};

use args::{Cli, Command, CoordinatorArgs, RunnerArgs, RunnerCli, RunnerOptions, SupervisorArgs, SupervisorsCommand};
pub use output::Failure;
pub(crate) use output::stdout_has_its_value;

/// The role names that a link to the binary can have.
const ROLE_NAMES: [&str; 3] = ["coordinator", "supervisor", "runner"];

/// Runs the command line that `argv` holds.
pub fn main(argv: impl Iterator<Item = OsString>) -> ExitCode {
    let mut argv: Vec<OsString> = argv.collect();
    if let Some(code) = hidden(&argv) {
        return code;
    }
    let asked = wants_json(&argv);
    match parse(&mut argv) {
        // The `--config` file can ask for JSON too.
        Ok(cli) => run(cli.command).unwrap_or_else(|failure| failure.report(wants_json(&argv))),
        Err(error) => {
            // Help and version go to stdout with 0, the rest to stderr with 2.
            if asked && error.use_stderr() {
                let text = error.render().to_string();
                let first = text.split("\n\n").next().unwrap_or_default();
                let message = first.strip_prefix("error: ").unwrap_or(first);
                output::print_error(&serde_json::json!({ "message": message }));
            }
            let _ = error.print();
            ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
        }
    }
}

/// Whether stdout is for a program.
fn wants_json(argv: &[OsString]) -> bool {
    argv.iter().take_while(|a| *a != "--").any(|a| a == "--json")
}

/// Commands that this binary calls itself by; no user types them.
fn hidden(argv: &[OsString]) -> Option<ExitCode> {
    let name = argv.get(1)?.to_str()?;
    if name == crate::up::WITH_PARENT {
        let Err(error) = crate::up::with_parent(argv.iter().skip(2).cloned());
        eprintln!("horus: {error:#}");
        return Some(ExitCode::FAILURE);
    }
    if name == horus_runners::sal::CHILD_COMMAND {
        return Some(horus_runners::sal::child_main());
    }
    None
}

/// Parses, and parses again with what the `--config` file adds to `argv`.
fn parse(argv: &mut Vec<OsString>) -> Result<Cli, clap::Error> {
    let mut command = Cli::command();
    // `coordinator --port 9090` is `horus coordinator --port 9090`, and its help and errors say what was typed.
    let name = argv.first().and_then(|a| Path::new(a).file_name()).and_then(|n| n.to_str());
    let link = name.and_then(|name| ROLE_NAMES.into_iter().find(|role| *role == name));
    if let Some(role) = link {
        let found = command.find_subcommand(role).cloned();
        command = found.expect("every role is a command").version(env!("CARGO_PKG_VERSION")).bin_name(role);
    }
    let matches = command.try_get_matches_from_mut(argv.iter())?;
    let given = match link {
        Some(role) => Some((role, &command, &matches)),
        None => matches.subcommand().and_then(|(name, m)| Some((name, command.find_subcommand(name)?, m))),
    };
    let extended = match given {
        Some((name, role, given)) => config_file::extend(name, role, given, argv),
        None => Ok(None),
    };
    let extended = extended.map_err(|m| command.error(clap::error::ErrorKind::ValueValidation, m))?;
    let matches = match extended {
        Some(extended) => {
            *argv = extended;
            command.try_get_matches_from_mut(argv.iter())?
        }
        None => matches,
    };
    Ok(match link {
        None => Cli::from_arg_matches(&matches)?,
        Some("coordinator") => Cli { command: Command::Coordinator(CoordinatorArgs::from_arg_matches(&matches)?) },
        Some("supervisor") => Cli { command: Command::Supervisor(SupervisorArgs::from_arg_matches(&matches)?) },
        Some(_) => Cli { command: Command::Runner(RunnerArgs::from_arg_matches(&matches)?) },
    })
}

fn run(command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Up(args) => roles::up(args),
        Command::Coordinator(args) => roles::coordinator(&args),
        Command::Supervisor(args) => roles::supervisor(&args),
        Command::Runner(args) => roles::runner(args),
        Command::Workflow(command) => workflow_cmd::run(command),
        Command::Job(command) => job_cmd::run(command),
        Command::Keys(command) => keys_cmd::run(command),
        Command::Mesh(command) => mesh_cmd::run(command),
        Command::Runners(command) => misc_cmd::runners(command),
        Command::Supervisors(SupervisorsCommand::List(target)) => misc_cmd::supervisors(&target),
        Command::Call(args) => misc_cmd::call(&args),
        Command::Discover(args) => misc_cmd::discover(&args),
        Command::Bench(command) => bench_cmd::run(command),
        Command::Hero(command) => misc_cmd::hero(&command),
        Command::Doctor(args) => misc_cmd::doctor(&args),
    }
}

/// A duration as it is written in flags: `10s`, `5m`, `1h30m`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    horus_keys::duration::parse(text).map_err(|e| e.to_string())
}

/// A duration of more than nothing and, if there is a limit, no longer than that.
pub(crate) fn parse_duration_within(limit: Option<Duration>) -> impl Fn(&str) -> Result<Duration, String> + Clone {
    move |text| match (parse_duration(text)?, limit) {
        (Duration::ZERO, _) => Err("it must be longer than 0s".to_owned()),
        (given, Some(limit)) if given > limit => Err(format!("at most {} hours are allowed", limit.as_secs() / 3600)),
        (given, _) => Ok(given),
    }
}

/// The command line of a runner of one's own; ends the process on a usage error, as `--help` does.
pub(crate) fn parse_runner() -> RunnerOptions {
    RunnerCli::parse().options
}
