//! Limits on maps of strings, checked alike in signed jobs and in workflow definitions.

use std::collections::BTreeMap;

use super::limits;

/// Why a map is refused.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct OutOfBounds {
    /// Whether something is too large, rather than not allowed at all.
    pub(crate) too_large: bool,
    /// What is wrong and what to do.
    pub(crate) message: String,
}

fn too_large(message: String) -> OutOfBounds {
    OutOfBounds { too_large: true, message }
}

/// Environment variables.
pub(crate) fn env(map: &BTreeMap<String, String>) -> Result<(), OutOfBounds> {
    texts("env", map, limits::ENV_ENTRIES, limits::ENV_BYTES)?;
    for (name, value) in map {
        variable_name(name)?;
        if value.contains('\0') {
            return Err(OutOfBounds {
                too_large: false,
                message: format!("env {name}: a value cannot hold a NUL character"),
            });
        }
    }
    Ok(())
}

/// Labels of a job, or of a supervisor.
pub(crate) fn labels(map: &BTreeMap<String, String>) -> Result<(), OutOfBounds> {
    texts("labels", map, limits::LABEL_ENTRIES, limits::LABEL_BYTES)?;
    for (label, value) in map {
        name("label", label)?;
        if value.chars().any(char::is_control) {
            return Err(OutOfBounds {
                too_large: false,
                message: format!("the label {label}: {value:?} cannot be its value: use printable characters"),
            });
        }
    }
    Ok(())
}

/// Names of secrets; the secrets themselves are bounded by what holds them.
pub(crate) fn secrets<V>(map: &BTreeMap<String, V>) -> Result<(), OutOfBounds> {
    let (is, max) = (map.len(), limits::SECRET_ENTRIES);
    if is > max {
        return Err(too_large(format!("{is} secrets, at most {max} are allowed")));
    }
    map.keys().try_for_each(|secret| variable_name(secret))
}

/// A name that may go into messages, Redis fields and JSON: not empty, not long, without control characters.
pub(crate) fn name(what: &str, name: &str) -> Result<(), OutOfBounds> {
    let max = limits::NAME_BYTES;
    if name.len() > max {
        return Err(too_large(format!("the name of a {what} has {} bytes, at most {max} are allowed", name.len())));
    }
    if name.is_empty() || name.chars().any(char::is_control) {
        return Err(OutOfBounds {
            too_large: false,
            message: format!("{name:?} cannot be the name of a {what}: use printable characters"),
        });
    }
    Ok(())
}

/// Secrets are given to scripts like variables, so both have the same names.
fn variable_name(variable: &str) -> Result<(), OutOfBounds> {
    name("variable", variable)?;
    if variable.contains('=') {
        return Err(OutOfBounds {
            too_large: false,
            message: format!("{variable:?} cannot be the name of a variable: it holds `=`"),
        });
    }
    Ok(())
}

fn texts(what: &str, map: &BTreeMap<String, String>, max_entries: usize, max_bytes: usize) -> Result<(), OutOfBounds> {
    if map.len() > max_entries {
        return Err(too_large(format!("{what} has {} entries, at most {max_entries} are allowed", map.len())));
    }
    let bytes: usize = map.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > max_bytes {
        return Err(too_large(format!(
            "{what} has {bytes} bytes, at most {max_bytes} are allowed: pass large values as input"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn names_that_a_process_cannot_have_are_refused() {
        assert_eq!(env(&map(&[("PATH", "/bin"), ("x.y-z", "ü\n")])), Ok(()));
        for bad in [("", "x"), ("a=b", "x"), ("a\0", "x"), ("a", "x\0")] {
            assert!(!env(&map(&[bad])).unwrap_err().too_large, "{bad:?}");
        }
    }

    #[test]
    fn labels_are_shown_in_terminals_so_they_hold_no_control_characters() {
        assert_eq!(labels(&map(&[("team", "Kern, süd"), ("empty", "")])), Ok(()));
        for bad in [("a", "x\u{1b}[2J"), ("a", "x\ny"), ("a", "\u{9b}"), ("a\n", "x")] {
            assert!(!labels(&map(&[bad])).unwrap_err().too_large, "{bad:?}");
        }
    }

    #[test]
    fn maps_are_bounded_in_number_and_size() {
        let many: BTreeMap<_, _> = (0..65).map(|n| (n.to_string(), String::new())).collect();
        assert!(
            env(&many).unwrap_err().too_large
                && labels(&many).unwrap_err().too_large
                && secrets(&many).unwrap_err().too_large
        );
        assert!(env(&map(&[("a", &"x".repeat(limits::ENV_BYTES))])).unwrap_err().too_large);
        assert_eq!(env(&map(&[("a", &"x".repeat(limits::ENV_BYTES - 1))])), Ok(()));
        assert!(labels(&map(&[(&"x".repeat(129), "")])).unwrap_err().too_large);
    }
}
