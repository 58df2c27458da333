//! What has to be true when the callers have stopped, whoever was killed.

use std::collections::{HashMap, HashSet};

use anyhow::{Context as _, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use midward_demo::process::wait_for;
use serde_json::Value;

use super::RECOVERY;
use super::load::{CALLERS, Done, End, Load};
use super::pair::Pair;

pub(super) async fn all(pair: &Pair, load: &Load, done: &[Done], kills: usize) -> anyhow::Result<()> {
    let keys: HashMap<&str, &Done> = done.iter().map(|done| (done.key.as_str(), done)).collect();
    let listed = wait_for("the end of all requests", RECOVERY, async || {
        let listed = listed(load).await?;
        Ok(listed.iter().all(|item| !item["finished_at"].is_null()).then_some(listed))
    })
    .await?;
    let stored = stored(&listed, &keys)?;
    let executed = executed(pair, kills)?;
    for item in &listed {
        let answered = item["state"] == "replied";
        ensure!(!answered || executed.contains_key(key(item)?), "answered and not executed: {item}");
    }
    // Bodies of answers to POST, each of which numbers an execution.
    let mut numbers = HashSet::new();
    let (mut queued, mut unknown) = (0, 0);
    let mut kinds = HashSet::new();
    for Done { key, method, end } in done {
        match end {
            End::Queued { id, shown } => {
                queued += 1;
                kinds.insert((method, "queued"));
                ensure!(stored.get(key.as_str()) == Some(&id.as_str()), "{id} was accepted and is not stored");
                let now = load.outcome(id).await?;
                let states = (shown["state"].as_str(), now["state"].as_str());
                match states {
                    (Some("replied"), Some("replied")) => {
                        ensure!(shown["body_base64"] == now["body_base64"], "{id} ended twice: {shown}, {now}");
                    }
                    // The MID's own word may replace it later.
                    (Some("unknown"), Some("unknown" | "replied")) if method == Method::POST => {}
                    _ => bail!("{id} ended as {states:?}: {shown}, {now}"),
                }
                if now["state"] == "replied" {
                    ensure!(now["status"] == 200, "{now}");
                    is_its_own(key, method, &body(&now)?, &mut numbers)?;
                } else {
                    unknown += 1;
                }
            }
            End::Answered { id, body: answer } => {
                ensure!(stored.get(key.as_str()) == Some(&id.as_str()), "{id} was answered and is not stored");
                kinds.insert((method, "synchronous"));
                is_its_own(key, method, answer, &mut numbers)?;
                let now = load.outcome(id).await?;
                match now["state"].as_str() {
                    Some("replied") if method == Method::POST => {
                        ensure!(body(&now)? == *answer, "{id} ended twice: {answer:?}, {now}");
                    }
                    // It may have been executed again before the first outcome was on disk.
                    Some("replied") => is_its_own(key, method, &body(&now)?, &mut numbers)?,
                    // Its record was lost with one death and the MID that knew of it with the next.
                    Some("unknown") if method == Method::POST => {}
                    state => bail!("{id} was answered and ended as {state:?}: {now}"),
                }
            }
            // Nothing was acknowledged, or no MID was given it.
            End::Failed { code } if matches!(code.as_str(), "no_mid" | "storage_failed") => {
                ensure!(!executed.contains_key(key), "{key} failed with {code} and was executed");
            }
            End::Failed { .. } | End::Broken => {}
        }
    }
    ensure!(kinds.len() == 4, "of some kinds none ended: {kinds:?}");
    ensure!(unknown * 4 <= queued, "{unknown} of {queued} unknown");
    let audit = std::fs::read_to_string(pair.stack.folder.join("mid-state/audit.jsonl"))?;
    ensure!(!audit.contains("\"lease_refused\""), "a death let an instance give a lease twice");
    Ok(())
}

/// All requests that are stored, the newest first.
async fn listed(load: &Load) -> anyhow::Result<Vec<Value>> {
    let mut listed = Vec::new();
    let mut before = String::new();
    loop {
        let page = load.api("GET", &format!("/api/v1/requests?limit=500{before}"), &Value::Null).await;
        let items = page.context("an answer")?.1["items"].as_array().cloned().context("a list")?;
        let Some(last) = items.last() else { return Ok(listed) };
        before = format!("&before={}", last["id"].as_str().context("an id")?);
        listed.extend(items);
    }
}

/// Identifiers by key. Requests are accepted under their keys: none is there that no caller knows of, and none is there
/// twice.
fn stored<'a>(listed: &'a [Value], keys: &HashMap<&str, &Done>) -> anyhow::Result<HashMap<&'a str, &'a str>> {
    let mut stored = HashMap::new();
    for item in listed {
        let done = keys.get(key(item)?).with_context(|| format!("nobody submitted {item}"))?;
        ensure!(item["method"] == done.method.as_str(), "{item}");
        let before = stored.insert(key(item)?, item["id"].as_str().context("an id")?);
        ensure!(before.is_none(), "{before:?} is there again: {item}");
    }
    Ok(stored)
}

/// Executions by key. A POST is executed once, whoever died; a GET again when who had it died.
fn executed(pair: &Pair, kills: usize) -> anyhow::Result<HashMap<String, usize>> {
    let mut executed: HashMap<String, usize> = HashMap::new();
    let mut again = 0;
    for call in pair.stack.api.executed() {
        let Some((_, key)) = call.path.split_once("?k=") else { continue };
        let times = executed.entry(key.to_owned()).or_default();
        *times += 1;
        ensure!(*times == 1 || call.method != "POST", "{key} was executed twice");
        again += usize::from(*times > 1);
    }
    ensure!(again <= kills * CALLERS.len(), "{again} executions again: more than were under way at {kills} kills");
    Ok(executed)
}

/// Whether an answer is that of this request's execution, and of no other's.
fn is_its_own(key: &str, method: &Method, answer: &[u8], numbers: &mut HashSet<u64>) -> anyhow::Result<()> {
    let answer: Value = serde_json::from_slice(answer)?;
    if method == Method::POST {
        let number = answer["count"].as_u64().context("a number")?;
        ensure!(numbers.insert(number), "{key}: execution {number} answered two requests");
    } else {
        ensure!(answer["query"] == format!("k={key}"), "{key} was answered with {answer}");
    }
    Ok(())
}

fn body(shown: &Value) -> anyhow::Result<Vec<u8>> {
    Ok(STANDARD.decode(shown["body_base64"].as_str().context("a body")?)?)
}

fn key(item: &Value) -> anyhow::Result<&str> {
    Ok(item["path"].as_str().and_then(|path| path.split_once("?k=")).context("a key")?.1)
}
