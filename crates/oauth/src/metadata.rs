//! What an authorization server says of itself (RFC 8414, OpenID Connect Discovery 1.0), without IO.

use serde::Deserialize;
use url::Url;

use crate::dpop::DpopKey;
use crate::request::{self, ClientAuth};

/// The part of a metadata document that matters here. Where a secret goes is not decided by it: policy is asked about
/// every endpoint that it names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadata {
    token_endpoint: Url,
    revocation_endpoint: Option<Url>,
    /// For clients that authenticate by certificate (RFC 8705 5).
    mtls_token_endpoint: Option<Url>,
    mtls_revocation_endpoint: Option<Url>,
    /// Names of authentication methods at the token endpoint; `None` where the document does not say.
    auth_methods: Option<Vec<String>>,
    /// Names of algorithms for DPoP proofs (RFC 9449 5.1); `None` where the document does not say.
    dpop_algorithms: Option<Vec<String>>,
}

/// Why a document is not used. Holds nothing of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MetadataError {
    #[error("it is not a JSON object of the expected form")]
    NotMetadata,
    /// RFC 8414 3.3: such a document must not be used.
    #[error("it is for another issuer")]
    OtherIssuer,
    #[error("it names no token endpoint that is an absolute http or https URL")]
    NoTokenEndpoint,
}

#[derive(Deserialize)]
struct Document {
    issuer: Option<String>,
    token_endpoint: Option<String>,
    revocation_endpoint: Option<String>,
    token_endpoint_auth_methods_supported: Option<Vec<String>>,
    dpop_signing_alg_values_supported: Option<Vec<String>>,
    #[serde(default)]
    mtls_endpoint_aliases: Aliases,
}

#[derive(Default, Deserialize)]
struct Aliases {
    token_endpoint: Option<String>,
    revocation_endpoint: Option<String>,
}

/// Where an issuer's document is, in the order to ask: RFC 8414 3.1, which inserts its name before the path, and
/// `OpenID` Connect's, which appends it. Empty for an identifier that no metadata can exist for (RFC 8414 2: a URL
/// without query and fragment).
pub fn well_known(issuer: &str) -> Vec<Url> {
    let Some(base) = Url::parse(issuer).ok().filter(|url| request::is_plain(url) && url.query().is_none()) else {
        return Vec::new();
    };
    let path = base.path().trim_end_matches('/');
    let paths =
        [format!("/.well-known/oauth-authorization-server{path}"), format!("{path}/.well-known/openid-configuration")];
    let at = |path: &String| {
        let mut url = base.clone();
        url.set_path(path);
        url
    };
    paths.iter().map(at).collect()
}

/// Reads a document that was asked for on behalf of `issuer`: both must be equal to the letter.
pub fn parse(body: &[u8], issuer: &str) -> Result<Metadata, MetadataError> {
    let document: Document = serde_json::from_slice(body).map_err(|_| MetadataError::NotMetadata)?;
    match document.issuer.as_deref() {
        Some(named) if named == issuer => {}
        Some(_) => return Err(MetadataError::OtherIssuer),
        None => return Err(MetadataError::NotMetadata),
    }
    let endpoint = |text: Option<String>| text.and_then(|text| Url::parse(&text).ok()).filter(request::is_plain);
    Ok(Metadata {
        token_endpoint: endpoint(document.token_endpoint).ok_or(MetadataError::NoTokenEndpoint)?,
        revocation_endpoint: endpoint(document.revocation_endpoint),
        mtls_token_endpoint: endpoint(document.mtls_endpoint_aliases.token_endpoint),
        mtls_revocation_endpoint: endpoint(document.mtls_endpoint_aliases.revocation_endpoint),
        auth_methods: document.token_endpoint_auth_methods_supported,
        dpop_algorithms: document.dpop_signing_alg_values_supported,
    })
}

impl Metadata {
    /// The token endpoint for a client that authenticates by this method.
    pub fn token_endpoint(&self, method: ClientAuth) -> &Url {
        let alias = self.mtls_token_endpoint.as_ref().filter(|_| presents_certificate(method));
        alias.unwrap_or(&self.token_endpoint)
    }

    /// The revocation endpoint (RFC 7009) for such a client.
    pub fn revocation_endpoint(&self, method: ClientAuth) -> Option<&Url> {
        let alias = self.mtls_revocation_endpoint.as_ref().filter(|_| presents_certificate(method));
        alias.or(self.revocation_endpoint.as_ref())
    }

    /// Whether the document lists authentication methods, and not this one. Good for a clearer error and for nothing
    /// else: many servers list less than they take.
    pub fn lacks(&self, method: ClientAuth) -> bool {
        let name = match method {
            ClientAuth::ClientSecretBasicRaw => ClientAuth::ClientSecretBasic.name(),
            other => other.name(),
        };
        self.auth_methods.as_ref().is_some_and(|known| !known.iter().any(|known| known == name))
    }

    /// Whether the document lists algorithms for DPoP proofs (RFC 9449 5.1), and not the one that proofs are signed by.
    pub fn lacks_dpop_algorithm(&self) -> bool {
        self.dpop_algorithms.as_ref().is_some_and(|known| !known.iter().any(|known| known == DpopKey::ALGORITHM))
    }
}

/// Whether the client shows a certificate in the TLS handshake, and so needs the endpoints of `mtls_endpoint_aliases`
/// (RFC 8705 5). Every method is named, so that a new one is decided upon.
const fn presents_certificate(method: ClientAuth) -> bool {
    match method {
        ClientAuth::ClientSecretBasic
        | ClientAuth::ClientSecretBasicRaw
        | ClientAuth::ClientSecretPost
        | ClientAuth::ClientSecretJwt
        | ClientAuth::PrivateKeyJwt => false,
        ClientAuth::TlsClientAuth | ClientAuth::SelfSignedTlsClientAuth => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ISSUER: &str = "https://as.example/t";

    fn document(more: &str) -> String {
        format!(r#"{{"issuer":"{ISSUER}","token_endpoint":"https://as.example/t/token"{more}}}"#)
    }

    #[test]
    fn the_documents_are_where_the_standards_say() {
        let places = |issuer| well_known(issuer).iter().map(ToString::to_string).collect::<Vec<_>>();
        for issuer in ["https://as.example", "https://as.example/"] {
            assert_eq!(
                places(issuer),
                [
                    "https://as.example/.well-known/oauth-authorization-server",
                    "https://as.example/.well-known/openid-configuration",
                ]
            );
        }
        assert_eq!(
            places("https://as.example:8443/t/1"),
            [
                "https://as.example:8443/.well-known/oauth-authorization-server/t/1",
                "https://as.example:8443/t/1/.well-known/openid-configuration",
            ]
        );
        for bad in ["", "as.example", "https://as.example/?q", "https://as.example/#f", "https://u@as.example", "urn:x"]
        {
            assert!(places(bad).is_empty(), "{bad:?}");
        }
    }

    #[test]
    fn the_issuer_must_be_equal_to_the_letter() {
        let body = document("");
        assert!(parse(body.as_bytes(), ISSUER).is_ok());
        for other in ["https://as.example/t/", "https://as.example", "https://AS.example/t", "https://as.example/t?"] {
            assert_eq!(parse(body.as_bytes(), other), Err(MetadataError::OtherIssuer), "{other}");
        }
        assert_eq!(
            parse(br#"{"token_endpoint":"https://as.example/t/token"}"#, ISSUER),
            Err(MetadataError::NotMetadata)
        );
    }

    #[test]
    fn what_is_not_metadata_is_refused() {
        for bad in ["", "<html>", "[]", "null", r#"{"issuer":1}"#, "{\"issuer\":\"a\",\"issuer\":\"b\"}"] {
            assert_eq!(parse(bad.as_bytes(), ISSUER), Err(MetadataError::NotMetadata), "{bad}");
        }
        for endpoint in ["/token", "ftp://as.example/t", "https://u:p@as.example/t", "https://as.example/t#f", ""] {
            let body = format!(r#"{{"issuer":"{ISSUER}","token_endpoint":"{endpoint}"}}"#);
            assert_eq!(parse(body.as_bytes(), ISSUER), Err(MetadataError::NoTokenEndpoint), "{endpoint}");
        }
        assert_eq!(
            parse(format!(r#"{{"issuer":"{ISSUER}"}}"#).as_bytes(), ISSUER),
            Err(MetadataError::NoTokenEndpoint)
        );
    }

    #[test]
    fn an_alias_is_for_clients_with_a_certificate_only() {
        let body = document(
            r#","revocation_endpoint":"https://as.example/t/revoke","mtls_endpoint_aliases":
               {"token_endpoint":"https://mtls.as.example/t/token"}"#,
        );
        let metadata = parse(body.as_bytes(), ISSUER).expect("metadata");
        let method = ClientAuth::PrivateKeyJwt;
        assert_eq!(metadata.token_endpoint(method).as_str(), "https://as.example/t/token");
        assert_eq!(metadata.revocation_endpoint(method).map(Url::as_str), Some("https://as.example/t/revoke"));
        assert_eq!(metadata.mtls_token_endpoint.as_ref().map(Url::as_str), Some("https://mtls.as.example/t/token"));
    }

    #[test]
    fn the_list_of_methods_is_read_leniently() {
        let says = |more: &str| parse(document(more).as_bytes(), ISSUER).expect("metadata");
        assert!(!says("").lacks(ClientAuth::PrivateKeyJwt));
        let listed = says(r#","token_endpoint_auth_methods_supported":["client_secret_basic","x"]"#);
        assert!(listed.lacks(ClientAuth::PrivateKeyJwt));
        assert!(!listed.lacks(ClientAuth::ClientSecretBasicRaw));
    }

    #[test]
    fn algorithms_for_proofs_are_lacking_only_where_others_are_listed() {
        let lacks = |more: &str| parse(document(more).as_bytes(), ISSUER).expect("metadata").lacks_dpop_algorithm();
        assert!(!lacks(""));
        assert!(!lacks(r#","dpop_signing_alg_values_supported":null"#));
        assert!(!lacks(r#","dpop_signing_alg_values_supported":["RS256","ES256"]"#));
        for others in [r#"["RS256","EdDSA"]"#, r#"["es256"]"#, "[]"] {
            assert!(lacks(&format!(r#","dpop_signing_alg_values_supported":{others}"#)), "{others}");
        }
    }
}
