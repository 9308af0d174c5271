//! One workflow in Redis: created once, appended to by its owner, read by anybody.

use std::collections::HashMap;
use std::time::Duration;

use horus_keys::{Digest, Envelope, PeerId, Timestamp};
use horus_runners::job::WorkflowId;

use super::{Meta, Store, StoreError, key, scripts};
use crate::workflow::{Record, Snapshot, WorkflowStatus};

/// The owner of a workflow that was given up: no coordinator has such a name.
const NOBODY: &str = "nobody";

/// A workflow that is to be stored.
pub(crate) struct NewWorkflow<'a> {
    pub(crate) id: &'a WorkflowId,
    pub(crate) envelope: &'a Envelope,
    pub(crate) submitter: PeerId,
    pub(crate) name: &'a str,
    pub(crate) created_at: Timestamp,
    pub(crate) run_until: Timestamp,
    pub(crate) steps: usize,
    pub(crate) coordinators: &'a [PeerId],
    pub(crate) owner: &'a str,
}

/// What became of a submission.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Created {
    /// It is stored, and belongs to its owner under epoch 1.
    New,
    /// The very same workflow was stored before.
    Same(WorkflowStatus),
    /// Another workflow has the id.
    Conflict,
}

/// Who writes: a running coordinator, and the epoch in which the workflow became its own.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Writer<'a> {
    pub(crate) owner: &'a str,
    pub(crate) epoch: u64,
}

impl std::fmt::Display for Writer<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.owner, self.epoch)
    }
}

/// What happened to a workflow since the sequence `before`, with the outputs and receipts that it refers to.
pub(crate) struct Append<'a> {
    pub(crate) writer: Writer<'a>,
    pub(crate) before: u64,
    pub(crate) records: &'a [Record],
    pub(crate) status: WorkflowStatus,
    pub(crate) finished_at: Option<Timestamp>,
    pub(crate) outputs: &'a [(Digest, &'a str)],
    pub(crate) receipts: &'a [(Digest, &'a Envelope)],
}

/// A workflow as it is stored.
pub(crate) struct Stored {
    pub(crate) meta: Meta,
    pub(crate) envelope: Envelope,
    pub(crate) snapshot: Option<Snapshot>,
    pub(crate) records: Vec<Record>,
}

impl Store {
    /// Stores a workflow, unless its id is taken.
    pub(crate) async fn create(&self, new: &NewWorkflow<'_>) -> Result<Created, StoreError> {
        let coordinators: Vec<String> = new.coordinators.iter().map(ToString::to_string).collect();
        let digest = new.envelope.digest().to_string();
        let submitter = new.submitter.to_string();
        let (created, known, signer, status): (bool, String, String, String) = scripts::CREATE
            .key(key(new.id, "meta"))
            .key(key(new.id, "envelope"))
            .key(key(new.id, "journal"))
            .arg(&digest)
            .arg(&submitter)
            .arg(new.name)
            .arg(new.created_at.as_millis())
            .arg(new.run_until.as_millis())
            .arg(new.steps)
            .arg(new.owner)
            .arg(coordinators.join(","))
            .arg(new.envelope.to_json())
            .invoke_async(&mut self.link.clone())
            .await?;
        // Two keys can sign one payload: it is the same workflow only if the same key is responsible.
        Ok(match (created, known == digest && signer == submitter) {
            (true, _) => Created::New,
            (false, true) => {
                Created::Same(WorkflowStatus::from_name(&status).ok_or_else(|| corrupt(new.id, "status"))?)
            }
            (false, false) => Created::Conflict,
        })
    }

    /// Appends to the journal, if the epoch is still the writer's. The same append twice is made once.
    pub(crate) async fn append(&self, id: &WorkflowId, append: &Append<'_>) -> Result<(), StoreError> {
        let after = append.before + append.records.len() as u64;
        let mut call = scripts::APPEND.key(key(id, "meta"));
        call.key(key(id, "journal")).key(key(id, "outputs")).key(key(id, "receipts"));
        call.arg(append.writer.to_string()).arg(append.before).arg(after);
        call.arg(append.status.as_str());
        call.arg(append.finished_at.map_or_else(String::new, |at| at.as_millis().to_string()));
        call.arg(append.records.len());
        for record in append.records {
            call.arg(serde_json::to_string(record).expect("a record has no map with keys that are not strings"));
        }
        call.arg(append.outputs.len());
        for (digest, text) in append.outputs {
            call.arg(&digest.as_bytes()[..]).arg(*text);
        }
        call.arg(append.receipts.len());
        for (digest, envelope) in append.receipts {
            call.arg(&digest.as_bytes()[..]).arg(envelope.to_json());
        }
        let answer = call.invoke_async::<String>(&mut self.link.clone()).await;
        understand(id, &answer.map_err(|error| StoreError::of(id, error))?)
    }

    /// Replaces snapshot and journal by a newer snapshot, taken at `sequence`.
    pub(crate) async fn snapshot(
        &self,
        id: &WorkflowId,
        writer: Writer<'_>,
        sequence: u64,
        snapshot: &Snapshot,
    ) -> Result<(), StoreError> {
        let text = serde_json::to_vec(snapshot).expect("a snapshot has no map with keys that are not strings");
        let answer = scripts::SNAPSHOT
            .key(key(id, "meta"))
            .key(key(id, "snapshot"))
            .key(key(id, "journal"))
            .arg(writer.to_string())
            .arg(sequence)
            .arg(text)
            .invoke_async::<String>(&mut self.link.clone())
            .await;
        understand(id, &answer.map_err(|error| StoreError::of(id, error))?)
    }

    /// Lets a workflow's keys expire: what it was and did after `keep`, that its id is taken after `remember`, if that is later.
    pub(crate) async fn expire(&self, id: &WorkflowId, keep: Duration, remember: Duration) -> Result<(), StoreError> {
        let millis = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        let mut pipe = redis::pipe();
        pipe.atomic();
        for part in ["envelope", "snapshot", "outputs", "receipts"] {
            pipe.pexpire(key(id, part), millis(keep)).ignore();
        }
        pipe.pexpire(key(id, "meta"), millis(keep.max(remember))).ignore();
        pipe.query_async::<()>(&mut self.link.clone()).await?;
        Ok(())
    }

    /// A workflow's short description, unless all that is left of it is that its id is taken.
    pub(crate) async fn kept(&self, id: &WorkflowId) -> Result<Option<Meta>, StoreError> {
        let (meta, is_kept): (HashMap<String, String>, bool) = redis::pipe()
            .atomic()
            .hgetall(key(id, "meta"))
            .exists(key(id, "envelope"))
            .query_async(&mut self.link.clone())
            .await
            .map_err(|error| StoreError::of(id, error))?;
        if is_kept { read_meta(id, &meta) } else { Ok(None) }
    }

    /// Whether a workflow is to be forgotten after some time.
    pub(crate) async fn expires(&self, id: &WorkflowId) -> Result<bool, StoreError> {
        let left: i64 = redis::cmd("PTTL").arg(key(id, "meta")).query_async(&mut self.link.clone()).await?;
        Ok(left >= 0)
    }

    /// A workflow as it is stored, if it is.
    pub(crate) async fn load(&self, id: &WorkflowId) -> Result<Option<Stored>, StoreError> {
        type Parts = (HashMap<String, String>, Option<Vec<u8>>, Option<Vec<u8>>, Vec<Vec<u8>>);
        let (meta, envelope, snapshot, records): Parts = redis::pipe()
            .atomic()
            .hgetall(key(id, "meta"))
            .get(key(id, "envelope"))
            .get(key(id, "snapshot"))
            .lrange(key(id, "journal"), 0, -1)
            .query_async(&mut self.link.clone())
            .await
            .map_err(|error| StoreError::of(id, error))?;
        let (Some(meta), Some(envelope)) = (read_meta(id, &meta)?, envelope) else { return Ok(None) };
        let envelope = Envelope::from_json(&envelope).map_err(|e| corrupt(id, format!("envelope: {e}")))?;
        let snapshot = snapshot
            .map(|text| serde_json::from_slice(&text).map_err(|e| corrupt(id, format!("snapshot: {e}"))))
            .transpose()?;
        let records = records
            .iter()
            .map(|text| serde_json::from_slice(text).map_err(|e| corrupt(id, format!("journal: {e}"))))
            .collect::<Result<_, _>>()?;
        Ok(Some(Stored { meta, envelope, snapshot, records }))
    }

    /// A workflow's short description, if it is stored.
    pub(crate) async fn meta(&self, id: &WorkflowId) -> Result<Option<Meta>, StoreError> {
        let meta = redis::cmd("HGETALL").arg(key(id, "meta")).query_async(&mut self.link.clone()).await;
        read_meta(id, &meta.map_err(|error| StoreError::of(id, error))?)
    }

    /// Outputs by digest, in the order asked for.
    pub(crate) async fn outputs(&self, id: &WorkflowId, digests: &[Digest]) -> Result<Vec<Option<String>>, StoreError> {
        self.by_digest(id, "outputs", digests).await
    }

    /// Receipts by the digest of their batch, in the order asked for.
    pub(crate) async fn receipts(
        &self,
        id: &WorkflowId,
        digests: &[Digest],
    ) -> Result<Vec<Option<Envelope>>, StoreError> {
        let texts = self.by_digest(id, "receipts", digests).await?;
        let read =
            |text: String| Envelope::from_json(text.as_bytes()).map_err(|e| corrupt(id, format!("receipt: {e}")));
        texts.into_iter().map(|text| text.map(read).transpose()).collect()
    }

    async fn by_digest(
        &self,
        id: &WorkflowId,
        part: &str,
        digests: &[Digest],
    ) -> Result<Vec<Option<String>>, StoreError> {
        if digests.is_empty() {
            return Ok(Vec::new());
        }
        let mut cmd = redis::cmd("HMGET");
        cmd.arg(key(id, part));
        for digest in digests {
            cmd.arg(&digest.as_bytes()[..]);
        }
        cmd.query_async(&mut self.link.clone()).await.map_err(|error| StoreError::of(id, error))
    }

    /// Makes `new_owner` the writer, if nobody else became it since `seen` was read. Returns the new epoch.
    pub(crate) async fn take_over(
        &self,
        id: &WorkflowId,
        seen: &Meta,
        new_owner: &str,
    ) -> Result<Option<u64>, StoreError> {
        Ok(scripts::TAKE_OVER
            .key(key(id, "meta"))
            .arg(&seen.owner)
            .arg(seen.epoch)
            .arg(new_owner)
            .invoke_async(&mut self.link.clone())
            .await?)
    }

    /// Gives a workflow up that its owner cannot use, for another coordinator to take over.
    pub(crate) async fn give_up(&self, id: &WorkflowId, writer: Writer<'_>) -> Result<(), StoreError> {
        let mut call = scripts::TAKE_OVER.key(key(id, "meta"));
        call.arg(writer.owner).arg(writer.epoch).arg(NOBODY);
        let _: Option<u64> = call.invoke_async(&mut self.link.clone()).await?;
        Ok(())
    }
}

fn understand(id: &WorkflowId, answer: &str) -> Result<(), StoreError> {
    match answer {
        "OK" | "DONE" => Ok(()),
        "FENCED" => Err(StoreError::Fenced(id.clone())),
        "GONE" => Err(corrupt(id, "it was deleted from Redis while it ran")),
        _ => Err(StoreError::Rewound(id.clone())),
    }
}

fn corrupt(id: &WorkflowId, reason: impl Into<String>) -> StoreError {
    StoreError::Corrupt { id: id.clone(), reason: reason.into() }
}

fn read_meta(id: &WorkflowId, fields: &HashMap<String, String>) -> Result<Option<Meta>, StoreError> {
    if fields.is_empty() {
        return Ok(None);
    }
    fn read<T: std::str::FromStr>(
        id: &WorkflowId,
        fields: &HashMap<String, String>,
        name: &str,
    ) -> Result<T, StoreError> {
        let text = fields.get(name).ok_or_else(|| corrupt(id, format!("{name} is missing")))?;
        text.parse().map_err(|_| corrupt(id, format!("{name} is {text:?}")))
    }
    let status: String = read(id, fields, "status")?;
    let coordinators: String = read(id, fields, "coordinators")?;
    Ok(Some(Meta {
        digest: read(id, fields, "digest")?,
        submitter: read(id, fields, "submitter")?,
        name: read(id, fields, "name")?,
        created_at: Timestamp::from_millis(read(id, fields, "created_at")?),
        finished_at: match fields.get("finished_at") {
            Some(_) => Some(Timestamp::from_millis(read(id, fields, "finished_at")?)),
            None => None,
        },
        status: WorkflowStatus::from_name(&status).ok_or_else(|| corrupt(id, format!("status is {status:?}")))?,
        steps: read(id, fields, "steps")?,
        sequence: read(id, fields, "sequence")?,
        owner: read(id, fields, "owner")?,
        epoch: read(id, fields, "epoch")?,
        coordinators: coordinators
            .split(',')
            .filter(|text| !text.is_empty())
            .map(|text| text.parse().map_err(|_| corrupt(id, format!("coordinator {text:?}"))))
            .collect::<Result<_, _>>()?,
    }))
}
