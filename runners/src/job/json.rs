//! Reading JSON that a stranger wrote: depth is bounded before anything recurses, and a name that comes twice is an error, because two
//! readers could disagree on which one counts.

use std::{collections::BTreeMap, fmt, marker::PhantomData};

use serde::{Deserialize, Deserializer, de};

/// Whether arrays and objects are nested at most `max` deep. Linear, without recursion; the text need not be valid JSON.
#[must_use]
pub(crate) fn within_depth(text: &[u8], max: usize) -> bool {
    let (mut depth, mut i) = (0_usize, 0);
    while i < text.len() {
        match text[i] {
            b'[' | b'{' => {
                depth += 1;
                if depth > max {
                    return false;
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            b'"' => {
                i += 1;
                while i < text.len() && text[i] != b'"' {
                    i += if text[i] == b'\\' { 2 } else { 1 };
                }
            }
            _ => {}
        }
        i += 1;
    }
    true
}

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

/// An object whose members keep their exact text, in order of their names.
#[derive(Debug)]
pub(crate) struct UniqueMap<K: Ord, V>(pub(crate) BTreeMap<K, V>);

impl<'de, K, V> Deserialize<'de> for UniqueMap<K, V>
where
    K: Deserialize<'de> + Ord + fmt::Debug,
    V: Deserialize<'de>,
{
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        unique(d).map(Self)
    }
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
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn depth_counts_what_is_open_and_not_what_is_quoted() {
        assert!(within_depth(b"[[]]", 2) && !within_depth(b"[[]]", 1));
        assert!(within_depth(br#"["[[[[", "\"[[["]"#, 1));
        assert!(within_depth(br#"[[],[],{"a":[]}]"#, 3));
        let bomb = "[".repeat(1 << 20);
        assert!(!within_depth(bomb.as_bytes(), 64));
        assert!(within_depth(br#""unfinished \"#, 1));
    }

    #[test]
    fn a_name_that_comes_twice_is_refused() {
        let twice = serde_json::from_str::<UniqueMap<String, u8>>(r#"{"a":1,"\u0061":2}"#);
        assert!(twice.unwrap_err().to_string().contains("twice"));
    }

    proptest! {
        /// What passes can be read by a recursive parser with the same limit: the scan never counts too little.
        #[test]
        fn the_scan_agrees_with_the_parser(text in "[\\[\\]{}\",:a1\\\\ ]{0,60}", max in 0_usize..8) {
            fn depth(v: &serde_json::Value) -> usize {
                match v {
                    serde_json::Value::Array(a) => 1 + a.iter().map(depth).max().unwrap_or(0),
                    serde_json::Value::Object(o) => 1 + o.values().map(depth).max().unwrap_or(0),
                    _ => 0,
                }
            }
            if let Ok(value) = serde_json::from_str::<serde_json::Value>(&text) {
                prop_assert!(!within_depth(text.as_bytes(), max) || depth(&value) <= max);
            }
        }
    }
}
