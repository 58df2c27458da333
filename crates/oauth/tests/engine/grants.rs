//! Grants behind the engine: what shapes their tokens, what a refusal opens, and what a revocation sends.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use midward_core::{ClientMaterial, MaterialField, Secret, SeededRandom, WallTime};
use midward_oauth::{
    BearerAssertion, Expected, FixedEndpoints, GrantType, ReplyClass, RequestError, Revocation, RevocationEndpoint,
    TokenExchange, TokenHttpReply, TokenRequestSpec, build_request, check_request, parse_reply,
};
use url::Url;

use crate::support::{LONG, Reply, World, key, spec};

const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
/// RFC 8410 10.3.
const KEY: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n\
                   -----END PRIVATE KEY-----\n";

fn bearer() -> BearerAssertion {
    BearerAssertion {
        issuer: None,
        subject: Some("robot@example.com".into()),
        audience: "https://as.example".into(),
        claims: BTreeMap::from([("tenant".into(), "a".into())]),
        algorithm: None,
        authenticates_client: true,
    }
}

fn exchange() -> TokenExchange {
    TokenExchange { subject_token_type: JWT.into(), actor_token_type: None, requested_token_type: None }
}

fn with(grant: GrantType) -> TokenRequestSpec {
    TokenRequestSpec { grant, ..spec("read") }
}

fn material(fields: &[(MaterialField, &str)]) -> ClientMaterial {
    fields.iter().fold(ClientMaterial::new(), |material, (field, value)| material.with(*field, Secret::from(*value)))
}

fn form(spec: &TokenRequestSpec, fields: &[(MaterialField, &str)]) -> Result<HashMap<String, String>, RequestError> {
    let now = WallTime::from_unix_millis(1_700_000_000_000);
    let request = build_request(spec, &material(fields), now, &SeededRandom::new(1))?;
    Ok(url::form_urlencoded::parse(request.body.expose()).into_owned().collect())
}

fn claims(assertion: &str) -> serde_json::Value {
    use base64::Engine as _;
    let payload = assertion.split('.').nth(1).expect("claims");
    let json = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(payload).expect("base64url");
    serde_json::from_slice(&json).expect("JSON")
}

const WHOLE: [(MaterialField, &str); 3] =
    [(MaterialField::ClientId, "c"), (MaterialField::ClientSecret, "s3cret"), (MaterialField::PrivateKey, KEY)];

#[test]
fn a_bearer_assertion_says_what_was_configured_and_nothing_of_the_secret() {
    let form = form(&with(GrantType::JwtBearer(bearer())), &WHOLE).expect("complete");
    assert_eq!(form["grant_type"], "urn:ietf:params:oauth:grant-type:jwt-bearer");
    assert_eq!((form["client_secret"].as_str(), form["scope"].as_str()), ("s3cret", "read"));
    let mut claims = claims(&form["assertion"]);
    assert!(claims.as_object_mut().expect("claims").remove("jti").is_some());
    let expected = serde_json::json!({
        "iss": "c", "sub": "robot@example.com", "aud": "https://as.example", "tenant": "a",
        "iat": 1_700_000_000, "exp": 1_700_000_060,
    });
    assert_eq!(claims, expected);
}

#[test]
fn without_client_authentication_only_the_assertion_goes() {
    let bearer = BearerAssertion { issuer: Some("service".into()), authenticates_client: false, ..bearer() };
    let form = form(&with(GrantType::JwtBearer(bearer)), &WHOLE[2..]).expect("complete");
    let mut names: Vec<&str> = form.keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["assertion", "grant_type", "scope"]);
    assert_eq!(claims(&form["assertion"])["iss"], "service");
}

#[test]
fn what_a_grant_needs_and_did_not_come_is_never_sent() {
    let actor = TokenExchange { actor_token_type: Some(JWT.into()), ..exchange() };
    let client = &WHOLE[..2];
    let with_subject = [WHOLE[0], WHOLE[1], (MaterialField::SubjectToken, "t"), (MaterialField::ActorToken, "")];
    for (grant, fields, missing) in [
        (GrantType::JwtBearer(bearer()), client, MaterialField::PrivateKey),
        (
            GrantType::JwtBearer(BearerAssertion { authenticates_client: false, ..bearer() }),
            &WHOLE[2..],
            MaterialField::ClientId,
        ),
        (GrantType::TokenExchange(exchange()), client, MaterialField::SubjectToken),
        (GrantType::TokenExchange(actor), &with_subject[..], MaterialField::ActorToken),
    ] {
        assert_eq!(form(&with(grant), fields), Err(RequestError::EmptySecret(missing)));
    }
    let mut own = bearer();
    own.claims.insert("exp".into(), "9999999999".into());
    assert_eq!(check_request(&with(GrantType::JwtBearer(own))), Err(RequestError::ReservedClaim("exp".into())));
}

#[test]
fn an_exchange_names_its_tokens_and_their_types() {
    let exchange = TokenExchange {
        actor_token_type: Some(ACCESS_TOKEN.into()),
        requested_token_type: Some(ACCESS_TOKEN.into()),
        ..exchange()
    };
    let fields = [WHOLE[0], WHOLE[1], (MaterialField::SubjectToken, "s&=t"), (MaterialField::ActorToken, "a")];
    let form = form(&with(GrantType::TokenExchange(exchange)), &fields).expect("complete");
    for (name, value) in [
        ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
        ("subject_token", "s&=t"),
        ("subject_token_type", JWT),
        ("actor_token", "a"),
        ("actor_token_type", ACCESS_TOKEN),
        ("requested_token_type", ACCESS_TOKEN),
        ("client_secret", "s3cret"),
    ] {
        assert_eq!(form[name], value, "{name}");
    }
}

#[test]
fn every_part_of_a_grant_keeps_tokens_apart() {
    let mut grants = vec![
        GrantType::ClientCredentials,
        GrantType::JwtBearer(bearer()),
        GrantType::JwtBearer(BearerAssertion { issuer: Some("i".into()), ..bearer() }),
        GrantType::JwtBearer(BearerAssertion { subject: None, ..bearer() }),
        GrantType::JwtBearer(BearerAssertion { audience: "x".into(), ..bearer() }),
        GrantType::JwtBearer(BearerAssertion { claims: BTreeMap::new(), ..bearer() }),
        GrantType::JwtBearer(BearerAssertion { authenticates_client: false, ..bearer() }),
        GrantType::TokenExchange(exchange()),
        GrantType::TokenExchange(TokenExchange { subject_token_type: ACCESS_TOKEN.into(), ..exchange() }),
        GrantType::TokenExchange(TokenExchange { actor_token_type: Some(JWT.into()), ..exchange() }),
        GrantType::TokenExchange(TokenExchange { requested_token_type: Some(JWT.into()), ..exchange() }),
    ];
    let count = grants.len() + 2;
    let mut keys: Vec<_> = grants.drain(..).map(|grant| key("i", "c", &with(grant))).collect();
    // Found by metadata: the issuer is another key than a token URL of the same text.
    keys.push(key("i", "c", &spec("read")).discovered_at("https://as.example/token"));
    keys.push(key("i", "c", &spec("read")).discovered_at("https://as.example"));
    let distinct: std::collections::HashSet<_> = keys.into_iter().collect();
    assert_eq!(distinct.len(), count);
}

fn parsed(grant: GrantType, status: u16, body: &str) -> Result<String, (ReplyClass, &'static str)> {
    let reply = TokenHttpReply { status, headers: http::HeaderMap::new(), body: Secret::from(body) };
    parse_reply(&reply, &Expected::of(&with(grant)), WallTime::from_unix_millis(0))
        .map(|reply| reply.token.expose().to_owned())
        .map_err(|error| (error.class, error.code))
}

#[test]
fn the_issued_type_must_be_the_one_asked_for() {
    let any = || GrantType::TokenExchange(exchange());
    let jwt = || GrantType::TokenExchange(TokenExchange { requested_token_type: Some(JWT.into()), ..exchange() });
    let reply = |issued: &str| format!(r#"{{"access_token":"t","token_type":"Bearer","scope":"read"{issued}}}"#);
    let issued = |kind: &str| reply(&format!(r#","issued_token_type":"{kind}""#));
    for kind in [JWT, ACCESS_TOKEN] {
        assert_eq!(parsed(any(), 200, &issued(kind)), Ok("t".into()));
    }
    assert_eq!(parsed(jwt(), 200, &issued(JWT)), Ok("t".into()));
    let unexpected = Err((ReplyClass::Permanent, "issued_token_type_unexpected"));
    assert_eq!(parsed(jwt(), 200, &issued(ACCESS_TOKEN)), unexpected);
    assert_eq!(parsed(any(), 200, &issued("urn:ietf:params:oauth:token-type:refresh_token")), unexpected);
    let invalid = Err((ReplyClass::Transient, "token_reply_invalid"));
    for bad in ["", r#","issued_token_type":null"#, r#","issued_token_type":1"#] {
        assert_eq!(parsed(any(), 200, &reply(bad)), invalid, "{bad}");
    }
    // N_A: what was issued is no token for an API.
    let not_usable =
        r#"{"access_token":"t","token_type":"N_A","issued_token_type":"urn:ietf:params:oauth:token-type:jwt"}"#;
    assert_eq!(parsed(jwt(), 200, not_usable), invalid);
    assert_eq!(parsed(GrantType::ClientCredentials, 200, &reply("")), Ok("t".into()));
}

#[test]
fn a_refused_assertion_or_subject_is_like_a_wrong_secret() {
    let grant = r#"{"error":"invalid_grant"}"#;
    let request = r#"{"error":"invalid_request"}"#;
    let bearer = || GrantType::JwtBearer(bearer());
    let exchange = || GrantType::TokenExchange(exchange());
    let refused = |code| Err((ReplyClass::InvalidClient, code));
    assert_eq!(parsed(bearer(), 400, grant), refused("assertion_refused"));
    assert_eq!(parsed(exchange(), 400, grant), refused("subject_token_refused"));
    assert_eq!(parsed(exchange(), 400, request), refused("subject_token_refused"));
    let permanent = Err((ReplyClass::Permanent, "token_request_refused"));
    assert_eq!(parsed(bearer(), 400, request), permanent);
    assert_eq!(parsed(GrantType::ClientCredentials, 400, grant), permanent);
}

/// A cached token and the fetcher that revokes at `url`.
async fn granted(world: &Arc<World>, endpoint: RevocationEndpoint) -> midward_oauth::TokenCache {
    let cache = world.cache();
    let spec = spec("read");
    let mut fetcher = Arc::into_inner(world.fetcher("c", spec.clone())).expect("the only one");
    fetcher.endpoints = Arc::new(FixedEndpoints::new(spec.token_url.clone(), endpoint));
    let handle = cache.handle(key("i", "c", &spec), Arc::new(fetcher));
    handle.token(LONG).await.expect("a token");
    cache
}

fn at() -> RevocationEndpoint {
    RevocationEndpoint::At(Url::parse("https://as.example/revoke").expect("a URL"))
}

async fn revoked(world: &Arc<World>, endpoint: RevocationEndpoint, answer: Reply) -> Option<Revocation> {
    let cache = granted(world, endpoint).await;
    world.set(answer);
    let dropped = cache.flush_all(|_| true);
    assert_eq!(dropped.len(), 1);
    assert!(cache.statuses().iter().all(|status| status.state == "missing"));
    dropped[0].revoke(Duration::from_secs(5)).await
}

#[tokio::test(start_paused = true)]
async fn a_token_is_revoked_with_a_secret_that_is_read_for_it() {
    let world = World::new();
    assert_eq!(revoked(&world, at(), Reply::Status(200, "")).await, Some(Revocation::Revoked));
    assert_eq!((world.reads(), world.posts()), (2, 2));
    let last = world.last_form.lock().unwrap().clone();
    let mut names: Vec<&str> = last.keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["client_id", "client_secret", "token", "token_type_hint"]);
    assert_eq!((last["token"].as_str(), last["client_secret"].as_str()), ("token-1", "s3cret"));
}

#[tokio::test(start_paused = true)]
async fn a_revocation_that_fails_says_why_within_its_time() {
    for (answer, says) in [
        (Reply::Status(503, ""), "it cannot do it now"),
        (Reply::Status(400, r#"{"error":"unsupported_token_type"}"#), "does not revoke tokens of this kind"),
        (Reply::Status(401, ""), "does not accept the client"),
        (Reply::Status(307, ""), "redirects are not followed"),
        (Reply::Unreachable, "the connection was refused"),
        (Reply::Never, "within 5000 ms"),
    ] {
        let world = World::new();
        let result = revoked(&world, at(), answer.clone()).await;
        let Some(Revocation::Failed(failure)) = result else { panic!("{answer:?}: {result:?}") };
        assert_eq!(failure.code, "revocation_failed");
        assert!(failure.detail.contains(says), "{answer:?}: {failure}");
        assert!(world.clock.start_elapsed() <= Duration::from_secs(6), "{answer:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_sent_where_there_is_no_endpoint_or_no_permission() {
    for (endpoint, expected) in
        [(RevocationEndpoint::None, Revocation::NoEndpoint), (RevocationEndpoint::NotAllowed, Revocation::NotAllowed)]
    {
        let world = World::new();
        assert_eq!(revoked(&world, endpoint, Reply::Status(200, "")).await, Some(expected));
        assert_eq!((world.reads(), world.posts()), (1, 1));
    }
    let world = World::new();
    let cache = granted(&world, at()).await;
    tokio::time::sleep(Duration::from_hours(3)).await;
    assert_eq!(cache.flush_all(|_| true)[0].revoke(LONG).await, None, "it had ended by itself");
}

#[tokio::test(start_paused = true)]
async fn a_secret_that_the_server_refuses_is_not_sent_to_revoke() {
    let world = World::new();
    let cache = granted(&world, at()).await;
    let other = world.handle(&cache, "i", "c", "write");
    *world.accepted.lock().unwrap() = vec!["new".into()];
    other.token(LONG).await.map(|_| ()).expect_err("refused");
    let sent = world.posts();
    let dropped = cache.flush_all(|key| key.scopes.iter().any(|scope| **scope == *"read"));
    let result = dropped[0].revoke(LONG).await;
    assert!(matches!(&result, Some(Revocation::Failed(failure)) if failure.detail.contains("refuses")), "{result:?}");
    assert_eq!(world.posts(), sent);
}

#[tokio::test(start_paused = true)]
async fn a_method_that_metadata_does_not_list_is_named_when_the_client_is_refused() {
    for lacks_method in [true, false] {
        let world = World::new();
        let spec = spec("read");
        let mut fetcher = Arc::into_inner(world.fetcher("c", spec.clone())).expect("the only one");
        let mut endpoints = FixedEndpoints::new(spec.token_url.clone(), RevocationEndpoint::None);
        endpoints.0.lacks_method = lacks_method;
        fetcher.endpoints = Arc::new(endpoints);
        let cache = world.cache();
        let handle = cache.handle(key("i", "c", &spec), Arc::new(fetcher));
        handle.token(LONG).await.expect("listed or not: what the server takes is sent");
        world.vault.lock().unwrap().insert("c".into(), "wrong".into());
        cache.flush(|_| true);
        let failure = handle.token(LONG).await.map(|_| ()).expect_err("a wrong secret");
        assert_eq!(failure.code, "invalid_client");
        assert_eq!(failure.detail.contains("does not list client_secret_post"), lacks_method, "{failure}");
    }
}
