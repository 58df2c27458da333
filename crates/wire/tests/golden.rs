//! The protocol on the wire, frozen: each message as the JSON that peers of this version exchange. A difference here
//! is a change of the protocol, so it needs a new version or must be understood by the old one.

use std::fmt::Debug;
use std::path::PathBuf;

use midward_core::{Failure, Hop, Trace};
use midward_wire::{
    ApiCall, ApiReply, AssertionAlgorithm, AuditCheckpoint, Bytes64, CheckpointsReply, ClientAuth, ConfigDigest,
    ConfigDocument, ConnectionConfig, CredentialConfig, EnrollReply, EnrollRequest, GrantType, Heartbeat,
    HeartbeatReply, JwtBearerConfig, LeaseGrant, LeaseReply, LeaseRequest, MidState, Outcome, OutcomeReport,
    OutcomeVerdict, OutcomesReply, OutcomesRequest, ProfileConfig, ReleaseRequest, ReplayRule, ResolverHealth,
    ResolverStatus, SignedState, TokenError, TokenExchangeConfig, VERSION,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

fn golden(name: &str) -> serde_json::Value {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{name}.json"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Writes as the golden file says, and reads it back to the same value; also when a newer peer has added fields.
fn check<T: Serialize + DeserializeOwned + PartialEq + Debug>(name: &str, value: &T) {
    let expected = golden(name);
    assert_eq!(serde_json::to_value(value).expect("JSON"), expected, "{name} is written differently");
    assert_eq!(&serde_json::from_value::<T>(expected.clone()).expect("JSON"), value, "{name} is read differently");
    let newer = serde_json::from_value::<T>(golden(&format!("newer/{name}")));
    assert_eq!(&newer.expect("the newer peer's"), value, "{name} of a newer peer is read differently");
}

/// As [`check`], for what a call is and what it runs under: a field that is not known is refused, wherever it is.
fn check_strict<T: Serialize + DeserializeOwned + PartialEq + Debug>(name: &str, value: &T) {
    let expected = golden(name);
    assert_eq!(serde_json::to_value(value).expect("JSON"), expected, "{name} is written differently");
    assert_eq!(&serde_json::from_value::<T>(expected.clone()).expect("JSON"), value, "{name} is read differently");
    let parts = expected.as_object().expect("JSON").iter().filter(|(_, part)| part.is_object());
    let places = parts.map(|(part, _)| format!("/{part}")).chain([String::new()]);
    for place in places {
        let mut widened = expected.clone();
        let part = widened.pointer_mut(&place).and_then(serde_json::Value::as_object_mut).expect("an object");
        part.insert("surprise".into(), true.into());
        assert!(serde_json::from_value::<T>(widened).is_err(), "{name} accepts an unknown field at {place:?}");
    }
}

fn grant() -> LeaseGrant {
    LeaseGrant {
        request_id: "018bcfe5680000000000000000000001".into(),
        epoch: 1,
        lease_ms: 60_000,
        expires_ms: 30_000,
        config: ConfigDigest::of(b"{}"),
        call: ApiCall {
            method: "POST".into(),
            path: "/v1/contacts?limit=1".into(),
            headers: vec![("content-type".into(), "application/json".into())],
            body: Bytes64(b"{}".to_vec()),
            replay: ReplayRule::Safe,
        },
    }
}

fn failure() -> Failure {
    Failure::permanent(Hop::Policy, "policy_no_rule", "no rule allows this call", "Ask the owner of the MID Server.")
        .with_reference("r-1")
}

#[test]
fn audit_checkpoints() {
    let checkpoint = AuditCheckpoint {
        chain: "018bcfe5680000000000000000000001".into(),
        seq: 7,
        hash: "ab".into(),
        at: 1_700_000_000_000,
        key: "k".into(),
        signature: "s".into(),
    };
    check("checkpoints-reply", &CheckpointsReply { version: VERSION, checkpoints: vec![checkpoint] });
}

#[test]
fn enrollment() {
    check(
        "enroll-request",
        &EnrollRequest { version: VERSION, secret: "one-time".into(), name: "mid-1".into(), public_key: "AAAA".into() },
    );
    check(
        "enroll-reply",
        &EnrollReply { version: VERSION, mid_id: "0a".into(), name: "mid-1".into(), state: MidState::Enrolled },
    );
}

#[test]
fn a_token_error_carries_a_signed_state_and_tolerates_more() {
    let error = TokenError {
        error: "invalid_client".into(),
        error_description: None,
        state: Some(SignedState { state: MidState::Invalidated, signature: "c2ln".into() }),
    };
    assert_eq!(serde_json::to_value(&error).unwrap(), golden("token-error"));
    assert_eq!(serde_json::from_value::<TokenError>(golden("newer/token-error")).unwrap(), error);
    // RFC 6749 5.2 lets a server add members, so this one is read leniently.
    let widened = r#"{"error":"invalid_client","error_uri":"https://example.com"}"#;
    assert_eq!(serde_json::from_str::<TokenError>(widened).unwrap().state, None);
}

#[test]
fn leases() {
    check(
        "lease-request",
        &LeaseRequest { version: VERSION, incarnation: "7f".into(), capacity: 64, wait_ms: 25_000, received_batch: 3 },
    );
    check_strict("lease-grant", &grant());
    let reply = LeaseReply {
        version: VERSION,
        state: MidState::Validated,
        batch: 4,
        leases: vec![serde_json::value::to_raw_value(&grant()).unwrap()],
    };
    assert_eq!(serde_json::to_value(&reply).unwrap(), golden("lease-reply"));
    let newer: LeaseReply = serde_json::from_value(golden("newer/lease-reply")).unwrap();
    assert_eq!((newer.batch, newer.leases.len()), (4, 1));
    assert_eq!(serde_json::from_str::<LeaseGrant>(newer.leases[0].get()).unwrap(), grant());
    check(
        "release-request",
        &ReleaseRequest { version: VERSION, incarnation: "7f".into(), leases: vec![("0b".into(), 2)] },
    );
}

#[test]
fn one_bad_grant_does_not_spoil_its_batch() {
    let reply = r#"{"version":1,"state":"validated","batch":2,"leases":[{"from":"the future"},{"request_id":"x"}]}"#;
    let reply: LeaseReply = serde_json::from_str(reply).unwrap();
    assert_eq!(reply.leases.len(), 2);
    assert!(reply.leases.iter().all(|raw| serde_json::from_str::<LeaseGrant>(raw.get()).is_err()));
}

#[test]
fn heartbeats() {
    check(
        "heartbeat",
        &Heartbeat {
            version: VERSION,
            incarnation: "7f".into(),
            program_version: "0.1.0".into(),
            capacity: 64,
            running: 2,
            draining: false,
            resolvers: vec![ResolverStatus {
                name: "cyberark".into(),
                kind: "jar".into(),
                health: ResolverHealth::Unusable,
                reason: Some("the JAR is missing".into()),
            }],
        },
    );
    check(
        "heartbeat-reply",
        &HeartbeatReply { version: VERSION, state: MidState::Paused, next_ms: 5_000, cloned: false },
    );
}

#[test]
fn outcomes() {
    let mut trace = Trace::default();
    trace.push(Hop::Api, "POST answered 201", std::time::Duration::from_micros(1_500));
    let reply = ApiReply {
        status: 201,
        headers: vec![("content-type".into(), "text/plain".into())],
        body: Bytes64(b"made".to_vec()),
    };
    let report = |outcome, trace| OutcomeReport { request_id: "0b".into(), epoch: 1, outcome, trace };
    check(
        "outcomes-request",
        &OutcomesRequest {
            version: VERSION,
            incarnation: "7f".into(),
            outcomes: vec![
                report(Outcome::Replied { reply }, trace),
                report(Outcome::Failed { failure: failure() }, Trace::default()),
                report(Outcome::Unknown { failure: failure() }, Trace::default()),
            ],
        },
    );
    check(
        "outcomes-reply",
        &OutcomesReply { version: VERSION, verdicts: vec![OutcomeVerdict::Accepted, OutcomeVerdict::Refused] },
    );
}

#[test]
fn configuration() {
    check_strict(
        "config-document",
        &ConfigDocument {
            version: VERSION,
            connection: ConnectionConfig {
                alias: "crm".into(),
                base_url: "https://crm.internal.example:8443/api".into(),
                timeout_ms: 30_000,
                replay_methods: None,
            },
            credential: CredentialConfig {
                name: "crm-oauth".into(),
                credential_id: "Finance:crm-client".into(),
                resolver: "cyberark".into(),
            },
            profile: ProfileConfig {
                name: "crm-read".into(),
                grant_type: GrantType::ClientCredentials,
                jwt_bearer: None,
                token_exchange: None,
                token_url: Some("https://login.internal.example/oauth/token".into()),
                revocation_url: None,
                client_auth: ClientAuth::ClientSecretBasic,
                scopes: vec!["contacts.read".into()],
                audience: Some("crm".into()),
                resource: vec!["urn:crm".into()],
                extra_parameters: [("tenant".to_owned(), "a".to_owned())].into(),
                issuer: None,
                assertion_audience: None,
                assertion_algorithm: None,
                certificate_bound_tokens: false,
                dpop_bound_tokens: false,
            },
        },
    );
}

#[test]
fn configuration_with_an_assertion() {
    let document: ConfigDocument = serde_json::from_value(golden("config-document")).expect("JSON");
    let profile = ProfileConfig {
        client_auth: ClientAuth::PrivateKeyJwt,
        issuer: Some("https://login.internal.example".into()),
        assertion_audience: Some("https://login.internal.example/oauth".into()),
        assertion_algorithm: Some(AssertionAlgorithm::Ps256),
        ..document.profile.clone()
    };
    check_strict("config-document-assertion", &ConfigDocument { profile, ..document });
}

#[test]
fn configuration_with_other_grants() {
    let document: ConfigDocument = serde_json::from_value(golden("config-document")).expect("JSON");
    let document = ConfigDocument {
        connection: ConnectionConfig { replay_methods: Some(vec!["GET".into(), "PUT".into()]), ..document.connection },
        ..document
    };
    let bearer = ProfileConfig {
        grant_type: GrantType::JwtBearer,
        jwt_bearer: Some(JwtBearerConfig {
            issuer: Some("client-1".into()),
            subject: Some("robot@example.com".into()),
            audience: Some("https://login.internal.example/oauth".into()),
            claims: [("tenant".to_owned(), "a".to_owned())].into(),
            algorithm: Some(AssertionAlgorithm::Es256),
            client_authentication: false,
        }),
        token_url: None,
        revocation_url: Some("https://login.internal.example/oauth/revoke".into()),
        issuer: Some("https://login.internal.example".into()),
        ..document.profile.clone()
    };
    check_strict("config-document-jwt-bearer", &ConfigDocument { profile: bearer, ..document.clone() });
    let jwt = "urn:ietf:params:oauth:token-type:jwt";
    let exchange = ProfileConfig {
        grant_type: GrantType::TokenExchange,
        token_exchange: Some(TokenExchangeConfig {
            subject_token_type: jwt.into(),
            actor_token_type: Some(jwt.into()),
            requested_token_type: Some("urn:ietf:params:oauth:token-type:access_token".into()),
        }),
        ..document.profile.clone()
    };
    check_strict("config-document-token-exchange", &ConfigDocument { profile: exchange, ..document });
}

#[test]
fn an_older_peer_leaves_out_what_it_does_not_know() {
    let beat: Heartbeat = serde_json::from_value(golden("older/heartbeat")).expect("a heartbeat");
    assert_eq!(beat.resolvers[0].reason, None);
    let reply: HeartbeatReply = serde_json::from_value(golden("heartbeat-reply")).expect("a reply");
    assert!(!reply.cloned);
    let grant: LeaseGrant = serde_json::from_value(golden("older/lease-grant")).expect("a grant");
    assert_eq!(
        (grant.call.headers, grant.call.body, grant.call.replay),
        (vec![], Bytes64::default(), ReplayRule::ByMethod)
    );
    let document: ConfigDocument = serde_json::from_value(golden("older/config-document")).expect("a document");
    let profile = document.profile;
    assert_eq!((profile.grant_type, profile.audience, profile.resource.len()), (GrantType::ClientCredentials, None, 0));
    let outcomes: OutcomesRequest = serde_json::from_value(golden("older/outcomes-request")).expect("outcomes");
    assert_eq!(outcomes.outcomes.len(), 3);
}

#[test]
fn what_has_its_default_is_left_out_so_that_older_peers_know_every_field() {
    let reply = HeartbeatReply { version: VERSION, state: MidState::Paused, next_ms: 5_000, cloned: false };
    assert_eq!(serde_json::to_value(&reply).expect("JSON"), golden("heartbeat-reply"));
    let reply = HeartbeatReply { cloned: true, ..reply };
    assert_eq!(serde_json::to_value(&reply).expect("JSON")["cloned"], true);
}

#[test]
fn names_of_methods_and_algorithms() {
    let name = |value: serde_json::Value| value.as_str().map(str::to_owned);
    let methods = [
        (ClientAuth::ClientSecretBasic, "client_secret_basic"),
        (ClientAuth::ClientSecretBasicRaw, "client_secret_basic_raw"),
        (ClientAuth::ClientSecretPost, "client_secret_post"),
        (ClientAuth::ClientSecretJwt, "client_secret_jwt"),
        (ClientAuth::PrivateKeyJwt, "private_key_jwt"),
    ];
    for (method, expected) in methods {
        assert_eq!(name(serde_json::to_value(method).unwrap()).as_deref(), Some(expected));
    }
    for grant in [GrantType::ClientCredentials, GrantType::JwtBearer, GrantType::TokenExchange] {
        assert_eq!(name(serde_json::to_value(grant).unwrap()).as_deref(), Some(grant.name()));
    }
    let algorithms = [
        (AssertionAlgorithm::Rs256, "RS256"),
        (AssertionAlgorithm::Ps256, "PS256"),
        (AssertionAlgorithm::Es256, "ES256"),
        (AssertionAlgorithm::EdDsa, "EdDSA"),
    ];
    for (algorithm, expected) in algorithms {
        assert_eq!(name(serde_json::to_value(algorithm).unwrap()).as_deref(), Some(expected));
    }
}
