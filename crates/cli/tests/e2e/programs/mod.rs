//! The commands as programs: what they print, how they exit, and what they make of bad input.

mod audit;
mod backup;
mod mids;
mod queue;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use midward_demo::stack::Stack;
use serde_json::Value;

/// Somebody's key in a file.
pub(crate) async fn key_file(stack: &Stack, role: &str) -> anyhow::Result<String> {
    let file = stack.path(&format!("{role}-key"));
    stack.midward_ok(&["api-key", "create", role, "--role", role, "--output-file", &file]).await?;
    Ok(file)
}

/// `midward ARGS --output json`, which must succeed.
async fn asked(stack: &Stack, args: &[&str]) -> anyhow::Result<Value> {
    let text = stack.midward_ok(&[args, &["--output", "json"]].concat()).await?;
    serde_json::from_str(&text).with_context(|| format!("{args:?} printed {text}"))
}

/// `midward ARGS --output json`, which must fail with this exit code and this code in the one JSON object on standard
/// error, and print nothing else.
async fn refused(stack: &Stack, args: &[&str], exit: i32, code: &str) -> anyhow::Result<Value> {
    let output = stack.midward(&[args, &["--output", "json"]].concat()).await?;
    let said = String::from_utf8(output.stderr)?;
    ensure!(output.stdout.is_empty(), "{args:?} printed {}", String::from_utf8_lossy(&output.stdout));
    let failure: Value = serde_json::from_str(&said).with_context(|| format!("{args:?} said {said}"))?;
    ensure!(output.status.code() == Some(exit) && failure["code"] == code, "{args:?}: {:?} {failure}", output.status);
    for part in ["hop", "detail", "action"] {
        ensure!(failure[part].as_str().is_some_and(|text| !text.is_empty()), "{args:?}: no {part} in {failure}");
    }
    ensure!(matches!(failure["persistence"].as_str(), Some("transient" | "permanent")), "{args:?}: {failure}");
    // The same for people: one line.
    let output = stack.midward(args).await?;
    let said = String::from_utf8(output.stderr)?;
    ensure!(output.status.code() == Some(exit) && said.trim_end().lines().count() == 1, "{args:?}: {said}");
    ensure!(said.starts_with("midward: ") && said.contains(&format!("({code})")), "{args:?}: {said}");
    Ok(failure)
}

/// The instance's API as the administrator.
async fn api(stack: &Stack, method: &str, path: &str, body: &Value) -> anyhow::Result<(u16, Value)> {
    let request = http::Request::builder()
        .method(method)
        .uri(format!("http://{}{path}", stack.api_addr))
        .header("authorization", stack.authorization()?)
        .body(Bytes::from(body.to_string()))?;
    let answer = midward_fakes::client::send(request, None).await?;
    Ok((answer.status().as_u16(), serde_json::from_slice(answer.body())?))
}

/// Lets the instance listen where it listens now when it is started again.
fn keep_addresses(stack: &Stack) -> anyhow::Result<()> {
    let same = format!("listen = \"{}\"\ncall_listen = \"{}\"", stack.api_addr, stack.call_addr);
    let any = "listen = \"127.0.0.1:0\"\ncall_listen = \"127.0.0.1:0\"";
    crate::support::fake::edit(stack, "instance.toml", any, &same)
}
