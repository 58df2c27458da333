//! What the program is asked, and what its end means. Pure. Nothing that it wrote is repeated.

use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::time::Duration;

use midward_core::{Failure, Hop};
use serde_json::json;

use super::process::{Output, RunError};
use crate::Lookup;
use crate::cgroup::over_memory;
use crate::cloud::Meaning;
use crate::fields::Fields;
use crate::jar::Missing;

const WHO: &str = "the resolver's program";

// Exit codes with a meaning, after sysexits.h.
const EX_DATAERR: i32 = 65;
const EX_NOINPUT: i32 = 66;
const EX_UNAVAILABLE: i32 = 69;
const EX_TEMPFAIL: i32 = 75;
const EX_NOPERM: i32 = 77;

/// The question, as one line of JSON.
pub(super) fn question(lookup: &Lookup, credential_type: &str, mid_name: &str) -> Vec<u8> {
    let mut question = json!({
        "version": 1,
        "credential_id": lookup.credential_id,
        "type": credential_type,
        "mid": mid_name,
    });
    if let Some(address) = &lookup.address {
        question["address"] = address.as_str().into();
    }
    let mut bytes = question.to_string().into_bytes();
    bytes.push(b'\n');
    bytes
}

/// Reads what a run left.
pub(super) fn fields(output: &Output) -> Result<Fields, Failure> {
    if !output.status.success() {
        return Err(refused(output.status, output.complained));
    }
    // What serde_json says may quote the answer.
    let fields: Fields = serde_json::from_slice(&output.answer).map_err(|_| {
        let what = if output.answer.is_empty() { "wrote nothing" } else { "wrote no such JSON object" };
        invalid(format!("{WHO} ended well but {what}"))
    })?;
    fields.complete(WHO)
}

fn refused(status: ExitStatus, complained: bool) -> Failure {
    let shown = match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "an unknown status".to_owned(),
    };
    match status.code() {
        Some(EX_NOINPUT) => Meaning::NotFound.failure(WHO, &shown),
        Some(EX_NOPERM) => Meaning::Denied.failure(WHO, &shown),
        Some(EX_TEMPFAIL) => Meaning::Unavailable.failure(WHO, &shown),
        Some(EX_DATAERR) => Failure::permanent(
            Hop::Vault,
            "vault_ambiguous",
            format!("{WHO} answered {shown}: more than one account fits"),
            "Make the credential identifier name one account.",
        ),
        Some(EX_UNAVAILABLE) => Failure::transient(
            Hop::Vault,
            "vault_unreachable",
            format!("{WHO} answered {shown}: it did not reach its vault"),
            "Check the network between this host and the vault, and what the resolver's sandbox lets the program reach.",
        ),
        _ => {
            let stderr = if complained { "something (withheld)" } else { "nothing" };
            Failure::transient(
                Hop::Resolver,
                "program_failed",
                format!("{WHO} ended with {shown}; on standard error it wrote {stderr}"),
                "Run the program by hand as the MID's user; its text is withheld because it may hold the secret. The \
                 manual lists exit codes that tell more.",
            )
        }
    }
}

/// A run without an end of its own, within `limit`.
pub(super) fn unfinished(error: &RunError, limit: Duration) -> Failure {
    match error {
        RunError::NotStarted(kind) => Failure::transient(
            Hop::Mid,
            "resolver_internal",
            format!("a process for the resolver's program could not be started: {kind}"),
            "Check the limits of processes and descriptors of the MID's user, and the MID's log.",
        ),
        RunError::Isolation(Missing::Program) => unusable(
            "it could not be started; a script's interpreter belongs in `executables`, and the MID's user must be \
             allowed to start both",
        ),
        RunError::Isolation(missing) => Failure::permanent(
            Hop::Resolver,
            "sandbox_unavailable",
            format!("the resolver's process cannot be isolated: {missing}"),
            "Use a kernel that can (the manual has a table), or set the resolver's `sandbox` to \"best_effort\" if you \
             trust the program.",
        ),
        RunError::TimedOut => Failure::transient(
            Hop::Resolver,
            "resolver_timeout",
            format!("{WHO} did not end within {} ms and was ended", limit.as_millis()),
            "Check that the vault answers on this host; raise the resolver's timeout_ms if it is only slow.",
        ),
        RunError::Refused(failure) => failure.clone(),
        RunError::OverMemory(limits) => over_memory(*limits),
        RunError::TooMuch => invalid(format!("{WHO} wrote more than 64 KiB and was ended")),
    }
}

/// A program that cannot be used until something is changed.
pub(super) fn unusable(why: &str) -> Failure {
    Failure::permanent(
        Hop::Resolver,
        "program_unusable",
        format!("{WHO} cannot be used: {why}"),
        "Correct the resolver's `program`, or the file's owner and mode.",
    )
}

pub(super) fn unreadable(error: &io::Error) -> Failure {
    unusable(&match error.kind() {
        io::ErrorKind::NotFound => "it does not exist".to_owned(),
        kind => format!("it cannot be looked at ({kind})"),
    })
}

fn invalid(detail: String) -> Failure {
    Failure::transient(
        Hop::Resolver,
        "program_answer_invalid",
        detail,
        "It must write one JSON object with client_id and client_secret (text) and end with exit code 0; see the manual's \
         page on programs.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use midward_core::{MaterialField, Persistence};
    use zeroize::Zeroizing;

    fn output(answer: &str, code: i32) -> Output {
        let answer = Zeroizing::new(answer.as_bytes().to_vec());
        Output { answer, status: ExitStatus::from_raw(code << 8), complained: true, lacking: Vec::new() }
    }

    #[test]
    fn the_question_is_one_line_of_the_contract() {
        let mut lookup = Lookup { credential_id: "a 'b'".to_owned(), address: None, fresh: false };
        let expected = "{\"credential_id\":\"a 'b'\",\"mid\":\"m\",\"type\":\"oauth_2_0\",\"version\":1}\n";
        assert_eq!(String::from_utf8(question(&lookup, "oauth_2_0", "m")).expect("text"), expected);
        lookup.address = Some("h".to_owned());
        assert!(question(&lookup, "t", "m").starts_with(b"{\"address\":\"h\","));
    }

    #[test]
    fn an_exit_code_decides_and_what_was_written_is_not_repeated() {
        for (code, expected) in [
            (65, ("vault_ambiguous", Persistence::Permanent)),
            (66, ("vault_not_found", Persistence::Permanent)),
            (69, ("vault_unreachable", Persistence::Transient)),
            (75, ("vault_unavailable", Persistence::Transient)),
            (77, ("vault_denied", Persistence::Permanent)),
            (1, ("program_failed", Persistence::Transient)),
        ] {
            let failure =
                fields(&output(r#"{"client_id":"hunter2","client_secret":"hunter2"}"#, code)).expect_err("failed");
            assert_eq!((failure.code.as_str(), failure.persistence), expected);
            assert!(failure.detail.contains(&format!("exit code {code}")) && !failure.to_string().contains("hunter2"));
        }
        for answer in ["", "hunter2", r#"{"client_id":"hunter2""#, "{} {}"] {
            let failure = fields(&output(answer, 0)).expect_err("no answer");
            assert_eq!(failure.code, "program_answer_invalid");
            assert!(!failure.to_string().contains("hunter2"));
        }
    }

    #[test]
    fn a_signal_is_named() {
        let killed = Output { status: ExitStatus::from_raw(9), ..output("", 0) };
        assert!(fields(&killed).expect_err("killed").detail.contains("signal 9"));
    }

    #[test]
    fn an_answer_may_hold_a_key_in_place_of_a_secret() {
        let text = r#"{"client_id":"a","private_key":"p","certificate":"c","key_id":"k","version":"3","expires_in":5}"#;
        let fields = fields(&output(text, 0)).expect("complete");
        assert!(fields.material.field(MaterialField::KeyId).is_some() && fields.version.as_deref() == Some("3"));
    }
}
