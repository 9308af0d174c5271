//! Names of jobs, steps and workflows.

use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

use horus_keys::{Digest, RunnerKind};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Why a text is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Not of the form `[A-Za-z0-9_-]{1,64}`.
    #[error("{0:?} is not an id: use 1 to 64 characters of A-Z a-z 0-9 _ -")]
    Name(String),
    /// Not of the form `<runner>-<id>`.
    #[error("{0:?} is not a job id: it has the form <runner>-<id>, for example hero-0193b7c2")]
    Job(String),
}

/// At most this much of a refused text is repeated in the error.
const SHOWN: usize = 80;

fn shown(text: &str) -> String {
    text.chars().take(SHOWN).collect()
}

fn is_name(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $schema:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks a text.
            ///
            /// # Errors
            /// [`IdError::Name`] unless it is `[A-Za-z0-9_-]{1,64}`.
            pub fn new(text: &str) -> Result<Self, IdError> {
                if is_name(text) { Ok(Self(text.into())) } else { Err(IdError::Name(shown(text))) }
            }

            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::new(text)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                parse_str(d, "an id of 1 to 64 characters A-Z a-z 0-9 _ -")
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$", "description": $schema})
            }
        }
    };
}

name_type!(
    /// The part of a job id after the runner: given by the client, or a UUIDv7.
    LocalId,
    "Id of a job within its runner kind"
);
name_type!(
    /// Names a step within its workflow.
    StepId,
    "Id of a step within its workflow"
);
name_type!(
    /// Names a workflow: given by the client, or a UUIDv7.
    WorkflowId,
    "Id of a workflow"
);

impl LocalId {
    /// A new UUIDv7: ids sort by the time they were made.
    #[must_use]
    pub fn generate() -> Self {
        Self(uuid::Uuid::now_v7().to_string().into())
    }
}

impl WorkflowId {
    /// A new UUIDv7: ids sort by the time they were made.
    #[must_use]
    pub fn generate() -> Self {
        Self(uuid::Uuid::now_v7().to_string().into())
    }
}

/// The full id of a job, `<runner>-<id>`: it alone finds the job's keys in Redis.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId {
    runner: RunnerKind,
    id: LocalId,
}

impl JobId {
    /// Puts an id together.
    #[must_use]
    pub fn new(runner: RunnerKind, id: LocalId) -> Self {
        Self { runner, id }
    }

    /// The runner kind that executes the job.
    #[must_use]
    pub fn runner(&self) -> &RunnerKind {
        &self.runner
    }

    /// The id within the runner kind.
    #[must_use]
    pub fn local(&self) -> &LocalId {
        &self.id
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.runner, self.id)
    }
}

impl fmt::Debug for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for JobId {
    type Err = IdError;

    /// Splits at the first `-`: a runner kind has none.
    fn from_str(text: &str) -> Result<Self, IdError> {
        let refused = || IdError::Job(shown(text));
        let (runner, id) = text.split_once('-').ok_or_else(refused)?;
        Ok(Self { runner: runner.parse().map_err(|_| refused())?, id: id.parse().map_err(|_| refused())? })
    }
}

impl Serialize for JobId {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for JobId {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        parse_str(d, "a job id of the form <runner>-<id>")
    }
}

impl JsonSchema for JobId {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "JobId".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string", "pattern": "^[a-z0-9_]{1,32}-[A-Za-z0-9_-]{1,64}$", "description": "Full id of a job: <runner>-<id>"
        })
    }
}

/// Reads any of the types above from a string without copying it first.
fn parse_str<'de, D: Deserializer<'de>, T: FromStr<Err = IdError>>(
    d: D,
    expected: &'static str,
) -> Result<T, D::Error> {
    struct Text<T>(&'static str, std::marker::PhantomData<T>);
    impl<T: FromStr<Err = IdError>> de::Visitor<'_> for Text<T> {
        type Value = T;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
        fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
            text.parse().map_err(E::custom)
        }
    }
    d.deserialize_str(Text(expected, std::marker::PhantomData))
}

/// The id of the job of one attempt of one step.
///
/// It is computed from what identifies the attempt, so that a coordinator cannot repeat it under another id: the first 32 hex digits of the
/// SHA-256 of `"horus step v1\0"`, the workflow digest (32 bytes), the step id (u32 BE length, bytes), the index (one byte 0 or 1, u32 BE)
/// and the attempt (u32 BE, from 1). The input is not part of it: the same attempt with another input is an id conflict.
#[must_use]
pub fn step_job_id(workflow: &Digest, step: &StepId, index: Option<u32>, attempt: u32, runner: &RunnerKind) -> JobId {
    let name = step.as_str().as_bytes();
    let mut bytes = Vec::with_capacity(14 + 32 + 4 + name.len() + 5 + 4);
    bytes.extend_from_slice(b"horus step v1\0");
    bytes.extend_from_slice(workflow.as_bytes());
    bytes.extend_from_slice(&u32::try_from(name.len()).expect("a step id has at most 64 bytes").to_be_bytes());
    bytes.extend_from_slice(name);
    bytes.push(u8::from(index.is_some()));
    bytes.extend_from_slice(&index.unwrap_or(0).to_be_bytes());
    bytes.extend_from_slice(&attempt.to_be_bytes());
    let hex = Digest::of(&bytes).hex();
    JobId { runner: runner.clone(), id: LocalId(hex[..32].into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest() -> Digest {
        Digest::of(b"a workflow")
    }

    #[test]
    fn a_job_id_splits_at_the_first_dash() {
        let id: JobId = "hero-a-b-c".parse().unwrap();
        assert_eq!((id.runner().as_ref(), id.local().as_str()), ("hero", "a-b-c"));
        assert_eq!(id.to_string(), "hero-a-b-c");
        for bad in ["hero", "-x", "hero-", "He-x", "hero-a b", "hero-é", &format!("hero-{}", "x".repeat(65))] {
            assert!(bad.parse::<JobId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn generated_ids_are_valid_and_sort_by_time() {
        let (a, b) = (LocalId::generate(), LocalId::generate());
        assert!(LocalId::new(a.as_str()).is_ok() && a <= b && a != b);
    }

    #[test]
    fn ids_are_checked_when_they_are_read() {
        assert_eq!(serde_json::from_str::<StepId>(r#""a_b-C9""#).unwrap().as_str(), "a_b-C9");
        for bad in [r#""""#, r#""a/b""#, "7", r#""a\u0000""#] {
            assert!(serde_json::from_str::<StepId>(bad).is_err(), "{bad}");
        }
        let long = format!("\"{}\"", "x".repeat(1 << 20));
        let error = serde_json::from_str::<StepId>(&long).unwrap_err().to_string();
        assert!(error.len() < 300, "an error does not repeat a megabyte");
    }

    /// Other programs derive this id: the bytes are fixed.
    #[test]
    fn the_id_of_a_step_is_a_fixed_function() {
        let (step, hero) = (StepId::new("fetch").unwrap(), "hero".parse::<RunnerKind>().unwrap());
        let mut bytes = b"horus step v1\0".to_vec();
        bytes.extend_from_slice(digest().as_bytes());
        bytes.extend_from_slice(&[0, 0, 0, 5]);
        bytes.extend_from_slice(b"fetch");
        bytes.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 1]);
        let expected = format!("hero-{}", &Digest::of(&bytes).hex()[..32]);
        assert_eq!(step_job_id(&digest(), &step, None, 1, &hero).to_string(), expected);
    }

    #[test]
    fn every_part_of_a_step_changes_its_id() {
        let (fetch, store) = (StepId::new("fetch").unwrap(), StepId::new("store").unwrap());
        let hero: RunnerKind = "hero".parse().unwrap();
        let ids = [
            step_job_id(&digest(), &fetch, None, 1, &hero),
            step_job_id(&Digest::of(b"another"), &fetch, None, 1, &hero),
            step_job_id(&digest(), &store, None, 1, &hero),
            step_job_id(&digest(), &fetch, Some(0), 1, &hero),
            step_job_id(&digest(), &fetch, None, 2, &hero),
        ];
        let distinct: std::collections::BTreeSet<_> = ids.iter().collect();
        assert_eq!(distinct.len(), ids.len());
    }
}
