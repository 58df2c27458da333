//! The CCP's REST interface: `GET /SERVICE/api/Accounts`. Pure.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use http::Request;
use midward_core::{Failure, Secret};
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use url::{Url, form_urlencoded};

use super::account::{Account, is_true};
use super::ccp::{Answer, not_understood};
use super::config::CyberArkCcpConfig;
use super::criteria::{Criteria, QueryFormat};
use crate::cloud::misconfigured;

/// Below the service.
pub(super) const PATH: &[&str] = &["api", "Accounts"];

/// `endpoint` is [`endpoint`]'s for [`PATH`].
pub(super) fn request(
    endpoint: &Url,
    config: &CyberArkCcpConfig,
    criteria: &Criteria,
) -> Result<Request<Bytes>, Failure> {
    let mut url = String::with_capacity(256);
    url.push_str(endpoint.as_str());
    let mut before = '?';
    for (name, value) in parameters(config, criteria) {
        url.push(before);
        url.push_str(name);
        url.push('=');
        // A space is written `%20`: `+` is a plus sign to some of what may stand before the CCP.
        let parts = form_urlencoded::byte_serialize(value.as_bytes());
        url.extend(parts.map(|part| if part == "+" { "%20" } else { part }));
        before = '&';
    }
    Request::get(url)
        .header(http::header::ACCEPT, "application/json")
        .body(Bytes::new())
        .map_err(|_| misconfigured("the url or service cannot be asked"))
}

/// `https://HOST/SERVICE/REST`; the service's name may have slashes.
pub(super) fn endpoint(config: &CyberArkCcpConfig, rest: &[&str]) -> Result<Url, Failure> {
    let mut url = config.own.url.clone();
    let service = config.own.service.split('/').filter(|part| !part.is_empty());
    match url.path_segments_mut() {
        Ok(mut path) => path.pop_if_empty().extend(service).extend(rest),
        Err(()) => return Err(misconfigured("the url has no host")),
    };
    Ok(url)
}

/// Names and values in CyberArk's order. `Query` overrides all other criteria, so it is used alone, and only where they
/// cannot say the same.
pub(super) fn parameters<'a>(
    config: &'a CyberArkCcpConfig,
    criteria: &'a Criteria,
) -> Vec<(&'static str, Cow<'a, str>)> {
    let mut all = Vec::with_capacity(8);
    all.push(("AppID", Cow::from(&config.account.app_id)));
    if criteria.virtual_user_name.is_some() || config.query.query_format == QueryFormat::Regexp {
        all.push(("Query", criteria.query().into()));
        all.push((
            "QueryFormat",
            if config.query.query_format == QueryFormat::Regexp { "Regexp" } else { "Exact" }.into(),
        ));
    } else {
        all.extend(criteria.parts().map(|(name, value)| (name, value.into())));
    }
    all.extend(config.account.reason.as_ref().map(|reason| ("Reason", reason.into())));
    all.extend(config.account.connection_timeout_s.map(|seconds| ("ConnectionTimeout", seconds.to_string().into())));
    if config.query.fail_on_password_change {
        all.push(("FailRequestOnPasswordChange", "true".into()));
    }
    all
}

/// Reads a body, whatever the status was: the meaning of an error is in its code.
pub(super) fn read(body: &[u8], client_id_property: &str) -> Result<Answer, Failure> {
    let text = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    // What serde_json says may quote the value.
    let wrong = |_| not_understood("what is no JSON object");
    let mut reader = serde_json::Deserializer::from_slice(text);
    let members = Wanted { client_id_property }.deserialize(&mut reader).map_err(wrong)?;
    reader.end().map_err(wrong)?;
    if let Some(Value::Text(code)) = members.error_code {
        return Ok(Answer::Refused(code.expose_str().unwrap_or_default().to_owned()));
    }
    let text = |value| if let Some(Value::Text(text)) = value { Some(text) } else { None };
    let (client_id, content) = (text(members.client_id), text(members.content));
    let changing = match members.changing {
        Some(Value::Text(text)) => is_true(text.expose()),
        Some(Value::Flag(flag)) => flag,
        _ => false,
    };
    if client_id.is_none() && content.is_none() {
        return Err(not_understood("a JSON object that is no account"));
    }
    Ok(Answer::Account(Account { client_id, content, changing }))
}

/// The members of an answer that count here; the CCP's names compare without case. No other is copied.
#[derive(Default)]
struct Members {
    error_code: Option<Value>,
    client_id: Option<Value>,
    content: Option<Value>,
    changing: Option<Value>,
}

enum Value {
    Text(Secret),
    Flag(bool),
    Other,
}

#[derive(Clone, Copy)]
struct Wanted<'a> {
    client_id_property: &'a str,
}

impl<'de> DeserializeSeed<'de> for Wanted<'_> {
    type Value = Members;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Members, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Wanted<'_> {
    type Value = Members;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
        let mut members = Members::default();
        while let Some(name) = map.next_key_seed(NameOf(self.client_id_property))? {
            let member = match name {
                Name::ErrorCode => &mut members.error_code,
                Name::ClientId => &mut members.client_id,
                Name::Content => &mut members.content,
                Name::Changing => &mut members.changing,
                Name::Other => {
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            // Which of two was meant?
            if member.replace(map.next_value()?).is_some() {
                return Err(serde::de::Error::custom("members"));
            }
        }
        Ok(members)
    }
}

enum Name {
    ErrorCode,
    ClientId,
    Content,
    Changing,
    Other,
}

/// Reads a member's name; the value is that of the property with the client id.
struct NameOf<'a>(&'a str);

impl<'de> DeserializeSeed<'de> for NameOf<'_> {
    type Value = Name;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Name, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for NameOf<'_> {
    type Value = Name;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Name, E> {
        let names = [
            ("ErrorCode", Name::ErrorCode),
            (self.0, Name::ClientId),
            ("Content", Name::Content),
            ("PasswordChangeInProcess", Name::Changing),
        ];
        let found = names.into_iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        Ok(found.map_or(Name::Other, |(_, name)| name))
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue)
    }
}

/// Copies a text once, into what is wiped; numbers, lists and objects are of no use here.
struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Text(Secret::from(text)))
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Value, E> {
        Ok(Value::Flag(flag))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Value, E> {
        Ok(Value::Other)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Value, E> {
        Ok(Value::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Value, E> {
        Ok(Value::Other)
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Value::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Value::Other)
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
        let asked = |config: &CyberArkCcpConfig, criteria: &Criteria| {
            request(&endpoint(config, PATH).expect("a host"), config, criteria).expect("legal")
        };
        let url = asked(&config("reason = 'r'\nconnection_timeout_s = 5\nfail_on_password_change = true"), &criteria());
        let expected = "https://ccp.example:8443/AIMWebService/api/Accounts?AppID=App%201&Safe=A%2BB&Object=c%26d%20%C3%A9\
                        &Reason=r&ConnectionTimeout=5&FailRequestOnPasswordChange=true";
        assert_eq!(url.uri().to_string(), expected);
        let own = asked(&config("service = 'AIM/Web Service'"), &Criteria::default());
        assert_eq!(own.uri().path(), "/AIM/Web%20Service/api/Accounts");
    }

    #[test]
    fn a_dual_account_and_a_pattern_need_a_query() {
        let dual = Criteria { virtual_user_name: Some("crm".into()), safe: Some("S".into()), ..Criteria::default() };
        let plain = config("");
        let asked = parameters(&plain, &dual);
        assert_eq!(asked[1..], [("Query", "Safe=S;VirtualUserName=crm".into()), ("QueryFormat", "Exact".into())]);
        let (regexp, criteria) = (config("query_format = 'regexp'"), criteria());
        let pattern = parameters(&regexp, &criteria);
        assert_eq!(pattern[2], ("QueryFormat", "Regexp".into()));
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
            account(
                r#"{"Content":"p","UserName":"u","PasswordChangeInProcess":"False","Port":22,"X":[1,{"a":null}],"Y":{"b":[-1,0.5]},"Z":null}"#
            ),
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
