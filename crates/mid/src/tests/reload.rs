//! `mid.toml` and the policy read again while the MID Server runs.

use std::path::Path;
use std::sync::{Arc, Mutex};

use midward_core::{SystemClock, SystemRandom};
use midward_net::WayOut;
use midward_resolvers::{Resolver, ResolverContext, ResolverSet};

use super::engine::engine;
use super::instance::Scripted;
use crate::config::MidConfig;
use crate::policy::PolicyStore;
use crate::reload::{Reload, shared};
use crate::service::load_policy;

const HEAD: &str = "[mid]\nname = \"edge-1\"\nstate_dir = \"state\"\n[policy]\nfile = \"policy.toml\"\n";

struct Bench {
    folder: tempfile::TempDir,
    reload: Reload,
}

impl Bench {
    async fn new(resolvers: &str) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        write(folder.path(), "mid.toml", &format!("{HEAD}{resolvers}"));
        write(folder.path(), "policy.toml", "version = 1\n");
        let third = Scripted::start(|_| unreachable!("nobody is asked")).await;
        let (engine, _, _) = engine(&third, &folder).await;
        let file = folder.path().join("mid.toml");
        let config = MidConfig::load(&file).expect("legal");
        let context = ResolverContext {
            mid_name: "edge-1".to_owned(),
            jar_host_dir: "/nowhere".into(),
            state_dir: folder.path().join("state"),
            trampoline: Vec::new(),
            java: "/nowhere/java".into(),
            vaults: WayOut::plain_default().expect("a way out"),
            clock: Arc::new(SystemClock),
            random: Arc::new(SystemRandom),
        };
        let set = ResolverSet::build(&config.resolvers, &context).expect("built");
        let policy_file = config.policy.file;
        let policy = load_policy(&policy_file).expect("a policy");
        let reload = Reload {
            load: Box::new(move || MidConfig::load(&file)),
            policy_file,
            policy: Arc::new(PolicyStore::new(policy, Arc::new(SystemRandom))),
            engine: Arc::new(engine),
            resolvers: shared(&set),
            set: Mutex::new(set),
            context,
            wanted: Arc::default(),
        };
        Self { folder, reload }
    }

    fn resolver(&self, name: &str) -> Option<Arc<dyn Resolver>> {
        self.reload.resolvers.load().get(name).cloned()
    }

    fn names(&self) -> Vec<String> {
        self.reload.resolvers.load().keys().cloned().collect()
    }

    fn allows_jar(&self) -> bool {
        self.reload.policy.current().allows_jar(&digest().try_into().expect("a digest"))
    }
}

fn write(folder: &Path, name: &str, text: &str) {
    std::fs::write(folder.join(name), text).expect("written");
}

fn jar(name: &str, more: &str) -> String {
    format!("[resolvers.{name}]\nkind = \"jar\"\njar = \"{name}.jar\"\n{more}\n")
}

fn digest() -> String {
    "ab".repeat(32)
}

#[tokio::test]
async fn what_changed_is_taken_over_and_the_rest_stays_as_it_is() {
    let bench = Bench::new(&(jar("kept", "") + &jar("changed", "") + &jar("removed", ""))).await;
    let (kept, changed, removed) = (bench.resolver("kept"), bench.resolver("changed"), bench.resolver("removed"));
    let held = Arc::downgrade(removed.as_ref().expect("there"));
    let fetched = format!("[resolvers.added]\nkind = \"jar\"\nfrom_instance = \"x\"\nsha256 = \"{}\"\n", digest());
    let text = HEAD.to_owned() + &jar("kept", "") + &jar("changed", "limits = { max_concurrent = 1 }") + &fetched;
    write(bench.folder.path(), "mid.toml", &text);
    write(bench.folder.path(), "policy.toml", &format!("version = 1\njars = [\"{}\"]\n", digest()));

    let changes = bench.reload.reload().expect("legal");
    assert_eq!((changes.added, changes.changed), (vec!["added".to_owned()], vec!["changed".to_owned()]));
    assert_eq!((changes.removed, changes.unchanged), (vec!["removed".to_owned()], vec!["kept".to_owned()]));
    assert_eq!(bench.names(), ["added", "changed", "kept"]);
    let same = |before: &Option<Arc<dyn Resolver>>, name: &str| {
        Arc::ptr_eq(before.as_ref().expect("there"), &bench.resolver(name).expect("there"))
    };
    assert!(same(&kept, "kept") && !same(&changed, "changed"));
    assert!(bench.allows_jar(), "the policy was read too");
    let wanted = bench.reload.wanted.load();
    assert_eq!(wanted.iter().map(|wanted| wanted.resolver.as_str()).collect::<Vec<_>>(), ["added"]);
    // It lives as long as somebody uses it, and no longer.
    assert!(held.upgrade().is_some());
    drop(removed);
    assert!(held.upgrade().is_none());

    let again = bench.reload.reload().expect("legal");
    assert!(again.added.is_empty() && again.changed.is_empty() && again.removed.is_empty());
    assert_eq!(again.unchanged.len(), 3);
}

#[tokio::test]
async fn files_that_cannot_be_read_change_nothing_and_say_why() {
    let bench = Bench::new(&jar("kept", "")).await;
    let (kept, digest) = (bench.resolver("kept").expect("there"), digest());
    let good = HEAD.to_owned() + &jar("kept", "") + &jar("added", "");
    let allowing = format!("version = 1\njars = [\"{digest}\"]\n");
    let route = "[resolvers.r]\nkind = \"route\"\nrules = [{ pattern = \"*\", to = [\"gone\"] }]\n";
    for (mid, policy, code) in [
        (good.replace("kind", "kid"), allowing.as_str(), "config_invalid"),
        (good.clone() + route, &allowing, "config_invalid"),
        (good.clone() + "[log]\npassword = \"hunter2\"\n", &allowing, "secret_in_config"),
        (good.clone(), "version = 2\n", "policy_invalid"),
        (good.clone(), "", "policy_invalid"),
    ] {
        write(bench.folder.path(), "mid.toml", &mid);
        write(bench.folder.path(), "policy.toml", policy);
        let failure = bench.reload.reload().expect_err(code);
        assert_eq!(failure.code, code, "{failure}");
        assert!(!failure.to_string().contains("hunter2"), "{failure}");
        assert_eq!(bench.names(), ["kept"]);
        assert!(Arc::ptr_eq(&kept, &bench.resolver("kept").expect("there")));
        assert!(!bench.allows_jar(), "nor is the other file taken over");
    }
    std::fs::remove_file(bench.folder.path().join("mid.toml")).expect("removed");
    assert_eq!(bench.reload.reload().expect_err("no file").code, "config_not_read");
    write(bench.folder.path(), "mid.toml", &good);
    write(bench.folder.path(), "policy.toml", &allowing);
    assert_eq!(bench.reload.reload().expect("legal").added, ["added"]);
    assert!(bench.allows_jar());
}
