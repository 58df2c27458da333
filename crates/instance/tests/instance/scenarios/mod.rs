//! The real server on loopback with a scripted MID: what must hold whatever the database is.

#![deny(dead_code, reason = "a scenario that is in no group of `for_each_scenario` would never run")]

mod at_rest;
mod audit;
mod backlog;
mod caps;
mod clients;
mod clusters;
mod ends;
mod grants;
mod incarnations;
mod leases;
mod messages;
pub(crate) mod support;
mod terms;
mod traces;

pub(crate) use at_rest::{
    Canaries, a_connection_keeps_metadata_only, a_large_body_is_in_pieces_and_answers_to_polls_have_a_bound,
    keys_rotate_and_what_a_lost_one_wrote_is_told, what_is_finished_is_kept_up_to_a_size,
};
pub(crate) use audit::{
    a_history_written_anew_is_found_by_the_checkpoints_that_a_mid_has_kept, entries as audit_entries,
    lines as audit_lines, old_blocks_and_checkpoints_go_and_what_is_left_is_whole,
    the_audit_tells_who_asked_what_and_how_it_ended_and_is_whole, the_figures_tell_what_waits_and_how_it_ended,
    what_a_crashed_instance_left_unsigned_is_signed_by_the_next_one_and_goes,
    who_is_refused_at_the_mids_door_leaves_a_trace,
};
use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
pub(crate) use backlog::{
    a_degraded_resolver_serves_what_nobody_else_may_that_has_it_ready,
    each_of_many_connections_with_limits_has_its_turn, interactive_requests_go_first_and_then_the_connections_in_turn,
    what_expires_at_once_ends_in_several_transactions, what_nobody_can_take_is_in_nobodys_way,
};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
pub(crate) use caps::{a_full_queue_takes_only_what_a_mid_takes_at_once, later, queue};
pub(crate) use clients::{
    a_change_that_depends_on_what_was_seen_is_refused_after_another_one,
    a_client_beyond_its_rate_is_told_when_to_come_back, a_rotated_key_overlaps_and_an_expired_one_is_refused,
    an_oauth_client_gets_short_lived_tokens_at_the_instances_own_endpoint, each_role_may_do_its_own_and_nothing_else,
    lists_come_in_pages_and_by_filters,
};
pub(crate) use clusters::{
    a_cluster_balances_by_what_each_mid_can_take, a_cluster_fails_over_in_its_order,
    a_dead_mid_is_shown_as_not_live_within_ten_seconds, a_mid_is_paused_drained_and_given_a_new_key,
    an_address_chooses_the_cluster_of_its_network, clusters_hold_together_with_what_names_them,
};
pub(crate) use ends::{
    a_caller_whose_call_was_handed_back_and_that_nobody_else_can_serve_learns_it,
    a_report_that_is_repeated_is_none_of_a_stranger,
    what_expires_between_two_attempts_is_a_dead_letter_and_in_the_audit,
    what_waits_for_its_next_attempt_may_be_cancelled_and_ends_as_its_last_one,
    what_was_handed_back_unsent_may_be_cancelled,
};
pub(crate) use grants::{
    grants_issuers_and_replay_methods_are_kept, the_connection_says_what_is_given_out_again_after_a_mid_was_lost,
};
use http::Method;
pub(crate) use incarnations::{
    a_heartbeat_that_says_nothing_new_is_stored_with_the_others,
    a_mid_that_was_cloned_is_told_and_only_the_newer_one_works, an_enrollment_whose_answer_got_lost_is_given_again,
};
pub(crate) use leases::{
    a_lease_whose_time_runs_out_ends_though_its_mid_lives, a_restart_gives_leases_one_period_of_grace,
};
pub(crate) use messages::{
    a_mid_hands_back_a_bounded_number_at_once, a_nul_in_a_mids_message_fails_nobody_elses,
    an_apis_headers_come_as_they_are, what_no_database_could_be_asked_for_is_not_there,
};
use midward_wire::{EnrollToken, MidState, paths, state_signing_input};
use serde_json::{Value, json};
use support::{Instance, Place, ScriptedMid, document, eventually, eventually_within};
pub(crate) use terms::{
    a_connection_has_its_concurrency_and_rate, a_delayed_request_is_sent_when_its_time_has_come,
    what_the_policy_says_is_tried_again_and_then_a_dead_letter, what_was_noted_of_a_connections_rate_goes_with_it,
};
pub(crate) use traces::{
    a_callers_trace_goes_on_once_and_a_bad_one_does_not, a_queued_request_keeps_its_trace_and_its_idempotency_key,
    no_answer_of_the_call_listener_is_anything_to_a_browser, the_figures_tell_how_long_a_call_waited_and_ran,
};

/// Calls a macro with the names of all scenarios, in groups that are run side by side.
macro_rules! for_each_scenario {
    ($run:ident) => {
        $run! {
            configuration: {
                apply_is_idempotent_and_a_dry_run_changes_nothing,
                documents_that_do_not_hold_together_change_nothing,
                grants_issuers_and_replay_methods_are_kept,
                clusters_hold_together_with_what_names_them,
                a_jar_is_kept_for_mids_and_given_out_by_its_digest,
                a_change_that_depends_on_what_was_seen_is_refused_after_another_one,
                lists_come_in_pages_and_by_filters,
                bad_requests_are_refused_before_they_are_stored,
                what_no_database_could_be_asked_for_is_not_there,
                an_idempotency_key_makes_one_request,
                nobody_is_listened_to_for_long_before_showing_a_key,
            }
            audit_and_clients: {
                the_audit_tells_who_asked_what_and_how_it_ended_and_is_whole,
                a_history_written_anew_is_found_by_the_checkpoints_that_a_mid_has_kept,
                old_blocks_and_checkpoints_go_and_what_is_left_is_whole,
                what_a_crashed_instance_left_unsigned_is_signed_by_the_next_one_and_goes,
                who_is_refused_at_the_mids_door_leaves_a_trace,
                the_figures_tell_what_waits_and_how_it_ended,
                each_role_may_do_its_own_and_nothing_else,
                a_rotated_key_overlaps_and_an_expired_one_is_refused,
                an_oauth_client_gets_short_lived_tokens_at_the_instances_own_endpoint,
                a_client_beyond_its_rate_is_told_when_to_come_back,
                a_callers_key_makes_calls_through_its_connections_and_nothing_else,
            }
            calls: {
                a_synchronous_call_gets_the_apis_own_answer,
                an_apis_headers_come_as_they_are,
                what_the_connection_header_names_is_not_passed_on,
                an_answer_may_be_larger_than_a_request,
                without_a_mid_that_applies_the_caller_learns_why,
                a_caller_whose_mid_died_before_it_took_the_call_learns_it,
                a_caller_whose_call_was_handed_back_and_that_nobody_else_can_serve_learns_it,
                a_callers_trace_goes_on_once_and_a_bad_one_does_not,
                a_queued_request_keeps_its_trace_and_its_idempotency_key,
                the_figures_tell_how_long_a_call_waited_and_ran,
                no_answer_of_the_call_listener_is_anything_to_a_browser,
            }
            mids: {
                enrollment_validation_and_the_signed_word_about_it,
                an_enrollment_whose_answer_got_lost_is_given_again,
                a_mid_that_was_cloned_is_told_and_only_the_newer_one_works,
                a_heartbeat_that_says_nothing_new_is_stored_with_the_others,
                a_nul_in_a_mids_message_fails_nobody_elses,
                a_mid_is_paused_drained_and_given_a_new_key,
                a_dead_mid_is_shown_as_not_live_within_ten_seconds,
                a_cluster_balances_by_what_each_mid_can_take,
                a_cluster_fails_over_in_its_order,
                an_address_chooses_the_cluster_of_its_network,
            }
            leases_and_ends: {
                a_lost_batch_is_delivered_again_and_executed_once,
                a_draining_mid_gets_back_the_batch_that_got_lost_and_nothing_new,
                a_mid_hands_back_a_bounded_number_at_once,
                a_new_incarnation_ends_the_leases_of_the_old_one,
                the_work_of_a_dead_mid_moves_and_what_may_not_be_repeated_is_unknown,
                the_connection_says_what_is_given_out_again_after_a_mid_was_lost,
                a_restart_keeps_what_was_accepted,
                a_lease_whose_time_runs_out_ends_though_its_mid_lives,
                a_restart_gives_leases_one_period_of_grace,
                a_request_that_was_given_out_and_then_expired_is_unknown_not_unsent,
                an_expired_request_is_never_leased,
                a_request_may_be_cancelled_until_a_mid_has_it,
                what_was_handed_back_unsent_may_be_cancelled,
                a_report_that_is_repeated_is_none_of_a_stranger,
            }
            the_queue: {
                interactive_requests_go_before_older_standard_ones,
                interactive_requests_go_first_and_then_the_connections_in_turn,
                each_of_many_connections_with_limits_has_its_turn,
                what_nobody_can_take_is_in_nobodys_way,
                a_degraded_resolver_serves_what_nobody_else_may_that_has_it_ready,
                a_full_queue_takes_only_what_a_mid_takes_at_once,
                a_delayed_request_is_sent_when_its_time_has_come,
                a_connection_has_its_concurrency_and_rate,
                what_was_noted_of_a_connections_rate_goes_with_it,
                what_the_policy_says_is_tried_again_and_then_a_dead_letter,
                what_waits_for_its_next_attempt_may_be_cancelled_and_ends_as_its_last_one,
                what_expires_between_two_attempts_is_a_dead_letter_and_in_the_audit,
                what_expires_at_once_ends_in_several_transactions,
            }
            what_is_stored: {
                keys_rotate_and_what_a_lost_one_wrote_is_told,
                a_connection_keeps_metadata_only,
                a_large_body_is_in_pieces_and_answers_to_polls_have_a_bound,
                what_is_finished_is_kept_up_to_a_size,
                what_is_finished_is_kept_for_its_time_and_then_removed,
            }
        }
    };
}
pub(crate) use for_each_scenario;

pub(crate) async fn with_document(place: &Place) -> Instance {
    let instance = Instance::start(place, None).await;
    let (status, answer) = instance.post("/api/v1/apply", &document()).await;
    assert_eq!(status, 200, "{answer}");
    instance
}

pub(crate) async fn submit(instance: &Instance, method: &str) -> String {
    let request = json!({"connection": "crm", "method": method, "path": "/x"});
    let (status, answer) = instance.post("/api/v1/requests", &request).await;
    assert_eq!(status, 202, "{answer}");
    answer["id"].as_str().expect("an id").to_owned()
}

pub(crate) async fn apply_is_idempotent_and_a_dry_run_changes_nothing(place: Place) {
    let instance = Instance::start(&place, None).await;
    let (status, answer) = instance.post("/api/v1/apply?dry_run=true", &document()).await;
    assert_eq!((status, answer["changes"].as_array().map(Vec::len)), (200, Some(4)), "{answer}");
    assert!(!place.path().join("first-admin-key").exists(), "the one-time file is gone after its first use");
    assert_eq!(instance.get("/api/v1/connections").await.1["items"], json!([]));
    instance.post("/api/v1/apply", &document()).await;
    let (_, answer) = instance.post("/api/v1/apply", &document()).await;
    assert_eq!(answer["changes"], json!([]));
    let mut changed = document();
    changed["connections"][0]["timeout_ms"] = json!(5);
    let (_, answer) = instance.post("/api/v1/apply", &changed).await;
    assert_eq!(answer["changes"][0]["fields"], json!(["timeout_ms"]), "{answer}");
    instance.stop().await;
}

pub(crate) async fn documents_that_do_not_hold_together_change_nothing(place: Place) {
    let instance = Instance::start(&place, None).await;
    let cases: [(&str, Value, &str); 6] = [
        ("/connections/0/credential", json!("nobody"), "dangling_reference"),
        ("/connections/0/base_url", json!("https://u:p@api.test"), "invalid_url"),
        ("/oauth_entities/0/token_url", json!("ftp://idp.test"), "invalid_url"),
        ("/connections/0/alias", json!("a/b"), "invalid_name"),
        (
            "/credentials/0",
            json!({"name": "c", "credential_id": "x", "resolver": "r",
            "oauth_entity_profile": "crm-read", "client_secret": "hunter2"}),
            "secret_refused",
        ),
        ("/credentials/0/applies_to", json!({"mids": []}), "invalid_record"),
    ];
    for (pointer, value, code) in cases {
        let mut bad = document();
        *bad.pointer_mut(pointer).expect("a place") = value;
        let (status, answer) = instance.post("/api/v1/apply", &bad).await;
        assert_eq!((status, answer["code"].as_str()), (400, Some(code)), "{pointer}: {answer}");
        assert!(!answer.to_string().contains("hunter2"));
    }
    assert_eq!(instance.get("/api/v1/oauth-entities").await.1["items"], json!([]));
    instance.stop().await;
}

pub(crate) async fn a_callers_key_makes_calls_through_its_connections_and_nothing_else(place: Place) {
    let instance = with_document(&place).await;
    let new = json!({"name": "app", "role": "caller", "connections": ["other"]});
    let (status, answer) = instance.post("/api/v1/api-keys", &new).await;
    assert_eq!(status, 201, "{answer}");
    let key = answer["key"].as_str().expect("a key");
    assert_eq!(instance.api_as(key, Method::GET, "/api/v1/connections", &Value::Null).await.0, 403);
    let request = json!({"connection": "crm", "method": "GET", "path": "/"});
    assert_eq!(instance.api_as(key, Method::POST, "/api/v1/requests", &request).await.0, 403);
    assert_eq!(instance.api_as("mwk_wrong", Method::GET, "/api/v1/connections", &Value::Null).await.0, 401);
    let id = submit(&instance, "GET").await;
    assert_eq!(instance.api_as(key, Method::GET, &format!("/api/v1/requests/{id}"), &Value::Null).await.0, 404);
    assert_eq!(instance.api_as(&instance.key, Method::DELETE, "/api/v1/api-keys/app", &Value::Null).await.0, 204);
    assert_eq!(instance.api_as(key, Method::GET, "/api/v1/requests", &Value::Null).await.0, 401, "dropped at once");
    instance.stop().await;
}

pub(crate) async fn a_synchronous_call_gets_the_apis_own_answer(place: Place) {
    let instance = with_document(&place).await;
    let mut mid = ScriptedMid::working(&instance, "mid-a").await;
    let request = instance
        .call(Method::POST, "crm/call/items/7?x=%20y")
        .header("x-tenant", "t")
        .header("cookie", "c=d")
        .header("x-forwarded-for", "1.2.3.4")
        .header("midward-trace", "1")
        .body(Bytes::from("hello"))
        .expect("a request");
    let (answer, ()) = tokio::join!(instance.send(request), async {
        let leases = mid.poll(&instance, 5000, true).await;
        let [lease] = leases.as_slice() else { panic!("one lease: {leases:?}") };
        assert_eq!(
            (lease.epoch, lease.call.path.as_str(), lease.call.body.0.as_slice()),
            (1, "/items/7?x=%20y", &b"hello"[..])
        );
        let names: Vec<&str> = lease.call.headers.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["x-tenant"], "nothing that is not the caller's to set");
        let (status, config) = instance
            .api_as(&mid.token, Method::GET, &format!("{}/{}", paths::CONFIG, lease.config), &Value::Null)
            .await;
        assert_eq!((status, config["connection"]["base_url"].as_str()), (200, Some("https://api.test/v1")));
        assert_eq!(mid.report(&instance, &lease.request_id, lease.epoch, "world").await, "accepted");
    });
    assert_eq!((answer.status().as_u16(), &answer.body()[..]), (201, &b"world"[..]));
    let header = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok());
    assert_eq!((header("x-api"), header("set-cookie"), header("connection")), (Some("yes"), None, None));
    assert_eq!(
        (header("x-content-type-options"), header("content-security-policy")),
        (Some("nosniff"), Some("sandbox"))
    );
    assert_eq!(header("proxy-status"), Some("midward; received-status=201"));
    assert!(header("midward-trace").is_some_and(|trace| trace.contains("POST answered 201")));
    instance.stop().await;
}

pub(crate) async fn a_lost_batch_is_delivered_again_and_executed_once(place: Place) {
    let instance = with_document(&place).await;
    let mut mid = ScriptedMid::working(&instance, "mid-a").await;
    let id = submit(&instance, "POST").await;
    let first = mid.poll(&instance, 5000, false).await;
    let again = mid.poll(&instance, 5000, true).await;
    assert_eq!((first.len(), again.len()), (1, 1));
    assert_eq!((&first[0].request_id, first[0].epoch), (&again[0].request_id, again[0].epoch));
    assert!(mid.poll(&instance, 50, true).await.is_empty(), "acknowledged");
    assert_eq!(mid.report(&instance, &id, 2, "x").await, "refused", "an epoch that was never given");
    assert_eq!(mid.report(&instance, &id, 1, "x").await, "accepted");
    assert_eq!(mid.report(&instance, &id, 1, "x").await, "accepted", "the same outcome again");
    assert_eq!(mid.report(&instance, &id, 1, "y").await, "refused", "another outcome stands");
    let other = ScriptedMid::working(&instance, "mid-b").await;
    assert_eq!(other.report(&instance, &id, 1, "x").await, "refused", "not its request");
    let (_, shown) = instance.get(&format!("/api/v1/requests/{id}")).await;
    assert_eq!(
        (shown["state"].as_str(), shown["body_base64"].as_str()),
        (Some("replied"), Some(STANDARD.encode("x").as_str()))
    );
    instance.stop().await;
}

pub(crate) async fn a_new_incarnation_ends_the_leases_of_the_old_one(place: Place) {
    let instance = with_document(&place).await;
    let mut mid = ScriptedMid::working(&instance, "mid-a").await;
    let (get, post) = (submit(&instance, "GET").await, submit(&instance, "POST").await);
    mid.hold(&instance, 2).await;
    mid.incarnation = "inc-2".into();
    mid.received = 0;
    assert_eq!(mid.heartbeat(&instance, "ready").await.0, 200);
    let again = mid.poll(&instance, 5000, true).await;
    assert_eq!(again.iter().map(|lease| (&lease.request_id, lease.epoch)).collect::<Vec<_>>(), [(&get, 2)]);
    let (_, shown) = instance.get(&format!("/api/v1/requests/{post}?wait_ms=5000")).await;
    assert_eq!((shown["state"].as_str(), shown["failure"]["code"].as_str()), (Some("unknown"), Some("mid_lost")));
    assert_eq!(mid.report(&instance, &post, 1, "late").await, "accepted", "a late outcome replaces unknown");
    assert_eq!(mid.report(&instance, &get, 1, "old").await, "refused", "somebody was given it again");
    instance.stop().await;
}

pub(crate) async fn the_work_of_a_dead_mid_moves_and_what_may_not_be_repeated_is_unknown(place: Place) {
    let instance = with_document(&place).await;
    let mut dying = ScriptedMid::working(&instance, "mid-a").await;
    let (get, post) = (submit(&instance, "GET").await, submit(&instance, "POST").await);
    dying.hold(&instance, 2).await;
    let mut heir = ScriptedMid::working(&instance, "mid-b").await;
    let look = async || {
        assert_eq!(heir.heartbeat(&instance, "ready").await.0, 200);
        heir.poll(&instance, 1000, true).await
    };
    let bound = std::time::Duration::from_secs(15);
    let moved = eventually_within(bound, "its work moves", look, |leases| !leases.is_empty()).await;
    assert_eq!(moved.iter().map(|lease| (&lease.request_id, lease.epoch)).collect::<Vec<_>>(), [(&get, 2)]);
    let (_, shown) = instance.get(&format!("/api/v1/requests/{post}?wait_ms=5000")).await;
    assert_eq!((shown["state"].as_str(), shown["failure"]["code"].as_str()), (Some("unknown"), Some("mid_lost")));
    // It was only cut off, and comes back.
    assert_eq!(dying.heartbeat(&instance, "ready").await.0, 200);
    assert_eq!(dying.report(&instance, &get, 1, "old").await, "refused", "another MID has it");
    assert_eq!(dying.report(&instance, &post, 1, "late").await, "accepted", "a late outcome replaces unknown");
    instance.stop().await;
}

pub(crate) async fn a_caller_whose_mid_died_before_it_took_the_call_learns_it(place: Place) {
    let instance = with_document(&place).await;
    let mid = ScriptedMid::working(&instance, "mid-a").await;
    // It counts as alive and never polls.
    let request = instance.call(Method::POST, "crm/call/x").body(Bytes::new()).expect("a request");
    let (answer, ()) = tokio::join!(instance.send(request), async {
        let look = async || instance.get("/api/v1/requests").await.1;
        eventually("the call waits", look, |all| all["items"].as_array().is_some_and(|items| !items.is_empty())).await;
    });
    let problem: Value = serde_json::from_slice(answer.body()).expect("a problem");
    assert_eq!((answer.status().as_u16(), problem["code"].as_str()), (503, Some("no_mid")), "{problem}");
    let id = problem["request_id"].as_str().expect("an id");
    let (_, shown) = instance.get(&format!("/api/v1/requests/{id}")).await;
    assert_eq!(shown["state"], "failed", "nobody runs it later: {shown}");
    assert_eq!(mid.heartbeat(&instance, "ready").await.0, 200);
    instance.stop().await;
}

pub(crate) async fn what_is_finished_is_kept_for_its_time_and_then_removed(mut place: Place) {
    let instance = with_document(&place).await;
    let mut mid = ScriptedMid::working(&instance, "mid-a").await;
    let (done, open) = (submit(&instance, "GET").await, submit(&instance, "GET").await);
    mid.hold(&instance, 2).await;
    assert_eq!(mid.report(&instance, &done, 1, "x").await, "accepted");
    let status = async |instance: &Instance, id: &str| instance.get(&format!("/api/v1/requests/{id}")).await.0;
    assert_eq!(status(&instance, &done).await, 200);
    let key = instance.key.clone();
    instance.stop().await;
    // Kept for no time: the first round comes at the start.
    place.finished_hours = 0;
    let instance = Instance::start(&place, Some(key)).await;
    eventually("it is removed", async || status(&instance, &done).await, |status| *status == 404).await;
    assert_eq!(status(&instance, &open).await, 200, "a request that runs stays, however old");
    assert_eq!(mid.report(&instance, &open, 1, "y").await, "accepted");
    instance.stop().await;
}

pub(crate) async fn interactive_requests_go_before_older_standard_ones(place: Place) {
    let instance = with_document(&place).await;
    let mut ids = Vec::new();
    for priority in ["standard", "interactive"] {
        let request = json!({"connection": "crm", "method": "GET", "path": "/x", "priority": priority});
        let (status, answer) = instance.post("/api/v1/requests", &request).await;
        assert_eq!(status, 202, "{answer}");
        ids.push(answer["id"].as_str().expect("an id").to_owned());
    }
    let mut mid = ScriptedMid::working(&instance, "mid-a").await;
    for id in [&ids[1], &ids[0]] {
        let leases = mid.poll_for(&instance, 1, 5000, true).await;
        assert_eq!(leases.iter().map(|lease| &lease.request_id).collect::<Vec<_>>(), [id]);
    }
    let bad = json!({"connection": "crm", "method": "GET", "path": "/x", "priority": "urgent"});
    assert_eq!(instance.post("/api/v1/requests", &bad).await.0, 400);
    instance.stop().await;
}

pub(crate) async fn a_request_may_be_cancelled_until_a_mid_has_it(place: Place) {
    let instance = with_document(&place).await;
    let id = submit(&instance, "POST").await;
    let (path, watched) = (format!("/api/v1/requests/{id}/cancel"), format!("/api/v1/requests/{id}?wait_ms=20000"));
    // One who waits for it already is told at once.
    let (waiting, (status, answer)) = tokio::join!(instance.get(&watched), instance.post(&path, &Value::Null));
    assert_eq!((status, answer["failure"]["code"].as_str()), (200, Some("cancelled")), "{answer}");
    assert_eq!(waiting.1["state"], "failed", "{}", waiting.1);
    let (status, answer) = instance.post(&path, &Value::Null).await;
    assert_eq!((status, answer["code"].as_str()), (409, Some("too_late_to_cancel")), "{answer}");
    let mut mid = ScriptedMid::working(&instance, "mid-a").await;
    assert!(mid.poll(&instance, 200, true).await.is_empty(), "it is never sent");
    let held = submit(&instance, "POST").await;
    assert_eq!(mid.poll(&instance, 5000, true).await.len(), 1);
    assert_eq!(instance.post(&format!("/api/v1/requests/{held}/cancel"), &Value::Null).await.0, 409);
    assert_eq!(mid.report(&instance, &held, 1, "x").await, "accepted", "and it runs on");
    assert_eq!(instance.post("/api/v1/requests/nobody/cancel", &Value::Null).await.0, 404);
    instance.stop().await;
}

pub(crate) async fn without_a_mid_that_applies_the_caller_learns_why(place: Place) {
    let instance = with_document(&place).await;
    let call = async |want: &str| {
        let request = instance.call(Method::GET, "crm/call/x").body(Bytes::new()).expect("a request");
        let answer = instance.send(request).await;
        let problem: Value = serde_json::from_slice(answer.body()).expect("a problem");
        assert_eq!((answer.status().as_u16(), problem["code"].as_str()), (503, Some("no_mid")), "{problem}");
        assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains(want)), "{want}: {problem}");
    };
    call("none is enrolled").await;
    let mut mid = ScriptedMid::enroll(&instance, "mid-a", false).await;
    call("mid-a waits to be validated").await;
    instance.post("/api/v1/mids/mid-a/validate", &Value::Null).await;
    call("mid-a is down").await;
    mid.sign_in(&instance, "j").await;
    mid.heartbeat(&instance, "unusable").await;
    call("resolver cyberark on mid-a is unusable: JAR missing").await;
    let id = submit(&instance, "GET").await;
    let (_, shown) = instance.get(&format!("/api/v1/requests/{id}")).await;
    assert_eq!((shown["state"].as_str(), shown["waiting_because"]["code"].as_str()), (Some("queued"), Some("no_mid")));
    mid.heartbeat(&instance, "ready").await;
    assert_eq!(mid.poll(&instance, 5000, true).await.len(), 1, "served once somebody can");
    instance.stop().await;
}

pub(crate) async fn enrollment_validation_and_the_signed_word_about_it(place: Place) {
    let instance = with_document(&place).await;
    let token = instance.enroll_token("mid-x", true).await;
    let key = URL_SAFE_NO_PAD.encode([7; 32]);
    let request = json!({"version": 1, "secret": token.secret, "name": "mid-x", "public_key": key});
    assert_eq!(instance.post(paths::ENROLL, &request).await.0, 200);
    let mut other = request.clone();
    other["public_key"] = json!(URL_SAFE_NO_PAD.encode([8; 32]));
    let (status, answer) = instance.post(paths::ENROLL, &other).await;
    assert_eq!((status, answer["code"].as_str()), (403, Some("enroll_token_refused")), "used once");

    let mut mid = ScriptedMid::enroll(&instance, "mid-a", false).await;
    let refused = async |mid: &ScriptedMid, token: &EnrollToken, jti: &str, state: MidState| {
        let (status, answer) = mid.token_request(&instance, jti).await;
        assert_eq!((status, answer["error"].as_str()), (401, Some("invalid_client")), "{answer}");
        assert_eq!(answer["state"]["state"], json!(state));
        let signature = URL_SAFE_NO_PAD.decode(answer["state"]["signature"].as_str().expect("text")).expect("base64");
        let public = URL_SAFE_NO_PAD.decode(&token.instance_key).expect("base64");
        UnparsedPublicKey::new(&ED25519, public)
            .verify(&state_signing_input(&mid.id, state, jti), &signature)
            .expect("the instance's signature");
    };
    refused(&mid, &token, "a", MidState::Enrolled).await;
    instance.post("/api/v1/mids/mid-a/validate", &Value::Null).await;
    mid.sign_in(&instance, "b").await;
    let (status, answer) = mid.token_request(&instance, "b").await;
    assert_eq!((status, &answer["state"]), (401, &Value::Null), "an assertion is good once");
    assert_eq!(mid.heartbeat(&instance, "ready").await.0, 200);
    instance.post("/api/v1/mids/mid-a/invalidate", &Value::Null).await;
    assert_eq!(mid.heartbeat(&instance, "ready").await.0, 401, "its tokens ended at once");
    refused(&mid, &token, "c", MidState::Invalidated).await;
    instance.stop().await;
}

pub(crate) async fn bad_requests_are_refused_before_they_are_stored(place: Place) {
    let instance = with_document(&place).await;
    for (field, value, code) in [
        ("headers", json!([["Authorization", "Bearer x"]]), "header_refused"),
        ("headers", json!([["X-A", "a\r\nB: c"]]), "header_refused"),
        ("path", json!("//evil/x"), "path_refused"),
        ("path", json!("/a/%2e%2e/b"), "path_refused"),
        ("path", json!("http://evil/"), "path_refused"),
        ("method", json!("TRACE"), "method_refused"),
        ("surprise", json!(1), "invalid_json"),
        ("idempotency_key", json!(""), "invalid_key"),
        ("idempotency_key", json!("a\0b"), "invalid_key"),
        ("idempotency_key", json!("k".repeat(201)), "invalid_key"),
        ("not_before", json!(-1), "invalid_not_before"),
        ("body_base64", json!("!"), "invalid_body"),
    ] {
        let mut request = json!({"connection": "crm", "method": "GET", "path": "/"});
        request[field] = value;
        let (status, answer) = instance.post("/api/v1/requests", &request).await;
        assert_eq!((status, answer["code"].as_str()), (400, Some(code)), "{request}: {answer}");
    }
    let (status, answer) =
        instance.post("/api/v1/requests", &json!({"connection": "no", "method": "GET", "path": "/"})).await;
    assert_eq!((status, answer["code"].as_str()), (404, Some("unknown_connection")));
    let large = instance.call(Method::POST, "crm/call/x").body(Bytes::from(vec![b'x'; 65 * 1024])).expect("a request");
    assert_eq!(instance.send(large).await.status().as_u16(), 413);
    assert_eq!(instance.get("/api/v1/requests").await.1["items"], json!([]));
    instance.stop().await;
}

pub(crate) async fn an_idempotency_key_makes_one_request(place: Place) {
    let instance = with_document(&place).await;
    let mut request = json!({"connection": "crm", "method": "POST", "path": "/", "idempotency_key": "k"});
    let (status, first) = instance.post("/api/v1/requests", &request).await;
    let (again, second) = instance.post("/api/v1/requests", &request).await;
    assert_eq!((status, again, &first["id"]), (202, 200, &second["id"]));
    request["path"] = json!("/other");
    assert_eq!(instance.post("/api/v1/requests", &request).await.0, 422);
    instance.stop().await;
}

pub(crate) async fn an_expired_request_is_never_leased(place: Place) {
    let instance = with_document(&place).await;
    let request = json!({"connection": "crm", "method": "POST", "path": "/", "expires_in_ms": 1});
    let (_, answer) = instance.post("/api/v1/requests", &request).await;
    let id = answer["id"].as_str().expect("an id");
    let (_, shown) = instance.get(&format!("/api/v1/requests/{id}?wait_ms=10000")).await;
    assert_eq!((shown["state"].as_str(), shown["failure"]["code"].as_str()), (Some("failed"), Some("expired")));
    let mut mid = ScriptedMid::working(&instance, "mid-a").await;
    assert!(mid.poll(&instance, 100, true).await.is_empty());
    instance.stop().await;
}

pub(crate) async fn a_restart_keeps_what_was_accepted(place: Place) {
    let instance = with_document(&place).await;
    let mut mid = ScriptedMid::working(&instance, "mid-a").await;
    let held = submit(&instance, "POST").await;
    assert_eq!(mid.poll(&instance, 5000, false).await.len(), 1);
    let queued = submit(&instance, "POST").await;
    let key = instance.key.clone();
    instance.stop().await;

    let instance = Instance::start(&place, Some(key)).await;
    // The lost batch first, then what is queued.
    assert_eq!(mid.heartbeat(&instance, "ready").await.0, 200);
    let leases = mid.hold(&instance, 2).await;
    assert_eq!(leases.iter().map(|lease| &lease.request_id).collect::<Vec<_>>(), [&held, &queued]);
    assert_eq!(mid.report(&instance, &held, 1, "x").await, "accepted");
    instance.stop().await;
}

pub(crate) async fn a_draining_mid_gets_back_the_batch_that_got_lost_and_nothing_new(place: Place) {
    let instance = with_document(&place).await;
    let mut mid = ScriptedMid::working(&instance, "mid-a").await;
    let lost = submit(&instance, "POST").await;
    assert_eq!(mid.poll(&instance, 5000, false).await.len(), 1);
    submit(&instance, "POST").await;
    let again = mid.poll_for(&instance, 0, 0, true).await;
    assert_eq!(again.iter().map(|lease| &lease.request_id).collect::<Vec<_>>(), [&lost]);
    assert!(mid.poll_for(&instance, 0, 0, true).await.is_empty());
    let leases = json!({"version": 1, "incarnation": mid.incarnation, "leases": [[lost, 1]]});
    assert_eq!(instance.api_as(&mid.token, Method::POST, paths::RELEASE, &leases).await.0, 204);
    let (_, shown) = instance.get(&format!("/api/v1/requests/{lost}")).await;
    assert_eq!(shown["state"], "queued");
    instance.stop().await;
}

pub(crate) async fn a_request_that_was_given_out_and_then_expired_is_unknown_not_unsent(place: Place) {
    let instance = with_document(&place).await;
    let mut mid = ScriptedMid::working(&instance, "mid-a").await;
    let request = json!({"connection": "crm", "method": "POST", "path": "/", "replay": "safe", "expires_in_ms": 1500});
    let (status, answer) = instance.post("/api/v1/requests", &request).await;
    assert_eq!(status, 202, "{answer}");
    let id = answer["id"].as_str().expect("an id").to_owned();
    assert_eq!(mid.poll(&instance, 5000, true).await.len(), 1);
    // It starts anew and takes nothing, so the request waits in the queue until its time is over.
    mid.incarnation = "inc-2".into();
    assert_eq!(mid.heartbeat(&instance, "unusable").await.0, 200);
    let (_, shown) = instance.get(&format!("/api/v1/requests/{id}?wait_ms=10000")).await;
    assert_eq!((shown["state"].as_str(), shown["failure"]["code"].as_str()), (Some("unknown"), Some("mid_lost")));
    assert_eq!(mid.report(&instance, &id, 1, "late").await, "accepted", "the MID's own word replaces it");
    instance.stop().await;
}

pub(crate) async fn what_the_connection_header_names_is_not_passed_on(place: Place) {
    let instance = with_document(&place).await;
    let mut mid = ScriptedMid::working(&instance, "mid-a").await;
    let request = instance
        .call(Method::GET, "crm/call/x")
        .header("connection", "x-hop, keep-alive")
        .header("x-hop", "1")
        .header("via", "1.1 proxy")
        .header("x-real-ip", "1.2.3.4")
        .header("x_forwarded_for", "1.2.3.4")
        .header("x-tenant", "t")
        .body(Bytes::new())
        .expect("a request");
    let (answer, ()) = tokio::join!(instance.send(request), async {
        let leases = mid.poll(&instance, 5000, true).await;
        let names: Vec<&str> = leases[0].call.headers.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["x-tenant"]);
        assert_eq!(mid.report(&instance, &leases[0].request_id, 1, "y").await, "accepted");
    });
    assert_eq!(answer.status().as_u16(), 201);
    for name in ["x-http-method-override", "x-original-url"] {
        let request =
            instance.call(Method::POST, "crm/call/x").header(name, "DELETE").body(Bytes::new()).expect("a request");
        assert_eq!(instance.send(request).await.status().as_u16(), 400, "{name}");
    }
    instance.stop().await;
}

pub(crate) async fn nobody_is_listened_to_for_long_before_showing_a_key(place: Place) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let instance = with_document(&place).await;
    let (api, call) = (instance.started.api_addr, instance.started.call_addr);
    for (address, path) in [
        (api, "/api/v1/requests"),
        (api, "/api/v1/apply"),
        (api, paths::OUTCOMES),
        (api, paths::LEASE),
        (call, "/api/v1/connections/crm/call/x"),
    ] {
        let mut stream = tokio::net::TcpStream::connect(address).await.expect("connected");
        // The body is announced and never comes.
        let head = format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n");
        stream.write_all(head.as_bytes()).await.expect("written");
        let mut start = [0; 12];
        let read = tokio::time::timeout(std::time::Duration::from_secs(5), stream.read_exact(&mut start));
        read.await.unwrap_or_else(|_| panic!("{path} waits for the body")).expect("an answer");
        assert_eq!(&start, b"HTTP/1.1 401", "{path}");
    }
    instance.stop().await;
}

pub(crate) async fn an_answer_may_be_larger_than_a_request(place: Place) {
    let instance = with_document(&place).await;
    let mut mid = ScriptedMid::working(&instance, "mid-a").await;
    let id = submit(&instance, "GET").await;
    assert_eq!(mid.poll(&instance, 5000, true).await.len(), 1);
    // The limit for requests is 64 KiB here.
    let large = "x".repeat(1024 * 1024);
    assert_eq!(mid.report(&instance, &id, 1, &large).await, "accepted");
    let (_, shown) = instance.get(&format!("/api/v1/requests/{id}")).await;
    assert_eq!(shown["body_base64"].as_str(), Some(STANDARD.encode(&large).as_str()));
    instance.stop().await;
}

pub(crate) async fn a_jar_is_kept_for_mids_and_given_out_by_its_digest(place: Place) {
    let instance = with_document(&place).await;
    let mid = ScriptedMid::working(&instance, "edge").await;
    // Larger than the limit of other bodies.
    let jar = [b"PK\x03\x04".to_vec(), vec![7; 300_000]].concat();
    let put = async |name: &str, content: &[u8]| {
        let document = json!({"version": 1, "content": STANDARD.encode(content)});
        instance.api_as(&instance.key, Method::PUT, &format!("/api/v1/jars/{name}"), &document).await
    };
    let (status, stored) = put("vault", &jar).await;
    assert_eq!((status, stored["size"].as_u64()), (200, Some(300_004)), "{stored}");
    let digest = midward_wire::jar_digest(&jar);
    assert_eq!(stored["sha256"], json!(digest));
    let (status, listed) = instance.get("/api/v1/jars").await;
    assert_eq!((status, &listed["items"]), (200, &json!([stored])), "no bytes in the list");

    let path = format!("{}/{digest}", paths::JARS);
    let fetch = async |key: &str, path: &str| instance.api_as(key, Method::GET, path, &Value::Null).await;
    let (status, given) = fetch(&mid.token, &path).await;
    assert_eq!((status, given["content"].as_str()), (200, Some(STANDARD.encode(&jar).as_str())));
    assert_eq!(fetch(&mid.token, &format!("{}/{}", paths::JARS, "0".repeat(64))).await.0, 404);
    assert_eq!(fetch("none", &path).await.0, 401, "MIDs only");

    assert_eq!(put("vault", b"no JAR").await.1["code"], "not_a_jar");
    assert_eq!(put("a%20b", &jar).await.0, 400);
    let huge = [b"PK\x03\x04".to_vec(), vec![0; midward_wire::MAX_JAR_LEN]].concat();
    assert_eq!(put("vault", &huge).await.1["code"], "body_too_large");
    let other = b"PK\x03\x04 another";
    assert_eq!(put("vault", other).await.0, 200);
    assert_eq!(fetch(&mid.token, &path).await.0, 404, "replaced");
    assert_eq!(instance.api_as(&instance.key, Method::DELETE, "/api/v1/jars/vault", &Value::Null).await.0, 204);
    assert_eq!(instance.get("/api/v1/jars").await.1["items"], json!([]));
    instance.stop().await;
}
