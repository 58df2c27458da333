//! Assertions that a client proves itself with (RFC 7523 2.2), or that are the grant (2.1), without IO.

use std::collections::BTreeMap;

use aws_lc_rs::{digest, hmac};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use midward_core::{ClientMaterial, MaterialField, Random, Secret, WallTime};
use serde::Serialize;

use crate::grant::BearerAssertion;
use crate::request::{self, RequestError, TokenRequestSpec};
use crate::signing_key::{self, SigningKey};

/// `client_assertion_type` (RFC 7523 2.2).
pub(crate) const TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// How long an assertion counts, in seconds: it is used once, at once.
const LIFETIME: i64 = 60;

/// How a private key signs, by its name in RFC 7518 and RFC 8037.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AssertionAlgorithm {
    Rs256,
    Ps256,
    Es256,
    EdDsa,
}

impl AssertionAlgorithm {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Ps256 => "PS256",
            Self::Es256 => "ES256",
            Self::EdDsa => "EdDSA",
        }
    }
}

/// What is not in the key about an assertion.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct AssertionRules {
    /// `aud`; `None`: the token URL. Policy must have allowed it: an assertion for another server's audience would let
    /// this server pass for the client there.
    pub audience: Option<String>,
    /// `None`: by the key's type, RS256 for RSA.
    pub algorithm: Option<AssertionAlgorithm>,
}

/// The claims of one assertion. Nothing in them is secret.
#[derive(Debug, Serialize)]
pub(crate) struct Claims<'a> {
    iss: &'a str,
    sub: &'a str,
    aud: &'a str,
    iat: i64,
    exp: i64,
    jti: String,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    further: Option<&'a BTreeMap<String, String>>,
}

#[derive(Serialize)]
struct Header<'a> {
    alg: &'a str,
    typ: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    kid: Option<&'a str>,
    /// RFC 7515 4.1.8; Entra ID finds the key by it.
    #[serde(rename = "x5t#S256", skip_serializing_if = "Option::is_none")]
    thumbprint: Option<String>,
}

impl<'a> Claims<'a> {
    /// The client speaks for itself (RFC 7523 2.2).
    pub(crate) fn of_client(
        spec: &'a TokenRequestSpec,
        id: &'a Secret,
        now: WallTime,
        random: &dyn Random,
    ) -> Result<Self, RequestError> {
        let id = text(id)?;
        let audience = spec.assertion.audience.as_deref().unwrap_or(spec.token_url.as_str());
        Ok(Self::new(id, id, audience, now, random))
    }

    /// The assertion is the grant (RFC 7523 2.1).
    pub(crate) fn of_grant(
        bearer: &'a BearerAssertion,
        material: &'a ClientMaterial,
        now: WallTime,
        random: &dyn Random,
    ) -> Result<Self, RequestError> {
        let named = |name: &'a Option<String>| match name {
            Some(name) => Ok(name.as_str()),
            None => request::needed(material, MaterialField::ClientId).and_then(text),
        };
        let claims = Self::new(named(&bearer.issuer)?, named(&bearer.subject)?, &bearer.audience, now, random);
        Ok(Self { further: Some(&bearer.claims), ..claims })
    }

    fn new(iss: &'a str, sub: &'a str, aud: &'a str, now: WallTime, random: &dyn Random) -> Self {
        let mut unique = [0; 16];
        random.fill(&mut unique);
        let iat = now.unix_seconds();
        let exp = iat.saturating_add(LIFETIME);
        Self { iss, sub, aud, iat, exp, jti: URL_SAFE_NO_PAD.encode(unique), further: None }
    }

    /// `client_secret_jwt`: HS256 by the octets of the secret.
    pub(crate) fn with_mac(&self, secret: &Secret) -> Secret {
        let input = self.signing_input(&Header { alg: "HS256", typ: "JWT", kid: None, thumbprint: None });
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.expose());
        let mac = hmac::sign(&key, input.as_bytes());
        jws(input, mac.as_ref())
    }

    /// `private_key_jwt`: by the PEM key, with the identifier and the certificate's thumbprint if the material has them.
    pub(crate) fn signed(
        &self,
        pem: &Secret,
        material: &ClientMaterial,
        algorithm: Option<AssertionAlgorithm>,
    ) -> Result<Secret, RequestError> {
        let key = SigningKey::from_pem(pem.expose(), algorithm)?;
        let kid = material
            .field(MaterialField::KeyId)
            .map(|kid| kid.expose_str().ok_or(RequestError::NotText(MaterialField::KeyId)))
            .transpose()?;
        let certificate = material.field(MaterialField::Certificate);
        let thumbprint = certificate
            .and_then(|pem| signing_key::first_certificate(pem.expose()))
            .map(|der| URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, &der)));
        let input = self.signing_input(&Header { alg: key.algorithm().name(), typ: "JWT", kid, thumbprint });
        let signature = key.sign(input.as_bytes())?;
        Ok(jws(input, &signature))
    }

    fn signing_input(&self, header: &Header<'_>) -> String {
        // Structs of text and numbers always have a JSON form.
        let part = |json: serde_json::Result<Vec<u8>>| URL_SAFE_NO_PAD.encode(json.unwrap_or_default());
        format!("{}.{}", part(serde_json::to_vec(header)), part(serde_json::to_vec(self)))
    }
}

fn text(client_id: &Secret) -> Result<&str, RequestError> {
    client_id.expose_str().ok_or(RequestError::NotText(MaterialField::ClientId))
}

/// The compact form (RFC 7515 3.1). Whoever has it is the client for a minute, so it is handled like a secret.
fn jws(input: String, signature: &[u8]) -> Secret {
    let mut compact = Vec::with_capacity(input.len() + 1 + signature.len().div_ceil(3) * 4);
    compact.extend_from_slice(input.as_bytes());
    compact.push(b'.');
    compact.extend_from_slice(URL_SAFE_NO_PAD.encode(signature).as_bytes());
    Secret::new(compact)
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::encoding::AsDer as _;
    use aws_lc_rs::rsa::KeySize;
    use aws_lc_rs::signature::{
        self, ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
        RsaKeyPair, UnparsedPublicKey, VerificationAlgorithm,
    };
    use base64::engine::general_purpose::STANDARD;
    use midward_core::SeededRandom;
    use serde_json::{Value, json};

    use super::*;
    use crate::grant::GrantType;
    use crate::request::{ClientAuth, build};
    use crate::signing_key::KeyError;

    fn spec(client_auth: ClientAuth, assertion: AssertionRules) -> TokenRequestSpec {
        TokenRequestSpec {
            token_url: "https://as.example/token".parse().expect("a URL"),
            grant: GrantType::ClientCredentials,
            client_auth,
            scopes: vec!["read".to_owned()],
            audience: None,
            resource: Vec::new(),
            extra_parameters: BTreeMap::default(),
            assertion,
            certificate_bound: false,
            dpop: false,
        }
    }

    fn pem(label: &str, der: &[u8]) -> String {
        let text = STANDARD.encode(der);
        let lines: Vec<&str> = (0..text.len()).step_by(64).map(|at| &text[at..text.len().min(at + 64)]).collect();
        format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
    }

    fn material(field: MaterialField, value: &str) -> ClientMaterial {
        ClientMaterial::new().with(MaterialField::ClientId, Secret::from("a:b")).with(field, Secret::from(value))
    }

    /// The assertion in a request: signing input, header, claims, signature.
    fn assertion(
        spec: &TokenRequestSpec,
        material: &ClientMaterial,
        random: &SeededRandom,
    ) -> (String, Value, Value, Vec<u8>) {
        let now = WallTime::from_unix_millis(1_700_000_000_999);
        let request = build(spec, material, now, random).expect("complete");
        assert!(request.authorization.is_none());
        let form: BTreeMap<String, String> = url::form_urlencoded::parse(request.body.expose()).into_owned().collect();
        assert_eq!(form["client_assertion_type"], TYPE);
        assert_eq!((form["client_id"].as_str(), form["grant_type"].as_str()), ("a:b", "client_credentials"));
        assert!(!form.contains_key("client_secret"));
        let (input, signature) = form["client_assertion"].rsplit_once('.').expect("a signature");
        let (header, claims) = input.split_once('.').expect("claims");
        let decode = |part| URL_SAFE_NO_PAD.decode(part).expect("base64url");
        let json = |part| serde_json::from_slice(&decode(part)).expect("JSON");
        (input.to_owned(), json(header), json(claims), decode(signature))
    }

    #[track_caller]
    fn verify(algorithm: &'static dyn VerificationAlgorithm, public: &[u8], input: &str, signature: &[u8]) {
        UnparsedPublicKey::new(algorithm, public).verify(input.as_bytes(), signature).expect("a good signature");
    }

    #[test]
    fn every_kind_of_key_signs_what_its_public_key_verifies() {
        let random = SeededRandom::new(1);
        let rsa = RsaKeyPair::generate(KeySize::Rsa2048).expect("a key");
        let rsa_public = rsa.public_key().as_ref().to_vec();
        let rsa_pem = pem("PRIVATE KEY", rsa.as_der().expect("PKCS #8").as_ref());
        let rules = |algorithm| AssertionRules { audience: None, algorithm };
        for (algorithm, name, check) in [
            (None, "RS256", &signature::RSA_PKCS1_2048_8192_SHA256 as &'static dyn VerificationAlgorithm),
            (Some(AssertionAlgorithm::Ps256), "PS256", &signature::RSA_PSS_2048_8192_SHA256),
        ] {
            let spec = spec(ClientAuth::PrivateKeyJwt, rules(algorithm));
            let (input, header, _, signed) = assertion(&spec, &material(MaterialField::PrivateKey, &rsa_pem), &random);
            assert_eq!(header, json!({ "alg": name, "typ": "JWT" }));
            verify(check, &rsa_public, &input, &signed);
        }

        let ec = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key");
        let sec1 = ec.private_key().as_der().expect("SEC 1");
        let pkcs8 = ec.to_pkcs8v1().expect("PKCS #8");
        for key in [pem("PRIVATE KEY", pkcs8.as_ref()), pem("EC PRIVATE KEY", sec1.as_ref())] {
            let spec = spec(ClientAuth::PrivateKeyJwt, rules(None));
            let (input, header, _, signed) = assertion(&spec, &material(MaterialField::PrivateKey, &key), &random);
            assert_eq!((header["alg"].as_str(), signed.len()), (Some("ES256"), 64));
            verify(&ECDSA_P256_SHA256_FIXED, ec.public_key().as_ref(), &input, &signed);
        }

        let ed = Ed25519KeyPair::generate().expect("a key");
        for der in [ed.to_pkcs8v1().expect("PKCS #8"), ed.to_pkcs8().expect("PKCS #8 v2")] {
            let key = pem("PRIVATE KEY", der.as_ref());
            let spec = spec(ClientAuth::PrivateKeyJwt, rules(Some(AssertionAlgorithm::EdDsa)));
            let (input, header, _, signed) = assertion(&spec, &material(MaterialField::PrivateKey, &key), &random);
            assert_eq!(header["alg"], "EdDSA");
            verify(&signature::ED25519, ed.public_key().as_ref(), &input, &signed);
        }

        let wrong = spec(ClientAuth::PrivateKeyJwt, rules(Some(AssertionAlgorithm::Es256)));
        let built =
            build(&wrong, &material(MaterialField::PrivateKey, &rsa_pem), WallTime::from_unix_millis(0), &random);
        let error = built.map(|_| ()).expect_err("an RSA key makes no ES256");
        assert_eq!(error, RequestError::Key(KeyError::WrongType(AssertionAlgorithm::Es256)));
    }

    #[test]
    fn a_secret_makes_a_mac() {
        let secret = "a secret of more than thirty-two bytes";
        let rules = AssertionRules { audience: Some("https://as.example".to_owned()), algorithm: None };
        let (input, header, claims, mac) = assertion(
            &spec(ClientAuth::ClientSecretJwt, rules),
            &material(MaterialField::ClientSecret, secret),
            &SeededRandom::new(1),
        );
        assert_eq!(header, json!({ "alg": "HS256", "typ": "JWT" }));
        assert_eq!(claims["aud"], "https://as.example");
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        hmac::verify(&key, input.as_bytes(), &mac).expect("a good MAC");
    }

    #[test]
    fn claims_are_short_lived_and_never_the_same_twice() {
        let random = SeededRandom::new(1);
        let spec = spec(ClientAuth::ClientSecretJwt, AssertionRules::default());
        let material = material(MaterialField::ClientSecret, "s");
        let (_, _, mut first, _) = assertion(&spec, &material, &random);
        let (_, _, second, _) = assertion(&spec, &material, &random);
        assert_ne!(first["jti"], second["jti"]);
        assert_eq!(first["jti"].as_str().map(str::len), Some(22));
        first.as_object_mut().expect("claims").remove("jti");
        let expected = json!({
            "iss": "a:b", "sub": "a:b", "aud": "https://as.example/token", "iat": 1_700_000_000, "exp": 1_700_000_060,
        });
        assert_eq!(first, expected);
    }

    #[test]
    fn the_header_names_the_key() {
        let der = Ed25519KeyPair::generate().expect("a key").to_pkcs8v1().expect("PKCS #8");
        let material = material(MaterialField::PrivateKey, &pem("PRIVATE KEY", der.as_ref()))
            .with(MaterialField::KeyId, Secret::from("key-7"))
            .with(MaterialField::Certificate, Secret::from(pem("CERTIFICATE", b"abc")));
        let spec = spec(ClientAuth::PrivateKeyJwt, AssertionRules::default());
        let (_, header, _, _) = assertion(&spec, &material, &SeededRandom::new(1));
        // FIPS 180-4 example, in base64url.
        let thumbprint = "ungWv48Bz-pBQUDeXa4iI7ADYaOWF3qctBD_YfIAFa0";
        let expected = json!({ "alg": "EdDSA", "typ": "JWT", "kid": "key-7", "x5t#S256": thumbprint });
        assert_eq!(header, expected);
    }
}
