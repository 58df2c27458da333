//! Any program as a resolver: a question as JSON on its standard input, an answer as JSON on its standard output.

mod answer;
mod config;
mod process;

use std::fmt;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use midward_core::{Clock, Failure, Hop, Persistence, Trace};
use tokio::sync::Semaphore;

use self::answer::{fields, question, unfinished, unreadable, unusable};
use self::process::Program;
use crate::cloud::{limit, misconfigured};
use crate::jar::Network;
use crate::unusable::Unusable;
use crate::{
    BoxFuture, CredentialId, Lookup, Resolution, ResolveError, Resolver, ResolverContext, ResolverReport, RunAs,
};

pub use config::{ExecConfig, ExecSettings};

const KIND: &str = "exec";
/// Memory of one run and all that it starts, unless the configuration says otherwise.
const MEMORY_MIB: u64 = 1024;

pub(crate) fn build(name: &str, config: &ExecConfig, context: &ResolverContext) -> Arc<dyn Resolver> {
    match ExecResolver::new(name, config, context) {
        Ok(resolver) => Arc::new(resolver),
        Err(failure) => Arc::new(Unusable::new(KIND, failure)),
    }
}

/// One process for each look-up; nothing is kept between two.
struct ExecResolver {
    name: String,
    mid_name: String,
    config: ExecSettings,
    program: Program,
    permits: Semaphore,
    report: Mutex<ResolverReport>,
    /// What the control groups lack.
    lacking: Mutex<Option<String>>,
    clock: Arc<dyn Clock>,
}

impl ExecResolver {
    fn new(name: &str, config: &ExecConfig, context: &ResolverContext) -> Result<Self, Failure> {
        let (own, isolation) = (&config.own, &config.isolation);
        if !own.program.is_absolute() {
            return Err(misconfigured("program must be an absolute path"));
        }
        let mut sandbox = isolation.sandbox(Network::Private { listen: Vec::new() });
        sandbox.frames = false;
        sandbox.user = isolation.run_as.as_ref().map(RunAs::user).transpose()?;
        if sandbox.relative_path().is_some() {
            return Err(misconfigured("readable_paths, writable_paths and executables must be absolute paths"));
        }
        let program = Program {
            trampoline: context.trampoline.clone(),
            path: own.program.clone(),
            args: own.args.clone(),
            environment: isolation.variables(),
            groups: isolation.groups(MEMORY_MIB, 0),
            sandbox,
        };
        Ok(Self {
            name: name.to_owned(),
            mid_name: context.mid_name.clone(),
            config: own.clone(),
            program,
            permits: Semaphore::new(usize::from(own.concurrency.max(1))),
            report: Mutex::new(ResolverReport::Ready),
            lacking: Mutex::default(),
            clock: Arc::clone(&context.clock),
        })
    }

    async fn look_up(&self, lookup: &Lookup, limit: Duration) -> Result<Resolution, Failure> {
        CredentialId::check(&lookup.credential_id)?;
        let begin = self.clock.boot();
        let Ok(permit) = tokio::time::timeout(limit, self.permits.acquire()).await else {
            return Err(Failure::transient(
                Hop::Resolver,
                "resolver_busy",
                format!("the resolver was not free within {} ms", limit.as_millis()),
                "Raise the resolver's concurrency or timeout_ms if this lasts.",
            ));
        };
        let _permit = permit.map_err(|_| unusable("the resolver is closed"))?;
        self.check().await?;
        let question = question(lookup, &self.config.credential_type, &self.mid_name);
        let left = limit.saturating_sub(self.clock.boot().saturating_since(begin));
        let output = self.program.run(&question, left).await.map_err(|error| unfinished(&error, limit))?;
        for missing in &output.lacking {
            tracing::warn!(resolver = %self.name, "the sandbox of a resolver's program is incomplete: {missing}");
        }
        let fields = fields(&output)?;
        let version = fields.version.map_or_else(String::new, |version| format!(" (version {version})"));
        let good = fields.expires_in.map_or_else(String::new, |seconds| format!(", good for {seconds} s"));
        let mut trace = Trace::default();
        let what = format!("the program answered{version}{good}");
        trace.push(Hop::Vault, what, self.clock.boot().saturating_since(begin));
        Ok(Resolution { material: fields.material, changing: fields.expires_in == Some(0), trace })
    }

    /// What must be so before each run.
    async fn check(&self) -> Result<(), Failure> {
        self.check_program().await?;
        let groups = self.program.groups.clone();
        let checked = tokio::task::spawn_blocking(move || groups.check()).await;
        let lacking = checked.unwrap_or_else(|_| Err(unusable("its control group could not be looked at")))?;
        let mut shown = self.lacking.lock().unwrap_or_else(PoisonError::into_inner);
        if *shown != lacking {
            if let Some(lacking) = &lacking {
                tracing::info!(resolver = %self.name, "{lacking}");
            }
            *shown = lacking;
        }
        Ok(())
    }

    /// Who can change the program gets what it gets.
    async fn check_program(&self) -> Result<(), Failure> {
        let (path, any_writer) = (self.config.program.clone(), self.config.allow_writable_program);
        let checked = tokio::task::spawn_blocking(move || check_file(&path, any_writer)).await;
        checked.unwrap_or_else(|_| Err(unusable("it could not be looked at")))
    }

    fn set_report(&self, report: ResolverReport) {
        *self.report.lock().unwrap_or_else(PoisonError::into_inner) = report;
    }
}

impl fmt::Debug for ExecResolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExecResolver").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Resolver for ExecResolver {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn resolve<'a>(
        &'a self,
        lookup: &'a Lookup,
        deadline: Duration,
    ) -> BoxFuture<'a, Result<Resolution, ResolveError>> {
        Box::pin(async move {
            let outcome = self.look_up(lookup, limit(self.config.timeout_ms, deadline)).await;
            match &outcome {
                Ok(_) => self.set_report(ResolverReport::Ready),
                Err(failure) => {
                    tracing::warn!(resolver = %self.name, "{failure}");
                    // Others may be about this one identifier.
                    if matches!(failure.code.as_str(), "program_unusable" | "sandbox_unavailable") {
                        self.set_report(ResolverReport::Unusable(failure.detail.clone()));
                    }
                }
            }
            outcome.map_err(|failure| ResolveError(Box::new(failure)))
        })
    }

    fn report(&self) -> ResolverReport {
        self.report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self) -> Option<String> {
        self.lacking.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn warm_up(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            self.set_report(match self.check().await {
                Ok(()) => ResolverReport::Ready,
                Err(failure) if failure.persistence == Persistence::Permanent => {
                    ResolverReport::Unusable(failure.detail)
                }
                Err(failure) => ResolverReport::Degraded(failure.detail),
            });
        })
    }
}

/// Blocks.
fn check_file(path: &Path, any_writer: bool) -> Result<(), Failure> {
    let real = path.canonicalize().map_err(|error| unreadable(&error))?;
    let metadata = std::fs::metadata(&real).map_err(|error| unreadable(&error))?;
    if !metadata.is_file() || metadata.mode() & 0o111 == 0 {
        return Err(unusable("it is no executable file"));
    }
    if any_writer {
        return Ok(());
    }
    let ours = rustix::process::geteuid().as_raw();
    let trusted = |metadata: &std::fs::Metadata| {
        let sticky = metadata.is_dir() && metadata.mode() & 0o1000 != 0;
        (metadata.uid() == 0 || metadata.uid() == ours) && (sticky || metadata.mode() & 0o022 == 0)
    };
    // Whoever may rename in one of its folders may put another in its place.
    for above in real.ancestors().skip(1) {
        let above: io::Result<_> = std::fs::metadata(above);
        if !trusted(&above.map_err(|error| unreadable(&error))?) {
            return Err(unusable("others can change one of the folders that it lies in"));
        }
    }
    if !trusted(&metadata) {
        return Err(unusable(
            "others can change it: it must belong to root or the MID's user, writable by nobody else",
        ));
    }
    Ok(())
}
