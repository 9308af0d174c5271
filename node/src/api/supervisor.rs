//! RPC of the supervisor: jobs, their results and logs, and the runners of its machine.

mod jobs;
mod read;
mod runners;

pub use jobs::{CancelJob, DeleteJob, Deleted, JobIdParams, JobState};
pub use jobs::{CreateJob, CreateJobParams, CreateJobs, CreateJobsParams, CreatedJob, CreatedJobs};
pub use jobs::{StoreDocuments, StoreDocumentsParams, StoredDocuments};
pub use read::{
    GetJob, GetJobLogs, GetJobResult, GetJobStatus, JobPage, JobResult, ListJobs, ListJobsParams, LogLine, LogPage,
    LogParams, LogStream, ReceiptAt, WaitJobs, WaitJobsParams, WaitedJobs,
};
pub use read::{Job, MAX_LIST, MAX_LOG_LINES, MAX_WAIT, MAX_WAIT_JOBS};
pub use runners::{
    GetRunner, ListRunners, ListRunnersParams, PingRunner, Pong, RegisterRunner, RegisterRunnerParams, RemoveRunner,
    Removed, Runner, RunnerParams, RunnerState, Runners, ServerFacts,
};
