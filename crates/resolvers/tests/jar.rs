//! A customer's JAR in a real JVM: both generations, and everything that broken or hostile ones do.

mod support;

use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use midward_core::{Clock as _, SystemClock};
use midward_resolvers::{JarDigest, ResolverReport};
use support::{Bench, failed, lookup, pair, resolve, resolved};

/// All that is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn has(&self, text: &str) -> bool {
        String::from_utf8_lossy(&self.0.lock().expect("log")).contains(text)
    }
}

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("log").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl tracing_subscriber::fmt::MakeWriter<'_> for Log {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

#[tokio::test]
async fn both_generations_and_the_getter_constructor_load() {
    let bench = Bench::new();
    let legacy = bench.class("Legacy", "");
    let got = resolved(&*legacy, "crm").await;
    assert_eq!(got, ("id-crm/oauth_2_0/mid-1/null".into(), "secret-crm/oauth_2_0/mid-1/null".into()));
    assert_eq!(legacy.report(), ResolverReport::Ready);

    let modern = bench.class("Modern", "parameters = { 'ext.cred.a' = '1', other = '2' }");
    assert_eq!(resolved(&*modern, "x").await, ("{ext.cred.a=1}/2/fallback".into(), "secret-x".into()));

    let getter = bench.class("WithGetter", "parameters = { 'mid.external_credentials.vault.address' = 'V' }");
    assert_eq!(resolved(&*getter, "x").await.0, "id-V");
}

#[tokio::test]
async fn every_call_gets_a_fresh_object_and_its_own_answer() {
    let bench = Bench::new();
    for concurrency in [1, 3, 64] {
        let resolver = bench.class("Stateful", &format!("concurrency = {concurrency}"));
        let calls: Vec<_> = (0..64)
            .map(|number| {
                let resolver = Arc::clone(&resolver);
                tokio::spawn(async move { (number, resolved(&*resolver, &format!("canary-{number}")).await) })
            })
            .collect();
        for call in calls {
            let (number, got) = call.await.expect("joined");
            assert_eq!(got, (format!("id-canary-{number}"), format!("secret-canary-{number}")), "{concurrency}");
        }
    }
}

#[tokio::test]
async fn what_a_jar_prints_is_drained_and_reaches_no_log() {
    let bench = Bench::new();
    let log = Log::default();
    let subscriber =
        tracing_subscriber::fmt().with_max_level(tracing::level_filters::LevelFilter::TRACE).with_writer(log.clone());
    let guard = tracing::subscriber::set_default(subscriber.finish());
    let printer = bench.class("Printer", "");
    assert_eq!(resolved(&*printer, "x").await.1, "secret-x");
    printer.shut_down().await;
    // How much it was is told when its streams end.
    let told = async {
        while !(log.has("to stdout") && log.has("to stderr")) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), told).await.expect("both streams were read to their ends");
    drop(guard);
    assert!(!log.has("secret-x") && !log.has("the password"), "what it printed");
}

#[tokio::test]
async fn only_listed_environment_variables_reach_the_jar() {
    let bench = Bench::new();
    let resolver =
        bench.class("Environment", "environment = ['NOT_SET_ANYWHERE']\nenvironment_values = { LISTED = 'v' }");
    assert_eq!(resolved(&*resolver, "x").await, ("LC_ALL,LISTED,MALLOC_ARENA_MAX,TMPDIR".into(), "v".into()));
}

#[tokio::test]
async fn an_ended_process_is_reported_at_once_and_started_again() {
    let bench = Bench::new();
    let resolver = bench.class("Moody", "");
    let first = resolved(&*resolver, "a").await.0;
    for way in ["exit", "halt", "native crash"] {
        let before = SystemClock.boot();
        assert_eq!(failed(&*resolver, way).await.code, "resolver_crashed");
        let took = SystemClock.boot().saturating_since(before);
        assert!(took < Duration::from_secs(2), "{way}: {took:?}");
        assert_ne!(resolved(&*resolver, "a").await.0, first, "another process answers");
    }
    assert_eq!(resolver.report(), ResolverReport::Ready);
}

#[tokio::test]
async fn a_process_that_keeps_ending_is_started_ever_more_rarely() {
    let bench = Bench::new();
    let jar = bench.jars.tests();
    let class = "class = 'jars.Zoo$ExitsWhenLoaded'\ntimeout_ms = 1500";
    let resolver = bench.resolver(&format!("kind = 'jar'\njar = '{}'\n{class}", jar.display()));
    let mut crashes = 0;
    let failure = loop {
        let failure = failed(&*resolver, "x").await;
        match failure.code.as_str() {
            "resolver_crashed" => crashes += 1,
            // Whoever waited for the pause, and then for the start.
            "resolver_busy" => {}
            _ => break failure,
        }
        assert!(crashes < 30, "started again and again");
    };
    assert_eq!(failure.code, "resolver_restarting", "{failure}");
    assert!(crashes >= 2, "the first pauses are short: {crashes}");
    // The pause is longer than the caller waits, who hears so at once.
    let wait = failure.detail.split(' ').rev().nth(1).and_then(|millis| millis.parse::<u64>().ok());
    assert!(wait.is_some_and(|millis| millis > 1000), "{failure}");
    assert_eq!(resolver.report(), ResolverReport::Degraded(failure.detail));
}

#[tokio::test]
async fn an_endless_loop_ends_at_its_deadline_and_harms_no_neighbour() {
    let bench = Bench::new();
    let (hung, other) = (bench.class("Moody", ""), bench.class("Moody", ""));
    hung.warm_up().await;
    let neighbour = resolved(&*other, "n").await;
    let looping = lookup("loop");
    let (looped, beside) = tokio::join!(hung.resolve(&looping, Duration::from_secs(1)), resolve(&*hung, "beside"));
    assert_eq!(looped.expect_err("ended").0.code, "resolver_timeout");
    assert!(pair(&beside.expect("answered")).0.starts_with("id-beside@"));
    assert!(resolved(&*hung, "after").await.0.starts_with("id-after@"));
    assert_eq!(resolved(&*other, "n").await, neighbour, "the same process as before");
}

#[tokio::test]
async fn errors_of_the_jvm_are_typed_and_the_process_is_replaced() {
    let bench = Bench::new();
    let resolver = bench.class("Moody", "heap_mib = 32");
    for (id, code) in [("memory", "resolver_out_of_memory"), ("stack", "resolver_stack_overflow")] {
        let before = resolved(&*resolver, "a").await.0;
        assert_eq!(failed(&*resolver, id).await.code, code);
        assert_ne!(resolved(&*resolver, "a").await.0, before, "{id}: another process answers");
    }
}

#[tokio::test]
async fn a_worn_process_is_replaced() {
    let bench = Bench::new();
    let resolver = bench.class("Moody", "recycle_after_calls = 2");
    let mut processes = Vec::new();
    for _ in 0..6 {
        processes.push(resolved(&*resolver, "a").await.0);
    }
    processes.dedup();
    assert_eq!(processes.len(), 3, "{processes:?}");
}

#[tokio::test]
async fn a_process_that_leaks_is_replaced_by_its_resident_size() {
    let bench = Bench::new();
    let resolver = bench.class("Moody", "resident_limit_mib = 150");
    let neighbour = bench.class("Moody", "");
    let (first, beside) = (resolved(&*resolver, "a").await.0, resolved(&*neighbour, "a").await.0);
    assert_eq!(resolved(&*resolver, "a").await.0, first);
    let leaking = resolved(&*resolver, "leak").await.0;
    assert_eq!(leaking.rsplit('@').next(), first.rsplit('@').next(), "the leak is in the first process");
    assert_ne!(resolved(&*resolver, "a").await.0, first, "another process answers");

    // Threads without end: each takes its stack, until that is too much as well.
    let mut processes = std::collections::BTreeSet::new();
    for _ in 0..40 {
        let answered = resolved(&*resolver, "threads").await.0;
        processes.insert(answered.rsplit('@').next().expect("pid").to_owned());
    }
    assert!(processes.len() > 1, "{processes:?}");
    assert_eq!(resolved(&*neighbour, "a").await.0, beside, "the same process as before");
}

#[tokio::test]
async fn a_zip_bomb_is_unusable_and_harms_nobody() {
    let bench = Bench::new();
    let neighbour = bench.class("Moody", "");
    let beside = resolved(&*neighbour, "a").await.0;
    let folder = bench.folder.path().join("bomb");
    let class = folder.join("com/snc/discovery/CredentialResolver.class");
    std::fs::create_dir_all(class.parent().expect("folder")).expect("folder");
    std::fs::File::create(&class).expect("class").set_len(96 << 20).expect("zeros");
    assert!(Command::new("jar").args(["cf", "bomb.jar", "com"]).current_dir(&folder).status().expect("jar").success());
    let jar = folder.join("bomb.jar");
    assert!(std::fs::metadata(&jar).expect("jar").len() < 1 << 20);
    let resolver = bench.resolver(&format!("kind = 'jar'\njar = '{}'", jar.display()));
    let failure = failed(&*resolver, "x").await;
    assert_eq!(failure.code, "jar_unloadable", "{failure}");
    assert!(failure.detail.contains("OutOfMemoryError"), "{failure}");
    assert!(matches!(resolver.report(), ResolverReport::Unusable(_)));
    assert_eq!(resolved(&*neighbour, "a").await.0, beside, "the same process as before");
}

#[tokio::test]
async fn an_exceptions_text_stays_inside_but_a_known_vault_code_gets_out() {
    let bench = Bench::new();
    let resolver = bench.class("Moody", "");
    let thrown = failed(&*resolver, "throw").await;
    assert_eq!(thrown.code, "resolver_failed");
    assert!(thrown.detail.contains("java.lang.IllegalStateException"), "{thrown}");
    let vault = failed(&*resolver, "vault").await;
    assert_eq!(vault.code, "vault_not_found");
    assert!(vault.detail.contains("APPAP004E"), "{vault}");
    let forged = failed(&*resolver, "forged").await;
    assert!(!format!("{forged:?}").contains("HUNTR222E"), "{forged}");
}

#[tokio::test]
async fn odd_results_are_typed_errors() {
    let bench = Bench::new();
    let resolver = bench.class("Odd", "");
    for (id, code) in [
        ("null", "result_null"),
        ("empty", "empty_secret"),
        ("numbers", "result_not_text"),
        ("nullkey", "result_null_key"),
        ("large", "result_too_large"),
        ("many", "result_too_many_keys"),
        ("null value", "empty_secret"),
    ] {
        assert_eq!(failed(&*resolver, id).await.code, code, "{id}");
    }
    let names = failed(&*resolver, "names").await;
    assert!(names.detail.contains("user") && names.detail.contains("passwort"), "{names}");
    assert!(!names.detail.contains("has space"), "{names}");
    for bad in ["a;b", "-o", "a\nb", "a/../b"] {
        assert_eq!(failed(&*resolver, bad).await.code, "invalid_credential_id", "{bad:?}");
    }
}

#[tokio::test]
async fn a_jar_that_cannot_be_used_says_why() {
    let bench = Bench::new();
    for (class, code) in [
        ("BadConfig", "config_failed"),
        ("NoConstructor", "no_constructor"),
        ("NoMethod", "no_resolve_method"),
        ("Absent", "class_not_found"),
    ] {
        let resolver = bench.class(class, "");
        resolver.warm_up().await;
        let failure = failed(&*resolver, "x").await;
        assert_eq!(failure.code, code, "{failure}");
        assert_eq!(resolver.report(), ResolverReport::Unusable(failure.detail));
    }
    let text = bench.folder.path().join("text.jar");
    std::fs::write(&text, "this is no JAR").expect("written");
    let at = |jar: &std::path::Path| bench.resolver(&format!("kind = 'jar'\njar = '{}'", jar.display()));
    assert_eq!(failed(&*at(&text), "x").await.code, "not_a_jar");
    assert_eq!(failed(&*at(bench.folder.path()), "x").await.code, "not_a_jar");
    assert_eq!(failed(&*at(&bench.folder.path().join("no.jar")), "x").await.code, "jar_missing");
    assert_eq!(failed(&*at(&newer_java(&bench)), "x").await.code, "class_version");
    let missing = format!("kind = 'jar'\njar = '{}'\njava = '/no/java'", bench.jars.sample().display());
    assert_eq!(failed(&*bench.resolver(&missing), "x").await.code, "jvm_missing");
}

#[tokio::test]
async fn the_customers_classes_win_and_its_lib_folder_joins_them() {
    let bench = Bench::new();
    let folder = bench.folder.path().join("customer");
    std::fs::create_dir_all(folder.join("lib")).expect("folder");
    let run = |words: &[&str]| {
        assert!(Command::new("jar").args(words).current_dir(&folder).status().expect("jar").success());
    };
    run(&["xf", bench.jars.own_classes().to_str().expect("path")]);
    run(&["cf", "resolver.jar", "com"]);
    let resolver = bench.resolver(&format!("kind = 'jar'\njar = '{}/resolver.jar'", folder.display()));
    let missing = failed(&*resolver, "x").await;
    assert_eq!(missing.code, "class_needs_missing_class");
    assert!(missing.detail.contains("helper.Helper"), "{missing}");
    run(&["cf", "lib/helper.jar", "helper"]);
    assert_eq!(resolved(&*resolver, "x").await, ("own interface, own config".into(), "helped".into()));
}

#[tokio::test]
async fn a_replaced_jar_is_loaded_without_a_restart() {
    let bench = Bench::new();
    let jar = bench.folder.path().join("customer.jar");
    let put = |source: &std::path::Path| {
        let new = bench.folder.path().join("new.jar");
        std::fs::copy(source, &new).expect("copied");
        std::fs::rename(&new, &jar).expect("renamed");
    };
    put(&bench.jars.tests());
    let resolver = bench.resolver(&format!("kind = 'jar'\njar = '{}'\nclass = 'jars.Jars$Moody'", jar.display()));
    let first = resolved(&*resolver, "a").await.0;
    assert_eq!(resolved(&*resolver, "a").await.0, first);
    std::fs::write(bench.folder.path().join("broken"), "half a JAR").expect("written");
    put(&bench.folder.path().join("broken"));
    assert_eq!(failed(&*resolver, "a").await.code, "not_a_jar");
    put(&bench.jars.tests());
    assert_ne!(resolved(&*resolver, "a").await.0, first);
}

#[tokio::test]
async fn a_pinned_jar_is_loaded_only_as_it_was_pinned() {
    let bench = Bench::new();
    let folder = bench.folder.path().join("pinned");
    std::fs::create_dir_all(folder.join("lib")).expect("folder");
    let jar = folder.join("resolver.jar");
    std::fs::copy(bench.jars.tests(), &jar).expect("copied");
    std::fs::copy(bench.jars.own_classes(), folder.join("lib/a.jar")).expect("copied");
    let pin = JarDigest::of(&jar, None).expect("read");
    let pinned = |pin: &str| {
        let jar = jar.display();
        bench.resolver(&format!("kind = 'jar'\njar = '{jar}'\nclass = 'jars.Jars$Moody'\nsha256 = '{pin}'"))
    };
    let resolver = pinned(pin.as_str());
    let process = resolved(&*resolver, "a").await.0;
    // The library alone: it would win over what the JAR finds elsewhere.
    std::fs::copy(bench.jars.sample(), folder.join("lib/a.jar")).expect("copied");
    let mismatch = failed(&*resolver, "a").await;
    assert_eq!(mismatch.code, "jar_pin_mismatch");
    let now = JarDigest::of(&jar, None).expect("read");
    assert!(mismatch.detail.contains(now.as_str()), "{mismatch}");
    assert_eq!(resolver.report(), ResolverReport::Unusable(mismatch.detail));
    assert_eq!(failed(&*pinned(&"0".repeat(64)), "a").await.code, "jar_pin_mismatch");
    std::fs::copy(bench.jars.own_classes(), folder.join("lib/a.jar")).expect("copied");
    assert_ne!(resolved(&*resolver, "a").await.0, process, "what was pinned is loaded again");
}

#[tokio::test]
async fn a_running_call_ends_on_the_old_jar_while_the_new_one_serves() {
    let bench = Bench::new();
    let folder = bench.folder.path().join("gate");
    std::fs::create_dir(&folder).expect("folder");
    let jar = bench.folder.path().join("customer.jar");
    std::fs::copy(bench.jars.tests(), &jar).expect("copied");
    let resolver = bench.resolver(&format!(
        "kind = 'jar'\njar = '{}'\nclass = 'jars.Jars$Gate'\nwritable_paths = ['{1}']\n\
         environment_values = {{ GATE = '{1}' }}",
        jar.display(),
        folder.display()
    ));
    let old = resolved(&*resolver, "a").await.0;
    let waiting = tokio::spawn({
        let resolver = Arc::clone(&resolver);
        async move { resolved(&*resolver, "wait").await.0 }
    });
    let entered = async {
        while !folder.join("entered").exists() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), entered).await.expect("the call is in the JAR");
    std::fs::copy(bench.jars.tests(), bench.folder.path().join("new.jar")).expect("copied");
    std::fs::rename(bench.folder.path().join("new.jar"), &jar).expect("replaced");
    let new = resolved(&*resolver, "a").await.0;
    assert_ne!(new, old, "another process");
    std::fs::write(folder.join("open"), "").expect("written");
    assert_eq!(waiting.await.expect("joined"), old.replace("id-a@", "id-wait@"), "the old process answered");
    assert_eq!(resolved(&*resolver, "a").await.0, new);
}

#[tokio::test]
async fn the_sample_jar_gets_any_secret_through_the_command_line_client() {
    use std::os::unix::fs::PermissionsExt as _;
    let bench = Bench::new();
    let client = bench.folder.path().join("clipasswordsdk");
    let secret = format!("a,b;c|%+& \"'\\ ü€😀{}, ", "x,".repeat(2000));
    std::fs::write(bench.folder.path().join("secret"), &secret).expect("written");
    // The separator is the last argument; an unknown object is refused as the real client does.
    let script = "#!/bin/sh\nfor last; do :; done\ncase \"$*\" in\n*Object=none*) echo 'APPAP004E no hunter2' >&2; exit 1;;\n\
                  *Object=hang*) exec sleep 100;;\nesac\nprintf 'cli,ent%s%s\\n' \"$last\" \"$(cat \"${0%/*}/secret\")\"\n";
    std::fs::write(&client, script).expect("written");
    std::fs::set_permissions(&client, std::fs::Permissions::from_mode(0o755)).expect("executable");
    let resolver = bench.resolver(&format!(
        "kind = 'jar'\njar = '{1}'\nparameters = {{ 'ext.cred.safe_timeout' = '1' }}\n\
         executables = ['/bin/sh', '/bin/cat', '/bin/sleep']\nreadable_paths = ['{0}/secret']\n\
         environment = ['PATH']\nenvironment_values = {{ AIM_CLIPASSWORDSDK_CMD = '{0}/clipasswordsdk' }}",
        bench.folder.path().display(),
        bench.jars.sample().display(),
    ));
    assert_eq!(resolved(&*resolver, "safe:crm").await, ("cli,ent".into(), secret));
    assert_eq!(failed(&*resolver, "safe:none").await.code, "vault_not_found");
    assert_eq!(failed(&*resolver, "safe:hang").await.code, "vault_client_timeout");
    std::fs::remove_file(&client).expect("removed");
    assert_eq!(failed(&*resolver, "safe:crm").await.code, "vault_client_absent");
}

#[tokio::test]
async fn a_shut_down_resolver_starts_nothing_more() {
    let bench = Bench::new();
    let resolver = bench.class("Moody", "");
    let process = resolved(&*resolver, "a").await.0;
    let pid = process.rsplit('@').next().expect("pid").to_owned();
    resolver.shut_down().await;
    assert_eq!(failed(&*resolver, "a").await.code, "resolver_stopped");
    let gone = async {
        while std::path::Path::new("/proc").join(&pid).exists() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), gone).await.expect("the process ends");
}

/// A JAR with a class of a version that no Java has yet.
fn newer_java(bench: &Bench) -> std::path::PathBuf {
    let folder = bench.folder.path().join("newer");
    std::fs::create_dir(&folder).expect("folder");
    let run = |words: &[&str]| {
        assert!(Command::new("jar").args(words).current_dir(&folder).status().expect("jar").success());
    };
    run(&["xf", bench.jars.sample().to_str().expect("path"), "com"]);
    let class = folder.join("com/snc/discovery/CredentialResolver.class");
    let mut bytes = std::fs::read(&class).expect("class");
    bytes[6..8].copy_from_slice(&200_u16.to_be_bytes());
    std::fs::write(&class, bytes).expect("written");
    run(&["cf", "newer.jar", "com"]);
    folder.join("newer.jar")
}
