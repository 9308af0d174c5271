//! Reading JSON that a stranger wrote: a name that comes twice is an error, because two readers could disagree on which one counts.

use std::{collections::BTreeMap, fmt, marker::PhantomData};

use serde::{Deserialize, Deserializer, de};
use serde_json::value::RawValue;

/// For `#[serde(deserialize_with)]`: a map in which no key comes twice.
pub(crate) fn unique<'de, D, K, V>(d: D) -> Result<BTreeMap<K, V>, D::Error>
where
    D: Deserializer<'de>,
    K: Deserialize<'de> + Ord + fmt::Debug,
    V: Deserialize<'de>,
{
    d.deserialize_map(Unique(PhantomData))
}

/// As [`unique`], for a map that may be left out or null.
pub(crate) fn unique_option<'de, D, K, V>(d: D) -> Result<Option<BTreeMap<K, V>>, D::Error>
where
    D: Deserializer<'de>,
    K: Deserialize<'de> + Ord + fmt::Debug,
    V: Deserialize<'de>,
{
    struct Maybe<K, V>(PhantomData<(K, V)>);
    impl<'de, K, V> de::Visitor<'de> for Maybe<K, V>
    where
        K: Deserialize<'de> + Ord + fmt::Debug,
        V: Deserialize<'de>,
    {
        type Value = Option<BTreeMap<K, V>>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object or null")
        }
        fn visit_none<E: de::Error>(self) -> Result<Self::Value, E> {
            Ok(None)
        }
        fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
            Ok(None)
        }
        fn visit_some<D: Deserializer<'de>>(self, d: D) -> Result<Self::Value, D::Error> {
            unique(d).map(Some)
        }
    }
    d.deserialize_option(Maybe(PhantomData))
}

/// As [`unique`], for a map that is empty if it is left out or null.
pub(crate) fn unique_or_null<'de, D, K, V>(d: D) -> Result<BTreeMap<K, V>, D::Error>
where
    D: Deserializer<'de>,
    K: Deserialize<'de> + Ord + fmt::Debug,
    V: Deserialize<'de>,
{
    unique_option(d).map(Option::unwrap_or_default)
}

/// For `#[serde(default, deserialize_with)]`: what is at its default if it is left out or null.
pub(crate) fn or_null<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(d: D) -> Result<T, D::Error> {
    Option::deserialize(d).map(Option::unwrap_or_default)
}

/// For `#[serde(default, deserialize_with)]`: JSON text that may be left out. An explicit `null` is a value like any other.
pub(crate) fn present<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Box<RawValue>>, D::Error> {
    Box::<RawValue>::deserialize(d).map(Some)
}

struct Unique<K, V>(PhantomData<(K, V)>);

impl<'de, K, V> de::Visitor<'de> for Unique<K, V>
where
    K: Deserialize<'de> + Ord + fmt::Debug,
    V: Deserialize<'de>,
{
    type Value = BTreeMap<K, V>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut all = BTreeMap::new();
        while let Some(key) = map.next_key::<K>()? {
            match all.entry(key) {
                std::collections::btree_map::Entry::Vacant(free) => {
                    free.insert(map.next_value()?);
                }
                std::collections::btree_map::Entry::Occupied(taken) => {
                    return Err(de::Error::custom(format_args!("{:?} comes twice in one object", taken.key())));
                }
            }
        }
        Ok(all)
    }
}

/// Cuts a text at `max` bytes, at a character's border.
pub(crate) fn cut(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    struct Holder {
        #[serde(deserialize_with = "unique")]
        env: BTreeMap<String, u8>,
        #[serde(default, deserialize_with = "unique_option")]
        inputs: Option<BTreeMap<String, u8>>,
    }

    #[test]
    fn a_name_that_comes_twice_is_refused() {
        for twice in [r#"{"env":{"a":1,"\u0061":2}}"#, r#"{"env":{},"inputs":{"a":1,"a":1}}"#] {
            assert!(serde_json::from_str::<Holder>(twice).unwrap_err().to_string().contains("twice"));
        }
        let holder: Holder = serde_json::from_str(r#"{"env":{"a":1,"b":2},"inputs":null}"#).unwrap();
        assert!(holder.env.len() == 2 && holder.inputs.is_none());
    }

    #[test]
    fn text_is_cut_at_a_character() {
        assert_eq!((cut("aé", 2), cut("aé", 3), cut("", 5)), ("a", "aé", ""));
    }
}
