//! One step.

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use horus_keys::SealedSecret;
use serde_json::{Value as Json, json};

use super::{
    OnUnknown, RetryPolicy, Step,
    fields::{Path, Reader},
    tree::{Use, Value},
    workflow::{Index, reference},
};
use crate::job::{StepId, bounds, limits};

const KEYS: &[&str] = &[
    "id",
    "runner",
    "payload",
    "depends_on",
    "env",
    "timeout",
    "idempotent",
    "on_unknown",
    "retry",
    "supervisor",
    "labels",
    "secrets",
    "continue_on_error",
];
const RETRY_KEYS: &[&str] =
    &["max_attempts", "initial_interval", "multiplier", "max_interval", "jitter", "non_retryable"];
/// No wait between attempts is longer.
const MAX_INTERVAL: Duration = Duration::from_secs(24 * 3600);
/// Length of an address or selector.
const SUPERVISOR_BYTES: usize = 512;

/// Reads a step, or collects what is wrong with it.
pub(super) fn read(
    reader: &mut Reader<'_>,
    item: Use,
    path: &Path<'_>,
    index: &Index,
    workflow_env: &BTreeMap<String, String>,
) -> Option<Step> {
    let entries = reader.record(item, path, "a step", KEYS)?;
    for key in ["id", "runner", "payload"] {
        if !entries.iter().any(|(found, _)| *found == key) {
            reader.problem(item.at, path, format_args!("`{key}` is missing: a step needs id, runner and payload"));
        }
    }
    let (mut id, mut runner, mut payload) = (None, None, None);
    let (mut depends_on, mut env, mut labels, mut secrets) =
        (Vec::new(), BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    let (mut timeout, mut idempotent, mut on_unknown, mut retry, mut supervisor) = (None, None, None, None, None);
    let mut continue_on_error = false;
    for (key, value) in entries {
        let path = Path::Key(path, key);
        match key {
            "id" => id = step_id(reader, value, &path, index),
            "runner" => runner = reader.parsed(value, &path),
            "payload" => payload = bounded(reader, value, &path, limits::PAYLOAD_BYTES),
            "depends_on" => depends_on = dependencies(reader, value, &path, index),
            "env" => {
                env = reader.texts(value, &path);
                let mut all = workflow_env.clone();
                all.extend(env.iter().map(|(name, value)| (name.clone(), value.clone())));
                reader.check(value.at, &path, bounds::env(&all));
            }
            "timeout" => timeout = reader.duration(value, &path, limits::MAX_TIMEOUT),
            "idempotent" => idempotent = reader.boolean(value, &path),
            "on_unknown" => on_unknown = self::on_unknown(reader, value, &path),
            "retry" => retry = self::retry(reader, value, &path),
            "supervisor" => supervisor = bounded(reader, value, &path, SUPERVISOR_BYTES),
            "labels" => {
                labels = reader.texts(value, &path);
                reader.check(value.at, &path, bounds::labels(&labels));
            }
            "secrets" => secrets = self::secrets(reader, value, &path),
            _ => continue_on_error = reader.boolean(value, &path).unwrap_or_default(),
        }
    }
    let id = id?;
    if depends_on.contains(&id) {
        reader.problem(item.at, path, "a step cannot depend on itself: take it out of its own depends_on");
    }
    Some(Step {
        id,
        runner: runner?,
        payload: payload?,
        depends_on,
        env,
        timeout,
        idempotent,
        on_unknown,
        retry,
        supervisor,
        labels,
        secrets,
        continue_on_error,
        at: item.at,
    })
}

/// The id as the index has it, so that all mentions of a step share one text.
fn step_id(reader: &mut Reader<'_>, value: Use, path: &Path<'_>, index: &Index) -> Option<StepId> {
    let id: StepId = reader.parsed(value, path)?;
    Some(index.get_key_value(&id).map_or(id, |(known, _)| known.clone()))
}

fn bounded(reader: &mut Reader<'_>, value: Use, path: &Path<'_>, max: usize) -> Option<String> {
    let text = reader.text(value, path)?;
    if text.len() > max {
        let is = text.len();
        reader.problem(value.at, path, format_args!("{is} bytes, at most {max} are allowed"));
        return None;
    }
    Some(text.to_owned())
}

/// Above this many, a set is cheaper than comparing each with all.
const FEW: usize = 16;

fn dependencies(reader: &mut Reader<'_>, value: Use, path: &Path<'_>, index: &Index) -> Vec<StepId> {
    let Some(items) = reader.list(value, path) else { return Vec::new() };
    if items.len() > limits::DEPENDENCIES {
        let (is, max) = (items.len(), limits::DEPENDENCIES);
        reader.problem(value.at, path, format_args!("{is} dependencies, at most {max} are allowed"));
        return Vec::new();
    }
    let mut all: Vec<StepId> = Vec::with_capacity(items.len());
    let mut set: HashSet<StepId> = HashSet::new();
    for (n, item) in items.iter().enumerate() {
        let path = Path::Item(path, n);
        let Some(id) = reference(reader, *item, &path, index) else { continue };
        let repeated = if items.len() > FEW { !set.insert(id.clone()) } else { all.contains(&id) };
        if repeated {
            reader.problem(item.at, &path, format_args!("`{id}` is listed twice: keep one"));
        } else {
            all.push(id);
        }
    }
    all
}

fn on_unknown(reader: &mut Reader<'_>, value: Use, path: &Path<'_>) -> Option<OnUnknown> {
    match reader.text(value, path)? {
        "wait" => Some(OnUnknown::Wait),
        "retry" => Some(OnUnknown::Retry),
        "fail" => Some(OnUnknown::Fail),
        _ => {
            reader.problem(value.at, path, "expected wait, retry or fail");
            None
        }
    }
}

fn retry(reader: &mut Reader<'_>, value: Use, path: &Path<'_>) -> Option<RetryPolicy> {
    let mut policy = RetryPolicy::default();
    for (key, value) in reader.record(value, path, "retry", RETRY_KEYS)? {
        let path = Path::Key(path, key);
        match key {
            "max_attempts" => assign(&mut policy.max_attempts, reader.number(value, &path, 1, limits::RETRY_ATTEMPTS)),
            "initial_interval" => assign(&mut policy.initial_interval, reader.duration(value, &path, MAX_INTERVAL)),
            "multiplier" => assign(&mut policy.multiplier, reader.number(value, &path, 1.0, 100.0)),
            "max_interval" => assign(&mut policy.max_interval, reader.duration(value, &path, MAX_INTERVAL)),
            "jitter" => assign(&mut policy.jitter, jitter(reader, value, &path)),
            _ => policy.non_retryable = codes(reader, value, &path),
        }
    }
    Some(policy)
}

fn assign<T>(field: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *field = value;
    }
}

fn jitter(reader: &mut Reader<'_>, value: Use, path: &Path<'_>) -> Option<f64> {
    match reader.tree().value(value) {
        Value::Plain(text) if text == "true" => Some(0.5),
        Value::Plain(text) if text == "false" => Some(0.0),
        _ => reader.number(value, path, 0.0, 1.0),
    }
}

fn codes(reader: &mut Reader<'_>, value: Use, path: &Path<'_>) -> Vec<String> {
    let items = reader.list(value, path).unwrap_or_default();
    if items.len() > limits::NON_RETRYABLE {
        let (is, max) = (items.len(), limits::NON_RETRYABLE);
        reader.problem(value.at, path, format_args!("{is} error codes, at most {max} are allowed"));
        return Vec::new();
    }
    let read = |(n, item): (usize, &Use)| bounded(reader, *item, &Path::Item(path, n), limits::ERROR_CODE_BYTES);
    items.iter().enumerate().filter_map(read).collect()
}

/// Sealed secrets are JSON objects, pasted as they are: `NAME: {recipients: [{key: ..., enc: ..., ciphertext: ...}]}`.
fn secrets(reader: &mut Reader<'_>, value: Use, path: &Path<'_>) -> BTreeMap<String, SealedSecret> {
    let all = reader.names(value, path, |reader, value, path| {
        let json = to_json(reader, value, path);
        match serde_json::from_value::<SealedSecret>(json) {
            Ok(sealed) if (1..=limits::SECRET_RECIPIENTS).contains(&sealed.recipients.len()) => Some(sealed),
            Ok(_) => {
                reader.problem(
                    value.at,
                    path,
                    format_args!("a secret is sealed to 1 to {} runners", limits::SECRET_RECIPIENTS),
                );
                None
            }
            Err(e) => {
                reader.problem(value.at, path, format_args!("this is not a sealed secret: {e}"));
                None
            }
        }
    });
    reader.check(value.at, path, bounds::secrets(&all));
    all
}

/// All scalars as strings, as a sealed secret has no others. The tree bounds depth and size.
fn to_json(reader: &mut Reader<'_>, value: Use, path: &Path<'_>) -> Json {
    match reader.tree().value(value) {
        Value::Plain(text) | Value::Quoted(text) => json!(text),
        Value::List(items) => items.iter().map(|item| to_json(reader, *item, path)).collect(),
        Value::Map(_) => {
            let members = reader.names(value, path, |reader, value, path| Some(to_json(reader, value, path)));
            members.into_iter().collect::<serde_json::Map<_, _>>().into()
        }
    }
}
