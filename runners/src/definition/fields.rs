//! Values of the tree as values of the right type; what is wrong is collected, and reading goes on.

use std::{collections::BTreeMap, fmt, str::FromStr, time::Duration};

use horus_keys::duration;

use super::{
    MAX_PROBLEMS, Position, Problem,
    tree::{Tree, Use, Value},
};
use crate::job::{bounds::OutOfBounds, json::cut};

/// At most this much of a wrong text is repeated in a message.
const SHOWN: usize = 60;

/// Where in the structure a value stands; written out only when there is a problem.
#[derive(Clone, Copy)]
pub(super) enum Path<'p> {
    Root,
    Key(&'p Path<'p>, &'p str),
    Item(&'p Path<'p>, usize),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Key(Self::Root, key) => f.write_str(cut(key, SHOWN)),
            Self::Key(parent, key) => write!(f, "{parent}.{}", cut(key, SHOWN)),
            Self::Item(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

/// Collects problems while the tree is read.
pub(super) struct Reader<'t> {
    tree: &'t Tree<'t>,
    problems: Vec<Problem>,
    unreported: usize,
}

impl<'t> Reader<'t> {
    pub(super) fn new(tree: &'t Tree<'t>) -> Self {
        Self { tree, problems: Vec::new(), unreported: 0 }
    }

    /// All problems in the order of the text.
    pub(super) fn finish(mut self) -> Vec<Problem> {
        self.problems.sort_by_key(|problem| (problem.line, problem.column));
        if self.unreported > 0 {
            let at = self.problems.last().map_or((1, 1), |last| (last.line, last.column));
            let message = format!("{} more problems are not shown", self.unreported);
            self.problems.push(Problem { message, line: at.0, column: at.1, path: String::new() });
        }
        self.problems
    }

    pub(super) fn problem(&mut self, at: Position, path: &Path<'_>, message: impl fmt::Display) {
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(Problem::new(at, path.to_string(), message.to_string()));
        } else {
            self.unreported += 1;
        }
    }

    pub(super) fn check(&mut self, at: Position, path: &Path<'_>, result: Result<(), OutOfBounds>) {
        if let Err(OutOfBounds { message, .. }) = result {
            self.problem(at, path, message);
        }
    }

    pub(super) fn tree(&self) -> &'t Tree<'t> {
        self.tree
    }

    /// The entries of a map with known keys, each once. Others are problems.
    pub(super) fn record(
        &mut self,
        value: Use,
        path: &Path<'_>,
        what: &str,
        known: &[&str],
    ) -> Option<Vec<(&'t str, Use)>> {
        let entries = self.map(value, path)?;
        let mut found: Vec<(&'t str, Use)> = Vec::with_capacity(entries.len().min(known.len()));
        for (key_use, value) in entries {
            let Some(key) = self.key(*key_use, path) else { continue };
            if !known.contains(&key) {
                let shown = cut(key, SHOWN);
                self.problem(
                    key_use.at,
                    &Path::Key(path, key),
                    format_args!("unknown key `{shown}`: {what} has {}", known.join(", ")),
                );
            } else if found.iter().any(|(earlier, _)| *earlier == key) {
                self.problem(key_use.at, &Path::Key(path, key), format_args!("`{key}` comes twice: keep one"));
            } else {
                found.push((key, *value));
            }
        }
        Some(found)
    }

    /// A map from free names to whatever `read` makes of the values.
    pub(super) fn names<T>(
        &mut self,
        value: Use,
        path: &Path<'_>,
        mut read: impl FnMut(&mut Self, Use, &Path<'_>) -> Option<T>,
    ) -> BTreeMap<String, T> {
        let mut all = BTreeMap::new();
        for (key_use, value) in self.map(value, path).unwrap_or_default() {
            let Some(key) = self.key(*key_use, path) else { continue };
            let path = Path::Key(path, key);
            let Some(read) = read(self, *value, &path) else { continue };
            if all.insert(key.to_owned(), read).is_some() {
                self.problem(key_use.at, &path, format_args!("`{}` comes twice: keep one", cut(key, SHOWN)));
            }
        }
        all
    }

    /// A map of strings.
    pub(super) fn texts(&mut self, value: Use, path: &Path<'_>) -> BTreeMap<String, String> {
        self.names(value, path, |reader, value, path| reader.text(value, path).map(ToOwned::to_owned))
    }

    fn map(&mut self, value: Use, path: &Path<'_>) -> Option<&'t [(Use, Use)]> {
        match self.tree.value(value) {
            Value::Map(entries) => Some(entries),
            other => {
                self.wrong(value, path, "a mapping of keys to values", other);
                None
            }
        }
    }

    fn key(&mut self, key: Use, path: &Path<'_>) -> Option<&'t str> {
        match self.tree.value(key) {
            Value::Plain(text) | Value::Quoted(text) => Some(text),
            other => {
                self.wrong(key, path, "a key", other);
                None
            }
        }
    }

    pub(super) fn list(&mut self, value: Use, path: &Path<'_>) -> Option<&'t [Use]> {
        match self.tree.value(value) {
            Value::List(items) => Some(items),
            other => {
                self.wrong(value, path, "a list", other);
                None
            }
        }
    }

    /// A string: `no`, `12` and `true` too, as they are written.
    pub(super) fn text(&mut self, value: Use, path: &Path<'_>) -> Option<&'t str> {
        match self.tree.value(value) {
            Value::Plain(text) if !is_null(text) => Some(text),
            Value::Quoted(text) => Some(text),
            other => {
                self.wrong(value, path, "text", other);
                None
            }
        }
    }

    pub(super) fn boolean(&mut self, value: Use, path: &Path<'_>) -> Option<bool> {
        match self.tree.value(value) {
            Value::Plain(text) if matches!(&**text, "true" | "True" | "TRUE") => Some(true),
            Value::Plain(text) if matches!(&**text, "false" | "False" | "FALSE") => Some(false),
            other => {
                self.wrong(value, path, "true or false", other);
                None
            }
        }
    }

    /// A finite number between two bounds.
    pub(super) fn number<T>(&mut self, value: Use, path: &Path<'_>, min: T, max: T) -> Option<T>
    where
        T: FromStr + PartialOrd + Copy + fmt::Display,
    {
        if let Value::Plain(text) = self.tree.value(value)
            && let Ok(number) = text.parse::<T>()
            && number >= min
            && number <= max
        {
            return Some(number);
        }
        let expected = format!("a number from {min} to {max}");
        self.wrong(value, path, &expected, self.tree.value(value));
        None
    }

    /// A duration such as `10s`, more than nothing.
    pub(super) fn duration(&mut self, value: Use, path: &Path<'_>, max: Duration) -> Option<Duration> {
        let text = self.text(value, path)?;
        match duration::parse(text) {
            Ok(time) if time.is_zero() => self.problem(value.at, path, "must be longer than nothing"),
            Ok(time) if time > max => {
                let (time, max) = (duration::format(time), duration::format(max));
                self.problem(value.at, path, format_args!("{time} is too long: at most {max}"));
            }
            Ok(time) => return Some(time),
            Err(e) => self.problem(value.at, path, format_args!("expected a duration such as 10s, 5m or 1h30m: {e}")),
        }
        None
    }

    /// A string that some type checks.
    pub(super) fn parsed<T>(&mut self, value: Use, path: &Path<'_>) -> Option<T>
    where
        T: FromStr,
        T::Err: fmt::Display,
    {
        let text = self.text(value, path)?;
        text.parse().map_err(|e| self.problem(value.at, path, e)).ok()
    }

    fn wrong(&mut self, value: Use, path: &Path<'_>, expected: &str, found: &Value<'_>) {
        let found = match found {
            Value::Plain(text) if is_null(text) => "nothing".to_owned(),
            Value::Plain(text) => format!("`{}`", cut(text, SHOWN)),
            Value::Quoted(text) => format!("the text {:?}", cut(text, SHOWN)),
            Value::List(_) => "a list".to_owned(),
            Value::Map(_) => "a mapping".to_owned(),
        };
        let defined = self.tree.defined_at(value);
        let alias = if defined == value.at { String::new() } else { format!(" (defined in line {})", defined.line) };
        self.problem(value.at, path, format_args!("expected {expected}, found {found}{alias}"));
    }
}

/// What YAML 1.2 reads as null.
fn is_null(text: &str) -> bool {
    matches!(text, "" | "~" | "null" | "Null" | "NULL")
}
