//! How calls to one URL fare, for whoever wants to see it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use horus_keys::Timestamp;
use reqwest::Url;
use tokio::time::Instant;

use crate::error::{ErrorKind, RpcError};
use crate::mesh::{NodeStatus, PathKind, PathStatus};

/// Keeps count.
#[derive(Default)]
pub(super) struct Fares {
    outstanding: AtomicUsize,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    is_up: Option<bool>,
    latency: Option<Duration>,
    error: Option<(Timestamp, String)>,
}

impl Fares {
    /// A call begins. Only those that are answered at once are `timed`.
    pub(super) fn begin(&self, timed: bool) -> UnderWay<'_> {
        self.outstanding.fetch_add(1, Ordering::Relaxed);
        UnderWay { fares: self, began: timed.then(Instant::now) }
    }

    /// As a node with one path.
    pub(super) fn status(&self, url: &Url) -> NodeStatus {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let path = PathStatus {
            path: PathKind::Http,
            url: Some(url.to_string()),
            up: seen.is_up,
            latency_ms: seen.latency.map(|latency| latency.as_secs_f64() * 1000.0),
            last_error: seen.error.as_ref().map(|(_, error)| error.clone()),
            last_error_at: seen.error.as_ref().map(|(at, _)| *at),
        };
        NodeStatus {
            path: (seen.is_up != Some(false)).then_some(PathKind::Http),
            outstanding: self.outstanding.load(Ordering::Relaxed),
            paths: vec![path],
            ..NodeStatus::default()
        }
    }
}

/// A call that is under way, until it is dropped.
pub(super) struct UnderWay<'a> {
    fares: &'a Fares,
    began: Option<Instant>,
}

impl UnderWay<'_> {
    /// The call ended, with that error or none.
    pub(super) fn end(self, error: Option<&RpcError>) {
        let mut seen = self.fares.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match error {
            None => {
                seen.is_up = Some(true);
                if let Some(took) = self.began.map(|began| began.elapsed()) {
                    seen.latency = Some(seen.latency.map_or(took, |before| (before * 7 + took) / 8));
                }
            }
            Some(error) => {
                // A node that is only slow is there all the same.
                if error.kind != ErrorKind::TimedOut {
                    seen.is_up = Some(false);
                }
                seen.error = Some((Timestamp::now(), error.to_string()));
            }
        }
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.fares.outstanding.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_befell_calls_is_told() {
        let url = "http://127.0.0.1:1".parse().unwrap();
        let fares = Fares::default();
        assert_eq!(fares.status(&url).in_use().unwrap().up, None);
        let call = fares.begin(true);
        assert_eq!(fares.status(&url).outstanding, 1);
        tokio::time::advance(Duration::from_millis(8)).await;
        call.end(None);
        fares.begin(false).end(Some(&RpcError::new(ErrorKind::TimedOut, "slow")));
        let status = fares.status(&url);
        let path = status.in_use().unwrap();
        assert_eq!((status.outstanding, path.up), (0, Some(true)));
        assert!((path.latency_ms.unwrap() - 8.0).abs() < 0.5, "{path:?}");
        assert!(status.last_error().unwrap().1.contains("slow"));
        fares.begin(true).end(Some(&RpcError::new(ErrorKind::PeerUnreachable, "gone")));
        let status = fares.status(&url);
        assert!(status.in_use().is_none() && status.paths[0].up == Some(false), "{status:?}");
        assert!(status.last_error().unwrap().1.contains("gone"));
        drop(fares.begin(true));
        assert_eq!(fares.status(&url).outstanding, 0, "a caller that gave up counts no more");
    }
}
