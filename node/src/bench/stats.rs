//! Percentiles, and the environment that every figure is quoted with.

use std::time::Duration;

use serde::Serialize;

/// Latencies, sorted.
#[derive(Debug, Clone)]
pub struct Latencies(Vec<Duration>);

impl Latencies {
    /// Takes samples in any order.
    pub fn new(mut samples: Vec<Duration>) -> Self {
        samples.sort_unstable();
        Self(samples)
    }

    /// The `p`-th percentile (0 to 100) in milliseconds by nearest rank, 0 without samples.
    pub fn percentile_ms(&self, p: u32) -> f64 {
        let n = self.0.len();
        if n == 0 {
            return 0.0;
        }
        let rank = (n * p as usize).div_ceil(100).clamp(1, n);
        round(self.0[rank - 1].as_secs_f64() * 1e3)
    }
}

/// Three decimals are more than any of it is precise to.
pub(super) fn round(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

/// Work per second, whole.
pub(super) fn per_s(count: usize, elapsed: Duration) -> f64 {
    (count as f64 / elapsed.as_secs_f64().max(1e-9)).round()
}

/// The median; 0 of nothing.
pub(super) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// What a figure was measured on.
#[derive(Debug, Clone, Serialize)]
pub struct Environment {
    /// Version of this binary.
    pub horus_version: &'static str,
    /// Whether this binary was built with optimisation.
    pub optimised: bool,
    /// Processors that this process may use.
    pub cores: usize,
    /// Kernel and machine.
    pub system: String,
    /// The queue's server and its durability, as the supervisor tells.
    pub redis: serde_json::Value,
    /// Every check is on; there is no way to measure without.
    pub checks: &'static str,
}

impl Environment {
    /// Of this machine, with what the supervisor says of its Redis.
    pub fn new(redis: serde_json::Value) -> Self {
        let system = nix::sys::utsname::uname()
            .map(|u| format!("{} {} {}", u.sysname().display(), u.release().display(), u.machine().display()))
            .unwrap_or_default();
        Self {
            horus_version: env!("CARGO_PKG_VERSION"),
            optimised: !cfg!(debug_assertions),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            system,
            redis,
            checks: "signatures, trust, delegation and receipts verified at every hop",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_by_nearest_rank() {
        let latencies = Latencies::new((1..=100).rev().map(Duration::from_millis).collect());
        assert_eq!(latencies.percentile_ms(50), 50.0);
        assert_eq!(latencies.percentile_ms(99), 99.0);
        assert_eq!(latencies.percentile_ms(100), 100.0);
        assert_eq!(Latencies::new(vec![]).percentile_ms(50), 0.0);
        assert_eq!(Latencies::new(vec![Duration::from_millis(7)]).percentile_ms(99), 7.0);
    }
}
