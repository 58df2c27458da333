//! What a host's answers mean: material, or a failure that says what to do. Pure.

use midward_core::{ClientMaterial, Failure, Hop, MaterialField};

use super::host::{CallError, End};
use super::sandbox::Missing;
use crate::cgroup::over_memory;
use crate::cyberark_codes::{aim_client_failure, cyberark_failure, is_cyberark_code, is_known_cyberark_code};
use crate::frame::{Frame, FrameKind};

/// Result keys in order of preference (ServiceNow's names first).
const ALIASES: [(MaterialField, &[&str]); 7] = [
    (MaterialField::ClientId, &["user", "client_id"]),
    (MaterialField::ClientSecret, &["pswd", "client_secret", "secret_key", "password"]),
    (MaterialField::PrivateKey, &["pkey", "private_key"]),
    (MaterialField::Certificate, &["certificate"]),
    (MaterialField::KeyId, &["kid", "key_id"]),
    (MaterialField::SubjectToken, &["subject_token"]),
    (MaterialField::ActorToken, &["actor_token"]),
];

/// Whose codes an answer may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// A JAR of the customer's own: a code out of an exception's message is shown only if it is a known one.
    Jar,
    CyberArkSdk,
}

/// Reads an answer; the flag is CyberArk's `PasswordChangeInProcess`.
pub(super) fn material(frame: &Frame, source: Source) -> Result<(ClientMaterial, bool), Failure> {
    if frame.kind != FrameKind::Result {
        return Err(refused(frame, source));
    }
    let mut material = ClientMaterial::new();
    for (field, aliases) in ALIASES {
        let values = aliases.iter().filter_map(|alias| frame.value(&format!("value:{alias}")));
        if let Some(value) = values.into_iter().find(|value| !value.is_empty()) {
            material = material.with(field, value.clone());
        }
    }
    let proof = [MaterialField::ClientSecret, MaterialField::PrivateKey, MaterialField::Certificate];
    let has_id = material.field(MaterialField::ClientId).is_some();
    if !has_id || !proof.into_iter().any(|field| material.field(field).is_some()) {
        return Err(empty(frame, if has_id { "client secret" } else { "client id" }));
    }
    Ok((material, frame.text("changing") == Some("true")))
}

fn empty(frame: &Frame, lacking: &str) -> Failure {
    let known = frame.fields().filter_map(|(key, value)| {
        let name = key.strip_prefix("value:")?;
        let note = if value?.is_empty() { " (empty)" } else { "" };
        Some(format!("{name}{note}"))
    });
    let others = frame.text("others").unwrap_or_default().split(',').filter(|name| !name.is_empty()).map(printable);
    let came: Vec<_> = known.chain(others).collect();
    let came = if came.is_empty() { "nothing".to_owned() } else { came.join(", ") };
    Failure::permanent(
        Hop::Resolver,
        "empty_secret",
        format!("the resolver returned no {lacking}; it returned {came}"),
        "The client id belongs in user or client_id, the secret in pswd, client_secret, secret_key or password, a private \
         key in pkey or private_key; check the account in the vault and the names that the JAR uses.",
    )
}

fn refused(frame: &Frame, source: Source) -> Failure {
    let code = frame.text("code").unwrap_or("resolver_error");
    let what = frame.text("what").map(printable).unwrap_or_default();
    if let Some(failure) = frame.text("vault_code").and_then(aim_client_failure) {
        return failure;
    }
    let vault_code = frame.text("vault_code").filter(|vault_code| match source {
        Source::Jar => is_known_cyberark_code(vault_code),
        Source::CyberArkSdk => is_cyberark_code(vault_code),
    });
    if let Some(vault_code) = vault_code {
        return cyberark_failure(vault_code);
    }
    let hop = Hop::Resolver;
    let correct =
        "Correct the JAR: its result is a map of text to text with at most 64 keys and 64 KiB for each value.";
    let look = "Look at the JAR's own log, or try it with `midward-mid resolve`; the exception's text is withheld because \
                it may hold the secret.";
    match code {
        "result_null" => Failure::permanent(hop, code, "the resolver returned null", correct),
        "result_null_key" => Failure::permanent(hop, code, "the resolver's result has a null key", correct),
        "result_not_text" => Failure::permanent(hop, code, "the resolver's result holds something but text", correct),
        "result_too_many_keys" => Failure::permanent(hop, code, "the resolver's result has more than 64 keys", correct),
        "result_too_large" => Failure::permanent(hop, code, "the resolver's result holds a value over 64 KiB", correct),
        "resolver_out_of_memory" => Failure::transient(
            hop,
            code,
            "the resolver ran out of memory; its process is replaced",
            "Raise the resolver's heap_mib if the JAR really needs more.",
        ),
        "resolver_stack_overflow" => Failure::transient(
            hop,
            code,
            "the resolver overflowed its stack; its process is replaced",
            "Correct the JAR's recursion.",
        ),
        "class_needs_missing_class" | "sdk_mismatch" => unusable(code, Some(&what)),
        "vault_refused" => Failure::transient(Hop::Vault, code, format!("CyberArk's SDK threw {what}"), look),
        "resolver_failed" => Failure::transient(hop, code, format!("the resolver threw {what}"), look),
        _ => Failure::transient(
            hop,
            "resolver_error",
            format!("the resolver threw {what}; its process is replaced"),
            look,
        ),
    }
}

/// Why a JAR cannot be used, by the host's code and the class or method it is about.
pub(super) fn unusable(code: &str, what: Option<&str>) -> Failure {
    let what = printable(what.unwrap_or("a class"));
    let (code, detail, action) = match code {
        "jar_missing" => {
            ("jar_missing", "the JAR does not exist".to_owned(), "Put the JAR where the resolver's `jar` says.")
        }
        "jar_unreadable" => (
            "jar_unreadable",
            "the JAR cannot be read".to_owned(),
            "Let the MID's user read the JAR and its lib folder.",
        ),
        "not_a_jar" => ("not_a_jar", "the file is not a JAR".to_owned(), "Replace the file by the JAR itself."),
        "jar_pin_mismatch" => (
            "jar_pin_mismatch",
            format!("the JAR and its libraries are not those that `sha256` names: their digest is {what}"),
            "Put the right files there; if these are, set the resolver's `sha256` to what `midward-mid jar hash` says.",
        ),
        "class_not_found" => (
            "class_not_found",
            format!("the JAR has no class {what}"),
            "Set the resolver's `class` to the JAR's resolver class.",
        ),
        "class_version" => (
            "class_version",
            format!("{what} was compiled for a newer Java"),
            "Point the resolver's `java` at a newer one, or compile the JAR for an older one.",
        ),
        "class_needs_missing_class" => (
            "class_needs_missing_class",
            format!("the JAR needs {what}, which is not there"),
            "Put the JAR that has it into the lib folder beside the resolver's JAR.",
        ),
        "no_constructor" => (
            "no_constructor",
            format!("{what} has neither a constructor without arguments nor one that takes a property getter"),
            "Correct the JAR.",
        ),
        "no_resolve_method" => {
            ("no_resolve_method", format!("{what} has no method resolve(Map)"), "Set `class` to the resolver class.")
        }
        "constructor_failed" => (
            "constructor_failed",
            format!("the resolver's constructor threw {what}"),
            "Check the JAR and its settings.",
        ),
        "config_failed" => (
            "config_failed",
            format!("the resolver's config() threw {what}"),
            "Check the resolver's parameters against what the JAR expects.",
        ),
        "sdk_mismatch" => (
            "sdk_mismatch",
            format!("this JavaPasswordSDK.jar does not fit: {what}"),
            "Use the JAR from the installation folder of the AIM client on this host.",
        ),
        "sandbox_unavailable" => (
            "sandbox_unavailable",
            Missing::from_word(&what).map_or_else(
                || "the resolver's process cannot be isolated".to_owned(),
                |why| format!("the resolver's process cannot be isolated: {why}"),
            ),
            "Use a kernel that can (the manual has a table), or set the resolver's `sandbox` to \"best_effort\" if you trust the JAR.",
        ),
        "connect_mixed" => (
            "connect_mixed",
            "`connect` gives the JAR a network of its own, and connect_ports or udp asks for the host's".to_owned(),
            "Keep one of them: `connect` for vaults, connect_ports for the AIM provider, which must see who connects.",
        ),
        "sandbox_path_relative" => (
            "sandbox_path_relative",
            "a path of readable_paths, writable_paths or executables is not absolute".to_owned(),
            "Write the path from the root on.",
        ),
        _ => ("jar_unloadable", format!("the JAR cannot be loaded: {what}"), "Check the JAR with its maker."),
    };
    Failure::permanent(Hop::Resolver, code, detail, action)
}

/// A call that got no answer, within `limit`.
pub(super) fn unanswered(error: &CallError, limit: std::time::Duration) -> Failure {
    match error {
        CallError::TimedOut => Failure::transient(
            Hop::Resolver,
            "resolver_timeout",
            format!("the resolver did not answer within {} ms and was ended", limit.as_millis()),
            "Check that the vault answers on this host; raise the resolver's timeout_ms if it is only slow.",
        ),
        CallError::HostEnded(end) => crashed(end),
        CallError::Frame(_) => internal("the question to the JAR host is too long"),
    }
}

/// A host that ended under its calls, or before the first.
pub(super) fn crashed(end: &End) -> Failure {
    let detail = match end {
        End::OverMemory(limits) => return over_memory(*limits),
        End::Crashed(status) => format!("the resolver's process ended ({status})"),
        End::Overdue => "the resolver's process was ended because another call on it hung".to_owned(),
        End::Broken => "the resolver's process broke the pipe's protocol and was ended".to_owned(),
        End::Dropped => "the resolver's process was stopped".to_owned(),
    };
    Failure::transient(
        Hop::Resolver,
        "resolver_crashed",
        detail,
        "It is started again by itself; if it ends again, the JAR calls System.exit or crashes: ask its maker.",
    )
}

pub(super) fn internal(detail: &str) -> Failure {
    Failure::transient(Hop::Mid, "resolver_internal", detail, "Check the MID's state folder and log.")
}

/// A name, as far as it looks like one.
fn printable(name: &str) -> String {
    let legal = name.len() <= 200 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._$-".contains(&b));
    if legal { name.to_owned() } else { "(unprintable)".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(fields: &[(&str, &str)]) -> Frame {
        fields.iter().fold(Frame::new(FrameKind::Result), |frame, (key, value)| frame.with(*key, *value))
    }

    #[test]
    fn the_first_alias_that_is_not_empty_counts() {
        let frame =
            result(&[("value:client_id", "b"), ("value:user", "a"), ("value:pswd", ""), ("value:secret_key", "s")]);
        let (material, changing) = material(&frame, Source::Jar).expect("complete");
        assert_eq!(material.field(MaterialField::ClientId).and_then(|v| v.expose_str()), Some("a"));
        assert_eq!(material.field(MaterialField::ClientSecret).and_then(|v| v.expose_str()), Some("s"));
        assert!(!changing);
    }

    #[test]
    fn a_private_key_comes_with_what_names_it() {
        let frame = result(&[
            ("value:user", "a"),
            ("value:pkey", "-----BEGIN x"),
            ("value:kid", ""),
            ("value:key_id", "k1"),
            ("value:certificate", "-----BEGIN y"),
        ]);
        let (material, _) = material(&frame, Source::Jar).expect("complete");
        let value = |field| material.field(field).and_then(|value| value.expose_str());
        assert_eq!(value(MaterialField::PrivateKey), Some("-----BEGIN x"));
        assert_eq!(value(MaterialField::KeyId), Some("k1"));
        assert_eq!(value(MaterialField::Certificate), Some("-----BEGIN y"));
        assert_eq!(value(MaterialField::ClientSecret), None);
    }

    #[test]
    fn tokens_to_be_exchanged_come_beside_the_secret() {
        let frame = result(&[
            ("value:user", "a"),
            ("value:pswd", "s"),
            ("value:subject_token", "one"),
            ("value:actor_token", "two"),
        ]);
        let (material, _) = material(&frame, Source::Jar).expect("complete");
        let value = |field| material.field(field).and_then(|value| value.expose_str());
        assert_eq!((value(MaterialField::SubjectToken), value(MaterialField::ActorToken)), (Some("one"), Some("two")));
    }

    #[test]
    fn an_incomplete_result_names_what_came_and_no_value() {
        let frame = result(&[("value:user", "visible"), ("value:pswd", ""), ("others", "passwort,x y")]);
        let failure = material(&frame, Source::Jar).expect_err("no secret");
        assert_eq!(failure.code, "empty_secret");
        assert!(failure.detail.ends_with("it returned user, pswd (empty), passwort, (unprintable)"), "{failure}");
        assert!(!failure.to_string().contains("visible"));
    }

    #[test]
    fn a_jar_cannot_pass_text_off_as_a_vault_code() {
        let failed = |code: &str| {
            Frame::new(FrameKind::Failed).with("code", "resolver_failed").with("what", "a.B").with("vault_code", code)
        };
        let shown = |code, source| material(&failed(code), source).expect_err("failed").to_string();
        assert!(shown("APPAP004E", Source::Jar).contains("APPAP004E"));
        assert!(!shown("ABCDE123E", Source::Jar).contains("ABCDE123E"));
        assert!(shown("ABCDE123E", Source::CyberArkSdk).contains("ABCDE123E"));
        assert!(!shown("hunter2", Source::CyberArkSdk).contains("hunter2"));
    }
}
