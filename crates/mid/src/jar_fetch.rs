//! Resolver JARs from the instance: only those that `mid.toml` names by digest and the policy file lists, and only the
//! bytes that have that digest. The resolver finds the file when it is there, and checks its digest again.

use std::collections::BTreeSet;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::Method;
use midward_resolvers::{JarDigest, ResolverConfig};
use midward_wire::{JarDocument, MAX_JAR_LEN, VERSION, jar_digest, paths};
use tokio_util::sync::CancellationToken;

use crate::config::MidConfig;
use crate::heartbeat::Resolvers;
use crate::link::Link;
use crate::policy::PolicyStore;
use crate::reload::warm_up;

/// How often the files and the policy are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// A download may take this long.
const DEADLINE: Duration = Duration::from_mins(2);
/// Base64 inside JSON.
const MAX_ANSWER: usize = MAX_JAR_LEN / 3 * 4 + 64 * 1024;
/// After a failure this many looks pass before the next download.
const LOOKS_BETWEEN: u32 = 6;

/// A JAR that a resolver needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) resolver: String,
    pub(crate) digest: JarDigest,
    pub(crate) file: PathBuf,
}

/// What `mid.toml` names.
pub(crate) fn wanted(config: &MidConfig) -> Vec<Wanted> {
    let jars = config.resolvers.iter().filter_map(|(name, section)| match &section.kind {
        ResolverConfig::Jar(jar) if jar.own.from_instance.is_some() => {
            Some(Wanted { resolver: name.clone(), digest: jar.process.sha256.clone()?, file: jar.process.jar.clone() })
        }
        _ => None,
    });
    jars.collect()
}

/// Keeps the files as configuration and policy want them.
pub(crate) struct JarFetch {
    pub(crate) link: Arc<Link>,
    pub(crate) policy: Arc<PolicyStore>,
    /// Replaced as a whole by a reload.
    pub(crate) wanted: Arc<ArcSwap<Vec<Wanted>>>,
    pub(crate) resolvers: Resolvers,
}

impl JarFetch {
    /// Looks until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let (mut told, mut rest) = (BTreeSet::new(), 0_u32);
        loop {
            rest = rest.saturating_sub(1);
            for wanted in self.wanted.load_full().iter() {
                if rest > 0 && !wanted.file.exists() {
                    continue;
                }
                match self.look(wanted).await {
                    Ok(true) => {
                        told.remove(&wanted.resolver);
                        tracing::info!(resolver = wanted.resolver, "the resolver's JAR came from the instance");
                        // The instance sends it nothing as long as it reports itself unusable.
                        warm_up(self.resolvers.load().get_key_value(&wanted.resolver).into_iter());
                    }
                    Ok(false) => {}
                    Err(why) => {
                        rest = LOOKS_BETWEEN;
                        if told.insert(wanted.resolver.clone()) {
                            tracing::warn!(resolver = wanted.resolver, "the resolver has no JAR: {why}");
                        }
                    }
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    /// Whether the file came now.
    pub(crate) async fn look(&self, wanted: &Wanted) -> Result<bool, String> {
        let allowed = self.policy.current().allows_jar(&wanted.digest);
        if !allowed {
            // What came while it was allowed goes: the resolver is unusable with the next call.
            let gone = std::fs::remove_file(&wanted.file);
            if gone.is_ok() {
                tracing::warn!(resolver = wanted.resolver, "its JAR is no longer in the policy's `jars`: removed");
            }
            return Err("the policy's `jars` does not list its digest".to_owned());
        }
        if wanted.file.exists() {
            return Ok(false);
        }
        let path = format!("{}/{}", paths::JARS, wanted.digest.as_str());
        let answer = self.link.call(Method::GET, &path, Bytes::new(), DEADLINE, MAX_ANSWER).await;
        let answer = answer.map_err(|error| format!("the instance did not give it: {error}"))?;
        let document: JarDocument = crate::link::parse(&answer).map_err(|error| error.to_string())?;
        let content = document.content.0;
        if document.version != VERSION || jar_digest(&content) != wanted.digest.as_str() {
            return Err("what the instance gave does not have its digest".to_owned());
        }
        let file = wanted.file.clone();
        let written = tokio::task::spawn_blocking(move || write(&file, &content)).await;
        let written = written.map_err(io::Error::other).and_then(|written| written);
        written.map_err(|error| format!("it cannot be written to the state folder: {error}"))?;
        Ok(true)
    }
}

/// Puts the whole file there in one step. Blocks.
fn write(file: &Path, content: &[u8]) -> io::Result<()> {
    let folder = file.parent().unwrap_or(file);
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let new = file.with_extension("new");
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut out = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    out.write_all(content)?;
    out.sync_all()?;
    std::fs::rename(&new, file)
}
