//! Records: maps with their fields at the top level, and three that the store keeps.

use horus_keys::Timestamp;
use rhai::{Dynamic, EvalAltResult, Map, Position};

use super::options::{ID_BYTES, MODEL_BYTES, RECORD_BYTES};
use crate::script::{from_json, to_json};

/// One record as a script has it.
#[derive(Debug, Clone)]
pub(super) struct Record {
    pub(super) id: String,
    pub(super) created_at: Timestamp,
    pub(super) updated_at: Timestamp,
    /// Everything else.
    pub(super) fields: Map,
}

/// The fields that the store keeps: what a script writes to the times is ignored.
const ID: &str = "id";
const CREATED_AT: &str = "created_at";
const UPDATED_AT: &str = "updated_at";

/// An error that a script can catch; uncaught, `code` is the job's error code.
pub(super) fn failure(code: &str, message: impl Into<String>) -> Box<EvalAltResult> {
    let mut thrown = Map::new();
    thrown.insert("code".into(), code.into());
    thrown.insert("message".into(), message.into().into());
    Box::new(EvalAltResult::ErrorRuntime(Dynamic::from(thrown), Position::NONE))
}

impl Record {
    /// A record that is not stored yet. Takes its id from the map, else `fresh_id`.
    pub(super) fn new(map: Map, fresh_id: impl FnOnce() -> String) -> Result<Self, Box<EvalAltResult>> {
        let (id, fields) = split(map)?;
        let now = Timestamp::now();
        Ok(Self { id: id.unwrap_or_else(fresh_id), created_at: now, updated_at: now, fields })
    }

    /// A stored record.
    pub(super) fn stored(id: String, created_at: i64, updated_at: i64, body: &str) -> Result<Self, Box<EvalAltResult>> {
        let fields = from_json(body).ok().and_then(Dynamic::try_cast::<Map>).ok_or_else(|| {
            failure("DATABASE_ERROR", format!("the record {id:?} is damaged: it is not a JSON object"))
        })?;
        let (created_at, updated_at) = (Timestamp::from_millis(created_at), Timestamp::from_millis(updated_at));
        Ok(Self { id, created_at, updated_at, fields })
    }

    /// Sets the given fields and keeps the others.
    pub(super) fn merge(&mut self, map: Map) -> Result<(), Box<EvalAltResult>> {
        let (id, fields) = split(map)?;
        if id.is_some_and(|id| id != self.id) {
            return Err(failure("INVALID_RECORD", "the id of a record cannot change: create another one"));
        }
        self.fields.extend(fields);
        self.touch();
        Ok(())
    }

    /// Replaces all fields.
    pub(super) fn replace(&mut self, map: Map) -> Result<(), Box<EvalAltResult>> {
        self.fields = split(map)?.1;
        self.touch();
        Ok(())
    }

    fn touch(&mut self) {
        // Never before its own creation, whatever the clock does.
        self.updated_at = Timestamp::now().max(self.created_at);
    }

    /// As scripts see it.
    pub(super) fn to_map(&self) -> Map {
        let mut map = self.fields.clone();
        map.insert(ID.into(), self.id.as_str().into());
        map.insert(CREATED_AT.into(), self.created_at.to_string().into());
        map.insert(UPDATED_AT.into(), self.updated_at.to_string().into());
        map
    }

    /// The fields as JSON.
    pub(super) fn body(&self) -> Result<String, Box<EvalAltResult>> {
        let mut text = String::from("{}");
        if !self.fields.is_empty() {
            text = to_json(&Dynamic::from(self.fields.clone()))
                .map_err(|e| failure("INVALID_RECORD", format!("the record {:?}: {e}", self.id)))?;
        }
        if text.len() > RECORD_BYTES {
            let (id, is) = (&self.id, text.len());
            return Err(failure(
                "TOO_LARGE",
                format!("the record {id:?} has {is} bytes, at most {RECORD_BYTES} are allowed"),
            ));
        }
        Ok(text)
    }
}

/// Id and the fields that are the script's own.
fn split(mut map: Map) -> Result<(Option<String>, Map), Box<EvalAltResult>> {
    map.remove(CREATED_AT);
    map.remove(UPDATED_AT);
    let id = match map.remove(ID) {
        Some(id) if !id.is_unit() => Some(checked_id(&id)?),
        _ => None,
    };
    Ok((id, map))
}

/// The id given as a string, or as a record that has one.
pub(super) fn id_of(value: &Dynamic) -> Result<String, Box<EvalAltResult>> {
    match value.as_map_ref() {
        Ok(map) => match map.get(ID) {
            Some(id) => checked_id(id),
            None => Err(failure("INVALID_RECORD", "the map has no id")),
        },
        Err(_) => checked_id(value),
    }
}

fn checked_id(id: &Dynamic) -> Result<String, Box<EvalAltResult>> {
    let Ok(text) = id.as_immutable_string_ref() else {
        let found = id.type_name();
        return Err(failure("INVALID_RECORD", format!("an id is a string, not {found}: use .to_string()")));
    };
    if text.is_empty() || text.len() > ID_BYTES || text.chars().any(char::is_control) {
        return Err(failure("INVALID_RECORD", format!("an id has 1 to {ID_BYTES} bytes and no control characters")));
    }
    Ok(text.to_string())
}

/// Checks the name of a model.
pub(super) fn checked_model(name: &str) -> Result<(), Box<EvalAltResult>> {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    if name.is_empty() || name.len() > MODEL_BYTES || !name.bytes().all(good) {
        let rule = format!("1 to {MODEL_BYTES} of the characters A-Z a-z 0-9 _ - .");
        return Err(failure("INVALID_MODEL", format!("the model name {name:?} is not allowed: {rule}")));
    }
    Ok(())
}
