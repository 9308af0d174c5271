//! Which records `find` and `count` mean.

use rhai::{Dynamic, EvalAltResult, Map};

use super::{
    options::RESULT_RECORDS,
    record::{Record, failure},
};
use crate::script::to_json;

/// Fields and the values that they must have. Numbers are equal by value (1 and 1.0), `()` also matches a field that is not there.
#[derive(Debug, Clone, Default)]
pub(super) struct Filter {
    fields: Map,
}

/// Above this, integers and floats of the same value are no longer written with the same digits.
const SAME_DIGITS: f64 = 1e15;

impl Filter {
    pub(super) fn new(fields: Map) -> Self {
        Self { fields }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    pub(super) fn matches(&self, record: &Record) -> bool {
        if self.fields.is_empty() {
            return true;
        }
        let own = ["id", "created_at", "updated_at"];
        let all = own.iter().any(|name| self.fields.contains_key(*name)).then(|| record.to_map());
        let map = all.as_ref().unwrap_or(&record.fields);
        self.fields.iter().all(|(name, wanted)| match map.get(name) {
            Some(value) => same(value, wanted),
            None => wanted.is_unit(),
        })
    }

    /// A piece of text that the JSON of every matching record contains, so that the database can skip most others; empty if there is none.
    pub(super) fn needle(&self) -> String {
        let pieces =
            self.fields.iter().filter(|(name, _)| !matches!(name.as_str(), "id" | "created_at" | "updated_at"));
        pieces.filter_map(|(name, value)| piece(name, value)).max_by_key(String::len).unwrap_or_default()
    }
}

/// `"name":value` as records are written. A whole number is also the beginning of the float of its value.
fn piece(name: &str, value: &Dynamic) -> Option<String> {
    let name = to_json(&name.into()).ok()?;
    let text = if let Ok(float) = value.as_float() {
        if float.fract() == 0.0 {
            if float.abs() >= SAME_DIGITS || float == 0.0 {
                return None;
            }
            format!("{float:.0}")
        } else {
            to_json(value).ok()?
        }
    } else if let Ok(int) = value.as_int() {
        if int.unsigned_abs() >= SAME_DIGITS as u64 || int == 0 {
            return None;
        }
        int.to_string()
    } else if value.is_string() || value.is_bool() {
        to_json(value).ok()?
    } else {
        return None;
    };
    Some(format!("{name}:{text}"))
}

fn same(a: &Dynamic, b: &Dynamic) -> bool {
    if let (Some(a), Some(b)) = (as_number(a), as_number(b)) {
        return a == b;
    }
    if let (Ok(a), Ok(b)) = (a.as_array_ref(), b.as_array_ref()) {
        return a.len() == b.len() && a.iter().zip(b.iter()).all(|(a, b)| same(a, b));
    }
    if let (Ok(a), Ok(b)) = (a.as_map_ref(), b.as_map_ref()) {
        return a.len() == b.len() && a.iter().all(|(name, a)| b.get(name).is_some_and(|b| same(a, b)));
    }
    if let (Ok(a), Ok(b)) = (a.as_immutable_string_ref(), b.as_immutable_string_ref()) {
        return *a == *b;
    }
    match (to_json(a), to_json(b)) {
        (Ok(a), Ok(b)) => a == b,
        _ => false,
    }
}

#[derive(PartialEq)]
enum Number {
    Integer(i64),
    Float(f64),
}

fn as_number(value: &Dynamic) -> Option<Number> {
    if let Ok(int) = value.as_int() {
        return Some(Number::Integer(int));
    }
    let float = value.as_float().ok()?;
    // Below 2^53 every whole float is exactly one integer.
    if float.fract() == 0.0 && float.abs() < 9_007_199_254_740_992.0 {
        return Some(Number::Integer(float as i64));
    }
    Some(Number::Float(float))
}

/// Which part of the matching records, in order of their ids.
#[derive(Debug, Clone)]
pub(super) struct Page {
    /// Only ids greater than this.
    pub(super) after: String,
    /// At most so many; none asks for all, which must not be more than [`RESULT_RECORDS`].
    pub(super) limit: Option<usize>,
}

impl Page {
    pub(super) const ALL: Self = Self { after: String::new(), limit: None };

    /// From `#{after: id, limit: n}`.
    pub(super) fn from_map(map: &Map) -> Result<Self, Box<EvalAltResult>> {
        let mut page = Self::ALL;
        for (name, value) in map {
            match (name.as_str(), value.as_int(), value.as_immutable_string_ref()) {
                ("limit", Ok(limit), _) if limit > 0 && limit as u64 <= RESULT_RECORDS as u64 => {
                    page.limit = Some(limit as usize);
                }
                ("after", _, Ok(after)) => page.after = after.to_string(),
                _ => {
                    let text =
                        format!("options are `limit` (1 to {RESULT_RECORDS}) and `after` (an id), not {name}: {value}");
                    return Err(failure("INVALID_QUERY", text));
                }
            }
        }
        Ok(page)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::from_json;

    fn map(json: &str) -> Map {
        from_json(json).unwrap().cast()
    }

    fn check(filter: &str, record: &str, expected: bool) {
        let filter = Filter::new(map(filter));
        let mut record = Record::new(map(record), || "r".into()).unwrap();
        assert_eq!(filter.matches(&record), expected, "{filter:?} {record:?}");
        let body = record.body().unwrap();
        if expected {
            assert!(body.contains(&filter.needle()), "{} in {body}", filter.needle());
        }
        record.fields.clear();
    }

    #[test]
    fn equality_is_by_value_and_the_needle_never_hides_a_match() {
        for (filter, record, expected) in [
            ("{}", r#"{"a":1}"#, true),
            (r#"{"a":1}"#, r#"{"a":1,"b":2}"#, true),
            (r#"{"a":1}"#, r#"{"a":1.0}"#, true),
            (r#"{"a":1.0}"#, r#"{"a":1}"#, true),
            (r#"{"a":-0.0}"#, r#"{"a":0}"#, true),
            (r#"{"a":1}"#, r#"{"a":12}"#, false),
            (r#"{"a":1}"#, r#"{"a":"1"}"#, false),
            (r#"{"a":1.5}"#, r#"{"a":1.5}"#, true),
            (r#"{"a":1e300}"#, r#"{"a":1e300}"#, true),
            (r#"{"a":9007199254740993}"#, r#"{"a":9007199254740992}"#, false),
            (r#"{"a":18446744073709551615}"#, r#"{"a":18446744073709551615}"#, true),
            (r#"{"a":"x\"y"}"#, r#"{"a":"x\"y"}"#, true),
            (r#"{"a b\"":true}"#, r#"{"a b\"":true}"#, true),
            (r#"{"a":true}"#, r#"{"a":1}"#, false),
            (r#"{"a":null}"#, r#"{"b":1}"#, true),
            (r#"{"a":null}"#, r#"{"a":0}"#, false),
            (r#"{"a":[1,{"b":2}]}"#, r#"{"a":[1.0,{"b":2}]}"#, true),
            (r#"{"a":[1]}"#, r#"{"a":[1,2]}"#, false),
            (r#"{"id":"r"}"#, r#"{"a":1}"#, true),
            (r#"{"id":"s"}"#, r#"{"a":1}"#, false),
        ] {
            check(filter, record, expected);
        }
    }

    #[test]
    fn a_page_is_checked() {
        let page = Page::from_map(&map(r#"{"limit":5,"after":"x"}"#)).unwrap();
        assert_eq!((page.limit, page.after.as_str()), (Some(5), "x"));
        for bad in [r#"{"limit":0}"#, r#"{"limit":10001}"#, r#"{"limit":-1}"#, r#"{"offset":1}"#, r#"{"after":1}"#] {
            assert!(Page::from_map(&map(bad)).is_err(), "{bad}");
        }
    }
}
