//! The statements, in the dialects of SQLite and PostgreSQL. Each takes its lists as one JSON text, so that the statements never vary and stay prepared.

/// All statements of one database.
pub(super) struct Dialect {
    /// Run on each new connection.
    pub(super) connect: &'static [&'static str],
    /// Run once; each must be repeatable.
    pub(super) schema: &'static [&'static str],
    /// A row if `osiris_jobs` has the column `content`, which it got later than the others.
    pub(super) has_content: &'static str,
    /// Adds the column.
    pub(super) add_content: &'static str,
    /// Starts a transaction that writes.
    pub(super) begin: &'static str,
    /// Makes the counters of models exist: `[name, ...]`.
    pub(super) ensure_models: &'static str,
    /// Reads the counters of models, and locks them until the end of the transaction: `[name, ...]` -> name, changes.
    pub(super) lock_models: &'static str,
    /// The counter of one model.
    pub(super) changes: &'static str,
    /// `[[name, changes], ...]`
    pub(super) set_models: &'static str,
    /// `[job_id, ...]` -> job_id, output, content (empty if unknown)
    pub(super) recorded: &'static str,
    /// `[[job_id, output, keep_until, content], ...]`
    pub(super) record: &'static str,
    /// `[[model, id], ...]` -> model, id, revision
    pub(super) revisions: &'static str,
    /// `[[model, id, revision, created_at, updated_at, body], ...]`
    pub(super) upsert: &'static str,
    /// `[[model, id], ...]`
    pub(super) delete: &'static str,
    /// model, id -> revision, created_at, updated_at, body
    pub(super) get: &'static str,
    /// model, after, needle, limit -> id, created_at, updated_at, body
    pub(super) scan: &'static str,
    /// model -> count
    pub(super) count: &'static str,
    /// Forgets some jobs that cannot be delivered any more: now.
    pub(super) purge: &'static str,
}

const CHANGES: &str = "SELECT changes FROM osiris_models WHERE name = $1";
const GET: &str = "SELECT revision, created_at, updated_at, body FROM osiris_records WHERE model = $1 AND id = $2";
const COUNT: &str = "SELECT COUNT(*) FROM osiris_records WHERE model = $1";
const PURGE: &str =
    "DELETE FROM osiris_jobs WHERE job_id IN (SELECT job_id FROM osiris_jobs WHERE keep_until < $1 LIMIT 2000)";

pub(super) static SQLITE: Dialect = Dialect {
    connect: &[
        "PRAGMA busy_timeout = 10000",
        "PRAGMA journal_mode = WAL",
        "PRAGMA synchronous = NORMAL",
        "PRAGMA temp_store = MEMORY",
    ],
    schema: &[
        "CREATE TABLE IF NOT EXISTS osiris_models (name TEXT PRIMARY KEY, changes INTEGER NOT NULL) STRICT, WITHOUT ROWID",
        "CREATE TABLE IF NOT EXISTS osiris_records (model TEXT NOT NULL, id TEXT NOT NULL, revision INTEGER NOT NULL, \
         created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL, body TEXT NOT NULL, PRIMARY KEY (model, id)) STRICT, WITHOUT ROWID",
        "CREATE TABLE IF NOT EXISTS osiris_jobs (job_id TEXT PRIMARY KEY, output TEXT NOT NULL, keep_until INTEGER NOT NULL) \
         STRICT, WITHOUT ROWID",
        "CREATE INDEX IF NOT EXISTS osiris_jobs_keep_until ON osiris_jobs (keep_until)",
    ],
    has_content: "SELECT 1 FROM pragma_table_info('osiris_jobs') WHERE name = 'content'",
    add_content: "ALTER TABLE osiris_jobs ADD COLUMN content TEXT",
    begin: "BEGIN IMMEDIATE",
    ensure_models: "INSERT INTO osiris_models (name, changes) SELECT value, 0 FROM json_each($1) WHERE true ON CONFLICT DO NOTHING",
    // The whole database is locked by BEGIN IMMEDIATE.
    lock_models: "SELECT name, changes FROM osiris_models WHERE name IN (SELECT value FROM json_each($1))",
    changes: CHANGES,
    set_models: "INSERT INTO osiris_models (name, changes) SELECT value ->> 0, value ->> 1 FROM json_each($1) WHERE true \
                 ON CONFLICT (name) DO UPDATE SET changes = excluded.changes",
    recorded: "SELECT job_id, output, COALESCE(content, '') FROM osiris_jobs WHERE job_id IN (SELECT value FROM json_each($1))",
    record: "INSERT INTO osiris_jobs (job_id, output, keep_until, content) \
             SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3 FROM json_each($1)",
    revisions: "SELECT model, id, revision FROM osiris_records \
                WHERE (model, id) IN (SELECT value ->> 0, value ->> 1 FROM json_each($1))",
    upsert: "INSERT INTO osiris_records (model, id, revision, created_at, updated_at, body) \
             SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5 FROM json_each($1) WHERE true \
             ON CONFLICT (model, id) DO UPDATE SET revision = excluded.revision, created_at = excluded.created_at, \
             updated_at = excluded.updated_at, body = excluded.body",
    delete: "DELETE FROM osiris_records WHERE (model, id) IN (SELECT value ->> 0, value ->> 1 FROM json_each($1))",
    get: GET,
    scan: "SELECT id, created_at, updated_at, body FROM osiris_records \
           WHERE model = $1 AND id > $2 AND ($3 = '' OR instr(body, $3) > 0) ORDER BY id LIMIT $4",
    count: COUNT,
    purge: PURGE,
};

/// Names and ids are compared byte by byte (`COLLATE "C"`), as in SQLite, so that pages come in the same order everywhere.
pub(super) static POSTGRES: Dialect = Dialect {
    connect: &["SET statement_timeout = '60s'", "SET lock_timeout = '20s'"],
    schema: &[
        "CREATE TABLE IF NOT EXISTS osiris_models (name TEXT COLLATE \"C\" PRIMARY KEY, changes BIGINT NOT NULL)",
        "CREATE TABLE IF NOT EXISTS osiris_records (model TEXT COLLATE \"C\" NOT NULL, id TEXT COLLATE \"C\" NOT NULL, \
         revision BIGINT NOT NULL, created_at BIGINT NOT NULL, updated_at BIGINT NOT NULL, body TEXT NOT NULL, PRIMARY KEY (model, id))",
        "CREATE TABLE IF NOT EXISTS osiris_jobs (job_id TEXT COLLATE \"C\" PRIMARY KEY, output TEXT NOT NULL, keep_until BIGINT NOT NULL)",
        "CREATE INDEX IF NOT EXISTS osiris_jobs_keep_until ON osiris_jobs (keep_until)",
    ],
    has_content: "SELECT 1 FROM pg_attribute WHERE attrelid = 'osiris_jobs'::regclass AND attname = 'content' AND NOT attisdropped",
    add_content: "ALTER TABLE osiris_jobs ADD COLUMN IF NOT EXISTS content TEXT",
    begin: "BEGIN",
    ensure_models: "INSERT INTO osiris_models (name, changes) SELECT v, 0 FROM json_array_elements_text($1::json) v ORDER BY v \
                    ON CONFLICT DO NOTHING",
    // In order of the names, so that two processes never wait for each other in a circle.
    lock_models: "SELECT name, changes FROM osiris_models WHERE name IN (SELECT json_array_elements_text($1::json)) \
                  ORDER BY name FOR UPDATE",
    changes: CHANGES,
    set_models: "UPDATE osiris_models SET changes = (v ->> 1)::bigint FROM json_array_elements($1::json) v WHERE name = v ->> 0",
    recorded: "SELECT job_id, output, COALESCE(content, '') FROM osiris_jobs WHERE job_id IN (SELECT json_array_elements_text($1::json))",
    record: "INSERT INTO osiris_jobs (job_id, output, keep_until, content) \
             SELECT v ->> 0, v ->> 1, (v ->> 2)::bigint, v ->> 3 FROM json_array_elements($1::json) v",
    revisions: "SELECT model, id, revision FROM osiris_records \
                WHERE (model, id) IN (SELECT v ->> 0, v ->> 1 FROM json_array_elements($1::json) v)",
    upsert: "INSERT INTO osiris_records (model, id, revision, created_at, updated_at, body) \
             SELECT v ->> 0, v ->> 1, (v ->> 2)::bigint, (v ->> 3)::bigint, (v ->> 4)::bigint, v ->> 5 \
             FROM json_array_elements($1::json) v \
             ON CONFLICT (model, id) DO UPDATE SET revision = excluded.revision, created_at = excluded.created_at, \
             updated_at = excluded.updated_at, body = excluded.body",
    delete: "DELETE FROM osiris_records WHERE (model, id) IN (SELECT v ->> 0, v ->> 1 FROM json_array_elements($1::json) v)",
    get: GET,
    scan: "SELECT id, created_at, updated_at, body FROM osiris_records \
           WHERE model = $1 AND id > $2 AND ($3 = '' OR strpos(body, $3) > 0) ORDER BY id LIMIT $4",
    count: COUNT,
    purge: PURGE,
};
