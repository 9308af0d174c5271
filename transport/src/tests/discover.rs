//! The OpenRPC document.

use super::*;

#[tokio::test]
async fn the_document_is_served_and_complete() {
    let world = World::start().await;
    let document: Value =
        serde_json::from_str(world.client(None).call_raw("rpc.discover", &NoParams {}).await.unwrap().get()).unwrap();
    assert_eq!(document, table().openrpc());
    assert_eq!(document["openrpc"], "1.4.1");
    let methods = document["methods"].as_array().unwrap();
    let names: Vec<&str> = methods.iter().map(|method| method["name"].as_str().unwrap()).collect();
    let mut expected: Vec<&str> = table().access().map(|(name, _)| name).chain(["rpc.discover"]).collect();
    expected.sort_unstable();
    assert_eq!(names, expected);
    for method in methods {
        assert!(method["summary"].as_str().is_some_and(|summary| !summary.is_empty()), "{method}");
        assert!(method["description"].as_str().unwrap().contains("May be called by"), "{method}");
        for param in method["params"].as_array().unwrap() {
            assert!(param["description"].is_string(), "{}: {param}", method["name"]);
        }
    }
    let echo = &methods[names.iter().position(|name| *name == "echo").unwrap()];
    assert_eq!(echo["params"][0]["name"], "value", "in the order of positions");
    assert_eq!(echo["params"][0]["required"], true);
    assert_eq!(echo["params"][1]["required"], false);
    assert_eq!(echo["paramStructure"], "either");
    assert_eq!(echo["examples"][0]["params"][0]["value"], serde_json::json!([1, 2]));
    every_reference_resolves(&document, &document);
    if let Some(path) = std::env::var_os("HORUS_TEST_OPENRPC") {
        std::fs::write(path, document.to_string()).unwrap();
    }
}

fn every_reference_resolves(value: &Value, document: &Value) {
    match value {
        Value::Object(members) => {
            if let Some(reference) = members.get("$ref").and_then(Value::as_str) {
                let pointer = reference.strip_prefix('#').unwrap_or_else(|| panic!("{reference}"));
                assert!(document.pointer(pointer).is_some(), "{reference}");
            }
            members.values().for_each(|value| every_reference_resolves(value, document));
        }
        Value::Array(values) => values.iter().for_each(|value| every_reference_resolves(value, document)),
        _ => {}
    }
}

#[test]
#[should_panic(expected = "the method note is registered twice")]
fn a_name_is_given_once() {
    let _ = table().method::<Note, _, _>(async |_: Arc<State>, _: Caller, _: NoParams| Ok(()));
}
