//! A file encrypted with age as a vault, for development. Read and decrypted anew for each look-up; nothing is kept.

mod document;
mod format;
mod identity;

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use midward_core::{Clock, Failure, Hop, Secret, Trace};
use serde::Deserialize;

use self::format::DecryptError;
use crate::cloud::{misconfigured, read_private, told};
use crate::fields::Fields;
use crate::unusable::Unusable;
use crate::{BoxFuture, CredentialId, Lookup, Resolution, ResolveError, Resolver, ResolverContext, ResolverReport};

const KIND: &str = "age_file";
/// Most bytes of the encrypted file.
const MAX_FILE: u64 = 1024 * 1024;

/// `kind = "age_file"`: a credential identifier is a key of the decrypted document.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgeFileConfig {
    /// Encrypted for an X25519 recipient (`age1...`); armoured or not. Inside: TOML, or a JSON object.
    pub file: PathBuf,
    /// What `age-keygen` wrote; readable by its owner only.
    pub identity_file: PathBuf,
}

impl AgeFileConfig {
    /// The files that are named, for those who make relative paths absolute.
    pub fn files_mut(&mut self) -> [&mut PathBuf; 2] {
        [&mut self.file, &mut self.identity_file]
    }
}

pub(crate) fn build(name: &str, config: &AgeFileConfig, context: &ResolverContext) -> Arc<dyn Resolver> {
    if !config.file.is_absolute() {
        return Arc::new(Unusable::new(KIND, misconfigured("file must be an absolute path")));
    }
    // A wrong identity is said before anybody asks.
    match identity::read(&config.identity_file) {
        Ok(_) => Arc::new(AgeFileResolver {
            name: name.to_owned(),
            config: config.clone(),
            clock: Arc::clone(&context.clock),
        }),
        Err(failure) => Arc::new(Unusable::new(KIND, failure)),
    }
}

struct AgeFileResolver {
    name: String,
    config: AgeFileConfig,
    clock: Arc<dyn Clock>,
}

impl AgeFileResolver {
    async fn look_up(&self, lookup: &Lookup, limit: Duration) -> Result<Resolution, Failure> {
        CredentialId::check(&lookup.credential_id)?;
        let begin = self.clock.boot();
        let (config, id) = (self.config.clone(), lookup.credential_id.clone());
        let reading = tokio::task::spawn_blocking(move || read(&config, &id));
        let read = tokio::time::timeout(limit, reading).await;
        let read = read.map_err(|_| crate::cloud::timeout_failure("the file system", Some(limit)))?;
        let fields = read.unwrap_or_else(|_| Err(misconfigured("the age file could not be read")))?;
        let fields = fields.complete("the age file")?;
        let version = fields.version.map_or_else(String::new, |version| format!(" (version {version})"));
        let mut trace = Trace::default();
        trace.push(Hop::Vault, format!("decrypted the age file{version}"), self.clock.boot().saturating_since(begin));
        Ok(Resolution { material: fields.material, changing: false, trace })
    }
}

impl fmt::Debug for AgeFileResolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgeFileResolver").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Resolver for AgeFileResolver {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn resolve<'a>(
        &'a self,
        lookup: &'a Lookup,
        deadline: Duration,
    ) -> BoxFuture<'a, Result<Resolution, ResolveError>> {
        told(&self.name, self.look_up(lookup, deadline))
    }

    fn report(&self) -> ResolverReport {
        ResolverReport::Ready
    }
}

/// Blocks.
fn read(config: &AgeFileConfig, id: &str) -> Result<Fields, Failure> {
    let identities = identity::read(&config.identity_file)?;
    let encrypted = read_file(&config.file)?;
    let mut plain = format::decrypt(&encrypted, &identities).map_err(undecryptable)?;
    // What the parsers say may quote the text.
    let found = document::find(&Secret::new(std::mem::take(&mut *plain)), id).map_err(|_| {
        Failure::permanent(
            Hop::Vault,
            "secret_not_understood",
            "the age file holds neither TOML nor a JSON object with a table of fields for each credential",
            "Decrypt it with the age program and correct it; no name may come twice, and each field must be text.",
        )
    })?;
    found.ok_or_else(|| {
        Failure::permanent(
            Hop::Vault,
            "vault_not_found",
            "the age file has no such credential",
            "Check the credential identifier against the names in the file.",
        )
    })
}

fn read_file(path: &Path) -> Result<Vec<u8>, Failure> {
    let unread = |error: std::io::Error| {
        Failure::transient(
            Hop::Vault,
            "vault_unreachable",
            format!("the age file cannot be read: {}", error.kind()),
            "Check the resolver's `file`, and that the MID's user may read it.",
        )
    };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(unread)?;
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(unread)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(misconfigured("the age file is longer than 1 MiB"));
    }
    Ok(bytes)
}

fn undecryptable(error: DecryptError) -> Failure {
    let action = match error {
        DecryptError::NoRecipient => {
            "Encrypt the file for the recipient (`age1...`) of the resolver's `identity_file`."
        }
        DecryptError::Malformed | DecryptError::Altered => "Encrypt it again with the age program.",
    };
    Failure::permanent(
        Hop::Vault,
        "age_file_undecryptable",
        format!("the age file cannot be decrypted: {error}"),
        action,
    )
}

/// For [`identity`].
fn private(path: &Path) -> Result<Secret, Failure> {
    read_private("identity_file", path)
}
