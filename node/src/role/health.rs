//! How a role is: what `/healthz` says.

use std::collections::BTreeMap;
use std::sync::Arc;

use horus_keys::Timestamp;
use serde_json::{Value, json};
use tokio::sync::watch;

/// What is wrong with a role, by part (`redis`, `trust`, ...). Nothing: it is well. Cheap to clone; clones share the state.
#[derive(Debug, Clone)]
pub struct Health {
    troubles: Arc<watch::Sender<Troubles>>,
}

type Troubles = BTreeMap<&'static str, Trouble>;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Trouble {
    since: Timestamp,
    reason: String,
}

impl Default for Health {
    fn default() -> Self {
        Self { troubles: Arc::new(watch::Sender::new(Troubles::new())) }
    }
}

impl Health {
    /// The part that is in trouble when Redis is.
    pub const REDIS: &'static str = "redis";

    /// A role that is well.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes that `part` is in trouble. Says so in the log once, when the trouble begins. True if it began now.
    pub fn trouble(&self, part: &'static str, reason: impl Into<String>) -> bool {
        let reason = reason.into();
        let began = self.troubles.send_if_modified(|troubles| match troubles.get_mut(part) {
            Some(known) => {
                known.reason.clone_from(&reason);
                false
            }
            None => {
                troubles.insert(part, Trouble { since: Timestamp::now(), reason: reason.clone() });
                true
            }
        });
        if began {
            tracing::error!(part, %reason, "in trouble");
        }
        began
    }

    /// Notes that `part` is well. Says so in the log once, when a trouble ends. True if it ended now.
    pub fn well(&self, part: &'static str) -> bool {
        if self.reason(part).is_none() {
            return false;
        }
        let mut ended = None;
        self.troubles.send_if_modified(|troubles| {
            ended = troubles.remove(part);
            ended.is_some()
        });
        if let Some(trouble) = &ended {
            tracing::info!(part, since = %trouble.since, "well again");
        }
        ended.is_some()
    }

    /// Why `part` is in trouble, if it is.
    #[must_use]
    pub fn reason(&self, part: &'static str) -> Option<String> {
        self.troubles.borrow().get(part).map(|trouble| trouble.reason.clone())
    }

    /// Returns when `part` is in trouble: at once if it is.
    pub async fn troubled(&self, part: &'static str) {
        // The sender lives as long as `self`, so this cannot end otherwise.
        let _ = self.troubles.subscribe().wait_for(|troubles| troubles.contains_key(part)).await;
    }

    /// Returns when `part` is in no trouble: at once if it is not.
    pub async fn untroubled(&self, part: &'static str) {
        let _ = self.troubles.subscribe().wait_for(|troubles| !troubles.contains_key(part)).await;
    }

    /// The answer of `/healthz`: whether all is well (status 200, else 503), and `{status, troubles}` as JSON.
    #[must_use]
    pub fn report(&self) -> (bool, Value) {
        let troubles = self.troubles.borrow();
        if troubles.is_empty() {
            return (true, json!({ "status": "ok" }));
        }
        let troubles: BTreeMap<&str, Value> =
            troubles.iter().map(|(part, t)| (*part, json!({ "since": t.since, "reason": t.reason }))).collect();
        (false, json!({ "status": "trouble", "troubles": troubles }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trouble_is_reported_until_it_ends() {
        let health = Health::new();
        assert_eq!(health.report(), (true, json!({ "status": "ok" })));
        assert!(health.trouble("redis", "connection refused"));
        assert!(!health.trouble("redis", "still refused"), "began once");
        let (well, report) = health.report();
        assert!(!well);
        assert_eq!(report["troubles"]["redis"]["reason"], "still refused");
        assert!(health.well("redis"));
        assert!(!health.well("redis"), "ended once");
        assert!(health.report().0);
    }

    #[tokio::test]
    async fn trouble_can_be_waited_for() {
        let health = Health::new();
        let other = health.clone();
        let (began, ()) = tokio::join!(
            async {
                tokio::task::yield_now().await;
                other.trouble(Health::REDIS, "gone")
            },
            health.troubled(Health::REDIS),
        );
        assert!(began);
        health.troubled(Health::REDIS).await;
    }
}
