//! Waiting for jobs at one supervisor: long polls for all workflows together, and the check of every result.
//!
//! What is new is polled for at once. What is left of a poll joins the next one, and all polls of a minute end at the same
//! time, so that many waiting jobs come to one poll a minute. After a poll that brought some results of many, a moment passes
//! before the next: results that come one by one would otherwise cost one call each.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use horus_keys::{Digest, Envelope, Timestamp};
use horus_runners::admission::Verifier;
use horus_runners::job::{JobError, JobId, JobStatus};
use horus_transport::{ErrorKind, RpcError};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::arrival::{Arrived, Message, arrived};
use super::pool::{Pool, Supervisor};
use crate::api::supervisor::{JobResult, WaitJobs, WaitJobsParams, WaitedJobs};
use crate::workflow::StepAttempt;

/// All polls end at multiples of this.
const MINUTE: Duration = Duration::from_secs(60);
/// Polls at a time from which on new ones are short, to join them.
const MANY_POLLS: usize = 32;
/// How long those are.
const SHORT: Duration = Duration::from_secs(2);
/// Jobs that one poll names.
const POLL_JOBS: usize = 1024;
/// By how much a call may take longer than the wait that it asks for.
const SLACK: Duration = Duration::from_secs(10);
/// Longest pause between a poll that brought some results and the next.
const LINGER: Duration = Duration::from_millis(10);
/// How often a silent supervisor's jobs are looked at.
const TICK: Duration = Duration::from_secs(1);
/// The first pause after a failed poll, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// A job that is waited for. It has a place at the supervisor, which whoever drops it gives back.
pub(crate) struct Watch {
    /// The job.
    pub(crate) job: JobId,
    /// The step that it is.
    pub(crate) step: StepAttempt,
    /// Digest of its spec, as it was signed: the receipt must name the same.
    pub(crate) spec: Digest,
    /// Where the result goes.
    pub(crate) inbox: mpsc::UnboundedSender<Message>,
    /// False once nobody wants the result any more.
    pub(crate) wanted: Arc<AtomicBool>,
    /// Whether the workflow was told that the supervisor is silent.
    pub(crate) told: bool,
    /// When to ask again for a result that could not be believed.
    pub(crate) doubted: Option<Instant>,
    /// Why its supervisor did not take it when it was sent again: it may have it from an earlier call all the same.
    pub(crate) refused: Option<JobError>,
}

impl Watch {
    fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Relaxed) && !self.inbox.is_closed()
    }
}

/// Jobs to be waited for at that supervisor.
pub(crate) type Given = (Arc<Supervisor>, Vec<Watch>);

/// How a poll ended.
struct Ended {
    watches: Vec<Watch>,
    result: Result<WaitedJobs, RpcError>,
}

/// The waiter of one supervisor.
struct Waiter {
    supervisor: Arc<Supervisor>,
    pool: Arc<Pool>,
    verifier: Verifier,
    /// Jobs that no poll names now.
    free: HashMap<JobId, Watch>,
    failures: u32,
    began: Instant,
}

/// Waits for the jobs of one supervisor until nobody can give it any more.
pub(super) async fn run(pool: Arc<Pool>, verifier: Verifier, mut new: mpsc::UnboundedReceiver<Given>) {
    let began = Instant::now();
    // The supervisor holds the sender. It is held here only while there is something to wait for: else neither would ever be freed.
    while let Some((supervisor, watches)) = new.recv().await {
        let (pool, verifier, free) = (Arc::clone(&pool), verifier.clone(), HashMap::new());
        let mut waiter = Waiter { supervisor, pool, verifier, free, failures: 0, began };
        waiter.take(watches);
        waiter.work(&mut new).await;
    }
}

async fn poll(supervisor: Arc<Supervisor>, watches: Vec<Watch>, wait: Duration) -> Ended {
    let params = WaitJobsParams {
        job_ids: watches.iter().map(|watch| watch.job.clone()).collect(),
        timeout_ms: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
        any: true,
        share_receipts: true,
    };
    let call = supervisor.client.call_with_timeout::<WaitJobs>(&params, wait + SLACK);
    tokio::pin!(call);
    // A connection can die without a word: once the supervisor counts as lost, or answers again after it had been silent, the
    // poll is made anew.
    let silences = supervisor.silences();
    let result = loop {
        tokio::select! {
            result = &mut call => break result,
            () = tokio::time::sleep(TICK) => {
                if supervisor.is_lost() {
                    break Err(RpcError::new(ErrorKind::PeerUnreachable, "the supervisor does not answer any more"));
                }
                if supervisor.silences() != silences && !supervisor.is_silent() {
                    break Ok(WaitedJobs { pending: params.job_ids.clone(), ..WaitedJobs::default() });
                }
            }
        }
    };
    Ended { watches, result }
}

impl Waiter {
    /// Waits until there is nothing left to wait for.
    async fn work(&mut self, new: &mut mpsc::UnboundedReceiver<Given>) {
        let mut polls = FuturesUnordered::new();
        let mut in_polls = 0_usize;
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // When what is free is polled for; `None` while nothing is.
        let mut next = Some(Instant::now());
        loop {
            // Not by a timer if it is due: a timer waits for the next millisecond, and so would every step of a chain.
            if next.is_some_and(|at| at <= Instant::now()) {
                next = None;
                for watches in self.batches() {
                    in_polls += watches.len();
                    polls.push(poll(Arc::clone(&self.supervisor), watches, self.wait(polls.len())));
                }
            }
            if polls.is_empty() && self.free.is_empty() {
                return;
            }
            let poll_at = next.unwrap_or_else(Instant::now);
            tokio::select! {
                given = new.recv() => {
                    let Some((_, watches)) = given else { return };
                    self.take(watches);
                    while let Ok((_, watches)) = new.try_recv() {
                        self.take(watches);
                    }
                    next = Some(Instant::now());
                }
                Some(ended) = polls.next(), if !polls.is_empty() => {
                    let ended: Ended = ended;
                    in_polls -= ended.watches.len();
                    let pause = self.ended(ended).await;
                    let at = Instant::now() + pause;
                    next = Some(next.map_or(at, |planned| planned.min(at)));
                }
                () = tokio::time::sleep_until(poll_at), if next.is_some() => {}
                _ = ticks.tick(), if in_polls > 0 || !self.free.is_empty() => {
                    if self.tick() && next.is_none() {
                        next = Some(Instant::now());
                    }
                }
            }
        }
    }

    fn take(&mut self, watches: Vec<Watch>) {
        for watch in watches {
            // The same job again replaces its watch, whose place is then given back; but not if it comes late, from a workflow that was lost.
            if !watch.is_wanted() || self.free.insert(watch.job.clone(), watch).is_some() {
                self.gave_back(1);
            }
        }
    }

    /// Takes a watch that a poll named. The workflow may have been taken up anew meanwhile, and wait for the job by another watch: that one
    /// stays, and the old one, which nobody wants any more, gives its place back.
    fn take_back(&mut self, watch: Watch) {
        let is_old = !watch.is_wanted() || self.free.get(&watch.job).is_some_and(Watch::is_wanted);
        if is_old || self.free.insert(watch.job.clone(), watch).is_some() {
            self.gave_back(1);
        }
    }

    fn gave_back(&self, count: usize) {
        for _ in 0..count {
            if self.supervisor.gave_back() {
                self.pool.note_change();
            }
        }
    }

    /// How long the next poll may wait.
    fn wait(&self, polls: usize) -> Duration {
        if polls >= MANY_POLLS {
            return SHORT;
        }
        let into = self.began.elapsed().as_millis() % MINUTE.as_millis();
        let left = MINUTE.saturating_sub(Duration::from_millis(u64::try_from(into).unwrap_or(0)));
        left.max(Duration::from_secs(1))
    }

    /// What is free and still wanted, in portions of a poll.
    fn batches(&mut self) -> Vec<Vec<Watch>> {
        let (wanted, unwanted): (Vec<Watch>, Vec<Watch>) =
            self.free.drain().map(|(_, watch)| watch).partition(Watch::is_wanted);
        self.gave_back(unwanted.len());
        let now = Instant::now();
        let (later, wanted): (Vec<Watch>, Vec<Watch>) =
            wanted.into_iter().partition(|watch| watch.doubted.is_some_and(|at| at > now));
        self.free.extend(later.into_iter().map(|watch| (watch.job.clone(), watch)));
        let mut batches = Vec::new();
        let mut watches = wanted.into_iter().peekable();
        while watches.peek().is_some() {
            batches.push(watches.by_ref().take(POLL_JOBS).collect());
        }
        batches
    }

    /// Takes what a poll brought. Returns how long to wait before the next.
    async fn ended(&mut self, ended: Ended) -> Duration {
        match ended.result {
            Ok(waited) => {
                self.failures = 0;
                self.supervisor.answered();
                let mut watches = ended.watches;
                reached(watches.iter_mut());
                self.deliver(watches, waited).await
            }
            Err(error) => self.failed(ended.watches, &error),
        }
    }

    async fn deliver(&mut self, watches: Vec<Watch>, waited: WaitedJobs) -> Duration {
        let done = waited.done.len();
        if let Some(peer) = self.supervisor.peer() {
            for envelope in &waited.receipts {
                self.pool.there.note_receipts(peer, envelope.digest());
            }
        }
        let (settled, left) = check(&self.verifier, watches, waited, arrived).await;
        self.gave_back(settled.len());
        // One message for each workflow, however many of its jobs have ended.
        let mut groups: Vec<(mpsc::UnboundedSender<Message>, Vec<Arrived>)> = Vec::new();
        for (inbox, arrived) in settled {
            match groups.iter_mut().find(|(known, _)| known.same_channel(&inbox)) {
                Some((_, group)) => group.push(arrived),
                None => groups.push((inbox, vec![arrived])),
            }
        }
        for (inbox, group) in groups {
            let _ = inbox.send(Message::Arrived(group));
        }
        let many = left.len();
        for (mut watch, problem) in left {
            if let Some(reason) = problem {
                if watch.doubted.is_none() {
                    tracing::warn!(job = %watch.job, supervisor = %self.supervisor.address, %reason, "result not accepted");
                    let _ = watch.inbox.send(Message::Unreachable { steps: vec![watch.step], reason });
                }
                // It would come again at once.
                watch.doubted = Some(Instant::now() + PAUSES.1);
            }
            self.take_back(watch);
        }
        if done == 0 {
            // The minute is over for the other polls too.
            return Duration::from_millis(50);
        }
        let pace = Duration::from_millis(u64::try_from(many / 64).unwrap_or(u64::MAX)).min(LINGER);
        let far = self.supervisor.latency().unwrap_or_default() / 2;
        if many > 1 && far > Duration::from_millis(5) { pace.max(far.min(Duration::from_millis(200))) } else { pace }
    }

    fn failed(&mut self, watches: Vec<Watch>, error: &RpcError) -> Duration {
        if error.kind == ErrorKind::JobNotFound {
            self.supervisor.answered();
            self.forgotten(watches, error);
            return Duration::ZERO;
        }
        for watch in watches {
            self.take_back(watch);
        }
        if is_silence(error) {
            self.supervisor.silent(error);
        } else {
            tracing::warn!(supervisor = %self.supervisor.address, %error, "waiting for jobs was refused");
        }
        self.failures += 1;
        PAUSES.1.min(PAUSES.0 * 2_u32.saturating_pow(self.failures - 1))
    }

    /// The supervisor accepted a job and knows nothing of it now: nobody can say whether it ran.
    fn forgotten(&mut self, watches: Vec<Watch>, error: &RpcError) {
        let named = error.get("job_id").and_then(|id| id.as_str()).and_then(|id| id.parse::<JobId>().ok());
        for watch in watches {
            if named.as_ref().is_none_or(|named| *named == watch.job) {
                self.gave_back(1);
                if let (Some(error), Some(by)) = (watch.refused, self.supervisor.peer()) {
                    let _ = watch.inbox.send(Message::Refused { step: watch.step, by, error, certain: false });
                    continue;
                }
                let problem = JobError::new("LOST", &format!("its supervisor has forgotten the job ({error})"));
                let lost = Arrived::without_receipt(watch.step, JobStatus::Lost, Some(problem));
                let _ = watch.inbox.send(Message::Arrived(vec![lost]));
            } else {
                self.take_back(watch);
            }
        }
    }

    /// Looks whether the supervisor fell silent, or speaks again. True if what is free is to be polled for.
    fn tick(&mut self) -> bool {
        if !self.supervisor.is_lost() {
            let now = Instant::now();
            let again = self.free.values().any(|watch| watch.doubted.is_some_and(|at| at <= now));
            return reached(self.free.values_mut()) || again;
        }
        let error = self.supervisor.view().error.unwrap_or_default();
        let reason = format!("supervisor {} is silent: {error}", self.supervisor.address);
        let untold = self.free.values_mut().filter(|watch| !watch.told);
        tell(untold, true, |steps| Message::Unreachable { steps, reason: reason.clone() });
        false
    }
}

/// Tells the workflows of those jobs that their supervisor answers again, if they were told that it does not.
fn reached<'a>(watches: impl Iterator<Item = &'a mut Watch>) -> bool {
    tell(watches.filter(|watch| watch.told && watch.doubted.is_none()), false, Message::Reached)
}

/// Sends each workflow one message about its steps. True if there were any.
fn tell<'a>(
    watches: impl Iterator<Item = &'a mut Watch>,
    told: bool,
    message: impl Fn(Vec<StepAttempt>) -> Message,
) -> bool {
    let mut groups: Vec<(mpsc::UnboundedSender<Message>, Vec<StepAttempt>)> = Vec::new();
    for watch in watches {
        watch.told = told;
        match groups.iter_mut().find(|(inbox, _)| inbox.same_channel(&watch.inbox)) {
            Some((_, steps)) => steps.push(watch.step),
            None => groups.push((watch.inbox.clone(), vec![watch.step])),
        }
    }
    let any = !groups.is_empty();
    for (inbox, steps) in groups {
        let _ = inbox.send(message(steps));
    }
    any
}

/// Whether an error says that the call did not get there, rather than what the supervisor thinks of it.
pub(super) fn is_silence(error: &RpcError) -> bool {
    matches!(
        error.kind,
        ErrorKind::PeerUnreachable
            | ErrorKind::NoService
            | ErrorKind::DaemonDown
            | ErrorKind::TimedOut
            | ErrorKind::InvalidReply
            | ErrorKind::ShuttingDown
            | ErrorKind::RedisUnavailable
    )
}

/// A result that goes to its workflow.
type Settled = (mpsc::UnboundedSender<Message>, Arrived);
/// A job that goes on being waited for, with what is wrong about its result, if there was one.
type Left = (Watch, Option<String>);

/// What [`arrived`] does.
type Believe = fn(&Verifier, &Watch, &JobResult, Option<(&Envelope, u32)>, Timestamp) -> Result<Arrived, String>;

/// Checks results against their receipts, off the async threads when there is much to check.
async fn check(
    verifier: &Verifier,
    watches: Vec<Watch>,
    waited: WaitedJobs,
    believe: Believe,
) -> (Vec<Settled>, Vec<Left>) {
    let verifier = verifier.clone();
    let large = waited.receipts.len() > 4 || waited.done.len() > 32;
    let work = move || {
        let mut results: HashMap<JobId, usize> = HashMap::with_capacity(waited.done.len());
        for (place, result) in waited.done.iter().enumerate() {
            results.insert(result.job_id.clone(), place);
        }
        let (mut settled, mut left) = (Vec::new(), Vec::new());
        let now = Timestamp::now();
        for watch in watches {
            let Some(result) = results.get(&watch.job).map(|place| &waited.done[*place]) else {
                left.push((watch, None));
                continue;
            };
            // All workflows wait for this one task: no result may end it.
            let checked = || believe(&verifier, &watch, result, waited.receipt_of(result), now);
            let checked = catch_unwind(AssertUnwindSafe(checked));
            match checked.unwrap_or_else(|_| Err("the check of its result failed; the log says where".to_owned())) {
                Ok(arrived) => settled.push((watch.inbox.clone(), arrived)),
                Err(reason) => left.push((watch, Some(reason))),
            }
        }
        (settled, left)
    };
    if !large {
        return work();
    }
    match tokio::task::spawn_blocking(work).await {
        Ok(checked) => checked,
        Err(failed) => std::panic::resume_unwind(failed.into_panic()),
    }
}

#[cfg(test)]
mod tests;
