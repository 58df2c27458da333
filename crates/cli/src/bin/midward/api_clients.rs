//! `midward api-key` and `midward oauth-client`.

use std::path::PathBuf;

use clap::Subcommand;
use http::Method;
use serde_json::json;

use crate::client::Client;
use crate::commands::{Kind, get, hand_out, must_be_new, segment};
use crate::exit::CliError;
use crate::output;

/// One of the two kinds of client.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClientKind {
    kind: Kind,
    path: &'static str,
    noun: &'static str,
    /// The answer's field with the secret.
    secret: &'static str,
}

pub(crate) const API_KEYS: ClientKind =
    ClientKind { kind: Kind::ApiKeys, path: "/api/v1/api-keys", noun: "API key", secret: "key" };
pub(crate) const OAUTH_CLIENTS: ClientKind = ClientKind {
    kind: Kind::OauthClients,
    path: "/api/v1/oauth-clients",
    noun: "OAuth client",
    secret: "client_secret",
};

#[derive(Debug, Subcommand)]
pub(crate) enum ClientCommand {
    /// Makes one, and shows its secret once
    Create {
        name: String,
        /// administrator, operator, auditor, or caller (then name the connections)
        #[arg(long, default_value = "caller")]
        role: String,
        #[arg(long = "connection")]
        connections: Vec<String>,
        /// When the secret ends, in seconds from now; absent: never
        #[arg(long)]
        expires_in_seconds: Option<u64>,
        /// Most requests a second, in place of the instance's own limit; 0: no limit
        #[arg(long)]
        requests_per_second: Option<u32>,
        /// Writes the secret to a file that only its owner can read
        #[arg(long)]
        output_file: Option<PathBuf>,
    },
    /// Makes a new secret; the present one stays good for a while
    Rotate {
        name: String,
        /// For how long, in seconds
        #[arg(long, default_value_t = 86_400)]
        overlap_seconds: u64,
        /// When the new secret ends, in seconds from now; absent: never
        #[arg(long)]
        expires_in_seconds: Option<u64>,
        /// Writes the secret to a file that only its owner can read
        #[arg(long)]
        output_file: Option<PathBuf>,
    },
    List,
    Delete {
        name: String,
    },
}

pub(crate) async fn run(
    client: &Client,
    which: ClientKind,
    command: ClientCommand,
    as_json: bool,
) -> Result<(), CliError> {
    let (path, body, file) = match command {
        ClientCommand::Create { name, role, connections, expires_in_seconds, requests_per_second, output_file } => {
            let body = json!({ "name": name, "role": role, "connections": connections,
                "expires_in_seconds": expires_in_seconds, "requests_per_second": requests_per_second });
            (which.path.to_owned(), body, output_file)
        }
        ClientCommand::Rotate { name, overlap_seconds, expires_in_seconds, output_file } => {
            let body = json!({ "overlap_seconds": overlap_seconds, "expires_in_seconds": expires_in_seconds });
            (format!("{}/{}/rotate", which.path, segment(&name)), body, output_file)
        }
        ClientCommand::List => return get(client, which.kind, None, as_json).await,
        ClientCommand::Delete { name } => {
            client.api(Method::DELETE, &format!("{}/{}", which.path, segment(&name)), None).await?;
            output::say(&format!("{} {name} is deleted", which.noun));
            return Ok(());
        }
    };
    must_be_new(file.as_deref())?;
    let answer = client.api(Method::POST, &path, Some(&body)).await?;
    if let Some(id) = answer.get("client_id").and_then(serde_json::Value::as_str).filter(|_| !as_json) {
        output::complain(&format!("client_id: {id}"));
    }
    hand_out(&answer, which.secret, file.as_deref(), as_json)
}
