//! One script from text to output.

use std::collections::BTreeMap;

use rhai::{AST, Dynamic, Engine, Map, Scope};
use serde_json::value::RawValue;

use super::{
    failure::ScriptFailure,
    json::{from_json, to_json},
};

/// A script and what it sees.
pub(crate) struct Program<'a> {
    pub(crate) script: &'a str,
    /// Visible as `input`; absent is `()`.
    pub(crate) input: Option<&'a RawValue>,
    /// Visible as the map `env`.
    pub(crate) env: &'a BTreeMap<String, String>,
    /// Visible as the map `secrets`.
    pub(crate) secrets: BTreeMap<&'a str, &'a str>,
    /// Visible as `job_id`.
    pub(crate) job_id: &'a str,
}

impl Program<'_> {
    fn scope(&self) -> Result<Scope<'static>, ScriptFailure> {
        let input = match self.input {
            Some(raw) => from_json(raw.get()).map_err(|e| ScriptFailure::error(format!("the job's input: {e}")))?,
            None => Dynamic::UNIT,
        };
        let env: Map = self.env.iter().map(|(k, v)| (k.as_str().into(), v.as_str().into())).collect();
        let secrets: Map = self.secrets.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        let mut scope = Scope::new();
        scope.push_dynamic("input", input);
        scope.push_constant("env", env);
        scope.push_constant("secrets", secrets);
        scope.push_constant("job_id", self.job_id.to_owned());
        Ok(scope)
    }

    fn compile(&self, engine: &Engine, scope: &Scope<'_>) -> Result<AST, ScriptFailure> {
        engine.compile_with_scope(scope, self.script).map_err(|e| ScriptFailure::parse(&e, self.script))
    }
}

/// Runs a script; its last expression is the output, as JSON text.
///
/// `plain` may turn a value that JSON cannot hold into one that it can.
pub(crate) fn run(
    engine: &Engine,
    program: &Program<'_>,
    plain: impl Fn(Dynamic) -> Dynamic,
) -> Result<String, ScriptFailure> {
    let mut scope = program.scope()?;
    let ast = program.compile(engine, &scope)?;
    let value = engine
        .eval_ast_with_scope::<Dynamic>(&mut scope, &ast)
        .map_err(|e| ScriptFailure::runtime(*e, program.script))?;
    to_json(&plain(value))
        .map_err(|e| ScriptFailure::new("OUTPUT_INVALID", format!("the script's last expression: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::{ScriptLimits, new_engine};

    fn run_with(script: &str, input: Option<&str>) -> Result<String, ScriptFailure> {
        let input = input.map(|text| RawValue::from_string(text.to_owned()).unwrap());
        let program = Program {
            script,
            input: input.as_deref(),
            env: &BTreeMap::from([("HOME".to_owned(), "/x".to_owned())]),
            secrets: BTreeMap::from([("token", "s3")]),
            job_id: "sal-1",
        };
        let limits =
            ScriptLimits { string_bytes: 10_000, array_items: 1000, map_entries: 1000, ..ScriptLimits::default() };
        run(&new_engine(&limits), &program, |v| v)
    }

    fn failure(script: &str) -> ScriptFailure {
        run_with(script, None).unwrap_err()
    }

    #[test]
    fn the_last_expression_is_the_output() {
        assert_eq!(run_with("40 + 2", None).unwrap(), "42");
        assert_eq!(run_with("let x = 1;", None).unwrap(), "null");
        assert_eq!(run_with("", None).unwrap(), "null");
        assert_eq!(run_with("return [1, 2.5, 'c', ()]; 9", None).unwrap(), r#"[1,2.5,"c",null]"#);
        assert_eq!(run_with("#{b: 1, a: #{c: true}}", None).unwrap(), r#"{"a":{"c":true},"b":1}"#);
    }

    #[test]
    fn a_script_sees_input_env_secrets_and_its_id() {
        let input = Some(r#"{"fetch":{"n":18446744073709551615},"step-2":[1]}"#);
        assert_eq!(run_with("input.fetch.n", input).unwrap(), "18446744073709551615");
        assert_eq!(run_with(r#"input["step-2"][0] + 1"#, input).unwrap(), "2");
        assert_eq!(run_with("input", None).unwrap(), "null");
        assert_eq!(run_with("[env.HOME, secrets.token, job_id]", None).unwrap(), r#"["/x","s3","sal-1"]"#);
        assert_eq!(
            run_with(r#"parse_json("[1, 18446744073709551616]").to_json()"#, None).unwrap(),
            r#""[1,18446744073709551616]""#
        );
    }

    #[test]
    fn errors_name_line_and_column() {
        let f = failure("let a = 1;\nlet b = a +;\n");
        assert_eq!(f.code, "SCRIPT_INVALID");
        assert!(
            f.message.starts_with("line 2, column 12: ") && f.message.contains("2 | let b = a +;"),
            "{}",
            f.message
        );
        let f = failure("let a = 1;\n  unknown_thing(a)");
        assert_eq!(f.code, "SCRIPT_ERROR");
        assert!(f.message.starts_with("line 2, column 3: Function not found: unknown_thing (i64)"), "{}", f.message);
        let f = failure("fn f(x) {\n  x.y.z + 1\n}\nf(#{})");
        assert!(
            f.message.starts_with("line 2, column") && f.message.contains("in `f`, called at line 4"),
            "{}",
            f.message
        );
    }

    #[test]
    fn a_script_chooses_its_error() {
        assert_eq!(
            failure("throw #{code: \"NO_STOCK\", message: \"none left\"}"),
            ScriptFailure {
                code: "NO_STOCK".into(),
                message: "line 1, column 1: none left\n  1 | throw #{code: \"NO_STOCK\", message: \"none left\"}"
                    .into(),
            }
        );
        assert!(failure("throw \"plain\"").message.contains("plain"));
        assert!(!failure("throw").message.is_empty());
    }

    #[test]
    fn hogs_meet_a_limit() {
        for script in [
            "let s = \"x\"; loop { s += s; }",
            "let a = [1]; loop { a += a; }",
            "let a = []; loop { a.push([1, #{b: 2}]); }",
            "let m = #{}; for i in 0..2000 { m[i.to_string()] = i; } m.keys(); m.mixin(m);",
            "fn f(x) { f(x + 1) } f(0)",
        ] {
            assert_eq!(failure(script).code, "SCRIPT_LIMIT", "{script}");
        }
        let nested = format!("{}1{}", "(".repeat(10_000), ")".repeat(10_000));
        assert_eq!(failure(&nested).code, "SCRIPT_INVALID");
    }

    #[test]
    fn scripts_cannot_read_other_scripts() {
        let f = failure("import \"/etc/passwd\" as p;");
        assert!(f.message.contains("--script-lib"), "{}", f.message);
    }

    #[test]
    fn what_json_cannot_hold_is_named() {
        let f = failure("|x| x + 1");
        assert_eq!(f.code, "OUTPUT_INVALID");
        assert!(f.message.contains("Fn"), "{}", f.message);
    }
}
