//! A place in a script: which line, what follows on it, and the line and column of an error there.

use super::parser::ParseError;
use super::text::{self, DELIMITERS};
use std::borrow::Cow;

/// The script cut into lines, and a position in it.
pub(super) struct Cursor<'a> {
    text: &'a str,
    /// Byte ranges of the lines, line ends excluded.
    lines: Vec<(usize, usize)>,
    /// For each delimiter the lines that can end a multi-line value, ascending. Found once, so that a
    /// hostile script of a hundred thousand open quotes is not searched a hundred thousand times.
    closers: [Vec<usize>; DELIMITERS.len()],
    /// Byte offset of the next character.
    pub(super) pos: usize,
    /// Index of the line that holds `pos`.
    pub(super) line: usize,
}

/// The script with plain line ends and without a byte order mark.
pub(super) fn normalise_line_ends(text: &str) -> Cow<'_, str> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.contains('\r') {
        let lines: Vec<&str> = text.split('\n').map(|l| l.trim_end_matches('\r')).collect();
        Cow::Owned(lines.join("\n"))
    } else {
        Cow::Borrowed(text)
    }
}

impl<'a> Cursor<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        let mut lines = Vec::new();
        let mut closers: [Vec<usize>; DELIMITERS.len()] = Default::default();
        let mut start = 0;
        for (index, line) in text.split('\n').enumerate() {
            if let Some(delimiter) = text::closing_delimiter(line) {
                closers[delimiter].push(index);
            }
            lines.push((start, start + line.len()));
            start += line.len() + 1;
        }
        Self { text, lines, closers, pos: 0, line: 0 }
    }

    pub(super) fn line_count(&self) -> usize {
        self.lines.len()
    }

    pub(super) fn line_text(&self, line: usize) -> &'a str {
        let (start, end) = self.lines[line];
        &self.text[start..end]
    }

    /// Moves to the first character of `line` that is no white space.
    pub(super) fn go_to_line(&mut self, line: usize) {
        let content = self.line_text(line);
        let blank = content.len() - content.trim_start_matches(text::is_space).len();
        self.line = line;
        self.pos = self.lines[line].0 + blank;
    }

    /// Moves to byte `pos`, at or after the present position.
    pub(super) fn go_to(&mut self, pos: usize) {
        self.pos = pos;
        self.line += self.lines[self.line..].partition_point(|(start, _)| *start <= pos) - 1;
    }

    /// What follows on this line.
    pub(super) fn rest(&self) -> &'a str {
        &self.text[self.pos..self.lines[self.line].1]
    }

    /// Everything that follows.
    pub(super) fn remainder(&self) -> &'a str {
        &self.text[self.pos..]
    }

    pub(super) fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    /// Takes what follows on this line up to the first character that `ends`.
    pub(super) fn take_until(&mut self, ends: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let taken = &rest[..rest.find(ends).unwrap_or(rest.len())];
        self.pos += taken.len();
        taken
    }

    pub(super) fn skip_space(&mut self) {
        self.take_until(|c| !text::is_space(c));
    }

    /// The first line after this one that ends a value opened by `DELIMITERS[delimiter]`.
    ///
    /// Scripts are found in which the quote that closes is not the one that opened; the next ending
    /// line of any kind serves if there is none of the right kind at all.
    pub(super) fn closing_line(&self, delimiter: usize) -> Option<usize> {
        let after = |lines: &Vec<usize>| lines.get(lines.partition_point(|line| *line <= self.line)).copied();
        after(&self.closers[delimiter]).or_else(|| self.closers.iter().filter_map(after).min())
    }

    /// An error at byte `pos`.
    pub(super) fn error(&self, pos: usize, message: impl Into<String>) -> ParseError {
        let line = self.lines.partition_point(|(start, _)| *start <= pos).saturating_sub(1);
        let (start, end) = self.lines[line];
        ParseError {
            message: message.into(),
            line: line + 1,
            column: self.text[start..pos.min(end)].chars().count() + 1,
        }
    }
}
