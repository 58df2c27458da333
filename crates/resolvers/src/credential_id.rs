//! The grammar of credential identifiers (ServiceNow, "External credential storage"; CyberArk's object names).

use midward_core::{Failure, Hop};

/// Longest identifier, in characters: CyberArk's limit (ServiceNow's is 180).
pub const MAX_CREDENTIAL_ID_LEN: usize = 160;

/// A parsed identifier: `id`, `safe:id`, `safe:id:platform`, `safe:` and `::platform` (by address), or nothing (by
/// address). Empty parts are `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct CredentialId {
    pub safe: Option<String>,
    pub object: Option<String>,
    pub platform: Option<String>,
}

/// Why text is not a credential identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum InvalidCredentialId {
    #[error("it is longer than {MAX_CREDENTIAL_ID_LEN} characters")]
    TooLong,
    #[error("it holds {0:?}, which could change what the vault is asked")]
    Character(char),
    #[error("it holds ../")]
    ParentFolder,
    #[error("a part of it begins with -, which a vault client could take for an option")]
    LeadingDash,
    #[error("it has more than three parts")]
    TooManyParts,
}

impl CredentialId {
    /// The separator unless a resolver's configuration names another.
    pub const DEFAULT_SEPARATOR: &'static str = ":";

    /// Parses `text`. An empty `separator` means that identifiers are not split at all.
    pub fn parse(text: &str, separator: &str) -> Result<Self, InvalidCredentialId> {
        Self::check(text)?;
        let parts: Vec<&str> = if separator.is_empty() { vec![text] } else { text.split(separator).collect() };
        if parts.iter().any(|part| part.starts_with('-')) {
            return Err(InvalidCredentialId::LeadingDash);
        }
        let part = |index: usize| parts.get(index).filter(|part| !part.is_empty()).map(|part| (*part).to_owned());
        match parts.len() {
            1 => Ok(Self { object: part(0), ..Self::default() }),
            2 | 3 => Ok(Self { safe: part(0), object: part(1), platform: part(2) }),
            _ => Err(InvalidCredentialId::TooManyParts),
        }
    }

    /// Checks what holds whatever the separator is. For resolvers that do their own parsing.
    pub fn check(text: &str) -> Result<(), InvalidCredentialId> {
        if text.chars().count() > MAX_CREDENTIAL_ID_LEN {
            return Err(InvalidCredentialId::TooLong);
        }
        if let Some(bad) = text.chars().find(|c| matches!(c, ';' | '"' | '?') || c.is_control()) {
            return Err(InvalidCredentialId::Character(bad));
        }
        if text.contains("../") || text.contains("..\\") {
            return Err(InvalidCredentialId::ParentFolder);
        }
        if text.starts_with('-') {
            return Err(InvalidCredentialId::LeadingDash);
        }
        Ok(())
    }

    /// Whether the vault must be asked by address, because no object is named.
    pub const fn is_by_address(&self) -> bool {
        self.object.is_none()
    }
}

impl From<InvalidCredentialId> for Failure {
    fn from(invalid: InvalidCredentialId) -> Self {
        Self::permanent(
            Hop::Resolver,
            "invalid_credential_id",
            format!("the credential identifier was refused before any vault was asked: {invalid}"),
            "Correct the identifier in the credential's record; see the manual's page on credential identifiers.",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(safe: &str, object: &str, platform: &str) -> CredentialId {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        CredentialId { safe: some(safe), object: some(object), platform: some(platform) }
    }

    #[test]
    fn every_documented_form_is_read() {
        for (text, expected) in [
            ("crm", id("", "crm", "")),
            ("safe:crm", id("safe", "crm", "")),
            ("safe:crm:Unix", id("safe", "crm", "Unix")),
            ("safe:", id("safe", "", "")),
            ("::Unix", id("", "", "Unix")),
            ("", id("", "", "")),
            ("CRM prod/EU (blue) é", id("", "CRM prod/EU (blue) é", "")),
        ] {
            assert_eq!(CredentialId::parse(text, ":"), Ok(expected), "{text:?}");
        }
        assert_eq!(CredentialId::parse("a:b~c", "~"), Ok(id("a:b", "c", "")));
        assert_eq!(CredentialId::parse("a:b", ""), Ok(id("", "a:b", "")));
    }

    #[test]
    fn what_could_change_the_question_is_refused() {
        use InvalidCredentialId::{Character, LeadingDash, ParentFolder, TooLong, TooManyParts};
        for (text, why) in [
            ("a;Safe=other", Character(';')),
            ("a\"b", Character('"')),
            ("a\nb", Character('\n')),
            ("a\0b", Character('\0')),
            ("a\u{85}b", Character('\u{85}')),
            ("a?b", Character('?')),
            ("a/../b", ParentFolder),
            ("-o", LeadingDash),
            ("safe:-o", LeadingDash),
            ("a:b:c:d", TooManyParts),
            (&"é".repeat(161), TooLong),
        ] {
            assert_eq!(CredentialId::parse(text, ":"), Err(why), "{text:?}");
        }
        assert!(CredentialId::parse(&"é".repeat(160), ":").is_ok());
    }

    proptest! {
        #[test]
        fn parts_come_back_as_they_were_joined(safe in "[a-zA-Z0-9 _.]{0,20}", object in "[a-zA-Z0-9 _]{0,20}", platform in "[a-zA-Z0-9]{0,20}") {
            let text = format!("{safe}:{object}:{platform}");
            prop_assert_eq!(CredentialId::parse(&text, ":"), Ok(id(&safe, &object, &platform)));
        }

        #[test]
        fn no_accepted_identifier_holds_a_refused_character(text in any::<String>()) {
            if CredentialId::parse(&text, ":").is_ok() {
                prop_assert!(!text.chars().any(|c| matches!(c, ';' | '"' | '?') || c.is_control()));
                prop_assert!(!text.starts_with('-') && !text.contains("../"));
            }
        }
    }
}
