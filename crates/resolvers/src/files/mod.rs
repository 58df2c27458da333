//! Files as a vault: a folder for each credential with a file for each field (a mounted Kubernetes secret), or systemd's
//! credentials. Read anew for each look-up.

mod read;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use midward_core::{Clock, Failure, Hop, Trace};
use serde::Deserialize;

use self::read::{Layout, read};
use crate::cloud::{limit, misconfigured, timeout_failure, told};
use crate::fields;
use crate::unusable::Unusable;
use crate::{BoxFuture, CredentialId, Lookup, Resolution, ResolveError, Resolver, ResolverContext, ResolverReport};

/// Set by systemd for a service with `LoadCredential=` and the like (systemd.exec(5)).
const CREDENTIALS_DIRECTORY: &str = "CREDENTIALS_DIRECTORY";

/// `kind = "files"`: a credential identifier is the name of a folder.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FilesConfig {
    /// Holds a folder for each credential.
    pub dir: PathBuf,
    /// The client id for credentials that bring none.
    #[serde(default)]
    pub client_id: Option<String>,
    /// Longest look-up, in milliseconds: the files may lie on another machine.
    #[serde(default = "crate::cloud::default_timeout_ms")]
    pub timeout_ms: u64,
}

/// `kind = "systemd_credentials"`: the field's file is named `CREDENTIAL_ID_FIELD`, as `LoadCredential=` of a folder
/// makes it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SystemdCredentialsConfig {
    /// The client id for credentials that bring none.
    #[serde(default)]
    pub client_id: Option<String>,
}

pub(crate) fn build(name: &str, config: &FilesConfig, context: &ResolverContext) -> Arc<dyn Resolver> {
    if !config.dir.is_absolute() {
        return Arc::new(Unusable::new("files", misconfigured("dir must be an absolute path")));
    }
    Arc::new(FilesResolver {
        name: name.to_owned(),
        kind: "files",
        dir: config.dir.clone(),
        layout: Layout::Folders,
        client_id: config.client_id.clone(),
        timeout_ms: config.timeout_ms,
        clock: Arc::clone(&context.clock),
    })
}

pub(crate) fn build_systemd(
    name: &str,
    config: &SystemdCredentialsConfig,
    context: &ResolverContext,
) -> Arc<dyn Resolver> {
    let kind = "systemd_credentials";
    let Some(dir) = std::env::var_os(CREDENTIALS_DIRECTORY).map(PathBuf::from).filter(|dir| dir.is_absolute()) else {
        let why =
            "systemd gave this service no credentials: the unit has no LoadCredential= or SetCredentialEncrypted=";
        return Arc::new(Unusable::new(kind, misconfigured(why)));
    };
    Arc::new(FilesResolver {
        name: name.to_owned(),
        kind,
        dir,
        layout: Layout::Flat,
        client_id: config.client_id.clone(),
        timeout_ms: crate::cloud::default_timeout_ms(),
        clock: Arc::clone(&context.clock),
    })
}

struct FilesResolver {
    name: String,
    kind: &'static str,
    dir: PathBuf,
    layout: Layout,
    client_id: Option<String>,
    timeout_ms: u64,
    clock: Arc<dyn Clock>,
}

impl FilesResolver {
    async fn look_up(&self, lookup: &Lookup, limit: Duration) -> Result<Resolution, Failure> {
        check_id(&lookup.credential_id)?;
        let begin = self.clock.boot();
        let (dir, layout, id) = (self.dir.clone(), self.layout, lookup.credential_id.clone());
        let reading = tokio::task::spawn_blocking(move || read(&dir, layout, &id));
        let read = tokio::time::timeout(limit, reading).await;
        let read = read.map_err(|_| timeout_failure("the file system", Some(limit)))?;
        let mut material = read.unwrap_or_else(|_| Err(misconfigured("the files could not be read")))?;
        if let Some(id) = &self.client_id
            && material.field(midward_core::MaterialField::ClientId).is_none()
        {
            material = material.with(midward_core::MaterialField::ClientId, id.as_str().into());
        }
        fields::complete(&material, "the credential's files")?;
        let mut trace = Trace::default();
        trace.push(Hop::Vault, "read its files", self.clock.boot().saturating_since(begin));
        Ok(Resolution { material, changing: false, trace })
    }
}

impl fmt::Debug for FilesResolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FilesResolver").field("name", &self.name).field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl Resolver for FilesResolver {
    fn kind(&self) -> &'static str {
        self.kind
    }

    fn resolve<'a>(
        &'a self,
        lookup: &'a Lookup,
        deadline: Duration,
    ) -> BoxFuture<'a, Result<Resolution, ResolveError>> {
        told(&self.name, self.look_up(lookup, limit(self.timeout_ms, deadline)))
    }

    fn report(&self) -> ResolverReport {
        ResolverReport::Ready
    }
}

/// One name of a folder, which is not hidden.
fn check_id(id: &str) -> Result<(), Failure> {
    CredentialId::check(id)?;
    if id.is_empty() || id.starts_with('.') || id.contains(['/', '\\']) || id.len() > 200 {
        return Err(Failure::permanent(
            Hop::Resolver,
            "invalid_credential_id",
            "the credential identifier is not the name of a folder",
            "Use one name without slashes, not beginning with a dot, of at most 200 bytes.",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_names_are_looked_for() {
        assert!(check_id("crm-Prod 1").is_ok() && check_id("crm..x").is_ok());
        for bad in ["", ".", "..", "..data", ".x", "a/b", "../a", "/etc", "a\\b", "a\0b", "-a", "a;b", &"é".repeat(101)]
        {
            assert_eq!(check_id(bad).expect_err(bad).code, "invalid_credential_id");
        }
    }

    #[test]
    fn settings_are_few() {
        let config: FilesConfig = toml::from_str("dir = '/run/secrets'").expect("complete");
        assert_eq!((config.client_id, config.timeout_ms), (None, 10_000));
        assert!(toml::from_str::<FilesConfig>("dir = '/x'\nclient_secret = 'y'").is_err());
        assert!(toml::from_str::<SystemdCredentialsConfig>("dir = '/x'").is_err());
    }
}
