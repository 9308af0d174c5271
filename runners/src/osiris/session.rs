//! What one run of a script has read and wants to change. Nothing is written before the script has ended.

use std::{collections::BTreeMap, future::Future};

use rhai::{EvalAltResult, Map, Position};
use tokio::{runtime::Handle, time::Instant};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    commit::{Effects, Write},
    filter::{Filter, Page},
    options::{CHANGED_BYTES, RESULT_BYTES, RESULT_RECORDS, SESSION_RECORDS},
    record::{Record, failure},
    store::{Row4, Store, database_error},
    trouble::patiently,
};
use crate::{
    executor::LogSink,
    script::{ScriptFailure, failed_by},
};

type Result<T> = std::result::Result<T, Box<EvalAltResult>>;

/// Records fetched by one statement of a scan.
const SCAN_PAGE: usize = 512;

pub(super) struct Session {
    pub(super) log: LogSink,
    pub(super) stop: CancellationToken,
    pub(super) deadline: Instant,
    pub(super) memory_bytes: u64,
    store: Store,
    runtime: Handle,
    models: BTreeMap<String, BTreeMap<String, Entry>>,
    scans: BTreeMap<String, i64>,
    records: usize,
    changed_bytes: usize,
}

/// A record that the script has named.
struct Entry {
    base: Base,
    now: Option<Record>,
    /// The JSON of `now` if it was changed.
    body: Option<String>,
    changed: bool,
}

/// What the database had when the script first looked.
#[derive(Clone, Copy)]
enum Base {
    /// A fresh id: nobody can have it.
    Fresh,
    Absent,
    Revision(i64),
}

impl Session {
    pub(super) fn new(
        store: Store,
        runtime: Handle,
        log: LogSink,
        stop: CancellationToken,
        deadline: Instant,
        memory_bytes: u64,
    ) -> Self {
        let (models, scans) = (BTreeMap::new(), BTreeMap::new());
        Self { log, stop, deadline, memory_bytes, store, runtime, models, scans, records: 0, changed_bytes: 0 }
    }

    /// Why the script must stop, if it must.
    pub(super) fn stopped(&self) -> Option<ScriptFailure> {
        if Instant::now() >= self.deadline {
            return Some(ScriptFailure::new("TIMED_OUT", "the script ran out of time; nothing of it was stored"));
        }
        let cancelled = || ScriptFailure::new("CANCELLED", "the job was cancelled; nothing of it was stored");
        self.stop.is_cancelled().then(cancelled)
    }

    /// Waits for the database on the script's thread.
    fn ask<T>(&self, question: impl Future<Output = std::result::Result<T, sqlx::Error>>) -> Result<T> {
        let answer = self.runtime.block_on(async {
            tokio::select! {
                answer = question => Some(answer),
                () = self.stop.cancelled() => None,
                () = tokio::time::sleep_until(self.deadline) => None,
            }
        });
        match answer {
            Some(Ok(answer)) => Ok(answer),
            Some(Err(e)) => {
                let error = database_error(&e);
                Err(failure(&error.code, error.message))
            }
            None => {
                let why = self.stopped().unwrap_or_else(|| ScriptFailure::new("CANCELLED", "the job was cancelled"));
                Err(Box::new(EvalAltResult::ErrorTerminated(failed_by(&why.code, why.message), Position::NONE)))
            }
        }
    }

    pub(super) fn create(&mut self, model: &str, map: Map) -> Result<Map> {
        let mut fresh = false;
        let record = Record::new(map, || {
            fresh = true;
            Uuid::now_v7().to_string()
        })?;
        let id = record.id.clone();
        if fresh {
            self.remember(model, &id, Base::Fresh, None)?;
        } else if self.entry(model, &id)?.now.is_some() {
            let text = format!("{model} has a record {id:?} already: update it, or let create choose the id");
            return Err(failure("RECORD_EXISTS", text));
        }
        self.change(model, &id, Some(record))
    }

    pub(super) fn get(&mut self, model: &str, id: &str) -> Result<Option<Map>> {
        Ok(self.entry(model, id)?.now.as_ref().map(Record::to_map))
    }

    /// Changes a stored record; an error if there is none.
    pub(super) fn update(&mut self, model: &str, id: &str, how: impl FnOnce(&mut Record) -> Result<()>) -> Result<Map> {
        let Some(mut record) = self.entry(model, id)?.now.clone() else {
            let text = format!(
                "{model} has no record {id:?}: create it, or look with get(id) first, which is () if there is none"
            );
            return Err(failure("RECORD_NOT_FOUND", text));
        };
        how(&mut record)?;
        self.change(model, id, Some(record))
    }

    /// Whether there was one.
    pub(super) fn delete(&mut self, model: &str, id: &str) -> Result<bool> {
        let existed = self.entry(model, id)?.now.is_some();
        if existed {
            self.change(model, id, None)?;
        }
        Ok(existed)
    }

    pub(super) fn find(&mut self, model: &str, filter: &Filter, page: &Page) -> Result<Vec<Record>> {
        self.note_scan(model)?;
        let wanted = page.limit.unwrap_or(RESULT_RECORDS + 1);
        let mut found = Vec::new();
        let mut bytes = 0;
        self.scan(model, filter, &page.after, |record, size| {
            bytes += size;
            found.push(record);
            found.len() < wanted && bytes <= RESULT_BYTES
        })?;
        let own = self.models.get(model).into_iter().flatten().filter(|(id, entry)| entry.changed && **id > page.after);
        for (_, entry) in own {
            if let Some(record) = entry.now.as_ref().filter(|record| filter.matches(record)) {
                bytes += entry.body.as_ref().map_or(0, String::len);
                found.push(record.clone());
            }
        }
        found.sort_by(|a, b| a.id.cmp(&b.id));
        found.truncate(wanted);
        if bytes > RESULT_BYTES || found.len() > RESULT_RECORDS {
            let limit = format!("{RESULT_RECORDS} records or {RESULT_BYTES} bytes");
            let text =
                format!("more than {limit} of {model} match: filter, or page with #{{limit: n, after: last_id}}");
            return Err(failure("TOO_LARGE", text));
        }
        Ok(found)
    }

    pub(super) fn count(&mut self, model: &str, filter: &Filter) -> Result<i64> {
        self.note_scan(model)?;
        let mut count = 0;
        if filter.is_empty() {
            count = self.ask(patiently(|| self.store.count(model)))?;
            // What is committed is counted: take away what the script has changed of it, and add how that is now.
            for entry in self.changed(model) {
                count -= i64::from(matches!(entry.base, Base::Revision(_)));
                count += i64::from(entry.now.is_some());
            }
            return Ok(count);
        }
        self.scan(model, filter, "", |_, _| {
            count += 1;
            true
        })?;
        let own = self.changed(model).filter(|entry| entry.now.as_ref().is_some_and(|record| filter.matches(record)));
        Ok(count + i64::try_from(own.count()).unwrap_or(i64::MAX))
    }

    fn changed(&self, model: &str) -> impl Iterator<Item = &Entry> {
        self.models.get(model).into_iter().flat_map(BTreeMap::values).filter(|entry| entry.changed)
    }

    /// Committed records that match and that the script has not changed, in order of their ids, until `take` says no.
    fn scan(
        &self,
        model: &str,
        filter: &Filter,
        after: &str,
        mut take: impl FnMut(Record, usize) -> bool,
    ) -> Result<()> {
        let own = self.models.get(model);
        let needle = filter.needle();
        let mut after = after.to_owned();
        // Small pages first: most scans want few records.
        let mut limit = 64;
        loop {
            if let Some(stop) = self.stopped() {
                return Err(Box::new(EvalAltResult::ErrorTerminated(
                    failed_by(&stop.code, stop.message),
                    Position::NONE,
                )));
            }
            let rows = self.ask(patiently(|| self.store.scan(model, &after, &needle, limit as i64)))?;
            let last_page = rows.len() < limit;
            for row in rows {
                let Row4 { id, created_at, updated_at, body } = row;
                after.clone_from(&id);
                if own.and_then(|own| own.get(&id)).is_some_and(|entry| entry.changed) {
                    continue;
                }
                let record = Record::stored(id, created_at, updated_at, &body)?;
                if filter.matches(&record) && !take(record, body.len()) {
                    return Ok(());
                }
            }
            if last_page {
                return Ok(());
            }
            limit = (limit * 2).min(SCAN_PAGE);
        }
    }

    /// Before the first scan of a model: if the model has changed by the commit, the scan may be outdated.
    fn note_scan(&mut self, model: &str) -> Result<()> {
        if !self.scans.contains_key(model) {
            let changes = self.ask(patiently(|| self.store.changes(model)))?;
            self.scans.insert(model.to_owned(), changes);
        }
        Ok(())
    }

    /// What the script knows of a record; asks the database the first time.
    fn entry(&mut self, model: &str, id: &str) -> Result<&Entry> {
        if !self.models.get(model).is_some_and(|own| own.contains_key(id)) {
            match self.ask(patiently(|| self.store.get(model, id)))? {
                Some((revision, row)) => {
                    let record = Record::stored(row.id, row.created_at, row.updated_at, &row.body)?;
                    self.remember(model, id, Base::Revision(revision), Some(record))?;
                }
                None => self.remember(model, id, Base::Absent, None)?,
            }
        }
        Ok(self.models.get(model).and_then(|own| own.get(id)).expect("it was there, or was just put there"))
    }

    fn remember(&mut self, model: &str, id: &str, base: Base, now: Option<Record>) -> Result<()> {
        self.records += 1;
        if self.records > SESSION_RECORDS {
            let text =
                format!("one job may read or change at most {SESSION_RECORDS} records by id: split it into several");
            return Err(failure("TOO_LARGE", text));
        }
        let entry = Entry { base, now, body: None, changed: false };
        self.models.entry(model.to_owned()).or_default().insert(id.to_owned(), entry);
        Ok(())
    }

    fn change(&mut self, model: &str, id: &str, now: Option<Record>) -> Result<Map> {
        let body = now.as_ref().map(Record::body).transpose()?;
        let map = now.as_ref().map(Record::to_map).unwrap_or_default();
        let entry =
            self.models.get_mut(model).and_then(|own| own.get_mut(id)).expect("remembered before it is changed");
        self.changed_bytes += body.as_ref().map_or(0, String::len);
        self.changed_bytes -= entry.body.as_ref().map_or(0, String::len);
        if self.changed_bytes > CHANGED_BYTES {
            let text = format!("one job may change at most {CHANGED_BYTES} bytes of records: split it into several");
            return Err(failure("TOO_LARGE", text));
        }
        (entry.now, entry.body, entry.changed) = (now, body, true);
        Ok(map)
    }

    /// What must still be true, and what shall become true.
    pub(super) fn into_effects(self) -> Effects {
        let mut effects = Effects { scans: self.scans.into_iter().collect(), ..Effects::default() };
        for (model, own) in self.models {
            for (id, entry) in own {
                let existed = matches!(entry.base, Base::Revision(_));
                match entry.base {
                    Base::Fresh => {}
                    Base::Absent => effects.reads.push((model.clone(), id.clone(), None)),
                    Base::Revision(revision) => effects.reads.push((model.clone(), id.clone(), Some(revision))),
                }
                match entry.now {
                    Some(record) if entry.changed => effects.writes.push(Write {
                        model: model.clone(),
                        id,
                        created_at: record.created_at.as_millis(),
                        updated_at: record.updated_at.as_millis(),
                        body: entry.body,
                    }),
                    None if existed && entry.changed => {
                        effects.writes.push(Write {
                            model: model.clone(),
                            id,
                            created_at: 0,
                            updated_at: 0,
                            body: None,
                        });
                    }
                    _ => {}
                }
            }
        }
        effects
    }
}
