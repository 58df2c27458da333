//! As `leak`, for what is no client secret: private keys, what they sign, tokens to exchange, and the keys that tokens are
//! bound to.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use midward_demo::process::Daemon;
use midward_demo::stack::{Issuer, OBJECT, SAFE, Setup, Stack};
use midward_fakes::authorization_server::{AuthorizationServer, AuthorizationServerConfig, OAuthClient, SubjectToken};
use midward_fakes::secret_scan::scan;
use midward_fakes::tap::Tap;
use midward_fakes::target_api::{TargetApi, TargetApiConfig};
use midward_fakes::tls::Ca;
use midward_fakes::vault::VaultFault;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use serde_json::json;

use crate::leak::{call, check, check_files, flush, last, memory_of, stop};
use crate::support::fake::{edit, use_jar};
use crate::support::oidc::{OidcClient, OidcProvider, PublicKey};
use crate::support::{CLIENT_ID, CLIENT_SECRET, RESOURCE, programs};

const KID: &str = "crm-key-1";
const EVERY_ECHO: [&str; 3] = ["/hello", "/echo-token", "/echo"];

/// The chain, with taps on all three sides of the MID Server.
struct Rig {
    stack: Stack,
    to_server: Tap,
    to_api: Tap,
    to_instance: Tap,
    folder: tempfile::TempDir,
    told: Vec<Vec<u8>>,
}

impl Rig {
    /// Everything but the MID Server; nothing is applied yet. `secret`: what the vault's account has for a password.
    async fn prepare(
        folder: tempfile::TempDir,
        mut issuer: Issuer,
        server: SocketAddr,
        api: TargetApiConfig,
        method: &str,
        secret: &str,
    ) -> anyhow::Result<Self> {
        let (to_server, to_instance) = (Tap::start(server)?, Tap::unconnected()?);
        let tapped = format!(":{}/", to_server.addr().port());
        issuer.token_url = issuer.token_url.replace(&format!(":{}/", server.port()), &tapped);
        let api = TargetApi::start(api)?;
        let to_api = Tap::start(api.addr())?;
        let mut setup = Setup::new(issuer, RESOURCE, CLIENT_ID, secret);
        method.clone_into(&mut setup.client_auth);
        setup.public_url = Some(format!("http://{}", to_instance.addr()));
        setup.environment = vec![("RUST_LOG".to_owned(), "trace".to_owned())];
        let (direct, tapped) = (api.addr().to_string(), to_api.addr().to_string());
        let stack = Stack::prepare(programs()?, setup, api, folder.path()).await?;
        to_instance.set_target(stack.api_addr);
        for name in ["policy.toml", "connections.yaml"] {
            edit(&stack, name, &direct, &tapped)?;
        }
        Ok(Self { stack, to_server, to_api, to_instance, folder, told: Vec::new() })
    }

    /// Starts the MID Server; good calls, then a hop that fails, one that repeats what it was sent, and a last new token.
    /// `paths`: of the good calls.
    async fn exercise(&mut self, paths: &[&str]) -> anyhow::Result<()> {
        self.stack.apply().await?;
        self.stack.enroll_mid(true).await?;
        self.stack.start_mid().await?;
        let (stack, told) = (&self.stack, &mut self.told);
        for path in paths {
            ensure!(call(stack, path, told).await?, "a good call failed: {}", last(told));
        }
        flush(stack).await?;
        stack.vault.set_fault_for(OBJECT, VaultFault::Denied, None);
        ensure!(!call(stack, "/hello", told).await?, "a call succeeded while the vault failed");
        stack.vault.clear_faults();
        flush(stack).await?;
        let config = stack.path("mid.toml");
        for ask in [&["resolve", OBJECT, "--resolver", "cyberark"][..], &["metrics"], &["token", "crm", "--explain"]] {
            let output = stack.mid_command(&[ask, &["--config", &config]].concat()).await?;
            ensure!(output.status.success(), "{ask:?}: {}", String::from_utf8_lossy(&output.stderr));
            told.extend([output.stdout, output.stderr]);
        }
        ensure!(call(stack, "/hello", told).await?, "the chain did not heal: {}", last(told));
        ensure!(stack.vault.set_password(SAFE, OBJECT, "another"), "no account");
        Ok(())
    }

    /// `wiped`: what must be nowhere, nor in the MID Server's memory. `kept`: what may be there and nowhere else.
    async fn inspect(&mut self, wiped: &[Vec<u8>], kept: &[Vec<u8>]) -> anyhow::Result<()> {
        ensure!(wiped.iter().chain(kept).all(|needle| needle.len() >= 16), "a needle that is found by chance");
        let wiped: Vec<&[u8]> = wiped.iter().map(Vec::as_slice).collect();
        let all: Vec<&[u8]> = wiped.iter().copied().chain(kept.iter().map(Vec::as_slice)).collect();
        let mid = self.stack.mid.as_ref().and_then(Daemon::pid).context("the MID Server has ended")?;
        let instance = self.stack.instance.as_ref().and_then(Daemon::pid).context("the instance has ended")?;
        for pid in [mid, instance] {
            for name in ["cmdline", "environ"] {
                check(&format!("/proc/PID/{name}"), &std::fs::read(format!("/proc/{pid}/{name}"))?, &all)?;
            }
        }
        let memory = memory_of(mid)?;
        ensure!(memory.len() > 1024 * 1024, "the MID Server's memory could not be read");
        check("the MID Server's memory", &memory, &wiped)?;
        let tapped = self.to_instance.tapped();
        check("what the MID Server sent to the instance", &tapped.sent, &all)?;
        check("what the instance sent to the MID Server", &tapped.received, &all)?;
        ensure!(tapped.sent.len() > 3000, "the tap saw no traffic");
        for text in &self.told {
            check("what the callers were told", text, &all)?;
        }
        stop(&mut self.stack).await?;
        let mut files = 0;
        for name in ["instance-data", "mid-state", "logs"] {
            files += check_files(&self.folder.path().join(name), &all)?;
        }
        ensure!(files >= 4, "only {files} files were looked at");
        Ok(())
    }
}

/// A key on P-256: as the vault has it, as the server knows it, and what would betray it.
fn key() -> anyhow::Result<(String, PublicKey, Vec<Vec<u8>>)> {
    let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let pem = pair.serialize_pem();
    let public = PublicKey { pem: pair.public_key_pem(), alg: "ES256", kid: KID };
    let needles = needles_of(&pem, &pair.serialize_der())?;
    Ok((pem, public, needles))
}

/// The lines of the PEM text, and the number itself, which is what a library keeps of it.
fn needles_of(pem: &str, der: &[u8]) -> anyhow::Result<Vec<Vec<u8>>> {
    // ECPrivateKey (RFC 5915): version 1, then an octet string of 32 bytes.
    let before = [2, 1, 1, 4, 32];
    let at = der.windows(before.len()).position(|window| window == before).context("no private key in it")?;
    let number = der.get(at + before.len()..at + before.len() + 32).context("cut short")?;
    let lines = pem.lines().filter(|line| line.len() >= 60 && !line.starts_with('-'));
    let needles: Vec<Vec<u8>> = lines.map(|line| line.as_bytes().to_vec()).chain([number.to_vec()]).collect();
    ensure!(needles.len() >= 3, "{} needles", needles.len());
    Ok(needles)
}

/// The JWTs that were sent as this field of a form: the last ones, each as a whole and its signature.
fn assertions(sent: &[u8], field: &str) -> anyhow::Result<Vec<Vec<u8>>> {
    let text = String::from_utf8_lossy(sent);
    let mark = format!("{field}=");
    let found: Vec<&str> = text
        .match_indices(&mark)
        .filter(|(at, _)| text[..*at].ends_with(['&', '\n']))
        .map(|(at, _)| text[at + mark.len()..].split(['&', '\r', '\n', ' ']).next().unwrap_or_default())
        // Requests follow each other without a line end.
        .map(|value| value.split("POST").next().unwrap_or_default())
        .collect();
    ensure!(found.len() >= 2, "the authorization server saw {} of {field}", found.len());
    signed(&found[found.len() - 2..])
}

fn signed(jwts: &[&str]) -> anyhow::Result<Vec<Vec<u8>>> {
    let mut needles = Vec::new();
    for jwt in jwts {
        ensure!(jwt.split('.').count() == 3, "no JWT: {}", jwt.len());
        needles.push(jwt.as_bytes().to_vec());
        needles.extend(jwt.rsplit('.').next().map(|signature| signature.as_bytes().to_vec()));
    }
    Ok(needles)
}

/// The values of a header in a recording.
fn header(recorded: &[u8], name: &str) -> Vec<String> {
    let text = String::from_utf8_lossy(recorded);
    let lines = text.split("\r\n").filter_map(|line| line.split_once(": "));
    lines.filter(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned()).collect()
}

async fn with_oidc(method: &'static str, secret: &str, public: PublicKey) -> anyhow::Result<(Rig, OidcProvider)> {
    let folder = tempfile::tempdir()?;
    let client = OidcClient { id: CLIENT_ID, secret: CLIENT_SECRET, method, public_key: Some(public) };
    let config = json!({
        "clients": [client.json()],
        "resource_servers": { RESOURCE: { "scope": "read write" } },
        "dpop": { "require_nonce": true },
    });
    let oidc = OidcProvider::launch(folder.path(), &config).await?;
    let issuer = Issuer { issuer: oidc.issuer.clone(), token_url: oidc.token_url(), jwks_url: oidc.jwks_url() };
    let server = oidc.issuer.trim_start_matches("http://").parse().context("an address")?;
    let api = TargetApiConfig::new(&issuer.issuer, &issuer.jwks_url, RESOURCE);
    let rig = Rig::prepare(folder, issuer, server, api, method, secret).await?;
    let issuer = &rig.stack.setup.issuer.issuer;
    edit(&rig.stack, "connections.yaml", "    client_auth:", &format!("    issuer: {issuer}\n    client_auth:"))?;
    edit(&rig.stack, "policy.toml", "scopes = ", &format!("issuers = [\"{issuer}\"]\nscopes = "))?;
    Ok((rig, oidc))
}

#[tokio::test]
async fn a_private_key_its_assertions_and_the_keys_of_bound_tokens() -> anyhow::Result<()> {
    let (pem, public, mut wiped) = key()?;
    let (mut rig, _oidc) = with_oidc("private_key_jwt", &pem, public).await?;
    let lines = format!("result.put(\"pkey\", values[1]);\n result.put(\"kid\", \"{KID}\");");
    use_jar(&rig.stack, rig.folder.path(), &lines)?;
    edit(&rig.stack, "connections.yaml", "    client_auth:", "    dpop_bound_tokens: true\n    client_auth:")?;
    rig.stack.api.want_dpop_nonce(Some("an-api-nonce"));
    // Not `/echo`: what an API makes of a proof is its own affair, for a proof is nothing without the token.
    rig.exercise(&["/hello", "/echo-token", "/hello"]).await?;
    wiped.extend(assertions(&rig.to_server.tapped().sent, "client_assertion")?);

    let to_api = rig.to_api.tapped().sent;
    let mut proofs = header(&to_api, "dpop");
    let mut tokens = header(&to_api, "authorization");
    ensure!(tokens.iter().all(|token| token.starts_with("DPoP ")), "a token without its proof");
    tokens.dedup();
    ensure!(proofs.len() >= 5 && tokens.len() >= 2, "{} proofs, {} tokens", proofs.len(), tokens.len());
    proofs.extend(header(&rig.to_server.tapped().sent, "dpop"));
    // The public key is in each proof's header. Where not even that is written, its private half is not.
    let mut kept: Vec<Vec<u8>> = proofs.iter().filter_map(|proof| proof.split('.').next()).map(Vec::from).collect();
    kept.sort();
    kept.dedup();
    let few: Vec<&str> = proofs.iter().map(String::as_str).rev().take(2).chain([proofs[0].as_str()]).collect();
    kept.extend(signed(&few)?);
    kept.extend(tokens.iter().map(|token| token.trim_start_matches("DPoP ").as_bytes().to_vec()));
    rig.inspect(&wiped, &kept).await
}

#[tokio::test]
async fn a_key_that_signs_the_grant() -> anyhow::Result<()> {
    let (pem, public, mut wiped) = key()?;
    let (mut rig, _oidc) = with_oidc("client_secret_post", &format!("{CLIENT_SECRET}#KEY#{pem}"), public).await?;
    let lines = format!(
        "String[] parts = values[1].split(\"#KEY#\", 2);\n result.put(\"pswd\", parts[0]);\n \
         result.put(\"pkey\", parts[1]);\n result.put(\"kid\", \"{KID}\");"
    );
    use_jar(&rig.stack, rig.folder.path(), &lines)?;
    let grant = "    grant_type: jwt_bearer\n    scopes: [read]\n";
    edit(&rig.stack, "connections.yaml", "    scopes: [read]\n", grant)?;
    edit(&rig.stack, "policy.toml", "scopes = ", "grants = [\"jwt_bearer\"]\nscopes = ")?;
    rig.exercise(&EVERY_ECHO).await?;
    wiped.extend(assertions(&rig.to_server.tapped().sent, "assertion")?);
    wiped.push(CLIENT_SECRET.as_bytes().to_vec());
    rig.inspect(&wiped, &[]).await
}

#[tokio::test]
async fn a_token_that_is_exchanged() -> anyhow::Result<()> {
    const SUBJECT: &str = "subject-of-hr.0123456789abcdef/+=~canary";
    const KIND: &str = "urn:ietf:params:oauth:token-type:jwt";
    let folder = tempfile::tempdir()?;
    let known = SubjectToken { token: SUBJECT.into(), token_type: KIND.into(), actor_token: None };
    let server = AuthorizationServer::start(AuthorizationServerConfig {
        clients: vec![OAuthClient::new(CLIENT_ID, CLIENT_SECRET)],
        subject_tokens: vec![known],
        ..AuthorizationServerConfig::default()
    })?;
    let issuer = Issuer { issuer: server.url(), token_url: server.token_url(), jwks_url: server.jwks_url() };
    let api = TargetApiConfig::new(&issuer.issuer, &issuer.jwks_url, RESOURCE);
    let secret = format!("{CLIENT_SECRET}#SUBJECT#{SUBJECT}");
    let mut rig = Rig::prepare(folder, issuer, server.addr(), api, "client_secret_basic", &secret).await?;
    let lines = "String[] parts = values[1].split(\"#SUBJECT#\");\n result.put(\"pswd\", parts[0]);\n \
                 result.put(\"subject_token\", parts[1]);";
    use_jar(&rig.stack, rig.folder.path(), lines)?;
    let grant = format!(
        "    grant_type: token_exchange\n    token_exchange: {{subject_token_type: \"{KIND}\"}}\n    scopes: [read]\n"
    );
    edit(&rig.stack, "connections.yaml", "    scopes: [read]\n", &grant)?;
    edit(&rig.stack, "policy.toml", "scopes = ", "grants = [\"token_exchange\"]\nscopes = ")?;
    rig.exercise(&EVERY_ECHO).await?;
    let wiped = [SUBJECT.as_bytes().to_vec(), CLIENT_SECRET.as_bytes().to_vec()];
    ensure!(!scan(&rig.to_server.tapped().sent, &[&wiped[0]]).is_empty(), "the authorization server saw no token");
    rig.inspect(&wiped, &[]).await
}

#[tokio::test]
async fn the_key_of_a_client_certificate() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let ca = Arc::new(Ca::generate("internal CA")?);
    let (server, identity) = (ca.issue_server(&["localhost"])?, ca.issue_client("crm")?);
    let method = "tls_client_auth";
    let config = json!({
        "clients": [{ "client_id": CLIENT_ID, "token_endpoint_auth_method": method,
                      "certificate": identity.certificate_pem }],
        "resource_servers": { RESOURCE: { "scope": "read write" } },
        "tls": { "key": server.key_pem, "cert": server.certificate_pem, "ca": ca.pem() },
        "unbound": true,
    });
    let oidc = OidcProvider::launch(folder.path(), &config).await?;
    let issuer = Issuer { issuer: oidc.issuer.clone(), token_url: oidc.token_url(), jwks_url: oidc.jwks_url() };
    let port = issuer.issuer.rsplit(':').next().and_then(|port| port.parse().ok()).context("a port")?;
    let api = TargetApiConfig {
        jwks_tls: Some(ca.client_config()?),
        ..TargetApiConfig::new(&issuer.issuer, &issuer.jwks_url, RESOURCE)
    };
    let both = format!("{}{}", identity.key_pem, identity.certificate_pem);
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let mut rig = Rig::prepare(folder, issuer, address, api, method, &both).await?;
    use_jar(
        &rig.stack,
        rig.folder.path(),
        "result.put(\"pkey\", values[1]);\n result.put(\"certificate\", values[1]);",
    )?;
    rig.stack.write("ca.pem", ca.pem())?;
    edit(&rig.stack, "mid.toml", "[policy]", "[ways_out.authorization_servers]\nca_file = \"ca.pem\"\n\n[policy]")?;
    let listed = "client_auth = [\"client_secret_basic\"";
    edit(&rig.stack, "policy.toml", listed, &format!("client_auth = [\"{method}\", \"client_secret_basic\""))?;
    rig.exercise(&EVERY_ECHO).await?;
    let der = KeyPair::from_pem(&identity.key_pem)?.serialize_der();
    let wiped = needles_of(&identity.key_pem, &der)?;
    rig.inspect(&wiped, &[]).await
}
