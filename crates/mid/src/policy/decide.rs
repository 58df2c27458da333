//! The decision: one rule allows all of an ask, or nothing goes.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ::url::Url;
use http::{HeaderMap, Method};
use midward_core::Random;
use midward_net::AddressGuard;
use midward_wire::{ApiCall, ConfigDocument, GrantType, JwtBearerConfig, ProfileConfig};

use super::call::check_call;
use super::file::{MatchKind, Policy, Rule, proxy_origin};
use super::url::{is_below, join, origin, strict_url};
use super::{Refusal, UrlFault};

/// What is asked for: everything that the instance said, none of it trusted.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// Known from the enrollment, not from a message.
    pub instance_id: &'a str,
    pub instance_name: &'a str,
    pub config: &'a ConfigDocument,
    /// `None` when only a token is wanted.
    pub call: Option<&'a ApiCall>,
    pub ways: Ways<'a>,
}

/// The proxies on the way, as `WayOut::proxy_origin` names them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ways<'a> {
    pub token_proxy: Option<&'a str>,
    pub api_proxy: Option<&'a str>,
}

/// What one rule allows. Whoever acts on it uses its values and not the ask's.
#[derive(Clone, Debug)]
pub struct Permit {
    /// Name of the rule.
    pub rule: String,
    /// `None`: the issuer's metadata names it, and it must be one of `token_urls`.
    pub token_url: Option<Url>,
    /// All that the rule lists.
    pub token_urls: Vec<Url>,
    /// Where tokens are taken back. `None`: what metadata names, if it is one of `revocation_urls`.
    pub revocation_url: Option<Url>,
    pub revocation_urls: Vec<Url>,
    /// `aud` of the assertion, for the methods that sign one.
    pub assertion_audience: Option<String>,
    /// `aud` of the assertion that is the grant.
    pub grant_audience: Option<String>,
    /// Which addresses may be dialled, for the token and for the API.
    pub guard: AddressGuard,
    /// `None` when only a token was asked for.
    pub call: Option<PermittedCall>,
}

/// The call that may be made.
#[derive(Clone, Debug)]
pub struct PermittedCall {
    pub method: Method,
    pub target: Url,
    pub headers: HeaderMap,
}

impl Permit {
    /// Why an endpoint that metadata names is not used, with the line that would allow it.
    pub(crate) fn unlisted_endpoint(&self, issuer: &str, found: &Url) -> String {
        let known: Vec<String> = self.token_urls.iter().map(ToString::to_string).collect();
        let miss = lacks(UNLISTED_ENDPOINT, "token_urls", &known, found.as_str());
        format!("The metadata of {} names a token endpoint, but for rule {:?} {}", quoted(issuer), self.rule, miss.text)
    }
}

/// The code of a token endpoint that metadata names and policy does not list.
pub(crate) const UNLISTED_ENDPOINT: &str = "policy_token_url";

/// What one rule lacks to allow an ask.
struct Miss {
    code: &'static str,
    /// With the line that would mend it.
    text: String,
}

/// An ask whose form is right.
struct Form {
    token_url: Option<Url>,
    /// Where metadata is asked for when there is no token URL.
    issuer: Option<Url>,
    revocation_url: Option<Url>,
    assertion_audience: Option<String>,
    grant_audience: Option<String>,
    api_origin: String,
    api_url: Url,
    call: Option<PermittedCall>,
}

impl Policy {
    /// Allows what a single rule allows altogether.
    pub fn decide(&self, ask: &Ask<'_>, random: &dyn Random) -> Result<Permit, Refusal> {
        let form = read_form(ask).map_err(|miss| Refusal::new(miss.code, miss.text, random))?;
        let mut nearest: Option<(&Rule, Vec<Miss>)> = None;
        for rule in &self.rules {
            let misses = rule.misses(ask, &form);
            if misses.is_empty() {
                return Ok(Permit {
                    rule: rule.file.name.clone(),
                    token_url: form.token_url,
                    token_urls: rule.token_urls.clone(),
                    revocation_url: form.revocation_url,
                    revocation_urls: rule.revocation_urls.clone(),
                    assertion_audience: form.assertion_audience,
                    grant_audience: form.grant_audience,
                    guard: rule.guard.clone(),
                    call: form.call,
                });
            }
            if nearest.as_ref().is_none_or(|(_, known)| rank(&misses) < rank(known)) {
                nearest = Some((rule, misses));
            }
        }
        let (code, text) = explain(nearest, ask);
        Err(Refusal::new(code, text, random))
    }
}

/// A rule for the same credential is nearer than any other.
fn rank(misses: &[Miss]) -> (bool, usize) {
    (misses.iter().any(|miss| miss.code == "policy_no_rule"), misses.len())
}

fn explain(nearest: Option<(&Rule, Vec<Miss>)>, ask: &Ask<'_>) -> (&'static str, String) {
    let Some((rule, misses)) = nearest else {
        let text = format!("The policy has no rule. This one would allow the call:\n{}", super::suggest(ask));
        return ("policy_no_rule", text);
    };
    let mut text = format!("Rule {:?} comes nearest, but:", rule.file.name);
    for miss in &misses {
        text.push_str("\n- ");
        text.push_str(&miss.text);
    }
    if misses[0].code == "policy_no_rule" {
        text.push_str("\nThis rule would allow the call:\n");
        text.push_str(&super::suggest(ask));
    }
    (misses[0].code, text)
}

fn read_form(ask: &Ask<'_>) -> Result<Form, Miss> {
    let bad = |code, what: &str, text: &str, fault: UrlFault| Miss {
        code,
        text: format!("The {what} {} is refused by every policy: {fault}.", quoted(text)),
    };
    let profile = &ask.config.profile;
    let url = |code, what: &str, text: &String| strict_url(text).map_err(|fault| bad(code, what, text, fault));
    let token_url = profile.token_url.as_ref().map(|text| url("policy_token_url", "token URL", text)).transpose()?;
    let issuer = match (&token_url, &profile.issuer) {
        (Some(_), _) => None,
        (None, Some(issuer)) => Some(url("policy_issuer", "issuer", issuer)?),
        (None, None) => {
            return Err(Miss {
                code: "policy_token_url",
                text: "Neither a token URL nor an issuer was named. Name one of them in the OAuth entity.".to_owned(),
            });
        }
    };
    let revocation_url = profile.revocation_url.as_ref();
    let revocation_url = revocation_url.map(|text| url("policy_revocation_url", "revocation URL", text)).transpose()?;
    if profile.grant_type == GrantType::TokenExchange && profile.token_exchange.is_none() {
        return Err(Miss {
            code: "policy_grant",
            text: "A token exchange was asked for without the type of its subject token.".to_owned(),
        });
    }
    let base_text = &ask.config.connection.base_url;
    let base = strict_url(base_text).map_err(|fault| bad("policy_base_url", "base URL", base_text, fault))?;
    if base.query().is_some() {
        return Err(bad("policy_base_url", "base URL", base_text, UrlFault::Query));
    }
    let call = match ask.call {
        None => None,
        Some(call) => {
            let checked = check_call(call)
                .map_err(|fault| Miss { code: fault.code(), text: format!("The call is malformed: {fault}.") })?;
            // A query may hold what is not for a log.
            let path = call.path.split('?').next().unwrap_or_default();
            let target = join(&base, &call.path).map_err(|fault| bad("policy_path", "path", path, fault))?;
            Some(PermittedCall { method: checked.method, target, headers: checked.headers })
        }
    };
    let at_server = profile.issuer.clone().or_else(|| token_url.as_ref().map(ToString::to_string));
    let assertion_audience = client_assertion_audience(profile).or_else(|| at_server.clone());
    let grant_audience = bearer(profile).and_then(|bearer| bearer.audience).or(at_server);
    Ok(Form {
        token_url,
        issuer,
        revocation_url,
        assertion_audience: assertion_audience.filter(|_| signs_as_client(profile)),
        grant_audience: grant_audience.filter(|_| profile.grant_type == GrantType::JwtBearer),
        api_origin: origin(&base),
        api_url: base,
        call,
    })
}

/// The audience of a client's assertion that the profile names.
fn client_assertion_audience(profile: &ProfileConfig) -> Option<String> {
    profile.assertion_audience.clone().filter(|_| signs_as_client(profile))
}

/// Whether the client proves itself by an assertion.
fn signs_as_client(profile: &ProfileConfig) -> bool {
    profile.client_auth.is_assertion() && authenticates_client(profile)
}

fn authenticates_client(profile: &ProfileConfig) -> bool {
    bearer(profile).is_none_or(|bearer| bearer.client_authentication)
}

/// The settings of a JWT bearer grant, if it is one.
fn bearer(profile: &ProfileConfig) -> Option<JwtBearerConfig> {
    (profile.grant_type == GrantType::JwtBearer).then(|| profile.jwt_bearer.clone().unwrap_or_default())
}

impl Rule {
    /// Everything that this rule lacks; empty when it allows the ask.
    fn misses(&self, ask: &Ask<'_>, form: &Form) -> Vec<Miss> {
        let mut misses = Vec::new();
        self.check_identity(ask, &mut misses);
        self.check_token(ask, form, &mut misses);
        self.check_grant(ask, form, &mut misses);
        self.check_api(form, &mut misses);
        self.check_network(ask, form, &mut misses);
        misses
    }

    fn check_identity(&self, ask: &Ask<'_>, misses: &mut Vec<Miss>) {
        let credential = &ask.config.credential;
        if !self.matches_credential(&credential.credential_id) {
            misses.push(Miss {
                code: "policy_no_rule",
                text: format!(
                    "it is for credential_id {}, and {} was asked for.",
                    quoted(&self.file.credential_id),
                    quoted(&credential.credential_id)
                ),
            });
        }
        if self.file.instance.as_deref().is_some_and(|name| name != ask.instance_id && name != ask.instance_name) {
            misses.push(Miss {
                code: "policy_instance",
                text: format!(
                    "it is for another instance. To move it to this one: instance = {}",
                    quoted(ask.instance_id)
                ),
            });
        }
        if self.file.resolver != credential.resolver {
            misses.push(Miss {
                code: "policy_resolver",
                text: format!("it is for another resolver. To change it: resolver = {}", quoted(&credential.resolver)),
            });
        }
    }

    fn matches_credential(&self, credential_id: &str) -> bool {
        match self.file.match_kind {
            MatchKind::Exact => self.file.credential_id == credential_id,
            MatchKind::Pattern => matches_pattern(&self.file.credential_id, credential_id),
        }
    }

    fn check_token(&self, ask: &Ask<'_>, form: &Form, misses: &mut Vec<Miss>) {
        let profile = &ask.config.profile;
        // One that metadata names is asked about when it is known.
        if let Some(url) = form.token_url.as_ref().filter(|url| !self.token_urls.contains(url)) {
            misses.push(lacks("policy_token_url", "token_urls", &self.file.token_urls, url.as_str()));
        }
        if let Some(url) = form.revocation_url.as_ref().filter(|url| !self.revocation_urls.contains(url)) {
            misses.push(lacks("policy_revocation_url", "revocation_urls", &self.file.revocation_urls, url.as_str()));
        }
        if let Some(allowed) = &self.file.client_auth
            && authenticates_client(profile)
            && !allowed.contains(&profile.client_auth)
        {
            let name = |method| {
                serde_json::to_value(method)
                    .ok()
                    .and_then(|value| value.as_str().map(str::to_owned))
                    .unwrap_or_default()
            };
            let known: Vec<String> = allowed.iter().map(name).collect();
            misses.push(lacks("policy_client_auth", "client_auth", &known, &name(&profile.client_auth)));
        }
        if self.file.require_dpop && !profile.dpop_bound_tokens {
            misses.push(Miss {
                code: "policy_dpop",
                text: "it wants tokens that are bound to a key. Set dpop_bound_tokens: true for the OAuth entity, or take \
                       require_dpop out of the rule."
                    .to_owned(),
            });
        }
        let lists = [
            ("policy_scope", "scopes", &self.file.scopes, profile.scopes.as_slice()),
            ("policy_audience", "audiences", &self.file.audiences, profile.audience.as_slice()),
            ("policy_resource", "resources", &self.file.resources, profile.resource.as_slice()),
            ("policy_issuer", "issuers", &self.file.issuers, profile.issuer.as_slice()),
        ];
        for (code, list, allowed, asked) in lists {
            if let Some(value) = asked.iter().find(|value| !allowed.contains(value)) {
                misses.push(lacks(code, list, allowed, value));
            }
        }
        // Without a scope the server grants its default (RFC 6749 3.3), which may be more than any that is listed; and
        // without audience or resource a token for everything.
        if profile.scopes.is_empty() && !self.file.scopes.is_empty() {
            misses.push(Miss {
                code: "policy_scope",
                text: "it lists scopes, and none was asked for. Name one of them in the OAuth entity profile."
                    .to_owned(),
            });
        }
        let is_bound = !self.file.audiences.is_empty() || !self.file.resources.is_empty();
        if is_bound && profile.audience.is_none() && profile.resource.is_empty() {
            misses.push(Miss {
                code: "policy_audience",
                text: "it lists audiences or resources, and none was asked for. Name one of them in the OAuth entity \
                       profile."
                    .to_owned(),
            });
        }
        // Issuer and token URL are bound above, so the defaults need no line of their own. Any other audience is the
        // instance's word: with it, one server could be sent what proves the client to another.
        self.check_audience(client_assertion_audience(profile).is_some(), form.assertion_audience.as_ref(), misses);
        for (name, value) in &profile.extra_parameters {
            let allowed = self.file.extra_parameters.get(name).map(Vec::as_slice).unwrap_or_default();
            if !allowed.contains(value) {
                let line = format!("extra_parameters.{}", quoted(name));
                misses.push(lacks("policy_extra_parameter", &line, allowed, value));
            }
        }
    }

    fn check_grant(&self, ask: &Ask<'_>, form: &Form, misses: &mut Vec<Miss>) {
        let profile = &ask.config.profile;
        let allowed = self.file.grants.as_deref().unwrap_or(&[GrantType::ClientCredentials]);
        if !allowed.contains(&profile.grant_type) {
            let known: Vec<String> = allowed.iter().map(|grant| grant.name().to_owned()).collect();
            misses.push(lacks("policy_grant", "grants", &known, profile.grant_type.name()));
        }
        let Some(bearer) = bearer(profile) else { return };
        self.check_audience(bearer.audience.is_some(), form.grant_audience.as_ref(), misses);
        // Whose name the key may sign in. The client's own needs no line.
        for (code, list, allowed, asked) in [
            ("policy_assertion_issuer", "assertion_issuers", &self.file.assertion_issuers, &bearer.issuer),
            ("policy_assertion_subject", "assertion_subjects", &self.file.assertion_subjects, &bearer.subject),
        ] {
            if let Some(value) = asked.as_ref().filter(|value| !allowed.contains(value)) {
                misses.push(lacks(code, list, allowed, value));
            }
        }
        for (name, value) in &bearer.claims {
            let allowed = self.file.assertion_claims.get(name).map(Vec::as_slice).unwrap_or_default();
            if !allowed.contains(value) {
                let line = format!("assertion_claims.{}", quoted(name));
                misses.push(lacks("policy_assertion_claim", &line, allowed, value));
            }
        }
    }

    /// The audience of something that the client's key or secret signs. `is_named`: it is not the default.
    fn check_audience(&self, is_named: bool, audience: Option<&String>, misses: &mut Vec<Miss>) {
        let known = &self.file.assertion_audiences;
        if (is_named || !known.is_empty())
            && let Some(audience) = audience.filter(|audience| !known.contains(audience))
        {
            misses.push(lacks("policy_assertion_audience", "assertion_audiences", known, audience));
        }
    }

    fn check_api(&self, form: &Form, misses: &mut Vec<Miss>) {
        if !self.api_origins.contains(&form.api_origin) {
            misses.push(lacks("policy_api_origin", "api_origins", &self.file.api_origins, &form.api_origin));
        }
        let Some(call) = &form.call else { return };
        let path = call.target.path();
        if !self.file.path_prefixes.is_empty() && !self.file.path_prefixes.iter().any(|prefix| is_below(path, prefix)) {
            misses.push(lacks("policy_path", "path_prefixes", &self.file.path_prefixes, path));
        }
        if !self.methods.contains(&call.method) {
            misses.push(lacks("policy_method", "methods", &self.file.methods, call.method.as_str()));
        }
    }

    fn check_network(&self, ask: &Ask<'_>, form: &Form, misses: &mut Vec<Miss>) {
        let dialled = || form.token_url.iter().chain(&form.issuer).chain(&form.revocation_url).chain([&form.api_url]);
        if dialled().any(|url| url.scheme() != "https") && !self.file.allow_plain_http {
            misses.push(Miss {
                code: "policy_plain_http",
                text: "it refuses plain http. To allow it: allow_plain_http = true".to_owned(),
            });
        }
        // Names are checked when they are dialled; addresses can be refused, and explained, here already.
        let addresses: BTreeSet<IpAddr> = dialled().filter_map(literal).collect();
        for address in addresses {
            if let Err(class) = self.guard.check(address) {
                let known: Vec<String> = self.file.allow_addresses.iter().map(ToString::to_string).collect();
                let mut miss = lacks("policy_address", "allow_addresses", &known, &address.to_string());
                miss.text = format!("{address} is a {class} address. {}", miss.text);
                misses.push(miss);
            }
        }
        for proxy in [ask.ways.token_proxy, ask.ways.api_proxy].into_iter().flatten() {
            let canonical = proxy_origin(proxy).unwrap_or_else(|| proxy.to_owned());
            if !self.proxies.contains(&canonical) {
                misses.push(lacks("policy_proxy", "proxies", &self.file.proxies, &canonical));
            }
        }
    }
}

fn literal(url: &Url) -> Option<IpAddr> {
    match url.host()? {
        ::url::Host::Ipv4(address) => Some(address.into()),
        ::url::Host::Ipv6(address) => Some(address.into()),
        ::url::Host::Domain(_) => None,
    }
}

/// `list` lacks `value`: says so, with the whole line as it should be.
fn lacks(code: &'static str, list: &str, known: &[String], value: &str) -> Miss {
    let line: Vec<String> = known.iter().map(String::as_str).chain([value]).map(quoted).collect();
    Miss { code, text: format!("{list} does not list {}. To allow it: {list} = [{}]", quoted(value), line.join(", ")) }
}

/// A TOML string, cut when it is absurdly long.
fn quoted(text: &str) -> String {
    let cut: String = text.chars().take(2048).collect();
    toml::Value::String(cut).to_string()
}

/// `*` stands for any characters, also none.
fn matches_pattern(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = text.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}
