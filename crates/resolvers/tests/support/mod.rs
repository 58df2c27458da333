//! JARs built from source, and resolvers that use them.

#![expect(dead_code, reason = "each test program uses a part")]

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use midward_core::{Failure, MaterialField, SystemClock, SystemRandom};
use midward_resolvers::{Lookup, Resolution, Resolver, ResolverConfig, ResolverContext, build};

pub(crate) struct Jars(PathBuf);

impl Jars {
    /// Builds whatever is older than its source, one test process at a time.
    pub(crate) fn build() -> Self {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("jars");
        std::fs::create_dir_all(&folder).expect("folder");
        let lock = std::fs::File::create(folder.join("lock")).expect("lock file");
        lock.lock().expect("lock");
        let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../jar-host/build.sh");
        let jobs: [&[OsString]; 4] = [
            &[],
            &["fake-sdk".into()],
            &["jar".into(), tests.join("jars").into(), "test-resolvers".into()],
            &["jar".into(), tests.join("jars-own").into(), "own-classes".into()],
        ];
        for words in jobs {
            let status = Command::new(&script).arg(&folder).args(words).status().expect("sh and a JDK");
            assert!(status.success(), "building the JARs: {status}");
        }
        Self(folder)
    }

    pub(crate) fn tests(&self) -> PathBuf {
        self.0.join("test-resolvers.jar")
    }

    /// Brings classes of its own under the names of the MID's, and needs `helper.Helper`.
    pub(crate) fn own_classes(&self) -> PathBuf {
        self.0.join("own-classes.jar")
    }

    pub(crate) fn sample(&self) -> PathBuf {
        self.0.join("sample/credential-resolver.jar")
    }

    pub(crate) fn sdk(&self) -> PathBuf {
        self.0.join("JavaPasswordSDK.jar")
    }

    /// Our own JARs: what the MID calls its JAR host folder.
    pub(crate) fn host_dir(&self) -> PathBuf {
        self.0.clone()
    }
}

pub(crate) struct Bench {
    pub(crate) jars: Jars,
    pub(crate) folder: tempfile::TempDir,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self { jars: Jars::build(), folder: tempfile::tempdir().expect("folder") }
    }

    pub(crate) fn context(&self) -> ResolverContext {
        ResolverContext {
            mid_name: "mid-1".to_owned(),
            jar_host_dir: self.jars.host_dir(),
            state_dir: self.folder.path().join("state"),
            trampoline: vec![env!("CARGO_BIN_EXE_jar-host-exec").into()],
            java: "/usr/bin/java".into(),
            vaults: midward_net::WayOut::plain_default().expect("a way out"),
            clock: Arc::new(SystemClock),
            random: Arc::new(SystemRandom),
        }
    }

    /// A resolver from its section of a configuration file.
    pub(crate) fn resolver(&self, toml: &str) -> Arc<dyn Resolver> {
        let config: ResolverConfig = toml::from_str(toml).expect("configuration");
        build("vault", &config, &self.context())
    }

    /// A resolver of the test JAR's class `jars.Jars$CLASS`.
    pub(crate) fn class(&self, class: &str, more: &str) -> Arc<dyn Resolver> {
        let jar = self.jars.tests();
        self.resolver(&format!("kind = 'jar'\njar = '{}'\nclass = 'jars.Jars${class}'\n{more}", jar.display()))
    }
}

pub(crate) fn lookup(credential_id: &str) -> Lookup {
    Lookup { credential_id: credential_id.to_owned(), address: None, fresh: false }
}

pub(crate) async fn resolve(resolver: &dyn Resolver, credential_id: &str) -> Result<Resolution, Failure> {
    resolver.resolve(&lookup(credential_id), Duration::from_secs(20)).await.map_err(|error| *error.0)
}

/// Client id and secret.
pub(crate) fn pair(resolution: &Resolution) -> (String, String) {
    let text = |field| {
        let value = resolution.material.field(field).and_then(|value| value.expose_str());
        value.unwrap_or_default().to_owned()
    };
    (text(MaterialField::ClientId), text(MaterialField::ClientSecret))
}

pub(crate) async fn resolved(resolver: &dyn Resolver, credential_id: &str) -> (String, String) {
    pair(&resolve(resolver, credential_id).await.expect("resolved"))
}

pub(crate) async fn failed(resolver: &dyn Resolver, credential_id: &str) -> Failure {
    let failure = resolve(resolver, credential_id).await.expect_err("an error");
    assert!(!format!("{failure:?}").contains("hunter2"), "a JAR's own text left: {failure:?}");
    failure
}
