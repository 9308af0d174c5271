//! What can be wrong with a trust policy or a certificate.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::digest::Digest;
use crate::documents::DocumentError;
use crate::peer_id::PeerId;

/// Why a policy could not be read or changed, or a certificate was refused.
#[derive(Debug, Error)]
pub enum TrustError {
    /// The file system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The text is not a trust policy. The reason names line and column.
    #[error("the trust policy{} is not valid: {reason}", .path.as_ref().map(|p| format!(" {}", p.display())).unwrap_or_default())]
    Policy {
        /// The file, if it came from one.
        path: Option<PathBuf>,
        /// What is wrong, and where.
        reason: String,
    },
    /// Others than the file's owner could change the policy.
    #[error("{} can be written by its group or by everybody (mode {mode:o}), so it proves nothing: run `chmod go-w {}` and check what it says", path.display(), path.display())]
    Writable {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file belongs to somebody who could change the policy at any time.
    #[error("{} belongs to the user {owner}, who could change it at any time: check what it says and run `chown {user} {}`, or give it to root", path.display(), path.display())]
    Owned {
        /// The file.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// The user that wanted to read it.
        user: u32,
    },
    /// The certificate is malformed, badly signed or expired.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// No signer of the certificate is an owner.
    #[error(
        "this certificate was signed by {0}, which is no owner in the trust policy here; add it with `horus keys trust add {0} --role owner` if it should be"
    )]
    NotByAnOwner(PeerId),
    /// The certificate is revoked in the policy.
    #[error("the certificate {0} is revoked in the trust policy")]
    CertificateRevoked(Digest),
    /// The key is revoked in the policy.
    #[error("the key {0} is revoked in the trust policy")]
    KeyRevoked(PeerId),
}
