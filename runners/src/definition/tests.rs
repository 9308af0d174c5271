use std::{fmt::Write, time::Duration};

use proptest::prelude::*;

use super::*;

fn ok(text: &str) -> Definition {
    parse(text).unwrap_or_else(|problems| panic!("{}", shown(&problems)))
}

fn shown(problems: &[Problem]) -> String {
    problems.iter().fold(String::new(), |mut all, problem| {
        writeln!(all, "{problem}").unwrap();
        all
    })
}

/// Every line of `expected` is `line:column path: part of the message`.
fn check(text: &str, expected: &[&str]) {
    let problems = parse(text).expect_err("a definition with problems");
    let all = shown(&problems);
    assert_eq!(problems.len(), expected.len(), "{all}");
    for (problem, expected) in problems.iter().zip(expected) {
        let (place, part) = expected.split_once(": ").unwrap();
        let found = format!("{}:{} {}", problem.line, problem.column, problem.path);
        assert_eq!(found.trim_end(), place, "{all}");
        assert!(problem.message.contains(part), "{expected}\n{all}");
    }
}

fn one_step(rest: &str) -> String {
    format!("workflow:\n  name: n\n  steps:\n    - id: a\n      runner: hero\n      payload: p\n{rest}")
}

const SEED: &str = r#"
workflow:
  name: "data-pipeline"
  steps:
    - id: "fetch"
      runner: "hero"
      payload: "!!http.get url:'https://api.example.com/data'"
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

#[test]
fn the_seed_of_the_language_reads_as_written() {
    let definition = ok(SEED);
    assert_eq!(definition.name, "data-pipeline");
    assert_eq!(definition.steps[0].payload, "!!http.get url:'https://api.example.com/data'");
    assert!(definition.steps[1].payload.ends_with("processed\n"));
    let store = StepId::new("store").unwrap();
    assert_eq!(definition.step(&store).unwrap().depends_on, [StepId::new("process").unwrap()]);
    assert_eq!(definition.span_of(&store), Some(Position { line: 15, column: 7 }));
}

#[test]
fn every_key_is_understood() {
    let definition = ok(r"
workflow:
  name: all
  timeout: 1h30m
  env: {A: no, B: 012, C: 'x'}
  outputs: {result: b}
  steps:
    - id: a
      runner: my_runner
      payload: yes
      env: {C: null_ish, D: 1.0}
      timeout: 250ms
      idempotent: true
      on_unknown: retry
      supervisor: mycelium://[400::1]/x
      labels: {team: core}
      continue_on_error: true
      retry: {max_attempts: 5, initial_interval: 2s, multiplier: 1.5, max_interval: 1m, jitter: true, non_retryable: [HTTP_STATUS]}
    - {id: b, runner: noop, payload: '', depends_on: [a]}
");
    let a = &definition.steps[0];
    assert_eq!(definition.timeout, Some(Duration::from_secs(5400)));
    assert_eq!(a.payload, "yes", "text stays text");
    let env = a.environment(&definition);
    let env: Vec<_> = env.iter().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(env, ["A=no", "B=012", "C=null_ish", "D=1.0"]);
    assert_eq!(
        (a.timeout, a.idempotent, a.on_unknown),
        (Some(Duration::from_millis(250)), Some(true), Some(OnUnknown::Retry))
    );
    let retry = a.retry.as_ref().unwrap();
    assert_eq!((retry.max_attempts, retry.multiplier, retry.jitter), (5, 1.5, 0.5));
    assert!(!a.is_retryable(Some("HTTP_STATUS")) && a.is_retryable(Some("SCRIPT_ERROR")) && a.is_retryable(None));
    assert_eq!(definition.outputs.unwrap()["result"].as_str(), "b");
    assert_eq!(definition.steps[1].payload, "");
}

#[test]
fn all_problems_are_found_at_once_with_their_places() {
    check(
        "workflow:\n  name: n\n  version: 2\n  timeout: 10\n  steps:\n    - id: a b\n      runner: Hero\n      payload: [x]\n    - id: c\n      runner: sal\n      depends_on: [d, c]\n      payload: x\n      timeout: 25h\n      idempotent: no\n      idempotent: true\n      retry: {max_attempts: 101, jitter: 2}\n    - id: c\n      runner: sal\n",
        &[
            "3:3 workflow.version: unknown key `version`: a workflow has name, steps",
            "4:12 workflow.timeout: duration such as 10s",
            "6:11 workflow.steps[0].id: not an id",
            "7:15 workflow.steps[0].runner: Hero",
            "8:16 workflow.steps[0].payload: expected text, found a list",
            "9:7 workflow.steps[1]: cannot depend on itself",
            "11:20 workflow.steps[1].depends_on[0]: no step `d`",
            "13:16 workflow.steps[1].timeout: too long",
            "14:19 workflow.steps[1].idempotent: expected true or false, found `no`",
            "15:7 workflow.steps[1].idempotent: comes twice",
            "16:29 workflow.steps[1].retry.max_attempts: a number from 1 to 100",
            "16:42 workflow.steps[1].retry.jitter: a number from 0 to 1",
            "17:7 workflow.steps[2]: `payload` is missing",
            "17:11 workflow.steps[2].id: exists already, in line 9",
        ],
    );
}

#[test]
fn what_is_missing_is_named() {
    check("", &["1:1: the text is empty"]);
    check("name: x\n", &["1:1 name: unknown key", "1:1: `workflow:` is missing"]);
    check("- a\n", &["1:1: expected a mapping"]);
    check("workflow:\n", &["1:9 workflow: expected a mapping of keys to values, found nothing"]);
    check("workflow: {name: n}\n", &["1:11 workflow: `steps` is missing"]);
    check("workflow: {name: ~, steps: []}\n", &["1:18 workflow.name: found nothing", "1:28 workflow.steps: 0 steps"]);
    check(&one_step("      supervisor:\n"), &["7:17 workflow.steps[0].supervisor: expected text, found nothing"]);
}

#[test]
fn yaml_that_a_human_gets_wrong_is_explained() {
    check(
        "workflow:\n  name: n\n  steps:\n   - id: a\n     payload: !!http.get url:'x'\n",
        &["5:15: put the whole value in double quotes"],
    );
    check("workflow: {a: *nowhere}\n", &["1:15: not YAML"]);
    check("workflow:\n\tname: x\n", &["2:2: not YAML"]);
    check("workflow: {}\n---\nworkflow: {}\n", &["2:1: a second document"]);
}

#[test]
fn bytes_that_are_not_utf8_have_a_place() {
    let problems = parse_bytes(b"workflow:\n  name: \xc3\xa9\xff\n").unwrap_err();
    assert_eq!((problems.len(), problems[0].line, problems[0].column), (1, 2, 10));
    assert!(parse_bytes(SEED.as_bytes()).is_ok());
}

#[test]
fn aliases_are_read_and_bombs_are_not() {
    let definition = ok(&format!(
        "{}    - {{id: b, runner: sal, payload: p, depends_on: &deps [a], retry: &r {{max_attempts: 2}}}}\n    - {{id: c, runner: sal, payload: p, depends_on: *deps, retry: *r}}\n",
        one_step("")
    ));
    assert_eq!(definition.steps[2].max_attempts(), 2);
    assert_eq!(definition.steps[1].depends_on, definition.steps[2].depends_on);

    let mut bomb = "workflow:\n  name: n\n  a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
    for n in 1..60 {
        let items = vec![format!("*a{}", n - 1); 10].join(",");
        writeln!(bomb, "  a{n}: &a{n} [{items}]").unwrap();
    }
    let started = std::time::Instant::now();
    let problems = parse(&bomb).unwrap_err();
    assert!(started.elapsed() < Duration::from_secs(2));
    assert!(problems.len() == 1 && problems[0].message.contains("aliases"), "{}", shown(&problems));
    check("workflow: &w [*w]\n", &["1:15: inside of what it names"]);
}

#[test]
fn depth_is_bounded_in_every_way_of_nesting() {
    let flow = format!("workflow: {}{}", "[".repeat(10_000), "]".repeat(10_000));
    let block: String = (0..10_000).map(|n| format!("{}- \n", " ".repeat(n.min(500)))).collect();
    let keys: String = (0..200).map(|n| format!("{}a:\n", " ".repeat(n))).collect();
    let mut alias = "workflow:\n  a0: &a0 [x]\n".to_owned();
    for n in 1..100 {
        writeln!(alias, "  a{n}: &a{n} [*a{}]", n - 1).unwrap();
    }
    for text in [&flow, &block, &keys, &alias] {
        let started = std::time::Instant::now();
        let problems = parse(text).unwrap_err();
        assert_eq!(problems.len(), 1, "{}", shown(&problems));
        assert!(started.elapsed() < Duration::from_secs(2));
    }
    for text in [&flow, &keys, &alias] {
        assert!(parse(text).unwrap_err()[0].message.contains("64 deep"), "{}", shown(&parse(text).unwrap_err()));
    }
}

fn chain(steps: usize) -> String {
    let mut text = "workflow:\n  name: long\n  steps:\n".to_owned();
    for n in 0..steps {
        writeln!(text, "  - id: s{n}\n    runner: noop\n    payload: 'return {n}'").unwrap();
        if n > 0 {
            writeln!(text, "    depends_on: [s{}]", n - 1).unwrap();
        }
    }
    text
}

#[test]
fn steps_and_dependencies_are_bounded() {
    let started = std::time::Instant::now();
    let definition = ok(&chain(limits::STEPS));
    assert_eq!(definition.position(&StepId::new("s99999").unwrap()), Some(99_999));
    let problems = parse(&chain(limits::STEPS + 1)).unwrap_err();
    assert!(problems[0].message.contains("100001 steps: a workflow has 1 to 100000"), "{}", shown(&problems));
    assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());

    let mut wide = chain(limits::DEPENDENCIES + 1);
    let all: Vec<_> = (0..=limits::DEPENDENCIES).map(|n| format!("s{n}")).collect();
    writeln!(wide, "  - {{id: end, runner: noop, payload: x, depends_on: [{}]}}", all.join(",")).unwrap();
    let problems = parse(&wide).unwrap_err();
    assert!(problems.len() == 1 && problems[0].message.contains("10001 dependencies"), "{}", shown(&problems));
}

#[test]
fn sizes_are_bounded() {
    check(
        &one_step(&format!("      env: {{A: {}}}\n", "x".repeat(40_000))),
        &["7:12 workflow.steps[0].env: at most 32768"],
    );
    let big = one_step("").replace("payload: p", &format!("payload: '{}'", "x".repeat(limits::PAYLOAD_BYTES + 1)));
    check(&big, &["6:16 workflow.steps[0].payload: 524289 bytes"]);
    check(&" ".repeat(limits::WORKFLOW_BYTES + 1), &["1:1: split it"]);
    let shared = "workflow:\n  name: n\n  env: {A: x}\n  steps:\n    - {id: a, runner: r, payload: p, env: {";
    let many: Vec<_> = (0..64).map(|n| format!("V{n}: x")).collect();
    check(&format!("{shared}{}}}}}\n", many.join(", ")), &["5:43 workflow.steps[0].env: 65 entries"]);
}

#[test]
fn a_flood_of_problems_is_cut() {
    let mut text = "workflow:\n  name: n\n  steps:\n".to_owned();
    for n in 0..500 {
        writeln!(text, "    - {{id: s{n}, runner: UP, payload: x}}").unwrap();
    }
    let problems = parse(&text).unwrap_err();
    assert_eq!(problems.len(), MAX_PROBLEMS + 1);
    assert!(problems[MAX_PROBLEMS].message.starts_with("400 more"), "{}", shown(&problems[MAX_PROBLEMS..]));
}

#[test]
fn sealed_secrets_are_pasted_as_json() {
    let runner = horus_keys::Identity::from_seed(&[3; 32]);
    let sealing = horus_keys::SealingKey::generate();
    let kind = "hero".parse().unwrap();
    let context = horus_keys::SecretContext { submitter: runner.peer_id(), runner: &kind, scope: "w", name: "TOKEN" };
    let sealed = horus_keys::seal(b"hunter2", &[sealing.public()], &context).unwrap();
    let json = serde_json::to_string(&sealed).unwrap();
    let definition = ok(&one_step(&format!("      secrets: {{TOKEN: {json}}}\n")));
    assert_eq!(definition.steps[0].secrets["TOKEN"], sealed);
    check(&one_step("      secrets: {TOKEN: plain}\n"), &["7:24 workflow.steps[0].secrets.TOKEN: not a sealed secret"]);
    let twice = format!("      secrets: {{TOKEN: {}}}\n", json.replacen("\"key\":", "\"key\": x, \"key\":", 1));
    assert!(parse(&one_step(&twice)).unwrap_err()[0].message.contains("twice"));
}

proptest! {
    /// Whatever the text, there is an answer, and problems lie within the text.
    #[test]
    fn any_text_has_an_answer(text in "[ \\n\\t\\-:\\[\\]{}&*!'\"|>a-c~#%,?]{0,120}") {
        if let Err(problems) = parse(&format!("workflow:\n name: n\n steps:\n  - id: a\n    runner: b\n    payload: {text}")) {
            prop_assert!(!problems.is_empty());
            let lines = text.split('\n').count() + 7;
            for problem in problems {
                prop_assert!(problem.line >= 1 && problem.line <= lines && problem.column >= 1, "{}", problem);
            }
        }
    }

    /// A quoted payload comes out as it went in.
    #[test]
    fn payloads_survive(payload in "[ -~äé\\n]{0,200}") {
        let quoted = serde_json::to_string(&payload).unwrap();
        let definition = parse(&one_step("").replace("payload: p", &format!("payload: {quoted}")));
        prop_assert_eq!(&definition.map_err(|p| shown(&p)).unwrap().steps[0].payload, &payload);
    }
}
