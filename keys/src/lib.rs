//! Identities, overlay addresses, signed envelopes, sealed secrets and the trust policy of Horus.
//!
//! Everything that Horus believes about who said what is decided in this crate:
//!
//! - [`PeerId`] names an Ed25519 key; [`Identity`] is the key itself; [`KeyDir`] keeps it on disk.
//! - [`Envelope`] is a signed document (DSSE v1). Only [`Envelope::verify`] makes a [`Verified`],
//!   and only a [`Verified`] can be parsed, so that bytes which nobody signed are never read.
//! - [`CallClaims`] signs one RPC request; [`NodeAnnouncement`], [`Certificate`] and [`Binding`]
//!   are the documents that travel in envelopes of their own.
//! - [`Trust`] answers whether a key may act in a [`Role`]: nobody may, unless `trust.toml` or a
//!   certificate by an owner says so.
//! - [`seal`] and [`SealingKey::open`] carry secrets to the runners that may read them.
//!
//! The crate opens no network connection and knows no job.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod call;
mod digest;
mod documents;
pub mod duration;
mod envelope;
mod error;
mod files;
mod identity;
mod json;
mod key_dir;
mod overlay;
mod payload_type;
mod peer_id;
mod role;
mod runner_kind;
mod sealed;
mod text;
mod timestamp;
mod trust;
mod verified;

pub use call::{CallClaims, CallError, CheckedCall};
pub use digest::Digest;
pub use documents::{Binding, Certificate, DocumentError, NodeAnnouncement};
pub use envelope::{Envelope, EnvelopeError};
pub use error::{KeyError, ValueError};
pub use identity::{Identity, is_encrypted_pem};
pub use json::{MAX_JSON_DEPTH, check_json_depth};
pub use key_dir::{KeyDir, KeyDirError, KeySummary, default_dir};
pub use overlay::{MeshPublicKey, SealingPublicKey};
pub use payload_type::PayloadType;
pub use peer_id::PeerId;
pub use role::Role;
pub use runner_kind::{RunnerKind, RunnerPattern};
pub use sealed::{SealError, SealedFor, SealedSecret, SealingKey, SecretContext, seal};
pub use timestamp::Timestamp;
pub use trust::{Revocation, Trust, TrustError, TrustPolicy, TrustedKey};
pub use verified::Verified;
