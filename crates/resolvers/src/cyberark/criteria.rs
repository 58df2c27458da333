//! How a credential identifier becomes a question about an account: one grammar for the SDK, the command line and the
//! Central Credential Provider.

use midward_core::{Failure, Hop};
use serde::Deserialize;

use crate::{CredentialId, InvalidCredentialId, Lookup};

/// By what an account is looked up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LookupBy {
    /// The account's name; the connection's address for identifiers that name none.
    #[default]
    CredentialId,
    /// The connection's address, whatever name the identifier has.
    Address,
    /// The account's name and the connection's address.
    Both,
    /// The identifier's name is the account's property `UserName`.
    UserName,
    /// The identifier's name is a dual account's `VirtualUserName`: the provider answers with the active one of the two.
    VirtualUserName,
}

/// How the provider compares what a query says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QueryFormat {
    #[default]
    Exact,
    Regexp,
}

/// What an account's password is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Content {
    #[default]
    ClientSecret,
    /// PEM, for `private_key_jwt`.
    PrivateKey,
}

/// The settings that a question is made from.
#[derive(Clone, Debug)]
pub(crate) struct Search {
    pub(crate) separator: String,
    pub(crate) safe: Option<String>,
    pub(crate) folder: String,
    pub(crate) platform: Option<String>,
    pub(crate) user_name: Option<String>,
    pub(crate) database: Option<String>,
    pub(crate) lookup_by: LookupBy,
}

/// What is asked for. Nothing in it can change the question: `;`, quotes and control characters are refused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Criteria {
    pub(crate) safe: Option<String>,
    pub(crate) folder: Option<String>,
    pub(crate) object: Option<String>,
    pub(crate) user_name: Option<String>,
    pub(crate) virtual_user_name: Option<String>,
    pub(crate) address: Option<String>,
    pub(crate) database: Option<String>,
    pub(crate) policy_id: Option<String>,
}

impl Search {
    /// What holds whatever is looked up, checked at start.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        let settings = [
            ("safe", self.safe.as_deref()),
            ("folder", Some(&*self.folder)),
            ("platform", self.platform.as_deref()),
            ("user_name", self.user_name.as_deref()),
            ("database", self.database.as_deref()),
        ];
        settings.into_iter().try_for_each(|(name, value)| check_setting(name, value.unwrap_or_default()))
    }

    pub(crate) fn criteria(&self, lookup: &Lookup) -> Result<Criteria, Failure> {
        let id = CredentialId::parse(&lookup.credential_id, &self.separator)?;
        let named = id.object.is_some();
        let by_address = match self.lookup_by {
            LookupBy::Address | LookupBy::Both => true,
            LookupBy::CredentialId | LookupBy::UserName | LookupBy::VirtualUserName => !named,
        };
        let address = lookup.address.clone().filter(|address| by_address && !address.is_empty());
        if by_address && address.is_none() && (self.lookup_by != LookupBy::Both || !named) {
            return Err(no_address());
        }
        if let Some(bad) = address.as_deref().and_then(|address| address.chars().find(|&c| is_unsafe(c))) {
            return Err(InvalidCredentialId::Character(bad).into());
        }
        let name = id.object;
        let mut criteria = Criteria {
            safe: id.safe.or_else(|| self.safe.clone()),
            folder: Some(self.folder.clone()).filter(|folder| !folder.is_empty()),
            policy_id: id.platform.or_else(|| self.platform.clone()),
            user_name: self.user_name.clone(),
            database: self.database.clone(),
            address,
            ..Criteria::default()
        };
        match self.lookup_by {
            LookupBy::CredentialId | LookupBy::Both => criteria.object = name,
            LookupBy::UserName => criteria.user_name = name.or(criteria.user_name),
            LookupBy::VirtualUserName => criteria.virtual_user_name = name,
            LookupBy::Address => {}
        }
        Ok(criteria)
    }
}

impl Criteria {
    /// With CyberArk's names, in the order in which its documentation has them.
    pub(crate) fn parts(&self) -> impl Iterator<Item = (&'static str, &str)> {
        [
            ("Safe", &self.safe),
            ("Folder", &self.folder),
            ("Object", &self.object),
            ("UserName", &self.user_name),
            ("VirtualUserName", &self.virtual_user_name),
            ("Address", &self.address),
            ("Database", &self.database),
            ("PolicyID", &self.policy_id),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value.as_deref()?)))
    }

    /// `Safe=S;Folder=F;Object=O`.
    pub(crate) fn query(&self) -> String {
        self.parts().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(";")
    }
}

/// A setting that goes into a question: nothing that separates its parts, no option of a command line.
pub(crate) fn check_setting(name: &str, value: &str) -> Result<(), Failure> {
    if value.starts_with('-') || value.chars().any(is_unsafe) {
        return Err(Failure::permanent(
            Hop::Resolver,
            "resolver_misconfigured",
            format!("{name} holds a semicolon, a quotation mark or a control character, or begins with -"),
            "Correct the resolver's section in `mid.toml`; see the manual's page on CyberArk.",
        ));
    }
    Ok(())
}

fn is_unsafe(c: char) -> bool {
    matches!(c, ';' | '"') || c.is_control()
}

fn no_address() -> Failure {
    Failure::permanent(
        Hop::Resolver,
        "invalid_credential_id",
        "the credential identifier names no account and there is no address to look one up by",
        "Put the account's name into the credential identifier.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search(lookup_by: LookupBy) -> Search {
        Search {
            separator: ":".to_owned(),
            safe: Some("Main".to_owned()),
            folder: "root".to_owned(),
            platform: None,
            user_name: None,
            database: None,
            lookup_by,
        }
    }

    fn query(search: &Search, id: &str, address: Option<&str>) -> Result<String, String> {
        let lookup = Lookup { credential_id: id.to_owned(), address: address.map(str::to_owned), fresh: false };
        search.criteria(&lookup).map(|criteria| criteria.query()).map_err(|failure| failure.code)
    }

    #[test]
    fn each_form_of_identifier_has_its_query() {
        let here = Some("crm.example");
        for (by, id, expected) in [
            (LookupBy::CredentialId, "crm", "Safe=Main;Folder=root;Object=crm"),
            (LookupBy::CredentialId, "Apps:crm", "Safe=Apps;Folder=root;Object=crm"),
            (LookupBy::CredentialId, "Apps:crm:Unix", "Safe=Apps;Folder=root;Object=crm;PolicyID=Unix"),
            (LookupBy::CredentialId, "Apps:", "Safe=Apps;Folder=root;Address=crm.example"),
            (LookupBy::CredentialId, "::Unix", "Safe=Main;Folder=root;Address=crm.example;PolicyID=Unix"),
            (LookupBy::CredentialId, "", "Safe=Main;Folder=root;Address=crm.example"),
            (LookupBy::Address, "crm", "Safe=Main;Folder=root;Address=crm.example"),
            (LookupBy::Both, "crm", "Safe=Main;Folder=root;Object=crm;Address=crm.example"),
            (LookupBy::UserName, "crm", "Safe=Main;Folder=root;UserName=crm"),
            (LookupBy::VirtualUserName, "crm", "Safe=Main;Folder=root;VirtualUserName=crm"),
        ] {
            assert_eq!(query(&search(by), id, here).as_deref(), Ok(expected), "{by:?} {id}");
        }
        let more = Search {
            safe: None,
            folder: String::new(),
            platform: Some("Web".to_owned()),
            user_name: Some("app".to_owned()),
            database: Some("db".to_owned()),
            ..search(LookupBy::CredentialId)
        };
        assert_eq!(query(&more, "crm", None).as_deref(), Ok("Object=crm;UserName=app;Database=db;PolicyID=Web"));
    }

    #[test]
    fn what_could_change_the_question_is_refused() {
        for (id, address) in [("", None), ("a;Safe=b", None), ("-a", None), ("", Some("a;Safe=b")), ("", Some("a\nb"))]
        {
            let refused = query(&search(LookupBy::CredentialId), id, address);
            assert_eq!(refused, Err("invalid_credential_id".to_owned()), "{id:?} {address:?}");
        }
        assert_eq!(query(&search(LookupBy::Address), "crm", None), Err("invalid_credential_id".to_owned()));
        let bad = Search { safe: Some("a;Object=b".to_owned()), ..search(LookupBy::CredentialId) };
        assert_eq!(bad.check().map_err(|failure| failure.code), Err("resolver_misconfigured".to_owned()));
        assert!(search(LookupBy::CredentialId).check().is_ok());
    }
}
