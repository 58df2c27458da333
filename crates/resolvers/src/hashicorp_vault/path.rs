//! Paths in Vault: of mounts, and of the secrets below them. Pure.

use midward_core::{Failure, Hop};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::CredentialId;

/// Everything but RFC 3986's unreserved characters.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A credential identifier as a path, percent-encoded: segments with `/` between them, each with something in it, none
/// of them `.` or `..`. What could be read as something else by a server or proxy on the way is refused: `%` `#` `\`,
/// besides what no identifier may hold.
pub(crate) fn of_credential_id(id: &str) -> Result<String, Failure> {
    CredentialId::check(id)?;
    encoded(id).ok_or_else(|| {
        Failure::permanent(
            Hop::Resolver,
            "invalid_credential_id",
            "the credential identifier is not a path in the vault",
            "Use names with / between them, without %, # and \\, not beginning or ending with /.",
        )
    })
}

/// The same for a path of the configuration's.
pub(crate) fn encoded(path: &str) -> Option<String> {
    let legal = |segment: &str| {
        !matches!(segment, "" | "." | "..") && !segment.contains(['%', '#', '\\', '?']) && !has_control(segment)
    };
    path.split('/').all(legal).then(|| {
        let segments: Vec<String> = path.split('/').map(segment).collect();
        segments.join("/")
    })
}

/// One segment, with `/` encoded too.
pub(crate) fn segment(text: &str) -> String {
    utf8_percent_encode(text, SEGMENT).to_string()
}

fn has_control(text: &str) -> bool {
    text.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_path_is_encoded_segment_by_segment() {
        for (id, path) in [
            ("crm", "crm"),
            ("oauth/crm-prod.v2", "oauth/crm-prod.v2"),
            ("CRM prod/EU (blue) é", "CRM%20prod/EU%20%28blue%29%20%C3%A9"),
            ("a+b&c=d,e:f@g", "a%2Bb%26c%3Dd%2Ce%3Af%40g"),
        ] {
            assert_eq!(of_credential_id(id).as_deref(), Ok(path), "{id}");
        }
        assert_eq!(segment("host/a b"), "host%2Fa%20b");
    }

    #[test]
    fn what_could_ask_for_something_else_is_refused() {
        for bad in [
            "",
            "/a",
            "a/",
            "a//b",
            "../a",
            "a/../b",
            "a/..",
            "..",
            ".",
            "a/./b",
            "a?b",
            "a#b",
            "a%2fb",
            "%2e%2e/a",
            "a\\b",
            "..\\a",
            "-a",
            "a;b",
            "a\"b",
            "a\nb",
            "a\0b",
            &"é".repeat(161),
        ] {
            assert_eq!(
                of_credential_id(bad).map_err(|failure| failure.code),
                Err("invalid_credential_id".into()),
                "{bad:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_accepted_identifier_leaves_its_folder(id in any::<String>()) {
            if let Ok(path) = of_credential_id(&id) {
                let base = url::Url::parse("https://vault.example/v1/secret/data/").expect("a URL");
                let url = base.join(&path).expect("a URL");
                let below = url.path().strip_prefix(base.path()).expect("below the mount");
                let decoded = percent_encoding::percent_decode_str(below).decode_utf8().expect("text");
                prop_assert_eq!(decoded, id);
                prop_assert!(url.query().is_none() && url.fragment().is_none());
            }
        }
    }
}
