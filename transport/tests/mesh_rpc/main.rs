//! The same RPC over HTTP, over a simulated mesh, and over real mycelium daemons.
//!
//! With `MYCELIUM_BIN` set to a mycelium binary the checks run on real daemons too, in network
//! namespaces (needs root and iproute2): `real_daemons`.

#![allow(clippy::unwrap_used)]

#[path = "../mesh_daemon/client.rs"]
#[allow(dead_code)]
mod client;
#[path = "../mesh_daemon/real.rs"]
#[allow(dead_code)]
mod real;

mod budgets;
mod calls;
mod faults;
mod frames;
mod measure;
mod paths;
mod service;
mod silent;
mod slow;
mod world;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use world::World;

/// How long one check may take.
const LIMIT: Duration = Duration::from_secs(120);

async fn bounded(name: &str, check: impl Future<Output = ()>) {
    assert!(tokio::time::timeout(LIMIT, check).await.is_ok(), "{name} took longer than {LIMIT:?}");
}

macro_rules! checks {
    (everywhere: $($room:ident :: $name:ident),*; on_a_mesh: $($mesh_room:ident :: $mesh_name:ident),* $(;)?) => {
        mod http {
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    bounded(stringify!($name), $room::$name(&World::http().await)).await;
                }
            )*
        }

        mod simulated {
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    let world = World::simulated().await;
                    bounded(stringify!($name), $room::$name(&world)).await;
                    world.end().await;
                }
            )*
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $mesh_name() {
                    let world = World::simulated().await;
                    bounded(stringify!($mesh_name), $mesh_room::$mesh_name(&world)).await;
                    world.end().await;
                }
            )*
        }

        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn real_daemons() {
            let Some(mesh) = real::RealMesh::up(2).await else { return };
            let mesh = Arc::new(mesh);
            let only = std::env::var("MESH_RPC_ONLY").unwrap_or_default();
            $(real_daemon_check!(mesh, only, $room::$name);)*
            $(real_daemon_check!(mesh, only, $mesh_room::$mesh_name);)*
        }
    };
}

macro_rules! real_daemon_check {
    ($mesh:ident, $only:ident, $room:ident :: $name:ident) => {
        if stringify!($name).contains($only.as_str()) {
            let begin = std::time::Instant::now();
            let world = World::real(&$mesh).await;
            bounded(stringify!($name), $room::$name(&world)).await;
            world.end().await;
            eprintln!("{} {:?}", stringify!($name), begin.elapsed());
        }
    };
}

checks! {
    everywhere:
        calls::a_call_is_answered,
        calls::errors_keep_their_kind_and_data,
        calls::signed_calls_are_known_by_their_signer,
        calls::a_stranger_is_refused_everything_but_the_open_methods,
        calls::another_key_than_the_pinned_one_is_refused,
        calls::a_batch_is_answered_in_order,
        calls::notifications_take_effect_and_get_no_reply,
        calls::many_concurrent_calls_get_their_own_replies,
        calls::a_deadline_holds,
        calls::a_slow_call_holds_up_no_other,
        calls::long_polls_return_when_it_happens_and_hold_up_no_call,
        calls::what_is_discovered_is_the_same;
    on_a_mesh:
        calls::too_large_requests_and_replies_are_refused_with_advice,
        frames::any_mycelium_client_can_call_with_bare_json,
        frames::every_message_gets_an_answer,
        frames::slow_and_broken_peers_of_the_socket_do_no_harm,
        frames::a_flood_from_strangers_is_held_off,
        frames::few_messages_are_parked_for_strangers,
        frames::an_entry_that_comes_twice_runs_once,
        frames::requests_that_waited_in_the_inbox_are_served_if_they_are_fresh,
        budgets::a_thousand_calls_travel_in_forty_messages,
        budgets::a_waiting_call_costs_nothing_until_it_ends,
        budgets::a_waiting_call_to_a_peer_that_was_silent_is_asked_after_once,
        budgets::an_idle_mesh_sends_nothing,
        budgets::nothing_is_left_in_any_inbox,
        faults::the_own_address_is_called_through_the_socket,
        faults::nobody_serves_the_topic,
        faults::the_peer_is_unreachable_and_comes_back,
        faults::the_callers_daemon_goes_and_comes,
        faults::the_callers_daemon_comes_up_alone,
        faults::the_callees_daemon_is_restarted,
        faults::a_long_poll_survives_a_restart_of_the_callees_daemon;
}

/// Figures for docs/MESH.md, no check: see `measure.rs`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn measured() {
    measure::measure().await;
}
