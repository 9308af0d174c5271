//! What Horus relies on in the mycelium daemon, checked on the simulator and on real daemons.
//!
//! The checks run on the simulator, one test each. With `MYCELIUM_BIN` set to a mycelium binary they run
//! on three real daemons too, in network namespaces (needs root and iproute2): `real_daemons`.

#![allow(clippy::unwrap_used)]

mod api;
// This and `real` are shared with the tests of RPC, which use more of them.
#[allow(dead_code)]
mod client;
mod delivery;
mod lifecycle;
mod mesh;
#[allow(dead_code)]
mod real;
mod replies;
mod simulator;
mod topics;

use std::future::Future;
use std::time::Duration;

use mesh::Mesh;

/// How long one check may take on the slower of the two.
const LIMIT: Duration = Duration::from_secs(90);

async fn bounded(name: &str, check: impl Future<Output = ()>) {
    assert!(tokio::time::timeout(LIMIT, check).await.is_ok(), "{name} took longer than {LIMIT:?}");
}

macro_rules! checks {
    ($($room:ident :: $name:ident),* $(,)?) => {
        mod simulated {
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    bounded(stringify!($name), $room::$name(&Mesh::simulated().await)).await;
                }
            )*
        }

        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn real_daemons() {
            let Some(mesh) = Mesh::real().await else { return };
            $(
                eprintln!("{} ...", stringify!($name));
                mesh.drain().await;
                bounded(stringify!($name), $room::$name(&mesh)).await;
            )*
        }
    };
}

checks! {
    api::a_node_says_who_it_is,
    api::keys_of_others_are_known_by_their_addresses,
    api::parameters_go_by_position_and_by_name,
    api::wrong_parameters_are_refused,
    api::a_batch_of_calls_is_answered,
    api::a_waiting_pop_holds_up_every_other_call_of_its_node,
    api::a_body_over_ten_mebibytes_is_refused,
    api::a_hundred_requests_at_a_time_are_served,
    delivery::a_request_is_answered_by_the_forward_socket,
    delivery::payloads_and_topics_are_any_bytes,
    delivery::the_socket_sees_no_end_of_the_message,
    delivery::a_socket_may_take_its_time,
    delivery::messages_reach_a_socket_side_by_side,
    delivery::what_no_socket_answers_falls_into_the_inbox,
    delivery::the_inbox_gives_the_oldest_first,
    delivery::a_daemon_answers_for_all_addresses_of_its_subnet,
    delivery::a_message_to_oneself_never_arrives,
    delivery::a_mebibyte_arrives,
    replies::without_a_reply_in_time_there_is_the_id_and_no_error,
    replies::a_late_reply_falls_into_the_inbox_under_the_empty_topic,
    replies::a_popped_message_can_be_answered_by_its_id,
    replies::a_reply_is_taken_from_anybody_but_says_who_sent_it,
    topics::topics_are_listed_and_removed,
    topics::a_topic_takes_from_its_sources_only,
    topics::other_topics_are_taken_unless_told_otherwise,
    topics::a_socket_can_be_set_for_known_topics_only,
    lifecycle::a_restarted_daemon_has_forgotten_all_but_its_key,
    lifecycle::a_message_waits_for_a_cut_wire,
    lifecycle::a_message_waits_for_a_daemon_that_is_down,
}
