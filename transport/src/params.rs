//! Parameters by name and by position.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeOwned, Visitor};
use serde::{Deserializer, forward_to_deserialize_any};
use serde_json::value::RawValue;

use crate::error::RpcError;

/// Reads the parameters of a call: an object as it is, an array by the order of the fields of `P`,
/// absent parameters as `{}`.
pub(crate) fn parse<P: DeserializeOwned>(method: &str, params: Option<&RawValue>) -> Result<P, RpcError> {
    let text = params.map_or("{}", RawValue::get);
    let result = if text.starts_with('[') {
        let by_name = by_name(text, field_names::<P>().unwrap_or_default());
        by_name.and_then(|text| serde_json::from_str(&text).map_err(|e| e.to_string()))
    } else {
        serde_json::from_str(text).map_err(|e| e.to_string())
    };
    result.map_err(|problem| {
        let known = match field_names::<P>() {
            Some([]) => "it takes none".to_owned(),
            Some(names) => format!("it takes {}", names.join(", ")),
            None => "see rpc.discover".to_owned(),
        };
        RpcError::invalid_params(format!("invalid parameters for {method}: {problem} ({known})"))
    })
}

/// `[1, 2]` as `{"a":1,"b":2}`, the values' texts untouched.
fn by_name(array: &str, names: &[&str]) -> Result<String, String> {
    let values: Vec<&RawValue> = serde_json::from_str(array).map_err(|e| e.to_string())?;
    if values.len() > names.len() {
        return Err(format!("{} values by position, but it has {}", values.len(), names.len()));
    }
    let mut text = String::with_capacity(array.len() + 16 * values.len() + 2);
    for (name, value) in names.iter().zip(values) {
        text.push(if text.is_empty() { '{' } else { ',' });
        // Names of Rust fields, or of serde's rename: quoted all the same.
        text.push_str(&serde_json::to_string(name).map_err(|e| e.to_string())?);
        text.push(':');
        text.push_str(value.get());
    }
    text.push_str(if text.is_empty() { "{}" } else { "}" });
    Ok(text)
}

/// The names of the fields of a struct in the order of their declaration: what its derived
/// `Deserialize` announces to a deserializer. `None` if `P` is not a struct.
pub(crate) fn field_names<P: DeserializeOwned>() -> Option<&'static [&'static str]> {
    let found = Cell::new(None);
    // The probe answers every request with an error after it has seen the names.
    drop(P::deserialize(Probe { found: &found }));
    found.get()
}

struct Probe<'a> {
    found: &'a Cell<Option<&'static [&'static str]>>,
}

#[derive(Debug)]
struct Seen;

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("only the names of the fields were asked for")
    }
}

impl std::error::Error for Seen {}

impl serde::de::Error for Seen {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self
    }
}

impl<'de> Deserializer<'de> for Probe<'_> {
    type Error = Seen;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Seen> {
        Err(Seen)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Seen> {
        self.found.set(Some(fields));
        Err(Seen)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Seen> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::method::NoParams;
    use serde::Deserialize;

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Three {
        z: Box<RawValue>,
        a: Option<u32>,
        #[serde(default, rename = "m-m")]
        m: String,
    }

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    fn three(text: &str) -> Result<Three, RpcError> {
        parse("three", Some(&raw(text)))
    }

    #[test]
    fn positions_follow_the_declaration() {
        assert_eq!(field_names::<Three>(), Some(&["z", "a", "m-m"][..]));
        let by_position = three(r#"[ {"b": 1.10 } , 7, "x"]"#).unwrap();
        assert_eq!(by_position.z.get(), r#"{"b": 1.10 }"#);
        assert_eq!((by_position.a, by_position.m.as_str()), (Some(7), "x"));
        assert_eq!(three("[1e400]").unwrap().z.get(), "1e400");
    }

    #[test]
    fn refusals_name_the_parameters() {
        for (text, expected) in [
            ("[]", "missing field `z`"),
            ("[1,2,3,4]", "4 values by position, but it has 3"),
            (r#"{"z":1,"q":2}"#, "unknown field `q`"),
            (r#"{"z":1,"z":2}"#, "duplicate field `z`"),
        ] {
            let message = three(text).map(|_| ()).unwrap_err().message;
            assert!(message.contains(expected), "{message}");
            assert!(message.contains("it takes z, a, m-m"), "{message}");
        }
        parse::<NoParams>("none", None).unwrap();
        parse::<NoParams>("none", Some(&raw("[]"))).unwrap();
        assert!(parse::<NoParams>("none", Some(&raw("[1]"))).unwrap_err().message.contains("takes none"));
    }
}
