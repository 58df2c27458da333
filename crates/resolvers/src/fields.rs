//! One client's fields as a program or a file gives them: a map whose names are those of [`MaterialField`].

use std::fmt;

use midward_core::{ClientMaterial, Failure, MaterialField, Secret};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};

/// Most members of a map that are looked at.
const MAX_MEMBERS: usize = 64;
/// Longest name of a version that is shown.
const MAX_VERSION_LEN: usize = 64;

pub(crate) const ALL: [MaterialField; 7] = [
    MaterialField::ClientId,
    MaterialField::ClientSecret,
    MaterialField::PrivateKey,
    MaterialField::Certificate,
    MaterialField::KeyId,
    MaterialField::SubjectToken,
    MaterialField::ActorToken,
];

/// What came. Members of other names are ignored; one of these that comes twice, or is no text, is an error.
#[derive(Debug, Default)]
pub(crate) struct Fields {
    pub(crate) material: ClientMaterial,
    /// The secret's version, when it looks like one: letters, digits and `._:-`.
    pub(crate) version: Option<String>,
    /// Seconds for which the secret is good, from now on.
    pub(crate) expires_in: Option<u64>,
}

impl Fields {
    /// The material, if it is enough for any way to authenticate. `who` gave it.
    pub(crate) fn complete(self, who: &str) -> Result<Self, Failure> {
        match complete(&self.material, who) {
            Ok(()) => Ok(self),
            Err(failure) => Err(failure),
        }
    }
}

/// An empty value counts as absent, and is an error; the failure names what came.
pub(crate) fn complete(material: &ClientMaterial, who: &str) -> Result<(), Failure> {
    let proof = [MaterialField::ClientSecret, MaterialField::PrivateKey, MaterialField::Certificate];
    let has_id = material.field(MaterialField::ClientId).is_some();
    if has_id && proof.into_iter().any(|field| material.field(field).is_some()) {
        return Ok(());
    }
    let lacking = if has_id { "client_secret, private_key or certificate" } else { "client_id" };
    let note = |length| if length == 0 { " (empty)" } else { "" };
    let came: Vec<_> = material.lengths().map(|(field, length)| format!("{}{}", field.name(), note(length))).collect();
    let came = if came.is_empty() { "nothing".to_owned() } else { came.join(", ") };
    Err(Failure::permanent(
        midward_core::Hop::Resolver,
        "empty_secret",
        format!("{who} gave no {lacking}; it gave {came}"),
        "A client needs its id, and a secret, a private key or a certificate; see the manual's page on the resolver's kind.",
    ))
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Members)
    }
}

struct Members;

impl<'de> Visitor<'de> for Members {
    type Value = Fields;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of fields")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
        let mut fields = Fields::default();
        let mut names: Vec<String> = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            if names.len() == MAX_MEMBERS || names.contains(&name) {
                return Err(A::Error::custom("members"));
            }
            if let Some(field) = ALL.into_iter().find(|field| field.name() == name) {
                if let Some(text) = map.next_value::<Option<String>>()? {
                    fields.material = fields.material.with(field, Secret::from(text));
                }
            } else if name == "version" {
                fields.version = map.next_value::<Version>()?.0;
            } else if name == "expires_in" {
                fields.expires_in = map.next_value::<Option<u64>>()?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
            names.push(name);
        }
        Ok(fields)
    }
}

/// Text or a number. Text that is no version's name is not kept: it is shown in traces.
struct Version(Option<String>);

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Any {
            Number(u64),
            Text(String),
            Other(IgnoredAny),
        }
        Ok(Self(match Any::deserialize(deserializer)? {
            Any::Number(number) => Some(number.to_string()),
            Any::Text(text) => Some(text).filter(|text| is_version(text)),
            Any::Other(_) => None,
        }))
    }
}

fn is_version(text: &str) -> bool {
    (1..=MAX_VERSION_LEN).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._:-".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_members_are_read_and_others_are_not() {
        let text = r#"{"client_id":"a","private_key":"p","key_id":null,"x":{"y":[1]},"version":7,"expires_in":60}"#;
        let fields: Fields = serde_json::from_str(text).expect("a map");
        assert_eq!((fields.version.as_deref(), fields.expires_in), (Some("7"), Some(60)));
        let came: Vec<_> = fields.material.lengths().collect();
        assert_eq!(came, [(MaterialField::ClientId, 1), (MaterialField::PrivateKey, 1)]);
        assert!(fields.complete("it").is_ok());
        let fields: Fields = toml::from_str("client_id = 'a'\nclient_secret = 'b'\nversion = 'v1.2'").expect("a map");
        assert_eq!(fields.version.as_deref(), Some("v1.2"));
    }

    #[test]
    fn what_is_ambiguous_or_no_text_is_an_error() {
        for text in [
            "[]",
            r#"{"client_id":"a","client_id":"b"}"#,
            r#"{"x":1,"x":2}"#,
            r#"{"client_id":7}"#,
            r#"{"client_secret":{"a":"b"}}"#,
            r#"{"expires_in":-1}"#,
            r#"{"expires_in":"soon"}"#,
            r#"{"client_id":"a"} trailing"#,
        ] {
            assert!(serde_json::from_str::<Fields>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_version_that_is_something_else_is_not_shown() {
        for text in [r#"{"version":"hunter2 hunter2"}"#, r#"{"version":""}"#, r#"{"version":[1]}"#] {
            assert_eq!(serde_json::from_str::<Fields>(text).expect("a map").version, None, "{text}");
        }
    }

    #[test]
    fn an_incomplete_client_is_named_by_what_came() {
        let text = r#"{"client_id":"visible","client_secret":""}"#;
        let fields: Fields = serde_json::from_str(text).expect("a map");
        let failure = fields.complete("the program").expect_err("no secret");
        assert_eq!(failure.code, "empty_secret");
        assert!(failure.detail.ends_with("it gave client_id, client_secret (empty)"), "{failure}");
        assert!(!failure.to_string().contains("visible"));
    }
}
