//! House rules that a program can check: the arrows between crates, one heavy dependency per room, file length,
//! nothing left open, nothing at the top level that the design does not name.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

const MAX_LINES: usize = 500;
const CRATES: [&str; 4] = ["keys", "transport", "runners", "node"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn rust_files(dir: &Path, into: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() && path.file_name().is_some_and(|n| n != "target") {
            rust_files(&path, into);
        } else if path.extension().is_some_and(|e| e == "rs") {
            into.push(path);
        }
    }
}

fn files_of(folder: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    rust_files(&root().join(folder), &mut found);
    assert!(!found.is_empty(), "{folder} has no Rust files: the rule looks in the wrong place");
    found
        .into_iter()
        .map(|p| (p.strip_prefix(root()).unwrap().display().to_string(), fs::read_to_string(&p).unwrap()))
        .collect()
}

/// Names in the [dependencies] table of a crate.
fn dependencies(folder: &str) -> BTreeSet<String> {
    let text = fs::read_to_string(root().join(folder).join("Cargo.toml")).unwrap();
    let mut inside = false;
    let mut names = BTreeSet::new();
    for line in text.lines() {
        if line.starts_with('[') {
            inside = line == "[dependencies]";
        } else if inside && let Some((name, _)) = line.split_once('=') {
            names.insert(name.trim().trim_end_matches(".workspace").to_owned());
        }
    }
    names
}

fn check(problems: &[String]) {
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

#[test]
fn arrows_between_crates_point_one_way() {
    let allowed: BTreeMap<&str, &[&str]> = BTreeMap::from([
        ("keys", &[][..]),
        ("transport", &["horus-keys"][..]),
        ("runners", &["horus-keys"][..]),
        ("node", &["horus-keys", "horus-transport", "horus-runners"][..]),
    ]);
    let mut problems = Vec::new();
    for (folder, may) in allowed {
        for name in dependencies(folder).iter().filter(|d| d.starts_with("horus-")) {
            if !may.contains(&name.as_str()) {
                problems.push(format!("{folder} must not depend on {name}"));
            }
        }
    }
    check(&problems);
}

#[test]
fn one_heavy_dependency_lives_in_one_room() {
    let homes: [(&str, &[&str]); 9] = [
        ("ed25519-dalek", &["keys"]),
        ("x25519-dalek", &["keys"]),
        ("libp2p-identity", &["keys"]),
        ("hpke", &["keys"]),
        ("jsonrpsee", &["transport"]),
        ("rhai", &["runners"]),
        ("sqlx", &["runners"]),
        ("petgraph", &["node"]),
        ("clap", &["node"]),
    ];
    let mut problems = Vec::new();
    for folder in CRATES {
        for (name, rooms) in homes {
            if dependencies(folder).contains(name) && !rooms.contains(&folder) {
                problems.push(format!("{folder} must not depend on {name}: it lives in {rooms:?}"));
            }
        }
    }
    let rooms: [(&str, &str, &[&str]); 6] = [
        ("node", "redis::", &["node/src/coordinator/store", "node/src/store"]),
        ("node", "petgraph::", &["node/src/workflow/dag"]),
        ("node", "clap::", &["node/src/cli", "node/src/main.rs"]),
        ("runners", "reqwest::", &["runners/src/hero"]),
        ("runners", "sqlx::", &["runners/src/osiris"]),
        ("runners", "redis::", &["runners/src/link", "runners/src/queue", "runners/src/worker"]),
    ];
    for (folder, import, homes) in rooms {
        for (name, text) in files_of(&format!("{folder}/src")) {
            let uses = text.lines().any(|l| {
                let code = l.split("//").next().unwrap_or("");
                code.match_indices(import).any(|(at, _)| {
                    let before = code[..at].chars().next_back();
                    !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':')
                })
            });
            // Tests look at Redis from outside.
            let test = name.contains("/tests/") || name.ends_with("tests.rs");
            if uses && !test && !homes.iter().any(|h| name.starts_with(h)) {
                problems.push(format!("{name} uses {import}, which lives in {homes:?}"));
            }
        }
    }
    check(&problems);
}

#[test]
fn coordinator_and_supervisor_never_meet() {
    let mut problems = Vec::new();
    for (mine, theirs) in [("coordinator", "supervisor"), ("supervisor", "coordinator")] {
        for (name, text) in files_of(&format!("node/src/{mine}")) {
            for needle in [format!("crate::{theirs}"), format!("super::super::{theirs}")] {
                if text.contains(&needle) {
                    problems.push(format!("{name} imports {needle}: they meet at the RPC types only"));
                }
            }
        }
    }
    check(&problems);
}

#[test]
fn transport_knows_no_job() {
    let mut problems = Vec::new();
    for (name, text) in files_of("transport/src") {
        if text.contains("JobSpec") || text.contains("horus_runners") {
            problems.push(format!("{name} speaks of jobs"));
        }
    }
    check(&problems);
}

#[test]
fn files_stay_short_and_nothing_is_left_open() {
    let open =
        [["to", "do!("].concat(), ["unimple", "mented!("].concat(), ["TO", "DO"].concat(), ["FIX", "ME"].concat()];
    let mut problems = Vec::new();
    for folder in ["keys", "transport", "runners", "node", "examples", "tests"] {
        for (name, text) in files_of(folder) {
            let lines = text.lines().count();
            if lines > MAX_LINES {
                problems.push(format!("{name} has {lines} lines: two rooms?"));
            }
            for mark in &open {
                if text.contains(mark.as_str()) {
                    problems.push(format!("{name} holds {mark}"));
                }
            }
            if text.contains(&["#[", "ignore"].concat()) {
                problems.push(format!("{name} has an ignored test"));
            }
        }
    }
    check(&problems);
}

#[test]
fn the_top_level_is_the_designed_one() {
    let allowed = [
        "keys",
        "transport",
        "runners",
        "node",
        "examples",
        "tests",
        "docs",
        ".ci",
        ".cargo",
        ".config",
        ".git",
        ".github",
        "Cargo.toml",
        "Cargo.lock",
        "README.md",
        "CHANGELOG.md",
        "LICENSE",
        ".gitignore",
        "rust-toolchain.toml",
        "rustfmt.toml",
        "clippy.toml",
        "deny.toml",
        "target",
    ];
    let mut problems = Vec::new();
    for entry in fs::read_dir(root()).unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !allowed.contains(&name.as_str()) {
            problems.push(format!("{name} at the top level is not in the design"));
        }
    }
    check(&problems);
}

#[test]
fn every_crate_takes_the_workspace_lints() {
    for folder in CRATES.iter().chain(["examples", "tests"].iter()) {
        let text = fs::read_to_string(root().join(folder).join("Cargo.toml")).unwrap();
        assert!(text.contains("[lints]\nworkspace = true"), "{folder}/Cargo.toml does not take the workspace's lints");
    }
}

#[test]
fn every_test_that_a_guarantee_names_exists() {
    let text = fs::read_to_string(root().join("docs/GUARANTEES.md")).unwrap();
    let sources: Vec<String> = ["keys", "transport", "runners", "node", "tests"]
        .iter()
        .flat_map(|folder| files_of(folder))
        .map(|(_, text)| text)
        .collect();
    // Names of tests are sentences; settings and error codes have fewer words.
    let names = text
        .split('`')
        .filter(|word| word.matches('_').count() >= 3 && word.chars().all(|c| c.is_ascii_lowercase() || c == '_'));
    let missing: Vec<String> = names
        .filter(|name| !sources.iter().any(|text| text.contains(&format!("fn {name}("))))
        .map(str::to_owned)
        .collect();
    check(&missing);
}
