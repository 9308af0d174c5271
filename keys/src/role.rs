//! What a key may act as.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::ValueError;

/// What a key may act as. A key can hold several roles; none implies another, but for the owner's
/// (see [`Role::Owner`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Certifies other keys, sees all and steers all. Does not submit: an owner that wants to, also
    /// holds [`Role::Submitter`] with the runner kinds.
    Owner,
    /// Submits jobs and workflows, and sees and cancels its own.
    Submitter,
    /// Sees all jobs and workflows.
    Observer,
    /// Steers all jobs and workflows: cancels, deletes, retries.
    Operator,
    /// Delegates the steps of workflows that name it.
    Coordinator,
    /// Admits jobs on its machine.
    Supervisor,
    /// Executes jobs and signs their receipts.
    Runner,
}

impl Role {
    /// All roles, in the order of their declaration.
    pub const ALL: [Self; 7] = [
        Self::Owner,
        Self::Submitter,
        Self::Observer,
        Self::Operator,
        Self::Coordinator,
        Self::Supervisor,
        Self::Runner,
    ];

    /// The name, as in `trust.toml` and in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::Submitter => "submitter",
            Self::Observer => "observer",
            Self::Operator => "operator",
            Self::Coordinator => "coordinator",
            Self::Supervisor => "supervisor",
            Self::Runner => "runner",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Role {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        Self::ALL.into_iter().find(|role| role.as_str() == text).ok_or_else(|| {
            ValueError::new(text, "a role: owner, submitter, observer, operator, coordinator, supervisor or runner")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_same_in_json_and_in_text() {
        for role in Role::ALL {
            assert_eq!(serde_json::to_string(&role).unwrap(), format!("\"{role}\""));
            assert_eq!(role.to_string().parse::<Role>().unwrap(), role);
        }
        assert!("Owner".parse::<Role>().is_err());
        assert!("admin".parse::<Role>().unwrap_err().to_string().contains("submitter"));
    }
}
