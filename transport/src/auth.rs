//! Who calls, and whether that caller may.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use horus_keys::{CallClaims, CallError, Envelope, PayloadType, PeerId, Timestamp, Trust};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::error::{ErrorKind, RpcError};
use crate::exchange::Inbound;
use crate::method::Access;
use crate::nonce::NonceStore;
use crate::rate::RateLimits;

/// The scheme of the `Authorization` value.
const SCHEME: &str = "Horus";
/// What is longer is not searched for the names of signers, in bytes.
const MAX_SEARCHED: usize = 256 << 10;
/// So many of them are looked at.
const MAX_NAMES: usize = 8;

/// What a node needs to decide who may call: the one place where calls are authenticated, whatever
/// carried them.
#[derive(Clone)]
pub struct Security {
    /// The key that calls must be signed for.
    pub me: PeerId,
    /// Whom the node trusts with what.
    pub trust: Trust,
    /// Where the nonces of accepted calls are kept.
    pub nonces: Arc<dyn NonceStore>,
    /// What strangers are held to.
    pub rates: RateLimits,
}

impl Security {
    /// With the default rates and nonces in memory.
    #[must_use]
    pub fn new(me: PeerId, trust: Trust) -> Self {
        let nonces = Arc::new(crate::nonce::MemoryNonces::new());
        Self { me, trust, nonces, rates: RateLimits::default() }
    }

    /// Checks the `Authorization` value of a request with this body: `Horus <base64url>`.
    ///
    /// # Errors
    /// [`ErrorKind::Unauthenticated`], with `data.reason`.
    pub(crate) fn authenticate(&self, authorization: &str, body: &[u8], now: Timestamp) -> Result<Signed, RpcError> {
        let value = match authorization.split_once(' ') {
            Some((scheme, value)) if scheme.eq_ignore_ascii_case(SCHEME) => value.trim(),
            _ => {
                return Err(unauthenticated(
                    "scheme",
                    format!("the Authorization header must read `{SCHEME} <base64url of a call+json envelope>`"),
                ));
            }
        };
        let call = CallClaims::check(value, self.me, body, now).map_err(|e| refusal(&e))?;
        if let Some(certificate) = &call.claims.certificate {
            // A certificate that is refused is not fatal: the policy may know the key all the same.
            let presented = self.trust.present(certificate, now);
            if let Err(e) = &presented
                && !self.trust.known(call.caller, now)
            {
                return Err(unauthenticated(
                    "certificate",
                    format!("the certificate that came with the call is refused: {e}"),
                ));
            }
        }
        let nonce = u128::from_str_radix(&call.nonce, 16)
            .map_err(|_| unauthenticated("nonce", "the nonce of a call is 32 hexadecimal digits".into()))?;
        Ok(Signed {
            caller: call.caller,
            trusted: self.trust.known(call.caller, now),
            nonce: (nonce, call.nonce),
            body: call.claims.body,
        })
    }

    /// Whether a request says that a key which is known here signed it, or an envelope in it. Anybody can say so: it costs no more to see
    /// than to read the request.
    pub(crate) fn names_known(&self, request: &Inbound, now: Timestamp) -> bool {
        let is_known = |text: &[u8]| text.len() <= MAX_SEARCHED && keyids(text).any(|key| self.trust.known(key, now));
        let value = request.authorization.as_deref().and_then(|value| value.split_once(' ')).map(|(_, value)| value);
        let value =
            value.filter(|value| value.len() <= MAX_SEARCHED).and_then(|value| URL_SAFE_NO_PAD.decode(value).ok());
        value.is_some_and(|text| is_known(&text)) || is_known(&request.body)
    }

    /// Whether a known key signed the envelope in these parameters, which was refused for another reason then. Announcements and
    /// certificates prove nothing: everybody can have those of others.
    pub(crate) fn vouches(&self, params: &[u8], now: Timestamp) -> bool {
        #[derive(Deserialize)]
        struct Params<'a> {
            #[serde(borrow)]
            envelope: &'a RawValue,
        }
        let envelope = serde_json::from_slice(params).ok();
        let envelope = envelope.and_then(|Params { envelope }| Envelope::from_json(envelope.get().as_bytes()).ok());
        let Some(envelope) = envelope else { return false };
        let of_type = envelope.payload_type();
        !matches!(of_type, PayloadType::Node | PayloadType::Member)
            && envelope.keyids().any(|key| self.trust.known(key, now))
            && envelope.verify(of_type).is_ok()
    }

    /// Whether a caller may call a method with that access.
    ///
    /// # Errors
    /// [`ErrorKind::Unauthenticated`], [`ErrorKind::UntrustedSigner`] or [`ErrorKind::NotAllowed`].
    pub(crate) fn allow(
        &self,
        method: &str,
        access: Access,
        caller: Option<&Signed>,
        now: Timestamp,
    ) -> Result<(), RpcError> {
        let Access::Roles(roles) = access else { return Ok(()) };
        let Some(Signed { caller, trusted, .. }) = caller else {
            return Err(unauthenticated(
                "unsigned",
                format!(
                    "{method} may be called by {access}: sign the call, as the horus command does with --identity DIR"
                ),
            ));
        };
        if access.admits(|role| self.trust.allows(*caller, role, now)) {
            return Ok(());
        }
        let names: Vec<&str> = roles.iter().map(|role| role.as_str()).collect();
        let (kind, what) = if *trusted {
            (ErrorKind::NotAllowed, "holds none of these roles here")
        } else {
            (ErrorKind::UntrustedSigner, "is not trusted here at all")
        };
        let role = names.first().copied().unwrap_or("...");
        Err(RpcError::new(
            kind,
            format!(
                "{method} may be called by {access}, but {caller} {what}: ask the node's operator for \
                 `horus keys trust add {caller} --role {role}`, or show an owner's certificate (--cert FILE)"
            ),
        )
        .with("roles", names))
    }
}

/// A caller whose signature over the request holds.
#[derive(Debug, Clone)]
pub(crate) struct Signed {
    pub(crate) caller: PeerId,
    /// Whether the policy or a certificate knows the caller at all.
    pub(crate) trusted: bool,
    /// As number and as text.
    pub(crate) nonce: (u128, String),
    pub(crate) body: horus_keys::Digest,
}

/// The keys that JSON text names as signers of envelopes.
fn keyids(text: &[u8]) -> impl Iterator<Item = PeerId> {
    const FIELD: &[u8] = b"\"keyid\"";
    let fields = text.windows(FIELD.len()).enumerate().filter(|(_, window)| *window == FIELD).take(MAX_NAMES);
    fields.filter_map(|(at, _)| {
        let value = text[at + FIELD.len()..].split(|byte| *byte == b'"').nth(1)?;
        std::str::from_utf8(value).ok()?.parse().ok()
    })
}

fn unauthenticated(reason: &str, message: String) -> RpcError {
    RpcError::new(ErrorKind::Unauthenticated, message).with("reason", reason)
}

/// The call was made before, and its reply is not kept any more.
pub(crate) fn replayed() -> RpcError {
    unauthenticated(
        "replayed",
        "this very call signature was used before, and the reply is no longer kept: sign the call again".into(),
    )
}

fn refusal(e: &CallError) -> RpcError {
    let reason = match e {
        CallError::WrongAudience { .. } => "audience",
        CallError::OutsideWindow { .. } => "window",
        CallError::WrongBody => "body",
        CallError::BadNonce => "nonce",
        CallError::Envelope(_) | CallError::NotOneSigner => "signature",
        CallError::TooLong | CallError::NotBase64 => "malformed",
    };
    unauthenticated(reason, format!("the call signature is refused: {e}"))
}
