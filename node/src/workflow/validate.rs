//! What can be wrong with a definition beyond its shape, and the plan of one that is right.

use std::collections::BTreeSet;

use horus_keys::{Digest, RunnerKind, Timestamp};
use horus_runners::definition::{self, Definition, OnUnknown, Problem, RetryPolicy, Step};
use horus_runners::job::limits;

use super::dag;
use super::event::StepIndex;
use super::plan::{Deadline, Plan, PlannedStep};
use super::policy::{Policy, Unknown};
use super::selector::Selector;

/// Steps of a circle that a problem names; the middle of a longer one is left out.
const SHOWN: usize = 12;

/// Everything that is wrong with a definition of good shape, in the order of its text: circles, runner kinds that nobody
/// serves, selectors that say nothing, and names that its inputs take already.
#[must_use]
pub fn problems<'a>(
    definition: &Definition,
    known: &BTreeSet<RunnerKind>,
    inputs: impl IntoIterator<Item = &'a str>,
) -> Vec<Problem> {
    let mut found = Vec::new();
    for (place, step) in definition.steps.iter().enumerate() {
        if !known.contains(&step.runner) {
            let kinds: Vec<&str> = known.iter().map(RunnerKind::as_str).collect();
            let message = format!(
                "no supervisor has a runner of kind `{}`; there are {}. Start one (`horus runner {}`) or correct the name",
                step.runner,
                kinds.join(", "),
                step.runner
            );
            found.push(at(step, format!("workflow.steps[{place}].runner"), message));
        }
        if let Some(Err(message)) = step.supervisor.as_deref().map(Selector::parse) {
            found.push(at(step, format!("workflow.steps[{place}].supervisor"), message));
        }
    }
    for name in inputs {
        if let Some(place) = name.parse().ok().and_then(|id| definition.position(&id)) {
            let message = format!(
                "the submission has an input called `{name}`, and scripts would see it as `input.{name}`, where they \
                 expect the output of the step of that name: rename one of them"
            );
            found.push(at(&definition.steps[place], format!("workflow.steps[{place}].id"), message));
        }
    }
    for circle in dag::circles(&dependencies(definition)) {
        let place = circle[0] as usize;
        let message = format!(
            "these steps wait for each other: {} (each depends on the next); take one dependency out",
            path(definition, &circle)
        );
        found.push(at(&definition.steps[place], format!("workflow.steps[{place}].depends_on"), message));
    }
    found.sort_by_key(|problem| (problem.line, problem.column));
    found
}

fn at(step: &Step, path: String, message: String) -> Problem {
    Problem { message, line: step.at.line as usize, column: step.at.column as usize, path }
}

/// `a -> b -> a`.
fn path(definition: &Definition, circle: &[StepIndex]) -> String {
    let id = |step: &StepIndex| definition.steps[*step as usize].id.to_string();
    let mut names: Vec<String> = circle.iter().chain(circle.first()).map(id).collect();
    if names.len() > SHOWN {
        let left_out = names.len() - SHOWN;
        names.splice(SHOWN / 2..SHOWN / 2 + left_out, [format!("... {left_out} more ...")]);
    }
    names.join(" -> ")
}

fn dependencies(definition: &Definition) -> Vec<Vec<StepIndex>> {
    definition
        .steps
        .iter()
        .map(|step| {
            let places = step.depends_on.iter().filter_map(|id| definition.position(id));
            places.map(|place| u32::try_from(place).expect("the number of steps is limited")).collect()
        })
        .collect()
}

/// Everything that is wrong with the text of a definition: its shape, and, of the steps that could be read, all that
/// [`problems`] finds. Without `known`, every runner kind passes.
#[must_use]
pub fn all_problems<'a>(
    text: &str,
    known: Option<&BTreeSet<RunnerKind>>,
    inputs: impl IntoIterator<Item = &'a str>,
) -> Vec<Problem> {
    let (definition, mut found) = definition::examine(text);
    if let Some(definition) = definition {
        let own: BTreeSet<RunnerKind>;
        let known = match known {
            Some(known) => known,
            None => {
                own = definition.steps.iter().map(|step| step.runner.clone()).collect();
                &own
            }
        };
        found.extend(problems(&definition, known, inputs));
        found.sort_by_key(|problem| (problem.line, problem.column));
    }
    found
}

/// The plan of a definition without [`problems`]; `None` if it has a circle after all.
#[must_use]
pub fn plan(workflow: Digest, definition: &Definition, run_until: Timestamp) -> Option<Plan> {
    let dependencies = dependencies(definition);
    if !dag::circles(&dependencies).is_empty() {
        return None;
    }
    let deadline = Deadline { run_until, timeout: definition.timeout };
    let steps = definition.steps.iter().zip(dependencies);
    let steps = steps.map(|(step, needs)| planned(step, needs)).collect();
    Some(Plan::new(workflow, deadline, steps))
}

fn planned(step: &Step, dependencies: Vec<StepIndex>) -> PlannedStep {
    let idempotent = step.idempotent == Some(true);
    let once = RetryPolicy { max_attempts: 1, ..RetryPolicy::default() };
    let retry = step.retry.as_ref().unwrap_or(&once);
    let policy = Policy {
        max_attempts: step.max_attempts(),
        initial_interval: retry.initial_interval,
        multiplier: retry.multiplier,
        max_interval: retry.max_interval,
        jitter: retry.jitter,
        non_retryable: retry.non_retryable.clone().into_boxed_slice(),
        timeout: step.timeout.unwrap_or(limits::DEFAULT_TIMEOUT),
        on_unknown: match step.on_unknown {
            Some(OnUnknown::Wait) => Unknown::Wait,
            Some(OnUnknown::Retry) => Unknown::Retry,
            Some(OnUnknown::Fail) => Unknown::Fail,
            None if idempotent => Unknown::Retry,
            None => Unknown::Wait,
        },
        idempotent,
        continue_on_error: step.continue_on_error,
    };
    let supervisor = step.supervisor.as_deref().map(Selector::accepted);
    PlannedStep {
        id: step.id.clone(),
        runner: step.runner.clone(),
        dependencies: dependencies.into_boxed_slice(),
        policy,
        supervisor,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use horus_runners::definition::parse;

    fn check(text: &str, inputs: &[&str]) -> Vec<String> {
        let known = ["hero", "sal"].into_iter().map(|kind| kind.parse().unwrap()).collect();
        let definition = parse(text).unwrap_or_else(|problems| panic!("{problems:?}"));
        problems(&definition, &known, inputs.iter().copied()).iter().map(ToString::to_string).collect()
    }

    const GOOD: &str = "workflow:
  name: diamond
  steps:
    - {id: start, runner: hero, payload: x}
    - {id: a, runner: sal, payload: x, depends_on: [start]}
    - {id: b, runner: sal, payload: x, depends_on: [start], supervisor: zone=eu}
    - {id: end, runner: sal, payload: x, depends_on: [a, b]}
";

    #[test]
    fn a_good_definition_has_no_problems_and_a_plan() {
        assert_eq!(check(GOOD, &["start_date"]), [""; 0]);
        let plan = plan(Digest::of(b"w"), &parse(GOOD).unwrap(), Timestamp::now()).unwrap();
        assert_eq!(plan.dependents(0), [1, 2]);
        assert_eq!(plan.steps()[3].dependencies[..], [1, 2]);
        assert_eq!(plan.leaves().collect::<Vec<_>>(), [3]);
        assert_eq!(plan.steps()[0].policy.max_attempts, 1);
    }

    #[test]
    fn a_circle_is_shown_as_a_path_with_its_place() {
        let text = "workflow:
  name: x
  steps:
    - {id: a, runner: sal, payload: x, depends_on: [b]}
    - {id: b, runner: sal, payload: x, depends_on: [a]}
";
        let found = check(text, &[]);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with("4:") && found[0].contains("a -> b -> a"), "{}", found[0]);
        assert!(plan(Digest::of(b"w"), &parse(text).unwrap(), Timestamp::now()).is_none());
    }

    #[test]
    fn all_problems_are_reported_at_once() {
        let text = "workflow:
  name: x
  steps:
    - {id: a, runner: lua, payload: x, supervisor: somewhere}
    - {id: b, runner: sal, payload: x, depends_on: [b]}
    - {id: c, runner: sal, payload: x}
";
        // A step that depends on itself may be refused by its shape already.
        let text = if parse(text).is_err() { text.replace("[b]", "[c]") } else { text.to_owned() };
        let found = check(&text, &["c"]);
        assert!(
            found.iter().any(|p| p.starts_with("4:") && p.contains("`lua`") && p.contains("hero, sal")),
            "{found:?}"
        );
        assert!(found.iter().any(|p| p.starts_with("4:") && p.contains("somewhere")), "{found:?}");
        assert!(found.iter().any(|p| p.starts_with("6:") && p.contains("input.c")), "{found:?}");
    }
}
