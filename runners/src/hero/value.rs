//! The value of a parameter: bare, quoted on one line or several, bracketed, or a list of those.

use super::cursor::Cursor;
use super::parser::{MAX_NAME_BYTES, ParseError};
use super::text::{self, DELIMITERS};

/// Deepest nesting of brackets in a value.
const MAX_DEPTH: usize = 64;

/// The key at the front of `rest`, if a `key:` stands there. `scheme://` is a URL, not a key.
pub(super) fn key(rest: &str) -> Option<&str> {
    let end = rest.find(|c: char| !is_key_char(c)).unwrap_or(rest.len());
    let (key, after) = rest.split_at(end);
    let name = key.trim_start_matches('/');
    if name.is_empty() || key.starts_with("//") || key.len() > MAX_NAME_BYTES {
        return None;
    }
    let spaced = after.trim_start_matches(text::is_space);
    let value = spaced.strip_prefix(':')?;
    if spaced.len() == after.len() {
        return (!value.starts_with("//")).then_some(key);
    }
    // `key : value` is a key; of `word :thing` nobody can tell, so it is none.
    (value.is_empty() || value.starts_with(text::is_space)).then_some(key)
}

fn is_key_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '/' | '-')
}

/// What to say of a word before a colon that is no key.
pub(super) fn bad_key(word: &str) -> String {
    let shown: String = word.chars().take(MAX_NAME_BYTES).collect();
    format!(
        "{shown:?} is no key: before the colon stand letters, digits and _ . / - (at most \
         {MAX_NAME_BYTES}); quote the text if it is an argument"
    )
}

/// Reads the value of `key`, the cursor behind the colon and its white space.
///
/// `next_item` tells, at a comma that ends a line, on which line the list goes on.
pub(super) fn value(
    cursor: &mut Cursor<'_>,
    key: &str,
    next_item: impl Fn(&Cursor<'_>) -> Option<usize>,
) -> Result<String, ParseError> {
    let mut items = Vec::new();
    loop {
        match cursor.peek() {
            Some('\'' | '"') => {
                let opened = cursor.line;
                items.push(quoted(cursor)?);
                expect_separator(cursor, key, opened)?;
            }
            Some('[' | '{') => items.push(bracketed(cursor)?),
            Some(_) if cursor.rest().starts_with("//") => items.push(String::new()),
            _ => items.push(cursor.take_until(|c| c == ',' || text::is_space(c)).to_owned()),
        }
        let end = cursor.pos;
        cursor.skip_space();
        if cursor.peek() != Some(',') {
            cursor.pos = end;
            break;
        }
        cursor.pos += 1;
        cursor.skip_space();
        let rest = cursor.rest();
        if rest.is_empty() || rest.starts_with("//") {
            match next_item(cursor).filter(|_| rest.is_empty()) {
                Some(line) => cursor.go_to_line(line),
                None => {
                    items.push(String::new());
                    break;
                }
            }
        }
    }
    Ok(if items.len() == 1 { items.remove(0) } else { join(&items) })
}

/// Items of a list as one text: those that would fall apart in double quotes.
fn join(items: &[String]) -> String {
    let whole = |c: char| text::is_space(c) || c == ',' || c == '"';
    let items: Vec<String> =
        items.iter().map(|item| if item.contains(whole) { text::quote(item, '"') } else { item.clone() }).collect();
    items.join(",")
}

/// After the closing quote of a value that began on line `opened` comes white space, a comma or a comment.
pub(super) fn expect_separator(cursor: &Cursor<'_>, of: &str, opened: usize) -> Result<(), ParseError> {
    let rest = cursor.rest();
    let Some(next) = cursor.peek().filter(|c| *c != ',' && !text::is_space(*c) && !rest.starts_with("//")) else {
        return Ok(());
    };
    let advice = if opened == cursor.line {
        "put a space between them, or write a quote that belongs to the value as \\' or \\\"".to_owned()
    } else {
        format!("is the quote missing that should close the value begun on line {}?", opened + 1)
    };
    Err(cursor.error(cursor.pos, format!("{next:?} follows the closing quote of {of}: {advice}")))
}

/// Reads a quoted value: on one line, over several, or as a block whose quotes stand at the end of
/// the first line and alone on the last.
pub(super) fn quoted(cursor: &mut Cursor<'_>) -> Result<String, ParseError> {
    let rest = cursor.rest();
    let index = DELIMITERS.iter().position(|d| rest.starts_with(d)).expect("the caller saw a quote here");
    let delimiter = DELIMITERS[index];
    let body = &rest[delimiter.len()..];
    if body.chars().all(text::is_space) {
        return block(cursor, index);
    }
    let start = cursor.pos;
    cursor.pos += delimiter.len();
    let found = match delimiter.chars().next().filter(|_| delimiter.len() == 1) {
        Some(quote) => until_quote(cursor.remainder(), quote),
        None => {
            cursor.remainder().split_once(delimiter).map(|(value, _)| (value.to_owned(), value.len() + delimiter.len()))
        }
    };
    let Some((value, length)) = found else {
        return Err(unclosed(cursor, start, delimiter));
    };
    cursor.go_to(cursor.pos + length);
    Ok(text::tidy(&value))
}

fn unclosed(cursor: &Cursor<'_>, start: usize, delimiter: &str) -> ParseError {
    let message = format!("the value that {delimiter} opens here is not closed by another {delimiter}");
    cursor.error(start, message)
}

/// A value from the line after the opening quote to the line that is nothing but a quote.
fn block(cursor: &mut Cursor<'_>, index: usize) -> Result<String, ParseError> {
    let Some(end) = cursor.closing_line(index) else {
        return Err(unclosed(cursor, cursor.pos, DELIMITERS[index]));
    };
    let lines = text::dedent((cursor.line + 1..end).map(|line| cursor.line_text(line)));
    let lines: Vec<String> = lines
        .into_iter()
        .map(|line| if text::is_escaped_closer(&line, index) { line.replacen('\\', "", 1) } else { line })
        .collect();
    cursor.go_to_line(end);
    cursor.take_until(|c| c != '\'' && c != '"');
    Ok(text::trim(&lines.join("\n")).to_owned())
}

/// The value up to the quote that closes it and the bytes that both take, or nothing if none closes it.
fn until_quote(body: &str, quote: char) -> Option<(String, usize)> {
    let mut value = String::new();
    let mut backslashes: usize = 0;
    for (offset, c) in body.char_indices() {
        if c == '\\' {
            backslashes += 1;
            value.push(c);
            continue;
        }
        if c == quote {
            // Backslashes count only here: two stand for one, an odd one keeps the quote.
            value.truncate(value.len() - backslashes.div_ceil(2));
            if backslashes.is_multiple_of(2) && !is_apostrophe(&body[..offset], c, &body[offset + 1..]) {
                return Some((value, offset + 1));
            }
        }
        backslashes = 0;
        value.push(c);
    }
    None
}

/// Whether the quote between `before` and `after` is that of `it's`: letters on both sides, and no
/// `key:` behind it.
fn is_apostrophe(before: &str, quote: char, after: &str) -> bool {
    if quote != '\'' || !before.ends_with(char::is_alphanumeric) {
        return false;
    }
    let word = after.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(after.len());
    word > 0 && word <= MAX_NAME_BYTES && !after[word..].starts_with(':')
}

/// `[...]` or `{...}` with what follows up to the next white space, kept as written. Brackets in quotes
/// do not count.
fn bracketed(cursor: &mut Cursor<'_>) -> Result<String, ParseError> {
    let start = cursor.pos;
    let body = cursor.remainder();
    let mut closers: Vec<char> = Vec::new();
    let mut open_quote: Option<char> = None;
    let mut escaped = false;
    let mut previous = ' ';
    for (offset, c) in body.char_indices() {
        match open_quote {
            Some(quote) if c == quote && !escaped => open_quote = None,
            Some(_) => {}
            None => match c {
                '[' => closers.push(']'),
                '{' => closers.push('}'),
                ']' | '}' if closers.last() == Some(&c) => {
                    closers.pop();
                }
                ']' | '}' => {
                    let message = format!("this {c:?} closes no bracket; quote the value if it is text");
                    return Err(cursor.error(start + offset, message));
                }
                '\'' | '"' if is_item_start(previous) => open_quote = Some(c),
                _ => {}
            },
        }
        if closers.len() > MAX_DEPTH {
            let message = format!("brackets nest deeper than {MAX_DEPTH}");
            return Err(cursor.error(start + offset, message));
        }
        escaped = c == '\\' && !escaped;
        previous = c;
        if closers.is_empty() {
            cursor.go_to(start + offset + 1);
            let tail = cursor.take_until(|c| c == ',' || text::is_space(c));
            return Ok(text::tidy(&format!("{}{tail}", &body[..=offset])));
        }
    }
    let message = "this bracket is not closed; quote the value if it is text";
    Err(cursor.error(start, message))
}

/// Whether a quote after `previous` begins a quoted text, rather than being an apostrophe.
fn is_item_start(previous: char) -> bool {
    text::is_space(previous) || matches!(previous, '[' | '{' | ',' | ':')
}
