//! The store alone: fencing, and appends whose answer is lost.

use horus_keys::{Digest, Envelope, PayloadType, Timestamp};
use horus_runners::job::WorkflowId;

use super::key;
use super::redis::TestRedis;
use crate::coordinator::store::{Append, Created, NewWorkflow, Store, StoreError, Writer};
use crate::workflow::{Event, Record, WorkflowStatus};

fn record(n: i64) -> Record {
    Record { at: Timestamp::from_millis(n), event: Event::DeadlinePassed }
}

fn append<'a>(owner: &'a str, epoch: u64, before: u64, records: &'a [Record]) -> Append<'a> {
    let (status, finished_at) = (WorkflowStatus::Running, None);
    Append { writer: Writer { owner, epoch }, before, records, status, finished_at, outputs: &[], receipts: &[] }
}

#[tokio::test]
async fn only_the_owner_writes_and_a_repeated_append_is_made_once() {
    let redis = TestRedis::start();
    let store = Store::connect(&redis.url()).await.unwrap();
    let id: WorkflowId = "w".parse().unwrap();
    let envelope = Envelope::sign(&key(1), PayloadType::Workflow, b"{}".to_vec());
    let new = NewWorkflow {
        id: &id,
        envelope: &envelope,
        submitter: key(1).peer_id(),
        name: "n",
        created_at: Timestamp::from_millis(5),
        run_until: Timestamp::from_millis(9),
        steps: 3,
        coordinators: &[key(10).peer_id(), key(11).peer_id()],
        owner: "first",
    };
    assert_eq!(store.create(&new).await.unwrap(), Created::New);
    assert_eq!(store.create(&new).await.unwrap(), Created::Same(WorkflowStatus::Pending));
    let other = Envelope::sign(&key(1), PayloadType::Workflow, b"[]".to_vec());
    assert_eq!(store.create(&NewWorkflow { envelope: &other, ..new }).await.unwrap(), Created::Conflict);
    let twin = Envelope::sign(&key(2), PayloadType::Workflow, b"{}".to_vec());
    let by_another = NewWorkflow { envelope: &twin, submitter: key(2).peer_id(), ..new };
    assert_eq!(store.create(&by_another).await.unwrap(), Created::Conflict, "the same payload, but another signer");

    let two = [record(1), record(2)];
    let output = (Digest::of(b"7"), "7");
    let with_output = Append { outputs: &[output], ..append("first", 1, 0, &two) };
    store.append(&id, &with_output).await.unwrap();
    store.append(&id, &with_output).await.expect("its answer may have been lost: made before, and fine");
    let gap = store.append(&id, &append("first", 1, 1, &two)).await;
    assert!(matches!(gap, Err(StoreError::Rewound(_))), "{gap:?}");

    let meta = store.meta(&id).await.unwrap().unwrap();
    assert_eq!((meta.sequence, meta.epoch, meta.steps, meta.coordinators.len()), (2, 1, 3, 2));
    assert_eq!(store.take_over(&id, &meta, "second").await.unwrap(), Some(2));
    assert_eq!(store.take_over(&id, &meta, "third").await.unwrap(), None, "somebody was faster");
    let late = store.append(&id, &append("first", 1, 2, &[record(3)])).await;
    assert_eq!(late, Err(StoreError::Fenced(id.clone())));
    let other = store.append(&id, &append("third", 2, 2, &[record(3)])).await;
    assert_eq!(other, Err(StoreError::Fenced(id.clone())), "the same epoch, given out by a Redis that lost it once");
    store.append(&id, &append("second", 2, 2, &[record(4)])).await.unwrap();

    let stored = store.load(&id).await.unwrap().unwrap();
    assert_eq!(stored.records, [record(1), record(2), record(4)]);
    assert_eq!(stored.envelope.digest(), envelope.digest());
    assert_eq!(store.outputs(&id, &[output.0, Digest::of(b"8")]).await.unwrap(), [Some("7".to_owned()), None]);
}

#[tokio::test]
async fn a_list_is_paged_without_loss_even_within_one_millisecond() {
    let redis = TestRedis::start();
    let store = Store::connect(&redis.url()).await.unwrap();
    let peer = key(1).peer_id();
    for n in 0..23 {
        let id: WorkflowId = format!("w{n:02}").parse().unwrap();
        store.list_in(&id, &peer, Timestamp::from_millis(1000 + n / 10)).await.unwrap();
    }
    for size in [1, 4, 50] {
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            let page = store.listed(Some(&peer), after.as_ref(), size).await.unwrap();
            all.extend(page.iter().map(|(id, _)| id.to_string()));
            after = page.last().cloned();
            if page.len() < size {
                break;
            }
        }
        let expected: Vec<String> = (0..23).rev().map(|n| format!("w{n:02}")).collect();
        assert_eq!(all, expected, "pages of {size}");
    }
}

#[tokio::test]
async fn lists_forget_what_has_expired() {
    let redis = TestRedis::start();
    let store = Store::connect(&redis.url()).await.unwrap();
    let peer = key(1).peer_id();
    let ids: Vec<WorkflowId> = (0..6).map(|n| format!("w{n}").parse().unwrap()).collect();
    for (n, id) in (0..).zip(&ids) {
        store.list_in(id, &peer, Timestamp::from_millis(1000 + n)).await.unwrap();
    }
    store.list_out(None, &ids[..2]).await.unwrap();
    store.trim_lists(Timestamp::from_millis(1001)).await.unwrap();
    assert_eq!(store.listed(Some(&peer), None, 10).await.unwrap().len(), 5, "what is young stays");
    store.trim_lists(Timestamp::now()).await.unwrap();
    let left = store.listed(Some(&peer), None, 10).await.unwrap();
    assert_eq!(left, store.listed(None, None, 10).await.unwrap());
    assert_eq!(left.len(), 4);
}
