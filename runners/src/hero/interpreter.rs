//! The built-in interpreter: the core actions of heroscript without the `hero` command.

use super::action::Action;
use super::executor::stopped;
use super::http::{Http, Method, Request};
use super::parser::parse_located;
use super::text;
use crate::executor::{Context, ExecutionError, Output};
use crate::job::{Job, limits};
use std::collections::HashMap;

/// Most text that the values of one action may become when their placeholders are filled in.
const MAX_EXPANDED_BYTES: usize = 2 * limits::INPUT_BYTES;
/// Longest value that a script may put into its session.
const MAX_ENV_VALUE_BYTES: usize = 64 * 1024;
/// Most names that a session holds.
const MAX_ENV_ENTRIES: usize = 1_000;

/// What a built-in action does.
#[derive(Clone, Copy, Debug)]
pub(super) enum Builtin {
    Http(Method),
    Echo,
    EnvSet { once: bool },
}

/// The built-in actions.
pub(super) const ACTIONS: [(&str, Builtin); 9] = [
    ("http.get", Builtin::Http(Method::Get)),
    ("http.post", Builtin::Http(Method::Post)),
    ("http.put", Builtin::Http(Method::Put)),
    ("http.patch", Builtin::Http(Method::Patch)),
    ("http.delete", Builtin::Http(Method::Delete)),
    ("http.head", Builtin::Http(Method::Head)),
    ("play.echo", Builtin::Echo),
    ("session.env_set", Builtin::EnvSet { once: false }),
    ("session.env_set_once", Builtin::EnvSet { once: true }),
];

impl Builtin {
    fn params(self) -> &'static [&'static str] {
        match self {
            Self::Http(_) => &["url", "headers", "body", "timeout"],
            Self::Echo => &["content"],
            Self::EnvSet { .. } => &["key", "val", "value"],
        }
    }
}

/// Runs scripts of the built-in actions.
#[derive(Debug)]
pub(super) struct Interpreter {
    http: Http,
}

impl Interpreter {
    pub(super) fn new() -> Result<Self, reqwest::Error> {
        Ok(Self { http: Http::new()? })
    }

    /// Runs the script of `job`; its output is the result of the last action.
    pub(super) async fn run(&self, job: &Job, context: &Context) -> Result<Output, ExecutionError> {
        let steps = plan(&job.payload, context)?;
        let mut session = Session::new(job, context);
        let mut output = Output::null();
        for (action, line, builtin) in steps {
            if context.cancel.is_cancelled() {
                return Err(stopped(context));
            }
            let name = action.full_name();
            let at_line = |error: ExecutionError| {
                ExecutionError::new(&error.code, format_args!("line {line}, {name}: {}", error.message))
            };
            let action = session.fill(action).map_err(at_line)?;
            output = self.act(&action, builtin, &mut session, context).await.map_err(at_line)?;
            // Most actions wait for nothing: a long script would keep its thread from heartbeats and other jobs.
            tokio::task::yield_now().await;
        }
        Ok(output)
    }

    async fn act(
        &self,
        action: &Action,
        builtin: Builtin,
        session: &mut Session,
        context: &Context,
    ) -> Result<Output, ExecutionError> {
        match builtin {
            Builtin::Http(method) => {
                let request = Request::new(method, action)?;
                tokio::select! {
                    output = self.http.send(request, context) => output,
                    () = context.cancel.cancelled() => Err(stopped(context)),
                }
            }
            Builtin::Echo => {
                let content = action.get("content").map_or_else(|| action.args.join(" "), str::to_owned);
                context.log.stdout(&content);
                Output::from_value(&content)
            }
            Builtin::EnvSet { once } => {
                let value = action.get("val").or_else(|| action.get("value"));
                let (Some(key), Some(value)) = (action.get("key"), value) else {
                    return Err(bad_parameter("it needs key and val"));
                };
                session.set(key, value, once)?;
                Ok(Output::null())
            }
        }
    }
}

/// An action called in a way that it does not understand.
pub(super) fn bad_parameter(message: impl std::fmt::Display) -> ExecutionError {
    ExecutionError::new("INVALID_PARAMETER", message)
}

/// Parses a script and knows all its actions before the first one acts: half a script is worse than none.
fn plan(script: &str, context: &Context) -> Result<Vec<(Action, usize, Builtin)>, ExecutionError> {
    let actions = parse_located(script).map_err(|e| ExecutionError::new("SCRIPT_ERROR", e))?;
    if actions.is_empty() {
        let message = "the script has no action: an action begins a line with !!actor.name, as in !!http.get url:'...'";
        return Err(ExecutionError::new("SCRIPT_ERROR", message));
    }
    let mut steps = Vec::with_capacity(actions.len());
    for (action, line) in actions {
        let name = action.full_name();
        let Some((_, builtin)) = ACTIONS.iter().find(|(known, _)| *known == name) else {
            let known: Vec<&str> = ACTIONS.iter().map(|(name, _)| *name).collect();
            let message = format!(
                "line {line}: the built-in interpreter has no action {name}, only {}. For all of heroscript install the \
                 hero CLI on the runner's machine, on its PATH or named by --hero-cli",
                known.join(", ")
            );
            return Err(ExecutionError::new("UNKNOWN_ACTION", message));
        };
        let taken = builtin.params();
        for param in action.params.iter().filter(|p| !taken.contains(&p.key.as_str())) {
            let (key, taken) = (&param.key, taken.join(", "));
            context.log.system(&format!("line {line}: {name} ignores the parameter {key}; it takes {taken}"));
        }
        steps.push((action, line, *builtin));
    }
    Ok(steps)
}

/// What `{NAME}` stands for in values.
struct Session {
    /// By normalised name.
    env: HashMap<String, String>,
}

impl Session {
    /// The job's input as `{INPUT}`, its environment and its secrets.
    fn new(job: &Job, context: &Context) -> Self {
        let input = job.input.as_ref().map_or("null", |input| input.get()).to_owned();
        let mut env = HashMap::from([(text::normalise_name("INPUT"), input)]);
        let given = job.env.iter().map(|(name, value)| (name, value.clone()));
        let secrets = context.secrets.iter().map(|(name, value)| (name, value.to_string()));
        env.extend(given.chain(secrets).map(|(name, value)| (text::normalise_name(name), value)));
        Self { env }
    }

    fn set(&mut self, key: &str, value: &str, once: bool) -> Result<(), ExecutionError> {
        if value.len() > MAX_ENV_VALUE_BYTES {
            return Err(bad_parameter(format_args!("the value has more than {MAX_ENV_VALUE_BYTES} bytes")));
        }
        let key = text::normalise_name(key);
        if key.is_empty() {
            return Err(bad_parameter("key has no letter or digit"));
        }
        if once && self.env.contains_key(&key) {
            return Ok(());
        }
        if self.env.len() >= MAX_ENV_ENTRIES && !self.env.contains_key(&key) {
            return Err(bad_parameter(format_args!("the session holds {MAX_ENV_ENTRIES} names already")));
        }
        self.env.insert(key, value.to_owned());
        Ok(())
    }

    fn fill(&self, mut action: Action) -> Result<Action, ExecutionError> {
        let mut room = MAX_EXPANDED_BYTES;
        let values = action.params.iter_mut().map(|p| &mut p.value);
        for value in values.chain(&mut action.args) {
            if value.contains('{') {
                *value = self.expand(value, room)?;
                room -= value.len();
            }
        }
        Ok(action)
    }

    /// Replaces each `{NAME}` that the session knows; anything else in braces stays as it is. An error above `room` bytes.
    fn expand(&self, value: &str, room: usize) -> Result<String, ExecutionError> {
        let mut out = String::new();
        let mut push = |text: &str| {
            if out.len() + text.len() > room {
                let message = format_args!(
                    "its values with their placeholders filled in exceed {MAX_EXPANDED_BYTES} bytes together: put less \
                     into one action"
                );
                return Err(bad_parameter(message));
            }
            out.push_str(text);
            Ok(())
        };
        let mut rest = value;
        while let Some(start) = rest.find('{') {
            let (before, from) = rest.split_at(start);
            push(before)?;
            let name = &from[1..];
            let end = name.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(name.len());
            let known =
                name[end..].starts_with('}').then(|| self.env.get(&text::normalise_name(&name[..end]))).flatten();
            if let Some(text) = known {
                push(text)?;
                rest = &name[end + 1..];
            } else {
                push(&from[..=end])?;
                rest = &name[end..];
            }
        }
        push(rest)?;
        Ok(out)
    }
}

#[cfg(test)]
#[path = "interpreter_tests.rs"]
mod tests;
