//! Redis trouble: noticed once, then answered at once, until a probe succeeds.
//!
//! While Redis is in trouble every call would wait for its time-out, and a thousand callers would keep a struggling server
//! down. So the first failure closes the gate: calls are refused at once with `REDIS_UNAVAILABLE` until
//! [`Store::keep_watch`](crate::store::Store::keep_watch), which probes with back-off, finds that Redis takes writes again.

use horus_runners::queue::QueueError;
use horus_transport::RpcError;

use super::errors;
use crate::role::Health;

/// The gate before Redis.
#[derive(Debug)]
pub(super) struct Gate {
    health: Health,
}

impl Gate {
    pub(super) fn new(health: Health) -> Self {
        Self { health }
    }

    /// An error while the gate is closed.
    pub(super) fn check(&self) -> Result<(), RpcError> {
        match self.health.reason(Health::REDIS) {
            None => Ok(()),
            Some(reason) => Err(errors::redis_unavailable(&reason)),
        }
    }

    /// The result of a queue operation as the caller gets it. Trouble with Redis closes the gate.
    pub(super) fn pass<T>(&self, result: Result<T, QueueError>) -> Result<T, RpcError> {
        result.map_err(|error| {
            self.note(&error);
            errors::queue(&error)
        })
    }

    /// Closes the gate if `error` is trouble with Redis.
    pub(super) fn note(&self, error: &QueueError) {
        if error.is_transient() {
            self.health.trouble(Health::REDIS, error.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use horus_transport::ErrorKind;

    #[test]
    fn trouble_with_redis_closes_the_gate_until_it_is_well() {
        let health = Health::new();
        let gate = Gate::new(health.clone());
        gate.check().unwrap();
        gate.pass(Ok(1)).unwrap();
        let full = QueueError::Corrupt("a list where a hash should be".into());
        assert_eq!(gate.pass::<()>(Err(full)).unwrap_err().kind, ErrorKind::Internal);
        gate.check().expect("an error that is not Redis' trouble leaves the gate open");

        let down = QueueError::Unavailable("connection refused".into());
        assert_eq!(gate.pass::<()>(Err(down)).unwrap_err().kind, ErrorKind::RedisUnavailable);
        let refusal = gate.check().unwrap_err();
        assert_eq!(refusal.kind, ErrorKind::RedisUnavailable);
        assert!(refusal.message.contains("connection refused"), "{refusal}");
        assert!(!health.report().0);

        health.well(Health::REDIS);
        gate.check().unwrap();
    }
}
