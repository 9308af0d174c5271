//! The harness of the integration tests: real `horus` processes, a real Redis, keys and trust policies in a directory
//! of the test's own, everything stopped and removed at its end.

mod calls;
mod chance;
mod clock;
mod cut;
mod hands;
mod house;
mod ledger;
mod network;
mod postgres;
mod process;
mod redis;
mod signed;

pub use calls::Calls;
pub use chance::{Chance, seed_of};
pub use clock::WallClock;
pub use cut::Cut;
pub use hands::Hands;
pub use house::{House, Ready};
pub use ledger::Ledger;
pub use network::{Network, Node};
pub use postgres::Postgres;
pub use process::{Horus, Outcome, Running, binary, free_port};
pub use redis::TestRedis;
pub use signed::{Valid, sign_workflow};
