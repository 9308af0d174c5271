//! The `horus` binary. Called as `coordinator`, `supervisor` or `runner` (a link to it) it takes that role's flags.

use std::process::ExitCode;

fn main() -> ExitCode {
    horus_node::cli::main(std::env::args_os())
}
