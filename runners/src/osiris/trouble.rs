//! Trouble with the database, and how long it is lived through: as long as somebody waits for the job. What is away comes back,
//! and to ask again is safe, since the job's id is recorded with its effects.

use std::time::Duration;

/// The first pause between two tries, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));
/// How often something is tried that other users of the database keep from happening.
const ATTEMPTS: u32 = 5;

/// Tries that did not succeed, and what comes after them.
pub(super) struct Tries {
    pause: Duration,
    in_the_way: u32,
}

impl Tries {
    pub(super) const fn new() -> Self {
        Self { pause: PAUSES.0, in_the_way: 0 }
    }

    /// Waits until it makes sense to try again; false if it does not.
    pub(super) async fn again(&mut self, error: &sqlx::Error) -> bool {
        if !is_away(error) {
            self.in_the_way += 1;
            if !is_in_the_way(error) || self.in_the_way >= ATTEMPTS {
                return false;
            }
        }
        tracing::warn!(%error, "the osiris database failed, trying again");
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(PAUSES.1);
        true
    }
}

/// Asks until there is an answer, or an error that will stay. Whoever has no time any more drops the future.
pub(super) async fn patiently<T, F>(question: impl Fn() -> F) -> Result<T, sqlx::Error>
where
    F: Future<Output = Result<T, sqlx::Error>>,
{
    let mut tries = Tries::new();
    loop {
        match question().await {
            Err(error) => {
                if !tries.again(&error).await {
                    return Err(error);
                }
            }
            answer => return answer,
        }
    }
}

/// Whether the database cannot be reached, is starting or stopping.
fn is_away(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::PoolTimedOut | sqlx::Error::WorkerCrashed => true,
        // PostgreSQL: connection trouble; stopping, crashed, starting; no place for one more connection.
        sqlx::Error::Database(error) => error
            .code()
            .is_some_and(|code| code.starts_with("08") || matches!(&*code, "57P01" | "57P02" | "57P03" | "53300")),
        _ => false,
    }
}

/// Whether others are in the way: locks, serialisation, and a job id that another process has just stored.
fn is_in_the_way(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Protocol(_) => true,
        // SQLite: busy, locked, busy snapshot, primary key. PostgreSQL: serialisation, deadlock, lock timeout, unique.
        sqlx::Error::Database(error) => error
            .code()
            .is_some_and(|code| matches!(&*code, "5" | "6" | "517" | "1555" | "40001" | "40P01" | "55P03" | "23505")),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, io};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_database_that_is_away_is_waited_for() {
        let tries = Cell::new(0);
        let answer = patiently(|| async {
            tries.set(tries.get() + 1);
            if tries.get() < 100 { Err(sqlx::Error::Io(io::ErrorKind::ConnectionRefused.into())) } else { Ok(7) }
        });
        assert_eq!(answer.await.unwrap(), 7);
    }

    #[tokio::test(start_paused = true)]
    async fn what_will_stay_and_what_stays_in_the_way_is_told() {
        for (error, most) in [("row", 1), ("protocol", ATTEMPTS)] {
            let tries = Cell::new(0);
            let answer = patiently(|| async {
                tries.set(tries.get() + 1);
                Err::<(), _>(match error {
                    "row" => sqlx::Error::RowNotFound,
                    _ => sqlx::Error::Protocol("odd".to_owned()),
                })
            });
            assert!(answer.await.is_err());
            assert_eq!(tries.get(), most);
        }
    }
}
