//! Signs of life.

use std::collections::HashMap;
use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use super::*;
use crate::coordinator::store::Store;
use crate::coordinator::watchman::DEAD_AFTER;

/// A way to Redis on which every answer takes that long.
async fn slow_way(world: &World, delay: Duration) -> String {
    let redis = world.redis.url().trim_start_matches("unix://").to_owned();
    let path = world.directory.path().join("slow.sock");
    let listener = UnixListener::bind(&path).unwrap();
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let (mut from_far, mut to_far) = UnixStream::connect(&redis).await.unwrap().into_split();
            let (mut from_near, mut to_near) = near.into_split();
            tokio::spawn(async move { tokio::io::copy(&mut from_near, &mut to_far).await });
            let (late, mut due) = tokio::sync::mpsc::unbounded_channel();
            tokio::spawn(async move {
                let mut buffer = vec![0; 64 << 10];
                while let Ok(count @ 1..) = from_far.read(&mut buffer).await {
                    let _ = late.send((tokio::time::Instant::now() + delay, buffer[..count].to_vec()));
                }
            });
            tokio::spawn(async move {
                while let Some((at, bytes)) = due.recv().await {
                    tokio::time::sleep_until(at).await;
                    if to_near.write_all(&bytes).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    format!("unix://{}", path.display())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_takes_over_much_shows_that_it_lives_meanwhile() {
    const WORKFLOWS: usize = 14;
    let world = World::new(1).await;
    let first = world.start_as(10).await;
    for n in 0..WORKFLOWS {
        world.submit(&first, &format!("w{n}"), &workflow(&["a noop hold"])).await;
    }
    first.stop().await;
    let store = Store::connect(&world.redis.url()).await.unwrap();
    let second = world.start_with(11, &slow_way(&world, Duration::from_millis(120)).await).await;
    let mut counters: HashMap<String, (u64, Instant)> = HashMap::new();
    let (mut longest, mut taken, mut began) = (Duration::ZERO, 0, None);
    let deadline = Instant::now() + Duration::from_secs(60);
    while taken < WORKFLOWS {
        assert!(Instant::now() < deadline, "{taken} were taken over");
        for (instance, beats) in store.beats().await.unwrap() {
            let (last, since) = counters.entry(instance).or_insert((beats, Instant::now()));
            longest = longest.max(since.elapsed());
            if *last != beats {
                (*last, *since) = (beats, Instant::now());
            }
        }
        taken = 0;
        for n in 0..WORKFLOWS {
            let meta = store.meta(&format!("w{n}").parse().unwrap()).await.unwrap().unwrap();
            taken += usize::from(meta.epoch > 1);
        }
        if taken > 0 {
            began.get_or_insert_with(Instant::now);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let took = began.map(|began| began.elapsed()).unwrap_or_default();
    assert!(took > DEAD_AFTER, "it has hardly anything to do: {took:?}");
    assert!(longest < DEAD_AFTER, "its counter stood still for {longest:?}: another one would take it for dead");
    drop(second);
}
