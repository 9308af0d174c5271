//! Scripts as they are found in the wild and what they parse to: `NAME.hero` beside `NAME.json`, or
//! `NAME.error` with the message. `HORUS_UPDATE_CORPUS=1` rewrites what is expected; read the difference.

#![allow(clippy::unwrap_used)] // A test: what fails here is to panic.

use horus_runners::hero::{Action, parse};
use std::path::Path;

#[test]
fn scripts_parse_as_expected() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/hero");
    let update = std::env::var_os("HORUS_UPDATE_CORPUS").is_some();
    let mut scripts = 0;
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "hero") {
            continue;
        }
        scripts += 1;
        let (extension, found) = match parse(&std::fs::read_to_string(&path).unwrap()) {
            Ok(actions) => {
                check_round_trip(&actions);
                ("json", serde_json::to_string_pretty(&actions).unwrap())
            }
            Err(error) => ("error", error.to_string()),
        };
        let expected = path.with_extension(extension);
        if update {
            std::fs::write(&expected, format!("{found}\n")).unwrap();
        }
        let shown = path.display();
        let expected = std::fs::read_to_string(&expected)
            .unwrap_or_else(|e| panic!("{}: {e}; {shown} gave:\n{found}", expected.display()));
        assert_eq!(found, expected.trim_end(), "{shown}");
    }
    assert!(scripts >= 12, "only {scripts} scripts found");
}

/// Written down again and parsed, a script says the same.
fn check_round_trip(actions: &[Action]) {
    let written: String = actions.iter().map(ToString::to_string).collect();
    assert_eq!(parse(&written).unwrap(), actions, "{written}");
    let json = serde_json::to_string(actions).unwrap();
    assert_eq!(serde_json::from_str::<Vec<Action>>(&json).unwrap(), actions);
}
