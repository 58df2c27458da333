//! `mid.toml`: one struct per section, unknown keys refused with the nearest known one named, no secret inside.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use midward_core::{Failure, Hop, check_name, config_error};
use midward_net::WayConfig;
use midward_resolvers::{ResolverConfig, ResolverSection, check_routes};
use midward_telemetry::{LogFormat, TelemetryConfig};
use midward_wire::MAX_RESOLVERS;
use serde::Deserialize;

use crate::token_requests::TokenRequestsSection;

/// The whole file. Relative paths are relative to the file's folder and made absolute by [`MidConfig::load`].
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MidConfig {
    pub mid: MidSection,
    #[serde(default)]
    pub ways_out: WaysOut,
    pub policy: PolicySection,
    /// By the name that credentials use.
    #[serde(default)]
    pub resolvers: BTreeMap<String, ResolverSection>,
    #[serde(default)]
    pub jar_host: JarHostSection,
    #[serde(default)]
    pub token_requests: TokenRequestsSection,
    #[serde(default)]
    pub admin: AdminSection,
    #[serde(default)]
    pub metrics: MetricsSection,
    #[serde(default)]
    pub log: LogSection,
    #[serde(default)]
    pub telemetry: TelemetryConfig,
    /// Folder of the file: what relative paths inside sections of other crates are relative to.
    #[serde(skip)]
    pub base_dir: PathBuf,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MidSection {
    /// Name that the MID asks for when it enrolls.
    pub name: String,
    /// Folder of the MID's key, its enrollment and its audit file; made with mode 0700.
    pub state_dir: PathBuf,
    /// Socket of the system's log, which gets each entry of the audit file too; usually `/dev/log`.
    #[serde(default)]
    pub audit_syslog: Option<PathBuf>,
    /// Most calls that run at a time.
    #[serde(default = "default_max_concurrent")]
    pub max_concurrent: u32,
    /// Largest body of an API's reply, in bytes.
    #[serde(default = "default_max_reply_bytes")]
    pub max_reply_bytes: usize,
    /// How long a draining MID waits for running calls, in seconds.
    #[serde(default = "default_drain_seconds")]
    pub drain_seconds: u64,
    /// How long a draining MID spends on revoking its tokens afterwards, in seconds; 0: it does not.
    #[serde(default = "default_revoke_seconds")]
    pub revoke_seconds: u64,
}

/// Folder of the JARs that came from the instance, in the state folder.
const JARS_FOLDER: &str = "jars-from-instance";

/// One configuration per way out; nothing is taken from the environment.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WaysOut {
    /// To the instance. Its CA comes with the enrollment unless one is configured here.
    #[serde(default)]
    pub instance: WayConfig,
    #[serde(default)]
    pub authorization_servers: WayConfig,
    #[serde(default)]
    pub apis: WayConfig,
    #[serde(default)]
    pub vaults: WayConfig,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicySection {
    pub file: PathBuf,
}

/// Where the Java side lives. Needed for resolvers that load a JAR.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JarHostSection {
    /// Folder of the JAR host's own classes.
    #[serde(default)]
    pub dir: Option<PathBuf>,
    /// The `java` program; found in the usual places when absent.
    #[serde(default)]
    pub java: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdminSection {
    /// Unix socket for the `midward-mid` commands; `admin.sock` in the state folder when absent.
    #[serde(default)]
    pub socket: Option<PathBuf>,
}

/// What is exposed for a monitoring system.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetricsSection {
    /// Loopback address of a listener for `GET /metrics`; absent: none, and only `midward-mid metrics` tells.
    #[serde(default)]
    pub listen: Option<SocketAddr>,
    /// Most profiles with lines of their own.
    #[serde(default = "default_max_profiles")]
    pub max_profiles: usize,
}

impl Default for MetricsSection {
    fn default() -> Self {
        Self { listen: None, max_profiles: default_max_profiles() }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogSection {
    #[serde(default)]
    pub format: LogFormat,
    /// A `tracing` filter; `RUST_LOG` wins over it.
    #[serde(default)]
    pub filter: Option<String>,
}

const fn default_max_profiles() -> usize {
    200
}

const fn default_max_concurrent() -> u32 {
    64
}

const fn default_max_reply_bytes() -> usize {
    8 * 1024 * 1024
}

const fn default_revoke_seconds() -> u64 {
    5
}

const fn default_drain_seconds() -> u64 {
    30
}

impl MidConfig {
    /// Reads, checks and resolves the file.
    pub fn load(path: &Path) -> Result<Self, Failure> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            invalid(
                "config_not_read",
                format!("{} cannot be read: {error}", path.display()),
                "Name the file with --config and make it readable for the MID Server's user.",
            )
        })?;
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
        let base_dir = std::path::absolute(folder).map_err(|error| {
            invalid("config_not_read", format!("{}: {error}", folder.display()), "Start in a folder that exists.")
        })?;
        Self::parse(&text, &base_dir).map_err(|mut failure| {
            failure.detail = format!("{}: {}", path.display(), failure.detail);
            failure
        })
    }

    /// The same from text.
    pub fn parse(text: &str, base_dir: &Path) -> Result<Self, Failure> {
        let table: toml::Table = text.parse().map_err(|error: toml::de::Error| explain(&error, text))?;
        refuse_secrets(&table, "")?;
        let mut config: Self = toml::from_str(text).map_err(|error| explain(&error, text))?;
        base_dir.clone_into(&mut config.base_dir);
        config.check()?;
        let syslog = config.mid.audit_syslog.iter_mut();
        for path in [&mut config.mid.state_dir, &mut config.policy.file].into_iter().chain(syslog) {
            *path = base_dir.join(&*path);
        }
        for section in config.resolvers.values_mut() {
            make_absolute(&mut section.kind, base_dir);
            if let ResolverConfig::Jar(jar) = &mut section.kind
                && let (Some(_), Some(sha256)) = (&jar.own.from_instance, &jar.process.sha256)
            {
                jar.process.jar = config.mid.state_dir.join(JARS_FOLDER).join(sha256.as_str()).join("resolver.jar");
            }
        }
        for path in [&mut config.jar_host.dir, &mut config.jar_host.java, &mut config.admin.socket] {
            *path = path.as_ref().map(|p| base_dir.join(p));
        }
        Ok(config)
    }

    /// Where the admin socket is.
    pub fn admin_socket(&self) -> PathBuf {
        self.admin.socket.clone().unwrap_or_else(|| self.mid.state_dir.join("admin.sock"))
    }

    /// Checks values. [`MidConfig::load`] does it; whoever changes a value afterwards does it again.
    pub fn check(&self) -> Result<(), Failure> {
        for name in std::iter::once(&self.mid.name).chain(self.resolvers.keys()) {
            check_name(name).map_err(|error| invalid("config_invalid", error.to_string(), "Choose another name."))?;
        }
        if self.resolvers.len() > MAX_RESOLVERS {
            let detail = format!("{} resolvers are configured", self.resolvers.len());
            return Err(invalid("config_invalid", detail, format!("Configure at most {MAX_RESOLVERS}.")));
        }
        check_routes(&self.resolvers)?;
        if !(1..=4096).contains(&self.mid.max_concurrent) {
            return Err(invalid(
                "config_invalid",
                format!("mid.max_concurrent is {}", self.mid.max_concurrent),
                "Choose a number from 1 to 4096.",
            ));
        }
        if self.mid.revoke_seconds > 60 {
            let detail = format!("mid.revoke_seconds is {}", self.mid.revoke_seconds);
            return Err(invalid("config_invalid", detail, "Choose a number from 0 to 60."));
        }
        self.metrics.check()?;
        let correct = "Correct [telemetry].";
        self.telemetry.check().map_err(|detail| invalid("config_invalid", detail, correct))?;
        self.token_requests.check()
    }
}

impl MetricsSection {
    fn check(&self) -> Result<(), Failure> {
        if let Some(listen) = self.listen
            && !listen.ip().is_loopback()
        {
            return Err(invalid(
                "config_invalid",
                format!("metrics.listen is {listen}, which is no loopback address"),
                "Choose a port of 127.0.0.1 or [::1]; let an agent on this host pass the figures on.",
            ));
        }
        if self.max_profiles > 2000 {
            return Err(invalid(
                "config_invalid",
                format!("metrics.max_profiles is {}", self.max_profiles),
                "Choose a number from 0 to 2000.",
            ));
        }
        Ok(())
    }
}

fn make_absolute(resolver: &mut ResolverConfig, base_dir: &Path) {
    let process = match resolver {
        ResolverConfig::Jar(jar) => &mut jar.process,
        ResolverConfig::CyberArkSdk(sdk) => &mut sdk.process,
        ResolverConfig::CyberArkCli(cli) => return below(base_dir, [&mut cli.own.path]),
        ResolverConfig::CyberArkCcp(ccp) => return below(base_dir, ccp.files_mut()),
        ResolverConfig::AwsSecretsManager(aws) => return below(base_dir, aws.credentials.files_mut()),
        ResolverConfig::AzureKeyVault(azure) => return below(base_dir, azure.credentials.files_mut()),
        ResolverConfig::GoogleSecretManager(google) => return below(base_dir, google.credentials.files_mut()),
        ResolverConfig::Files(files) => return below(base_dir, [&mut files.dir]),
        ResolverConfig::AgeFile(age) => return below(base_dir, age.files_mut()),
        // No paths, or an absolute one whatever folder this is.
        ResolverConfig::Exec(_) | ResolverConfig::SystemdCredentials(_) | ResolverConfig::Route(_) => return,
        ResolverConfig::HashiCorpVault(vault) => return below(base_dir, vault.auth.files_mut()),
        ResolverConfig::Conjur(conjur) => return below(base_dir, conjur.auth.files_mut()),
    };
    process.jar = base_dir.join(&process.jar);
    for path in [&mut process.lib_dir, &mut process.java] {
        *path = path.as_ref().map(|p| base_dir.join(p));
    }
}

fn below<'a>(base_dir: &Path, files: impl IntoIterator<Item = &'a mut PathBuf>) {
    for file in files {
        *file = base_dir.join(&*file);
    }
}

/// The parser's message with the line, without the line's text: it could hold a secret.
fn explain(error: &toml::de::Error, text: &str) -> Failure {
    let message = error.message();
    let action = nearest(message).map_or_else(
        || "Correct the file; `midward-mid doctor` checks it.".to_owned(),
        |near| format!("Did you mean `{near}`?"),
    );
    invalid("config_invalid", config_error(message, text, error.span().map(|span| span.start)), action)
}

/// The known key that is nearest to an unknown one, from serde's "unknown field `x`, expected one of `a`, `b`".
fn nearest(message: &str) -> Option<&str> {
    let rest = message.strip_prefix("unknown field `").or_else(|| message.strip_prefix("unknown variant `"))?;
    let mut quoted = rest.split('`').step_by(2);
    let unknown = quoted.next()?;
    quoted
        .filter(|known| !known.is_empty())
        .map(|known| (distance(unknown, known), known))
        .min()
        .filter(|(distance, known)| *distance <= known.len() / 2 + 1)
        .map(|(_, known)| known)
}

/// Levenshtein distance over bytes.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// Secrets are named by file, never written here.
fn refuse_secrets(table: &toml::Table, path: &str) -> Result<(), Failure> {
    const SECRETS: [&str; 7] = ["password", "secret", "client_secret", "token", "api_key", "passphrase", "private_key"];
    for (key, value) in table {
        let here = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        match value {
            // What is there says what a secret's fields are called.
            toml::Value::Table(_) if path.starts_with("resolvers.") && matches!(&**key, "fields" | "variables") => {}
            toml::Value::Table(inner) => refuse_secrets(inner, &here)?,
            toml::Value::String(text) => {
                let user_in_url =
                    url::Url::parse(text).is_ok_and(|url| url.password().is_some() || !url.username().is_empty());
                if SECRETS.contains(&key.to_ascii_lowercase().as_str()) || user_in_url {
                    return Err(invalid(
                        "secret_in_config",
                        format!("{here} holds a secret"),
                        "Put the secret into a file with mode 0600 and name that file (`password_file`).",
                    ));
                }
            }
            _ => {}
        }
    }
    Ok(())
}

pub(crate) fn invalid(code: &str, detail: impl Into<String>, action: impl Into<String>) -> Failure {
    Failure::permanent(Hop::Mid, code, detail, action)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = "[mid]\nname = \"edge-1\"\nstate_dir = \"state\"\n[policy]\nfile = \"policy.toml\"\n";

    fn parse(text: &str) -> Result<MidConfig, Failure> {
        MidConfig::parse(text, Path::new("/etc/midward"))
    }

    #[test]
    fn paths_are_relative_to_the_file() {
        let config = parse(SMALL).expect("legal");
        assert_eq!(config.mid.state_dir, Path::new("/etc/midward/state"));
        assert_eq!(config.admin_socket(), Path::new("/etc/midward/state/admin.sock"));
        assert_eq!(config.mid.max_concurrent, 64);
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_line_and_the_nearest_known_one() {
        let failure = parse(&SMALL.replace("state_dir", "sate_dir")).expect_err("unknown key");
        assert!(failure.detail.starts_with("line 3: unknown field `sate_dir`"), "{failure}");
        assert_eq!(failure.action, "Did you mean `state_dir`?");
    }

    #[test]
    fn a_secret_is_refused_and_not_repeated() {
        for line in ["[log]\npassword = \"hunter2\"", "[ways_out.apis]\nproxy = \"http://u:hunter2@proxy:3128\""] {
            let failure = parse(&format!("{SMALL}{line}\n")).expect_err("a secret");
            assert_eq!(failure.code, "secret_in_config");
            assert!(!failure.to_string().contains("hunter2"), "{failure}");
        }
    }

    #[test]
    fn the_names_of_a_secrets_fields_are_no_secrets() {
        let vault = "url = 'https://v'\nauth = { method = 'token', token_file = 'vault/token' }";
        let names = "fields = { client_secret = 'pw', private_key = 'key' }";
        let text = format!("{SMALL}[resolvers.v]\nkind = 'openbao'\n{names}\n{vault}\n");
        let ResolverConfig::HashiCorpVault(read) = &parse(&text).expect("legal").resolvers["v"].kind else {
            panic!("another kind")
        };
        assert_eq!(read.fields.client_secret, "pw");
        let file = read.auth.clone().files_mut().remove(0).clone();
        assert_eq!(file, Path::new("/etc/midward/vault/token"));
        let conjur = "kind = 'conjur'\nurl = 'https://c'\naccount = 'a'\nvariables = { client_secret = '{id}/s' }\n\
                      auth = { method = 'api_key', login = 'l', api_key_file = 'key' }";
        assert!(parse(&format!("{SMALL}[resolvers.c]\n{conjur}\n")).is_ok());
        let failure = parse(&text.replace("token_file", "token")).expect_err("a secret");
        assert_eq!(failure.code, "secret_in_config");
    }

    #[test]
    fn metrics_are_for_this_host_only() {
        for listen in ["127.0.0.1:9464", "[::1]:9464"] {
            assert!(parse(&format!("{SMALL}[metrics]\nlisten = \"{listen}\"\n")).is_ok(), "{listen}");
        }
        for listen in ["0.0.0.0:9464", "[::]:9464", "192.0.2.1:9464"] {
            let failure = parse(&format!("{SMALL}[metrics]\nlisten = \"{listen}\"\n")).expect_err(listen);
            assert_eq!(failure.code, "config_invalid");
        }
        assert!(parse(&format!("{SMALL}[metrics]\nmax_profiles = 2001\n")).is_err());
    }

    #[test]
    fn a_broken_line_is_not_repeated_nor_is_a_value_of_the_wrong_type() {
        let wrong = [
            "password = hunter2",
            "[metrics]\nmax_profiles = \"hunter2\"",
            "[log]\nformat = \"hunter2\"",
            "[resolvers.v]\nkind = \"jar\"\njar = \"a.jar\"\nlimits = { burst = \"hunter2\" }",
        ];
        for text in wrong {
            let failure = parse(&format!("{SMALL}{text}\n")).expect_err(text);
            assert_eq!(failure.code, "config_invalid");
            assert!(failure.detail.starts_with("line ") && !failure.to_string().contains("hunter2"), "{failure}");
        }
    }

    #[test]
    fn a_resolvers_section_is_refused_with_the_nearest_key() {
        let section = |more: &str| format!("{SMALL}[resolvers.vault]\nkind = \"jar\"\njar = \"a.jar\"\n{more}\n");
        let config = parse(&section("limits = { max_concurrent = 2 }\ncache = { ttl_seconds = 30 }")).expect("legal");
        let ResolverConfig::Jar(jar) = &config.resolvers["vault"].kind else { panic!("a JAR") };
        assert_eq!(jar.process.jar, Path::new("/etc/midward/a.jar"));
        for (more, near) in [
            ("limit = { max_concurrent = 2 }", "limits"),
            ("limits = { max_concurent = 2 }", "max_concurrent"),
            ("cache = { ttl_second = 2 }", "ttl_seconds"),
            ("parametrs = {}", "parameters"),
        ] {
            let failure = parse(&section(more)).expect_err(more);
            assert_eq!((failure.code.as_str(), failure.action), ("config_invalid", format!("Did you mean `{near}`?")));
        }
    }

    #[test]
    fn routes_and_the_number_of_resolvers_are_checked() {
        let route = "[resolvers.default]\nkind = \"route\"\nrules = [{ pattern = \"*\", to = [\"other\"] }]\n";
        let failure = parse(&format!("{SMALL}{route}")).expect_err("no such resolver");
        assert!(failure.detail.contains("leads to \"other\""), "{failure}");
        let many = (0..65)
            .map(|n| format!("[resolvers.v{n}]\nkind = \"jar\"\njar = \"a.jar\"\n"))
            .collect::<Vec<_>>()
            .concat();
        assert!(parse(&format!("{SMALL}{many}")).expect_err("too many").detail.contains("65 resolvers"));
    }
}
