//! Records: what their texts may hold, and what of them goes together.

use std::collections::{BTreeMap, HashSet};

use midward_wire::{ClientAuth, GrantType};
use url::Url;

use super::{method, name};
use crate::model::{AppliesTo, Cluster, Connection, Credential, OAuthEntity, OAuthEntityProfile};
use crate::network::Network;
use crate::problem::Problem;

pub(crate) fn entity(entity: &OAuthEntity) -> Result<(), Problem> {
    name("OAuth entity", &entity.name)?;
    for (field, text) in
        [("token_url", &entity.token_url), ("issuer", &entity.issuer), ("revocation_url", &entity.revocation_url)]
    {
        text.as_deref().map_or(Ok(()), |text| url(field, text))?;
    }
    if entity.token_url.is_none() && entity.issuer.is_none() {
        return Err(invalid(&entity.name, "it has neither a token_url nor an issuer to look one up at"));
    }
    if entity.assertion_audience.is_some() && !entity.client_auth.is_assertion() {
        return Err(invalid(&entity.name, "assertion_audience is for client_secret_jwt and private_key_jwt only"));
    }
    if entity.assertion_algorithm.is_some() && entity.client_auth != ClientAuth::PrivateKeyJwt {
        return Err(invalid(&entity.name, "assertion_algorithm is for private_key_jwt only"));
    }
    if entity.certificate_bound_tokens && !entity.client_auth.is_by_certificate() {
        let detail = "certificate_bound_tokens is for tls_client_auth and self_signed_tls_client_auth only";
        return Err(invalid(&entity.name, detail));
    }
    let is_plain = |url: &Option<String>| url.as_deref().is_some_and(|url| url.starts_with("http:"));
    if entity.client_auth.is_by_certificate() && is_plain(&entity.token_url) {
        return Err(invalid(&entity.name, "a client certificate needs a token_url with https"));
    }
    if entity.assertion_audience.as_deref().is_some_and(|audience| !is_uri_or_name(audience)) {
        return Err(invalid(&entity.name, &format!("assertion_audience {NOT_URI_OR_NAME}")));
    }
    Ok(())
}

const NOT_URI_OR_NAME: &str = "is empty, longer than 2048 bytes, or holds a space or a character outside ASCII";

/// RFC 7519 2: StringOrURI; one that nobody could read is a mistake.
fn is_uri_or_name(text: &str) -> bool {
    !text.is_empty() && text.len() <= LONGEST && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Longest text in a record, in bytes. It is in each configuration that a MID fetches.
const LONGEST: usize = 2048;

/// The profile's grant, and that it names what this grant needs and nothing of another.
fn grant(profile: &OAuthEntityProfile) -> Result<(), Problem> {
    let refuse = |detail: &str| Err(invalid(&profile.name, detail));
    let grant = match profile.grant_type.grant() {
        Ok(grant) => grant,
        Err(why) => return refuse(&format!("its grant_type is not supported: {why}")),
    };
    if profile.jwt_bearer.is_some() && grant != GrantType::JwtBearer {
        return refuse("jwt_bearer is for grant_type jwt_bearer only");
    }
    if profile.token_exchange.is_some() != (grant == GrantType::TokenExchange) {
        return refuse("grant_type token_exchange and the settings token_exchange need each other");
    }
    if let Some(bearer) = &profile.jwt_bearer {
        for (field, text) in [("issuer", &bearer.issuer), ("subject", &bearer.subject), ("audience", &bearer.audience)]
        {
            if text.as_deref().is_some_and(|text| !is_uri_or_name(text)) {
                return refuse(&format!("jwt_bearer.{field} {NOT_URI_OR_NAME}"));
            }
        }
        if let Some(own) = bearer.claims.keys().find(|claim| OWN_CLAIMS.contains(&claim.as_str())) {
            return refuse(&format!("jwt_bearer.claims may not set {own:?}: the MID Server does, or another field"));
        }
        if bearer.claims.len() > 20 || !are_texts(&bearer.claims) {
            return refuse("jwt_bearer.claims has more than 20 claims, or one over 2048 bytes or with a NUL");
        }
    }
    if let Some(exchange) = &profile.token_exchange {
        let types = [Some(&exchange.subject_token_type), exchange.actor_token_type.as_ref()];
        if types.into_iter().flatten().any(|kind| !is_uri_or_name(kind) || !kind.contains(':')) {
            return refuse("the token types of token_exchange are URIs, such as urn:ietf:params:oauth:token-type:jwt");
        }
        if exchange.requested_token_type.as_ref().is_some_and(|kind| !USABLE_TYPES.contains(&kind.as_str())) {
            return refuse(
                "token_exchange.requested_token_type is neither urn:ietf:params:oauth:token-type:access_token nor \
                 urn:ietf:params:oauth:token-type:jwt: no other type can be sent to an API",
            );
        }
    }
    Ok(())
}

/// Claims of an assertion that are not further ones.
const OWN_CLAIMS: [&str; 8] = ["", "iss", "sub", "aud", "exp", "iat", "nbf", "jti"];

/// Types of token (RFC 8693 3) that an API can be sent.
const USABLE_TYPES: [&str; 2] =
    ["urn:ietf:params:oauth:token-type:access_token", "urn:ietf:params:oauth:token-type:jwt"];

/// Parameters of a token request that are set by other fields, or are secrets.
const OURS: &[&str] = &[
    "grant_type",
    "scope",
    "client_id",
    "client_secret",
    "client_assertion",
    "client_assertion_type",
    "audience",
    "resource",
    "password",
    "refresh_token",
    "assertion",
    "subject_token",
    "subject_token_type",
    "actor_token",
    "actor_token_type",
    "requested_token_type",
];

/// Names and values that can be stored, and signed or sent as they are.
fn are_texts(texts: &BTreeMap<String, String>) -> bool {
    texts.iter().all(|(key, text)| {
        !key.is_empty() && key.len() + text.len() <= LONGEST && !key.contains(char::is_control) && !text.contains('\0')
    })
}

pub(crate) fn profile(profile: &OAuthEntityProfile) -> Result<(), Problem> {
    name("OAuth entity profile", &profile.name)?;
    name("OAuth entity", &profile.oauth_entity)?;
    grant(profile)?;
    // RFC 6749 3.3.
    let scope_token = |scope: &String| {
        (1..=LONGEST).contains(&scope.len())
            && scope.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\'))
    };
    if profile.scopes.len() > 100 || !profile.scopes.iter().all(scope_token) {
        let detail = "it has more than 100 scopes, or one that is empty, over 2048 bytes, or holds a space, a quote \
                      or a backslash";
        return Err(invalid(&profile.name, detail));
    }
    if profile.audience.as_ref().is_some_and(|text| text.len() > LONGEST || text.contains(char::is_control)) {
        return Err(invalid(&profile.name, "audience is over 2048 bytes, or holds a control character"));
    }
    if profile.resource.len() > 100 || !profile.resource.iter().all(|text| is_uri_or_name(text)) {
        return Err(invalid(&profile.name, &format!("it has more than 100 of resource, or one {NOT_URI_OR_NAME}")));
    }
    if profile.extra_parameters.len() > 50 || !are_texts(&profile.extra_parameters) {
        let detail = "extra_parameters has more than 50 of them, or one that has no name, is over 2048 bytes or holds \
                      a NUL";
        return Err(invalid(&profile.name, detail));
    }
    if let Some(taken) = profile.extra_parameters.keys().find(|key| OURS.contains(&key.to_lowercase().as_str())) {
        return Err(invalid(
            &profile.name,
            &format!("extra_parameters may not set {taken}; secrets never go to the instance"),
        ));
    }
    Ok(())
}

pub(crate) fn credential(credential: &Credential) -> Result<(), Problem> {
    name("credential", &credential.name)?;
    name("resolver", &credential.resolver)?;
    name("OAuth entity profile", &credential.oauth_entity_profile)?;
    let id = &credential.credential_id;
    if id.len() > 160
        || id.starts_with('-')
        || id.contains(['"', ';', '?'])
        || id.contains("../")
        || id.contains(char::is_control)
    {
        return Err(invalid(
            &credential.name,
            "credential_id is longer than 160 bytes, begins with -, or holds \" ; ? ../ or a control character",
        ));
    }
    match &credential.applies_to {
        AppliesTo::All => Ok(()),
        AppliesTo::Mids(mids) if mids.is_empty() || mids.len() > 1000 => {
            Err(invalid(&credential.name, "applies_to names no MID, or more than 1000"))
        }
        AppliesTo::Mids(mids) => mids.iter().try_for_each(|mid| name("MID", mid)),
    }
}

pub(crate) fn connection(connection: &Connection) -> Result<(), Problem> {
    name("connection", &connection.alias)?;
    url("base_url", &connection.base_url)?;
    name("credential", &connection.credential)?;
    connection.mid.as_deref().map_or(Ok(()), |mid| name("MID", mid))?;
    if !(1..=600_000).contains(&connection.timeout_ms) {
        return Err(invalid(&connection.alias, "timeout_ms is not between 1 and 600000"));
    }
    connection.cluster.as_deref().map_or(Ok(()), |cluster| name("cluster", cluster))?;
    if connection.mid.is_some() && connection.cluster.is_some() {
        return Err(invalid(&connection.alias, "it names both a mid and a cluster"));
    }
    if connection.max_concurrent == Some(0) {
        return Err(invalid(&connection.alias, "max_concurrent is 0: pause its MIDs instead"));
    }
    if connection.max_per_minute.is_some_and(|rate| !(1..=6_000_000).contains(&rate)) {
        return Err(invalid(&connection.alias, "max_per_minute is not between 1 and 6000000"));
    }
    if let Some(retry) = &connection.retry {
        if !(2..=100).contains(&retry.attempts) || retry.statuses.len() > 50 {
            return Err(invalid(&connection.alias, "retry.attempts is not between 2 and 100, or over 50 statuses"));
        }
        if retry.statuses.iter().any(|status| !(400..=599).contains(status)) {
            return Err(invalid(&connection.alias, "retry.statuses holds what is no error of an API (400 to 599)"));
        }
        let day = 86_400_000;
        if retry.backoff_ms == 0 || retry.backoff_ms > retry.backoff_max_ms || retry.backoff_max_ms > day {
            return Err(invalid(&connection.alias, "retry needs 0 < backoff_ms <= backoff_max_ms <= 86400000"));
        }
    }
    let methods = connection.replay_methods.as_deref().unwrap_or_default();
    if methods.len() > 20 || methods.iter().any(|name| method(name).is_err()) {
        return Err(invalid(&connection.alias, "replay_methods holds what is no method in capitals"));
    }
    Ok(())
}

pub(crate) fn cluster(cluster: &Cluster) -> Result<(), Problem> {
    name("cluster", &cluster.name)?;
    let distinct: HashSet<&String> = cluster.mids.iter().collect();
    if cluster.mids.is_empty() || cluster.mids.len() > 1000 || distinct.len() < cluster.mids.len() {
        return Err(invalid(&cluster.name, "it names no MID, more than 1000, or one twice"));
    }
    if cluster.networks.len() > 100 || cluster.networks.iter().any(|network| Network::parse(network).is_none()) {
        return Err(invalid(&cluster.name, "networks holds what is no network, such as 10.1.0.0/16 or fd00::/8"));
    }
    cluster.mids.iter().try_for_each(|mid| name("MID", mid))
}

/// An absolute http or https URL without user, query or fragment, in at most [`LONGEST`] bytes.
fn url(field: &str, text: &str) -> Result<(), Problem> {
    let fine = Url::parse(text).is_ok_and(|url| {
        matches!(url.scheme(), "http" | "https")
            && url.has_host()
            && url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none()
    }) && text.len() <= LONGEST
        && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    if fine {
        return Ok(());
    }
    Err(Problem::bad_request(
        "invalid_url",
        format!(
            "{field} is not an absolute http or https URL of at most {LONGEST} bytes, without user name, query and fragment"
        ),
        "Write it like https://api.example.com/v1.",
    ))
}

fn invalid(record: &str, detail: &str) -> Problem {
    Problem::bad_request("invalid_record", format!("{record}: {detail}"), "Correct the record.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_have_no_user_query_or_fragment() {
        for bad in [
            "ftp://a",
            "file:///etc",
            "https://u:p@a",
            "https://u@a",
            "https://a/#f",
            "https://a/?q",
            "//a",
            "a",
            "unix:/x",
        ] {
            assert!(url("base_url", bad).is_err(), "{bad:?}");
        }
        for good in ["https://a", "http://127.0.0.1:8080/x/y"] {
            assert!(url("base_url", good).is_ok(), "{good:?}");
        }
    }

    #[test]
    fn assertions_are_described_for_the_methods_that_sign() {
        let parse = |text: &str| serde_json::from_str::<OAuthEntity>(text).expect("an entity");
        let entity_of = |method: &str, more: &str| {
            parse(&format!(r#"{{"name":"a","token_url":"https://a/t","client_auth":"{method}"{more}}}"#))
        };
        let (audience, algorithm) = (r#","assertion_audience":"https://a/x""#, r#","assertion_algorithm":"PS256""#);
        for (method, more, fine) in [
            ("client_secret_basic", "", true),
            ("client_secret_basic", audience, false),
            ("client_secret_post", algorithm, false),
            ("client_secret_jwt", audience, true),
            ("client_secret_jwt", algorithm, false),
            ("private_key_jwt", audience, true),
            ("private_key_jwt", algorithm, true),
            ("private_key_jwt", r#","assertion_audience":"""#, false),
            ("private_key_jwt", r#","assertion_audience":"a b""#, false),
        ] {
            assert_eq!(entity(&entity_of(method, more)).is_ok(), fine, "{method} {more}");
        }
    }

    #[test]
    fn an_entity_names_its_endpoint_or_an_issuer() {
        for (more, fine) in [
            (r#""token_url":"https://a/t""#, true),
            (r#""issuer":"https://a/t""#, true),
            (r#""issuer":"https://a","revocation_url":"https://a/r""#, true),
            (r#""issuer":"a""#, false),
            (r#""issuer":"https://a","revocation_url":"/r""#, false),
            (r#""revocation_url":"https://a/r""#, false),
        ] {
            let text = format!(r#"{{"name":"a","client_auth":"client_secret_post",{more}}}"#);
            let record: OAuthEntity = serde_json::from_str(&text).expect("an entity");
            assert_eq!(entity(&record).is_ok(), fine, "{more}");
        }
    }

    #[test]
    fn a_grant_has_its_own_settings_and_no_others() {
        let jwt = "urn:ietf:params:oauth:token-type:jwt";
        let exchange = |more: &str| {
            format!(r#""grant_type":"token_exchange","token_exchange":{{"subject_token_type":"{jwt}"{more}}}"#)
        };
        for (more, fine) in [
            (r#""scopes":["a"]"#.to_owned(), true),
            (r#""grant_type":"client_credentials","jwt_bearer":{}"#.to_owned(), false),
            (r#""grant_type":"jwt_bearer""#.to_owned(), true),
            (r#""grant_type":"urn:ietf:params:oauth:grant-type:jwt-bearer""#.to_owned(), true),
            (r#""grant_type":"jwt_bearer","jwt_bearer":{"subject":"a@b","claims":{"x":"y"}}"#.to_owned(), true),
            (r#""grant_type":"jwt_bearer","jwt_bearer":{"subject":""}"#.to_owned(), false),
            (r#""grant_type":"jwt_bearer","jwt_bearer":{"claims":{"exp":"1"}}"#.to_owned(), false),
            (r#""grant_type":"token_exchange""#.to_owned(), false),
            (exchange(""), true),
            (exchange(r#","requested_token_type":"urn:ietf:params:oauth:token-type:access_token""#), true),
            (exchange(r#","requested_token_type":"urn:ietf:params:oauth:token-type:id_token""#), false),
            (exchange(r#","actor_token_type":"jwt""#), false),
            (r#""grant_type":"password""#.to_owned(), false),
            (r#""grant_type":"authorization_code""#.to_owned(), false),
            (r#""grant_type":"refresh_token""#.to_owned(), false),
            (r#""extra_parameters":{"subject_token":"x"}"#.to_owned(), false),
        ] {
            let text = format!(r#"{{"name":"a","oauth_entity":"e",{more}}}"#);
            let record: OAuthEntityProfile = serde_json::from_str(&text).expect("a profile");
            assert_eq!(profile(&record).is_ok(), fine, "{more}");
        }
    }

    #[test]
    fn a_text_that_no_database_or_server_takes_is_in_no_record() {
        let long = "a".repeat(LONGEST + 1);
        let profile_of = |field: &str, value: serde_json::Value| {
            let mut record = serde_json::json!({ "name": "a", "oauth_entity": "e" });
            record[field] = value;
            serde_json::from_value::<OAuthEntityProfile>(record).expect("a profile")
        };
        for bad in ["a\0", &long] {
            for (field, value) in [
                ("oauth_entity", bad.into()),
                ("audience", bad.into()),
                ("scopes", serde_json::json!([bad])),
                ("resource", serde_json::json!([bad])),
                ("extra_parameters", serde_json::json!({ bad: "" })),
                ("extra_parameters", serde_json::json!({ "a": bad })),
            ] {
                let length = bad.len();
                assert!(profile(&profile_of(field, value)).is_err(), "{field} {length}");
            }
            assert!(url("base_url", &format!("https://a/{bad}")).is_err());
        }
        for (field, value) in [
            ("audience", "grün, 1".into()),
            ("resource", serde_json::json!(["https://a/b"])),
            ("extra_parameters", serde_json::json!({ "a": "two\nlines" })),
        ] {
            assert!(profile(&profile_of(field, value)).is_ok(), "{field}");
        }
        let credential_of = |mids: serde_json::Value, profile: &str| {
            let record = serde_json::json!({ "name": "a", "credential_id": "x", "oauth_entity_profile": profile,
                                             "applies_to": { "mids": mids } });
            credential(&serde_json::from_value(record).expect("a credential"))
        };
        let names = |count: usize| serde_json::json!(vec!["m"; count]);
        assert!(credential_of(names(1000), "p").is_ok());
        assert!(credential_of(names(1001), "p").is_err() && credential_of(names(1), "p\0").is_err());
    }

    #[test]
    fn the_password_grant_is_refused_with_its_reason() {
        let text = r#"{"name":"a","oauth_entity":"e","grant_type":"password"}"#;
        let record: OAuthEntityProfile = serde_json::from_str(text).expect("a profile");
        let problem = profile(&record).expect_err("refused");
        assert!(problem.failure.detail.contains("RFC 9700"), "{}", problem.failure);
    }
}
