//! How often strangers may call, and how often authentication may fail.

use std::hash::Hash;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota};
use horus_keys::MeshPublicKey;
use lru::LruCache;

use crate::error::{ErrorKind, RpcError};

/// So many origins are told apart; beyond, all further ones share one allowance.
const MAX_ORIGINS: usize = 16 * 1024;

/// Where a call came from, as far as the carrier can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Origin {
    /// From this process or through a socket that only this machine's owner can reach.
    Local,
    /// From that address, over IP.
    Network(IpAddr),
    /// From a host of the overlay, by message.
    Mesh(MeshPublicKey),
    /// From some host of the overlay: the daemon hands messages over without saying from whom. All
    /// strangers there share one allowance, and none is shut out for the failures of another.
    Overlay,
}

/// The rates that one origin is held to. An origin is an IPv4 address, a /64 of IPv6 (which is also
/// one host of the overlay), or a mesh key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimits {
    /// Calls by callers that this node does not trust, sustained in a second.
    pub strangers_per_second: NonZeroU32,
    /// Such calls at once after a pause.
    pub strangers_burst: NonZeroU32,
    /// Failed authentications (of calls or envelopes), sustained in a minute. An origin beyond it is
    /// refused unseen for a while, but for what names a key that is known here as its signer: such requests have as many
    /// failures of their own. What a known key signed is no failure, whatever else is wrong with it.
    pub failures_per_minute: NonZeroU32,
    /// Failed authentications at once after a pause.
    pub failures_burst: NonZeroU32,
    /// Whether loopback is held to them too. Not by default: who is on the machine has other means,
    /// and its own roles share the address.
    pub limit_loopback: bool,
}

impl Default for RateLimits {
    /// 50 calls a second (200 at once) by strangers, 60 failures a minute (60 at once).
    fn default() -> Self {
        let count = |n| NonZeroU32::new(n).expect("the defaults are not zero");
        Self {
            strangers_per_second: count(50),
            strangers_burst: count(200),
            failures_per_minute: count(60),
            failures_burst: count(60),
            limit_loopback: false,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Key {
    V4([u8; 4]),
    V6([u8; 8]),
    Mesh(MeshPublicKey),
    Overlay,
    Others,
}

/// A request that was let in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Admitted {
    pub(crate) origin: Origin,
    /// Only since it names a known key as its signer: the origin is blocked otherwise.
    named: bool,
}

/// Of an origin, the requests that are let in while it is blocked are counted apart.
type Account = (Key, bool);

/// Counts by origin.
pub(crate) struct Rates {
    strangers: DefaultKeyedRateLimiter<Account>,
    failures: DefaultKeyedRateLimiter<Account>,
    /// Origins that failed too often, and until when they are refused.
    blocked: Mutex<LruCache<Account, Instant>>,
    /// When idle origins were last forgotten.
    swept: Mutex<Instant>,
    clock: DefaultClock,
    limit_loopback: bool,
}

impl Rates {
    pub(crate) fn new(limits: RateLimits) -> Self {
        let strangers = Quota::per_second(limits.strangers_per_second);
        let failures = Quota::per_minute(limits.failures_per_minute);
        let origins = MAX_ORIGINS.try_into().expect("the number of origins is not zero");
        Self {
            strangers: DefaultKeyedRateLimiter::keyed(strangers.allow_burst(limits.strangers_burst)),
            failures: DefaultKeyedRateLimiter::keyed(failures.allow_burst(limits.failures_burst)),
            blocked: Mutex::new(LruCache::new(origins)),
            swept: Mutex::new(Instant::now()),
            clock: DefaultClock::default(),
            limit_loopback: limits.limit_loopback,
        }
    }

    fn key(&self, origin: Origin) -> Option<Key> {
        match origin {
            Origin::Local => None,
            Origin::Mesh(key) => Some(Key::Mesh(key)),
            Origin::Overlay => Some(Key::Overlay),
            Origin::Network(ip) => {
                let ip = ip.to_canonical();
                if ip.is_loopback() && !self.limit_loopback {
                    return None;
                }
                Some(match ip {
                    IpAddr::V4(ip) => Key::V4(ip.octets()),
                    IpAddr::V6(ip) => {
                        let [a, b, c, d, e, f, g, h, ..] = ip.octets();
                        Key::V6([a, b, c, d, e, f, g, h])
                    }
                })
            }
        }
    }

    /// Whether the origin may be heard at all. Cheap: asked before anything is read. Whether the request names a known key is asked
    /// only if it may not.
    pub(crate) fn admit(&self, origin: Origin, names_known: impl FnOnce() -> bool) -> Result<Admitted, RpcError> {
        let admitted = |named| Admitted { origin, named };
        let Some(key) = self.key(origin) else { return Ok(admitted(false)) };
        let Some(wait) = self.blocked((key, false)) else { return Ok(admitted(false)) };
        if !names_known() {
            return Err(limited("too many failed authentications from your address", wait));
        }
        match self.blocked((key, true)) {
            None => Ok(admitted(true)),
            Some(wait) => {
                Err(limited("too many failed authentications from your address, some in others' names", wait))
            }
        }
    }

    fn blocked(&self, account: Account) -> Option<Duration> {
        let mut blocked = self.blocked.lock().unwrap_or_else(PoisonError::into_inner);
        let wait = blocked.get(&account)?.checked_duration_since(Instant::now());
        if wait.is_none() {
            blocked.pop(&account);
        }
        wait
    }

    /// Counts a call by somebody whom this node does not trust.
    pub(crate) fn stranger(&self, origin: Origin) -> Result<(), RpcError> {
        let Some(key) = self.key(origin) else { return Ok(()) };
        self.take(&self.strangers, (key, false)).map_err(|wait| {
            limited("too many calls from your address without the signature of a key that this node trusts", wait)
        })
    }

    /// Counts a failed authentication.
    pub(crate) fn failed(&self, Admitted { origin, named }: Admitted) {
        let Some(key) = self.key(origin).filter(|key| *key != Key::Overlay) else { return };
        if let Err(wait) = self.take(&self.failures, (key, named)) {
            let until = Instant::now() + wait.max(Duration::from_secs(1));
            self.blocked.lock().unwrap_or_else(PoisonError::into_inner).put((key, named), until);
        }
    }

    /// Takes one from the allowance of that key, or says how long to wait.
    fn take(&self, limiter: &DefaultKeyedRateLimiter<Account>, account: Account) -> Result<(), Duration> {
        let mut account = account;
        if limiter.len() >= MAX_ORIGINS {
            // Sweeping looks at every origin: at most once a second, or a flood pays with our time.
            let mut swept = self.swept.lock().unwrap_or_else(PoisonError::into_inner);
            if swept.elapsed() >= Duration::from_secs(1) {
                limiter.retain_recent();
                *swept = Instant::now();
            }
            if limiter.len() >= MAX_ORIGINS {
                account.0 = Key::Others;
            }
        }
        limiter.check_key(&account).map_err(|not_until| not_until.wait_time_from(self.clock.now()))
    }
}

fn limited(what: &str, wait: Duration) -> RpcError {
    let retry_after_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).max(1);
    RpcError::new(ErrorKind::RateLimited, format!("{what}: wait {retry_after_ms} ms"))
        .with("retry_after_ms", retry_after_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates() -> Rates {
        let count = |n| NonZeroU32::new(n).unwrap();
        Rates::new(RateLimits {
            strangers_per_second: count(1),
            strangers_burst: count(3),
            failures_per_minute: count(1),
            failures_burst: count(2),
            limit_loopback: false,
        })
    }

    fn ip(text: &str) -> Origin {
        Origin::Network(text.parse().unwrap())
    }

    #[test]
    fn strangers_are_held_to_their_rate_each_for_himself() {
        let rates = rates();
        let calls = |origin| (0..10).filter(|_| rates.stranger(origin).is_ok()).count();
        assert_eq!(calls(ip("192.0.2.1")), 3);
        assert_eq!(calls(ip("::ffff:192.0.2.1")), 0, "the same address");
        assert_eq!(calls(ip("192.0.2.2")), 3);
        assert_eq!(calls(ip("400:1:2:3::1")), 3);
        assert_eq!(calls(ip("400:1:2:3:ffff::1")), 0, "the same /64");
        assert_eq!(calls(ip("127.0.0.1")), 10);
        assert_eq!(calls(ip("::1")), 10);
        assert_eq!(calls(Origin::Local), 10);
        let refused = rates.stranger(ip("192.0.2.1")).unwrap_err();
        assert_eq!(refused.kind, ErrorKind::RateLimited);
        let wait = refused.get("retry_after_ms").and_then(serde_json::Value::as_u64).unwrap();
        assert!((1..=1000).contains(&wait), "{wait}");
    }

    #[test]
    fn who_fails_too_often_is_not_heard() {
        let rates = rates();
        let origin = ip("192.0.2.1");
        let refused = |names_known| rates.admit(origin, || names_known).unwrap_err().kind;
        for _ in 0..3 {
            rates.failed(rates.admit(origin, || panic!("not asked while it is not blocked")).unwrap());
        }
        assert_eq!(refused(false), ErrorKind::RateLimited);
        rates.admit(ip("192.0.2.2"), || false).unwrap();
        // Who names a known key is still heard, but may not fail for ever either.
        for _ in 0..3 {
            rates.failed(rates.admit(origin, || true).unwrap());
        }
        assert_eq!(refused(true), ErrorKind::RateLimited);
    }

    #[test]
    fn memory_is_bounded() {
        let rates = rates();
        for i in 0..(MAX_ORIGINS as u32 + 500) {
            let _ = rates.stranger(Origin::Network(IpAddr::V4((0x0b00_0000 + i).into())));
        }
        assert!(rates.strangers.len() <= MAX_ORIGINS + 1);
    }
}
