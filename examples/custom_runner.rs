//! A runner of one's own: kind `wordcount`, whose jobs' payload is a text and whose output is the number of its words.
//!
//!     cargo run -p horus-examples --example custom_runner -- --redis-url redis://127.0.0.1:6379 --identity ./keys/wordcount
//!
//! It takes the flags of `horus runner`. Its key needs the role `runner` for the kind `wordcount` in the trust policy:
//!
//!     horus keys generate --dir ./keys/wordcount
//!     horus keys trust add PEER_ID --role runner --runner wordcount

use horus_node::runner_role;
use horus_runners::{
    executor::{Context, ExecutionError, Executor, Output},
    job::Job,
};

struct WordCount;

impl Executor for WordCount {
    fn kind(&self) -> horus_keys::RunnerKind {
        "wordcount".parse().expect("the kind is of the allowed form")
    }

    // Counting twice does no harm, so a job whose runner died may be given out again.
    fn idempotent(&self) -> bool {
        true
    }

    async fn execute(&self, job: &Job, context: &Context) -> Result<Output, ExecutionError> {
        let words = job.payload.split_whitespace().count();
        context.log.stdout(&format!("counted {words} words\n"));
        Output::from_value(&serde_json::json!({ "words": words }))
    }
}

fn main() -> std::process::ExitCode {
    runner_role::main(WordCount)
}
