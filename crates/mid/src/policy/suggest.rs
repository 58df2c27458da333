//! A rule that would allow an ask, for its reader to judge.

use std::net::IpAddr;

use ::url::{Host, Url};
use midward_core::check_name;
use midward_net::{AddressGuard, IpNet};
use midward_wire::GrantType;
use serde::Serialize;

use super::Ask;
use super::file::{RuleFile, proxy_origin};
use super::url::{origin, strict_url};

#[derive(Serialize)]
struct Suggestion {
    rule: [RuleFile; 1],
}

/// A whole rule, in TOML, that allows exactly this ask. Everything in it was chosen by the instance: it is to be read
/// before it is used. A URL that no policy can allow stays as it is, and is refused when the policy is loaded.
pub fn suggest(ask: &Ask<'_>) -> String {
    let (profile, credential) = (&ask.config.profile, &ask.config.credential);
    let read = |text: &Option<String>| text.as_ref().and_then(|text| strict_url(text).ok());
    let token_url = read(&profile.token_url);
    let revocation_url = read(&profile.revocation_url);
    let issuer = read(&profile.issuer).filter(|_| profile.token_url.is_none());
    let bearer = profile.jwt_bearer.clone().filter(|_| profile.grant_type == GrantType::JwtBearer).unwrap_or_default();
    let base_url = strict_url(&ask.config.connection.base_url).ok();
    let urls = [token_url.as_ref(), revocation_url.as_ref(), issuer.as_ref(), base_url.as_ref()];
    let alias = &ask.config.connection.alias;
    let proxies = [ask.ways.token_proxy, ask.ways.api_proxy].into_iter().flatten();
    let mut proxies: Vec<String> = proxies.filter_map(proxy_origin).collect();
    proxies.dedup();
    let rule = RuleFile {
        name: if check_name(alias).is_ok() { alias.clone() } else { "new-rule".to_owned() },
        instance: Some(ask.instance_id.to_owned()),
        credential_id: credential.credential_id.clone(),
        resolver: credential.resolver.clone(),
        // Where metadata is to name it, only the MID's owner can say which it may be.
        token_urls: match (&token_url, &profile.token_url) {
            (Some(url), _) => vec![url.to_string()],
            (None, Some(text)) => vec![text.clone()],
            (None, None) => vec!["https://WRITE.THE.TOKEN.URL.HERE".to_owned()],
        },
        revocation_urls: profile.revocation_url.iter().cloned().collect(),
        grants: Some(vec![profile.grant_type]).filter(|grants| *grants != [GrantType::ClientCredentials]),
        client_auth: Some(vec![profile.client_auth]),
        require_dpop: profile.dpop_bound_tokens,
        scopes: profile.scopes.clone(),
        audiences: profile.audience.iter().cloned().collect(),
        resources: profile.resource.clone(),
        issuers: profile.issuer.iter().cloned().collect(),
        assertion_audiences: {
            let of_client = profile.assertion_audience.iter().filter(|_| profile.client_auth.is_assertion());
            let mut all: Vec<String> = of_client.chain(&bearer.audience).cloned().collect();
            all.dedup();
            all
        },
        assertion_issuers: bearer.issuer.iter().cloned().collect(),
        assertion_subjects: bearer.subject.iter().cloned().collect(),
        api_origins: vec![base_url.as_ref().map_or_else(|| ask.config.connection.base_url.clone(), origin)],
        methods: vec![ask.call.map_or_else(|| "GET".to_owned(), |call| call.method.clone())],
        allow_addresses: exceptions(&urls),
        allow_plain_http: urls.iter().flatten().any(|url| url.scheme() == "http"),
        proxies,
        extra_parameters: profile.extra_parameters.iter().map(|(k, v)| (k.clone(), vec![v.clone()])).collect(),
        assertion_claims: bearer.claims.into_iter().map(|(name, value)| (name, vec![value])).collect(),
        ..RuleFile::default()
    };
    // A struct of strings, lists and one table at its end always has a TOML form.
    let text = toml::to_string(&Suggestion { rule: [rule] }).unwrap_or_default();
    format!("# Chosen by the instance: read it before you use it.\n{text}")
}

fn exceptions(urls: &[Option<&Url>]) -> Vec<IpNet> {
    let guard = AddressGuard::default();
    let mut nets: Vec<IpNet> = Vec::new();
    for url in urls.iter().flatten() {
        let addresses: Vec<IpAddr> = match url.host() {
            Some(Host::Ipv4(address)) => vec![address.into()],
            Some(Host::Ipv6(address)) => vec![address.into()],
            Some(Host::Domain("localhost")) => {
                vec![std::net::Ipv4Addr::LOCALHOST.into(), std::net::Ipv6Addr::LOCALHOST.into()]
            }
            _ => Vec::new(),
        };
        nets.extend(addresses.into_iter().filter(|address| guard.check(*address).is_err()).map(IpNet::from));
    }
    nets.sort_unstable();
    nets.dedup();
    nets
}
