//! The secret and the token are found nowhere but where they must be: not in the instance's database, not in what
//! reached the instance, not in a log at trace level, not in an argument, an environment or an answer, and the secret
//! not in the MID Server's memory once the token is there. Every hop is forced to fail on the way.

use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::time::Duration;

use crate::support::{RESOURCE, programs};
use anyhow::{Context as _, ensure};
use midward_demo::process::Daemon;
use midward_demo::stack::{Issuer, OBJECT, SAFE, Setup, Stack};
use midward_fakes::HttpFault;
use midward_fakes::authorization_server::{
    AuthorizationServer, AuthorizationServerConfig, OAuthClient, OAuthFault, TokenFault,
};
use midward_fakes::secret_scan::{encodings, scan};
use midward_fakes::tap::Tap;
use midward_fakes::target_api::{TargetApi, TargetApiConfig};
use midward_fakes::vault::{CliFault, VaultFault};

const CLIENT_ID: &str = "leak-client";
const SECRET: &str = "canary/7Qx+zT%93=&Wm\"k<L>p~rotten";
const PLANTED: &str = "the scanner must find this one/+<>&\"";

#[tokio::test]
async fn neither_the_secret_nor_the_token_is_found_where_it_must_not_be() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let server = AuthorizationServer::start(AuthorizationServerConfig {
        clients: vec![OAuthClient::new(CLIENT_ID, SECRET)],
        ..AuthorizationServerConfig::default()
    })?;
    let to_server = Tap::start(server.addr())?;
    let token_url = server.token_url().replace(&server.addr().to_string(), &to_server.addr().to_string());
    let issuer = Issuer { issuer: server.url(), token_url, jwks_url: server.jwks_url() };
    let api = TargetApi::start(TargetApiConfig::new(&issuer.issuer, &issuer.jwks_url, RESOURCE))?;
    let to_api = Tap::start(api.addr())?;
    let to_instance = Tap::unconnected()?;

    let mut setup = Setup::new(issuer, RESOURCE, CLIENT_ID, SECRET);
    setup.public_url = Some(format!("http://{}", to_instance.addr()));
    setup.environment =
        vec![("RUST_LOG".to_owned(), "trace".to_owned()), ("SSLKEYLOGFILE".to_owned(), file(folder.path(), "keys"))];
    let (api_addr, tapped_api) = (api.addr().to_string(), to_api.addr().to_string());
    let mut stack = Stack::prepare(programs()?, setup, api, folder.path()).await?;
    to_instance.set_target(stack.api_addr);
    for name in ["policy.toml", "connections.yaml"] {
        let text = std::fs::read_to_string(folder.path().join(name))?.replace(&api_addr, &tapped_api);
        stack.write(name, &text)?;
    }
    stack.apply().await?;
    stack.enroll_mid(true).await?;
    stack.start_mid().await?;

    let mut told = Vec::new();
    exercise(&stack, &server, &mut told).await?;

    // What really left towards the third parties: proves that the needles are the right ones.
    let tokens = bearer_tokens(&to_api.tapped().sent);
    ensure!(tokens.len() >= 2, "the API saw {} tokens", tokens.len());
    // RFC 6749 2.3.1 encodes the secret as a form field before base64 does: as it would leak with its header.
    let form = encodings(SECRET.as_bytes()).into_iter().find(|(name, _)| *name == "form").context("form")?.1;
    let secrets: [&[u8]; 2] = [SECRET.as_bytes(), &form];
    ensure!(!scan(&to_server.tapped().sent, &secrets).is_empty(), "the authorization server saw no secret");

    let mut needles = secrets.to_vec();
    needles.extend(tokens.iter().map(Vec::as_slice));

    let mid = stack.mid.as_ref().and_then(Daemon::pid).context("the MID Server has ended")?;
    let instance = stack.instance.as_ref().and_then(Daemon::pid).context("the instance has ended")?;
    for pid in [mid, instance] {
        for name in ["cmdline", "environ"] {
            check(&format!("/proc/PID/{name}"), &std::fs::read(format!("/proc/{pid}/{name}"))?, &needles)?;
        }
    }
    memory_scan_finds_what_is_planted()?;
    let memory = memory_of(mid)?;
    ensure!(memory.len() > 1024 * 1024, "the MID Server's memory could not be read");
    check("the MID Server's memory", &memory, &secrets)?;

    let tapped = to_instance.tapped();
    check("what the MID Server sent to the instance", &tapped.sent, &needles)?;
    check("what the instance sent to the MID Server", &tapped.received, &needles)?;
    ensure!(tapped.sent.len() > 10_000, "the tap saw no traffic");
    for text in &told {
        check("what the callers were told", text, &needles)?;
    }
    stop(&mut stack).await?;
    let mut files = 0;
    for name in ["instance-data", "mid-state", "logs"] {
        files += check_files(&folder.path().join(name), &needles)?;
    }
    ensure!(files >= 4, "only {files} files were looked at");
    let log = std::fs::read_to_string(folder.path().join("logs/mid.log"))?;
    ensure!(log.contains("DEBUG"), "the MID Server's log is not at trace level");
    Ok(())
}

#[test]
fn the_scanner_finds_every_encoding_that_is_planted() {
    let planted = encodings(PLANTED.as_bytes());
    assert!(planted.len() > 12, "{} encodings", planted.len());
    for (name, bytes) in planted {
        let haystack = [b"x".repeat(7), bytes, b"y".repeat(5)].concat();
        assert!(!scan(&haystack, &[PLANTED.as_bytes()]).is_empty(), "{name} is not found");
    }
    assert!(scan(b"nothing of the kind", &[PLANTED.as_bytes()]).is_empty());
}

/// Good calls, then every hop in turn refuses, breaks or repeats what it was sent.
async fn exercise(stack: &Stack, server: &AuthorizationServer, told: &mut Vec<Vec<u8>>) -> anyhow::Result<()> {
    for _ in 0..3 {
        ensure!(call(stack, "/hello", told).await?, "a good call failed: {}", last(told));
    }
    // The API repeats the token it was given, in a header and in its body.
    call(stack, "/echo-token", told).await?;
    for fault in [HttpFault::Error500, HttpFault::DropAfterRead, HttpFault::Html200] {
        stack.api.set_fault(fault, Some(1));
        call(stack, "/hello", told).await?;
    }
    stack.api.clear_faults();

    // The authorization server puts the secret into its own answers.
    let echo = TokenFault::Http(HttpFault::Respond {
        status: 400,
        headers: vec![("x-echo".to_owned(), "canary".to_owned())],
        body: format!(r#"{{"error":"invalid_scope","error_description":{}}}"#, serde_json::Value::from(SECRET)),
    });
    for fault in [
        echo,
        TokenFault::OAuth(OAuthFault::InvalidClient),
        TokenFault::Http(HttpFault::Html200),
        TokenFault::Http(HttpFault::DropAfterRead),
        TokenFault::Http(HttpFault::Redirect { location: "http://127.0.0.1:9/".to_owned() }),
    ] {
        flush(stack).await?;
        server.set_fault(fault, None);
        ensure!(!call(stack, "/hello", told).await?, "a call succeeded while the authorization server failed");
        server.clear_faults();
    }
    for fault in [
        VaultFault::Denied,
        VaultFault::EmptySecret,
        VaultFault::Dead,
        VaultFault::Cli { mode: CliFault::ExitWithStdout },
        VaultFault::Cli { mode: CliFault::SecretOnStderr },
    ] {
        flush(stack).await?;
        stack.vault.set_fault_for(OBJECT, fault, None);
        ensure!(!call(stack, "/hello", told).await?, "a call succeeded while the vault failed");
        stack.vault.clear_faults();
    }
    flush(stack).await?;
    let resolved =
        stack.mid_command(&["resolve", OBJECT, "--resolver", "cyberark", "--config", &stack.path("mid.toml")]).await?;
    ensure!(resolved.status.success(), "resolve: {}", String::from_utf8_lossy(&resolved.stderr));
    told.push(resolved.stdout);
    let metrics = stack.mid_command(&["metrics", "--config", &stack.path("mid.toml")]).await?;
    let figures = String::from_utf8_lossy(&metrics.stdout).into_owned();
    ensure!(figures.contains("midward_token_fetches_total{result=\"token\"} "), "no metrics: {figures}");
    told.extend([metrics.stdout, metrics.stderr]);
    ensure!(call(stack, "/hello", told).await?, "the chain did not heal: {}", last(told));
    ensure!(stack.vault.set_password(SAFE, OBJECT, "another"), "no account");
    Ok(())
}

pub(crate) async fn call(stack: &Stack, path: &str, told: &mut Vec<Vec<u8>>) -> anyhow::Result<bool> {
    let output = stack.midward(&["call", "crm", "GET", path, "--output", "json", "--trace"]).await?;
    told.push([output.stdout, output.stderr].concat());
    Ok(output.status.success())
}

pub(crate) async fn flush(stack: &Stack) -> anyhow::Result<()> {
    let output = stack.mid_command(&["token", "--all", "--flush", "--config", &stack.path("mid.toml")]).await?;
    ensure!(output.status.success(), "flush: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

pub(crate) async fn stop(stack: &mut Stack) -> anyhow::Result<()> {
    for daemon in [stack.mid.take(), stack.instance.take()].into_iter().flatten() {
        daemon.stop(Duration::from_secs(40)).await?;
    }
    Ok(())
}

pub(crate) fn check(place: &str, bytes: &[u8], needles: &[&[u8]]) -> anyhow::Result<()> {
    let found = scan(bytes, needles);
    ensure!(found.is_empty(), "{place} holds a secret or a token: {found:?}");
    Ok(())
}

pub(crate) fn check_files(folder: &Path, needles: &[&[u8]]) -> anyhow::Result<usize> {
    let mut files = 0;
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        let kind = std::fs::symlink_metadata(&path)?.file_type();
        if kind.is_dir() {
            files += check_files(&path, needles)?;
        } else if kind.is_file() {
            check(&path.display().to_string(), &std::fs::read(&path)?, needles)?;
            files += 1;
        }
    }
    Ok(files)
}

/// Every writable mapping of a process (proc(5), `/proc/PID/mem`). Needs the right to trace it: `make test` runs as
/// root, or as the same user with `kernel.yama.ptrace_scope` 0.
pub(crate) fn memory_of(pid: u32) -> anyhow::Result<Vec<u8>> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let mut memory = std::fs::File::open(format!("/proc/{pid}/mem")).context("cannot read the process's memory")?;
    let mut all = Vec::new();
    for line in maps.lines().filter(|line| line.split_whitespace().nth(1).is_some_and(|mode| mode.starts_with("rw"))) {
        let range = line.split_whitespace().next().and_then(|range| range.split_once('-')).context("a range")?;
        let (start, end) = (u64::from_str_radix(range.0, 16)?, u64::from_str_radix(range.1, 16)?);
        memory.seek(SeekFrom::Start(start))?;
        let mut part = Vec::new();
        // Guard pages and the like refuse to be read; what can be read of a mapping counts.
        let _ = (&mut memory).take(end - start).read_to_end(&mut part);
        all.extend_from_slice(&part);
        all.push(0);
    }
    Ok(all)
}

/// The same scan over this test's own memory, where the planted text certainly is.
fn memory_scan_finds_what_is_planted() -> anyhow::Result<()> {
    let planted = PLANTED.as_bytes().to_vec();
    let memory = memory_of(std::process::id())?;
    ensure!(!scan(&memory, &[&planted]).is_empty(), "the memory scan does not find what is there");
    Ok(())
}

fn bearer_tokens(recorded: &[u8]) -> Vec<Vec<u8>> {
    let text = String::from_utf8_lossy(recorded);
    let mut tokens: Vec<Vec<u8>> = text
        .split("\r\n")
        .filter_map(|line| line.split_once(": ").filter(|(name, _)| name.eq_ignore_ascii_case("authorization")))
        .filter_map(|(_, value)| value.strip_prefix("Bearer "))
        .map(|token| token.as_bytes().to_vec())
        .collect();
    tokens.sort();
    tokens.dedup();
    tokens
}

pub(crate) fn last(told: &[Vec<u8>]) -> String {
    told.last().map(|bytes| String::from_utf8_lossy(bytes).into_owned()).unwrap_or_default()
}

fn file(folder: &Path, name: &str) -> String {
    folder.join(name).to_string_lossy().into_owned()
}
