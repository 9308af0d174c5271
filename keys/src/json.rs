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
