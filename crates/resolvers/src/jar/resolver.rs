//! The two Java adapters: they differ in how a call is put and in whose codes the answer may hold.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use midward_core::{Clock, Failure, Hop, Trace};
use tokio::sync::Semaphore;

use super::answer::{Source, internal, material, unanswered};
use super::forward;
use super::host::{CallError, End};
use super::launch::Launch;
use super::sandbox::{Network, Sandbox};
use super::store::JarStore;
use super::supervisor::{Parts, Supervisor};
use crate::cyberark::{Search, VersionCheck};
use crate::frame::{Frame, FrameKind};
use crate::{
    BoxFuture, CredentialId, CyberArkSdkConfig, IsolationConfig, JarConfig, Lookup, ProcessConfig, Resolution,
    ResolveError, Resolver, ResolverContext, ResolverReport,
};

/// What a JVM needs beside its heap, in MiB, before it is called too large.
const RESIDENT_ALLOWANCE_MIB: u64 = 192;
/// What the programs that it starts need besides, in MiB, before the kernel ends them all.
const PROGRAMS_ALLOWANCE_MIB: u64 = 256;

/// Longest back-off after which a host is started before anybody asks for it.
const RESTART_AHEAD: Duration = Duration::from_secs(2);

/// Names the AIM client's command line, in public resolver JARs.
const AIM_CLIENT_VARIABLE: &str = "AIM_CLIPASSWORDSDK_CMD";
/// Where CyberArk's packages put the AIM client.
const AIM_CLIENT_FOLDER: &str = "/opt/CARKaim";
/// The AIM provider's, unless its configuration says otherwise.
const PROVIDER_PORT: u16 = 18_923;

/// A resolver that runs in a JVM of its own. It keeps no secrets, so [`Lookup::fresh`] changes nothing here; the AIM
/// client's own cache cannot be passed by.
pub struct JarResolver {
    inner: Arc<Inner>,
}

struct Inner {
    name: String,
    questions: Questions,
    timeout: Duration,
    permits: Semaphore,
    supervisor: Supervisor,
    clock: Arc<dyn Clock>,
}

/// How a look-up becomes a call frame.
enum Questions {
    Jar { credential_type: String, mid_name: String },
    CyberArkSdk(Search),
}

impl JarResolver {
    /// `kind = "jar"`.
    pub fn jar(name: &str, config: &JarConfig, context: &ResolverContext) -> Self {
        let JarConfig { own: jar, process, isolation } = config;
        let frame = Frame::new(FrameKind::Configure).with("mode", "jar").with("class", jar.class.as_str());
        let frame =
            jar.parameters.iter().fold(frame, |frame, (key, value)| frame.with(format!("param:{key}"), value.as_str()));
        let questions =
            Questions::Jar { credential_type: jar.credential_type.clone(), mid_name: context.mid_name.clone() };
        let sandbox = sandbox(process, isolation, &[]);
        Self::with(name, (process, isolation), sandbox, frame, questions, None, context)
    }

    /// `kind = "cyberark_sdk"`.
    pub fn sdk(name: &str, config: &CyberArkSdkConfig, context: &ResolverContext) -> Self {
        let CyberArkSdkConfig { own: sdk, account, process, isolation } = config;
        let frame = Frame::new(FrameKind::Configure)
            .with("mode", "cyberark_sdk")
            .with("app_id", account.app_id.as_str())
            .with("folder", account.folder.as_str())
            .with_optional("port", sdk.port.map(|port| port.to_string()))
            .with_optional("connection_timeout", account.connection_timeout_s.map(|seconds| seconds.to_string()))
            .with_optional("reason", account.reason.as_deref());
        let questions = Questions::CyberArkSdk(account.search(None));
        let sandbox = sandbox(process, isolation, &[sdk.port.unwrap_or(PROVIDER_PORT)]);
        let versions = Some(VersionCheck::new(&sdk.aim_version));
        Self::with(name, (process, isolation), sandbox, frame, questions, versions, context)
    }

    fn with(
        name: &str,
        (process, isolation): (&ProcessConfig, &IsolationConfig),
        sandbox: Sandbox,
        configuration: Frame,
        questions: Questions,
        versions: Option<VersionCheck>,
        context: &ResolverContext,
    ) -> Self {
        let concurrency = process.concurrency.max(1);
        let allowed = RESIDENT_ALLOWANCE_MIB + u64::from(process.heap_mib);
        let max_resident_mib = process.resident_limit_mib.unwrap_or(allowed);
        let jar_host_dir = std::path::absolute(&context.jar_host_dir).unwrap_or_else(|_| context.jar_host_dir.clone());
        let state_dir = std::path::absolute(&context.state_dir).unwrap_or_else(|_| context.state_dir.clone());
        let state_dir = state_dir.join(folder_name(name));
        let supervisor = Supervisor::new(Parts {
            name: name.to_owned(),
            launch: Launch {
                trampoline: context.trampoline.clone(),
                java: process.java.as_ref().unwrap_or(&context.java).clone(),
                host_jar: jar_host_dir.join("midward-jar-host.jar"),
                heap_mib: process.heap_mib,
                environment: isolation.variables(),
                sandbox,
                groups: isolation.groups(max_resident_mib + PROGRAMS_ALLOWANCE_MIB, concurrency),
                run_as: isolation.run_as.clone(),
                targets: process.connect.clone(),
                scratch_dir: state_dir.join("tmp"),
            },
            store: JarStore { jar: process.jar.clone(), lib_dir: process.lib_dir.clone(), state_dir },
            pin: process.sha256.clone(),
            versions,
            jar_host_dir,
            configuration: configuration.with("concurrency", concurrency.to_string()),
            max_calls: process.recycle_after_calls,
            max_resident_mib,
            clock: Arc::clone(&context.clock),
            random: Arc::clone(&context.random),
        });
        Self {
            inner: Arc::new(Inner {
                name: name.to_owned(),
                questions,
                timeout: Duration::from_millis(process.timeout_ms),
                permits: Semaphore::new(usize::from(concurrency)),
                supervisor,
                clock: Arc::clone(&context.clock),
            }),
        }
    }
}

impl fmt::Debug for JarResolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JarResolver").field("name", &self.inner.name).finish_non_exhaustive()
    }
}

impl Resolver for JarResolver {
    fn kind(&self) -> &'static str {
        match self.inner.questions {
            Questions::Jar { .. } => "jar",
            Questions::CyberArkSdk(_) => "cyberark_sdk",
        }
    }

    fn resolve<'a>(
        &'a self,
        lookup: &'a Lookup,
        deadline: Duration,
    ) -> BoxFuture<'a, Result<Resolution, ResolveError>> {
        Box::pin(async move {
            let (inner, lookup) = (Arc::clone(&self.inner), lookup.clone());
            // A task of its own: a caller who leaves takes nothing away from those who need the same host.
            let outcome = match tokio::spawn(async move { inner.resolve(&lookup, deadline).await }).await {
                Ok(outcome) => outcome,
                Err(_) => Err(internal("the resolver's task failed")),
            };
            outcome.map_err(|failure| ResolveError(Box::new(failure)))
        })
    }

    fn report(&self) -> ResolverReport {
        self.inner.supervisor.report()
    }

    fn note(&self) -> Option<String> {
        self.inner.supervisor.note()
    }

    fn warm_up(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            // What is wrong shows in the report.
            let _ = self.inner.supervisor.host(Duration::MAX).await;
        })
    }

    fn shut_down(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.inner.supervisor.shut_down())
    }
}

impl Inner {
    async fn resolve(self: Arc<Self>, lookup: &Lookup, deadline: Duration) -> Result<Resolution, Failure> {
        let outcome = self.attempt(lookup, deadline.min(self.timeout)).await;
        if let Err(failure) = &outcome {
            tracing::warn!(resolver = %self.name, "Problem with client's CredentialResolver: {failure}");
            if matches!(failure.code.as_str(), "resolver_crashed" | "resolver_over_memory" | "resolver_timeout") {
                // Warm again before the next call needs it; after many crashes, only when one does.
                let again = Arc::clone(&self);
                tokio::spawn(async move { again.supervisor.host(RESTART_AHEAD).await.map(drop) });
            }
        }
        outcome
    }

    async fn attempt(&self, lookup: &Lookup, limit: Duration) -> Result<Resolution, Failure> {
        let question = self.questions.ask(lookup)?;
        let begin = self.clock.boot();
        let left = || limit.saturating_sub(self.clock.boot().saturating_since(begin));
        let late = || {
            Failure::transient(
                Hop::Resolver,
                "resolver_busy",
                format!("the resolver was not free within {} ms", limit.as_millis()),
                "Raise the resolver's concurrency or timeout_ms if this lasts.",
            )
        };
        let Ok(permit) = tokio::time::timeout(limit, self.permits.acquire()).await else { return Err(late()) };
        let _permit = permit.map_err(|_| internal("the resolver is closed"))?;
        let mut trace = Trace::default();
        let mut retried = false;
        let answer = loop {
            let before = self.clock.boot();
            let host = tokio::time::timeout(left(), self.supervisor.host(left())).await.map_err(|_| late())??;
            let ready = self.clock.boot();
            if ready.saturating_since(before) > Duration::from_millis(5) {
                trace.push(Hop::Resolver, "waited for the JVM", ready.saturating_since(before));
            }
            let called = host.call(question.clone(), left()).await;
            match called {
                Ok(answer) => {
                    let what = format!("answered the customer's JAR ({})", host.generation);
                    trace.push(Hop::Vault, what, self.clock.boot().saturating_since(ready));
                    break answer;
                }
                // Ended for a neighbour's sake: reading a vault twice harms nothing.
                Err(CallError::HostEnded(End::Overdue)) if !retried => retried = true,
                Err(error) => return Err(unanswered(&error, limit)),
            }
        };
        let source = match self.questions {
            Questions::Jar { .. } => Source::Jar,
            Questions::CyberArkSdk(_) => Source::CyberArkSdk,
        };
        let (material, changing) = material(&answer, source)?;
        Ok(Resolution { material, changing, trace })
    }
}

impl Questions {
    fn ask(&self, lookup: &Lookup) -> Result<Frame, Failure> {
        let frame = Frame::new(FrameKind::Call);
        match self {
            Self::Jar { credential_type, mid_name } => {
                CredentialId::check(&lookup.credential_id)?;
                Ok(frame
                    .with("id", lookup.credential_id.as_str())
                    .with_optional("ip", lookup.address.as_deref())
                    .with("type", credential_type.as_str())
                    .with("mid", mid_name.as_str()))
            }
            Self::CyberArkSdk(search) => {
                let criteria = search.criteria(lookup)?;
                // The SDK has no setter for a dual account's name: it is part of a query, which overrides all else.
                if criteria.virtual_user_name.is_some() {
                    return Ok(frame.with("query", criteria.query()));
                }
                Ok(frame
                    .with_optional("safe", criteria.safe.as_deref())
                    .with_optional("object", criteria.object.as_deref())
                    .with_optional("user_name", criteria.user_name.as_deref())
                    .with_optional("policy_id", criteria.policy_id.as_deref())
                    .with_optional("address", criteria.address.as_deref()))
            }
        }
    }
}

/// What the configuration lets the process reach. `ports` are open besides those that it lists: the AIM provider looks at
/// who connects, so nobody can stand between.
fn sandbox(process: &ProcessConfig, isolation: &IsolationConfig, ports: &[u16]) -> Sandbox {
    let client = isolation.variables().into_iter().filter(|(name, _)| name == AIM_CLIENT_VARIABLE);
    let client = client.map(|(_, value)| PathBuf::from(value));
    let private = Network::Private { listen: forward::inside(&process.connect) };
    let mut sandbox = isolation.sandbox(if ports.is_empty() { private } else { Network::Host });
    sandbox.executable.extend(client.chain([AIM_CLIENT_FOLDER.into()]));
    sandbox.connect_ports.extend(ports);
    sandbox
}

/// A resolver's folder: its name, or its bytes when the name is none that records may have.
fn folder_name(name: &str) -> String {
    match midward_core::check_name(name) {
        Ok(()) => name.to_owned(),
        Err(_) => name.bytes().fold("x".to_owned(), |text, byte| format!("{text}{byte:02x}")),
    }
}
