//! What the vault holds, and how a query finds it.

use std::collections::BTreeMap;

use regex::RegexBuilder;
use serde::Deserialize;

use super::line::{Answer, Fields};

/// The vault's contents, as a file or a test gives them.
#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VaultConfig {
    /// The port to listen on; 0 takes a free one.
    #[serde(default)]
    pub port: u16,
    #[serde(default)]
    pub applications: Vec<Application>,
    #[serde(default)]
    pub accounts: Vec<Account>,
}

/// An application identity (`AppID`).
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Application {
    pub app_id: String,
    /// The safes that it may read.
    pub safes: Vec<String>,
    /// The kinds of client (`cli`, `sdk`, `ccp`) that may use it; absent means all. Stands for CyberArk's path, hash and
    /// user checks.
    #[serde(default)]
    pub clients: Option<Vec<String>>,
    /// SHA-256 thumbprints (base64url) of the client certificates that may use it over the CCP; absent means that none
    /// is needed.
    #[serde(default)]
    pub certificates: Option<Vec<String>>,
}

impl Application {
    pub fn new(app_id: &str, safes: &[&str]) -> Self {
        let safes = safes.iter().map(|&safe| safe.to_owned()).collect();
        Self { app_id: app_id.to_owned(), safes, clients: None, certificates: None }
    }
}

/// One account. The fields have the names that CyberArk gives them.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Account {
    pub safe: String,
    /// The object's name.
    pub name: String,
    pub user_name: String,
    pub password: String,
    #[serde(default = "root")]
    pub folder: String,
    #[serde(default)]
    pub address: Option<String>,
    #[serde(default)]
    pub database: Option<String>,
    #[serde(default)]
    pub policy_id: Option<String>,
    #[serde(default)]
    pub password_change_in_process: bool,
    /// Further properties, such as `ClientID` or `LogonDomain`.
    #[serde(default)]
    pub properties: BTreeMap<String, String>,
}

impl Account {
    pub fn new(safe: &str, name: &str, user_name: &str, password: &str) -> Self {
        Self {
            safe: safe.to_owned(),
            name: name.to_owned(),
            user_name: user_name.to_owned(),
            password: password.to_owned(),
            folder: root(),
            address: None,
            database: None,
            policy_id: None,
            password_change_in_process: false,
            properties: BTreeMap::new(),
        }
    }

    pub fn with_address(mut self, address: &str) -> Self {
        self.address = Some(address.to_owned());
        self
    }

    pub fn with_property(mut self, name: &str, value: &str) -> Self {
        self.properties.insert(name.to_owned(), value.to_owned());
        self
    }

    fn property(&self, name: &str) -> Option<&str> {
        match name.to_ascii_lowercase().as_str() {
            "safe" => Some(&self.safe),
            "folder" => Some(&self.folder),
            "object" | "name" => Some(&self.name),
            "username" => Some(&self.user_name),
            "address" => self.address.as_deref(),
            "database" => self.database.as_deref(),
            "policyid" => self.policy_id.as_deref(),
            _ => self.properties.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str()),
        }
    }

    /// The answer's fields; `required` is the list from `RequiredProps`, absent meaning all.
    fn fields(&self, required: Option<&str>) -> Fields {
        let mut fields = Fields::default();
        fields.push("Password", &self.password);
        fields.push("PasswordChangeInProcess", if self.password_change_in_process { "true" } else { "false" });
        let mut names = vec!["Safe", "Folder", "Name", "UserName", "Address", "Database", "PolicyID"];
        names.extend(self.properties.keys().map(String::as_str));
        let wanted: Option<Vec<&str>> =
            required.filter(|list| *list != "*").map(|list| list.split(',').map(str::trim).collect());
        for name in names {
            let asked = wanted.as_ref().is_none_or(|list| list.iter().any(|wish| wish.eq_ignore_ascii_case(name)));
            if let Some(value) = self.property(name).filter(|_| asked) {
                fields.push(&format!("PassProps.{name}"), value);
            }
        }
        fields
    }
}

fn root() -> String {
    "Root".to_owned()
}

pub(super) fn refused(code: &str, text: impl Into<String>) -> Answer {
    Answer::Refused { code: code.to_owned(), text: text.into() }
}

pub(super) fn denied(app_id: &str) -> Answer {
    refused("APPAP306E", format!("Authentication failure: application [{app_id}] is not authorized on this machine."))
}

pub(super) fn ambiguous(query: &str) -> Answer {
    refused(
        "APPAP227E",
        format!("Too many password objects matching query [{query}] were found: (Safe={};...)", safe_of(query)),
    )
}

/// Answers one `GetPassword`. Codes as in the error table of CyberArk's Credential Provider.
pub(super) fn get_password(config: &VaultConfig, request: &Fields) -> Answer {
    let given = |name| request.value(name).filter(|value| !value.is_empty());
    let (app_id, query) = match (given("AppID"), given("Query")) {
        (None, None) => return refused("APPPR010E", "The request is empty."),
        (Some(app_id), Some(query)) => (app_id, query),
        _ => return refused("APPAP081E", "Request message content is invalid: AppID and Query are both required."),
    };
    let Some(application) = config.applications.iter().find(|known| known.app_id == app_id) else {
        return refused(
            "APPAP008E",
            format!(
                "Problem occurred while trying to use user in the Vault. Reason: ITATS982E User {app_id} is not defined."
            ),
        );
    };
    let client = request.value("client").unwrap_or("");
    if application.clients.as_ref().is_some_and(|allowed| !allowed.iter().any(|known| known == client)) {
        return denied(app_id);
    }
    if client == "ccp"
        && let Some(allowed) = &application.certificates
        && !allowed.iter().any(|known| given("certificate") == Some(known))
    {
        return denied(app_id);
    }
    let criteria = match Criteria::parse(query, given("QueryFormat")) {
        Ok(criteria) => criteria,
        Err(reason) => return refused("APPAP081E", format!("Request message content is invalid: {reason}.")),
    };
    let readable = config.accounts.iter().filter(|account| {
        application.safes.iter().any(|safe| safe.eq_ignore_ascii_case(&account.safe)) && criteria.fits(account)
    });
    match readable.collect::<Vec<_>>().as_slice() {
        [] => refused(
            "APPAP004E",
            format!(
                "Password object matching query [{query}] was not found (Diagnostic Info: 5). Please check that there \
                 is a password object that answers your query in the Vault and that both the Provider and the \
                 application user have the appropriate permissions needed in order to use the password."
            ),
        ),
        [account] => {
            let strict = given("FailRequestOnPasswordChange").is_some_and(|flag| flag.eq_ignore_ascii_case("true"));
            if strict && account.password_change_in_process {
                return refused("APPAP282E", format!("Password object [{}] is being changed now.", account.name));
            }
            Answer::Account(account.fields(given("RequiredProps")))
        }
        _ => ambiguous(query),
    }
}

fn safe_of(query: &str) -> &str {
    let safe =
        query.split(';').filter_map(|part| part.split_once('=')).find(|(key, _)| key.eq_ignore_ascii_case("safe"));
    safe.map_or("", |(_, value)| value)
}

struct Criteria(Vec<(String, Matcher)>);

enum Matcher {
    Exact(String),
    Pattern(regex::Regex),
}

impl Criteria {
    const KEYWORDS: [&'static str; 8] =
        ["safe", "folder", "object", "username", "address", "database", "policyid", "virtualusername"];

    fn parse(query: &str, format: Option<&str>) -> Result<Self, String> {
        let pattern = match format.map(str::to_ascii_lowercase).as_deref() {
            None | Some("exact") => false,
            Some("regexp") => true,
            Some(other) => return Err(format!("QueryFormat {other} is unknown")),
        };
        let mut criteria = Vec::new();
        for part in query.split(';').filter(|part| !part.trim().is_empty()) {
            let (key, value) = part.split_once('=').ok_or("a criterion without =")?;
            let key = key.trim().to_ascii_lowercase();
            if !Self::KEYWORDS.contains(&key.as_str()) {
                return Err(format!("unknown query keyword {key}"));
            }
            let matcher = if pattern && key != "safe" && key != "folder" {
                let regex = RegexBuilder::new(&format!("^(?:{value})$")).case_insensitive(true).build();
                Matcher::Pattern(regex.map_err(|_| "a pattern that is not a regular expression")?)
            } else {
                Matcher::Exact(value.to_owned())
            };
            criteria.push((key, matcher));
        }
        Ok(Self(criteria))
    }

    fn fits(&self, account: &Account) -> bool {
        self.0.iter().all(|(key, matcher)| {
            let value = account.property(key).unwrap_or("");
            match matcher {
                Matcher::Exact(wanted) => value.eq_ignore_ascii_case(wanted),
                Matcher::Pattern(pattern) => pattern.is_match(value),
            }
        })
    }
}
