//! What the records say of grants, endpoints and repetition, and where it arrives.

use serde_json::json;

use super::support::{Instance, Place, ScriptedMid, document};
use super::{submit, with_document};

pub(crate) async fn grants_issuers_and_replay_methods_are_kept(place: Place) {
    let instance = Instance::start(&place, None).await;
    let mut wanted = document();
    wanted["oauth_entities"][0] = json!({"name": "idp", "issuer": "https://idp.test", "client_auth": "private_key_jwt",
                                         "revocation_url": "https://idp.test/revoke"});
    wanted["oauth_entity_profiles"][0]["grant_type"] = json!("jwt_bearer");
    wanted["oauth_entity_profiles"][0]["jwt_bearer"] = json!({"subject": "robot", "claims": {"tenant": "a"}});
    wanted["connections"][0]["replay_methods"] = json!(["GET", "PUT"]);
    for changes in [4, 0] {
        let (status, answer) = instance.post("/api/v1/apply", &wanted).await;
        assert_eq!((status, answer["changes"].as_array().map(Vec::len)), (200, Some(changes)), "{answer}");
    }
    let (_, entity) = instance.get("/api/v1/oauth-entities/idp").await;
    assert_eq!(entity, wanted["oauth_entities"][0]);
    let mut exchanged = wanted.clone();
    exchanged["oauth_entity_profiles"][0] = json!({"name": "crm-read", "oauth_entity": "idp",
        "grant_type": "token_exchange",
        "token_exchange": {"subject_token_type": "urn:ietf:params:oauth:token-type:jwt"}});
    let (_, answer) = instance.post("/api/v1/apply", &exchanged).await;
    assert_eq!(answer["changes"][0]["fields"], json!(["grant_type", "jwt_bearer", "scopes", "token_exchange"]));
    let (_, profile) = instance.get("/api/v1/oauth-entity-profiles/crm-read").await;
    assert_eq!(profile["token_exchange"], exchanged["oauth_entity_profiles"][0]["token_exchange"]);

    let mut password = wanted;
    password["oauth_entity_profiles"][0]["grant_type"] = json!("password");
    let (status, answer) = instance.post("/api/v1/apply", &password).await;
    assert_eq!((status, answer["code"].as_str()), (400, Some("invalid_record")), "{answer}");
    assert!(answer["detail"].as_str().is_some_and(|detail| detail.contains("RFC 9700")), "{answer}");
    instance.stop().await;
}

pub(crate) async fn the_connection_says_what_is_given_out_again_after_a_mid_was_lost(place: Place) {
    let instance = with_document(&place).await;
    let mut document = document();
    document["connections"][0]["replay_methods"] = json!(["PUT"]);
    instance.post("/api/v1/apply", &document).await;
    let mut mid = ScriptedMid::working(&instance, "mid-a").await;
    let (get, put) = (submit(&instance, "GET").await, submit(&instance, "PUT").await);
    mid.hold(&instance, 2).await;
    mid.incarnation = "inc-2".into();
    mid.received = 0;
    assert_eq!(mid.heartbeat(&instance, "ready").await.0, 200);
    let again = mid.poll(&instance, 5000, true).await;
    assert_eq!(again.iter().map(|lease| &lease.request_id).collect::<Vec<_>>(), [&put]);
    let (_, shown) = instance.get(&format!("/api/v1/requests/{get}?wait_ms=5000")).await;
    assert_eq!(shown["state"], "unknown", "{shown}");
    instance.stop().await;
}
