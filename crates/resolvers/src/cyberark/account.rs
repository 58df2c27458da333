//! An account as a provider answered with it, and the client material in it. Pure.

use midward_core::{ClientMaterial, Failure, Hop, MaterialField, Secret};

use super::criteria::Content;

/// How CyberArk's programs write a property that is not there.
const MISSING: &[u8] = b"<na>";

/// The parts of an account that count here.
#[derive(Debug, Default)]
pub(crate) struct Account {
    pub(crate) client_id: Option<Secret>,
    pub(crate) content: Option<Secret>,
    /// `PasswordChangeInProcess`.
    pub(crate) changing: bool,
}

impl Account {
    pub(crate) fn material(self, client_id_property: &str, content: Content) -> Result<ClientMaterial, Failure> {
        let is_there = |value: &Secret| !value.is_empty() && value.expose() != MISSING;
        let id = self.client_id.filter(is_there).ok_or_else(|| empty(client_id_property))?;
        let value = self.content.filter(is_there).ok_or_else(|| empty("Password"))?;
        let field = match content {
            Content::ClientSecret => MaterialField::ClientSecret,
            Content::PrivateKey => MaterialField::PrivateKey,
        };
        Ok(ClientMaterial::new().with(MaterialField::ClientId, id).with(field, value))
    }
}

/// `true` however CyberArk's interfaces write it.
pub(crate) fn is_true(text: &[u8]) -> bool {
    text.eq_ignore_ascii_case(b"true") || text.eq_ignore_ascii_case(b"yes") || text == b"1"
}

fn empty(property: &str) -> Failure {
    Failure::permanent(
        Hop::Vault,
        "empty_secret",
        format!("the vault's account has no {property}"),
        "Give the account its user name (the OAuth client id) and its password (the client secret); if another property \
         holds the client id, name it in the resolver's `client_id_property`.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(id: &str, content: &str) -> Account {
        Account { client_id: Some(Secret::from(id)), content: Some(Secret::from(content)), changing: false }
    }

    #[test]
    fn an_account_is_a_client_and_its_secret() {
        let material = account("a", "b").material("UserName", Content::ClientSecret).expect("complete");
        assert_eq!(material.field(MaterialField::ClientId).and_then(Secret::expose_str), Some("a"));
        assert_eq!(material.field(MaterialField::ClientSecret).and_then(Secret::expose_str), Some("b"));
        let key = account("a", "-----BEGIN").material("UserName", Content::PrivateKey).expect("complete");
        assert!(key.field(MaterialField::PrivateKey).is_some() && key.field(MaterialField::ClientSecret).is_none());
    }

    #[test]
    fn what_is_missing_is_named() {
        for (id, content, named) in
            [("", "b", "UserName"), ("<na>", "b", "UserName"), ("a", "", "Password"), ("a", "<na>", "Password")]
        {
            let failure = account(id, content).material("UserName", Content::ClientSecret).expect_err("incomplete");
            assert_eq!(failure.code, "empty_secret");
            assert!(failure.detail.ends_with(named), "{failure}");
        }
    }
}
