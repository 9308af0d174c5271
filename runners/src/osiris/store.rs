//! The database: connecting, and reading what is committed.

use std::{collections::HashMap, path::Path, time::Duration};

use sqlx::{
    Any, AnyPool, Executor, Row,
    any::{AnyPoolOptions, AnyRow},
};

use super::{
    recorded::Before,
    sql::{Dialect, POSTGRES, SQLITE},
};
use crate::executor::ExecutionError;

/// How long a job waits for a connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(20);

/// The database. Clones share its connections.
#[derive(Clone)]
pub(super) struct Store {
    pub(super) pool: AnyPool,
    pub(super) sql: &'static Dialect,
}

/// One stored record as it came.
pub(super) struct Row4 {
    pub(super) id: String,
    pub(super) created_at: i64,
    pub(super) updated_at: i64,
    pub(super) body: String,
}

/// A database error for the job: the text without passwords, and what to look at.
pub(super) fn database_error(e: &sqlx::Error) -> ExecutionError {
    ExecutionError::new(
        "DATABASE_ERROR",
        format!("{e}. Is the database reachable, not locked by another program, and its disk not full?"),
    )
}

impl Store {
    /// Connects, and makes the tables if they are not there.
    pub(super) async fn open(url: &str, connections: u32) -> Result<Self, ExecutionError> {
        sqlx::any::install_default_drivers();
        let (url, sql) = match url.split_once(':').map(|(scheme, _)| scheme) {
            Some("sqlite") => (sqlite_url(url)?, &SQLITE),
            Some("postgres" | "postgresql") => (url.to_owned(), &POSTGRES),
            _ => {
                let text = "the database URL must start with sqlite:// or postgres://";
                return Err(ExecutionError::new("DATABASE_ERROR", text));
            }
        };
        let pool = AnyPoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            // Without these two the pool has no timers, so an idle runner sleeps.
            .idle_timeout(None)
            .max_lifetime(None)
            // A broken connection shows itself by an error, on which the committer tries again.
            .test_before_acquire(false)
            .after_connect(move |connection, _| {
                Box::pin(async move {
                    for statement in sql.connect {
                        sqlx::query(*statement).execute(&mut *connection).await?;
                    }
                    Ok(())
                })
            })
            .connect(&url)
            .await
            .map_err(|e| database_error(&e))?;
        let store = Self { pool, sql };
        store.make_tables().await.map_err(|e| database_error(&e))?;
        Ok(store)
    }

    async fn make_tables(&self) -> Result<(), sqlx::Error> {
        for statement in self.sql.schema {
            sqlx::query(*statement).execute(&self.pool).await?;
        }
        // In a transaction that writes, since another process may be doing the same.
        let mut transaction = self.pool.begin_with(self.sql.begin).await?;
        if sqlx::query(self.sql.has_content).fetch_optional(&mut *transaction).await?.is_none() {
            sqlx::query(self.sql.add_content).execute(&mut *transaction).await?;
        }
        transaction.commit().await
    }

    /// Those of the jobs that were committed before.
    pub(super) async fn recorded(&self, job_ids: &[&str]) -> Result<HashMap<String, Before>, sqlx::Error> {
        self.recorded_in(&self.pool, job_ids).await
    }

    /// The same in a transaction.
    pub(super) async fn recorded_in(
        &self,
        executor: impl Executor<'_, Database = Any>,
        job_ids: &[&str],
    ) -> Result<HashMap<String, Before>, sqlx::Error> {
        let list = serde_json::to_string(job_ids).expect("strings are JSON");
        let rows = sqlx::query(self.sql.recorded).bind(list).fetch_all(executor).await?;
        let before = |row: AnyRow| Ok((row.try_get(0)?, Before { output: row.try_get(1)?, content: row.try_get(2)? }));
        rows.into_iter().map(before).collect()
    }

    /// How often the model has changed; 0 if it never did.
    pub(super) async fn changes(&self, model: &str) -> Result<i64, sqlx::Error> {
        let row = sqlx::query(self.sql.changes).bind(model).fetch_optional(&self.pool).await?;
        row.map_or(Ok(0), |row| row.try_get(0))
    }

    /// A record with its revision.
    pub(super) async fn get(&self, model: &str, id: &str) -> Result<Option<(i64, Row4)>, sqlx::Error> {
        let row = sqlx::query(self.sql.get).bind(model).bind(id).fetch_optional(&self.pool).await?;
        let Some(row) = row else { return Ok(None) };
        let record =
            Row4 { id: id.to_owned(), created_at: row.try_get(1)?, updated_at: row.try_get(2)?, body: row.try_get(3)? };
        Ok(Some((row.try_get(0)?, record)))
    }

    /// Up to `limit` records whose JSON contains the needle, in order of their ids, after one.
    pub(super) async fn scan(
        &self,
        model: &str,
        after: &str,
        needle: &str,
        limit: i64,
    ) -> Result<Vec<Row4>, sqlx::Error> {
        let rows =
            sqlx::query(self.sql.scan).bind(model).bind(after).bind(needle).bind(limit).fetch_all(&self.pool).await?;
        let record = |row: AnyRow| {
            Ok(Row4 {
                id: row.try_get(0)?,
                created_at: row.try_get(1)?,
                updated_at: row.try_get(2)?,
                body: row.try_get(3)?,
            })
        };
        rows.into_iter().map(record).collect()
    }

    /// How many records the model has.
    pub(super) async fn count(&self, model: &str) -> Result<i64, sqlx::Error> {
        sqlx::query(self.sql.count).bind(model).fetch_one(&self.pool).await?.try_get(0)
    }
}

/// Makes the file's directory, and asks for the file to be made.
fn sqlite_url(url: &str) -> Result<String, ExecutionError> {
    let rest = url.trim_start_matches("sqlite:").trim_start_matches("//");
    let path = rest.split('?').next().unwrap_or_default();
    if path.is_empty() || path.contains(":memory:") {
        let text = "sqlite://PATH needs a path: each connection would have an in-memory database of its own";
        return Err(ExecutionError::new("DATABASE_ERROR", text));
    }
    if let Some(dir) = Path::new(path).parent().filter(|dir| !dir.as_os_str().is_empty()) {
        std::fs::create_dir_all(dir)
            .map_err(|e| ExecutionError::new("DATABASE_ERROR", format!("cannot make {}: {e}", dir.display())))?;
    }
    Ok(if rest.contains('?') { url.to_owned() } else { format!("{url}?mode=rwc") })
}
