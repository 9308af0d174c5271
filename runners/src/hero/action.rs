//! What a script says: actions with their parameters, and how they are written down again.

use super::text;
use serde::{Deserialize, Serialize};
use std::fmt;

/// One action of a script: `!!actor.name key:value arg`.
///
/// Its JSON form is what `horus hero parse --json` prints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Action {
    /// Who acts, normalised; `core` if the script names none.
    pub actor: String,
    /// What is to be done, normalised.
    pub name: String,
    /// How many exclamation marks stood before it, 1 to 4.
    pub level: u8,
    /// The comments before the action, and those inside it that belong to no parameter; one per line,
    /// without their marks. Empty if there are none.
    pub comment: String,
    /// The parameters in the order of the script. A key stands once: the last one given counts.
    pub params: Vec<Param>,
    /// Values without a key, in the order of the script.
    pub args: Vec<String>,
}

/// One `key:value` of an action.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Param {
    /// The key: lower case, `-` written as `_`.
    pub key: String,
    /// The value without its quotes. A list is one text, its items joined by commas and those with
    /// spaces in double quotes: see [`split_list`].
    pub value: String,
    /// The comments above it and behind it, one per line; empty if there are none.
    pub comment: String,
}

impl Action {
    /// The value of the parameter `key`, which is compared as [`Param::key`] is normalised.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.params.iter().find(|p| p.key == key).map(|p| p.value.as_str())
    }

    /// `actor.name`
    #[must_use]
    pub fn full_name(&self) -> String {
        format!("{}.{}", self.actor, self.name)
    }
}

/// The items of a list value: `a,"b c",d`, with or without brackets around it.
///
/// Commas inside quotes do not separate; quotes around an item and white space around it are removed,
/// empty items left out.
#[must_use]
pub fn split_list(value: &str) -> Vec<String> {
    let value = text::trim(value);
    let value = value.strip_prefix('[').and_then(|v| v.strip_suffix(']')).unwrap_or(value);
    let mut items = Vec::new();
    let mut item = String::new();
    let mut open: Option<char> = None;
    let mut was_quoted = false;
    let mut escaped = false;
    for c in value.chars() {
        match open {
            Some(quote) if c == quote && escaped => {
                item.pop();
                item.push(c);
            }
            Some(quote) if c == quote => open = None,
            Some(_) => item.push(c),
            None if c == ',' => {
                finish_item(&mut items, &mut item, &mut was_quoted);
            }
            None if matches!(c, '\'' | '"') && text::trim(&item).is_empty() => {
                item.clear();
                open = Some(c);
                was_quoted = true;
            }
            None => item.push(c),
        }
        escaped = c == '\\' && !escaped;
    }
    finish_item(&mut items, &mut item, &mut was_quoted);
    items
}

fn finish_item(items: &mut Vec<String>, item: &mut String, was_quoted: &mut bool) {
    let trimmed = text::trim(item);
    if *was_quoted || !trimmed.is_empty() {
        items.push(trimmed.to_owned());
    }
    item.clear();
    *was_quoted = false;
}

/// Writes the action as heroscript that parses to the same action.
impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_comment(f, "", &self.comment)?;
        for _ in 0..self.level {
            f.write_str("!")?;
        }
        write!(f, "{}.{}", self.actor, self.name)?;
        for arg in self.args.iter().filter(|a| !a.contains('\n')) {
            let bare = is_plain(arg) && !arg.contains(':');
            write!(f, " {}", if bare { arg.clone() } else { text::quote(arg, '\'') })?;
        }
        f.write_str("\n")?;
        for arg in self.args.iter().filter(|a| a.contains('\n')) {
            f.write_str("    ")?;
            write_block(f, arg)?;
        }
        for param in &self.params {
            write_comment(f, "    ", &param.comment)?;
            write!(f, "    {}:", param.key)?;
            if param.value.contains('\n') {
                write_block(f, &param.value)?;
            } else if is_plain(&param.value) {
                writeln!(f, "{}", param.value)?;
            } else {
                writeln!(f, "{}", text::quote(&param.value, '\''))?;
            }
        }
        Ok(())
    }
}

/// Whether a value can stand without quotes.
fn is_plain(value: &str) -> bool {
    !value.is_empty()
        && !value.starts_with('/')
        && value.bytes().all(|b| b.is_ascii_alphanumeric() || b"_./:@+-".contains(&b))
}

fn write_comment(f: &mut fmt::Formatter<'_>, indent: &str, comment: &str) -> fmt::Result {
    if comment.is_empty() {
        return Ok(());
    }
    comment.split('\n').try_for_each(|line| writeln!(f, "{indent}// {line}"))
}

fn write_block(f: &mut fmt::Formatter<'_>, value: &str) -> fmt::Result {
    const SINGLE: usize = 2;
    f.write_str("'\n")?;
    for line in value.split('\n') {
        let ends = text::closing_delimiter(line) == Some(SINGLE);
        if ends || text::is_escaped_closer(line, SINGLE) {
            let content = line.trim_start_matches(text::is_space);
            let indent = &line[..line.len() - content.len()];
            writeln!(f, "        {indent}\\{content}")?;
        } else if line.is_empty() {
            f.write_str("\n")?;
        } else {
            writeln!(f, "        {line}")?;
        }
    }
    f.write_str("        '\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_split_outside_quotes() {
        assert_eq!(split_list("Apple,\"Dragon Fruit\",d"), ["Apple", "Dragon Fruit", "d"]);
        assert_eq!(split_list("['a', \"b,c\" , d ]"), ["a", "b,c", "d"]);
        assert_eq!(split_list("a,,b"), ["a", "b"]);
        assert_eq!(split_list("\"say \\\"hi\\\"\",it's"), ["say \"hi\"", "it's"]);
        assert!(split_list("").is_empty());
    }
}
