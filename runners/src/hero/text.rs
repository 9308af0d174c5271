//! Small text helpers that parser and serialiser share: what counts as white space, how far a line is
//! indented, how quotes are escaped.

/// Width of a tab when indentation is compared, as the V implementation counts it.
const TAB_WIDTH: usize = 4;

/// White space of the language. Unicode spaces (a no-break space in a title) are content.
pub(super) fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c')
}

/// `text` without white space at both ends.
pub(super) fn trim(text: &str) -> &str {
    text.trim_matches(is_space)
}

/// Columns of white space before the first other character of `line`.
pub(super) fn indentation(line: &str) -> usize {
    line.chars().take_while(|c| is_space(*c)).map(|c| if c == '\t' { TAB_WIDTH } else { 1 }).sum()
}

/// Removes the indentation that all non-blank lines share; blank lines become empty.
pub(super) fn dedent<'a>(lines: impl Iterator<Item = &'a str> + Clone) -> Vec<String> {
    let shared = lines.clone().filter(|line| !trim(line).is_empty()).map(indentation).min().unwrap_or(0);
    lines.map(|line| if trim(line).is_empty() { String::new() } else { unindent(line, shared) }).collect()
}

/// Takes `columns` columns of white space off the front; a tab that straddles the edge leaves spaces.
fn unindent(line: &str, columns: usize) -> String {
    let mut left = columns;
    for (offset, c) in line.char_indices() {
        if left == 0 || !is_space(c) {
            return line[offset..].to_owned();
        }
        let width = if c == '\t' { TAB_WIDTH } else { 1 };
        if width > left {
            return " ".repeat(width - left) + &line[offset + c.len_utf8()..];
        }
        left -= width;
    }
    String::new()
}

/// A value as it is kept: later lines dedented, white space at both ends gone.
pub(super) fn tidy(value: &str) -> String {
    match value.split_once('\n') {
        None => trim(value).to_owned(),
        Some((first, rest)) => {
            let mut lines = vec![first.to_owned()];
            lines.extend(dedent(rest.split('\n')));
            trim(&lines.join("\n")).to_owned()
        }
    }
}

/// Puts `text` between `quote`s on one line. Backslashes count only before a quote, so that regular
/// expressions and Windows paths are written as they are: they are doubled there and before the end.
pub(super) fn quote(text: &str, quote: char) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push(quote);
    let mut backslashes = 0;
    for c in text.chars() {
        if c == '\\' {
            backslashes += 1;
        } else {
            if c == quote {
                out.extend(std::iter::repeat_n('\\', backslashes + 1));
            }
            backslashes = 0;
        }
        out.push(c);
    }
    out.extend(std::iter::repeat_n('\\', backslashes));
    out.push(quote);
    out
}

/// The four ways to open a quoted value, longest first.
pub(super) const DELIMITERS: [&str; 4] = ["'''", "\"\"\"", "'", "\""];

/// If `line` is one that ends a multi-line value (a delimiter, perhaps with a comment behind it), the
/// index of that delimiter in [`DELIMITERS`].
pub(super) fn closing_delimiter(line: &str) -> Option<usize> {
    let line = line.trim_start_matches(is_space);
    let found = DELIMITERS.iter().position(|d| line.starts_with(d))?;
    let rest = &line[DELIMITERS[found].len()..];
    let after = rest.trim_start_matches(is_space);
    (after.is_empty() || (after.len() < rest.len() && after.starts_with("//"))).then_some(found)
}

/// Whether `line` is an ending line of delimiter `index` behind one or more backslashes, which makes it
/// content.
pub(super) fn is_escaped_closer(line: &str, index: usize) -> bool {
    let line = line.trim_start_matches(is_space);
    let bare = line.trim_start_matches('\\');
    bare.len() < line.len() && !bare.starts_with(is_space) && closing_delimiter(bare) == Some(index)
}

/// A name as it is compared: lower case, `- ; : .` and spaces as one `_`, all other punctuation gone,
/// cut at `#`.
pub(super) fn normalise_name(name: &str) -> String {
    let name = trim(name);
    let name = name.split('#').next().unwrap_or_default();
    let mut out = String::with_capacity(name.len());
    for c in name.chars() {
        match c.to_ascii_lowercase() {
            c @ ('a'..='z' | '0'..='9') => out.push(c),
            '_' | '-' | ';' | ':' | '.' | ' ' if !out.ends_with('_') => out.push('_'),
            _ => {}
        }
    }
    out
}

/// The text of a comment without its marks.
pub(super) fn comment_text(comment: &str) -> &str {
    let comment = trim(comment);
    let comment = comment.trim_start_matches('#');
    comment.trim_start_matches(|c| c == '/' || is_space(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_normalised_as_the_v_implementation_does() {
        for (input, expected) in [
            ("Http", "http"),
            ("My-Actor", "my_actor"),
            ("$sds__ 4F", "sds_4f"),
            ("$sds_?_!\"`{_ 4F", "sds_4f"),
            ("name#fragment", "name"),
            ("été", "t"),
            ("trailing_", "trailing_"),
        ] {
            assert_eq!(normalise_name(input), expected, "{input}");
        }
    }

    #[test]
    fn dedent_counts_a_tab_as_four_columns_and_keeps_deeper_ones() {
        let lines = ["\t\tdef f():", "        \treturn 1", "   ", "        }"];
        assert_eq!(dedent(lines.into_iter()), ["def f():", "\treturn 1", "", "}"]);
        assert_eq!(dedent(["\tx", "  y"].into_iter()), ["  x", "y"]);
    }

    #[test]
    fn only_a_line_of_nothing_but_the_quote_ends_a_block() {
        assert_eq!(closing_delimiter("   '"), Some(2));
        assert_eq!(closing_delimiter("''' // done"), Some(0));
        assert_eq!(closing_delimiter("'quoted' text"), None);
        assert_eq!(closing_delimiter("'// glued"), None);
        assert!(is_escaped_closer("  \\'", 2));
        assert!(!is_escaped_closer("'", 2));
    }
}
