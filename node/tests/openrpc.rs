//! The OpenRPC documents under docs/ are those that the roles serve.
//!
//! `HORUS_UPDATE_DOCS=1 cargo test -p horus-node --test openrpc` writes them anew.

#![allow(clippy::unwrap_used, missing_docs)]

use std::path::PathBuf;

use horus_transport::MethodTable;
use serde_json::Value;

fn docs() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs")
}

fn check<S: Send + Sync + 'static>(role: &str, methods: &MethodTable<S>) {
    let served = serde_json::to_string_pretty(&methods.openrpc()).unwrap() + "\n";
    let file = docs().join(format!("openrpc/{role}.json"));
    if std::env::var_os("HORUS_UPDATE_DOCS").is_some() {
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, &served).unwrap();
    }
    let committed = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        committed == served,
        "docs/openrpc/{role}.json is not what the {role} serves; write it anew with HORUS_UPDATE_DOCS=1 cargo test -p horus-node --test openrpc"
    );
    let page = std::fs::read_to_string(docs().join("RPC.md")).unwrap();
    for method in methods.openrpc()["methods"].as_array().unwrap() {
        let name = method["name"].as_str().unwrap();
        assert!(page.contains(&format!("`{name}`")), "docs/RPC.md does not mention {name}");
        let described = |param: &Value| param["description"].is_string() || param["schema"]["description"].is_string();
        for param in method["params"].as_array().unwrap() {
            assert!(described(param), "{name}: {} has no description", param["name"]);
        }
    }
}

#[test]
fn supervisor() {
    check("supervisor", &horus_node::supervisor::methods());
}

#[test]
fn coordinator() {
    check("coordinator", &horus_node::coordinator::methods());
}

#[test]
fn every_method_that_the_access_table_names_is_served() {
    let served = |document: Value| -> Vec<String> {
        let methods = document["methods"].as_array().unwrap().clone();
        methods.iter().map(|method| method["name"].as_str().unwrap().to_owned()).collect()
    };
    let mut all = served(horus_node::supervisor::methods().openrpc());
    all.extend(served(horus_node::coordinator::methods().openrpc()));
    for (name, _) in horus_node::api::access::TABLE {
        assert!(all.iter().any(|served| served == name), "{name} stands in the access table, and nobody serves it");
    }
}
