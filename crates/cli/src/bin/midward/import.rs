//! `midward import config.xml`: what an existing MID Server's parameters are in `mid.toml`. No password is copied.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde_json::json;

use crate::exit::CliError;
use crate::output;

/// More than any `config.xml` has.
const MAX_BYTES: u64 = 1024 * 1024;

#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// The MID Server's `config.xml`; `-` for stdin
    file: PathBuf,
    /// A new file for the result, in place of standard output
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// The resolver's name, as credentials will call it
    #[arg(long, default_value = "cyberark")]
    name: String,
    /// What asks the AIM client, where `config.xml` names no Central Credential Provider
    #[arg(long, value_enum, default_value_t = Aim::Sdk)]
    aim: Aim,
}

/// The two ways to an AIM client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Aim {
    /// JavaPasswordSDK.jar, as the MID Server does
    Sdk,
    /// clipasswordsdk, without Java
    Cli,
}

pub(crate) fn import(args: &ImportArgs, as_json: bool) -> Result<(), CliError> {
    midward_core::check_name(&args.name)
        .map_err(|error| CliError::usage(error.to_string(), "Choose another --name."))?;
    let text = read(&args.file)?;
    let result = convert(&text, &args.name, args.aim).map_err(|why| {
        let detail = format!("{} is not a MID Server's config.xml: {why}", args.file.display());
        CliError::usage(detail, "Name the file agent/config.xml of a MID Server.")
    })?;
    if let Some(out) = &args.out {
        let written = std::fs::OpenOptions::new().write(true).create_new(true).open(out);
        written.and_then(|mut file| file.write_all(result.as_bytes())).map_err(|error| {
            CliError::usage(format!("{} cannot be written: {error}", out.display()), "Name a new file.")
        })?;
    } else if as_json {
        output::json(&json!({ "mid_toml": result }));
    } else {
        output::raw(result.as_bytes());
    }
    Ok(())
}

fn read(file: &Path) -> Result<String, CliError> {
    let mut text = String::new();
    let count = if file == Path::new("-") {
        std::io::stdin().take(MAX_BYTES + 1).read_to_string(&mut text)
    } else {
        std::fs::File::open(file).and_then(|file| file.take(MAX_BYTES + 1).read_to_string(&mut text))
    };
    match count {
        Ok(count) if count as u64 <= MAX_BYTES => Ok(text),
        Ok(_) => Err(CliError::usage(format!("{} is larger than 1 MiB", file.display()), "Name a config.xml.")),
        Err(error) => {
            let detail = format!("{} cannot be read: {}", file.display(), error.kind());
            Err(CliError::usage(detail, "Check the path; it must be UTF-8."))
        }
    }
}

/// The parameters; those that are used up leave it.
struct Parameters(BTreeMap<String, String>);

impl Parameters {
    /// What is wrong is said without the document's text: it may hold passwords.
    fn parse(text: &str) -> Result<Self, &'static str> {
        let document = roxmltree::Document::parse(text.trim_start_matches('\u{feff}')).map_err(|_| "it is no XML")?;
        if document.root_element().tag_name().name() != "parameters" {
            return Err("its root is not <parameters>");
        }
        let parameters = document.descendants().filter(|node| node.tag_name().name() == "parameter");
        let pair = |node: roxmltree::Node<'_, '_>| {
            Some((node.attribute("name")?.trim().to_owned(), node.attribute("value")?.trim().to_owned()))
        };
        Ok(Self(parameters.filter_map(pair).collect()))
    }

    /// A parameter that is not empty. Names compare with case, as the MID Server does.
    fn take(&mut self, name: &str) -> Option<String> {
        self.0.remove(name).filter(|value| !value.is_empty())
    }

    fn is(&mut self, name: &str, value: &str) -> bool {
        self.take(name).is_some_and(|found| found.eq_ignore_ascii_case(value))
    }

    /// Whether it is there; its value is a secret, and goes no further than here.
    fn has_secret(&mut self, name: &str) -> bool {
        self.take(name).is_some()
    }
}

fn convert(text: &str, name: &str, aim: Aim) -> Result<String, &'static str> {
    let mut from = Parameters::parse(text)?;
    let mut to = format!(
        "# A part of mid.toml, made from a MID Server's config.xml by `midward import`. Read it before you use it.\n\n[resolvers.{name}]\n"
    );
    let mut notes = Vec::new();
    let endpoint = from.take("ext.cred.ccp_endpoint");
    let endpoint = from.take("ext.cred.cyberark.ccp_endpoint").or(endpoint);
    let used = from.is("ext.cred.use_cyberark", "true");
    if !used {
        notes.push("ext.cred.use_cyberark is not true: that MID Server did not use CyberArk. Perhaps it has a resolver JAR: kind = \"jar\".".to_owned());
    }
    let aim_seconds = from.take("ext.cred.safe_timeout");
    let ccp_seconds = from.take("ext.cred.timeout");
    let seconds = if let Some(endpoint) = &endpoint {
        ccp(endpoint, &mut from, &mut to, &mut notes);
        ccp_seconds.unwrap_or_else(|| "30".to_owned())
    } else {
        aim_client(aim, &mut to);
        aim_seconds.unwrap_or_else(|| "5".to_owned())
    };
    for (theirs, ours, fallback) in [
        ("ext.cred.app_id", "app_id", Some("ServiceNow_MID_Server")),
        ("ext.cred.safe_name", "safe", None),
        ("ext.cred.safe_folder", "folder", Some("root")),
        ("safe.cred.split.string", "separator", None),
    ] {
        if let Some(value) = from.take(theirs).or_else(|| fallback.map(str::to_owned)) {
            setting(&mut to, ours, &value);
        }
    }
    match seconds.parse::<u64>() {
        Ok(seconds @ 1..=600) => {
            let _ = writeln!(to, "timeout_ms = {}", seconds * 1000);
        }
        _ => notes.push("The time-out is no number of seconds from 1 to 600: the default is used.".to_owned()),
    }
    if from.is("ext.cred.type_specifier", "true") {
        notes.push("ext.cred.type_specifier: put the platform into the credential identifier (safe:id:platform), or set `platform`.".to_owned());
    }
    from.take("ext.cred.check_ssh_type");
    proxy(&mut from, &mut to, &mut notes);
    rest(from, name, &mut to, &notes);
    Ok(to)
}

fn ccp(endpoint: &str, from: &mut Parameters, to: &mut String, notes: &mut Vec<String>) {
    setting(to, "kind", "cyberark_ccp");
    match url::Url::parse(endpoint) {
        Ok(url) if url.scheme() == "https" && url.host().is_some() => {
            setting(to, "url", &url.origin().ascii_serialization());
            let path = url.path().trim_matches('/');
            let lower = path.to_ascii_lowercase();
            let end = ["/api/accounts", "/v1.1/aim.asmx"].into_iter().find(|end| lower.ends_with(end));
            let service = end.map_or(path, |end| &path[..path.len() - end.len()]);
            if !service.is_empty() {
                setting(to, "service", service);
            }
            if end == Some("/v1.1/aim.asmx") {
                setting(to, "api", "soap");
            }
        }
        _ => {
            setting(to, "url", "https://CCP.EXAMPLE");
            notes.push("The CCP's endpoint in config.xml is not an https URL: write `url` yourself.".to_owned());
        }
    }
    if let Some(path) = from.take("ext.cred.cyberark.cert_path") {
        let ending = Path::new(&path).extension().unwrap_or_default();
        if ["pfx", "p12"].iter().any(|known| ending.eq_ignore_ascii_case(known)) {
            setting(to, "pfx_file", &path);
            setting(to, "pfx_password_file", "/etc/midward/ccp-pfx-password");
            notes.push("The password of the .pfx file is not copied: put it into /etc/midward/ccp-pfx-password, or another file of the MID's user with mode 0600; chmod 600 the .pfx file too.".to_owned());
        } else {
            setting(to, "certificate_file", &path);
            setting(to, "key_file", "/etc/midward/ccp-client.key");
            notes.push("The client certificate's key goes into a file of the MID's user with mode 0600, as PEM without a passphrase: name it in `key_file`.".to_owned());
        }
    }
    from.has_secret("ext.cred.cyberark.cert_password");
    if from.is("ext.cred.verify_ssl", "false") {
        notes.push("ext.cred.verify_ssl was false: here the CCP's certificate is always verified. If its CA is a private one, name it: ca_file in [ways_out.vaults].".to_owned());
    }
    if from.is("ext.cred.check_revocation", "true") {
        notes.push("ext.cred.check_revocation: revocation lists are not asked here.".to_owned());
    }
}

fn aim_client(aim: Aim, to: &mut String) {
    match aim {
        Aim::Sdk => {
            setting(to, "kind", "cyberark_sdk");
            setting(to, "jar", "/opt/CARKaim/sdk/javapasswordsdk/JavaPasswordSDK.jar");
        }
        Aim::Cli => {
            setting(to, "kind", "cyberark_cli");
            setting(to, "path", "/opt/CARKaim/sdk/clipasswordsdk");
        }
    }
}

fn proxy(from: &mut Parameters, to: &mut String, notes: &mut Vec<String>) {
    let (used, host) = (from.is("mid.proxy.use_proxy", "true"), from.take("mid.proxy.host"));
    let port = from.take("mid.proxy.port").unwrap_or_else(|| "80".to_owned());
    let user = from.take("mid.proxy.username");
    from.has_secret("mid.proxy.password");
    let Some(host) = host.filter(|_| used) else { return };
    to.push_str("\n[ways_out.instance.proxy]\n");
    setting(to, "url", &format!("http://{host}:{port}"));
    if let Some(user) = user {
        setting(to, "username", &user);
        setting(to, "password_file", "/etc/midward/proxy-password");
        notes
            .push("The proxy's password is not copied: put it into /etc/midward/proxy-password, mode 0600.".to_owned());
    }
}

/// Notes, a rule to fill in, and what was left over: names only, since anything may be a secret.
fn rest(from: Parameters, name: &str, to: &mut String, notes: &[String]) {
    if !notes.is_empty() {
        to.push_str("\n# What to do besides:\n");
        for note in notes {
            let _ = writeln!(to, "# - {note}");
        }
    }
    let _ = write!(
        to,
        "\n# policy.toml needs one rule for each connection; nothing is allowed without:\n#\n# [[rule]]\n# name = \"NAME\"\n# credential_id = \
         \"SAFE:ACCOUNT\"\n# resolver = \"{name}\"\n# token_urls = [\"https://LOGIN/oauth2/token\"]\n# scopes = [\"SCOPE\"]\n# api_origins = \
         [\"https://API\"]\n# methods = [\"GET\"]\n"
    );
    let shown = |name: &String| {
        name.chars().filter(|c| c.is_ascii_alphanumeric() || "._-".contains(*c)).take(100).collect::<String>()
    };
    let is_links = |name: &str| {
        ["url", "name", "mid_sys_id"].contains(&name)
            || name.starts_with("mid.instance.")
            || name.starts_with("threads.")
    };
    let (link, unknown): (Vec<_>, Vec<_>) = from.0.keys().partition(|name| is_links(name));
    for (what, names) in [
        ("Parameters of the MID Server's own link to its instance; `midward-mid enroll` stands for them", link),
        ("Parameters that mean nothing here", unknown),
    ] {
        if !names.is_empty() {
            let _ = writeln!(to, "\n# {what}: {}.", names.into_iter().map(shown).collect::<Vec<_>>().join(", "));
        }
    }
}

fn setting(to: &mut String, key: &str, value: &str) {
    let _ = writeln!(to, "{key} = {}", toml::Value::from(value));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn xml(parameters: &[(&str, &str)]) -> String {
        let lines =
            parameters.iter().map(|(name, value)| format!("  <parameter name=\"{name}\" value=\"{value}\"/>\n"));
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<parameters>\n{}</parameters>\n",
            lines.collect::<String>()
        )
    }

    fn resolver(text: &str) -> toml::Table {
        let table: toml::Table = text.parse().expect("TOML");
        table["resolvers"]["cyberark"].as_table().expect("a section").clone()
    }

    #[test]
    fn a_ccp_is_read_with_its_certificate_and_without_its_password() {
        let text = xml(&[
            ("ext.cred.use_cyberark", "true"),
            ("ext.cred.ccp_endpoint", "https://ccp.example:8443/Own/AIM/api/Accounts"),
            ("ext.cred.cyberark.cert_path", "C:\\certs\\mid.pfx"),
            ("ext.cred.cyberark.cert_password", "hunter2"),
            ("ext.cred.timeout", "20"),
            ("ext.cred.verify_ssl", "false"),
            ("ext.cred.safe_name", "My &quot;safe&quot;"),
            ("safe.cred.split.string", "~"),
            ("mid.instance.password", "hunter2"),
            ("some.secret.thing", "hunter2"),
        ]);
        let result = convert(&text, "cyberark", Aim::Sdk).expect("converted");
        assert!(!result.contains("hunter2"), "{result}");
        let section = resolver(&result);
        let expected = [
            ("kind", "cyberark_ccp"),
            ("url", "https://ccp.example:8443"),
            ("service", "Own/AIM"),
            ("app_id", "ServiceNow_MID_Server"),
            ("safe", "My \"safe\""),
            ("folder", "root"),
            ("separator", "~"),
            ("pfx_file", "C:\\certs\\mid.pfx"),
            ("pfx_password_file", "/etc/midward/ccp-pfx-password"),
        ];
        for (key, value) in expected {
            assert_eq!(section[key].as_str(), Some(value), "{key}");
        }
        assert_eq!((section["timeout_ms"].as_integer(), section.len()), (Some(20_000), expected.len() + 1));
        assert!(
            result.contains("always verified")
                && result.contains("some.secret.thing")
                && result.contains("mid.instance.password")
        );
    }

    #[test]
    fn an_aim_client_is_asked_by_the_sdk_or_the_command_line() {
        let text = xml(&[
            ("ext.cred.use_cyberark", "true"),
            ("ext.cred.app_id", "App"),
            ("ext.cred.safe_timeout", "x"),
            ("ext.cred.type_specifier", "true"),
        ]);
        let sdk = convert(&text, "cyberark", Aim::Sdk).expect("converted");
        assert_eq!(resolver(&sdk)["kind"].as_str(), Some("cyberark_sdk"));
        assert!(
            !resolver(&sdk).contains_key("timeout_ms")
                && sdk.contains("no number of seconds")
                && sdk.contains("safe:id:platform")
        );
        let cli = convert(&text, "cyberark", Aim::Cli).expect("converted");
        assert_eq!(resolver(&cli)["path"].as_str(), Some("/opt/CARKaim/sdk/clipasswordsdk"));
    }

    #[test]
    fn what_is_no_config_xml_is_refused_without_its_text() {
        for bad in ["", "hunter2", "<a/>", "<!DOCTYPE a [<!ENTITY b 'c'>]><parameters/>"] {
            let why = convert(bad, "cyberark", Aim::Sdk).expect_err(bad);
            assert!(!why.contains("hunter2"));
        }
        assert!(convert("<parameters/>", "cyberark", Aim::Sdk).expect("empty").contains("did not use CyberArk"));
    }
}
