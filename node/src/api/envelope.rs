//! An envelope as a parameter.

use std::borrow::Cow;

use horus_keys::{Envelope, EnvelopeError};
use horus_transport::{ErrorKind, RpcError};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

/// An envelope as it came in a call: some JSON, not read yet.
///
/// It is read by the method, so that what is wrong with it is refused as `INVALID_ENVELOPE` with a reason, and not as a
/// parameter that does not fit. Make one from an [`Envelope`] with `into()`.
#[derive(Debug, Clone)]
pub struct EnvelopeText(Text);

#[derive(Debug, Clone)]
enum Text {
    /// To be sent.
    Envelope(Envelope),
    /// As it was received.
    Received(Box<RawValue>),
}

impl EnvelopeText {
    /// Reads it: its form only, no signature is checked.
    ///
    /// # Errors
    /// `INVALID_ENVELOPE` when it is no DSSE envelope of Horus.
    pub fn read(self) -> Result<Envelope, RpcError> {
        match self.0 {
            Text::Envelope(envelope) => Ok(envelope),
            Text::Received(text) => Envelope::from_json(text.get().as_bytes()).map_err(|error: EnvelopeError| {
                RpcError::new(ErrorKind::InvalidEnvelope, format!("this is no valid envelope: {error}"))
            }),
        }
    }
}

impl From<Envelope> for EnvelopeText {
    fn from(envelope: Envelope) -> Self {
        Self(Text::Envelope(envelope))
    }
}

impl From<&Envelope> for EnvelopeText {
    fn from(envelope: &Envelope) -> Self {
        Self(Text::Envelope(envelope.clone()))
    }
}

impl Serialize for EnvelopeText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0 {
            Text::Envelope(envelope) => envelope.serialize(serializer),
            Text::Received(text) => text.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for EnvelopeText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Box::<RawValue>::deserialize(deserializer).map(|text| Self(Text::Received(text)))
    }
}

impl JsonSchema for EnvelopeText {
    fn schema_name() -> Cow<'static, str> {
        Envelope::schema_name()
    }

    fn schema_id() -> Cow<'static, str> {
        Envelope::schema_id()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        Envelope::json_schema(generator)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use horus_keys::{Identity, PayloadType};

    #[test]
    fn it_travels_as_the_envelope_itself() {
        let envelope = Envelope::sign(&Identity::generate(), PayloadType::Jobs, b"{}".to_vec());
        let sent = serde_json::to_string(&EnvelopeText::from(&envelope)).unwrap();
        let received: EnvelopeText = serde_json::from_str(&sent).unwrap();
        assert_eq!(received.read().unwrap().digest(), envelope.digest());
    }

    #[test]
    fn what_is_no_envelope_is_refused_as_that() {
        for text in ["null", "7", "{}", r#"{"payload":"?","payloadType":"x","signatures":[]}"#] {
            let received: EnvelopeText = serde_json::from_str(text).unwrap();
            assert_eq!(received.read().unwrap_err().kind, ErrorKind::InvalidEnvelope, "{text}");
        }
    }
}
