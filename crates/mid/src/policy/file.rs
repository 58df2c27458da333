//! `policy.toml`: rules, read strictly.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ::url::Url;
use http::Method;
use midward_core::check_name;
use midward_net::{AddressGuard, IpNet};
use midward_oauth::is_own_claim;
use midward_resolvers::JarDigest;
use midward_wire::{ClientAuth, GrantType};
use serde::{Deserialize, Serialize};

use super::call::is_forbidden_method;
use super::url::{strict_origin, strict_url};

/// The rules of one MID, in the order of the file.
#[derive(Debug, Default)]
pub struct Policy {
    pub(super) rules: Vec<Rule>,
    jars: Vec<JarDigest>,
}

/// A policy file that cannot be used. The policy in force stays.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    #[error("the policy file {path} cannot be read")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("the policy is not valid TOML of the expected form: {0}")]
    Syntax(#[from] toml::de::Error),
    #[error("the policy's version is {0}; this program knows version 1")]
    Version(u32),
    #[error("policy rule {rule:?}: {what}")]
    Rule { rule: String, what: String },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PolicyFile {
    version: u32,
    /// Digests of the JARs that may come from the instance. None unless listed.
    #[serde(default)]
    jars: Vec<JarDigest>,
    #[serde(default)]
    rule: Vec<RuleFile>,
}

/// One `[[rule]]`, as written.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RuleFile {
    pub(super) name: String,
    /// Identifier or name; default: every instance that this MID is enrolled with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) instance: Option<String>,
    pub(super) credential_id: String,
    #[serde(default, rename = "match", skip_serializing_if = "MatchKind::is_exact")]
    pub(super) match_kind: MatchKind,
    pub(super) resolver: String,
    pub(super) token_urls: Vec<String>,
    /// Where tokens may be taken back (RFC 7009). A path on the token URL's own origin must be listed too: the client's
    /// secret goes there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) revocation_urls: Vec<String>,
    /// Default: client credentials only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) grants: Option<Vec<GrantType>>,
    /// Default: every method that this program knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) client_auth: Option<Vec<ClientAuth>>,
    /// Only tokens that are bound to a key (RFC 9449): whoever steals one can do nothing with it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) require_dpop: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) scopes: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) audiences: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) resources: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) issuers: Vec<String>,
    /// `aud` of signed assertions (RFC 7523). When given, it binds the default too: issuer, else token URL.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) assertion_audiences: Vec<String>,
    /// `iss` and `sub` of the assertions of a JWT bearer grant, where it is not the client id.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) assertion_issuers: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) assertion_subjects: Vec<String>,
    pub(super) api_origins: Vec<String>,
    /// Default: every path.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) path_prefixes: Vec<String>,
    pub(super) methods: Vec<String>,
    /// Networks that may be dialled although the guard refuses them by default (loopback, link-local, ...).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) allow_addresses: Vec<IpNet>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) allow_plain_http: bool,
    /// Origins of the proxies that calls under this rule may pass.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) proxies: Vec<String>,
    /// Allowed values of each extra parameter of the token request.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) extra_parameters: BTreeMap<String, Vec<String>>,
    /// Allowed values of each further claim of a JWT bearer grant's assertion.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) assertion_claims: BTreeMap<String, Vec<String>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum MatchKind {
    #[default]
    Exact,
    /// `*` stands for any characters.
    Pattern,
}

impl MatchKind {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's skip_serializing_if passes a reference")]
    fn is_exact(&self) -> bool {
        *self == Self::Exact
    }
}

/// One rule with its URLs in canonical form.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) file: RuleFile,
    pub(super) token_urls: Vec<Url>,
    pub(super) revocation_urls: Vec<Url>,
    pub(super) api_origins: Vec<String>,
    pub(super) methods: Vec<Method>,
    pub(super) proxies: Vec<String>,
    pub(super) guard: AddressGuard,
}

/// Parameters that have fields of their own, or that authenticate the client.
const RESERVED_PARAMETERS: [&str; 9] = [
    "audience",
    "client_assertion",
    "client_assertion_type",
    "client_id",
    "client_secret",
    "grant_type",
    "resource",
    "scope",
    "token",
];

impl Policy {
    pub fn load(path: &Path) -> Result<Self, PolicyError> {
        let text = std::fs::read_to_string(path);
        Self::parse(&text.map_err(|source| PolicyError::Read { path: path.to_owned(), source })?)
    }

    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        let file: PolicyFile = toml::from_str(text)?;
        if file.version != 1 {
            return Err(PolicyError::Version(file.version));
        }
        let mut rules: Vec<Rule> = Vec::with_capacity(file.rule.len());
        for rule in file.rule {
            let name = rule.name.clone();
            let fail = |what| PolicyError::Rule { rule: name.clone(), what };
            if rules.iter().any(|other| other.file.name == name) {
                return Err(fail("another rule has the same name".to_owned()));
            }
            rules.push(Rule::new(rule).map_err(fail)?);
        }
        Ok(Self { rules, jars: file.jars })
    }

    /// Whether a JAR may come from the instance.
    pub fn allows_jar(&self, digest: &JarDigest) -> bool {
        self.jars.contains(digest)
    }

    /// Names of the rules, in order.
    pub fn rule_names(&self) -> impl Iterator<Item = &str> {
        self.rules.iter().map(|rule| rule.file.name.as_str())
    }
}

impl Rule {
    fn new(file: RuleFile) -> Result<Self, String> {
        check_name(&file.name).map_err(|error| error.to_string())?;
        if file.credential_id.is_empty() {
            return Err("credential_id is empty".to_owned());
        }
        if file.match_kind == MatchKind::Exact && file.credential_id.contains('*') {
            return Err("credential_id holds a *: write match = \"pattern\" if it is meant as a pattern".to_owned());
        }
        for (list, empty) in [
            ("token_urls", file.token_urls.is_empty()),
            ("api_origins", file.api_origins.is_empty()),
            ("methods", file.methods.is_empty()),
            ("grants", file.grants.as_ref().is_some_and(Vec::is_empty)),
            ("client_auth", file.client_auth.as_ref().is_some_and(Vec::is_empty)),
        ] {
            if empty {
                return Err(format!("{list} is empty, so that nothing would ever match"));
            }
        }
        let urls = |texts: &[String], list: &str| {
            each(texts, list, |text| strict_url(text).map_err(|fault| fault.to_string()))
        };
        let token_urls = urls(&file.token_urls, "token_urls")?;
        let revocation_urls = urls(&file.revocation_urls, "revocation_urls")?;
        let api_origins =
            each(&file.api_origins, "api_origins", |text| strict_origin(text).map_err(|fault| fault.to_string()))?;
        let plain = token_urls.iter().chain(&revocation_urls).any(|url| url.scheme() == "http")
            || api_origins.iter().any(|origin| origin.starts_with("http:"));
        if plain && !file.allow_plain_http {
            return Err("a URL is plain http, which needs allow_plain_http = true".to_owned());
        }
        let methods = each(&file.methods, "methods", |text| {
            let method = Method::from_bytes(text.as_bytes()).ok();
            let legal = method.filter(|method| !is_forbidden_method(method) && *text == text.to_ascii_uppercase());
            legal.ok_or_else(|| "it is not a method that can be allowed".to_owned())
        })?;
        each(&file.scopes, "scopes", |text| {
            // RFC 6749 3.3: scope-token.
            let legal = !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic() && b != b'"' && b != b'\\');
            legal.then_some(()).ok_or_else(|| "it is not one scope".to_owned())
        })?;
        each(&file.path_prefixes, "path_prefixes", |text| {
            let legal = text.starts_with('/') && !text.contains(['?', '#', '*']);
            legal.then_some(()).ok_or_else(|| "a prefix begins with / and holds no ? # or *".to_owned())
        })?;
        if let Some(name) = file.extra_parameters.keys().find(|name| RESERVED_PARAMETERS.contains(&name.as_str())) {
            return Err(format!("extra_parameters: {name} cannot be an extra parameter"));
        }
        if let Some(name) = file.assertion_claims.keys().find(|name| is_own_claim(name)) {
            return Err(format!("assertion_claims: {name:?} cannot be a further claim"));
        }
        let proxies = each(&file.proxies, "proxies", |text| {
            strict_origin(text).map_err(|fault| fault.to_string())?;
            proxy_origin(text).ok_or_else(|| "it is not an origin".to_owned())
        })?;
        let guard = AddressGuard::new(file.allow_addresses.iter().copied());
        Ok(Self { file, token_urls, revocation_urls, api_origins, methods, proxies, guard })
    }
}

/// With its port always written, as a way out names its proxy.
pub(super) fn proxy_origin(text: &str) -> Option<String> {
    let url = Url::parse(text).ok()?;
    Some(format!("{}://{}:{}", url.scheme(), url.host_str()?, url.port_or_known_default()?))
}

fn each<T>(texts: &[String], list: &str, read: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>, String> {
    texts.iter().map(|text| read(text).map_err(|why| format!("{list}: {text:?}: {why}"))).collect()
}
