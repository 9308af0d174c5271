//! Parameters of the daemon's API, by position or by name.

use std::collections::HashMap;

use jsonrpsee::core::RpcResult;
use jsonrpsee::types::error::INVALID_PARAMS_CODE;
use jsonrpsee::types::{ErrorObjectOwned, Params, ParamsSequence};
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

/// Reads parameters in their order. By name, they may be in snake_case or in camelCase.
pub(super) enum Reader<'a> {
    Positional(ParamsSequence<'a>),
    Named(HashMap<String, Box<RawValue>>),
}

impl<'a> Reader<'a> {
    pub(super) fn new(params: &'a Params<'_>) -> RpcResult<Self> {
        if params.is_object() { Ok(Self::Named(params.parse()?)) } else { Ok(Self::Positional(params.sequence())) }
    }

    pub(super) fn required<T: DeserializeOwned>(&mut self, name: &str) -> RpcResult<T> {
        match self {
            Self::Positional(sequence) => sequence.next(),
            Self::Named(named) => match take(named, name) {
                Some(value) => serde_json::from_str(value.get()).map_err(|e| invalid(&e.to_string())),
                None => Err(invalid(&format!("missing field `{name}`"))),
            },
        }
    }

    /// Absent, or null, is none.
    pub(super) fn optional<T: DeserializeOwned>(&mut self, name: &str) -> RpcResult<Option<T>> {
        match self {
            Self::Positional(sequence) => sequence.optional_next(),
            Self::Named(named) => match take(named, name) {
                Some(value) => serde_json::from_str(value.get()).map_err(|e| invalid(&e.to_string())),
                None => Ok(None),
            },
        }
    }
}

fn take(named: &mut HashMap<String, Box<RawValue>>, name: &str) -> Option<Box<RawValue>> {
    named.remove(name).or_else(|| named.remove(&camel_case(name)))
}

fn camel_case(name: &str) -> String {
    let mut words = name.split('_');
    let mut camel = words.next().unwrap_or_default().to_owned();
    for word in words {
        let (first, rest) = word.split_at(1.min(word.len()));
        camel.push_str(&first.to_ascii_uppercase());
        camel.push_str(rest);
    }
    camel
}

fn invalid(data: &str) -> ErrorObjectOwned {
    ErrorObjectOwned::owned(INVALID_PARAMS_CODE, "Invalid params", Some(data))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_read_by_position_and_by_name() {
        let check = |text: &str, first: Result<u8, ()>, second: Result<Option<bool>, ()>| {
            let params = Params::new(Some(text));
            let mut reader = Reader::new(&params).unwrap();
            assert_eq!(reader.required::<u8>("the_first").map_err(|_| ()), first, "{text}");
            assert_eq!(reader.optional::<bool>("and_second").map_err(|_| ()), second, "{text}");
        };
        check("[1]", Ok(1), Ok(None));
        check("[1, null]", Ok(1), Ok(None));
        check("[1, true]", Ok(1), Ok(Some(true)));
        check("[]", Err(()), Ok(None));
        check(r#"{"the_first": 2, "andSecond": false}"#, Ok(2), Ok(Some(false)));
        check(r#"{"theFirst": 2, "and_second": null}"#, Ok(2), Ok(None));
        check(r#"{"theFirst": "x", "and_second": 1}"#, Err(()), Err(()));
        check("{}", Err(()), Ok(None));
    }
}
