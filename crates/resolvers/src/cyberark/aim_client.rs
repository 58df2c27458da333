//! The AIM client's command line: what it is asked, and what its answer means. Pure.

use std::ffi::OsString;

use midward_core::{Failure, Hop, Random, Secret};
use zeroize::Zeroizing;

use super::account::{Account, is_true};
use super::config::CyberArkCliConfig;
use super::criteria::{Criteria, QueryFormat};
use crate::cyberark_codes::{cyberark_failure, is_cyberark_code};

/// The words after the program's name. No secret is among them.
pub(crate) fn arguments(config: &CyberArkCliConfig, criteria: &Criteria, separator: &str) -> Vec<OsString> {
    let mut words = vec![OsString::from("GetPassword")];
    let mut parameter = |name: &str, value: &str| {
        words.push("-p".into());
        words.push(format!("{name}={value}").into());
    };
    parameter("AppDescs.AppID", &config.account.app_id);
    parameter("Query", &criteria.query());
    if config.query.query_format == QueryFormat::Regexp {
        parameter("QueryFormat", "regexp");
    }
    let required: Vec<&str> = [config.query.client_id_property.as_str()]
        .into_iter()
        .chain(config.own.required_properties.iter().map(String::as_str))
        .collect();
    parameter("RequiredProps", &required.join(","));
    if config.query.fail_on_password_change {
        parameter("FailRequestOnPasswordChange", "true");
    }
    if let Some(reason) = &config.account.reason {
        parameter("Reason", reason);
    }
    if let Some(port) = config.own.port {
        parameter("ConnectionParms.Port", &port.to_string());
    }
    if let Some(seconds) = config.account.connection_timeout_s {
        parameter("ConnectionParms.Timeout", &seconds.to_string());
    }
    // The password comes last: whatever it holds, what stands before it is cut off first.
    let output = format!("PassProps.{},PasswordChangeInProcess,Password", config.query.client_id_property);
    words.extend(["-o".into(), output.into(), "-d".into(), separator.into()]);
    words
}

/// 128 random bits: no value can hold it but by chance.
pub(crate) fn separator(random: &dyn Random) -> String {
    let mut bits = [0; 16];
    random.fill(&mut bits);
    format!("|{:032x}|", u128::from_le_bytes(bits))
}

/// Reads what the program wrote before it ended with exit code 0.
pub(crate) fn account(output: &[u8], separator: &str) -> Result<Account, Failure> {
    // Exactly one line end: a password may end in one of its own.
    let line = output.strip_suffix(b"\n").map_or(output, |line| line.strip_suffix(b"\r").unwrap_or(line));
    let (client_id, rest) = cut(line, separator).ok_or_else(unreadable)?;
    let (changing, password) = cut(rest, separator).ok_or_else(unreadable)?;
    let secret = |bytes: &[u8]| Some(Secret::new(bytes.to_vec()));
    Ok(Account { client_id: secret(client_id), content: secret(password), changing: is_true(changing) })
}

/// What the program wrote to standard error, by CyberArk's code in it. The text repeats the query, and might hold more.
pub(crate) fn refusal(errors: &Zeroizing<Vec<u8>>) -> Failure {
    let words = errors.split(|byte| !byte.is_ascii_alphanumeric()).filter_map(|word| std::str::from_utf8(word).ok());
    match words.into_iter().find(|word| is_cyberark_code(word)) {
        Some(code) => cyberark_failure(code),
        None => Failure::transient(
            Hop::Vault,
            "vault_client_failed",
            "the AIM client failed without one of the vault's codes",
            "Run clipasswordsdk by hand as the MID's user to see its message.",
        ),
    }
}

pub(crate) fn unreadable() -> Failure {
    Failure::transient(
        Hop::Vault,
        "vault_client_output",
        "the AIM client's answer could not be read",
        "Check that the resolver's `path` is CyberArk's clipasswordsdk.",
    )
}

fn cut<'a>(text: &'a [u8], separator: &str) -> Option<(&'a [u8], &'a [u8])> {
    let separator = separator.as_bytes();
    let at = text.windows(separator.len()).position(|window| window == separator)?;
    Some((&text[..at], &text[at + separator.len()..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use midward_core::SeededRandom;

    fn text(secret: Option<&Secret>) -> &str {
        secret.and_then(Secret::expose_str).unwrap_or_default()
    }

    #[test]
    fn the_command_line_has_every_setting_and_the_password_last() {
        let config = "app_id = 'App'\nreason = 'a b'\nport = 7\nconnection_timeout_s = 4\nquery_format = 'regexp'\n\
                      fail_on_password_change = true\nclient_id_property = 'ClientID'\nrequired_properties = ['Address']";
        let config: CyberArkCliConfig = toml::from_str(config).expect("legal");
        let criteria = Criteria { safe: Some("S".into()), object: Some("O".into()), ..Criteria::default() };
        let words = arguments(&config, &criteria, "|x|");
        let words: Vec<_> = words.iter().filter_map(|word| word.to_str()).collect();
        let expected = "GetPassword -p AppDescs.AppID=App -p Query=Safe=S;Object=O -p QueryFormat=regexp -p \
                        RequiredProps=ClientID,Address -p FailRequestOnPasswordChange=true -p Reason=a b -p \
                        ConnectionParms.Port=7 -p ConnectionParms.Timeout=4 -o \
                        PassProps.ClientID,PasswordChangeInProcess,Password -d |x|";
        assert_eq!(words.join(" "), expected);
    }

    #[test]
    fn separators_differ_and_are_long() {
        let random = SeededRandom::new(1);
        let (one, two) = (separator(&random), separator(&random));
        assert!(one != two && one.len() == 34, "{one} {two}");
    }

    #[test]
    fn exactly_one_line_end_is_taken_off() {
        for (output, password) in [
            ("u|x|false|x|p", "p"),
            ("u|x|false|x|p\n", "p"),
            ("u|x|false|x|p\r\n", "p"),
            ("u|x|false|x|p\n\n", "p\n"),
            ("u|x|false|x|a|x|b,c\n", "a|x|b,c"),
        ] {
            let account = account(output.as_bytes(), "|x|").expect("readable");
            assert_eq!((text(account.client_id.as_ref()), text(account.content.as_ref())), ("u", password));
            assert!(!account.changing);
        }
        assert!(account(b"u|x|True|x|p\n", "|x|").expect("readable").changing);
        for bad in ["", "u,p\n", "u|x|p"] {
            assert_eq!(account(bad.as_bytes(), "|x|").expect_err(bad).code, "vault_client_output");
        }
    }

    #[test]
    fn the_code_is_found_in_what_it_said() {
        let said = |text: &str| refusal(&Zeroizing::new(text.as_bytes().to_vec())).code;
        assert_eq!(said("APPAP004E Password object matching query [Safe=S] was not found"), "vault_not_found");
        assert_eq!(said("Error: APPAP306E: denied"), "vault_denied");
        assert_eq!(said("hunter2"), "vault_client_failed");
        assert!(!refusal(&Zeroizing::new(b"APPXX999E hunter2".to_vec())).to_string().contains("hunter2"));
    }
}
