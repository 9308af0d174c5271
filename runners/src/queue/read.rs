//! Looking at jobs, and steering them: get, result, list, cancel, delete.

use std::collections::BTreeMap;

use horus_keys::{Digest, Envelope, RunnerKind};
use redis::Value;

use super::{
    JobFilter, JobPage, JobResult, JobView, Queue, QueueError,
    connection::Args,
    keys::{self, Document},
    scripts,
    views::{RESULT_FIELDS, VIEW_FIELDS, status, text},
};
use crate::job::{JobId, JobStatus};

/// Jobs that one call of the listing script looks at.
const LOOK: usize = 500;
/// Results, each with up to 512 KiB of output, that one call reads.
const RESULTS: usize = 64;
/// Calls of the listing script for one page and kind: a filter that matches little gives a short page and a cursor.
const LOOKS: usize = 20;
/// Jobs on one page.
const PAGE: usize = 1000;

/// Rows of fields, and documents by digest.
type Rows = (Vec<Vec<Value>>, Vec<String>);

impl Queue {
    /// A job.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`]
    pub async fn get(&self, job_id: &JobId) -> Result<Option<JobView>, QueueError> {
        let (rows, _) = self.rows(job_id.runner(), &[job_id], &VIEW_FIELDS, false).await?;
        rows.first().filter(|row| !row.is_empty()).map(|row| JobView::from_row(job_id.clone(), row)).transpose()
    }

    /// Where jobs stand, in the order of the ids; none for unknown ones.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`]
    pub async fn statuses(&self, job_ids: &[JobId]) -> Result<Vec<Option<JobStatus>>, QueueError> {
        self.each(job_ids, &["status"], false, |_, row, _| status(row.first().unwrap_or(&Value::Nil))).await
    }

    /// The result of a job, or where it stands.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`]
    pub async fn result(&self, job_id: &JobId) -> Result<Option<JobResult>, QueueError> {
        Ok(self.results(std::slice::from_ref(job_id)).await?.pop().flatten())
    }

    /// The results of jobs, in the order of the ids; none for unknown ones. One round trip per runner kind.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`]
    pub async fn results(&self, job_ids: &[JobId]) -> Result<Vec<Option<JobResult>>, QueueError> {
        self.each(job_ids, &RESULT_FIELDS, true, |id, row, receipts| JobResult::from_row(id.clone(), row, receipts))
            .await
    }

    async fn each<T>(
        &self,
        job_ids: &[JobId],
        fields: &[&str],
        receipts: bool,
        read: impl Fn(&JobId, &[Value], &BTreeMap<String, Envelope>) -> Result<T, QueueError>,
    ) -> Result<Vec<Option<T>>, QueueError> {
        let mut kinds: BTreeMap<&RunnerKind, Vec<usize>> = BTreeMap::new();
        for (position, id) in job_ids.iter().enumerate() {
            kinds.entry(id.runner()).or_default().push(position);
        }
        let mut all: Vec<Option<T>> = job_ids.iter().map(|_| None).collect();
        for (kind, positions) in kinds {
            for positions in positions.chunks(if receipts { RESULTS } else { LOOK }) {
                let ids: Vec<&JobId> = positions.iter().map(|position| &job_ids[*position]).collect();
                let (rows, documents) = self.rows(kind, &ids, fields, receipts).await?;
                let documents = envelopes(&documents)?;
                for (position, row) in positions.iter().zip(&rows) {
                    if !row.is_empty() {
                        all[*position] = Some(read(&job_ids[*position], row, &documents)?);
                    }
                }
            }
        }
        Ok(all)
    }

    async fn rows(
        &self,
        kind: &RunnerKind,
        ids: &[&JobId],
        fields: &[&str],
        receipts: bool,
    ) -> Result<Rows, QueueError> {
        let mut args = Args::new();
        args.flag(receipts).number(fields.len());
        for field in fields {
            args.push(field);
        }
        for id in ids {
            args.push(id.local().as_str());
        }
        self.connection.run(&scripts::READ, &keys::base(kind), &args).await
    }

    /// A page of jobs, newest first. `cursor` is that of the page before. At most 1,000 jobs a page.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`]
    pub async fn list(&self, filter: &JobFilter, cursor: Option<&str>, limit: usize) -> Result<JobPage, QueueError> {
        let limit = limit.clamp(1, PAGE);
        let kinds = match &filter.runner {
            Some(kind) => vec![kind.clone()],
            None => self.kinds().await?,
        };
        // A text that is no cursor begins at nothing: the page is empty.
        let from = Begin(cursor.map(|text| ListCursor::parse(text).unwrap_or_default()));
        let mut found: Vec<(JobView, u64)> = Vec::new();
        let mut reached: BTreeMap<RunnerKind, Option<u64>> = BTreeMap::new();
        for kind in kinds {
            let Some(below) = from.of(&kind) else { continue };
            let (jobs, next) = self.list_kind(&kind, filter, below, limit).await?;
            found.extend(jobs);
            reached.insert(kind, next);
        }
        // The kinds are merged by age. What does not fit on the page is read again for the next one.
        found.sort_by(|(a, seq_a), (b, seq_b)| b.created_at.cmp(&a.created_at).then(seq_b.cmp(seq_a)));
        let mut next = ListCursor::default();
        for (job, seq) in found.iter().skip(limit) {
            let below = next.0.entry(job.runner.clone()).or_insert(0);
            *below = (*below).max(seq + 1);
        }
        for (kind, below) in reached {
            if let Some(below) = below {
                next.0.entry(kind).or_insert(below);
            }
        }
        found.truncate(limit);
        Ok(JobPage { jobs: found.into_iter().map(|(job, _)| job).collect(), cursor: next.show() })
    }

    /// Jobs of one kind below a sequence number, and where to go on.
    async fn list_kind(
        &self,
        kind: &RunnerKind,
        filter: &JobFilter,
        mut below: Option<u64>,
        limit: usize,
    ) -> Result<(Vec<(JobView, u64)>, Option<u64>), QueueError> {
        let mut jobs = Vec::new();
        for _ in 0..LOOKS {
            let mut args = Args::new();
            match below {
                Some(below) => args.number(below),
                None => args.push("+inf"),
            };
            args.number(limit - jobs.len()).number(LOOK);
            args.push(filter.status.map_or("", JobStatus::as_str));
            args.push(&filter.submitter.map(|peer| peer.to_string()).unwrap_or_default());
            for field in VIEW_FIELDS {
                args.push(field);
            }
            let reply: Vec<Value> = self.connection.run(&scripts::LIST, &keys::base(kind), &args).await?;
            for row in reply.iter().skip(1) {
                let Value::Array(row) = row else { return Err(QueueError::corrupt("a listed job is no row")) };
                let (Some(seq), Some(id), Some(Value::Array(fields))) =
                    (row.first().and_then(text), row.get(1).and_then(text), row.get(2))
                else {
                    return Err(QueueError::corrupt("a listed job has no id"));
                };
                let id = format!("{}-{id}", kind.as_str()).parse().map_err(QueueError::corrupt)?;
                jobs.push((JobView::from_row(id, fields)?, sequence(seq)?));
            }
            match reply.first().and_then(text) {
                None | Some("") => return Ok((jobs, None)),
                Some(next) => below = Some(sequence(next)?),
            }
            if jobs.len() >= limit {
                break;
            }
        }
        Ok((jobs, below))
    }

    /// Cancels a job: at once if it waits; a running one within a second, when its runner has stopped it. Gives where it stands now, none if
    /// it is unknown.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`]
    pub async fn cancel(&self, job_id: &JobId) -> Result<Option<JobStatus>, QueueError> {
        let mut args = Args::new();
        args.push(job_id.local().as_str());
        let reply: Vec<Value> = self.connection.run(&scripts::CANCEL, &keys::base(job_id.runner()), &args).await?;
        let Some(value) = reply.first() else { return Ok(None) };
        if text(value) == Some("") { Ok(None) } else { status(value).map(Some) }
    }

    /// Deletes a finished job with its output and log. Its id stays taken until its `run_until` and an hour have passed. False if the job is
    /// unknown or not finished.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`]
    pub async fn delete(&self, job_id: &JobId) -> Result<bool, QueueError> {
        let mut args = Args::new();
        args.push(job_id.local().as_str());
        let reply: Vec<i64> = self.connection.run(&scripts::DELETE, &keys::base(job_id.runner()), &args).await?;
        Ok(reply.first() == Some(&1))
    }

    /// The workflow envelope that was stored for jobs of this kind.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`]
    pub async fn workflow(&self, kind: &RunnerKind, digest: &Digest) -> Result<Option<Envelope>, QueueError> {
        envelope(self.document(kind, Document::Workflow(*digest)).await?)
    }

    /// The receipts envelope that was stored for jobs of this kind, or made by a runner of it.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`]
    pub async fn receipts(&self, kind: &RunnerKind, digest: &Digest) -> Result<Option<Envelope>, QueueError> {
        envelope(self.document(kind, Document::Receipts(*digest)).await?)
    }

    pub(crate) async fn document(&self, kind: &RunnerKind, document: Document) -> Result<Option<String>, QueueError> {
        let mut get = redis::cmd("HGET");
        get.arg(keys::key(kind, &document.name())).arg("envelope");
        self.connection.query(&get).await
    }
}

fn envelope(text: Option<String>) -> Result<Option<Envelope>, QueueError> {
    text.map(|text| Envelope::from_json(text.as_bytes()).map_err(QueueError::corrupt)).transpose()
}

fn sequence(text: &str) -> Result<u64, QueueError> {
    text.parse().map_err(|e| QueueError::corrupt(format_args!("sequence number {text:?}: {e}")))
}

/// Reads (digest, envelope, digest, envelope...).
fn envelopes(documents: &[String]) -> Result<BTreeMap<String, Envelope>, QueueError> {
    let pair = |pair: &[String]| {
        Envelope::from_json(pair[1].as_bytes()).map(|envelope| (pair[0].clone(), envelope)).map_err(QueueError::corrupt)
    };
    documents.as_chunks::<2>().0.iter().map(|p| pair(p)).collect()
}

/// Where a listing goes on: `<runner>:<sequence number>,...`; kinds that are not named are at their end.
#[derive(Debug, Default, PartialEq, Eq)]
struct ListCursor(BTreeMap<RunnerKind, u64>);

/// Whether a text is the cursor of a list of jobs: cheap to ask before a call.
#[must_use]
pub fn cursor_is_valid(cursor: &str) -> bool {
    cursor.len() <= 4096 && ListCursor::parse(cursor).is_some()
}

/// Where to begin: everywhere, or at a cursor.
struct Begin(Option<ListCursor>);

impl Begin {
    /// None if the kind is at its end; else the sequence number below which to look.
    #[allow(clippy::option_option)]
    fn of(&self, kind: &RunnerKind) -> Option<Option<u64>> {
        match &self.0 {
            None => Some(None),
            Some(cursor) => cursor.0.get(kind).map(|below| Some(*below)),
        }
    }
}

impl ListCursor {
    /// `None`: the text is no cursor.
    fn parse(text: &str) -> Option<Self> {
        let entry = |entry: &str| {
            let (kind, below) = entry.split_once(':')?;
            Some((kind.parse().ok()?, below.parse().ok()?))
        };
        text.split(',').map(entry).collect::<Option<_>>().map(Self)
    }

    fn show(&self) -> Option<String> {
        let entries: Vec<String> = self.0.iter().map(|(kind, below)| format!("{}:{below}", kind.as_str())).collect();
        (!entries.is_empty()).then(|| entries.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_can_be_read_back() {
        let mut cursor = ListCursor::default();
        assert_eq!(cursor.show(), None);
        cursor.0.insert("hero".parse().unwrap(), 12);
        cursor.0.insert("sal".parse().unwrap(), 7);
        let text = cursor.show().unwrap();
        assert!(cursor_is_valid(&text));
        let read = Begin(ListCursor::parse(&text));
        assert_eq!(read.of(&"sal".parse().unwrap()), Some(Some(7)));
        assert_eq!(read.of(&"osiris".parse().unwrap()), None, "it is at its end");
        assert_eq!(Begin(None).of(&"osiris".parse().unwrap()), Some(None));
        for rubbish in ["", "rubbish", "hero:", ":1", "hero:1,", "hero:-1", "He ro:1"] {
            assert!(!cursor_is_valid(rubbish), "{rubbish}");
        }
    }
}
