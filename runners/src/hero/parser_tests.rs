use super::*;
use proptest::prelude::*;

/// `!!x.y` with `script` behind it: its parameters as `key=value`, then its arguments.
fn items(script: &str) -> Vec<String> {
    let actions = parse(&format!("!!x.y {script}")).unwrap();
    assert_eq!(actions.len(), 1, "{script}");
    let params = actions[0].params.iter().map(|p| format!("{}={}", p.key, p.value));
    params.chain(actions[0].args.iter().cloned()).collect()
}

#[track_caller]
fn check(script: &str, expected: &[&str]) {
    assert_eq!(items(script), expected, "{script}");
}

#[track_caller]
fn check_error(script: &str, line: usize, column: usize, says: &str) {
    let error = parse(script).unwrap_err();
    assert_eq!((error.line, error.column), (line, column), "{error}");
    assert!(error.message.contains(says), "{error}");
}

fn names(script: &str) -> Vec<(String, u8)> {
    let actions = parse(script).unwrap();
    actions.into_iter().map(|a| (a.full_name(), a.level)).collect()
}

#[test]
fn actions_have_levels_and_normalised_names() {
    let script = "!data.add\n!!Git.Clone\n!!!sheet.graph-row\n!!!!wal.x\n!!select_circle aaa\n";
    assert_eq!(
        names(script),
        [
            ("data.add".into(), 1),
            ("git.clone".into(), 2),
            ("sheet.graph_row".into(), 3),
            ("wal.x".into(), 4),
            ("core.select_circle".into(), 2),
        ]
    );
    check_error("\n  !!!!!a.b", 2, 3, "at most 4");
    check_error("!!a.b.c x:1", 1, 3, "one dot");
    check_error("!!a. x:1", 1, 3, "no action");
}

#[test]
fn surrounding_text_is_ignored() {
    let script = "\
#!/usr/bin/env hero
# A title
Some prose with !!not.an action.
![image](x.png)
!= 3, ! alone and !!! note \"x\"

```js
!!git.clone url:'x'
    pull:true
```
More prose: key:value
!!play.echo content:hi
Done
    indented prose: x
";
    let actions = parse(script).unwrap();
    assert_eq!(actions.len(), 2);
    assert_eq!(actions[0].params.len(), 2);
    assert_eq!(actions[1].params.len(), 1);
    assert_eq!(parse("nothing here").unwrap(), []);
    assert_eq!(parse("").unwrap(), []);
}

#[test]
fn values_bare_and_quoted() {
    check("a:1 b: 2 c:'x y' d: \"p q\" e:''", &["a=1", "b=2", "c=x y", "d=p q", "e="]);
    check("a:'say \"hi\"' b:\"it's\"", &["a=say \"hi\"", "b=it's"]);
    check(r#"a:'it\'s' b:"{\"k\":\"v\\n\"}""#, &["a=it's", r#"b={"k":"v\\n"}"#]);
    check("a:'it's fine' b:2", &["a=it's fine", "b=2"]);
    check(r"re:'^\d+\\w$' dir:'C:\x\\'", &[r"re=^\d+\\w$", r"dir=C:\x\"]);
    check("path:' /root/x ' Key-Name:v", &["path=/root/x", "key_name=v"]);
    check("key : value a:1", &["key=value", "a=1"]);
    check("a:1 a:2 b:3 A:4", &["b=3", "a=4"]);
}

#[test]
fn urls_survive_bare_and_quoted() {
    check(
        "url:https://x/y//z?a=b,c&d=e#f other: 'http://h//p' //note",
        &["url=https://x/y//z?a=b,c&d=e#f", "other=http://h//p"],
    );
    check("https://git.example.com/a/b x:1", &["x=1", "https://git.example.com/a/b"]);
    check("url:http://[::1]:8080/a list: http://a, https://b", &["url=http://[::1]:8080/a", "list=http://a,https://b"]);
}

#[test]
fn lists_are_joined_by_commas() {
    for script in ["l:a,b", "l: a, b", "l: a ,b", "l: a  ,  b", "l:'a', b", "l: a, 'b'", "l:'a','b'", "l: a,\n    b"] {
        check(script, &["l=a,b"]);
    }
    check("l: a, 'b c', d x:1", &["l=a,\"b c\",d", "x=1"]);
    check("l: \"b c\", 'd,e'", &["l=\"b c\",\"d,e\""]);
    check("l: ['a', \"b c\", d] x:1", &["l=['a', \"b c\", d]", "x=1"]);
    check("l: a,\n    x:1", &["l=a,", "x=1"]);
}

#[test]
fn brackets_keep_what_is_in_them() {
    check(
        "body:{\"a\": [1, 2], \"b\": \"}\", \"c\": \"it's\"} x:1",
        &["body={\"a\": [1, 2], \"b\": \"}\", \"c\": \"it's\"}", "x=1"],
    );
    check("body: {\n      \"a\": 1\n    }\n    x:{NAME}/y", &["body={\n  \"a\": 1\n}", "x={NAME}/y"]);
    check_error("!!a.b x:[1, 2", 1, 9, "not closed");
    check_error("!!a.b x:[1}", 1, 11, "closes no bracket");
    check_error(&format!("!!a.b x:{}", "[".repeat(70)), 1, 73, "deeper than 64");
}

#[test]
fn arguments_without_a_key() {
    check("arg1 color:red 'two words' --flag", &["color=red", "arg1", "two words", "--flag"]);
    check("a, 'b c', d", &["a", "b c", "d"]);
    check("\n    red green\n    blue ''", &["red", "green", "blue", ""]);
}

#[test]
fn blocks_keep_markdown_and_code() {
    let script = r#"!!doc.add
    name: one
    description:'
        ## it's markdown

        'quoted' and "double", key:value // no comment
        - item
        !!not.an action:1

        ```python
        # no comment
        def f():
            """
            doc
            """
        ```
        '  // the description
    code: """
print('col 0')
"""
    last: 1
"#;
    let action = &parse(script).unwrap()[0];
    let description = "## it's markdown\n\n'quoted' and \"double\", key:value // no comment\n- item\n\
        !!not.an action:1\n\n```python\n# no comment\ndef f():\n    \"\"\"\n    doc\n    \"\"\"\n```";
    assert_eq!(action.get("description"), Some(description));
    assert_eq!(action.get("code"), Some("print('col 0')"));
    assert_eq!(action.get("last"), Some("1"));
    assert_eq!(action.params[1].comment, "the description");
}

#[test]
fn quoted_values_may_span_lines() {
    check("a:'first\n      second\n        third' b:2", &["a=first\nsecond\n  third", "b=2"]);
    check("a:'''x 'y' ''z''' b:2", &["a=x 'y' ''z", "b=2"]);
    // Closed by the other quote, as it is found in the wild.
    check("a:\"\n      text\n    '\n    b:2", &["a=text", "b=2"]);
    check("a:\n      'below'\n    b:\n    c:3", &["a=below", "b=", "c=3"]);
    check("comment:\n      another comment", &["comment=another", "comment"]);
}

#[test]
fn comments_belong_to_what_they_stand_at() {
    let script = "\
// lost, text follows
text
// before
//
/// second

!!payment.add person:x // who
    // for name
    //and more
    name: 'TF Wallet'
    blockchain: 'stellar' //holochain maybe?
    a:1 b:2 // b
    empty: // nothing
    side: \"right\"  #left or right
    <!-- markup -->
    url: https://x//y
    // at the end
// next
!!payment.list //all of them
";
    let actions = parse(script).unwrap();
    let comments: Vec<_> = actions[0].params.iter().map(|p| (p.key.as_str(), p.comment.as_str())).collect();
    assert_eq!(actions[0].comment, "before\n\nsecond\n\nat the end".replace("\n\nat", "\nat"));
    assert_eq!(
        comments,
        [
            ("person", "who"),
            ("name", "for name\nand more"),
            ("blockchain", "holochain maybe?"),
            ("a", ""),
            ("b", "b"),
            ("empty", "nothing"),
            ("side", "left or right"),
            ("url", "markup"),
        ]
    );
    assert_eq!(actions[0].get("empty"), Some(""));
    assert_eq!(actions[1].comment, "next\nall of them");
}

#[test]
fn a_parameter_that_is_commented_out_does_not_end_the_action() {
    let actions = parse("!!a.b\n    x:1\n// y:2\n\n    z:3\n\n// other\n!!c.d\n").unwrap();
    assert_eq!(actions[0].params.len(), 2);
    assert_eq!(actions[0].params[1].comment, "y:2");
    assert_eq!(actions[1].comment, "other");
}

#[test]
fn indentation_is_relative_and_blank_lines_do_not_matter() {
    let script = "\r\n        !!a.b\r\n\r\n\t\t\tx:1\r\n\r\n            y:2\r\n        !!c.d z:3\r\n";
    let actions = parse(script).unwrap();
    assert_eq!(actions.len(), 2);
    assert_eq!((actions[0].get("x"), actions[0].get("y")), (Some("1"), Some("2")));
    assert_eq!(parse("\u{feff}!!a.b\n x:1").unwrap()[0].get("x"), Some("1"));
}

#[test]
fn errors_tell_where() {
    check_error("// é\n!!a.b é:1", 2, 7, "is no key");
    check_error("!!a.b\n    name: 'open\n!!c.d x:1\n", 2, 11, "not closed");
    check_error("!!a.b\n    code:'\n  x\n", 2, 10, "not closed");
    check_error("!!a.b x:'a')", 1, 12, "closing quote of x");
    check_error("!!a.b\n    x:'open\n    y:'z'\n", 3, 8, "begun on line 2");
    check_error("!!a.b <!-- x", 1, 7, "not closed");
    check_error(&"x".repeat(MAX_SCRIPT_BYTES + 1), 1, 1, "split it");
    check_error(&"!!a.b\n".repeat(MAX_ACTIONS + 1), MAX_ACTIONS + 1, 1, "10000 actions");
    check_error(&format!("!!a.b{}", " x:1".repeat(MAX_PARAMS + 1)), 1, 4007, "1000 parameters");
    check_error(&format!("!!a.b{}", " x".repeat(MAX_PARAMS + 1)), 1, 2007, "1000 arguments");
    check_error(&format!("!!{}", "x".repeat(200)), 1, 3, "128 bytes");
}

#[test]
fn hostile_scripts_take_linear_time() {
    let started = std::time::Instant::now();
    for unit in ["a:'\n\"\n", " a:[", "a:\n\n\n\n", "//\n", "\n//\n ", "!!a.b '", "a: b,\n"] {
        let script = format!("!!x.y\n{}", unit.repeat((MAX_SCRIPT_BYTES - 10) / unit.len()));
        let _ = parse(&script);
        let _ = parse(&script.replace('\n', "\n    "));
    }
    assert!(started.elapsed().as_secs() < 20, "{:?}", started.elapsed());
}

fn name() -> impl Strategy<Value = String> {
    "[a-z0-9]([a-z0-9]|_[a-z0-9]){0,8}"
}

/// Any text in the form in which the parser returns it.
fn value() -> impl Strategy<Value = String> {
    let wild = "([ -~éß\u{a0}\t]|['\"\\\\/#!,\n]){0,40}";
    wild.prop_map(|raw: String| text::dedent(text::trim(&raw).split('\n')).join("\n"))
}

fn comment() -> impl Strategy<Value = String> {
    prop::collection::vec("[ -~é]{0,20}", 0..3).prop_map(|lines| {
        let lines: Vec<_> = lines.iter().map(|l| text::comment_text(l).to_owned()).collect();
        let lines: Vec<_> = lines.iter().map(|l| l.trim_start_matches('#').to_owned()).collect();
        let lines: Vec<_> = lines.iter().map(|l| text::comment_text(l).to_owned()).collect();
        join_comments(&lines)
    })
}

prop_compose! {
    fn param()(key in name(), value in value(), comment in comment()) -> Param {
        Param { key, value, comment }
    }
}

prop_compose! {
    fn action()(
        actor in name(),
        name in name(),
        level in 1..=4_u8,
        comment in comment(),
        params in prop::collection::vec(param(), 0..5),
        args in prop::collection::vec(value(), 0..4),
    ) -> Action {
        let mut unique: Vec<Param> = Vec::new();
        for param in params {
            unique.retain(|p| p.key != param.key);
            unique.push(param);
        }
        // Arguments over several lines are written behind the others.
        let (mut args, below): (Vec<_>, Vec<_>) = args.into_iter().partition(|a| !a.contains('\n'));
        args.extend(below);
        Action { actor, name, level, comment, params: unique, args }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_parsed_or_refused(text in "\\PC{0,200}|([ -~]|[\t\n\r'\":!/,#{}\\[\\]é]){0,400}") {
        let _ = parse(&text);
        let _ = parse(&format!("!!a.b {text}"));
        let _ = parse(&format!("!!a.b\n    {}", text.replace('\n', "\n    ")));
    }

    #[test]
    fn what_was_parsed_is_written_and_parsed_the_same(
        text in "!!a.b ([ -~]|[\t\n\r'\",:]|\n    |\n//|'\n|: '){0,60}"
    ) {
        if let Ok(actions) = parse(&text) {
            let written: String = actions.iter().map(ToString::to_string).collect();
            let reparsed = parse(&written).map_err(|e| TestCaseError::fail(format!("{e}\n{written}")))?;
            let sorted = |mut actions: Vec<Action>| {
                actions.iter_mut().for_each(|a| a.args.sort_by_key(|arg| arg.contains('\n')));
                actions
            };
            prop_assert_eq!(sorted(reparsed), sorted(actions), "{}", written);
        }
    }

    #[test]
    fn serialise_and_parse_round_trip(actions in prop::collection::vec(action(), 0..4)) {
        let written: String = actions.iter().map(ToString::to_string).collect();
        prop_assert_eq!(parse(&written).map_err(|e| TestCaseError::fail(format!("{e}\n{written}")))?, actions, "{}", written);
    }
}
