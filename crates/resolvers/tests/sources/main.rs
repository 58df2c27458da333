//! Resolvers without a vault's server of their own: programs, files, systemd's credentials, a file encrypted with age; and
//! Google Secret Manager against a stand-in.

mod age;
#[path = "../support/conformance.rs"]
mod conformance;
mod exec;
mod files;
mod google;
mod watch;

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use midward_core::{Failure, MaterialField, SystemClock, SystemRandom};
use midward_net::WayOut;
use midward_resolvers::{Lookup, Resolution, Resolver, ResolverConfig, ResolverContext, build};

/// A resolver from its section of a configuration file.
fn resolver(toml: &str, way: WayOut) -> Arc<dyn Resolver> {
    resolver_by(&[], toml, way)
}

/// The same; `options` come before all else that the trampoline gets.
fn resolver_by(options: &[&str], toml: &str, vaults: WayOut) -> Arc<dyn Resolver> {
    let config: ResolverConfig = toml::from_str(toml).expect("configuration");
    let exec = env!("CARGO_BIN_EXE_jar-host-exec");
    let context = ResolverContext {
        mid_name: "mid-1".to_owned(),
        jar_host_dir: "/nowhere".into(),
        state_dir: "/nowhere".into(),
        trampoline: std::iter::once(exec).chain(options.iter().copied()).map(Into::into).collect(),
        java: "/nowhere".into(),
        vaults,
        clock: Arc::new(SystemClock),
        random: Arc::new(SystemRandom),
    };
    build("vault", &config, &context)
}

fn local(toml: &str) -> Arc<dyn Resolver> {
    resolver(toml, WayOut::plain_default().expect("a way out"))
}

async fn resolve(resolver: &dyn Resolver, credential_id: &str) -> Result<Resolution, Failure> {
    within(resolver, credential_id, Duration::from_secs(60)).await
}

async fn within(resolver: &dyn Resolver, credential_id: &str, deadline: Duration) -> Result<Resolution, Failure> {
    let lookup = Lookup { credential_id: credential_id.to_owned(), address: None, fresh: false };
    resolver.resolve(&lookup, deadline).await.map_err(|error| *error.0)
}

/// Client id and secret.
async fn resolved(resolver: &dyn Resolver, credential_id: &str) -> (String, String) {
    let resolution = resolve(resolver, credential_id).await.expect("resolved");
    (field(&resolution, MaterialField::ClientId), field(&resolution, MaterialField::ClientSecret))
}

async fn failed(resolver: &dyn Resolver, credential_id: &str) -> Failure {
    let failure = resolve(resolver, credential_id).await.expect_err("an error");
    assert!(!format!("{failure:?}").contains("hunter2"), "a secret left: {failure:?}");
    failure
}

fn field(resolution: &Resolution, field: MaterialField) -> String {
    resolution.material.field(field).and_then(|value| value.expose_str()).unwrap_or_default().to_owned()
}

fn pair(id: &str, secret: &str) -> (String, String) {
    (id.to_owned(), secret.to_owned())
}

fn write(path: &Path, text: &str, mode: u32) -> PathBuf {
    std::fs::write(path, text).expect("written");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("mode");
    path.to_owned()
}
