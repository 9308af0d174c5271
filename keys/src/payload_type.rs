//! What an envelope holds.

use std::fmt;
use std::str::FromStr;

use crate::error::ValueError;
use crate::text::text_value;

/// What an envelope holds. The signature covers it, so a document of one type never passes for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PayloadType {
    /// A batch of job specs, signed by a submitter or coordinator.
    Jobs,
    /// A workflow, signed by its submitter.
    Workflow,
    /// A batch of receipts, signed by a runner.
    Receipts,
    /// The claims of one RPC call, signed by the caller.
    Call,
    /// The announcement of a node, signed by the node.
    Node,
    /// A certificate, signed by an owner.
    Member,
    /// An order that a job or workflow must not run any more, by its submitter or an operator.
    Cancel,
    /// The binding of a mesh key to an identity, signed by the identity.
    Binding,
}

impl PayloadType {
    /// All payload types.
    pub const ALL: [Self; 8] =
        [Self::Jobs, Self::Workflow, Self::Receipts, Self::Call, Self::Node, Self::Member, Self::Cancel, Self::Binding];

    /// The media type, as in `payloadType`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Jobs => "application/vnd.horus.jobs+json",
            Self::Workflow => "application/vnd.horus.workflow+json",
            Self::Receipts => "application/vnd.horus.receipts+json",
            Self::Call => "application/vnd.horus.call+json",
            Self::Node => "application/vnd.horus.node+json",
            Self::Member => "application/vnd.horus.member+json",
            Self::Cancel => "application/vnd.horus.cancel+json",
            Self::Binding => "application/vnd.horus.binding+json",
        }
    }

    /// Finds a type by its short name (`jobs`) or its media type, as people give it.
    ///
    /// # Errors
    /// [`ValueError`] if there is none.
    pub fn from_name(name: &str) -> Result<Self, ValueError> {
        Self::ALL.into_iter().find(|t| t.short() == name).map_or_else(|| name.parse(), Ok)
    }

    /// The short name: `jobs`, `workflow`, ...
    #[must_use]
    pub fn short(self) -> &'static str {
        self.as_str().trim_start_matches("application/vnd.horus.").trim_end_matches("+json")
    }
}

impl fmt::Display for PayloadType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for PayloadType {
    type Err = ValueError;

    /// Reads the whole media type, exactly as [`PayloadType::as_str`] writes it.
    fn from_str(text: &str) -> Result<Self, ValueError> {
        Self::ALL
            .into_iter()
            .find(|t| t.as_str() == text)
            .ok_or_else(|| ValueError::new(text, "a payload type of Horus (application/vnd.horus.jobs+json and so on)"))
    }
}

text_value!(PayloadType, schema: {
    "type": "string",
    "description": "What the envelope holds",
    "enum": [
        "application/vnd.horus.jobs+json",
        "application/vnd.horus.workflow+json",
        "application/vnd.horus.receipts+json",
        "application/vnd.horus.call+json",
        "application/vnd.horus.node+json",
        "application/vnd.horus.member+json",
        "application/vnd.horus.cancel+json",
        "application/vnd.horus.binding+json"
    ]
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_found_by_name_and_by_media_type() {
        for payload_type in PayloadType::ALL {
            let media_type = format!("application/vnd.horus.{}+json", payload_type.short());
            assert_eq!(payload_type.as_str(), media_type);
            assert_eq!(PayloadType::from_name(payload_type.short()).unwrap(), payload_type);
            assert_eq!(PayloadType::from_name(&media_type).unwrap(), payload_type);
            assert_eq!(serde_json::to_value(payload_type).unwrap(), media_type);
            // Inside an envelope only the media type counts.
            assert!(payload_type.short().parse::<PayloadType>().is_err());
        }
        assert!(PayloadType::from_name("job").is_err());
    }
}
