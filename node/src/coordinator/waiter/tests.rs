//! Which of two watches of one job is kept.

use horus_keys::{Trust, TrustPolicy};
use horus_runners::job::step_job_id;
use horus_transport::ClientOptions;

use super::*;
use crate::role::Shutdown;

fn job(step: &str) -> JobId {
    step_job_id(&Digest::of(b"workflow"), &step.parse().unwrap(), None, 1, &"noop".parse().unwrap())
}

/// How a poll ends.
type How = fn() -> Result<WaitedJobs, RpcError>;

struct Bench {
    waiter: Waiter,
    inbox: mpsc::UnboundedSender<Message>,
    messages: mpsc::UnboundedReceiver<Message>,
}

impl Bench {
    fn new() -> Self {
        let trust = Trust::new(TrustPolicy::parse("").unwrap());
        let verifier = Verifier::new(trust.clone());
        let pool = Pool::new(ClientOptions::default(), trust, verifier.clone(), Shutdown::new());
        // Nobody listens there: nothing is called.
        let supervisor = pool.add(&"http://127.0.0.1:9".parse().unwrap(), true).unwrap();
        let free = HashMap::new();
        let waiter = Waiter { supervisor, pool, verifier, free, failures: 0, began: Instant::now() };
        let (inbox, messages) = mpsc::unbounded_channel();
        Self { waiter, inbox, messages }
    }

    /// A watch of the one job, given to the supervisor as deliveries do.
    fn watch(&self) -> (Watch, Arc<AtomicBool>) {
        self.waiter.supervisor.took();
        let wanted = Arc::new(AtomicBool::new(true));
        let job = job("a");
        let (step, spec, inbox) = (StepAttempt(0, 1), Digest::of(b"spec"), self.inbox.clone());
        let (told, doubted, refused) = (false, None, None);
        (Watch { job, step, spec, inbox, wanted: Arc::clone(&wanted), told, doubted, refused }, wanted)
    }

    /// Polls end, of which each named one watch, and nothing is polled for in between.
    async fn polls_end(&mut self, watches: [Watch; 2], how: How) {
        for watch in watches {
            self.waiter.ended(Ended { watches: vec![watch], result: how() }).await;
        }
    }

    fn kept(&mut self) -> Vec<Watch> {
        self.waiter.batches().into_iter().flatten().collect()
    }
}

fn the_minute_is_over() -> Result<WaitedJobs, RpcError> {
    Ok(WaitedJobs::default())
}

fn it_is_silent() -> Result<WaitedJobs, RpcError> {
    Err(RpcError::new(ErrorKind::PeerUnreachable, "cut off"))
}

fn another_is_forgotten() -> Result<WaitedJobs, RpcError> {
    Err(RpcError::new(ErrorKind::JobNotFound, "no such job").with("job_id", job("b").to_string()))
}

#[tokio::test]
async fn a_watch_that_nobody_wants_any_more_does_not_replace_the_one_that_is_wanted() {
    for how in [None, Some(the_minute_is_over as How), Some(it_is_silent), Some(another_is_forgotten)] {
        for old_is_last in [true, false] {
            let mut bench = Bench::new();
            let (old, old_is_wanted) = bench.watch();
            let (new, new_is_wanted) = bench.watch();
            old_is_wanted.store(false, Ordering::Relaxed);
            let watches = if old_is_last { [new, old] } else { [old, new] };
            match how {
                Some(how) => bench.polls_end(watches, how).await,
                None => bench.waiter.take(watches.into()),
            }
            let kept = bench.kept();
            assert_eq!(kept.len(), 1, "somebody waits for the job");
            assert!(Arc::ptr_eq(&kept[0].wanted, &new_is_wanted));
            assert_eq!(bench.waiter.supervisor.outstanding(), 1, "the place of the other was given back");
            assert!(bench.messages.try_recv().is_err(), "and nobody was told anything");
        }
    }
}

#[tokio::test]
async fn a_result_on_which_the_check_breaks_is_asked_for_again_and_the_others_are_taken() {
    let bench = Bench::new();
    let (mut broken, _kept) = bench.watch();
    broken.job = job("b");
    let (good, _wanted) = bench.watch();
    let result =
        |job_id: JobId| JobResult { job_id, status: JobStatus::Lost, output: None, error: None, receipt: None };
    let waited = WaitedJobs { done: vec![result(job("b")), result(job("a"))], ..WaitedJobs::default() };
    let believe: Believe = |_, watch, result, _, _| {
        assert!(watch.job == job("a"), "as a bug would");
        Ok(Arrived::without_receipt(watch.step, result.status, None))
    };
    let (settled, left) = check(&bench.waiter.verifier, vec![broken, good], waited, believe).await;
    assert_eq!((settled.len(), left.len()), (1, 1));
    assert!(left[0].0.job == job("b") && left[0].1.is_some(), "{:?}", left[0].1);
}
