//! The `jars` of a document that is applied: files beside it, which the instance keeps for MIDs to fetch.

use std::path::{Path, PathBuf};

use http::Method;
use midward_wire::{Bytes64, JarDocument, MAX_JAR_LEN, VERSION, jar_digest};
use serde::Deserialize;
use serde_json::Value;

use crate::client::Client;
use crate::exit::CliError;
use crate::output;

/// One of `jars:`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    /// Relative to the document.
    file: PathBuf,
}

/// A JAR with its bytes.
#[derive(Debug)]
pub(crate) struct Jar {
    name: String,
    content: Vec<u8>,
}

/// Takes the JARs out of a document, and reads their files.
pub(crate) fn take(document: &mut Value, beside: &Path) -> Result<Vec<Jar>, CliError> {
    let Some(jars) = document.as_object_mut().and_then(|document| document.remove("jars")) else {
        return Ok(Vec::new());
    };
    let entries: Vec<Entry> = serde_json::from_value(jars)
        .map_err(|error| CliError::usage(format!("jars: {error}"), "Each has a `name` and a `file`."))?;
    let folder = beside.parent().unwrap_or_else(|| Path::new(""));
    entries
        .into_iter()
        .map(|entry| {
            let path = folder.join(&entry.file);
            let content = std::fs::read(&path).map_err(|error| {
                CliError::usage(format!("{} cannot be read: {error}", path.display()), "Check the path.")
            })?;
            if content.len() > MAX_JAR_LEN {
                let detail = format!("{} is larger than 16 MiB", path.display());
                return Err(CliError::usage(detail, "Put such a JAR on the MIDs' hosts yourself."));
            }
            Ok(Jar { name: entry.name, content })
        })
        .collect()
}

/// Sends those that the instance does not have.
pub(crate) async fn apply(client: &Client, jars: Vec<Jar>, dry_run: bool, as_json: bool) -> Result<(), CliError> {
    if jars.is_empty() {
        return Ok(());
    }
    let present = client.api(Method::GET, "/api/v1/jars", None).await?;
    let items = present.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
    for jar in jars {
        let digest = jar_digest(&jar.content);
        let known = items.iter().find(|item| item.get("name").and_then(Value::as_str) == Some(&jar.name));
        if known.is_some_and(|known| known.get("sha256").and_then(Value::as_str) == Some(&digest)) {
            continue;
        }
        if !dry_run {
            let name = crate::commands::segment(&jar.name);
            let document = JarDocument { version: VERSION, content: Bytes64(jar.content) };
            let document = serde_json::to_value(document).unwrap_or_default();
            client.api(Method::PUT, &format!("/api/v1/jars/{name}"), Some(&document)).await?;
        }
        if !as_json {
            let action = if known.is_some() { "update" } else { "create" };
            output::say(&format!("{action} JAR {} {digest}", jar.name));
        }
    }
    Ok(())
}
