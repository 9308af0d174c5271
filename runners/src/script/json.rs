//! JSON to Rhai values and back, without losing an integer.
//!
//! Integers become the smallest of `i64` (Rhai's own), `u64`, `i128` and `u128` that holds them: arithmetic with the large ones needs both sides of
//! one type, but they print, compare and go back to JSON digit by digit. An integer of more than 128 bits is an error, not a rounded float.

use std::{collections::BTreeMap, fmt};

use rhai::{Array, Blob, Dynamic, INT, ImmutableString, Map};
use serde::{
    Deserializer as _, Serialize, Serializer,
    de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor},
    ser::Error as _,
};
use serde_json::value::RawValue;

use crate::job::limits::DEPTH;

/// Parses one JSON value.
///
/// # Errors
/// Says where the text stops being JSON, or which integer is too long.
pub(crate) fn from_json(text: &str) -> Result<Dynamic, String> {
    if has_long_number(text.as_bytes()) {
        let raw: &RawValue = serde_json::from_str(text).map_err(|e| e.to_string())?;
        return from_raw(raw, 0);
    }
    let mut parser = serde_json::Deserializer::from_str(text);
    let value = AnyValue.deserialize(&mut parser).map_err(|e| e.to_string())?;
    parser.end().map_err(|e| e.to_string())?;
    Ok(value)
}

/// Whether the text may hold an integer that needs more than 64 bits (20 digits in a row); digits in strings count too, which only costs time.
fn has_long_number(text: &[u8]) -> bool {
    let mut run = 0_u32;
    text.iter().any(|byte| {
        run = if byte.is_ascii_digit() { run + 1 } else { 0 };
        run >= 19
    })
}

/// The common case: one pass, no intermediate tree.
struct AnyValue;

impl<'de> DeserializeSeed<'de> for AnyValue {
    type Value = Dynamic;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Dynamic, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for AnyValue {
    type Value = Dynamic;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Dynamic, E> {
        Ok(Dynamic::UNIT)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Dynamic, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Dynamic, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Dynamic, E> {
        Ok(INT::try_from(value).map_or_else(|_| Dynamic::from(value), Dynamic::from))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Dynamic, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Dynamic, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Dynamic, A::Error> {
        let mut array = Array::with_capacity(items.size_hint().unwrap_or(0).min(1024));
        while let Some(item) = items.next_element_seed(AnyValue)? {
            array.push(item);
        }
        Ok(array.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Dynamic, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            let value = entries.next_value_seed(AnyValue)?;
            if map.insert(key.as_str().into(), value).is_some() {
                return Err(A::Error::custom(format_args!("the key {key:?} is there twice")));
            }
        }
        Ok(map.into())
    }
}

/// The rare case: numbers are looked at as text. Each level scans its text again, which the depth bounds.
fn from_raw(raw: &RawValue, depth: usize) -> Result<Dynamic, String> {
    if depth > DEPTH {
        return Err(format!("nested more than {DEPTH} deep"));
    }
    let text = raw.get().trim();
    match text.as_bytes().first() {
        Some(b'{') => {
            let entries: BTreeMap<String, &RawValue> = serde_json::from_str(text).map_err(|e| e.to_string())?;
            let map: Result<Map, String> =
                entries.into_iter().map(|(k, v)| Ok((k.as_str().into(), from_raw(v, depth + 1)?))).collect();
            Ok(map?.into())
        }
        Some(b'[') => {
            let items: Vec<&RawValue> = serde_json::from_str(text).map_err(|e| e.to_string())?;
            let array: Result<Array, String> = items.into_iter().map(|item| from_raw(item, depth + 1)).collect();
            Ok(array?.into())
        }
        Some(b'-' | b'0'..=b'9') => number(text),
        _ => serde_json::Deserializer::from_str(text).deserialize_any(AnyValue).map_err(|e| e.to_string()),
    }
}

fn number(text: &str) -> Result<Dynamic, String> {
    if text.contains(['.', 'e', 'E']) {
        return text.parse::<f64>().map(Dynamic::from).map_err(|e| e.to_string());
    }
    None.or_else(|| text.parse::<i64>().ok().map(Dynamic::from))
        .or_else(|| text.parse::<u64>().ok().map(Dynamic::from))
        .or_else(|| text.parse::<i128>().ok().map(Dynamic::from))
        .or_else(|| text.parse::<u128>().ok().map(Dynamic::from))
        .ok_or_else(|| format!("the integer of {} digits would lose some: send it as a string", text.len()))
}

/// Writes a value as JSON; `()` is null, a character a string, a blob an array of numbers.
///
/// # Errors
/// Names what JSON cannot hold (NaN, a function, a handle of a SAL module), or says that the nesting is too deep.
pub(crate) fn to_json(value: &Dynamic) -> Result<String, String> {
    serde_json::to_string(&Json { value, depth: 0 }).map_err(|e| e.to_string())
}

struct Json<'a> {
    value: &'a Dynamic,
    depth: usize,
}

impl Serialize for Json<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { value, depth } = *self;
        if depth > DEPTH {
            return Err(S::Error::custom(format_args!("nested more than {DEPTH} deep")));
        }
        let nested = |value| Json { value, depth: depth + 1 };
        if value.is_unit() {
            serializer.serialize_unit()
        } else if let Ok(v) = value.as_int() {
            serializer.serialize_i64(v)
        } else if let Ok(v) = value.as_immutable_string_ref() {
            serializer.serialize_str(&v)
        } else if let Ok(v) = value.as_bool() {
            serializer.serialize_bool(v)
        } else if let Ok(v) = value.as_float() {
            finite(v, serializer)
        } else if let Ok(map) = value.as_map_ref() {
            serializer.collect_map(map.iter().map(|(key, value)| (key.as_str(), nested(value))))
        } else if let Ok(array) = value.as_array_ref() {
            serializer.collect_seq(array.iter().map(nested))
        } else if let Ok(v) = value.as_char() {
            serializer.serialize_char(v)
        } else if let Some(blob) = value.read_lock::<Blob>() {
            serializer.collect_seq(blob.iter())
        } else {
            rare(value, serializer)
        }
    }
}

fn finite<S: Serializer>(value: f64, serializer: S) -> Result<S::Ok, S::Error> {
    if value.is_finite() {
        serializer.serialize_f64(value)
    } else {
        Err(S::Error::custom(format_args!("{value} is not a number of JSON")))
    }
}

/// The numeric types that come from large input or from `to_i32()` and its kin.
fn rare<S: Serializer>(value: &Dynamic, serializer: S) -> Result<S::Ok, S::Error> {
    macro_rules! integers {
        ($($t:ty => $f:ident),*) => { $( if let Some(v) = value.read_lock::<$t>() { return serializer.$f((*v).into()); } )* };
    }
    integers!(u64 => serialize_u64, u128 => serialize_u128, i128 => serialize_i128, i32 => serialize_i64, u32 => serialize_u64,
        i16 => serialize_i64, u16 => serialize_u64, i8 => serialize_i64, u8 => serialize_u64);
    if let Some(v) = value.read_lock::<f32>() {
        return finite(f64::from(*v), serializer);
    }
    if let Some(v) = value.read_lock::<ImmutableString>() {
        return serializer.serialize_str(&v);
    }
    let name = value.type_name();
    let name = name.rsplit("::").next().unwrap_or(name);
    Err(S::Error::custom(format_args!(
        "a value of type {name} cannot be JSON: return what you need of it, for example one of its fields"
    )))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn round(text: &str) -> String {
        to_json(&from_json(text).unwrap()).unwrap()
    }

    #[test]
    fn integers_keep_every_digit() {
        for text in [
            "0",
            "-1",
            "9223372036854775807",
            "-9223372036854775808",
            "9223372036854775808",
            "18446744073709551615",
            "18446744073709551616",
            "-9223372036854775809",
            "-170141183460469231731687303715884105728",
            "340282366920938463463374607431768211455",
            r#"{"a":[12345678901234567890123,1.5,"12345678901234567890123",null,true],"b":{"c":9007199254740993}}"#,
        ] {
            assert_eq!(round(text), text);
        }
        assert!(from_json("340282366920938463463374607431768211456").unwrap_err().contains("as a string"));
    }

    #[test]
    fn floats_stay_floats() {
        assert_eq!(round("1.0"), "1.0");
        assert_eq!(round("[1e3,0.1,12345678901234567890.5]"), "[1000.0,0.1,1.2345678901234567e+19]");
        assert!(to_json(&Dynamic::from(f64::NAN)).unwrap_err().contains("NaN"));
    }

    #[test]
    fn other_values_have_one_spelling() {
        assert_eq!(to_json(&Dynamic::UNIT).unwrap(), "null");
        assert_eq!(to_json(&Dynamic::from('x')).unwrap(), r#""x""#);
        assert_eq!(to_json(&Dynamic::from_blob(vec![1, 255])).unwrap(), "[1,255]");
        assert!(to_json(&Dynamic::from(std::time::Duration::ZERO)).unwrap_err().contains("Duration cannot be JSON"));
        assert!(to_json(&Dynamic::from(1_i64).into_shared()).unwrap() == "1");
    }

    #[test]
    fn what_is_not_json_is_an_error() {
        for text in ["", "{", "1 2", "{\"a\":1,\"a\":2}", "nul", "[12345678901234567890123"] {
            assert!(from_json(text).is_err(), "{text}");
        }
        let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
        assert!(from_json(&deep).is_err());
        let deep = format!("{}12345678901234567890123{}", "[".repeat(70), "]".repeat(70));
        assert!(from_json(&deep).is_err());
        let mut value = Dynamic::UNIT;
        for _ in 0..70 {
            value = vec![value].into();
        }
        assert!(to_json(&value).unwrap_err().contains("64 deep"));
    }

    fn json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            any::<u64>().prop_map(Into::into),
            any::<f64>().prop_filter("finite", |f| f.is_finite()).prop_map(Into::into),
            ".{0,8}".prop_map(Into::into),
        ];
        leaf.prop_recursive(4, 32, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
                prop::collection::btree_map(".{0,6}", inner, 0..6)
                    .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_json_comes_back_the_same(value in json()) {
            let text = value.to_string();
            let back: serde_json::Value = serde_json::from_str(&round(&text)).unwrap();
            prop_assert_eq!(back, value);
        }
    }
}
