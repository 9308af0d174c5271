//! Kinds of runners, and patterns that grant them.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::error::ValueError;
use crate::text::text_value;

/// The kind of a runner: `hero`, `sal`, `osiris` or one's own. 1 to 32 of `[a-z0-9_]`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunnerKind(Arc<str>);

impl RunnerKind {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for RunnerKind {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RunnerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for RunnerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl FromStr for RunnerKind {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let valid = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        if (1..=32).contains(&text.len()) && text.bytes().all(valid) {
            Ok(Self(text.into()))
        } else {
            Err(ValueError::new(text, "a runner kind: 1 to 32 characters a-z, 0-9 and _"))
        }
    }
}

text_value!(RunnerKind, schema: {
    "type": "string",
    "description": "Kind of a runner",
    "pattern": "^[a-z0-9_]{1,32}$"
});

/// The runner kinds that a trusted key or certificate is granted: one kind, or `*` for all.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RunnerPattern {
    /// Every kind, written `*`.
    Any,
    /// This kind only.
    Kind(RunnerKind),
}

impl RunnerPattern {
    /// Whether `kind` is granted.
    #[must_use]
    pub fn matches(&self, kind: &RunnerKind) -> bool {
        match self {
            Self::Any => true,
            Self::Kind(granted) => granted == kind,
        }
    }
}

impl From<RunnerKind> for RunnerPattern {
    fn from(kind: RunnerKind) -> Self {
        Self::Kind(kind)
    }
}

impl fmt::Display for RunnerPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.pad("*"),
            Self::Kind(kind) => fmt::Display::fmt(kind, f),
        }
    }
}

impl FromStr for RunnerPattern {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        if text == "*" { Ok(Self::Any) } else { text.parse().map(Self::Kind) }
    }
}

text_value!(RunnerPattern, schema: {
    "type": "string",
    "description": "Kind of a runner, or * for all",
    "pattern": "^([a-z0-9_]{1,32}|[*])$"
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_1_to_32_of_a_small_alphabet() {
        for good in ["hero", "sal", "a", "x_9", &"z".repeat(32)] {
            assert_eq!(good.parse::<RunnerKind>().unwrap().as_str(), good);
        }
        for bad in ["", "Hero", "a-b", "a b", "*", "é", "a\n", "a{b}", &"z".repeat(33)] {
            assert!(bad.parse::<RunnerKind>().is_err(), "{bad}");
            assert!(serde_json::from_value::<RunnerKind>(bad.into()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_pattern_grants_one_kind_or_all() {
        let (hero, sal): (RunnerKind, RunnerKind) = ("hero".parse().unwrap(), "sal".parse().unwrap());
        let only_hero: RunnerPattern = "hero".parse().unwrap();
        let all: RunnerPattern = serde_json::from_str("\"*\"").unwrap();
        assert!(only_hero.matches(&hero) && !only_hero.matches(&sal));
        assert!(all.matches(&hero) && all.matches(&sal));
        assert_eq!(all.to_string(), "*");
        assert!("**".parse::<RunnerPattern>().is_err() && "he*".parse::<RunnerPattern>().is_err());
    }
}
