//! The CCP's REST interface: `GET /SERVICE/api/Accounts`. Pure.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use http::Request;
use midward_core::{Failure, Secret};
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use url::Url;

use super::account::{Account, is_true};
use super::ccp::{Answer, not_understood};
use super::config::CyberArkCcpConfig;
use super::criteria::{Criteria, QueryFormat};
use crate::cloud::misconfigured;

/// Most properties of an account.
const MAX_PROPERTIES: usize = 256;

pub(super) fn request(config: &CyberArkCcpConfig, criteria: &Criteria) -> Result<Request<Bytes>, Failure> {
    let mut url = endpoint(config, &["api", "Accounts"])?;
    {
        let mut pairs = url.query_pairs_mut();
        for (name, value) in parameters(config, criteria) {
            pairs.append_pair(name, &value);
        }
    }
    // A space is written `%20`: `+` is a plus sign to some of what may stand before the CCP.
    let query = url.query().unwrap_or_default().replace('+', "%20");
    url.set_query(Some(&query));
    Request::get(url.as_str())
        .header(http::header::ACCEPT, "application/json")
        .body(Bytes::new())
        .map_err(|_| misconfigured("the url or service cannot be asked"))
}

/// `https://HOST/SERVICE/REST`; the service's name may have slashes.
pub(super) fn endpoint(config: &CyberArkCcpConfig, rest: &[&str]) -> Result<Url, Failure> {
    let mut url = config.url.clone();
    let service = config.service.split('/').filter(|part| !part.is_empty());
    match url.path_segments_mut() {
        Ok(mut path) => path.pop_if_empty().extend(service).extend(rest),
        Err(()) => return Err(misconfigured("the url has no host")),
    };
    Ok(url)
}

/// Names and values in CyberArk's order. `Query` overrides all other criteria, so it is used alone, and only where they
/// cannot say the same.
pub(super) fn parameters(config: &CyberArkCcpConfig, criteria: &Criteria) -> Vec<(&'static str, String)> {
    let mut all = vec![("AppID", config.app_id.clone())];
    if criteria.virtual_user_name.is_some() || config.query_format == QueryFormat::Regexp {
        all.push(("Query", criteria.query()));
        all.push((
            "QueryFormat",
            if config.query_format == QueryFormat::Regexp { "Regexp" } else { "Exact" }.to_owned(),
        ));
    } else {
        all.extend(criteria.parts().map(|(name, value)| (name, value.to_owned())));
    }
    all.extend(config.reason.clone().map(|reason| ("Reason", reason)));
    all.extend(config.connection_timeout_s.map(|seconds| ("ConnectionTimeout", seconds.to_string())));
    if config.fail_on_password_change {
        all.push(("FailRequestOnPasswordChange", "true".to_owned()));
    }
    all
}

/// Reads a body, whatever the status was: the meaning of an error is in its code.
pub(super) fn read(body: &[u8], client_id_property: &str) -> Result<Answer, Failure> {
    let text = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    // What serde_json says may quote the value.
    let Members(mut members) = serde_json::from_slice(text).map_err(|_| not_understood("what is no JSON object"))?;
    let mut take = |name: &str| match members.remove(&name.to_ascii_lowercase()) {
        Some(Value::Text(text)) => Some(text),
        _ => None,
    };
    if let Some(code) = take("ErrorCode") {
        return Ok(Answer::Refused(code.expose_str().unwrap_or_default().to_owned()));
    }
    let (client_id, content) = (take(client_id_property), take("Content"));
    let changing = match members.remove("passwordchangeinprocess") {
        Some(Value::Text(text)) => is_true(text.expose()),
        Some(Value::Flag(flag)) => flag,
        _ => false,
    };
    if client_id.is_none() && content.is_none() {
        return Err(not_understood("a JSON object that is no account"));
    }
    Ok(Answer::Account(Account { client_id, content, changing }))
}

/// An account's properties by their names in small letters: the CCP's names compare without case.
struct Members(BTreeMap<String, Value>);

enum Value {
    Text(Secret),
    Flag(bool),
    Other,
}

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = BTreeMap::new();
                while let Some((name, value)) = map.next_entry::<String, Value>()? {
                    let known = members.insert(name.to_ascii_lowercase(), value).is_some();
                    if known || members.len() > MAX_PROPERTIES {
                        return Err(serde::de::Error::custom("members"));
                    }
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Any {
            Text(String),
            Flag(bool),
            Other(IgnoredAny),
        }
        Ok(match Any::deserialize(deserializer)? {
            Any::Text(text) => Self::Text(Secret::from(text)),
            Any::Flag(flag) => Self::Flag(flag),
            Any::Other(_) => Self::Other,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(more: &str) -> CyberArkCcpConfig {
        toml::from_str(&format!("url = 'https://ccp.example:8443'\napp_id = 'App 1'\n{more}")).expect("legal")
    }

    fn criteria() -> Criteria {
        Criteria { safe: Some("A+B".into()), object: Some("c&d é".into()), ..Criteria::default() }
    }

    #[test]
    fn everything_is_encoded() {
        let url =
            request(&config("reason = 'r'\nconnection_timeout_s = 5\nfail_on_password_change = true"), &criteria())
                .expect("legal");
        let expected = "https://ccp.example:8443/AIMWebService/api/Accounts?AppID=App%201&Safe=A%2BB&Object=c%26d%20%C3%A9\
                        &Reason=r&ConnectionTimeout=5&FailRequestOnPasswordChange=true";
        assert_eq!(url.uri().to_string(), expected);
        let own = request(&config("service = 'AIM/Web Service'"), &Criteria::default()).expect("legal");
        assert_eq!(own.uri().path(), "/AIM/Web%20Service/api/Accounts");
    }

    #[test]
    fn a_dual_account_and_a_pattern_need_a_query() {
        let dual = Criteria { virtual_user_name: Some("crm".into()), safe: Some("S".into()), ..Criteria::default() };
        let asked = parameters(&config(""), &dual);
        assert_eq!(
            asked[1..],
            [("Query", "Safe=S;VirtualUserName=crm".to_owned()), ("QueryFormat", "Exact".to_owned())]
        );
        let pattern = parameters(&config("query_format = 'regexp'"), &criteria());
        assert_eq!(pattern[2], ("QueryFormat", "Regexp".to_owned()));
    }

    #[test]
    fn answers_are_read_without_case() {
        let account = |body: &str| match read(body.as_bytes(), "UserName") {
            Ok(Answer::Account(account)) => {
                let text =
                    |secret: Option<Secret>| secret.and_then(|s| s.expose_str().map(str::to_owned)).unwrap_or_default();
                Ok((text(account.client_id), text(account.content), account.changing))
            }
            Ok(Answer::Refused(code)) => Err(code),
            Err(failure) => Err(failure.code),
        };
        let found = |changing| Ok(("u".to_owned(), "p".to_owned(), changing));
        assert_eq!(
            account(r#"{"Content":"p","UserName":"u","PasswordChangeInProcess":"False","Port":22}"#),
            found(false)
        );
        assert_eq!(account(r#"{"content":"p","USERNAME":"u","PasswordChangeInProcess":"True"}"#), found(true));
        assert_eq!(
            account("\u{feff}{\"Content\":\"p\",\"UserName\":\"u\",\"PasswordChangeInProcess\":true}"),
            found(true)
        );
        assert_eq!(account(r#"{"ErrorCode":"APPAP004E","ErrorMsg":"x"}"#), Err("APPAP004E".to_owned()));
        for bad in ["", "<html>", "[]", "{}", r#"{"Content":"p","content":"q"}"#, r#"{"Content":null}"#] {
            assert_eq!(account(bad), Err("vault_answer_invalid".to_owned()), "{bad}");
        }
        assert!(
            matches!(read(br#"{"Content":"p","ClientID":"c","UserName":"u"}"#, "ClientID"), Ok(Answer::Account(account)) if account.client_id == Some(Secret::from("c")))
        );
    }
}
