//! Signatures over RPC calls: `Authorization: Horus <base64url of a call+json envelope>`.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::digest::Digest;
use crate::envelope::{Envelope, EnvelopeError};
use crate::identity::Identity;
use crate::payload_type::PayloadType;
use crate::peer_id::PeerId;
use crate::timestamp::Timestamp;

/// The longest header value, in bytes.
const MAX_HEADER_BYTES: usize = 16 * 1024;
const NONCE_BYTES: usize = 16;

/// Why a call signature was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CallError {
    /// The header value is longer than 16 KiB.
    #[error("the call signature is longer than {MAX_HEADER_BYTES} bytes")]
    TooLong,
    /// The header value is not base64url.
    #[error("the call signature is not base64url; send `Authorization: Horus <base64url of the envelope>`")]
    NotBase64,
    /// The envelope or its JSON is bad, or the signature does not match.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    /// Several keys signed.
    #[error("a call is signed by exactly one key")]
    NotOneSigner,
    /// The call was meant for another node.
    #[error("this call was signed for {aud}, but this is {me}: check the address, and the PeerId after its #")]
    WrongAudience {
        /// Who was addressed.
        aud: PeerId,
        /// Who we are.
        me: PeerId,
    },
    /// The call was signed too long ago or lies in the future.
    #[error(
        "this call was signed at {iat}, but here it is {now}: the clocks of the two machines are {} apart, and at most 60 s are allowed; set both (NTP)",
        crate::duration::format(iat.since(*now).max(now.since(*iat)))
    )]
    OutsideWindow {
        /// When it was signed, by the caller's clock.
        iat: Timestamp,
        /// What time it is here.
        now: Timestamp,
    },
    /// The body is not the one that was signed.
    #[error("the request body is not the one that was signed: something on the way changed it")]
    WrongBody,
    /// The nonce has not the form of one.
    #[error("the nonce of a call is 32 lowercase hexadecimal digits")]
    BadNonce,
}

/// What a caller signs for one request: `call+json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CallClaims {
    /// The node that is called.
    pub aud: PeerId,
    /// When it was signed.
    pub iat: Timestamp,
    /// 16 random bytes in lowercase hexadecimal, new for every call.
    pub nonce: String,
    /// The SHA-256 of the request body.
    pub body: Digest,
    /// The caller's certificate (`member+json`), for callees that know only its owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<Envelope>,
}

/// A call signature that holds.
#[derive(Debug, Clone)]
pub struct CheckedCall {
    /// Who calls.
    pub caller: PeerId,
    /// To be remembered, with the caller, for [`CallClaims::NONCE_LIFETIME`]: a call is accepted once.
    pub nonce: String,
    /// All claims.
    pub claims: CallClaims,
}

impl CallClaims {
    /// How far the clocks of caller and callee may be apart.
    pub const WINDOW: Duration = Duration::from_secs(60);

    /// How long a nonce must be remembered: from the earliest to the latest moment at which a call is
    /// within the window.
    pub const NONCE_LIFETIME: Duration = Duration::from_secs(121);

    /// Signs a call of `aud` with this very `body`, and returns what follows `Authorization: Horus `.
    #[must_use]
    pub fn authorize(
        identity: &Identity,
        aud: PeerId,
        body: &[u8],
        now: Timestamp,
        certificate: Option<&Envelope>,
    ) -> String {
        let mut nonce = [0u8; NONCE_BYTES];
        getrandom::fill(&mut nonce).expect("the system has randomness to give");
        let claims = Self {
            aud,
            iat: now,
            nonce: hex::encode(nonce),
            body: Digest::of(body),
            certificate: certificate.cloned(),
        };
        let envelope = Envelope::sign_json(identity, PayloadType::Call, &claims);
        URL_SAFE_NO_PAD.encode(envelope.to_json())
    }

    /// Checks a header value (without `Horus `) against who we are, the body and the time. Whether the
    /// nonce is fresh and the caller may call is for the callee.
    ///
    /// # Errors
    /// [`CallError`] says which check failed.
    pub fn check(header_value: &str, me: PeerId, body: &[u8], now: Timestamp) -> Result<CheckedCall, CallError> {
        if header_value.len() > MAX_HEADER_BYTES {
            return Err(CallError::TooLong);
        }
        let json = URL_SAFE_NO_PAD.decode(header_value.trim_end_matches('=')).map_err(|_| CallError::NotBase64)?;
        let verified = Envelope::from_json(&json)?.verify(PayloadType::Call)?;
        let [caller] = *verified.signers() else {
            return Err(CallError::NotOneSigner);
        };
        let claims: Self = verified.parse()?;
        if claims.aud != me {
            return Err(CallError::WrongAudience { aud: claims.aud, me });
        }
        if now.since(claims.iat) > Self::WINDOW || claims.iat.since(now) > Self::WINDOW {
            return Err(CallError::OutsideWindow { iat: claims.iat, now });
        }
        let lower_hex = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
        if claims.nonce.len() != 2 * NONCE_BYTES || !claims.nonce.bytes().all(lower_hex) {
            return Err(CallError::BadNonce);
        }
        if claims.body != Digest::of(body) {
            return Err(CallError::WrongBody);
        }
        Ok(CheckedCall { caller, nonce: claims.nonce.clone(), claims })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::documents::Certificate;
    use crate::role::Role;

    const BODY: &[u8] = br#"{"jsonrpc":"2.0","id":1,"method":"get_job","params":{"job_id":"sal-1"}}"#;

    fn alice() -> Identity {
        Identity::from_seed(&[1; 32])
    }

    fn me() -> PeerId {
        Identity::from_seed(&[2; 32]).peer_id()
    }

    fn now() -> Timestamp {
        Timestamp::from_millis(1_795_284_000_000)
    }

    fn header() -> String {
        CallClaims::authorize(&alice(), me(), BODY, now(), None)
    }

    #[test]
    fn a_signed_call_names_its_caller() {
        let call = CallClaims::check(&header(), me(), BODY, now()).unwrap();
        assert_eq!(call.caller, alice().peer_id());
        assert_eq!(call.nonce.len(), 32);
        assert_eq!(call.claims.certificate, None);
        let other = CallClaims::check(&header(), me(), BODY, now()).unwrap();
        assert_ne!(call.nonce, other.nonce);
    }

    #[test]
    fn another_node_body_or_time_is_refused() {
        let check = |me, body, now| CallClaims::check(&header(), me, body, now).map(|call| call.caller);
        let elsewhere = alice().peer_id();
        assert!(matches!(check(elsewhere, BODY, now()), Err(CallError::WrongAudience { .. })));
        assert_eq!(check(me(), b"{}", now()), Err(CallError::WrongBody));
        let minute = CallClaims::WINDOW;
        let more = minute + Duration::from_millis(1);
        for now in [now() + minute, now() - minute] {
            assert!(check(me(), BODY, now).is_ok());
        }
        for now in [now() + more, now() - more] {
            assert!(matches!(check(me(), BODY, now), Err(CallError::OutsideWindow { .. })));
        }
    }

    #[test]
    fn any_changed_character_is_refused() {
        let header = header();
        for position in 0..header.len() {
            for bit in 0..7 {
                let mut bytes = header.clone().into_bytes();
                bytes[position] ^= 1 << bit;
                let text = String::from_utf8(bytes).unwrap();
                // Padding may follow; it carries nothing.
                if text.trim_end_matches('=') == header {
                    continue;
                }
                assert!(CallClaims::check(&text, me(), BODY, now()).is_err(), "{text}");
            }
        }
    }

    #[test]
    fn oddities_are_refused() {
        let check = |value: &str| CallClaims::check(value, me(), BODY, now()).map(|call| call.caller);
        assert_eq!(check("!"), Err(CallError::NotBase64));
        assert_eq!(check(&"A".repeat(MAX_HEADER_BYTES + 1)), Err(CallError::TooLong));
        assert!(matches!(check(""), Err(CallError::Envelope(_))));

        let claims = |nonce: &str| CallClaims {
            aud: me(),
            iat: now(),
            nonce: nonce.into(),
            body: Digest::of(BODY),
            certificate: None,
        };
        let sign = |nonce| Envelope::sign_json(&alice(), PayloadType::Call, &claims(nonce));
        let encode = |envelope: &Envelope| URL_SAFE_NO_PAD.encode(envelope.to_json());
        let good = "0123456789abcdef0123456789abcdef";
        assert!(check(&encode(&sign(good))).is_ok());
        for bad in ["", "0123456789ABCDEF0123456789abcdef", "*", &good[1..]] {
            assert_eq!(check(&encode(&sign(bad))), Err(CallError::BadNonce), "{bad}");
        }
        let mut by_two = sign(good);
        by_two.add_signature(&Identity::from_seed(&[3; 32])).unwrap();
        assert_eq!(check(&encode(&by_two)), Err(CallError::NotOneSigner));
        let jobs = Envelope::sign_json(&alice(), PayloadType::Jobs, &claims(good));
        assert!(matches!(check(&encode(&jobs)), Err(CallError::Envelope(EnvelopeError::WrongType { .. }))));
    }

    #[test]
    fn the_largest_certificate_fits() {
        let runner = |i: usize| format!("{i:0>32}").parse::<crate::RunnerPattern>().unwrap();
        let certificate = Certificate {
            peer_id: alice().peer_id(),
            name: Some("n".repeat(128)),
            roles: Role::ALL[1..].to_vec(),
            runners: (0..64).map(runner).collect(),
            expires_at: now(),
        };
        let mut envelope = certificate.sign(&Identity::from_seed(&[9; 32])).unwrap();
        for seed in 10..17 {
            envelope.add_signature(&Identity::from_seed(&[seed; 32])).unwrap();
        }
        let header = CallClaims::authorize(&alice(), me(), BODY, now(), Some(&envelope));
        let call = CallClaims::check(&header, me(), BODY, now()).unwrap();
        assert_eq!(call.claims.certificate, Some(envelope));
    }
}
