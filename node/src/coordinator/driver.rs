//! The task that drives one workflow: events in, journal, commands out.

mod act;
mod assign;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use horus_keys::{Digest, Envelope, PeerId, Timestamp};
use horus_runners::job::limits;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::Shared;
use super::arrival::{Arrived, Message};
use super::live::Live;
use super::pool::Supervisor;
use super::store::{Append, StoreError, Writer};
use crate::workflow::{
    Command, Event, Record, State, StepAttempt, StepIndex, Timer, WorkflowStatus, apply, resume, still_wanted,
};
use assign::Waiting;

/// Messages that are taken together.
const AT_ONCE: usize = 1024;
/// Step changes after which a snapshot is taken, unless the workflow has more steps than that.
const SNAPSHOT_AFTER: usize = 2000;
/// How often steps that no supervisor takes are tried again, whatever happened.
const TRY_AGAIN: Duration = Duration::from_secs(1);
/// The first pause after Redis failed, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// Why a driver stopped before its workflow ended.
enum Stopped {
    /// Another coordinator has the workflow, or what is stored of it is broken.
    Lost(StoreError),
    /// The process stops.
    Shutdown,
}

/// Something that happened, with what is to be stored beside it.
struct Happened {
    event: Event,
    output: Option<(Digest, Arc<str>)>,
    receipt: Option<Envelope>,
}

impl From<Event> for Happened {
    fn from(event: Event) -> Self {
        Self { event, output: None, receipt: None }
    }
}

/// A workflow on its way.
pub(super) struct Driver {
    shared: Arc<Shared>,
    live: Arc<Live>,
    epoch: u64,
    inbox: mpsc::UnboundedReceiver<Message>,
    timers: BinaryHeap<Reverse<(Instant, Timestamp, Timer)>>,
    waiting: Waiting,
    /// Steps at supervisors: who has them, and whether their results are still wanted.
    out: HashMap<StepIndex, Out>,
    /// Supervisors that refuse a step.
    refused_by: HashMap<StepIndex, HashSet<PeerId>>,
    /// Steps whose supervisor turned up, after a restart.
    found: Vec<(PeerId, Vec<StepAttempt>)>,
    changes_since_snapshot: usize,
    latest: Timestamp,
}

/// A step at a supervisor.
struct Out {
    attempt: u32,
    wanted: Arc<AtomicBool>,
}

impl Driver {
    /// Drives the workflow until it has ended, another coordinator has it, or the process stops.
    pub(super) fn spawn(
        shared: &Arc<Shared>,
        live: Arc<Live>,
        epoch: u64,
        inbox: mpsc::UnboundedReceiver<Message>,
        journal: usize,
    ) {
        let mut driven = shared.driven.write().unwrap_or_else(PoisonError::into_inner);
        driven.insert(live.id.clone(), Arc::clone(&live));
        drop(driven);
        let driver = Self {
            shared: Arc::clone(shared),
            live,
            epoch,
            inbox,
            timers: BinaryHeap::new(),
            waiting: Waiting::default(),
            out: HashMap::new(),
            refused_by: HashMap::new(),
            found: Vec::new(),
            changes_since_snapshot: journal,
            latest: Timestamp::MIN,
        };
        tokio::spawn(driver.run());
    }

    async fn run(mut self) {
        let ended = self.drive().await;
        for out in self.out.values() {
            out.wanted.store(false, Ordering::Relaxed);
        }
        let id = &self.live.id;
        match ended {
            Ok(()) => {
                let status = self.live.state.read().await.status;
                tracing::info!(workflow = %id, status = status.as_str(), "workflow ended");
            }
            Err(Stopped::Lost(error)) => {
                self.shared.lost(id, &error);
                if matches!(error, StoreError::Corrupt { .. }) {
                    // Another coordinator may be able to use it; if not, nobody drives it, and the doctor says so.
                    let _ = self.patiently(|| self.shared.store.give_up(id, self.writer())).await;
                }
            }
            Err(Stopped::Shutdown) => {}
        }
        let mut driven = self.shared.driven.write().unwrap_or_else(PoisonError::into_inner);
        if driven.get(id).is_some_and(|live| Arc::ptr_eq(live, &self.live)) {
            driven.remove(id);
        }
    }

    async fn drive(&mut self) -> Result<(), Stopped> {
        let (started, commands) = {
            let state = self.live.state.read().await;
            (state.status != WorkflowStatus::Pending, resume(&self.live.plan, &state))
        };
        let first = if started { Vec::new() } else { vec![Event::Started.into()] };
        if self.step(first, commands).await? {
            return Ok(());
        }
        let stop = self.shared.shutdown.drain_token();
        let mut changes = self.shared.pool.changes();
        let mut messages = Vec::new();
        loop {
            let timer = self.timers.peek().map(|Reverse((at, ..))| *at);
            let mut look = false;
            tokio::select! {
                biased;
                () = stop.cancelled() => return Err(Stopped::Shutdown),
                count = self.inbox.recv_many(&mut messages, AT_ONCE) => debug_assert!(count > 0, "it holds a sender itself"),
                () = sleep_until(timer), if timer.is_some() => {}
                _ = changes.changed(), if !self.waiting.is_empty() => look = true,
                () = tokio::time::sleep(TRY_AGAIN), if !self.waiting.is_empty() => look = true,
            }
            let mut happened = Vec::with_capacity(messages.len());
            for message in messages.drain(..) {
                self.translate(message, &mut happened);
            }
            self.due_timers(&mut happened).await;
            if (look || !happened.is_empty() || !self.found.is_empty()) && self.step(happened, Vec::new()).await? {
                return Ok(());
            }
        }
    }

    /// Lets things happen, journals them, and does what follows. True once the workflow has ended.
    async fn step(&mut self, happened: Vec<Happened>, mut commands: Vec<Command>) -> Result<bool, Stopped> {
        let live = Arc::clone(&self.live);
        let mut state = live.state.write().await;
        let before = state.sequence;
        let now = self.now();
        let mut records = Vec::with_capacity(happened.len());
        let (mut outputs, mut receipts) = (HashMap::new(), HashMap::new());
        for Happened { event, output, receipt } in happened {
            let record = Record { at: now, event };
            if apply(&live.plan, &mut state, &record, &mut commands) {
                records.push(record);
                outputs.extend(output);
                receipts.extend(receipt.map(|envelope| (envelope.digest(), envelope)));
            }
        }
        commands.retain(|command| still_wanted(&state, command));
        for command in &commands {
            if let Command::Dispatch(step) = command {
                self.waiting.add(live.plan.step(step.0), *step);
            }
        }
        let sent = self.assign(&mut state, now, &mut records, &mut commands);
        if !records.is_empty() {
            let stored = self.journal(&state, before, &records, &outputs, &receipts).await;
            if stored.is_err() {
                live.set_adrift();
            }
            stored?;
            for (digest, text) in outputs {
                self.shared.vault.keep_output(digest, text);
            }
            receipts.values().for_each(|envelope| self.shared.vault.keep_receipt(envelope));
            self.let_go(&state, &records);
            live.revision.send_replace(state.sequence);
        }
        self.send(&state, sent);
        for (peer, mut steps) in std::mem::take(&mut self.found) {
            steps.retain(|step| still_wanted(&state, &Command::Watch(*step, peer)));
            self.watch(&state, peer, &steps);
            if state.stop.is_some() {
                commands.extend(steps.iter().map(|step| Command::Cancel(*step, peer)));
            }
        }
        let ended = self.carry_out(&state, commands);
        let snapshot = if ended || self.changes_since_snapshot >= SNAPSHOT_AFTER.max(live.plan.steps().len()) {
            Some((state.sequence, state.snapshot()))
        } else {
            None
        };
        drop(state);
        if let Some((sequence, snapshot)) = snapshot {
            let (store, id, writer) = (&self.shared.store, &self.live.id, self.writer());
            self.patiently(|| store.snapshot(id, writer, sequence, &snapshot)).await?;
            self.changes_since_snapshot = 0;
        }
        if ended {
            self.end().await?;
        }
        Ok(ended)
    }

    fn writer(&self) -> Writer<'_> {
        Writer { owner: &self.shared.instance, epoch: self.epoch }
    }

    /// Appends to the journal, however long Redis needs.
    async fn journal(
        &mut self,
        state: &State,
        before: u64,
        records: &[Record],
        outputs: &HashMap<Digest, Arc<str>>,
        receipts: &HashMap<Digest, Envelope>,
    ) -> Result<(), Stopped> {
        let outputs: Vec<(Digest, &str)> = outputs.iter().map(|(digest, text)| (*digest, &**text)).collect();
        let receipts: Vec<(Digest, &Envelope)> =
            receipts.iter().map(|(digest, envelope)| (*digest, envelope)).collect();
        self.changes_since_snapshot += records.iter().map(|record| weight(&record.event)).sum::<usize>();
        let append = Append {
            writer: self.writer(),
            before,
            records,
            status: state.status,
            finished_at: state.finished_at,
            outputs: &outputs,
            receipts: &receipts,
        };
        self.patiently(|| self.shared.store.append(&self.live.id, &append)).await
    }

    /// Repeats what Redis could not do until it can, unless the workflow is lost or the process stops.
    async fn patiently<F>(&self, act: impl Fn() -> F) -> Result<(), Stopped>
    where
        F: Future<Output = Result<(), StoreError>>,
    {
        let mut pause = PAUSES.0;
        loop {
            match act().await {
                Ok(()) => return Ok(()),
                Err(error @ StoreError::Unavailable(_)) => self.shared.redis_trouble(&error),
                Err(error) => return Err(Stopped::Lost(error)),
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.shared.shutdown.draining() => return Err(Stopped::Shutdown),
            }
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    /// The workflow has ended and its last snapshot is stored.
    async fn end(&self) -> Result<(), Stopped> {
        let run_until = self.live.signed.submission.run_until;
        // Its id stays taken until nothing that was signed for it can run any more.
        let remembered = run_until.since(Timestamp::now()) + Duration::from_secs(3600);
        let remembered = remembered.min(limits::RUN_UNTIL_AHEAD * 2);
        let keep = self.shared.retention;
        let (store, id) = (&self.shared.store, &self.live.id);
        let left = self.left().await;
        if !left.is_empty() {
            self.patiently(|| store.note_cancels(&left, run_until)).await?;
            self.shared.to_cancel.notify_one();
        }
        self.patiently(|| store.expire(id, keep, remembered)).await?;
        self.patiently(|| store.request_done(id)).await?;
        self.patiently(|| store.note_ended(id)).await
    }

    /// The time, which for one workflow never goes back: its records would contradict each other.
    fn now(&mut self) -> Timestamp {
        self.latest = self.latest.max(Timestamp::now());
        self.latest
    }

    fn translate(&mut self, message: Message, happened: &mut Vec<Happened>) {
        match message {
            Message::Arrived(all) => happened.extend(all.into_iter().map(|arrived| {
                let Arrived { step, outcome, output, receipt } = arrived;
                let output = outcome.output.zip(output);
                Happened { event: Event::Finished { step, outcome }, output, receipt }
            })),
            Message::Returned(steps) => happened.push(Event::Returned { steps }.into()),
            Message::Running(steps) => happened.push(Event::Running { steps }.into()),
            Message::Unreachable { steps, reason } => happened.push(Event::Unreachable { steps, reason }.into()),
            Message::Reached(steps) => happened.push(Event::Reached { steps }.into()),
            Message::Found { peer, steps } => {
                happened.push(Event::Reached { steps: steps.clone() }.into());
                self.found.push((peer, steps));
            }
            Message::Cancel { by } => happened.push(Event::CancelRequested { by }.into()),
            Message::Refused { step, by, error, certain } => {
                let planned = self.live.plan.step(step.0);
                let by_all = self.refused_by.entry(step.0).or_default();
                by_all.insert(by);
                // What one supervisor does not allow, another may.
                let elsewhere =
                    certain && self.shared.pool.has_other(&planned.runner, planned.supervisor.as_ref(), by_all);
                happened.push(if elsewhere {
                    Event::Returned { steps: vec![step] }.into()
                } else {
                    Event::Refused { step, error }.into()
                });
            }
        }
    }

    /// Timers whose time has come.
    async fn due_timers(&mut self, happened: &mut Vec<Happened>) {
        let now = Instant::now();
        while let Some(Reverse((at, due, timer))) = self.timers.peek().copied() {
            if at > now {
                return;
            }
            self.timers.pop();
            if !still_wanted(&*self.live.state.read().await, &Command::Wake(timer, due)) {
                continue;
            }
            // The wall clock may have been set back since: what was waited for is over all the same.
            self.latest = self.latest.max(due);
            happened.push(Happened::from(match timer {
                Timer::Step(step) => Event::Woken { step, due },
                Timer::Deadline => Event::DeadlinePassed,
                Timer::Grace => Event::GraceOver,
            }));
        }
    }

    /// Nobody needs to wait any more for the jobs of steps that went on or ended.
    fn let_go(&mut self, state: &State, records: &[Record]) {
        let look = |step: &StepAttempt| {
            let at = state.step(step.0);
            if self.out.get(&step.0).is_some_and(|out| !at.status.has_job() || at.attempt != out.attempt)
                && let Some(out) = self.out.remove(&step.0)
            {
                out.wanted.store(false, Ordering::Relaxed);
            }
            if at.status.is_final() {
                self.refused_by.remove(&step.0);
            }
        };
        records.iter().flat_map(|record| record.event.may_let_go()).for_each(look);
    }
}

/// How many step changes an event stands for.
fn weight(event: &Event) -> usize {
    match event {
        Event::Dispatched { steps, .. }
        | Event::Running { steps }
        | Event::Returned { steps }
        | Event::Unreachable { steps, .. }
        | Event::Reached { steps } => steps.len(),
        _ => 1,
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// What is about to be sent to one supervisor.
struct Sent {
    supervisor: Arc<Supervisor>,
    peer: PeerId,
    steps: Vec<StepAttempt>,
}
