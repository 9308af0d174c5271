//! What an RPC method is: one type with name, access, parameters and result.

use std::fmt;

use horus_keys::{PeerId, Role};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{ErrorKind, RpcError};

/// An RPC method. One type, never made, that names it: it registers the handler in a
/// [`MethodTable`](crate::MethodTable), writes the method's OpenRPC entry, and types the client's
/// [`RpcClient::call`](crate::RpcClient::call).
///
/// ```
/// # use horus_transport::{Access, Method};
/// # use horus_keys::Role;
/// # use schemars::JsonSchema;
/// # use serde::{Deserialize, Serialize};
/// /// Which job to cancel.
/// #[derive(Serialize, Deserialize, JsonSchema)]
/// #[serde(deny_unknown_fields)]
/// struct CancelParams {
///     /// The job's full id.
///     job_id: String,
/// }
///
/// enum CancelJob {}
/// impl Method for CancelJob {
///     const NAME: &'static str = "cancel_job";
///     const SUMMARY: &'static str = "Cancels a job";
///     const ACCESS: Access = Access::Roles(&[Role::Submitter, Role::Operator]);
///     type Params = CancelParams;
///     type Result = String;
/// }
/// ```
///
/// `Params` is a struct with named fields, each with a doc comment: that is the parameter's
/// description. A field of type `Box<RawValue>` keeps its JSON text byte for byte, if it does not lie
/// below `#[serde(flatten)]` or an untagged enum. Parameters by position follow the order of the fields.
pub trait Method: 'static {
    /// The name on the wire, such as `create_jobs`.
    const NAME: &'static str;
    /// One line on what it does.
    const SUMMARY: &'static str;
    /// More on what it does, for those who need it.
    const DESCRIPTION: &'static str = "";
    /// Who may call it. All the `ACCESS` constants together are the one table of rights.
    const ACCESS: Access;
    /// The kinds of errors that are its own; those that any call can have are added.
    const ERRORS: &'static [ErrorKind] = &[];
    /// Whether it waits for something to happen. It then travels in a lane of its own, and is ended
    /// with [`ErrorKind::ShuttingDown`] when the node stops.
    const LONG_POLL: bool = false;
    /// The parameters.
    type Params: Serialize + DeserializeOwned + JsonSchema + Send + 'static;
    /// The result.
    type Result: Serialize + DeserializeOwned + JsonSchema + Send + 'static;

    /// Calls to show in the OpenRPC document. Params are an object by name.
    fn examples() -> Vec<Example> {
        Vec::new()
    }
}

/// A call that shows how a method is used.
#[derive(Debug, Clone, PartialEq)]
pub struct Example {
    /// What it shows, in a few words.
    pub name: &'static str,
    /// The parameters, an object by name.
    pub params: Value,
    /// The result.
    pub result: Value,
}

/// Who may call a method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Everybody, unsigned too. Strangers are held to a rate.
    Open,
    /// Who sends an envelope that the handler accepts; the call itself need not be signed.
    Envelope,
    /// Who signs the call with a key that holds one of these roles. An owner may call what an observer
    /// or an operator may.
    Roles(&'static [Role]),
}

impl Access {
    /// Whether a caller must sign.
    #[must_use]
    pub fn needs_signature(self) -> bool {
        matches!(self, Self::Roles(_))
    }

    /// Whether a key with these roles passes.
    pub(crate) fn admits(self, holds: impl Fn(Role) -> bool) -> bool {
        match self {
            Self::Open | Self::Envelope => true,
            Self::Roles(roles) => {
                let steers = roles.iter().any(|r| matches!(r, Role::Observer | Role::Operator));
                roles.iter().any(|role| holds(*role)) || (steers && holds(Role::Owner))
            }
        }
    }
}

/// In words, for documents and refusals: `a key with the role submitter or operator`.
impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open => f.write_str("everybody"),
            Self::Envelope => f.write_str("whoever signed the envelope, as its documents require"),
            Self::Roles(roles) => {
                f.write_str("a key with the role ")?;
                for (i, role) in roles.iter().enumerate() {
                    let joint = if i == 0 {
                        ""
                    } else if i + 1 == roles.len() {
                        " or "
                    } else {
                        ", "
                    };
                    write!(f, "{joint}{role}")?;
                }
                Ok(())
            }
        }
    }
}

/// Who calls, as far as it is proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Caller {
    /// The key whose call signature was checked, if there was one. For a method with
    /// [`Access::Roles`] it holds one of them; for others it may be a stranger.
    pub peer: Option<PeerId>,
}

impl Caller {
    /// The caller of a method that only signed calls reach.
    ///
    /// # Errors
    /// [`ErrorKind::Unauthenticated`] if the call was not signed.
    pub fn signed(&self) -> Result<PeerId, RpcError> {
        self.peer.ok_or_else(|| {
            RpcError::new(
                ErrorKind::Unauthenticated,
                "sign this call: give the horus command an identity (--identity DIR)",
            )
        })
    }
}

/// The parameters of a method that has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NoParams {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_may_what_observers_and_operators_may_and_no_more() {
        let owner = |role| role == Role::Owner;
        assert!(Access::Roles(&[Role::Submitter, Role::Observer]).admits(owner));
        assert!(Access::Roles(&[Role::Operator]).admits(owner));
        assert!(!Access::Roles(&[Role::Submitter]).admits(owner));
        assert!(!Access::Roles(&[Role::Coordinator, Role::Supervisor]).admits(owner));
        assert!(Access::Roles(&[Role::Owner]).admits(owner));
        assert!(!Access::Roles(&[Role::Owner]).admits(|role| role == Role::Operator));
        assert!(!Access::Roles(&[]).admits(|_| true));
        assert!(Access::Open.admits(|_| false));
    }

    #[test]
    fn access_reads_well() {
        let access = Access::Roles(&[Role::Submitter, Role::Observer, Role::Operator]);
        assert_eq!(access.to_string(), "a key with the role submitter, observer or operator");
    }
}
