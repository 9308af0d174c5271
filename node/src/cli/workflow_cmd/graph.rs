//! `horus workflow graph`: the stages of a workflow as text, or its edges for Graphviz or Mermaid, or its steps as JSON.

use std::{collections::HashMap, process::ExitCode};

use horus_runners::{
    definition::{self, Definition, Step},
    job::StepId,
};
use serde_json::json;

use crate::cli::{
    args_client::GraphFormat,
    output::{Failure, print_json, print_line, printable},
};

/// Prints the graph of a definition, as JSON without a format.
pub(super) fn print(text: &str, format: Option<GraphFormat>) -> Result<ExitCode, Failure> {
    let problems = super::check(text.as_bytes());
    if !problems.is_empty() {
        let all: Vec<_> =
            problems.iter().map(|p| format!("line {}, column {}: {}", p.line, p.column, p.message)).collect();
        return Err(Failure::failed(format!("the workflow is not valid:\n{}", printable(&all.join("\n")))));
    }
    let definition = definition::parse(text).map_err(|_| Failure::failed("the workflow is not valid"))?;
    let drawn = match format {
        None => {
            print_json(&as_json(&definition))?;
            return Ok(ExitCode::SUCCESS);
        }
        Some(GraphFormat::Text) => as_text(&definition),
        Some(GraphFormat::Dot) => as_dot(&definition),
        Some(GraphFormat::Mermaid) => as_mermaid(&definition),
    };
    print_line(&printable(drawn.trim_end()))?;
    Ok(ExitCode::SUCCESS)
}

/// A step's stage is one more than the latest of its dependencies'. The definition has no cycle.
fn stages(definition: &Definition) -> Vec<Vec<usize>> {
    let index: HashMap<&StepId, usize> = definition.steps.iter().enumerate().map(|(i, s)| (&s.id, i)).collect();
    let mut waits: Vec<usize> = definition.steps.iter().map(|s| s.depends_on.len()).collect();
    let mut dependents = vec![Vec::new(); definition.steps.len()];
    for (i, step) in definition.steps.iter().enumerate() {
        for dependency in &step.depends_on {
            if let Some(&d) = index.get(dependency) {
                dependents[d].push(i);
            }
        }
    }
    let mut stages = Vec::new();
    let mut now: Vec<usize> = (0..waits.len()).filter(|i| waits[*i] == 0).collect();
    while !now.is_empty() {
        let mut next = Vec::new();
        for &i in &now {
            for &d in &dependents[i] {
                waits[d] -= 1;
                if waits[d] == 0 {
                    next.push(d);
                }
            }
        }
        stages.push(std::mem::replace(&mut now, next));
    }
    stages
}

fn as_json(definition: &Definition) -> serde_json::Value {
    let step = |s: &Step| json!({ "id": s.id, "runner": s.runner, "depends_on": s.depends_on });
    json!({ "name": definition.name, "steps": definition.steps.iter().map(step).collect::<Vec<_>>() })
}

fn as_text(definition: &Definition) -> String {
    let mut out = format!("{}\n", definition.name);
    for (n, stage) in stages(definition).iter().enumerate() {
        for (k, &i) in stage.iter().enumerate() {
            let step = &definition.steps[i];
            let mark = if k == 0 { format!("{:>3}", n + 1) } else { "   ".to_owned() };
            let after: Vec<&str> = step.depends_on.iter().map(StepId::as_str).collect();
            let after = if after.is_empty() { String::new() } else { format!("  after {}", after.join(", ")) };
            out += &format!("{mark}  {} ({}){after}\n", step.id, step.runner);
        }
    }
    out
}

// Step ids and runner kinds are of letters, digits, `_` and `-` only: nothing needs escaping.
fn as_dot(definition: &Definition) -> String {
    let mut out = "digraph workflow {\n  rankdir=TB;\n  node [shape=box];\n".to_owned();
    for step in &definition.steps {
        out += &format!("  \"{0}\" [label=\"{0}\\n{1}\"];\n", step.id, step.runner);
        for dependency in &step.depends_on {
            out += &format!("  \"{dependency}\" -> \"{}\";\n", step.id);
        }
    }
    out + "}\n"
}

fn as_mermaid(definition: &Definition) -> String {
    let name: HashMap<&StepId, String> =
        definition.steps.iter().enumerate().map(|(i, s)| (&s.id, format!("s{i}"))).collect();
    let mut out = "flowchart TD\n".to_owned();
    for step in &definition.steps {
        out += &format!("  {}[\"{}<br/>{}\"]\n", name[&step.id], step.id, step.runner);
        for dependency in &step.depends_on {
            out += &format!("  {} --> {}\n", name[dependency], name[&step.id]);
        }
    }
    out
}
