//! The main job: workflows through coordinator, supervisor and runners, each a process, by the command line alone.

use horus_tests::House;
use serde_json::Value;

/// The workflow of the design, as written but for the URL.
const PIPELINE: &str = r#"workflow:
  name: "data-pipeline"
  steps:
    - id: "fetch"
      runner: "hero"
      payload: "!!http.get url:'URL/openrpc.json'"
    - id: "process"
      runner: "sal"
      depends_on: ["fetch"]
      payload: |
        let data = input.fetch;
        let processed = process_data(data);
        processed
    - id: "store"
      runner: "osiris"
      depends_on: ["process"]
      payload: |
        let model = osiris.model("results");
        model.create(input.process);
"#;

const LIBRARY: &str = r#"
fn process_data(data) {
    let hostname = run("uname -n").silent().execute().stdout;
    hostname.trim();
    print("processing " + data.info.title);
    #{ title: data.info.title, methods: data.methods.len(), host: hostname }
}
"#;

fn url(address: &str) -> &str {
    address.split('#').next().unwrap()
}

#[test]
fn the_data_pipeline_runs_as_written_and_stores_its_record() {
    let lib = tempfile::tempdir().unwrap();
    std::fs::write(lib.path().join("process.rhai"), LIBRARY).unwrap();
    let house = House::start_with(&["--script-lib", lib.path().to_str().unwrap()]);
    let file = house.file("pipeline.yaml", &PIPELINE.replace("URL", url(&house.ready.supervisor)));

    let done = house.run(&["workflow", "run", &file, "--id", "first", "--json"]).ok().json();
    assert_eq!(done["workflow_id"], "first");
    assert_eq!(done["status"], "succeeded", "{done:#}");
    let stored = &done["outputs"]["store"];
    assert!(stored["methods"].as_u64().unwrap() > 10, "{stored}");
    assert!(stored["id"].is_string() && stored["created_at"].is_string(), "{stored}");
    for step in ["fetch", "process", "store"] {
        assert_eq!(done["steps"][step]["status"], "succeeded");
    }

    let listed =
        house.run(&["job", "run", "--runner", "osiris", "--payload", "osiris.model(\"results\").list()", "--json"]);
    let listed = listed.ok().json();
    assert_eq!(listed["output"].as_array().unwrap().len(), 1);
    assert_eq!(listed["output"][0]["id"], stored["id"]);

    let logs = house.run(&["workflow", "logs", "first", "--step", "process"]).ok();
    assert!(logs.stdout.contains("processing "), "{logs:?}");

    // The same id and text again is the same workflow: nothing runs twice.
    let again = house.run(&["workflow", "run", &file, "--id", "first", "--json"]);
    assert_eq!(again.code, 1, "signed anew it is another payload under the same id: {again:?}");
    assert!(again.stdout.contains("ID_CONFLICT"), "{again:?}");
}

#[test]
fn independent_steps_of_the_diamond_overlap() {
    let house = House::start();
    let step = |id: &str, deps: &str, payload: &str| {
        format!("    - id: \"{id}\"\n      runner: \"sal\"\n      depends_on: [{deps}]\n      payload: \"{payload}\"\n")
    };
    let mut text = "workflow:\n  name: diamond\n  steps:\n".to_owned();
    text += &step("start", "", "10");
    for id in ["a", "b", "c"] {
        text += &step(id, "\"start\"", "sleep(1); input.start + 1");
    }
    text += &step("aggregate", "\"a\", \"b\", \"c\"", "input.a + input.b + input.c");
    text += &step("finish", "\"aggregate\"", "input.aggregate * 2");
    let file = house.file("diamond.yaml", &text);
    let done = house.run(&["workflow", "run", &file, "--json"]).ok().json();
    assert_eq!(done["outputs"]["finish"], 66, "{done:#}");
    assert_eq!(done["outputs"].as_object().unwrap().len(), 1, "only the last step is an output: {done:#}");

    let time = |step: &str, field: &str| -> String {
        done["steps"][step][field].as_str().unwrap_or_else(|| panic!("{step}.{field}: {done:#}")).to_owned()
    };
    // Times are RFC 3339 in UTC with milliseconds: they compare as text.
    for (one, other) in [("a", "b"), ("b", "c"), ("a", "c")] {
        assert!(time(one, "started_at") < time(other, "finished_at"), "{one} and {other} do not overlap: {done:#}");
        assert!(time(other, "started_at") < time(one, "finished_at"), "{one} and {other} do not overlap: {done:#}");
    }
    assert!(time("aggregate", "started_at") >= time("a", "finished_at"));
}

#[test]
fn every_problem_of_a_workflow_is_told_at_once_with_its_place() {
    let house = House::start();
    let file = house.file(
        "bad.yaml",
        "workflow:\n  name: bad\n  steps:\n    - id: a\n      runner: sal\n      payload: '1'\n      depends_on: [b]\n      colour: red\n    - id: b\n      runner: sal\n      payload: '2'\n      depends_on: [a, nowhere]\n    - id: b\n      runner: sal\n      payload: '3'\n",
    );
    let told = house.run(&["workflow", "validate", &file, "--json"]);
    assert_eq!(told.code, 1);
    let json = told.json();
    assert_eq!(json["valid"], false);
    let text = json["errors"].to_string();
    for needle in ["colour", "nowhere", "\"b\"", "->"] {
        assert!(text.contains(needle) || text.contains(&needle.replace('"', "`")), "{needle} is missing in {text}");
    }
    for error in json["errors"].as_array().unwrap() {
        assert!(error["line"].as_u64().unwrap() >= 1 && error["column"].as_u64().unwrap() >= 1, "{error}");
    }

    let run = house.run(&["workflow", "run", &file, "--json"]);
    assert_eq!(run.code, 1, "{run:?}");
    let none = house.run(&["workflow", "list", "--json"]).ok().json();
    assert_eq!(none["workflows"], Value::Array(Vec::new()), "nothing was accepted");
}

#[test]
fn a_failing_step_fails_its_workflow_and_skips_what_depends_on_it() {
    let house = House::start();
    let file = house.file(
        "failing.yaml",
        "workflow:\n  name: failing\n  steps:\n    - {id: a, runner: sal, payload: 'throw \"broken\"'}\n    - {id: b, runner: sal, payload: '1', depends_on: [a]}\n",
    );
    let run = house.run(&["workflow", "run", &file, "--json"]);
    assert_eq!(run.code, 1);
    let json = run.json();
    assert_eq!(json["status"], "failed");
    assert_eq!(json["steps"]["a"]["status"], "failed");
    assert!(json["steps"]["a"]["error"]["message"].as_str().unwrap().contains("broken"), "{json:#}");
    assert_ne!(json["steps"]["b"]["status"], "succeeded");
}

#[test]
fn the_quickstart_runs_the_pipeline_and_prints_what_was_stored() {
    let script = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("examples/quickstart.sh");
    let run = std::process::Command::new("bash")
        .arg(script)
        .env("HORUS_BIN", horus_tests::binary())
        .env("NO_COLOR", "1")
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    let out = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success(), "{out}\n{}", String::from_utf8_lossy(&run.stderr));
    assert!(out.contains("\"methods\": ") && out.contains("\"hostname\": "), "{out}");
    assert!(out.trim_end().ends_with("== Done"), "{out}");
}
