//! What signatures cost: making and checking them, opening envelopes, call signatures, names of keys.
#![allow(missing_docs, reason = "criterion's macros make public items")]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use horus_keys::{CallClaims, Envelope, Identity, PayloadType, PeerId, Timestamp};

/// About as long as a batch of 50 small jobs.
const BATCH_BYTES: usize = 12 * 1024;

fn envelopes(c: &mut Criterion) {
    let alice = Identity::from_seed(&[1; 32]);
    for (name, length) in [("small", 256), ("batch", BATCH_BYTES)] {
        let payload = vec![b'x'; length];
        let envelope = Envelope::sign(&alice, PayloadType::Jobs, payload.clone());
        let json = envelope.to_json();
        c.bench_function(&format!("envelope/sign/{name}"), |b| {
            b.iter(|| Envelope::sign(&alice, PayloadType::Jobs, black_box(payload.clone())));
        });
        c.bench_function(&format!("envelope/verify/{name}"), |b| {
            b.iter(|| black_box(&envelope).verify(PayloadType::Jobs).expect("it was signed above"));
        });
        c.bench_function(&format!("envelope/open/{name}"), |b| {
            b.iter(|| {
                let read = Envelope::from_json(black_box(json.as_bytes())).expect("it was written above");
                read.verify(PayloadType::Jobs).expect("it was signed above")
            });
        });
        c.bench_function(&format!("envelope/write/{name}"), |b| b.iter(|| black_box(&envelope).to_json()));
    }
}

fn calls(c: &mut Criterion) {
    let (alice, node) = (Identity::from_seed(&[1; 32]), Identity::from_seed(&[2; 32]).peer_id());
    let body = br#"{"jsonrpc":"2.0","id":0,"method":"list_runners","params":{}}"#;
    let now = Timestamp::now();
    let header = CallClaims::authorize(&alice, node, body, now, None);
    c.bench_function("call/authorize", |b| b.iter(|| CallClaims::authorize(&alice, node, black_box(body), now, None)));
    c.bench_function("call/check", |b| {
        b.iter(|| CallClaims::check(black_box(&header), node, body, now).expect("it was signed above"));
    });
}

fn names(c: &mut Criterion) {
    let peer_id = Identity::from_seed(&[1; 32]).peer_id();
    let text = peer_id.to_string();
    c.bench_function("peer_id/write", |b| b.iter(|| black_box(peer_id).to_string()));
    c.bench_function("peer_id/read", |b| b.iter(|| black_box(&text).parse::<PeerId>().expect("it was written above")));
}

criterion_group!(benches, envelopes, calls, names);
criterion_main!(benches);
