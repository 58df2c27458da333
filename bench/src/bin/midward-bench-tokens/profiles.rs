//! Profiles to measure with.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use midward_core::{AccessToken, BootTime, Clock, Hop, Minted, Secret, SystemClock, Trace, WallLead};
use midward_oauth::{
    AssertionRules, BoxFuture, ClientAuth, CredentialRef, FetchContext, Fetched, FetchedToken, GrantType, TokenCache,
    TokenFetcher, TokenHandle, TokenKey, TokenRequestSpec,
};
use url::Url;

/// What a signed access token (RFC 9068) with a few claims takes, in bytes.
pub(crate) const TOKEN_LEN: usize = 1024;

/// Answers at once with a token of [`TOKEN_LEN`] that lives an hour.
pub(crate) struct AtOnce;

impl TokenFetcher for AtOnce {
    fn fetch(&self, _context: FetchContext) -> BoxFuture<'_, Fetched> {
        let requested = SystemClock.boot();
        let result = Ok(minted(requested, WallLead::of(requested, SystemClock.wall())));
        let mut trace = Trace::default();
        trace.push(Hop::Resolver, "cyberark returned the client's material", Duration::from_millis(3));
        trace.push(Hop::Vault, "secret read", Duration::from_millis(2));
        trace.push(Hop::AuthorizationServer, "token granted", Duration::from_millis(20));
        Box::pin(std::future::ready(Fetched { result, trace }))
    }
}

pub(crate) fn minted(requested: BootTime, lead: WallLead) -> Minted<FetchedToken> {
    let Some(token) = AccessToken::new(Secret::new(vec![b'x'; TOKEN_LEN])) else {
        unreachable!("the text is visible ASCII")
    };
    let scopes = BTreeSet::from(["read".to_owned(), "write".to_owned()]);
    let token = FetchedToken { token, scopes, fingerprint: None, certificate: None, dpop: None };
    Minted { token, requested, lifetime: Duration::from_hours(1), lead }
}

pub(crate) fn spec(token_url: &str, scope: &str) -> anyhow::Result<TokenRequestSpec> {
    Ok(TokenRequestSpec {
        token_url: Url::parse(token_url)?,
        grant: GrantType::ClientCredentials,
        client_auth: ClientAuth::ClientSecretBasic,
        scopes: vec!["read".to_owned(), scope.to_owned()],
        audience: None,
        resource: Vec::new(),
        extra_parameters: BTreeMap::new(),
        assertion: AssertionRules::default(),
        certificate_bound: false,
        dpop: false,
    })
}

/// The key of profile `number`; `per_credential` of them share one credential.
pub(crate) fn key(number: usize, per_credential: usize) -> anyhow::Result<TokenKey> {
    let scope = if per_credential == 1 { "write".to_owned() } else { format!("write-{}", number % per_credential) };
    let spec = spec("https://login.example.com/oauth2/token", &scope)?;
    Ok(TokenKey::new(credential(&format!("Safe=A;Object=api-{}", number / per_credential)), &spec))
}

pub(crate) fn credential(credential_id: &str) -> CredentialRef {
    CredentialRef {
        instance: "prod".to_owned(),
        credential_id: credential_id.to_owned(),
        address: Some("crm.example.com".to_owned()),
        resolver: "cyberark".to_owned(),
    }
}

/// Handles with a token each.
pub(crate) async fn handles(
    cache: &TokenCache,
    count: usize,
    per_credential: usize,
) -> anyhow::Result<Vec<TokenHandle>> {
    let fetcher: Arc<dyn TokenFetcher> = Arc::new(AtOnce);
    let mut handles = Vec::with_capacity(count);
    for number in 0..count {
        let handle = cache.handle(key(number, per_credential)?, Arc::clone(&fetcher));
        handle.token(Duration::from_secs(10)).await?;
        handles.push(handle);
    }
    Ok(handles)
}

pub(crate) fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}
