//! Bringing steps to a supervisor: write, sign, send, and send again until it is known what became of them.

mod call;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use horus_keys::PeerId;
use horus_runners::job::JobError;
use horus_transport::{ErrorKind, RpcError};
use tokio::time::Instant;

use super::Shared;
use super::arrival::Message;
use super::batch::{self, Batch, Ticket, Written};
use super::live::Live;
use super::pool::Supervisor;
use super::waiter::{Watch, is_silence};
use crate::workflow::StepAttempt;

/// The first pause before a batch is sent again, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// For how long a supervisor whose queue is full is left alone.
const FULL: Duration = Duration::from_secs(1);
/// And one that has no runner of the kind, or is going down.
const UNSERVED: Duration = Duration::from_secs(5);

/// Steps for one supervisor, each with the flag that says whether they are still wanted.
pub(crate) struct Delivery {
    pub(crate) shared: Arc<Shared>,
    pub(crate) live: Arc<Live>,
    pub(crate) supervisor: Arc<Supervisor>,
    pub(crate) peer: PeerId,
    pub(crate) steps: Vec<(Ticket, Arc<AtomicBool>)>,
    /// The supervisor may have them already: they were sent before a restart.
    pub(crate) again: bool,
}

impl Delivery {
    /// Brings them there. Every step ends in the supervisor's waiter, or in a message to its workflow.
    pub(crate) async fn run(self) {
        let Self { shared, live, supervisor, peer, steps, again } = self;
        let mut flags = std::collections::HashMap::with_capacity(steps.len());
        let mut tickets = Vec::with_capacity(steps.len());
        for (ticket, wanted) in steps {
            flags.insert(ticket.step, wanted);
            tickets.push(ticket);
        }
        let courier = Courier { shared, live, supervisor, peer, flags, again };
        let Some((written, unwritable)) = courier.write(&tickets).await else { return };
        for (step, error) in unwritable {
            courier.gave_back(1);
            courier.tell(Message::Refused { step, by: courier.peer, error, certain: !again });
        }
        let batches = courier.sign(written);
        futures::future::join_all(batches.into_iter().map(|batch| courier.send(batch))).await;
    }
}

/// What happened to steps on their way so far. It stays with them when they go on in parts.
#[derive(Clone, Copy)]
struct Past {
    /// The supervisor may have them.
    sent: bool,
    /// The workflow may count them as unknown.
    unknown: bool,
}

/// Steps that are still to be brought there.
type Rest = (Vec<Written>, Past);

/// Takes batches to one supervisor.
pub(super) struct Courier {
    shared: Arc<Shared>,
    live: Arc<Live>,
    supervisor: Arc<Supervisor>,
    peer: PeerId,
    flags: std::collections::HashMap<StepAttempt, Arc<AtomicBool>>,
    again: bool,
}

impl Courier {
    /// Whether the workflow still wants any of those.
    fn is_wanted<'a>(&self, steps: impl IntoIterator<Item = &'a StepAttempt>) -> bool {
        !self.live.inbox.is_closed()
            && steps.into_iter().any(|step| self.flags.get(step).is_some_and(|flag| flag.load(Ordering::Relaxed)))
    }

    fn tell(&self, message: Message) {
        // A workflow without a driver was taken over by another coordinator.
        let _ = self.live.inbox.send(message);
    }

    fn gave_back(&self, count: usize) {
        for _ in 0..count {
            if self.supervisor.gave_back() {
                self.shared.pool.note_change();
            }
        }
    }

    /// Writes the jobs, however long Redis needs for what they refer to. `None` if nobody wants them any more.
    async fn write(&self, tickets: &[Ticket]) -> Option<(Vec<Written>, Vec<batch::Unwritable>)> {
        let mut pause = PAUSES.0;
        loop {
            let error = match batch::write(&self.live, &self.shared.vault, tickets).await {
                Ok(done) => return Some(done),
                Err(error) => error,
            };
            if !self.is_wanted(self.flags.keys()) {
                self.gave_back(tickets.len());
                return None;
            }
            self.shared.redis_trouble(&error);
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    /// Sends a batch until it is accepted or refused, in parts if the supervisor has no room for the whole.
    async fn send(&self, batch: Batch) {
        let mut later = Vec::new();
        self.send_one(batch, Past { sent: self.again, unknown: self.again }, &mut later).await;
        while let Some((jobs, past)) = later.pop() {
            for batch in self.sign(jobs) {
                self.send_one(batch, past, &mut later).await;
            }
        }
    }

    fn sign(&self, jobs: Vec<Written>) -> Vec<Batch> {
        batch::sign(&self.shared.identity, self.shared.certificate.as_ref(), self.peer, jobs)
    }

    /// What does not fit goes to `later`, if it may have to go to this very supervisor.
    async fn send_one(&self, batch: Batch, mut past: Past, later: &mut Vec<Rest>) {
        let mut batch = batch;
        let mut began = Instant::now();
        let mut told = false;
        let mut pause = PAUSES.0;
        loop {
            let steps: Vec<StepAttempt> = batch.jobs.iter().map(|job| job.step).collect();
            let error = match self.create(&batch).await {
                Ok(()) => {
                    self.supervisor.answered();
                    if past.unknown {
                        self.tell(Message::Reached(steps));
                    }
                    self.watch(batch.jobs, None, false);
                    return;
                }
                Err(error) => error,
            };
            if !self.is_wanted(&steps) {
                self.gave_back(steps.len());
                return;
            }
            if is_silence(&error) {
                self.supervisor.silent(&error);
                // It never left this machine: another supervisor may have it.
                if !past.sent && error.was_sent() == Some(false) {
                    self.gave_back(steps.len());
                    self.tell(Message::Returned(steps));
                    return;
                }
            } else {
                self.supervisor.answered();
                // The same call may have been sent before, or a part of it have been taken.
                past.sent |= error.was_sent() == Some(true);
                // Only what was never sent before is certainly not there when it is refused.
                let (partly, before) = (is_partly_taken(&batch.jobs, &error), past);
                past.sent |= partly;
                match self.judge(&batch, &error, past.sent) {
                    Verdict::Again => {}
                    Verdict::Part(room) => {
                        let (fits, rest) = split(batch.jobs, &error, room);
                        // None of the kind that is full was taken.
                        if before.sent {
                            later.push((rest, before));
                        } else {
                            self.gave_back(rest.len());
                            self.tell(Message::Returned(rest.iter().map(|job| job.step).collect()));
                        }
                        let Some(part) = self.sign(fits).pop() else { return };
                        batch = part;
                        continue;
                    }
                    Verdict::Halves => {
                        let mut jobs = batch.jobs;
                        later.push((jobs.split_off(jobs.len() / 2), past));
                        later.push((jobs, past));
                        return;
                    }
                    Verdict::Over(message) => {
                        self.gave_back(steps.len());
                        message.into_iter().for_each(|message| self.tell(message));
                        return;
                    }
                    Verdict::Watched => {
                        // It may have them from an earlier call: its policy may be another since.
                        self.watch(batch.jobs, Some(&as_job_error(&error)), past.unknown);
                        return;
                    }
                    Verdict::Without(place) => {
                        let left = self.without(batch, place, &error, before);
                        let Some(left) = left else { return };
                        batch = left;
                        began = Instant::now();
                        continue;
                    }
                }
            }
            past.sent = true;
            if !told && began.elapsed() > super::pool::SILENCE {
                (told, past.unknown) = (true, true);
                let reason =
                    format!("supervisor {} may have the step, but does not say so: {error}", self.supervisor.address);
                self.tell(Message::Unreachable { steps, reason });
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    /// The batch without the job that it was refused for, signed anew; `None` if that was all.
    fn without(&self, batch: Batch, place: usize, error: &RpcError, past: Past) -> Option<Batch> {
        let mut jobs = batch.jobs;
        let job = jobs.remove(place);
        if !past.sent {
            self.gave_back(1);
            let error = as_job_error(error);
            self.tell(Message::Refused { step: job.step, by: self.peer, error, certain: true });
        } else {
            // It may have it from an earlier call, and run it: admission comes first there, and its time may be over, or its policy another.
            self.watch(vec![job], Some(&as_job_error(error)), past.unknown);
        }
        self.sign(jobs).pop()
    }

    fn watch(&self, jobs: Vec<Written>, refused: Option<&JobError>, told: bool) {
        let watch = |job: Written| {
            let wanted = self.flags.get(&job.step).map_or_else(Default::default, Arc::clone);
            let inbox = self.live.inbox.clone();
            let refused = refused.cloned();
            Watch { job: job.job, step: job.step, spec: job.spec, inbox, wanted, told, doubted: None, refused }
        };
        self.supervisor.watch(jobs.into_iter().map(watch).collect());
    }

    /// What a refusal means for the steps.
    fn judge(&self, batch: &Batch, error: &RpcError, sent_before: bool) -> Verdict {
        let place = error.get("index").and_then(serde_json::Value::as_u64).and_then(|n| usize::try_from(n).ok());
        let place = place.filter(|place| *place < batch.jobs.len());
        match error.kind {
            // For want of something at the supervisor. What may have been taken before goes there again.
            ErrorKind::QueueFull | ErrorKind::UnknownRunner | ErrorKind::RateLimited => {
                let named = error.get("runner").and_then(|runner| runner.as_str());
                let pause = if error.kind == ErrorKind::UnknownRunner { UNSERVED } else { FULL };
                for job in &batch.jobs {
                    let kind = job.job.runner();
                    if named.is_none_or(|named| named == kind.as_str()) {
                        self.supervisor.full(kind, error, pause);
                    }
                }
                self.supervisor.look.notify_one();
                if error.kind == ErrorKind::QueueFull
                    && let Some(room) = room(&batch.jobs, error)
                {
                    return Verdict::Part(room);
                }
                if sent_before {
                    return Verdict::Again;
                }
                Verdict::Over(vec![Message::Returned(batch.jobs.iter().map(|job| job.step).collect())])
            }
            // Too much for one call, or for one message.
            ErrorKind::TooLarge if place.is_none() && batch.jobs.len() > 1 => Verdict::Halves,
            // These say nothing about the jobs.
            ErrorKind::Internal | ErrorKind::Other | ErrorKind::Unauthenticated => Verdict::Again,
            _ => {
                let (workflow, address) = (&self.live.id, &self.supervisor.address);
                tracing::warn!(%workflow, supervisor = %address, %error, "steps refused");
                match place {
                    // The others were not taken either, and go on without it.
                    Some(place) => Verdict::Without(place),
                    None if sent_before && is_of_trust(error) => Verdict::Watched,
                    None if sent_before => Verdict::Again,
                    None => {
                        let refuse = |job: &Written| Message::Refused {
                            step: job.step,
                            by: self.peer,
                            error: as_job_error(error),
                            certain: true,
                        };
                        Verdict::Over(batch.jobs.iter().map(refuse).collect())
                    }
                }
            }
        }
    }
}

/// What follows from a refusal.
enum Verdict {
    /// It has to be sent again.
    Again,
    /// It is settled; the workflow is told so.
    Over(Vec<Message>),
    /// There is room for so many jobs of the kind that the refusal names, and for those of other kinds.
    Part(usize),
    /// It has to be sent again in two parts.
    Halves,
    /// It has to be sent again without the job at that place.
    Without(usize),
    /// It need not be sent again: what the supervisor has of it from before is waited for.
    Watched,
}

/// Whether somebody is not trusted, which sending it again does not change.
fn is_of_trust(error: &RpcError) -> bool {
    matches!(error.kind, ErrorKind::UntrustedSigner | ErrorKind::NotAllowed)
}

fn as_job_error(error: &RpcError) -> JobError {
    JobError::new(error.kind.as_str(), &error.message)
}

/// Whether some of the jobs may have been taken although the call was refused: kinds are queued one after the other in alphabetical
/// order, and what a later one lacks need not have shown itself before the first was queued.
fn is_partly_taken(jobs: &[Written], error: &RpcError) -> bool {
    let by_the_queue = match error.kind {
        ErrorKind::QueueFull | ErrorKind::IdConflict => true,
        // Admission, which comes before the queues, names the job.
        ErrorKind::WorkflowUnknown | ErrorKind::DelegationMismatch => error.get("index").is_none(),
        _ => false,
    };
    let named = error.get("runner").and_then(|runner| runner.as_str());
    let mut kinds = jobs.iter().map(|job| job.job.runner().as_str());
    by_the_queue
        && match named {
            Some(named) => kinds.any(|kind| kind < named),
            None => kinds.any(|kind| kind != jobs[0].job.runner().as_str()),
        }
}

/// For how many jobs of the full kind there is room, if a part of the batch can go and a part cannot. A batch larger than a
/// queue would else wait for ever.
fn room(jobs: &[Written], error: &RpcError) -> Option<usize> {
    let number = |name: &str| error.get(name).and_then(serde_json::Value::as_u64);
    let named = error.get("runner").and_then(|runner| runner.as_str())?;
    let room = usize::try_from(number("max")?.saturating_sub(number("queued")?)).unwrap_or(usize::MAX);
    let of_kind = jobs.iter().filter(|job| job.job.runner().as_str() == named).count();
    let fits = jobs.len() - of_kind + room.min(of_kind);
    (fits > 0 && fits < jobs.len()).then_some(room)
}

/// The jobs that fit, and the rest.
fn split(jobs: Vec<Written>, error: &RpcError, mut room: usize) -> (Vec<Written>, Vec<Written>) {
    let named = error.get("runner").and_then(|runner| runner.as_str()).unwrap_or_default();
    jobs.into_iter().partition(|job| {
        if job.job.runner().as_str() != named {
            return true;
        }
        let fits = room > 0;
        room = room.saturating_sub(1);
        fits
    })
}
