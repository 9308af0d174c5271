//! Workflows whose effects can be counted, and the count at the end.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use horus_keys::{Envelope, Identity, PeerId};
use serde_json::Value;

use super::{
    process::Horus,
    signed::{Valid, sign_workflow},
};

/// A directory into which steps write what they do, a line each.
///
/// Each workflow has a step `mark` that may run twice (`idempotent: true`), a step `once` that may not, and a step `store`
/// that makes a record in Osiris. `once` may be given up: whether it ran is then unknown, and its workflow fails for it.
#[derive(Debug)]
pub struct Ledger {
    dir: PathBuf,
}

impl Ledger {
    /// A ledger in a directory that exists.
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// The definition of the workflow of that id.
    pub fn definition(&self, id: &str) -> String {
        let file = |name: &str| self.dir.join(name).display().to_string();
        let (mark, once) = (file("mark"), file("once"));
        format!(
            r#"workflow:
  name: ledger
  steps:
    - {{id: begin, runner: noop, payload: "1", idempotent: true}}
    - id: mark
      runner: sal
      idempotent: true
      timeout: 30s
      depends_on: [begin]
      payload: 'file_write_append("{mark}", "{id}\n"); 1'
    - id: once
      runner: sal
      timeout: 30s
      depends_on: [begin]
      payload: 'file_write_append("{once}", "{id}\n"); sleep(0.3); 1'
    - id: store
      runner: osiris
      idempotent: true
      timeout: 30s
      depends_on: [mark]
      payload: 'osiris.model("ledger").create(#{{ workflow: "{id}" }}).workflow'
    - {{id: end, runner: noop, payload: "1", idempotent: true, depends_on: [store]}}
"#
        )
    }

    /// The workflow of that id, signed.
    pub fn sign(&self, id: &str, user: &Identity, coordinators: &[PeerId]) -> Envelope {
        let valid = Valid { submit: Duration::from_secs(7200), run: Duration::from_secs(14400) };
        sign_workflow(user, id, self.definition(id), coordinators, valid)
    }

    /// How often each workflow has written into one of the files, `mark` or `once`.
    pub fn count(&self, name: &str) -> BTreeMap<String, usize> {
        let text = std::fs::read_to_string(self.dir.join(name)).unwrap_or_default();
        let mut count = BTreeMap::new();
        for line in text.lines() {
            *count.entry(line.to_owned()).or_insert(0) += 1;
        }
        count
    }

    /// What does not match in one workflow that has ended: its view by `workflow status --json`, and how many records of it
    /// Osiris has.
    pub fn problems(&self, view: &Value, records: usize) -> Vec<String> {
        let id = view["workflow_id"].as_str().unwrap_or_default();
        let wrote = |name: &str| self.count(name).get(id).copied().unwrap_or(0);
        let status = |step: &str| view["steps"][step]["status"].as_str().unwrap_or_default().to_owned();
        let mut problems = Vec::new();
        let mut check = |holds: bool, what: String| {
            if !holds {
                problems.push(format!("{id}: {what}; {}", view["steps"]));
            }
        };
        let wanted = if status("once") == "failed" { "failed" } else { "succeeded" };
        check(view["status"] == wanted, format!("it is {}: {}", view["status"], view["error"]));
        for step in ["begin", "mark", "store", "end"] {
            check(status(step) == "succeeded", format!("its step {step} is {}", status(step)));
        }
        check(wrote("mark") >= 1, "its idempotent step never ran".to_owned());
        check(records == 1, format!("its step in Osiris took effect {records} times"));
        let (once, ended) = (wrote("once"), status("once"));
        check(once <= 1, format!("its step that must not run twice ran {once} times"));
        check(
            ended != "succeeded" || once == 1,
            "its step that must not run twice succeeded without running".to_owned(),
        );
        check(matches!(ended.as_str(), "succeeded" | "failed"), format!("its step that must not run twice is {ended}"));
        problems
    }
}

/// How many records a workflow has made in Osiris.
pub(crate) fn records(horus: &Horus, supervisor: &str, workflow: &str) -> usize {
    let find = format!("osiris.model(\"ledger\").find(#{{workflow: \"{workflow}\"}}).len()");
    let args = ["job", "run", "--runner", "osiris", "--payload", &find, "--supervisor", supervisor, "--json"];
    let found = horus.run(&args).ok().json();
    found["output"].as_u64().and_then(|n| usize::try_from(n).ok()).expect("a number of records")
}
