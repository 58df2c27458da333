//! The commands that speak to an instance.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use clap::{Subcommand, ValueEnum};
use http::Method;
use serde_json::{Value, json};

use crate::client::Client;
use crate::exit::CliError;
use crate::output;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    Clusters,
    Connections,
    Credentials,
    OauthEntities,
    OauthEntityProfiles,
    Mids,
    Requests,
    DeadLetters,
    ApiKeys,
    OauthClients,
    Jars,
}

impl Kind {
    const fn path(self) -> &'static str {
        match self {
            Self::Clusters => "clusters",
            Self::Connections => "connections",
            Self::Credentials => "credentials",
            Self::OauthEntities => "oauth-entities",
            Self::OauthEntityProfiles => "oauth-entity-profiles",
            Self::Mids => "mids",
            Self::Requests => "requests",
            Self::DeadLetters => "dead-letters",
            Self::ApiKeys => "api-keys",
            Self::OauthClients => "oauth-clients",
            Self::Jars => "jars",
        }
    }

    const fn columns(self) -> &'static [&'static str] {
        match self {
            Self::Clusters => &["name", "mode", "mids", "networks"],
            Self::Connections => &["alias", "base_url", "credential", "mid", "cluster", "timeout_ms"],
            Self::Credentials => &["name", "credential_id", "resolver", "oauth_entity_profile", "applies_to"],
            Self::OauthEntities => &["name", "token_url", "client_auth", "issuer"],
            Self::OauthEntityProfiles => &["name", "oauth_entity", "scopes", "audience", "resource"],
            Self::Mids => &["name", "state", "live", "draining", "cloned", "running", "capacity", "program_version"],
            Self::DeadLetters => &["id", "connection", "state", "method", "path", "attempts"],
            Self::Requests => &["id", "connection", "state", "method", "path", "mid"],
            Self::ApiKeys | Self::OauthClients => &["name", "id", "role", "prefix", "connections", "expires_at"],
            Self::Jars => &["name", "sha256", "size"],
        }
    }
}

#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub(crate) struct CallArgs {
    connection: String,
    method: String,
    /// Path and query below the connection's base URL
    path: String,
    /// Body; `@FILE` reads a file, `@-` stdin
    #[arg(short = 'd', long)]
    data: Option<String>,
    /// Header, `Name: value`
    #[arg(short = 'H', long = "header")]
    headers: Vec<String>,
    /// Says that the body is JSON
    #[arg(long)]
    json: bool,
    /// Prints each hop and its duration on stderr
    #[arg(long)]
    trace: bool,
    /// Goes through the queue and waits for the outcome
    #[arg(long)]
    queued: bool,
    /// Says that a repetition does no harm, whatever the method
    #[arg(long)]
    replay_safe: bool,
    /// How long to wait for the answer, in milliseconds; the instance may end it sooner
    #[arg(long, default_value_t = 60_000, value_parser = clap::value_parser!(u64).range(1..=86_400_000))]
    wait_ms: u64,
}

#[derive(Debug, Subcommand)]
pub(crate) enum MidCommand {
    /// Makes a one-time token for `midward-mid enroll`
    EnrollToken {
        name: Option<String>,
        /// The MID needs no validation afterwards
        #[arg(long)]
        prevalidated: bool,
        /// How long the token is good, in seconds
        #[arg(long, default_value_t = 3600)]
        ttl_seconds: u64,
        /// Writes the token to a file that only its owner can read
        #[arg(long)]
        output_file: Option<PathBuf>,
    },
    /// Makes a one-time token by which an enrolled MID gets a new key (`midward-mid enroll`)
    Rekey {
        name: String,
        /// Writes the token to a file that only its owner can read
        #[arg(long)]
        output_file: Option<PathBuf>,
    },
    /// Lets an enrolled MID work
    Validate { name: String },
    /// Takes a MID's tokens away
    Invalidate { name: String },
    /// Gives a MID no work for now
    Pause { name: String },
    /// Ends a pause or a drain
    Resume { name: String },
    /// Lets a MID end what it has and gives it nothing more
    Drain { name: String },
}

/// Ends a request that no MID has or may have sent.
pub(crate) async fn cancel(client: &Client, id: &str, as_json: bool) -> Result<(), CliError> {
    let answer = client.api(Method::POST, &format!("/api/v1/requests/{}/cancel", segment(id)), None).await?;
    if as_json {
        output::json(&answer);
    } else {
        let is_unsent = answer["failure"]["code"] == "cancelled";
        let then =
            if is_unsent { "it is not sent" } else { "it ended as its last attempt did, and is not tried again" };
        output::say(&format!("request {id} is cancelled; {then}"));
    }
    Ok(())
}

pub(crate) async fn redrive(client: &Client, id: &str, as_json: bool) -> Result<(), CliError> {
    let answer = client.api(Method::POST, &format!("/api/v1/dead-letters/{}/redrive", segment(id)), None).await?;
    if as_json {
        output::json(&answer);
    } else {
        output::say(&format!("request {id} is queued again"));
    }
    Ok(())
}

pub(crate) async fn apply(client: &Client, file: &Path, dry_run: bool, as_json: bool) -> Result<(), CliError> {
    let text = read_text(file)?;
    let mut document: Value = serde_yaml_ng::from_str(&text)
        .map_err(|error| CliError::usage(format!("{}: {error}", file.display()), "Correct the document."))?;
    // First of all: a MID that is told of a connection finds its resolver's JAR.
    let jars = crate::jars::take(&mut document, file)?;
    crate::jars::apply(client, jars, dry_run, as_json).await?;
    let query = if dry_run { "?dry_run=true" } else { "" };
    let answer = client.api(Method::POST, &format!("/api/v1/apply{query}"), Some(&document)).await?;
    if as_json {
        output::json(&answer);
        return Ok(());
    }
    let list = |name: &str| answer.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
    let text = |change: &Value, field: &str| change.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    for change in list("changes") {
        let fields = change.get("fields").map(|fields| format!(" {fields}")).unwrap_or_default();
        output::say(&format!(
            "{} {} {}{fields}",
            text(&change, "action"),
            text(&change, "kind"),
            text(&change, "name")
        ));
    }
    if list("changes").is_empty() {
        output::say("nothing to change");
    } else if dry_run {
        output::say("dry run: nothing was changed");
    }
    for warning in list("warnings") {
        output::complain(&format!("midward: {}", warning.as_str().unwrap_or_default()));
    }
    Ok(())
}

pub(crate) async fn get(client: &Client, kind: Kind, name: Option<&str>, as_json: bool) -> Result<(), CliError> {
    let path = format!("/api/v1/{}", kind.path());
    // A dead letter is a request.
    let path = if name.is_some() { path.replace("dead-letters", "requests") } else { path };
    if let Some(name) = name {
        output::json(&client.api(Method::GET, &format!("{path}/{}", segment(name)), None).await?);
        return Ok(());
    }
    let items = all(client, kind, &path).await?;
    if as_json {
        output::json(&Value::Array(items));
    } else {
        output::table(&items, kind.columns());
    }
    Ok(())
}

/// A name or identifier as a segment of a path: it never is more than one, whatever is in it.
pub(crate) fn segment(name: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'~');
    let dots_only = name.bytes().all(|byte| byte == b'.');
    let encode = |byte: u8| {
        if is_plain(byte) || (byte == b'.' && !dots_only) {
            char::from(byte).to_string()
        } else {
            format!("%{byte:02X}")
        }
    };
    name.bytes().map(encode).collect()
}

/// All records of a kind, page by page. Of requests there are too many: the newest. Dead letters come newest first, so
/// their next page is of those before.
async fn all(client: &Client, kind: Kind, path: &str) -> Result<Vec<Value>, CliError> {
    let from = if kind == Kind::DeadLetters { "before" } else { "after" };
    let mut page = client.api(Method::GET, path, None).await?;
    let mut items = Vec::new();
    loop {
        items.extend(page.get_mut("items").and_then(Value::as_array_mut).map(std::mem::take).unwrap_or_default());
        let next = page.get("next").and_then(Value::as_str).filter(|_| kind != Kind::Requests);
        let Some(next) = next else { return Ok(items) };
        let next = segment(next);
        page = client.api(Method::GET, &format!("{path}?limit=500&{from}={next}"), None).await?;
    }
}

pub(crate) async fn call(client: &Client, args: CallArgs, as_json: bool) -> Result<(), CliError> {
    let method = Method::from_bytes(args.method.to_ascii_uppercase().as_bytes())
        .map_err(|_| CliError::usage("this is not an HTTP method", "Use GET, POST, PUT, PATCH or DELETE."))?;
    let mut headers = Vec::new();
    for header in &args.headers {
        let (name, value) = header.split_once(':').ok_or_else(|| {
            CliError::usage(format!("{header:?} is not a header"), "Write it like `-H 'Accept: text/plain'`.")
        })?;
        headers.push((name.trim().to_owned(), value.trim().to_owned()));
    }
    if args.json {
        headers.push(("content-type".to_owned(), "application/json".to_owned()));
    }
    let body = match args.data.as_deref().map(|data| (data, data.strip_prefix('@'))) {
        None => Bytes::new(),
        Some((_, Some(file))) => read_text(Path::new(file))?.into(),
        Some((text, None)) => text.to_owned().into(),
    };
    if args.queued {
        return queued(client, &args, &method, &headers, &body, as_json).await;
    }
    if args.trace {
        headers.push(("midward-trace".to_owned(), "1".to_owned()));
    }
    if args.replay_safe {
        headers.push(("midward-replay".to_owned(), "safe".to_owned()));
    }
    headers.push(("midward-wait-ms".to_owned(), args.wait_ms.to_string()));
    let wait = Duration::from_millis(args.wait_ms);
    let answer = client.call(&args.connection, method, &args.path, &headers, body, wait).await?;
    let trace = answer.headers().get("midward-trace").and_then(|value| value.to_str().ok());
    let trace: Value = trace.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    if args.trace && !as_json {
        show_trace(&trace);
    }
    let status = answer.status();
    // Only Midward's own answers carry an error in Proxy-Status; an API may send problem documents too.
    let own =
        answer.headers().get("proxy-status").is_some_and(|value| value.as_bytes().starts_with(b"midward; error="));
    let unsigned = answer.headers().get("proxy-status").is_none();
    if own || (unsigned && !status.is_success()) {
        let problem = serde_json::from_slice(answer.body()).unwrap_or_default();
        return Err(CliError::problem(&problem));
    }
    finish(status.as_u16(), answer.body(), &trace, as_json, || {
        let headers: Vec<_> = answer
            .headers()
            .iter()
            .map(|(name, value)| json!([name.as_str(), String::from_utf8_lossy(value.as_bytes())]))
            .collect();
        json!(headers)
    })
}

async fn queued(
    client: &Client,
    args: &CallArgs,
    method: &Method,
    headers: &[(String, String)],
    body: &Bytes,
    as_json: bool,
) -> Result<(), CliError> {
    let text = std::str::from_utf8(body)
        .map_err(|_| CliError::usage("a queued body has to be text", "Call without --queued."))?;
    let request = json!({
        "connection": args.connection, "method": method.as_str(), "path": args.path, "headers": headers, "body": text,
        "replay": if args.replay_safe { "safe" } else { "by_method" },
    });
    let submitted = client.api(Method::POST, "/api/v1/requests", Some(&request)).await?;
    let id = submitted.get("id").and_then(Value::as_str).unwrap_or_default().to_owned();
    output::complain(&format!("midward: queued as {id}"));
    loop {
        let state = client.api(Method::GET, &format!("/api/v1/requests/{id}?wait_ms=30000"), None).await?;
        let trace = state.get("trace").cloned().unwrap_or_default();
        if args.trace && !as_json {
            show_trace(&trace);
        }
        if let Some(failure) = state.get("failure") {
            return Err(CliError::problem(failure));
        }
        if let Some(failure) = state.get("body_unavailable") {
            return Err(CliError::problem(failure));
        }
        if let Some(waiting) = state.get("waiting_because").and_then(|reason| reason.get("detail")) {
            output::complain(&format!("midward: waiting: {}", waiting.as_str().unwrap_or_default()));
        }
        if let Some(status) = state.get("status").and_then(Value::as_u64) {
            let body = state.get("body_base64").and_then(Value::as_str).unwrap_or_default();
            let body = decode(body);
            return finish(u16::try_from(status).unwrap_or(0), &body, &trace, as_json, || state["headers"].clone());
        }
    }
}

fn finish(status: u16, body: &[u8], trace: &Value, as_json: bool, headers: impl Fn() -> Value) -> Result<(), CliError> {
    if as_json {
        let body = String::from_utf8_lossy(body);
        output::json(&json!({ "status": status, "headers": headers(), "body": body, "trace": trace }));
    } else {
        output::raw(body);
        if !body.ends_with(b"\n") {
            output::say("");
        }
    }
    if status < 400 {
        return Ok(());
    }
    if !as_json {
        output::complain(&format!("midward: API: it answered {status}"));
    }
    Err(CliError::ApiStatus)
}

fn show_trace(trace: &Value) {
    for step in trace.as_array().into_iter().flatten() {
        let text = |field: &str| step.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
        let micros = step.get("micros").and_then(Value::as_u64).unwrap_or_default();
        output::complain(&format!("{:>9} us  {:<20}  {}", micros, text("hop"), text("what")));
    }
}

/// RFC 4648 section 4; the instance encoded it.
fn decode(text: &str) -> Vec<u8> {
    serde_json::from_value::<midward_wire::Bytes64>(Value::String(text.to_owned()))
        .map(|bytes| bytes.0)
        .unwrap_or_default()
}

pub(crate) async fn mid(client: &Client, command: MidCommand, as_json: bool) -> Result<(), CliError> {
    let (action, name) = match command {
        MidCommand::EnrollToken { name, prevalidated, ttl_seconds, output_file } => {
            must_be_new(output_file.as_deref())?;
            let request = json!({ "name": name, "prevalidated": prevalidated, "ttl_seconds": ttl_seconds });
            let answer = client.api(Method::POST, "/api/v1/mids/enroll-tokens", Some(&request)).await?;
            return hand_out(&answer, "token", output_file.as_deref(), as_json);
        }
        MidCommand::Rekey { name, output_file } => {
            must_be_new(output_file.as_deref())?;
            let answer = client.api(Method::POST, &format!("/api/v1/mids/{}/rekey", segment(&name)), None).await?;
            return hand_out(&answer, "token", output_file.as_deref(), as_json);
        }
        MidCommand::Validate { name } => ("validate", name),
        MidCommand::Invalidate { name } => ("invalidate", name),
        MidCommand::Pause { name } => ("pause", name),
        MidCommand::Resume { name } => ("resume", name),
        MidCommand::Drain { name } => ("drain", name),
    };
    let answer = client.api(Method::POST, &format!("/api/v1/mids/{}/{action}", segment(&name)), None).await?;
    if as_json {
        output::json(&answer);
    } else {
        let state = answer.get("state").and_then(Value::as_str).unwrap_or_default();
        output::say(&format!("MID {name} is {state}"));
    }
    Ok(())
}

/// Reachability, key, MIDs: the first thing that is wrong.
pub(crate) async fn doctor(client: &Client, as_json: bool) -> Result<(), CliError> {
    let answer = client.api(Method::GET, "/api/v1/mids", None).await?;
    let mids = answer.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
    let works = |mid: &&Value| mid["state"] == "validated" && mid["live"] == true;
    let working = mids.iter().filter(works).count();
    let at_rest = client.api(Method::GET, "/api/v1/at-rest", None).await?;
    if as_json {
        let checked = json!({
            "instance": "reachable", "api_key": "accepted", "mids": mids.len(), "working": working, "at_rest": at_rest,
        });
        output::json(&checked);
    } else {
        output::say("instance: reachable");
        output::say("API key: accepted");
        output::say(&match at_rest["key"].as_str() {
            Some(key) => format!("calls and answers in the database: encrypted with the key {key}"),
            None => "calls and answers in the database: not encrypted".to_owned(),
        });
        output::say(&format!("MID Servers: {} known, {working} validated and live", mids.len()));
    }
    if let Some(key) = at_rest["missing_keys"].get(0).and_then(Value::as_str) {
        let detail = format!("another instance encrypts with the key {key}, which this one was not given");
        let action = "Name that key's file in encryption.older_key_files of every instance, and restart it.";
        let (hop, code) = (midward_core::Hop::Instance, "encryption_key_unknown");
        return Err(midward_core::Failure::permanent(hop, code, detail, action).into());
    }
    if let Some(cloned) = mids.iter().find(|mid| mid["cloned"] == true) {
        let name = cloned["name"].as_str().unwrap_or_default();
        let detail = format!("two programs run with the key of MID {name}; the one that started first gets no work");
        let action = "Stop one of the two; enroll it as a MID of its own, with a state folder of its own.";
        return Err(midward_core::Failure::transient(midward_core::Hop::Mid, "mid_cloned", detail, action).into());
    }
    if working > 0 {
        return Ok(());
    }
    let (detail, action) = match mids.first() {
        None => ("no MID Server is enrolled".to_owned(), "Make a token: `midward mid enroll-token NAME`.".to_owned()),
        Some(mid) => {
            let name = mid["name"].as_str().unwrap_or_default();
            let state = mid["state"].as_str().unwrap_or_default();
            let action = if state == "validated" {
                format!("On the host of {name} run `midward-mid doctor`; start it if it does not run.")
            } else {
                format!("Validate it: `midward mid validate {name}`.")
            };
            (format!("no MID Server works; {name} is {state} and live: {}", mid["live"]), action)
        }
    };
    Err(midward_core::Failure::transient(midward_core::Hop::Mid, "no_mid", detail, action).into())
}

/// Asked before a secret is made, which would be lost if its file turned out to be there already.
pub(crate) fn must_be_new(file: Option<&Path>) -> Result<(), CliError> {
    match file.filter(|file| file.exists()) {
        Some(file) => Err(CliError::usage(format!("{} is there already", file.display()), "Name a new file.")),
        None => Ok(()),
    }
}

/// Prints a secret that was just made, or writes it where only its owner can read it.
pub(crate) fn hand_out(answer: &Value, field: &str, file: Option<&Path>, as_json: bool) -> Result<(), CliError> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let secret = answer.get(field).and_then(Value::as_str).unwrap_or_default();
    let Some(file) = file else {
        if as_json {
            output::json(answer);
        } else {
            output::say(secret);
        }
        return Ok(());
    };
    std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)
        .and_then(|mut out| out.write_all(secret.as_bytes()))
        .map_err(|error| CliError::usage(format!("{} cannot be written: {error}", file.display()), "Name a new file."))
}

fn read_text(file: &Path) -> Result<String, CliError> {
    let mut text = String::new();
    let read = if file == Path::new("-") {
        std::io::stdin().read_to_string(&mut text)
    } else {
        std::fs::File::open(file).and_then(|mut file| file.read_to_string(&mut text))
    };
    read.map_err(|error| CliError::usage(format!("{} cannot be read: {error}", file.display()), "Check the path."))?;
    Ok(text)
}
