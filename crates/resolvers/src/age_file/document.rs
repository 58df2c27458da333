//! The decrypted document: a table of fields for each credential.

use std::fmt;

use midward_core::Secret;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};

use crate::fields::Fields;

/// Text that is no such document.
#[derive(Debug)]
pub(super) struct NotUnderstood;

/// The fields of one credential. A document that begins with `{` is JSON, any other is TOML.
pub(super) fn find(document: &Secret, id: &str) -> Result<Option<Fields>, NotUnderstood> {
    let text = document.expose_str().ok_or(NotUnderstood)?;
    if text.trim_start().starts_with('{') {
        let mut json = serde_json::Deserializer::from_str(text);
        let found = Wanted(id).deserialize(&mut json).map_err(|_| NotUnderstood)?;
        return json.end().map(|()| found).map_err(|_| NotUnderstood);
    }
    let toml = toml::Deserializer::parse(text).map_err(|_| NotUnderstood)?;
    Wanted(id).deserialize(toml).map_err(|_| NotUnderstood)
}

/// Reads this member and passes over the others.
struct Wanted<'a>(&'a str);

impl<'de> DeserializeSeed<'de> for Wanted<'_> {
    type Value = Option<Fields>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Wanted<'_> {
    type Value = Option<Fields>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table for each credential")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(name) = map.next_key::<String>()? {
            if name != self.0 {
                map.next_value::<IgnoredAny>()?;
            } else if found.replace(map.next_value::<Fields>()?).is_some() {
                return Err(A::Error::custom("twice"));
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use midward_core::MaterialField;

    fn secret(document: &str, id: &str) -> Option<String> {
        let found = find(&Secret::from(document), id).expect("a document")?;
        found.material.field(MaterialField::ClientSecret).and_then(Secret::expose_str).map(str::to_owned)
    }

    #[test]
    fn one_credential_is_found_in_either_notation() {
        let toml = "[crm]\nclient_id = 'a'\nclient_secret = 'one'\n[\"finance:crm\"]\nclient_secret = 'two'\n";
        let json = r#" {"crm":{"client_id":"a","client_secret":"one"},"finance:crm":{"client_secret":"two"}}"#;
        for document in [toml, json] {
            assert_eq!(secret(document, "crm").as_deref(), Some("one"));
            assert_eq!(secret(document, "finance:crm").as_deref(), Some("two"));
            assert_eq!(secret(document, "other"), None);
        }
    }

    #[test]
    fn what_is_no_document_is_an_error() {
        for document in
            [r#"{"crm":{}"#, r#"{"crm":{},"crm":{}}"#, r#"{"crm":"x"}"#, "[crm", "[crm]\n[crm]", "crm = 'x'", "{} {}"]
        {
            assert!(find(&Secret::from(document), "crm").is_err(), "{document}");
        }
        assert!(find(&Secret::new(vec![0xff]), "crm").is_err());
    }
}
