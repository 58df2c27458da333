//! From `mid.toml` to a MID Server that can run.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use midward_core::{Clock, Failure, FingerprintKey, Hop, Random, SystemClock, SystemRandom};
use midward_net::{CollectorWay, WayConfig, WayOut};
use midward_oauth::{TokenCache, TokenCacheConfig};
use midward_resolvers::{ResolverContext, ResolverSet};
use midward_telemetry::{Exporter, Tracer};

use crate::admin::{AdminSocket, Operate};
use crate::api::ApiCaller;
use crate::audit::Audit;
use crate::capacity::Capacity;
use crate::config::MidConfig;
use crate::config_cache::ConfigCache;
use crate::discovery::Discoveries;
use crate::engine::Engine;
use crate::execute::Execute;
use crate::heartbeat::Heart;
use crate::http::InstanceWay;
use crate::jar_fetch::{JarFetch, wanted};
use crate::link::Link;
use crate::metrics_listener::MetricsListener;
use crate::mirror::{self, Mirror};
use crate::operate::Operator;
use crate::policy::{Policy, PolicyStore};
use crate::reload::{Reload, shared};
use crate::runtime::{Mid, Parts, new_incarnation};
use crate::state::StateDir;

/// Hidden first argument that makes the program a JAR process's trampoline.
pub const TRAMPOLINE_COMMAND: &str = "jar-host-exec";

/// Builds everything. Nothing is started yet but the admin socket's binding, which proves that no other MID runs here.
/// `load` reads the configuration again when it is asked to.
pub async fn build_mid(
    config: &MidConfig,
    load: impl Fn() -> Result<MidConfig, Failure> + Send + Sync + 'static,
) -> Result<(Mid, Arc<Reload>), Failure> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let random: Arc<dyn Random> = Arc::new(SystemRandom);
    let state = StateDir::open(&config.mid.state_dir)?;
    let enrollment = state.enrollment()?.ok_or_else(not_enrolled)?;
    let instance_name = enrollment.name.clone();
    let socket = AdminSocket::bind(&config.admin_socket()).await?;
    let http = Arc::new(InstanceWay::new(instance_way(config, None)?));
    let link = Arc::new(Link::new(http, enrollment, &state.key()?, Arc::clone(&clock), Arc::clone(&random))?);
    let context = resolver_context(config, &instance_name, &clock, &random)?;
    let set = ResolverSet::build(&config.resolvers, &context)?;
    let resolvers = shared(&set);
    let policy = Arc::new(PolicyStore::new(load_policy(&config.policy.file)?, Arc::clone(&random)));
    let api_way = way(config, "apis", &config.ways_out.apis)?;
    let capacity = Capacity::new(config.mid.max_concurrent);
    let incarnation = new_incarnation(clock.as_ref(), random.as_ref());
    let token_way = way(config, "authorization_servers", &config.ways_out.authorization_servers)?;
    let audit = Arc::new(Audit::open(state.path(), config.mid.audit_syslog.as_deref())?);
    let (tracer, exporter) = telemetry(config, &clock, &random)?;
    let engine = Arc::new(Engine {
        link: Arc::clone(&link),
        configs: ConfigCache::new(Arc::clone(&link)),
        policy: Arc::clone(&policy),
        tokens: TokenCache::new(Arc::clone(&clock), Arc::clone(&random), token_config(config)),
        resolvers: Arc::clone(&resolvers),
        discoveries: Discoveries::new(token_way.clone(), Arc::clone(&clock), Arc::clone(&random)),
        token_way,
        apis: ApiCaller::new(api_way, Arc::clone(&clock), Arc::clone(&random), config.mid.max_reply_bytes),
        audit: Arc::clone(&audit),
        fingerprint_key: FingerprintKey::generate(random.as_ref()),
        nonces: Arc::default(),
        reply_rules: config.token_requests.reply_rules(),
        tracer,
        clock: Arc::clone(&clock),
        random: Arc::clone(&random),
    });
    let heart = Arc::new(Heart::new(
        Arc::clone(&link),
        incarnation.clone(),
        capacity.clone(),
        Arc::clone(&resolvers),
        Arc::clone(&clock),
        Arc::clone(&random),
    ));
    let wanted = Arc::new(ArcSwap::from_pointee(wanted(config)));
    let jars = JarFetch {
        link: Arc::clone(&link),
        policy: Arc::clone(&policy),
        wanted: Arc::clone(&wanted),
        resolvers: Arc::clone(&resolvers),
    };
    let reload = Arc::new(Reload {
        load: Box::new(load),
        policy_file: config.policy.file.clone(),
        policy,
        engine: Arc::clone(&engine),
        set: Mutex::new(set),
        context,
        resolvers: Arc::clone(&resolvers),
        wanted,
    });
    let operator: Arc<dyn Operate> = Arc::new(Operator {
        link: Arc::clone(&link),
        heart: Arc::clone(&heart),
        capacity: capacity.clone(),
        engine: Arc::clone(&engine),
        reload: Arc::clone(&reload),
        max_profiles: config.metrics.max_profiles,
    });
    let metrics = match config.metrics.listen {
        Some(address) => Some(MetricsListener::bind(address, Arc::clone(&engine), config.metrics.max_profiles).await?),
        None => None,
    };
    let executor: Arc<dyn Execute> = engine;
    let mirror = Mirror::new(Arc::clone(&link), Arc::clone(&audit), Arc::clone(&clock), mirror::EVERY);
    let mid = Mid::join(Parts {
        link,
        heart,
        jars,
        executor,
        audit,
        resolvers,
        capacity,
        incarnation,
        drain: Duration::from_secs(config.mid.drain_seconds),
        revoke: Duration::from_secs(config.mid.revoke_seconds),
        admin: Some((socket, operator)),
        metrics,
        mirror: Some(mirror),
        exporter,
        clock,
        random,
    });
    Ok((mid, reload))
}

/// Reads the policy file as a start would.
pub fn check_policy(config: &MidConfig) -> Result<(), Failure> {
    load_policy(&config.policy.file).map(drop)
}

/// The way to the instance. Its CA is the configured one, else `ca_pem`, else the one that the enrollment brought.
pub fn instance_way(config: &MidConfig, ca_pem: Option<&str>) -> Result<WayOut, Failure> {
    let mut settings = config.ways_out.instance.clone();
    if settings.ca_file.is_none() {
        let state = StateDir::open(&config.mid.state_dir)?;
        settings.ca_file = match ca_pem {
            Some(pem) => Some(state.stage_ca(pem)?),
            None => state.ca_file(),
        };
    }
    way(config, "instance", &settings)
}

/// What a MID says that has no instance yet.
pub fn not_enrolled() -> Failure {
    Failure::permanent(
        Hop::Mid,
        "not_enrolled",
        "this MID Server is not enrolled",
        "Run `midward-mid enroll --token-file FILE` with a token from `midward mid enroll-token`.",
    )
}

fn way(config: &MidConfig, name: &str, settings: &WayConfig) -> Result<WayOut, Failure> {
    WayOut::new(settings, &config.base_dir).map_err(|error| {
        let action = "Correct that section of mid.toml, or the file that it names.";
        Failure::permanent(Hop::Mid, "config_invalid", format!("[ways_out.{name}]: {error}"), action)
    })
}

/// Off without an endpoint.
fn telemetry(
    config: &MidConfig,
    clock: &Arc<dyn Clock>,
    random: &Arc<dyn Random>,
) -> Result<(Tracer, Option<Exporter>), Failure> {
    let way = CollectorWay::new(&config.telemetry, &config.base_dir).map_err(|error| {
        let action = "Correct that section of mid.toml, or the file that it names.";
        Failure::permanent(Hop::Mid, "config_invalid", format!("[telemetry]: {error}"), action)
    })?;
    let Some(way) = way else { return Ok((Tracer::off(), None)) };
    let (clock, random) = (Arc::clone(clock), Arc::clone(random));
    let (tracer, exporter) = midward_telemetry::start(&config.telemetry, "midward-mid", Arc::new(way), clock, random);
    Ok((tracer, Some(exporter)))
}

fn token_config(config: &MidConfig) -> TokenCacheConfig {
    TokenCacheConfig {
        budget: config.token_requests.rules(),
        budgets: config.token_requests.server_rules(),
        ..TokenCacheConfig::default()
    }
}

pub(crate) fn load_policy(file: &Path) -> Result<Policy, Failure> {
    Policy::load(file).map_err(|error| {
        Failure::permanent(
            Hop::Policy,
            "policy_invalid",
            format!("{}: {error}", file.display()),
            "Correct the policy file; `midward-mid policy check` reads it.",
        )
    })
}

fn resolver_context(
    config: &MidConfig,
    mid_name: &str,
    clock: &Arc<dyn Clock>,
    random: &Arc<dyn Random>,
) -> Result<ResolverContext, Failure> {
    let program = std::env::current_exe().map_err(|error| {
        Failure::permanent(
            Hop::Mid,
            "program_not_found",
            format!("the MID Server's own program cannot be found: {error}"),
            "Mount /proc.",
        )
    })?;
    Ok(ResolverContext {
        mid_name: mid_name.to_owned(),
        jar_host_dir: config.jar_host.dir.clone().unwrap_or_else(|| PathBuf::from("/usr/share/midward/jar-host")),
        state_dir: config.mid.state_dir.clone(),
        trampoline: vec![program.into_os_string(), OsString::from(TRAMPOLINE_COMMAND)],
        java: config.jar_host.java.clone().unwrap_or_else(find_java),
        vaults: way(config, "vaults", &config.ways_out.vaults)?,
        clock: Arc::clone(clock),
        random: Arc::clone(random),
    })
}

/// The usual places; the environment is not asked.
fn find_java() -> PathBuf {
    const PLACES: [&str; 4] =
        ["/usr/bin/java", "/usr/lib/jvm/default-java/bin/java", "/usr/local/bin/java", "/opt/java/openjdk/bin/java"];
    PLACES.iter().map(Path::new).find(|path| path.exists()).unwrap_or_else(|| Path::new(PLACES[0])).to_owned()
}
