//! `--config FILE`: a TOML file whose names are those of the flags. What is given as a flag or in the environment wins.

use std::{ffi::OsString, path::PathBuf};

use clap::{ArgAction, ArgMatches, Command, parser::ValueSource};

const MAX_BYTES: u64 = 1024 * 1024;

/// Flags that make no sense in a file.
const NOT_OPTIONS: [&str; 3] = ["config", "help", "version"];

/// Options whose variable, set for another command, changes who a role is or whom it trusts.
const TELL: [&str; 2] = ["identity", "trust"];

/// The command line with what the file adds, or `None` when there is no `--config`.
///
/// # Errors
/// A file that cannot be read or parsed, a name that is no flag of the command, a value of the wrong shape.
pub(super) fn extend(
    name: &str,
    command: &Command,
    matches: &ArgMatches,
    argv: &[OsString],
) -> Result<Option<Vec<OsString>>, String> {
    if !command.get_arguments().any(|a| a.get_id() == "config") {
        return Ok(None);
    }
    let Some(path) = matches.get_one::<PathBuf>("config") else { return Ok(None) };
    let shown = path.display();
    let size = std::fs::metadata(path).map_err(|e| format!("cannot read {shown}: {e}"))?.len();
    if size > MAX_BYTES {
        return Err(format!("{shown} has {size} bytes, at most {MAX_BYTES} are read"));
    }
    let text = std::fs::read_to_string(path).map_err(|e| format!("cannot read {shown}: {e}"))?;
    let table: toml::Table = text.parse().map_err(|e| format!("{shown}: {e}"))?;
    let mut argv = argv.to_vec();
    for (key, value) in table {
        let flag = key.replace('_', "-");
        let Some(arg) = command
            .get_arguments()
            .find(|a| a.get_long() == Some(flag.as_str()) && !NOT_OPTIONS.contains(&a.get_long().unwrap_or_default()))
        else {
            let known: Vec<_> =
                command.get_arguments().filter_map(clap::Arg::get_long).filter(|l| !NOT_OPTIONS.contains(l)).collect();
            return Err(format!("{shown}: `{key}` is no option of `{name}`; the options are {}", known.join(", ")));
        };
        let given = matches.value_source(arg.get_id().as_str());
        if given == Some(ValueSource::EnvVariable)
            && TELL.contains(&flag.as_str())
            && let Some(variable) = arg.get_env()
        {
            eprintln!("horus: {} overrides `{key}` of {shown}", variable.display());
        }
        if matches!(given, Some(ValueSource::CommandLine | ValueSource::EnvVariable)) {
            continue;
        }
        push(&mut argv, &flag, arg, value).map_err(|m| format!("{shown}: `{key}`: {m}"))?;
    }
    Ok(Some(argv))
}

fn push(argv: &mut Vec<OsString>, flag: &str, arg: &clap::Arg, value: toml::Value) -> Result<(), String> {
    if matches!(arg.get_action(), ArgAction::SetTrue) {
        match value {
            toml::Value::Boolean(true) => argv.push(format!("--{flag}").into()),
            toml::Value::Boolean(false) => {}
            other => return Err(format!("must be true or false, not {other}")),
        }
        return Ok(());
    }
    let values = match value {
        toml::Value::Array(list) => list,
        one => vec![one],
    };
    for value in values {
        let text = match value {
            toml::Value::String(s) => s,
            toml::Value::Integer(n) => n.to_string(),
            other => return Err(format!("must be a string, a number or a list of them, not {other}")),
        };
        // One word, so that a value that begins with a dash is no flag.
        argv.push(format!("--{flag}={text}").into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, FromArgMatches as _};

    use super::super::args::{Cli, Command as Cmd};

    fn parse(toml: &str, more: &[&str]) -> Result<Cli, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), toml).unwrap();
        let mut argv: Vec<std::ffi::OsString> =
            vec!["horus".into(), "supervisor".into(), "--config".into(), file.path().into()];
        argv.extend(more.iter().map(std::ffi::OsString::from));
        let mut command = Cli::command();
        let matches = command.try_get_matches_from_mut(&argv).map_err(|e| e.to_string())?;
        let (name, given) = matches.subcommand().unwrap();
        let role = command.find_subcommand(name).unwrap();
        let argv = super::extend(name, role, given, &argv)?.unwrap();
        let matches = command.try_get_matches_from_mut(argv).map_err(|e| e.to_string())?;
        Cli::from_arg_matches(&matches).map_err(|e| e.to_string())
    }

    #[test]
    fn flags_win_over_the_file() {
        let cli = parse("port = 1234\nmax-queue = 7\nlisten = [\"127.0.0.1:1\", \"127.0.0.1:2\"]", &["--port", "99"])
            .unwrap();
        let Cmd::Supervisor(args) = cli.command else { panic!() };
        assert_eq!((args.port, args.max_queue, args.serve.listen.len()), (99, 7, 2));
    }

    #[test]
    fn an_unknown_name_is_an_error_that_lists_the_known() {
        let error = parse("prot = 1", &[]).unwrap_err();
        assert!(error.contains("`prot`") && error.contains("port"), "{error}");
        assert!(!error.contains("version") && !error.contains("help"), "{error}");
    }

    #[test]
    fn a_wrong_shape_is_an_error() {
        assert!(parse("port = { a = 1 }", &[]).unwrap_err().contains("`port`"));
        assert!(parse("port = \"x\"", &[]).is_err());
    }
}
