//! What CyberArk's error codes mean (its "Messages" reference): by code, never by HTTP status.

use midward_core::{Failure, Hop};

enum Meaning {
    NotFound,
    Denied,
    Ambiguous,
    Changing,
    Connectivity,
    /// The provider does not run.
    ClientAbsent,
    BadRequest,
}

/// Whether `code` has the form of CyberArk's codes (`APPAP004E`), so that it can be shown: four or five capital letters,
/// three digits, `E` or `W`.
pub fn is_cyberark_code(code: &str) -> bool {
    let bytes = code.as_bytes();
    let Some(letters) = bytes.len().checked_sub(4).filter(|count| matches!(count, 4 | 5)) else { return false };
    bytes[..letters].iter().all(u8::is_ascii_uppercase)
        && bytes[letters..letters + 3].iter().all(u8::is_ascii_digit)
        && matches!(bytes[letters + 3], b'E' | b'W')
}

/// Whether the table knows `code`. What merely looks like a code, and comes from a customer's JAR, is not shown.
pub fn is_known_cyberark_code(code: &str) -> bool {
    meaning(code).is_some()
}

/// The failure for a vault's error code. A code of another form is not repeated.
pub fn cyberark_failure(code: &str) -> Failure {
    let code = if is_cyberark_code(code) { code } else { "an unknown code" };
    let hop = Hop::Vault;
    match meaning(code) {
        Some(Meaning::NotFound) => Failure::permanent(
            hop,
            "vault_not_found",
            format!("the vault answered {code}: no such account, or the application may not read it"),
            "Check the credential identifier against the account's name, and that the provider and the application are \
             members of its safe.",
        ),
        Some(Meaning::Denied) => Failure::permanent(
            hop,
            "vault_denied",
            format!("the vault answered {code}: the application was not allowed in"),
            "Check the application's allowed machines, OS user, path, hash and certificate in CyberArk.",
        ),
        Some(Meaning::Ambiguous) => Failure::permanent(
            hop,
            "vault_ambiguous",
            format!("the vault answered {code}: more than one account matches"),
            "Name the safe in the credential identifier (safe:id), or make account names unique.",
        ),
        Some(Meaning::Changing) => Failure::transient(
            hop,
            "vault_changing",
            format!("the vault answered {code}: the password is being changed right now"),
            "Nothing to do: it is asked again shortly.",
        ),
        Some(Meaning::Connectivity) => Failure::transient(
            hop,
            "vault_unreachable",
            format!("the vault answered {code}: the connection to the vault failed"),
            "It is tried again by itself; if it lasts, check the provider's service and its way to the vault.",
        ),
        Some(Meaning::ClientAbsent) => Failure::transient(
            hop,
            "vault_client_absent",
            format!("the AIM client answered {code}: its provider does not run"),
            "Start CyberArk's Credential Provider on the MID's host; it is asked again by itself.",
        ),
        Some(Meaning::BadRequest) => Failure::permanent(
            hop,
            "vault_bad_request",
            format!("the vault answered {code}: it did not accept the question"),
            "Check the resolver's application id, safe and folder, and the credential identifier.",
        ),
        None => Failure::transient(
            hop,
            "vault_error",
            format!("the vault answered {code}"),
            "Look the code up in CyberArk's messages reference.",
        ),
    }
}

/// The failure for one of the words that a resolver JAR may have as an exception's whole message, to say what is wrong
/// with the AIM client. `None` for any other text.
pub fn aim_client_failure(word: &str) -> Option<Failure> {
    let (code, detail, action) = match word {
        "aim_client_absent" => (
            "vault_client_absent",
            "the AIM client's command line program could not be started",
            "Install CyberArk's Credential Provider on the MID's host, or set AIM_CLIPASSWORDSDK_CMD in the resolver's \
             environment_values.",
        ),
        "aim_client_timeout" => (
            "vault_client_timeout",
            "the AIM client did not answer in time and was ended",
            "Check that CyberArk's Credential Provider runs and reaches its vault; it is asked again by itself.",
        ),
        "aim_client_output" => (
            "vault_client_output",
            "the AIM client's answer could not be read",
            "Check that the configured program is CyberArk's clipasswordsdk.",
        ),
        "aim_client_failed" => (
            "vault_client_failed",
            "the AIM client failed without one of the vault's codes",
            "Run clipasswordsdk by hand as the MID's user to see its message.",
        ),
        _ => return None,
    };
    Some(Failure::transient(Hop::Vault, code, detail, action))
}

fn meaning(code: &str) -> Option<Meaning> {
    Some(match code {
        "APPAP004E" | "APPAP249E" | "APPAP324E" => Meaning::NotFound,
        "APPAP306E" | "APPAP008E" | "ITATS982E" | "APPAP087E" | "APPAP132E" | "APPAP133E" | "APPAP425E" => {
            Meaning::Denied
        }
        "APPAP227E" | "APPAP228E" | "APPAP229E" | "APPAP230E" | "APPAP251E" => Meaning::Ambiguous,
        "APPAP282E" | "APPAP286E" => Meaning::Changing,
        "APPAP007E" | "APPAP096W" | "APPAP289E" | "APPAP291E" | "APPAP292E" | "APPAP297E" | "APPBC007E" => {
            Meaning::Connectivity
        }
        "APPAP005E" => Meaning::ClientAbsent,
        "AIMWS030E" | "AIMWS031E" | "APPAP081E" | "CASVL010E" | "APPPR010E" => Meaning::BadRequest,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use midward_core::Persistence;

    #[test]
    fn codes_are_classified_by_meaning() {
        for (code, failure, persistence) in [
            ("APPAP004E", "vault_not_found", Persistence::Permanent),
            ("ITATS982E", "vault_denied", Persistence::Permanent),
            ("APPAP229E", "vault_ambiguous", Persistence::Permanent),
            ("APPAP282E", "vault_changing", Persistence::Transient),
            ("APPAP096W", "vault_unreachable", Persistence::Transient),
            ("APPAP005E", "vault_client_absent", Persistence::Transient),
            ("AIMWS031E", "vault_bad_request", Persistence::Permanent),
            ("APPXX999E", "vault_error", Persistence::Transient),
        ] {
            let got = cyberark_failure(code);
            assert_eq!((got.code.as_str(), got.persistence), (failure, persistence), "{code}");
            assert!(got.detail.contains(code));
        }
    }

    #[test]
    fn text_that_is_no_code_is_not_repeated() {
        for text in ["hunter2", "APPAP004E hunter2", "appap004e", "APPAP004X", "", "ÄPPAP004E"] {
            assert!(!is_cyberark_code(text), "{text}");
            let shown = cyberark_failure(text).to_string();
            assert!(text.is_empty() || !shown.contains(text), "{shown}");
        }
    }
}
