//! The workflow as a whole: its own keys, the ids of its steps, and what refers to them.

use std::collections::{BTreeMap, HashMap};

use super::{
    Definition, Position, Problem,
    fields::{Path, Reader},
    steps,
    tree::{Tree, Use, Value},
};
use crate::job::{StepId, bounds, limits};

const KEYS: &[&str] = &["name", "steps", "env", "timeout", "outputs"];

/// Reads a definition and all that is wrong with its shape. If something is, the definition holds what could be read.
pub(super) fn read(tree: &Tree<'_>) -> (Option<Definition>, Vec<Problem>) {
    let mut reader = Reader::new(tree);
    let mut definition = workflow(&mut reader);
    let problems = reader.finish();
    if let Some(definition) = definition.as_mut().filter(|_| !problems.is_empty()) {
        keep_first_of_each(definition);
    }
    (definition, problems)
}

/// Steps that could not be read are missing, and ids may be used twice: makes list and index agree again.
fn keep_first_of_each(definition: &mut Definition) {
    let index = &mut definition.index;
    index.clear();
    definition.steps.retain(|step| {
        let place = u32::try_from(index.len()).expect("limits::STEPS is far below 2^32");
        !index.contains_key(&step.id) && index.insert(step.id.clone(), place).is_none()
    });
}

/// `None` only together with a problem.
fn workflow(reader: &mut Reader<'_>) -> Option<Definition> {
    let root = reader.tree().root();
    let outer = reader.record(root, &Path::Root, "the text", &["workflow"])?;
    let Some(&(_, body)) = outer.first() else {
        reader.problem(root.at, &Path::Root, "`workflow:` is missing: the text begins with it");
        return None;
    };
    let path = Path::Key(&Path::Root, "workflow");
    let mut env = BTreeMap::new();
    let (mut name, mut items, mut timeout, mut outputs) = (None, None, None, None);
    for (key, value) in reader.record(body, &path, "a workflow", KEYS)? {
        let path = Path::Key(&path, key);
        match key {
            "name" => name = Some(self::name(reader, value, &path)),
            "steps" => items = Some(reader.list(value, &path).map(|items| (value, items))),
            "env" => {
                env = reader.texts(value, &path);
                reader.check(value.at, &path, bounds::env(&env));
            }
            "timeout" => timeout = reader.duration(value, &path, limits::RUN_UNTIL_AHEAD),
            _ => outputs = Some(value),
        }
    }
    for (missing, key) in [(name.is_none(), "name"), (items.is_none(), "steps")] {
        if missing {
            reader.problem(body.at, &path, format_args!("`{key}` is missing: a workflow needs a name and steps"));
        }
    }
    let (value, items) = items??;
    let steps_path = Path::Key(&path, "steps");
    if items.is_empty() || items.len() > limits::STEPS {
        let (is, max) = (items.len(), limits::STEPS);
        reader.problem(value.at, &steps_path, format_args!("{is} steps: a workflow has 1 to {max}"));
        return None;
    }
    let index = index(reader, items, &steps_path);
    let steps = items
        .iter()
        .enumerate()
        .filter_map(|(n, item)| steps::read(reader, *item, &Path::Item(&steps_path, n), &index, &env))
        .collect();
    let outputs = outputs.map(|value| self::outputs(reader, value, &Path::Key(&path, "outputs"), &index));
    let index = index.into_iter().map(|(id, (position, _))| (id, position)).collect();
    Some(Definition { name: name??.to_owned(), steps, env, timeout, outputs, index })
}

fn name<'t>(reader: &mut Reader<'t>, value: Use, path: &Path<'_>) -> Option<&'t str> {
    let name = reader.text(value, path)?;
    let max = limits::WORKFLOW_NAME_BYTES;
    if name.is_empty() || name.len() > max || name.chars().any(char::is_control) {
        reader.problem(value.at, path, format_args!("a name has 1 to {max} bytes of printable text"));
        return None;
    }
    Some(name)
}

/// Ids of all steps with position in the list and in the text.
pub(super) type Index = HashMap<StepId, (u32, Position)>;

/// Ids first, so that a step can depend on one that comes later. What is wrong with an id itself is found again, and said, when its step is read.
fn index(reader: &mut Reader<'_>, items: &[Use], path: &Path<'_>) -> Index {
    let mut index = Index::with_capacity(items.len());
    let tree = reader.tree();
    for (n, item) in items.iter().enumerate() {
        let Value::Map(entries) = tree.value(*item) else { continue };
        let id =
            entries.iter().find(|(key, _)| matches!(tree.value(*key), Value::Plain(k) | Value::Quoted(k) if k == "id"));
        let Some((_, value)) = id else { continue };
        let (Value::Plain(text) | Value::Quoted(text)) = tree.value(*value) else { continue };
        let Ok(id) = StepId::new(text) else { continue };
        if let Some((_, first)) = index.get(&id) {
            let message = format!("the step `{id}` exists already, in line {}: every id is used once", first.line);
            reader.problem(value.at, &Path::Key(&Path::Item(path, n), "id"), message);
        } else {
            let n = u32::try_from(n).expect("limits::STEPS is far below 2^32");
            index.insert(id, (n, value.at));
        }
    }
    index
}

/// A step of that id, or a problem.
pub(super) fn reference(reader: &mut Reader<'_>, value: Use, path: &Path<'_>, index: &Index) -> Option<StepId> {
    let text = reader.text(value, path)?;
    if let Some((id, _)) = index.get_key_value(text) {
        return Some(id.clone());
    }
    let shown = crate::job::json::cut(text, 64);
    reader.problem(value.at, path, format_args!("there is no step `{shown}`: write the id of a step of this workflow"));
    None
}

/// `{name: step}`, or a list of steps whose ids are the names.
fn outputs(reader: &mut Reader<'_>, value: Use, path: &Path<'_>, index: &Index) -> BTreeMap<String, StepId> {
    let outputs = if let Value::List(items) = reader.tree().value(value) {
        let mut all = BTreeMap::new();
        for (n, item) in items.iter().enumerate() {
            let path = Path::Item(path, n);
            let Some(step) = reference(reader, *item, &path, index) else { continue };
            if all.insert(step.to_string(), step).is_some() {
                reader.problem(item.at, &path, "this step is listed twice: keep one");
            }
        }
        all
    } else {
        reader.names(value, path, |reader, value, path| reference(reader, value, path, index))
    };
    for output in outputs.keys() {
        reader.check(value.at, path, bounds::name("output", output));
    }
    outputs
}
