//! One trace leads from the caller over instance and MID Server to the API; a collector is told its spans, and nothing
//! secret. Logs are JSON, a line each.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow, ensure};
use bytes::Bytes;
use http::{Method, Request};
use midward_demo::stack::{Issuer, Setup, Stack};
use midward_fakes::HttpFault;
use midward_fakes::authorization_server::{AuthorizationServer, AuthorizationServerConfig, OAuthClient};
use midward_fakes::client;
use midward_fakes::collector::{Collector, Received};
use midward_fakes::target_api::{TargetApi, TargetApiConfig};
use midward_fakes::tls::{Ca, Tls};
use serde_json::Value;

use crate::leak::{check, stop};
use crate::support::oidc::repository;
use crate::support::{RESOURCE, programs};

const CLIENT_ID: &str = "trace-client";
const SECRET: &str = "canary-secret/7Qx+zT%93=&Wm";
/// What the caller says of itself: its trace goes on, the rest is nobody's business but the API's.
const CALLER: &str = "b7ad6b7169203331";
const QUERY: &str = "canary-query";
const PATH: &str = "canary-path";
const HEADER: &str = "canary-header";
const BODY: &str = "canary-body";
const STATE: &str = "canary-state";
const COLLECTOR_KEY: &str = "canary-collector-key";
const WITHIN: Duration = Duration::from_secs(20);

struct Traced {
    stack: Stack,
    collector: Collector,
    _server: AuthorizationServer,
    folder: tempfile::TempDir,
}

impl Traced {
    async fn start() -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let ca = Arc::new(Ca::generate("collector CA")?);
        let collector = Collector::start(Tls::Server(Arc::clone(&ca)))?;
        std::fs::write(folder.path().join("collector-ca.pem"), ca.pem())?;
        let server = AuthorizationServer::start(AuthorizationServerConfig {
            clients: vec![OAuthClient::new(CLIENT_ID, SECRET)],
            ..AuthorizationServerConfig::default()
        })?;
        let issuer = Issuer { issuer: server.url(), token_url: server.token_url(), jwks_url: server.jwks_url() };
        let api = TargetApi::start(TargetApiConfig::new(&issuer.issuer, &issuer.jwks_url, RESOURCE))?;
        let mut setup = Setup::new(issuer, RESOURCE, CLIENT_ID, SECRET);
        for (name, value) in [("RUST_LOG", "trace"), ("MIDWARD_LOG", "debug"), ("MIDWARD_LOG_FORMAT", "json")] {
            setup.environment.push((name.to_owned(), value.to_owned()));
        }
        // The file's word for the MID Server; nothing of the standard's variables counts.
        setup.environment.push(("OTEL_EXPORTER_OTLP_ENDPOINT".to_owned(), "http://127.0.0.1:9".to_owned()));
        let mut stack = Stack::prepare(programs()?, setup, api, folder.path()).await?;
        let headers = folder.path().join("collector-headers");
        std::fs::write(&headers, format!("x-key: {COLLECTOR_KEY}\n"))?;
        std::fs::set_permissions(&headers, std::fs::Permissions::from_mode(0o600))?;
        let files = "headers_file = \"collector-headers\"\nca_file = \"collector-ca.pem\"\n";
        let section = format!("[telemetry]\nendpoint = \"{}\"\n{files}", collector.url());
        let instance = stack.instance.take().context("the instance")?;
        instance.stop(Duration::from_secs(40)).await?;
        stack.write("instance.toml", &format!("{}{section}", stack.instance_toml()))?;
        stack.write("mid.toml", &format!("{}[log]\nformat = \"json\"\n{section}", stack.mid_toml()))?;
        stack.start_instance().await?;
        stack.apply().await?;
        stack.enroll_mid(true).await?;
        stack.start_mid().await?;
        Ok(Self { stack, collector, _server: server, folder })
    }

    /// A synchronous call; the trace's headers as the API saw them.
    async fn call(&self, method: Method, path: &str, headers: &[(&str, &str)]) -> anyhow::Result<(u16, Seen)> {
        let url = format!("http://{}/api/v1/connections/crm/call/{path}", self.stack.call_addr);
        let mut request = Request::builder().method(method).uri(url);
        request = request.header("authorization", self.stack.authorization()?).header("x-private", HEADER);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = client::send(request.body(Bytes::from_static(BODY.as_bytes()))?, None).await?;
        let body: Value = serde_json::from_slice(answer.body()).unwrap_or_default();
        let seen = |name: &str| body["headers"][name].as_str().map(str::to_owned);
        Ok((answer.status().as_u16(), Seen { parent: seen("traceparent"), state: seen("tracestate") }))
    }

    /// The spans of a trace, once both sides have sent their last.
    async fn spans_of(&self, trace: &str) -> anyhow::Result<Vec<Received>> {
        let of = |spans: &[Received]| -> Vec<Received> {
            spans.iter().filter(|span| span.trace_id == trace).cloned().collect()
        };
        let is_whole = |spans: &[Received]| {
            let names: BTreeSet<String> = of(spans).into_iter().map(|span| span.name).collect();
            let is_answered = names.iter().any(|name| name.contains("/api/v1/"));
            is_answered && names.contains("midward call") && names.contains("lease")
        };
        Ok(of(&self.collector.wait_for(WITHIN, is_whole).await.map_err(|found| anyhow!(found))?))
    }
}

/// What the API was told.
#[derive(Debug)]
struct Seen {
    parent: Option<String>,
    state: Option<String>,
}

impl Seen {
    /// Trace, span and flags.
    fn parts(&self) -> anyhow::Result<[&str; 3]> {
        let parts: Vec<&str> = self.parent.as_deref().context("no traceparent came")?.split('-').collect();
        let ["00", trace, span, flags] = parts[..] else { anyhow::bail!("{parts:?}") };
        Ok([trace, span, flags])
    }
}

fn trace_id(number: u8) -> String {
    format!("{number:032x}")
}

fn parent(number: u8, flags: &str) -> String {
    format!("00-{}-{CALLER}-{flags}", trace_id(number))
}

fn one<'a>(spans: &'a [Received], service: &str, name: &str) -> anyhow::Result<&'a Received> {
    let found: Vec<&Received> = spans.iter().filter(|span| span.service == service && span.name == name).collect();
    let [one] = found[..] else { anyhow::bail!("{} spans {name:?} of {service} in {spans:#?}", found.len()) };
    Ok(one)
}

#[tokio::test]
async fn one_trace_leads_from_the_caller_to_the_api() -> anyhow::Result<()> {
    let mut traced = Traced::start().await?;
    a_cold_call(&traced).await?;
    a_warm_call_a_refused_one_and_a_queued_one(&traced).await?;
    whose_trace_it_is(&traced).await?;
    last_words(&mut traced).await?;
    nothing_secret(&traced)
}

async fn a_cold_call(traced: &Traced) -> anyhow::Result<()> {
    let state = format!("vendor={STATE}");
    let headers = [("traceparent", &*parent(1, "01")), ("tracestate", &*state)];
    let (status, seen) = traced.call(Method::POST, &format!("echo/{PATH}?q={QUERY}"), &headers).await?;
    ensure!(status == 200, "{status}");
    let [trace, span, flags] = seen.parts()?;
    ensure!(trace == trace_id(1) && flags == "01" && seen.state.as_deref() == Some(&*state), "{seen:?}");

    let spans = traced.spans_of(trace).await?;
    let server = one(&spans, "midward-instance", "POST /api/v1/connections/{alias}/call/{path}")?;
    ensure!(server.parent.as_deref() == Some(CALLER) && server.kind == 2, "{server:#?}");
    let mid = one(&spans, "midward-mid", "midward call")?;
    for (service, name, below) in [
        ("midward-instance", "submit", server),
        ("midward-instance", "queue", server),
        ("midward-instance", "lease", server),
        ("midward-mid", "midward call", server),
        ("midward-mid", "policy", mid),
        ("midward-mid", "vault", mid),
        ("midward-mid", "token request", mid),
        ("midward-mid", "POST", mid),
    ] {
        let found = one(&spans, service, name)?;
        ensure!(found.parent.as_deref() == Some(&*below.id), "{name}: {found:#?} is not below {below:#?}");
        ensure!(found.begin > 0 && found.begin <= found.end, "{found:#?}");
    }
    let call = one(&spans, "midward-mid", "POST")?;
    ensure!(call.id == span, "the API was told {span}, not {}", call.id);
    let api = url::Url::parse(&traced.stack.api.url())?;
    let port = api.port().context("a port")?.to_string();
    for (of, key, value) in [
        (call, "http.request.method", "POST"),
        (call, "server.address", "127.0.0.1"),
        (call, "server.port", &*port),
        (call, "http.response.status_code", "200"),
        (server, "http.request.method", "POST"),
        (server, "http.response.status_code", "200"),
        (server, "midward.connection", "crm"),
        (one(&spans, "midward-mid", "token request")?, "server.address", "127.0.0.1"),
    ] {
        ensure!(of.attributes.get(key).map(String::as_str) == Some(value), "{key} is not {value} in {of:#?}");
    }
    // The vault and the token request take time, and the call comes after them.
    let (vault, token) = (one(&spans, "midward-mid", "vault")?, one(&spans, "midward-mid", "token request")?);
    ensure!(vault.begin < vault.end && vault.end <= token.begin && token.end <= call.begin, "{spans:#?}");
    Ok(())
}

async fn a_warm_call_a_refused_one_and_a_queued_one(traced: &Traced) -> anyhow::Result<()> {
    traced.call(Method::GET, "echo", &[("traceparent", &parent(2, "01"))]).await?;
    let spans = traced.spans_of(&trace_id(2)).await?;
    ensure!(!spans.iter().any(|span| span.name == "token request" || span.name == "vault"), "{spans:#?}");
    ensure!(one(&spans, "midward-mid", "midward call")?.events == ["token from cache"], "{spans:#?}");

    // The policy does not list the method.
    let (status, _) = traced.call(Method::DELETE, "echo", &[("traceparent", &parent(3, "01"))]).await?;
    ensure!(status == 403, "{status}");
    let spans = traced.spans_of(&trace_id(3)).await?;
    ensure!(!spans.iter().any(|span| span.name == "DELETE"), "{spans:#?}");
    for (service, name) in
        [("midward-mid", "midward call"), ("midward-instance", "DELETE /api/v1/connections/{alias}/call/{path}")]
    {
        let span = one(&spans, service, name)?;
        let kind = span.attributes.get("error.type").map(String::as_str);
        ensure!(span.failed && kind == Some("policy_method"), "{span:#?}");
    }
    traced.call(Method::GET, "status/404", &[("traceparent", &parent(4, "01"))]).await?;
    let spans = traced.spans_of(&trace_id(4)).await?;
    let call = one(&spans, "midward-mid", "GET")?;
    ensure!(call.failed && call.attributes["error.type"] == "404", "{call:#?}");

    let submission = serde_json::json!({"connection": "crm", "method": "GET", "path": format!("/echo?q={QUERY}")});
    let request = Request::post(format!("http://{}/api/v1/requests", traced.stack.api_addr))
        .header("authorization", traced.stack.authorization()?)
        .header("traceparent", parent(5, "01"));
    let answer = client::send(request.body(Bytes::from(submission.to_string()))?, None).await?;
    ensure!(answer.status() == 202, "{}", answer.status());
    let spans = traced.spans_of(&trace_id(5)).await?;
    let server = one(&spans, "midward-instance", "POST /api/v1/requests")?;
    ensure!(server.parent.as_deref() == Some(CALLER), "{server:#?}");
    ensure!(one(&spans, "midward-mid", "midward call")?.parent.as_deref() == Some(&*server.id), "{spans:#?}");
    Ok(())
}

async fn whose_trace_it_is(traced: &Traced) -> anyhow::Result<()> {
    // What the caller does not record, nobody does, and the API is told so.
    let unsampled = parent(6, "00");
    let (_, seen) = traced.call(Method::GET, "echo", &[("traceparent", &unsampled)]).await?;
    ensure!(seen.parent.as_deref() == Some(&*unsampled), "{seen:?}");
    // Without a good one a trace begins here, and goes on once.
    let (bad, first) = (parent(7, "0x"), parent(8, "01"));
    let mut begun = Vec::new();
    for headers in [&[][..], &[("traceparent", &*bad)], &[("traceparent", &*first), ("traceparent", &*first)]] {
        let (_, seen) = traced.call(Method::GET, "echo", headers).await?;
        let [trace, span, flags] = seen.parts()?;
        ensure!(![trace_id(7), trace_id(8)].contains(&trace.to_owned()) && flags == "01", "{seen:?}");
        let spans = traced.spans_of(trace).await?;
        ensure!(one(&spans, "midward-mid", "GET")?.id == span, "{spans:#?}");
        let server = one(&spans, "midward-instance", "GET /api/v1/connections/{alias}/call/{path}")?;
        ensure!(server.parent.is_none(), "{server:#?}");
        begun.push(trace.to_owned());
    }
    ensure!(begun.iter().collect::<BTreeSet<_>>().len() == 3, "{begun:?}");
    // A stranger's trace is not recorded.
    let url = format!("http://{}/api/v1/connections/crm/call/echo", traced.stack.call_addr);
    let request = Request::get(url).header("traceparent", parent(9, "01")).body(Bytes::new())?;
    ensure!(client::send(request, None).await?.status() == 401, "a stranger was let in");
    let never = [6, 7, 8, 9].map(trace_id);
    ensure!(!traced.collector.spans().iter().any(|span| never.contains(&span.trace_id)), "recorded all the same");
    Ok(())
}

/// A collector that does not answer delays no call; the end brings what is left.
async fn last_words(traced: &mut Traced) -> anyhow::Result<()> {
    traced.collector.set_fault(HttpFault::Hang, None);
    for _ in 0..20 {
        let (status, _) = traced.call(Method::GET, "echo", &[("traceparent", &parent(10, "01"))]).await?;
        ensure!(status == 200, "{status}");
    }
    let figures = traced.stack.mid_command(&["metrics", "--config", &traced.stack.path("mid.toml")]).await?;
    let figures = String::from_utf8(figures.stdout)?;
    ensure!(figures.contains("midward_trace_spans_total{result=\"exported\"} "), "{figures}");
    traced.collector.clear_faults();
    traced.call(Method::GET, "echo", &[("traceparent", &parent(11, "01"))]).await?;
    stop(&mut traced.stack).await?;
    let spans = traced.spans_of(&trace_id(11)).await?;
    one(&spans, "midward-instance", "GET /api/v1/connections/{alias}/call/{path}")?;
    one(&spans, "midward-mid", "midward call")?;
    Ok(())
}

fn nothing_secret(traced: &Traced) -> anyhow::Result<()> {
    let posts = traced.collector.posts();
    ensure!(posts.len() > 4, "{} messages", posts.len());
    let needles = [SECRET, QUERY, PATH, HEADER, BODY, STATE, COLLECTOR_KEY, "eyJ"].map(str::as_bytes);
    let folder = traced.folder.path().join("posts");
    std::fs::create_dir(&folder)?;
    for (number, post) in posts.iter().enumerate() {
        check("a message to the collector", &post.body, &needles)?;
        ensure!(post.headers.contains(&("x-key".to_owned(), COLLECTOR_KEY.to_owned())), "{:?}", post.headers);
        std::fs::write(folder.join(format!("{number}.json")), &post.body)?;
    }
    // OpenTelemetry's own definitions of the messages know each field.
    let root = repository();
    let parsed = Command::new(root.join("build/tools/otlp/bin/python"))
        .arg(root.join("tests/otlp/parse.py"))
        .arg(&folder)
        .output()
        .context("opentelemetry-proto: run scripts/setup.sh otlp")?;
    ensure!(parsed.status.success(), "{}", String::from_utf8_lossy(&parsed.stderr));
    let count: usize = String::from_utf8(parsed.stdout)?.trim().parse()?;
    ensure!(count == traced.collector.spans().len(), "{count} spans were read");

    let mut with_trace = 0;
    for name in ["instance.log", "mid.log"] {
        let log = std::fs::read_to_string(traced.folder.path().join("logs").join(name))?;
        check(name, log.as_bytes(), &[SECRET, QUERY, HEADER, BODY, COLLECTOR_KEY].map(str::as_bytes))?;
        // The same file has what the instance says on standard output.
        let is_said =
            |line: &str| ["midward instance: ", "first administrator"].iter().any(|said| line.starts_with(said));
        let lines: Vec<&str> = log.lines().filter(|line| !is_said(line)).collect();
        ensure!(lines.len() > 5, "{name} has {} lines", lines.len());
        for line in lines {
            let entry: Value = serde_json::from_str(line).with_context(|| format!("{name}: {line}"))?;
            ensure!(entry["level"].is_string() && entry["timestamp"].is_string(), "{entry}");
            with_trace += usize::from(entry["span"]["trace_id"] == trace_id(1));
        }
    }
    ensure!(with_trace > 0, "no line tells its trace");
    Ok(())
}
