//! Every bound that admission enforces, in one place.
//!
//! Sizes are in bytes of UTF-8 text as signed or stored, counts are inclusive maxima. docs and error messages quote these
//! constants, never a number of their own.

use std::time::Duration;

/// Jobs of one batch.
pub const BATCH_JOBS: usize = 256;
/// Payload of one `jobs+json` envelope.
pub const BATCH_BYTES: usize = 1 << 20;
/// Supervisors that one batch may name in `aud`, and coordinators that one workflow may name.
pub const AUDIENCE: usize = 256;
/// Certificates that one batch, workflow or receipt batch may carry.
pub const CERTIFICATES: usize = 4;
/// Script text of one job or step.
pub const PAYLOAD_BYTES: usize = 512 << 10;
/// Input of one job: JSON text, also the sum of a workflow's own `inputs`.
pub const INPUT_BYTES: usize = 512 << 10;
/// Output of one job: JSON text.
pub const OUTPUT_BYTES: usize = 512 << 10;
/// Environment variables of one job, workflow and step together.
pub const ENV_ENTRIES: usize = 64;
/// Names and values of the environment of one job together.
pub const ENV_BYTES: usize = 32 << 10;
/// Sealed secrets of one job.
pub const SECRET_ENTRIES: usize = 64;
/// Recipients of one sealed secret: one per runner that may open it.
pub const SECRET_RECIPIENTS: usize = 64;
/// Labels of one job.
pub const LABEL_ENTRIES: usize = 64;
/// Names and values of the labels of one job together.
pub const LABEL_BYTES: usize = 8 << 10;
/// Length of the name of a variable, secret, label, input or output.
pub const NAME_BYTES: usize = 128;
/// Receipts envelopes that one step's job may refer to: one per dependency, and one for the attempt before.
pub const RECEIPT_REFS: usize = DEPENDENCIES + 1;
/// Receipts in one `receipts+json` envelope.
pub const RECEIPT_BATCH: usize = 256;
/// Payload of one `receipts+json` envelope.
pub const RECEIPTS_BYTES: usize = 1 << 20;
/// Payload of one `workflow+json` envelope (over Mycelium messages the transport's 1 MiB comes first).
pub const WORKFLOW_BYTES: usize = 16 << 20;
/// Steps of one workflow.
pub const STEPS: usize = 100_000;
/// Entries in one step's `depends_on`.
pub const DEPENDENCIES: usize = 10_000;
/// Length of a workflow's `name`.
pub const WORKFLOW_NAME_BYTES: usize = 256;
/// Nesting of arrays and objects in JSON and YAML.
pub const DEPTH: usize = horus_keys::MAX_JSON_DEPTH;
/// Lines kept of one job's log; older ones are dropped, and the log says so.
pub const LOG_LINES: usize = 10_000;
/// Text kept of one job's log.
pub const LOG_BYTES: usize = 4 << 20;
/// One line of a log; a longer one is split.
pub const LOG_LINE_BYTES: usize = 16 << 10;
/// Time that a job may run if it does not say.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5 * 60);
/// Time that any job may run.
pub const MAX_TIMEOUT: Duration = Duration::from_secs(24 * 3600);
/// How far ahead `run_until` may lie: ids are remembered that long, so that nothing can be replayed.
pub const RUN_UNTIL_AHEAD: Duration = Duration::from_secs(7 * 24 * 3600);
/// How far the clocks of a submitter and a supervisor may differ when `run_until` lies just at the limit.
pub const CLOCK_TOLERANCE: Duration = Duration::from_secs(60);
/// `retry.max_attempts` of one step.
pub const RETRY_ATTEMPTS: u32 = 100;
/// Attempts of a step that may run again after an unknown outcome (`idempotent` or `on_unknown: retry`), if `retry` does not grant more.
pub const UNKNOWN_ATTEMPTS: u32 = 3;
/// Error codes in one step's `retry.non_retryable`.
pub const NON_RETRYABLE: usize = 64;
/// `code` of an error.
pub const ERROR_CODE_BYTES: usize = 64;
/// `message` of an error in a job's result; longer ones are cut.
pub const ERROR_MESSAGE_BYTES: usize = 16 << 10;
/// `message` of an error inside a receipt, so that 256 receipts fit into one envelope; longer ones are cut.
pub const RECEIPT_MESSAGE_BYTES: usize = 2 << 10;
