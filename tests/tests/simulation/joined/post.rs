//! What coordinators and supervisors say to each other, over a network that loses, repeats, delays and reorders.

use horus_node::workflow::StepAttempt;

use super::world::World;
use crate::{
    queue::site::{Batch, Call, End, Job, Pushed},
    server::texts,
};

/// How long a signed call is valid.
const VALID_MS: i64 = 60_000;

/// Whom a letter is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum To {
    Site(usize),
    /// A coordinator, by the name of its process.
    Coordinator(String),
}

/// A job as a coordinator signs it.
#[derive(Debug, Clone)]
pub(crate) struct NewJob {
    pub(crate) step: StepAttempt,
    pub(crate) id: String,
    pub(crate) spec: String,
    pub(crate) idempotent: bool,
    pub(crate) run_until: i64,
}

/// What a letter says.
#[derive(Debug, Clone)]
pub(crate) enum Body {
    /// `create_jobs`: workflow, jobs.
    Create(String, Vec<NewJob>),
    /// `wait_jobs`.
    Wait(Vec<String>),
    /// `cancel_job`, of several.
    Cancel(Vec<String>),
    /// The status of each job that was accepted.
    Created(Vec<String>),
    /// The queue is full.
    Full,
    /// The job at that place is refused.
    Refused(usize),
    /// There was no connection: the call certainly did not leave.
    NotSent,
    /// The supervisor cannot use its Redis.
    Trouble,
    /// Those of the jobs that have ended.
    Waited(Vec<(String, End)>),
    /// The supervisor knows nothing of that job.
    Forgotten(String),
    /// Those of the jobs that the supervisor does not know.
    Cancelled(Vec<String>),
}

/// A letter on its way. An answer has the number of its call.
#[derive(Debug, Clone)]
pub(crate) struct Letter {
    pub(crate) due: i64,
    pub(crate) sent: i64,
    pub(crate) from: String,
    pub(crate) to: To,
    pub(crate) flow: usize,
    pub(crate) call: u64,
    pub(crate) body: Body,
}

impl World<'_> {
    /// Brings a letter on its way, or loses it, or has it come twice or late.
    pub(crate) fn post(&mut self, from: &str, to: To, flow: usize, call: u64, body: Body) {
        let shared = &mut self.shared;
        let sent = shared.at.mono;
        let goes_wrong = !shared.calm && shared.chance.one_in(shared.faults.network);
        let fate = if goes_wrong { shared.chance.below(4) } else { 9 };
        shared.tell(|| format!("{sent} {from} -> {to:?}: {call} {body:?}{}", ["", " (lost)"][usize::from(fate == 0)]));
        let mut letter =
            Letter { due: sent + shared.chance.ms(150), sent, from: from.to_owned(), to, flow, call, body };
        match fate {
            0 => return,
            1 => {
                let due = sent + shared.chance.ms(5_000);
                self.letters.push(Letter { due, ..letter.clone() });
            }
            2 => letter.due = sent + shared.chance.ms(90_000),
            _ => {}
        }
        self.letters.push(letter);
    }

    /// Calls a supervisor of a site. Returns the number of the call.
    pub(crate) fn call(&mut self, from: &str, site: usize, flow: usize, body: Body) -> u64 {
        self.calls += 1;
        let call = self.calls;
        if self.supervisor_at(site).is_none() && self.shared.chance.one_in(2) {
            self.post_back(from, site, flow, call, Body::NotSent);
        } else {
            self.post(from, To::Site(site), flow, call, body);
        }
        call
    }

    fn post_back(&mut self, to: &str, site: usize, flow: usize, call: u64, body: Body) {
        self.post(&format!("site {site}"), To::Coordinator(to.to_owned()), flow, call, body);
    }

    /// One of the supervisors of a site that are up.
    fn supervisor_at(&mut self, site: usize) -> Option<usize> {
        let shared = &mut self.shared;
        let (calm, now) = (shared.calm, shared.at.mono);
        let all = self.sites[site].supervisors.iter().enumerate();
        let up: Vec<usize> = all.filter(|(_, one)| calm || now >= one.down_until).map(|(n, _)| n).collect();
        if up.is_empty() { None } else { Some(*shared.chance.pick(&up)) }
    }

    /// A letter comes to a site.
    pub(crate) fn arrive(&mut self, site: usize, letter: Letter) {
        let Letter { sent, from, flow, call, body, .. } = letter;
        let Some(n) = self.supervisor_at(site) else { return };
        // A call that comes twice is executed once, and none after its time: its nonce is remembered so long.
        if self.shared.at.mono > sent + VALID_MS {
            return;
        }
        if let Some(answer) = self.answered.get(&call) {
            let answer = answer.clone();
            return self.post_back(&from, site, flow, call, answer);
        }
        let who = format!("supervisor {n} of site {site}");
        let answer = match body {
            Body::Create(flow, jobs) => self.create(site, n, &who, &flow, jobs),
            Body::Wait(jobs) => self.waited(site, &jobs),
            Body::Cancel(jobs) => {
                let mut cancel = Call::new("cancel", []);
                jobs.iter().for_each(|id| _ = cancel.arg(id));
                match self.at_site(site, |site, shared| site.call(shared, &who, cancel)) {
                    Some(reply) => {
                        let unknown = jobs.into_iter().zip(texts(&reply)).filter(|(_, status)| status.is_empty());
                        Body::Cancelled(unknown.map(|(id, _)| id).collect())
                    }
                    None => Body::Trouble,
                }
            }
            _ => return,
        };
        self.answered.insert(call, answer.clone());
        self.post_back(&from, site, flow, call, answer);
    }

    fn create(&mut self, site: usize, n: usize, who: &str, flow: &str, new: Vec<NewJob>) -> Body {
        let at = &mut self.sites[site];
        for (place, job) in new.iter().enumerate() {
            match at.jobs.get(&job.id) {
                Some(known) if known.spec != job.spec => {
                    self.shared.breaks(format!("{} was signed anew: {:?}, then {:?}", job.id, known.spec, job.spec));
                    return Body::Trouble;
                }
                // A clock that went ahead for hours and came back would let it run again: that is not promised.
                Some(known) if known.known && !at.watch.seen.contains_key(&job.id) => return Body::Refused(place),
                _ => {}
            }
            let idempotent = job.idempotent || at.by_nature;
            at.jobs.entry(job.id.clone()).or_insert_with(|| Job {
                spec: job.spec.clone(),
                rank: 1,
                idempotent,
                declared: job.idempotent,
                not_before: 0,
                run_until: job.run_until,
                accepted: false,
                known: false,
            });
        }
        let jobs: Vec<String> = new.into_iter().map(|job| job.id).collect();
        let batch = Batch { digest: jobs.join("+"), jobs, workflow: Some(flow.to_owned()) };
        self.at_site(site, |site, shared| match site.push(shared, n, who, &batch) {
            Pushed::Accepted(statuses) => {
                site.sent.push(batch);
                Body::Created(statuses)
            }
            Pushed::Full => Body::Full,
            Pushed::Expired(place) => Body::Refused(place),
            Pushed::Unknown => Body::Trouble,
        })
    }

    fn waited(&mut self, site: usize, jobs: &[String]) -> Body {
        let watch = &self.sites[site].watch;
        let mut ended = Vec::new();
        for id in jobs {
            match watch.seen.get(id) {
                None => return Body::Forgotten(id.clone()),
                Some(seen) if seen.deleted => return Body::Forgotten(id.clone()),
                Some(seen) if seen.status.is_final() => ended.push((id.clone(), watch.ends[id].clone())),
                Some(_) => {}
            }
        }
        Body::Waited(ended)
    }
}
