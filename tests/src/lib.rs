//! The harness of the integration tests: real `horus` processes, a real Redis, keys and trust policies in a directory
//! of the test's own, everything stopped and removed at its end.

mod chance;
mod cut;
mod hands;
mod house;
mod ledger;
mod process;
mod redis;

pub use chance::Chance;
pub use cut::Cut;
pub use hands::Hands;
pub use house::{House, Ready};
pub use ledger::Ledger;
pub use process::{Horus, Outcome, Running, binary, free_port};
pub use redis::TestRedis;
