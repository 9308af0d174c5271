//! A bound on the nesting of JSON.

/// How deep arrays and objects may nest in any document that Horus reads.
pub const MAX_JSON_DEPTH: usize = 64;

/// Whether arrays and objects nest at most `max` deep in `json`.
///
/// It looks at brackets outside of strings only and allocates nothing, so it can run before a parser
/// that recurses. Of text that is not JSON it says nothing useful: parse it afterwards.
#[must_use]
pub fn check_json_depth(json: &[u8], max: usize) -> bool {
    let mut depth = 0usize;
    let mut bytes = json.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => loop {
                match bytes.next() {
                    Some(b'\\') => _ = bytes.next(),
                    Some(b'"') | None => break,
                    Some(_) => {}
                }
            },
            b'[' | b'{' => {
                depth += 1;
                if depth > max {
                    return false;
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn depth_counts_brackets_outside_of_strings() {
        assert!(check_json_depth(b"[[[]]]", 3));
        assert!(!check_json_depth(b"[[[]]]", 2));
        assert!(check_json_depth(br#"{"a": "[[[[", "b": "\"[[[", "c": [], "d": {}}"#, 2));
        assert!(check_json_depth(b"[1],[2],[3]", 1));
        assert!(check_json_depth(b"\"\\", 0));
        assert!(!check_json_depth("[".repeat(1_000_000).as_bytes(), MAX_JSON_DEPTH));
    }

    proptest! {
        #[test]
        fn depth_is_that_of_the_parsed_value(depth in 1usize..100, text in "[\\[\\]{}\"\\\\a]{0,8}") {
            let mut value = serde_json::Value::String(text.clone());
            for level in 0..depth {
                value = if level % 2 == 0 {
                    serde_json::json!([value])
                } else {
                    serde_json::json!({ text.clone(): value })
                };
            }
            let json = value.to_string();
            prop_assert_eq!(check_json_depth(json.as_bytes(), MAX_JSON_DEPTH), depth <= MAX_JSON_DEPTH);
        }
    }
}
