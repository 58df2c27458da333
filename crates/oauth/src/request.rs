//! The token request (RFC 6749 4.4.2, RFC 7523 2, RFC 8693 2.1) and the revocation request (RFC 7009 2.1), without IO.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Weak};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::HeaderValue;
use midward_core::{AccessToken, ClientMaterial, MaterialField, Random, Secret, WallTime};
use url::Url;
use zeroize::Zeroizing;

use crate::assertion::{self, AssertionRules};
use crate::dpop::{DPOP, ProofError};
use crate::form;
use crate::grant::{GrantType, is_own_claim};
use crate::signing_key::KeyError;

/// How the client proves itself at the token endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ClientAuth {
    /// HTTP Basic; id and secret are form-encoded first (RFC 6749 2.3.1).
    ClientSecretBasic,
    /// HTTP Basic with id and secret as they are, for servers that do not decode.
    ClientSecretBasicRaw,
    /// Both in the body.
    ClientSecretPost,
    /// A JWT with a MAC by the secret (RFC 7523 2.2), HS256.
    ClientSecretJwt,
    /// A JWT signed by the client's private key (RFC 7523 2.2).
    PrivateKeyJwt,
    /// The TLS connection's client certificate, by its subject and issuer (RFC 8705 2.1).
    TlsClientAuth,
    /// The same, with a certificate that the server knows itself (RFC 8705 2.2).
    SelfSignedTlsClientAuth,
}

impl ClientAuth {
    pub const fn name(self) -> &'static str {
        match self {
            Self::ClientSecretBasic => "client_secret_basic",
            Self::ClientSecretBasicRaw => "client_secret_basic_raw",
            Self::ClientSecretPost => "client_secret_post",
            Self::ClientSecretJwt => "client_secret_jwt",
            Self::PrivateKeyJwt => "private_key_jwt",
            Self::TlsClientAuth => "tls_client_auth",
            Self::SelfSignedTlsClientAuth => "self_signed_tls_client_auth",
        }
    }

    /// The field that the client proves itself with.
    const fn proof(self) -> MaterialField {
        match self {
            Self::ClientSecretBasic | Self::ClientSecretBasicRaw | Self::ClientSecretPost | Self::ClientSecretJwt => {
                MaterialField::ClientSecret
            }
            Self::PrivateKeyJwt | Self::TlsClientAuth | Self::SelfSignedTlsClientAuth => MaterialField::PrivateKey,
        }
    }

    /// Whether something signed is the proof, which counts from the wall clock.
    pub(crate) const fn is_signed(self) -> bool {
        matches!(self, Self::ClientSecretJwt | Self::PrivateKeyJwt)
    }

    /// Whether the connection's certificate is the proof.
    pub const fn is_by_certificate(self) -> bool {
        matches!(self, Self::TlsClientAuth | Self::SelfSignedTlsClientAuth)
    }
}

/// What is asked of which server, without the secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRequestSpec {
    pub token_url: Url,
    pub grant: GrantType,
    pub client_auth: ClientAuth,
    pub scopes: Vec<String>,
    pub audience: Option<String>,
    /// RFC 8707; repeatable.
    pub resource: Vec<String>,
    pub extra_parameters: BTreeMap<String, String>,
    /// For the methods that sign; as it is made by default for all others, so that equal tokens stay equal.
    pub assertion: AssertionRules,
    /// The token is bound to the client's certificate (RFC 8705 3), which is presented to the API too.
    pub certificate_bound: bool,
    /// The token is bound to a key that is made for it (RFC 9449), and never taken without.
    pub dpop: bool,
}

/// The request, ready to be sent by POST. Holds the secret: `Debug` is redacted, buffers are wiped when dropped.
pub struct TokenHttpRequest {
    pub url: Url,
    /// The value of `Authorization`, for the methods that use it.
    pub authorization: Option<Secret>,
    pub body: Secret,
    /// Presented in the TLS handshake, for the methods that prove the client by it.
    pub certificate: Option<ClientCertificate>,
    /// The value of `DPoP`.
    pub dpop: Option<HeaderValue>,
}

/// A client certificate as the vault returned it. Clones share the buffers, which are wiped with the last of them.
#[derive(Clone, Debug)]
pub struct ClientCertificate(Arc<CertificatePem>);

#[derive(Debug)]
struct CertificatePem {
    chain: Secret,
    private_key: Secret,
}

impl ClientCertificate {
    fn of(material: &ClientMaterial) -> Result<Self, RequestError> {
        let chain = needed(material, MaterialField::Certificate)?.clone();
        let private_key = needed(material, MaterialField::PrivateKey)?.clone();
        Ok(Self(Arc::new(CertificatePem { chain, private_key })))
    }

    /// PEM, leaf first.
    pub fn chain(&self) -> &Secret {
        &self.0.chain
    }

    /// PEM.
    pub fn private_key(&self) -> &Secret {
        &self.0.private_key
    }

    /// A reference that keeps nothing.
    pub fn downgrade(&self) -> WeakCertificate {
        WeakCertificate(Arc::downgrade(&self.0))
    }
}

/// What stands for a [`ClientCertificate`] and does not keep it from being wiped.
#[derive(Clone, Debug)]
pub struct WeakCertificate(Weak<CertificatePem>);

impl WeakCertificate {
    /// Whether it stands for this very one.
    pub fn is(&self, certificate: &ClientCertificate) -> bool {
        std::ptr::eq(self.0.as_ptr(), Arc::as_ptr(&certificate.0))
    }

    /// Whether all copies were dropped.
    pub fn is_gone(&self) -> bool {
        self.0.strong_count() == 0
    }
}

impl TokenHttpRequest {
    /// The headers beside `Authorization`. Identity coding: a compressed reply has no known size.
    pub const HEADERS: [(&'static str, &'static str); 3] = [
        ("accept", "application/json"),
        ("accept-encoding", "identity"),
        ("content-type", "application/x-www-form-urlencoded"),
    ];

    /// All headers, `Authorization` marked as sensitive. Its buffer is shared with the map and wiped with it.
    pub fn header_map(&self) -> http::HeaderMap {
        let mut headers = http::HeaderMap::with_capacity(5);
        for (name, value) in Self::HEADERS {
            headers.insert(name, HeaderValue::from_static(value));
        }
        if let Some(value) = &self.authorization {
            let shared = Bytes::from_owner(Zeroizing::new(value.expose().to_vec()));
            // Base64 behind `Basic ` is always a legal header value.
            if let Ok(mut value) = HeaderValue::from_maybe_shared(shared) {
                value.set_sensitive(true);
                headers.insert(http::header::AUTHORIZATION, value);
            }
        }
        if let Some(proof) = &self.dpop {
            headers.insert(DPOP, proof.clone());
        }
        headers
    }

    /// The body in a buffer that is wiped when its last owner drops it.
    pub fn body_bytes(&self) -> Bytes {
        Bytes::from_owner(Zeroizing::new(self.body.expose().to_vec()))
    }
}

impl fmt::Debug for TokenHttpRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenHttpRequest").field("url", &self.url.as_str()).finish_non_exhaustive()
    }
}

/// Why no request can be made. Permanent until configuration or secret changes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    #[error("the resolver returned no {}, or an empty one", .0.name())]
    EmptySecret(MaterialField),
    #[error("the extra parameter {0:?} is one that the token request sets itself")]
    ReservedParameter(String),
    #[error("the further claim {0:?} is one that an assertion sets itself")]
    ReservedClaim(String),
    #[error("the client id holds a colon, which client_secret_basic_raw cannot carry")]
    ColonInClientId,
    #[error("the token URL is not http or https, or holds a fragment or user information")]
    BadTokenUrl,
    #[error("the {} from the vault is not text", .0.name())]
    NotText(MaterialField),
    #[error("the private key from the vault cannot be used: {0}")]
    Key(#[from] KeyError),
    #[error(transparent)]
    Proof(#[from] ProofError),
}

/// Builds the request. Exactly one authentication method; what it or the grant needs and did not come is an error. An
/// assertion is made anew each time, with an identifier of its own, and counts from `now`.
pub fn build(
    spec: &TokenRequestSpec,
    material: &ClientMaterial,
    now: WallTime,
    random: &dyn Random,
) -> Result<TokenHttpRequest, RequestError> {
    check(spec)?;
    let client = if spec.grant.authenticates_client() {
        client_proof(spec, material, now, random)?
    } else {
        ClientProof::default()
    };
    let grant = grant_fields(&spec.grant, material, now, random)?;
    let scope = spec.scopes.join(" ");
    let mut pairs: Vec<(&[u8], &[u8])> = vec![(b"grant_type", spec.grant.name().as_bytes())];
    pairs.extend(client.fields.iter().chain(&grant).map(|(name, value)| (name.as_bytes(), value.expose())));
    if !scope.is_empty() {
        pairs.push((b"scope", scope.as_bytes()));
    }
    if let Some(audience) = &spec.audience {
        pairs.push((b"audience", audience.as_bytes()));
    }
    pairs.extend(spec.resource.iter().map(|resource| (b"resource".as_slice(), resource.as_bytes())));
    pairs.extend(spec.extra_parameters.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())));
    let body = Secret::new(form::body(&pairs));
    let ClientProof { authorization, certificate, .. } = client;
    Ok(TokenHttpRequest { url: spec.token_url.clone(), authorization, body, certificate, dpop: None })
}

/// Builds the request that takes a token back (RFC 7009 2.1), with the client's proof as for the token request.
pub(crate) fn build_revocation(
    spec: &TokenRequestSpec,
    url: &Url,
    token: &AccessToken,
    material: &ClientMaterial,
    now: WallTime,
    random: &dyn Random,
) -> Result<TokenHttpRequest, RequestError> {
    check(spec)?;
    if !is_plain(url) {
        return Err(RequestError::BadTokenUrl);
    }
    let client = if spec.grant.authenticates_client() {
        client_proof(spec, material, now, random)?
    } else {
        let id = material.field(MaterialField::ClientId).map(|id| ("client_id", id.clone()));
        ClientProof { fields: id.into_iter().collect(), ..ClientProof::default() }
    };
    let mut pairs: Vec<(&[u8], &[u8])> =
        vec![(b"token", token.expose().as_bytes()), (b"token_type_hint", b"access_token")];
    pairs.extend(client.fields.iter().map(|(name, value)| (name.as_bytes(), value.expose())));
    let body = Secret::new(form::body(&pairs));
    let ClientProof { authorization, certificate, .. } = client;
    Ok(TokenHttpRequest { url: url.clone(), authorization, body, certificate, dpop: None })
}

/// What a client shows of itself in one request.
#[derive(Default)]
struct ClientProof {
    /// The value of `Authorization`.
    authorization: Option<Secret>,
    fields: Vec<(&'static str, Secret)>,
    certificate: Option<ClientCertificate>,
}

fn client_proof(
    spec: &TokenRequestSpec,
    material: &ClientMaterial,
    now: WallTime,
    random: &dyn Random,
) -> Result<ClientProof, RequestError> {
    let id = needed(material, MaterialField::ClientId)?;
    let proof = needed(material, spec.client_auth.proof())?;
    let claims = || assertion::Claims::of_client(spec, id, now, random);
    let in_header = |authorization| Ok(ClientProof { authorization: Some(authorization), ..ClientProof::default() });
    let mut fields = vec![("client_id", id.clone())];
    let mut push_assertion = |assertion| {
        fields.push(("client_assertion_type", Secret::from(assertion::TYPE)));
        fields.push(("client_assertion", assertion));
    };
    match spec.client_auth {
        ClientAuth::ClientSecretBasic => {
            return in_header(basic(&form::encode(id.expose()), &form::encode(proof.expose())));
        }
        ClientAuth::ClientSecretBasicRaw if id.expose().contains(&b':') => return Err(RequestError::ColonInClientId),
        ClientAuth::ClientSecretBasicRaw => return in_header(basic(id.expose(), proof.expose())),
        ClientAuth::ClientSecretPost => fields.push(("client_secret", proof.clone())),
        ClientAuth::ClientSecretJwt => push_assertion(claims()?.with_mac(proof)),
        ClientAuth::PrivateKeyJwt => push_assertion(claims()?.signed(proof, material, spec.assertion.algorithm)?),
        // The certificate itself is the proof; the client's identifier tells whose it must be (RFC 8705 2).
        ClientAuth::TlsClientAuth | ClientAuth::SelfSignedTlsClientAuth => {
            let certificate = Some(ClientCertificate::of(material)?);
            return Ok(ClientProof { authorization: None, fields, certificate });
        }
    }
    Ok(ClientProof { fields, ..ClientProof::default() })
}

/// What the grant itself needs.
fn grant_fields(
    grant: &GrantType,
    material: &ClientMaterial,
    now: WallTime,
    random: &dyn Random,
) -> Result<Vec<(&'static str, Secret)>, RequestError> {
    match grant {
        GrantType::ClientCredentials => Ok(Vec::new()),
        GrantType::JwtBearer(bearer) => {
            let key = needed(material, MaterialField::PrivateKey)?;
            let claims = assertion::Claims::of_grant(bearer, material, now, random)?;
            Ok(vec![("assertion", claims.signed(key, material, bearer.algorithm)?)])
        }
        GrantType::TokenExchange(exchange) => {
            let subject = needed(material, MaterialField::SubjectToken)?;
            let mut fields = vec![
                ("subject_token", subject.clone()),
                ("subject_token_type", Secret::from(exchange.subject_token_type.as_str())),
            ];
            if let Some(kind) = &exchange.actor_token_type {
                fields.push(("actor_token", needed(material, MaterialField::ActorToken)?.clone()));
                fields.push(("actor_token_type", Secret::from(kind.as_str())));
            }
            if let Some(kind) = &exchange.requested_token_type {
                fields.push(("requested_token_type", Secret::from(kind.as_str())));
            }
            Ok(fields)
        }
    }
}

/// Absent or empty is an error, and is never sent.
pub(crate) fn needed(material: &ClientMaterial, field: MaterialField) -> Result<&Secret, RequestError> {
    material.field(field).ok_or(RequestError::EmptySecret(field))
}

/// Checks everything that needs no secret.
pub fn check(spec: &TokenRequestSpec) -> Result<(), RequestError> {
    if !is_plain(&spec.token_url) {
        return Err(RequestError::BadTokenUrl);
    }
    if let GrantType::JwtBearer(bearer) = &spec.grant
        && let Some(name) = bearer.claims.keys().find(|name| is_own_claim(name))
    {
        return Err(RequestError::ReservedClaim(name.chars().take(80).collect()));
    }
    match spec.extra_parameters.keys().find(|name| is_reserved(name)) {
        Some(name) => Err(RequestError::ReservedParameter(name.chars().take(80).collect())),
        None => Ok(()),
    }
}

/// Whether a URL is one that a secret may be sent to, as far as its form goes.
pub(crate) fn is_plain(url: &Url) -> bool {
    matches!(url.scheme(), "https" | "http")
        && url.fragment().is_none()
        && url.username().is_empty()
        && url.password().is_none()
}

/// Parameters that shape who asks for what. They have fields of their own, which the policy checks; as an extra
/// parameter they would go around it. Servers differ in case and in white space, so both are ignored.
fn is_reserved(name: &str) -> bool {
    const RESERVED: [&str; 22] = [
        "",
        "grant_type",
        "client_id",
        "client_secret",
        "client_assertion",
        "client_assertion_type",
        "scope",
        "audience",
        "resource",
        "assertion",
        "username",
        "password",
        "refresh_token",
        "code",
        "code_verifier",
        "device_code",
        "subject_token",
        "subject_token_type",
        "actor_token",
        "actor_token_type",
        "requested_token_type",
        "auth_req_id",
    ];
    RESERVED.contains(&name.trim().to_ascii_lowercase().as_str())
}

fn basic(id: &[u8], secret: &[u8]) -> Secret {
    let mut pair = Zeroizing::new(Vec::with_capacity(id.len() + 1 + secret.len()));
    pair.extend_from_slice(id);
    pair.push(b':');
    pair.extend_from_slice(secret);
    let prefix = b"Basic ";
    let mut value = vec![0; prefix.len() + pair.len().div_ceil(3) * 4];
    value[..prefix.len()].copy_from_slice(prefix);
    let written = STANDARD.encode_slice(&pair, &mut value[prefix.len()..]);
    debug_assert_eq!(written, Ok(value.len() - prefix.len()));
    Secret::new(value)
}

#[cfg(test)]
mod tests {
    use midward_core::SeededRandom;

    use super::*;

    fn build(spec: &TokenRequestSpec, material: &ClientMaterial) -> Result<TokenHttpRequest, RequestError> {
        super::build(spec, material, WallTime::from_unix_millis(0), &SeededRandom::new(1))
    }

    fn material(id: &str, secret: &str) -> ClientMaterial {
        ClientMaterial::new()
            .with(MaterialField::ClientId, Secret::from(id))
            .with(MaterialField::ClientSecret, Secret::from(secret))
    }

    fn spec(client_auth: ClientAuth) -> TokenRequestSpec {
        TokenRequestSpec {
            token_url: Url::parse("https://as.example/token").expect("legal"),
            grant: GrantType::ClientCredentials,
            client_auth,
            scopes: vec!["read".into(), "write".into()],
            audience: Some("https://api.example".into()),
            resource: vec!["urn:a".into(), "urn:b".into()],
            extra_parameters: BTreeMap::from([("tenant".into(), "t 1".into())]),
            assertion: AssertionRules::default(),
            certificate_bound: false,
            dpop: false,
        }
    }

    fn body(request: &TokenHttpRequest) -> &str {
        request.body.expose_str().expect("form bodies are ASCII")
    }

    fn decoded(request: &TokenHttpRequest) -> Vec<u8> {
        let value = request.authorization.as_ref().expect("Basic").expose_str().expect("ASCII");
        STANDARD.decode(value.strip_prefix("Basic ").expect("prefix")).expect("base64")
    }

    #[test]
    fn basic_encodes_id_and_secret_as_forms() {
        // The value of RFC 6749 appendix B, and what breaks servers that are sent it raw.
        let request = build(&spec(ClientAuth::ClientSecretBasic), &material("i:d", " %&+£€")).expect("complete");
        assert_eq!(decoded(&request), b"i%3Ad:+%25%26%2B%C2%A3%E2%82%AC");
        assert_eq!(
            body(&request),
            "grant_type=client_credentials&scope=read+write&audience=https%3A%2F%2Fapi.example&resource=urn%3Aa\
             &resource=urn%3Ab&tenant=t+1"
        );
        let headers = request.header_map();
        assert_eq!(headers["accept-encoding"], "identity");
        assert_eq!(headers["accept"], "application/json");
        assert!(headers["authorization"].is_sensitive());
    }

    #[test]
    fn raw_basic_sends_bytes_as_they_are() {
        let request = build(&spec(ClientAuth::ClientSecretBasicRaw), &material("id", "a%b+c d")).expect("complete");
        assert_eq!(decoded(&request), b"id:a%b+c d");
        let colon = build(&spec(ClientAuth::ClientSecretBasicRaw), &material("i:d", "s")).map(|_| ());
        assert_eq!(colon, Err(RequestError::ColonInClientId));
    }

    #[test]
    fn post_uses_the_body_and_no_header() {
        let request = build(&spec(ClientAuth::ClientSecretPost), &material("id", "p&q=\"r")).expect("complete");
        assert!(request.authorization.is_none());
        assert!(!request.header_map().contains_key("authorization"));
        assert!(
            body(&request)
                .starts_with("grant_type=client_credentials&client_id=id&client_secret=p%26q%3D%22r&scope=read+write&")
        );
    }

    #[test]
    fn one_authentication_method_at_a_time() {
        // Databricks and others refuse two.
        for method in [ClientAuth::ClientSecretBasic, ClientAuth::ClientSecretBasicRaw, ClientAuth::ClientSecretPost] {
            let request = build(&spec(method), &material("id", "secret")).expect("complete");
            assert_ne!(request.authorization.is_some(), body(&request).contains("client_secret="), "{method:?}");
        }
    }

    #[test]
    fn a_four_kib_secret_of_any_text_arrives_byte_exact() {
        let secret: String = "Ünï\"'%+&;,=\u{1f511}\\ \t".chars().cycle().take(2048).collect();
        let request = build(&spec(ClientAuth::ClientSecretPost), &material("id", &secret)).expect("complete");
        let sent = url::form_urlencoded::parse(request.body.expose())
            .find(|(name, _)| name == "client_secret")
            .map(|(_, value)| value.into_owned());
        assert_eq!(sent.as_deref(), Some(secret.as_str()));
        let request = build(&spec(ClientAuth::ClientSecretBasic), &material("id", &secret)).expect("complete");
        let pair = decoded(&request);
        let encoded = pair.strip_prefix(b"id:").expect("id first");
        let form = [b"s=", encoded].concat();
        let sent = url::form_urlencoded::parse(&form).next().map(|(_, value)| value.into_owned());
        assert_eq!(sent.as_deref(), Some(secret.as_str()));
    }

    #[test]
    fn an_empty_or_absent_field_is_never_sent() {
        for (id, secret, missing) in [("", "s", MaterialField::ClientId), ("id", "", MaterialField::ClientSecret)] {
            for method in [ClientAuth::ClientSecretBasic, ClientAuth::ClientSecretPost] {
                let built = build(&spec(method), &material(id, secret)).map(|_| ());
                assert_eq!(built, Err(RequestError::EmptySecret(missing)));
            }
        }
        assert!(build(&spec(ClientAuth::ClientSecretBasic), &ClientMaterial::new()).is_err());
    }

    #[test]
    fn extra_parameters_override_nothing() {
        for name in
            ["grant_type", "client_id", "Client_Secret", "scope ", "client_assertion", "audience", "resource", ""]
        {
            let mut spec = spec(ClientAuth::ClientSecretPost);
            spec.extra_parameters.insert(name.into(), "x".into());
            assert_eq!(check(&spec), Err(RequestError::ReservedParameter(name.into())), "{name:?}");
        }
    }

    #[test]
    fn a_token_url_is_plain() {
        for bad in
            ["ftp://as.example/t", "https://u@as.example/t", "https://u:p@as.example/t", "https://as.example/t#f"]
        {
            let mut spec = spec(ClientAuth::ClientSecretPost);
            spec.token_url = Url::parse(bad).expect("parses");
            assert_eq!(check(&spec), Err(RequestError::BadTokenUrl), "{bad}");
        }
    }

    #[test]
    fn debug_shows_no_secret() {
        let request = build(&spec(ClientAuth::ClientSecretPost), &material("id", "hunter2")).expect("complete");
        assert!(!format!("{request:?} {:?}", request.header_map()).contains("hunter2"));
    }
}
