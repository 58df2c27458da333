//! The zoo: JARs that hang, crash, fill, forge and confuse, each beside a resolver that is asked all the time and must
//! neither fail nor lose its process. Those that reach for what is not theirs are in `hostile.rs`.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use midward_core::Failure;
use midward_resolvers::Resolver;
use support::{Bench, resolve, resolved};

/// A call that cannot end otherwise ends after this.
const SHORT: &str = "timeout_ms = 1500\n";

struct Zoo {
    bench: Bench,
    neighbour: Arc<dyn Resolver>,
    next: AtomicUsize,
}

impl Zoo {
    async fn new() -> Self {
        let bench = Bench::new();
        // Asked some ten thousand times a second, it would be worn soon.
        let neighbour = bench.class("Moody", "recycle_after_calls = 1000000000");
        neighbour.warm_up().await;
        Self { bench, neighbour, next: AtomicUsize::new(0) }
    }

    /// A resolver with a JAR file, a state folder and a process of its own.
    fn animal(&self, class: &str, more: &str) -> Arc<dyn Resolver> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let jar = self.bench.folder.path().join(format!("animal-{number}.jar"));
        std::fs::copy(self.bench.jars.tests(), &jar).expect("copied");
        let text = format!("kind = 'jar'\njar = '{}'\nclass = 'jars.{class}'\n{more}", jar.display());
        let config = toml::from_str(&text).expect("configuration");
        midward_resolvers::build(&format!("animal-{number}"), &config, &self.bench.context())
    }

    /// Does it while the neighbour is asked without a pause.
    async fn beside_the_neighbour<T>(&self, what: impl Future<Output = T>) -> T {
        let process = resolved(&*self.neighbour, "n").await.0;
        let stop = Arc::new(AtomicBool::new(false));
        let asking = tokio::spawn({
            let (neighbour, stop, process) = (Arc::clone(&self.neighbour), Arc::clone(&stop), process.clone());
            async move {
                let mut answers = 0;
                while !stop.load(Ordering::Relaxed) || answers == 0 {
                    assert_eq!(resolved(&*neighbour, "n").await.0, process, "the neighbour's own process");
                    answers += 1;
                }
            }
        });
        let outcome = what.await;
        stop.store(true, Ordering::Relaxed);
        asking.await.expect("the neighbour saw no failure");
        assert_eq!(resolved(&*self.neighbour, "n").await.0, process);
        outcome
    }

    /// What each of these identifiers gets; the resolver serves the next call well.
    async fn each_gets(&self, class: &str, more: &str, expected: &[(&str, &[&str])]) {
        for (id, codes) in expected {
            let animal = self.animal(class, more);
            let outcome = self.beside_the_neighbour(resolve(&*animal, id)).await;
            let got = code(outcome.map(drop));
            assert!(codes.contains(&got.as_str()), "{class} {id}: {got}, not {codes:?}");
            if !id.starts_with("(load)") {
                let mut good = self.beside_the_neighbour(resolve(&*animal, "good")).await;
                if got.is_empty() && good.is_err() {
                    // It answered, and its process ended afterwards.
                    assert_eq!(code(good.map(drop)), "resolver_crashed", "{class} after {id}");
                    good = self.beside_the_neighbour(resolve(&*animal, "good")).await;
                }
                assert_eq!(code(good.map(drop)), "", "{class} after {id}");
            }
            animal.shut_down().await;
        }
    }
}

/// The failure's code, "" when there was none. No text of a JAR's own is in it.
fn code(outcome: Result<(), Failure>) -> String {
    outcome.map_or_else(
        |failure| {
            assert!(!format!("{failure:?}").contains("hunter2"), "a JAR's own text left: {failure:?}");
            failure.code
        },
        |()| String::new(),
    )
}

#[tokio::test]
async fn those_that_hang() {
    let zoo = Zoo::new().await;
    let ended: &[&str] = &["resolver_timeout"];
    zoo.each_gets(
        "Zoo",
        SHORT,
        &[
            ("deadlock", ended),
            ("sleep", ended),
            ("wait for a thread of its own", ended),
            ("message that never ends", ended),
            ("entries that never come", ended),
            ("exit hook that never ends", ended),
            // Whoever takes a part of a question away leaves a question that makes no sense.
            ("read the questions", &["resolver_timeout", "resolver_crashed"]),
        ],
    )
    .await;
    zoo.each_gets("Jars$Moody", SHORT, &[("loop", ended)]).await;
    zoo.each_gets("Zoo$HangsWhenMade", SHORT, &[("(load)", &["resolver_busy"])]).await;
}

#[tokio::test]
async fn those_that_end_their_process() {
    let zoo = Zoo::new().await;
    let crashed: &[&str] = &["resolver_crashed"];
    zoo.each_gets("Jars$Moody", "", &[("exit", crashed), ("halt", crashed), ("native crash", crashed)]).await;
    // The thread that reads ends with the next question. Since Java 20 no thread can be stopped.
    let stopped: &[&str] = &["", "resolver_crashed", "resolver_failed"];
    zoo.each_gets(
        "Zoo",
        "",
        &[("stop every thread", stopped), ("noise among the frames", crashed), ("frames without end", crashed)],
    )
    .await;
    zoo.each_gets("Zoo$ExitsWhenLoaded", "", &[("(load)", crashed)]).await;
}

#[tokio::test]
async fn those_that_take_what_there_is() {
    let zoo = Zoo::new().await;
    zoo.each_gets(
        "Jars$Moody",
        "",
        &[("memory", &["resolver_out_of_memory"]), ("stack", &["resolver_stack_overflow"])],
    )
    .await;
    zoo.each_gets("Jars$Moody", "", &[("leak", &[""]), ("threads", &[""])]).await;
    zoo.each_gets(
        "Zoo",
        "",
        &[
            ("direct memory", &["resolver_out_of_memory"]),
            ("a string of 100 MB", &["resolver_out_of_memory"]),
            // Whichever comes first, the heap's end or the limit.
            ("a million entries", &["result_too_many_keys", "resolver_out_of_memory"]),
            ("every descriptor", &["resolver_failed"]),
            ("fill the disk", &["resolver_failed"]),
        ],
    )
    .await;
    zoo.each_gets("Zoo", "heap_mib = 512", &[("a string of 100 MB", &["result_too_large"])]).await;
    zoo.each_gets("Jars$Printer", "", &[("print", &[""])]).await;
}

#[tokio::test]
async fn those_that_answer_nonsense() {
    let zoo = Zoo::new().await;
    zoo.each_gets(
        "Zoo",
        "",
        &[
            ("entries without end", &["result_too_many_keys"]),
            ("entries that throw", &["resolver_error"]),
            ("a throwable of its own", &["resolver_failed"]),
            ("thread death", &["resolver_error"]),
            ("linkage error", &["class_needs_missing_class"]),
        ],
    )
    .await;
    for (id, expected) in [("null", "result_null"), ("empty", "empty_secret"), ("numbers", "result_not_text")] {
        let odd = zoo.animal("Jars$Odd", "");
        let outcome = zoo.beside_the_neighbour(resolve(&*odd, id)).await;
        assert_eq!(code(outcome.map(drop)), expected, "{id}");
    }
}

#[tokio::test]
async fn those_that_change_the_jvm_around_them() {
    let zoo = Zoo::new().await;
    zoo.each_gets(
        "Zoo",
        "",
        &[("interrupt every thread", &[""]), ("settings of the JVM", &[""]), ("priorities", &[""])],
    )
    .await;
    zoo.each_gets("Jars$Stateful", "", &[("state", &[""])]).await;
}

#[tokio::test]
async fn those_that_cannot_be_loaded() {
    let zoo = Zoo::new().await;
    for (class, expected) in [
        ("Zoo$ThrowsWhenLoaded", "jar_unloadable"),
        ("Zoo$ThrowsWhenMade", "constructor_failed"),
        ("Zoo$IsAbstract", "no_constructor"),
        ("Jars$BadConfig", "config_failed"),
        ("Jars$NoConstructor", "no_constructor"),
        ("Jars$NoMethod", "no_resolve_method"),
    ] {
        zoo.each_gets(class, "", &[("(load)", &[expected])]).await;
    }
    // What goes wrong beside the point does not matter.
    for class in ["Zoo$HasHostileVersion", "Zoo$HasLongVersion"] {
        zoo.each_gets(class, "", &[("any", &[""])]).await;
    }
}
