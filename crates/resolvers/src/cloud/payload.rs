//! A secret's value: a JSON object with fields, or the client secret itself. Pure.

use std::collections::BTreeMap;
use std::fmt;

use midward_core::{ClientMaterial, Failure, Hop, MaterialField, Secret};
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

use super::SecretFields;

/// Most members of a JSON object that are looked at.
const MAX_MEMBERS: usize = 64;

/// Reads `value`. `client_id` is the configured one; a JSON object's own wins over it.
pub(crate) fn material(
    value: Secret,
    fields: &SecretFields,
    client_id: Option<&str>,
) -> Result<ClientMaterial, Failure> {
    let object = value.expose_str().filter(|text| text.trim_start().starts_with('{')).map(serde_json::from_str);
    let Some(object) = object else { return plain(value, client_id) };
    // What serde_json says may quote the value.
    let members = object.map_err(|_| {
        Failure::permanent(
            Hop::Vault,
            "secret_not_understood",
            "the secret's value begins like a JSON object, but is none with at most 64 members of different names",
            "Store a JSON object, or the client secret alone (not beginning with `{`) with `client_id` in the resolver's \
             settings.",
        )
    })?;
    from_members(members, fields, client_id)
}

/// The same for the members of an object.
pub(crate) fn from_members(
    Members(mut members): Members,
    fields: &SecretFields,
    client_id: Option<&str>,
) -> Result<ClientMaterial, Failure> {
    let mut material = ClientMaterial::new();
    for (field, name) in names(fields) {
        if let Some(Some(text)) = members.remove(name) {
            material = material.with(field, text);
        }
    }
    if material.field(MaterialField::ClientId).is_none()
        && let Some(id) = client_id
    {
        material = material.with(MaterialField::ClientId, Secret::from(id));
    }
    let proof = [MaterialField::ClientSecret, MaterialField::PrivateKey, MaterialField::Certificate];
    if material.field(MaterialField::ClientId).is_none() {
        return Err(empty(&format!("no text in its field {}", fields.client_id)));
    }
    if !proof.into_iter().any(|field| material.field(field).is_some()) {
        return Err(empty(&format!("no text in its field {} or {}", fields.client_secret, fields.private_key)));
    }
    Ok(material)
}

/// For the trace: ` (version ID)`, when it looks like one.
pub(crate) fn version(id: Option<&str>) -> String {
    let legal =
        |id: &&str| (1..=64).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    id.filter(legal).map_or_else(String::new, |id| format!(" (version {id})"))
}

fn plain(value: Secret, client_id: Option<&str>) -> Result<ClientMaterial, Failure> {
    let Some(client_id) = client_id.filter(|id| !id.is_empty()) else {
        return Err(empty("no client id: its value is not a JSON object, and the resolver has no `client_id`"));
    };
    if value.is_empty() {
        return Err(empty("an empty value"));
    }
    Ok(ClientMaterial::new()
        .with(MaterialField::ClientId, Secret::from(client_id))
        .with(MaterialField::ClientSecret, value))
}

fn empty(why: &str) -> Failure {
    Failure::permanent(
        Hop::Vault,
        "empty_secret",
        format!("the vault's secret has {why}"),
        "Store a JSON object with client id and client secret, name its fields in the resolver's `fields`, or set the \
         resolver's `client_id` for secrets that are not JSON.",
    )
}

fn names(fields: &SecretFields) -> [(MaterialField, &str); 5] {
    [
        (MaterialField::ClientId, &fields.client_id),
        (MaterialField::ClientSecret, &fields.client_secret),
        (MaterialField::PrivateKey, &fields.private_key),
        (MaterialField::Certificate, &fields.certificate),
        (MaterialField::KeyId, &fields.key_id),
    ]
}

/// The members of a JSON object; those that are not text are `None`. A name that comes twice is an error.
#[derive(Debug)]
pub(crate) struct Members(pub(crate) BTreeMap<String, Option<Secret>>);

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
                while let Some((name, Text(value))) = map.next_entry::<String, Text>()? {
                    if members.len() == MAX_MEMBERS || members.insert(name, value).is_some() {
                        return Err(serde::de::Error::custom("members"));
                    }
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

/// A text that is secret.
#[derive(Debug)]
pub(crate) struct SecretText(pub(crate) Secret);

impl<'de> Deserialize<'de> for SecretText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(Secret::from(text)))
    }
}

struct Text(Option<Secret>);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Any {
            Text(String),
            Other(IgnoredAny),
        }
        Ok(match Any::deserialize(deserializer)? {
            Any::Text(text) => Self(Some(Secret::from(text))),
            Any::Other(_) => Self(None),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: &str, client_id: Option<&str>) -> Result<(String, String), String> {
        let material = material(Secret::from(value), &SecretFields::default(), client_id).map_err(|f| f.code)?;
        let text = |field| material.field(field).and_then(Secret::expose_str).unwrap_or_default().to_owned();
        Ok((text(MaterialField::ClientId), text(MaterialField::ClientSecret)))
    }

    fn pair(id: &str, secret: &str) -> (String, String) {
        (id.to_owned(), secret.to_owned())
    }

    #[test]
    fn an_object_gives_its_fields_and_anything_else_is_the_client_secret() {
        assert_eq!(read(r#"{"client_id":"a","client_secret":"b","n":1,"o":{"x":[]}}"#, None), Ok(pair("a", "b")));
        assert_eq!(read(r#" {"client_secret":"b"}"#, Some("c")), Ok(pair("c", "b")));
        assert_eq!(read(r#"{"client_id":"a","client_secret":"b"}"#, Some("c")), Ok(pair("a", "b")));
        assert_eq!(read("b;\"'%+&, \u{1F512}\n", Some("c")), Ok(pair("c", "b;\"'%+&, \u{1F512}\n")));
        assert_eq!(read("[1]", Some("c")), Ok(pair("c", "[1]")));
    }

    #[test]
    fn configured_names_are_read() {
        let fields = SecretFields { client_id: "user".into(), client_secret: "pw".into(), ..SecretFields::default() };
        let value = Secret::from(r#"{"user":"a","pw":"b","client_secret":"no"}"#);
        let material = material(value, &fields, None).expect("complete");
        assert_eq!(material.field(MaterialField::ClientSecret).and_then(Secret::expose_str), Some("b"));
    }

    #[test]
    fn what_lacks_something_is_never_material() {
        for (value, client_id, code) in [
            ("", Some("c"), "empty_secret"),
            ("b", None, "empty_secret"),
            ("b", Some(""), "empty_secret"),
            ("{}", Some("c"), "empty_secret"),
            (r#"{"client_id":"a"}"#, None, "empty_secret"),
            (r#"{"client_secret":"b"}"#, None, "empty_secret"),
            (r#"{"client_id":"a","client_secret":""}"#, None, "empty_secret"),
            (r#"{"client_id":"a","client_secret":null}"#, None, "empty_secret"),
            (r#"{"client_id":"a","client_secret":7}"#, None, "empty_secret"),
            (r#"{"client_id":"a","client_secret":"b","client_secret":"c"}"#, None, "secret_not_understood"),
            (r#"{"client_id":"a","client_secret":"b""#, None, "secret_not_understood"),
            (r#"{"client_id":"a","client_secret":"b"} hunter2"#, None, "secret_not_understood"),
        ] {
            assert_eq!(read(value, client_id), Err(code.to_owned()), "{value}");
        }
    }

    #[test]
    fn no_error_quotes_the_value() {
        for value in [r#"{"client_id":"hunter2""#, r#"{"hunter2":"hunter2"}"#, "hunter2"] {
            let failure = material(Secret::from(value), &SecretFields::default(), None).expect_err("incomplete");
            assert!(!failure.to_string().contains("hunter2"), "{failure}");
        }
    }
}
