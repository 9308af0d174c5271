//! From text to actions. The language is described in `docs/HEROSCRIPT.md`.

use super::action::{Action, Param};
use super::cursor::{Cursor, normalise_line_ends};
use super::{text, value};

/// Longest script that is parsed, in bytes: the payload limit of a job.
pub const MAX_SCRIPT_BYTES: usize = 512 * 1024;
/// Most actions in one script.
pub const MAX_ACTIONS: usize = 10_000;
/// Most parameters, and most arguments, of one action.
pub const MAX_PARAMS: usize = 1_000;
/// Longest actor, action name or key, in bytes.
pub const MAX_NAME_BYTES: usize = 128;
/// Actor of an action that names none.
const DEFAULT_ACTOR: &str = "core";
const MAX_LEVEL: usize = 4;

/// Why a script could not be parsed, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {message}")]
pub struct ParseError {
    /// What is wrong and what to write instead.
    pub message: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
}

/// Parses a heroscript: all its actions in order. Text around them is ignored; a text without any
/// action gives an empty list.
///
/// # Errors
/// The first mistake, with its line and column: a quote or bracket that is not closed, a name or key
/// that is none, a limit of this module exceeded.
pub fn parse(script: &str) -> Result<Vec<Action>, ParseError> {
    Ok(parse_located(script)?.into_iter().map(|(action, _)| action).collect())
}

/// As [`parse`], each action with the number of its line, from 1.
pub(super) fn parse_located(script: &str) -> Result<Vec<(Action, usize)>, ParseError> {
    if script.len() > MAX_SCRIPT_BYTES {
        return Err(ParseError {
            message: format!("the script has {} bytes; at most {MAX_SCRIPT_BYTES} are parsed: split it", script.len()),
            line: 1,
            column: 1,
        });
    }
    let script = normalise_line_ends(script);
    let mut cursor = Cursor::new(&script);
    let mut actions = Vec::new();
    let mut comments = Vec::new();
    let mut line = 0;
    while line < cursor.line_count() {
        let content = text::trim(cursor.line_text(line));
        if content.starts_with("//") {
            comments.push(text::comment_text(content));
        } else if starts_action(content) {
            cursor.go_to_line(line);
            if actions.len() == MAX_ACTIONS {
                return Err(cursor.error(cursor.pos, format!("more than {MAX_ACTIONS} actions: split the script")));
            }
            let (action, next) = ActionParser::new(&mut cursor).parse(std::mem::take(&mut comments))?;
            actions.push((action, line + 1));
            line = next;
            continue;
        } else if !content.is_empty() {
            comments.clear();
        }
        line += 1;
    }
    Ok(actions)
}

/// Whether a line, white space trimmed, begins an action: `!` and a letter, not `![image]` or `!=`.
fn starts_action(line: &str) -> bool {
    let name = line.trim_start_matches('!');
    name.len() < line.len() && name.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
}

/// What a comment at the end of the present line speaks of.
#[derive(Clone, Copy)]
enum Subject {
    Action,
    NextParam,
    LastParam,
}

struct ActionParser<'c, 'a> {
    cursor: &'c mut Cursor<'a>,
    /// Indentation of the action's own line; deeper lines belong to it.
    indent: usize,
    params: Vec<Param>,
    args: Vec<String>,
    /// Parameters read, those that a later one of the same key replaced included.
    params_read: usize,
    /// Comments seen that wait for the parameter after them.
    pending: Vec<String>,
    /// Comments of the action itself.
    comments: Vec<String>,
    subject: Subject,
}

impl<'c, 'a> ActionParser<'c, 'a> {
    fn new(cursor: &'c mut Cursor<'a>) -> Self {
        Self {
            indent: text::indentation(cursor.line_text(cursor.line)),
            cursor,
            params: Vec::new(),
            args: Vec::new(),
            params_read: 0,
            pending: Vec::new(),
            comments: Vec::new(),
            subject: Subject::Action,
        }
    }

    /// Parses the action that begins here; also tells at which line to go on.
    fn parse(mut self, comments: Vec<&str>) -> Result<(Action, usize), ParseError> {
        self.comments = comments.into_iter().map(str::to_owned).collect();
        let (level, actor, name) = self.header()?;
        let next = loop {
            self.cursor.skip_space();
            let rest = self.cursor.rest();
            if rest.is_empty() {
                match self.next_line() {
                    Ok(line) => self.cursor.go_to_line(line),
                    Err(line) => break line,
                }
                self.subject = Subject::NextParam;
            } else if rest.starts_with("//") || rest.starts_with('#') {
                self.cursor.pos += rest.len();
                self.add_comment(text::comment_text(rest).to_owned());
            } else if rest.starts_with("<!--") {
                self.markup_comment()?;
            } else {
                self.item()?;
            }
        };
        self.comments.append(&mut self.pending);
        let action =
            Action { actor, name, level, comment: join_comments(&self.comments), params: self.params, args: self.args };
        Ok((action, next))
    }

    fn header(&mut self) -> Result<(u8, String, String), ParseError> {
        let start = self.cursor.pos;
        let word = self.cursor.take_until(text::is_space);
        let full_name = word.trim_start_matches('!');
        let level = word.len() - full_name.len();
        if level > MAX_LEVEL {
            return Err(self
                .cursor
                .error(start, format!("an action has at most {MAX_LEVEL} exclamation marks, this one {level}")));
        }
        let at_name = start + level;
        let (actor, name) = match full_name.split_once('.') {
            None => (DEFAULT_ACTOR.to_owned(), full_name),
            Some((_, name)) if name.contains('.') => {
                return Err(self.cursor.error(
                    at_name,
                    format!("{full_name:?}: an action is written actor.name or name, with one dot at most"),
                ));
            }
            Some((actor, name)) => (text::normalise_name(actor), name),
        };
        let name = text::normalise_name(name);
        if actor.is_empty() || name.is_empty() {
            return Err(self
                .cursor
                .error(at_name, format!("{full_name:?} is no action: write actor.name, of letters, digits and _")));
        }
        if actor.len() > MAX_NAME_BYTES || name.len() > MAX_NAME_BYTES {
            return Err(self.cursor.error(at_name, format!("the action's name is longer than {MAX_NAME_BYTES} bytes")));
        }
        let level = u8::try_from(level).expect("at most MAX_LEVEL, checked above");
        Ok((level, actor, name))
    }

    /// The next line of this action, or else the line at which reading goes on after it.
    ///
    /// A comment that is not indented belongs to the next action, unless more of this one follows.
    fn next_line(&mut self) -> Result<usize, usize> {
        let mut first_comment = None;
        let mut found = Vec::new();
        for line in self.cursor.line + 1..self.cursor.line_count() {
            let content = text::trim(self.cursor.line_text(line));
            if content.is_empty() {
                continue;
            }
            if content.starts_with("//") && (first_comment.is_some() || !self.is_inside(line)) {
                first_comment = first_comment.or(Some(line));
                found.push(text::comment_text(content).to_owned());
                continue;
            }
            if self.is_inside(line) {
                self.pending.append(&mut found);
                return Ok(line);
            }
            return Err(first_comment.unwrap_or(line));
        }
        Err(first_comment.unwrap_or(self.cursor.line_count()))
    }

    /// Whether a line that is not blank belongs to this action.
    fn is_inside(&self, line: usize) -> bool {
        let line = self.cursor.line_text(line);
        let content = text::trim(line);
        text::indentation(line) > self.indent && !starts_action(content) && !content.starts_with("```")
    }

    fn add_comment(&mut self, comment: String) {
        match self.subject {
            Subject::Action => self.comments.push(comment),
            Subject::NextParam => self.pending.push(comment),
            Subject::LastParam => {
                let param = self.params.last_mut().expect("the subject is set after a push");
                if !param.comment.is_empty() && !comment.is_empty() {
                    param.comment.push('\n');
                }
                param.comment.push_str(&comment);
            }
        }
    }

    /// `<!-- ... -->`, perhaps over several lines.
    fn markup_comment(&mut self) -> Result<(), ParseError> {
        let start = self.cursor.pos;
        let body = &self.cursor.remainder()[4..];
        let Some(end) = body.find("-->") else {
            return Err(self.cursor.error(start, "this <!-- is not closed by -->"));
        };
        self.cursor.go_to(start + 4 + end + 3);
        let lines: Vec<_> = body[..end].split('\n').map(|line| text::comment_text(line).to_owned()).collect();
        self.add_comment(join_comments(&lines));
        Ok(())
    }

    /// One parameter or argument.
    fn item(&mut self) -> Result<(), ParseError> {
        let start = self.cursor.pos;
        if matches!(self.cursor.peek(), Some('\'' | '"')) {
            let opened = self.cursor.line;
            let arg = value::quoted(self.cursor)?;
            value::expect_separator(self.cursor, "the argument", opened)?;
            self.cursor.take_until(|c| c != ',');
            return self.add_arg(start, arg);
        }
        let rest = self.cursor.rest();
        if let Some(key) = value::key(rest) {
            self.cursor.pos += key.len();
            self.cursor.skip_space();
            self.cursor.pos += 1;
            return self.param(start, key);
        }
        let word = self.cursor.take_until(text::is_space);
        match word.split_once(':') {
            Some((key, after)) if !after.starts_with("//") => Err(self.cursor.error(start, value::bad_key(key))),
            _ => self.add_arg(start, word.trim_end_matches(',').to_owned()),
        }
    }

    fn add_arg(&mut self, start: usize, arg: String) -> Result<(), ParseError> {
        self.subject = Subject::Action;
        if arg.is_empty() && self.cursor.pos - start < 2 {
            return Ok(()); // A comma that stood alone, not ''.
        }
        if self.args.len() == MAX_PARAMS {
            let message = format!("more than {MAX_PARAMS} arguments in one action");
            return Err(self.cursor.error(start, message));
        }
        self.args.push(arg);
        Ok(())
    }

    fn param(&mut self, start: usize, key: &str) -> Result<(), ParseError> {
        self.params_read += 1;
        if self.params_read > MAX_PARAMS {
            let message = format!("more than {MAX_PARAMS} parameters in one action");
            return Err(self.cursor.error(start, message));
        }
        let line = self.cursor.line;
        let comment = join_comments(&std::mem::take(&mut self.pending));
        self.cursor.skip_space();
        let starts_below = (self.cursor.rest().is_empty()).then(|| self.value_below(line)).flatten();
        if let Some(below) = starts_below {
            self.cursor.go_to_line(below);
        }
        let value = value::value(self.cursor, key, |cursor| {
            let next = first_content_after(cursor)?;
            let line = cursor.line_text(next);
            let content = text::trim(line);
            let is_item = text::indentation(line) > self.indent && is_value(content);
            is_item.then_some(next)
        })?;
        let key = key.trim_start_matches('/').to_ascii_lowercase().replace('-', "_");
        self.params.retain(|p| p.key != key);
        self.params.push(Param { key, value, comment });
        self.subject = Subject::LastParam;
        Ok(())
    }

    /// The line below a `key:` that nothing follows, if it is deeper indented and holds the value.
    fn value_below(&self, line: usize) -> Option<usize> {
        let next = first_content_after(self.cursor)?;
        let content = self.cursor.line_text(next);
        let deeper = text::indentation(content) > text::indentation(self.cursor.line_text(line));
        (deeper && is_value(text::trim(content))).then_some(next)
    }
}

fn first_content_after(cursor: &Cursor<'_>) -> Option<usize> {
    (cursor.line + 1..cursor.line_count()).find(|line| !text::trim(cursor.line_text(*line)).is_empty())
}

/// Whether a line can only be a value or an argument: no comment, action, fence or `key:`.
fn is_value(content: &str) -> bool {
    let other = ["//", "#", "<!--", "```"].iter().any(|mark| content.starts_with(mark));
    !other && !starts_action(content) && value::key(content).is_none()
}

/// Comments as one text, blank ones at both ends left out.
fn join_comments(comments: &[String]) -> String {
    comments.join("\n").trim_matches('\n').to_owned()
}

#[cfg(test)]
#[path = "parser_tests.rs"]
mod tests;
