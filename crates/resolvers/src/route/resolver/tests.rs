use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use midward_core::Persistence;

use super::Route;
use crate::testing::{Conduct, MemoryVault, VirtualClock, ask, ask_within, failure, fresh, lookup};
use crate::{Resolver, ResolverReport, RouteConfig};

struct Bench {
    first: Arc<MemoryVault>,
    second: Arc<MemoryVault>,
    route: Route,
}

fn bench(rules: &str) -> Bench {
    let config: RouteConfig = toml::from_str(rules).expect("legal");
    let (first, second) = (MemoryVault::new(Conduct::default()), MemoryVault::new(Conduct::default()));
    let targets: BTreeMap<String, Arc<dyn Resolver>> = BTreeMap::from([
        ("first".to_owned(), Arc::clone(&first) as _),
        ("second".to_owned(), Arc::clone(&second) as _),
    ]);
    Bench { first, second, route: Route::new("default", &config, targets, VirtualClock::start()) }
}

const BOTH: &str = "rules = [{ pattern = '*', to = ['first', 'second'] }]";
const BOTH_EVEN_IF_NOT_FOUND: &str =
    "rules = [{ pattern = '*', to = ['first', 'second'], fallback_on_not_found = true }]";

fn fails(persistence: Persistence, code: &str) -> impl FnOnce(&mut Conduct) {
    let failure = failure(persistence, code);
    move |conduct| conduct.fails = Some(failure)
}

#[tokio::test(start_paused = true)]
async fn an_identifier_goes_where_its_rule_says_and_says_so() {
    let bench = bench(
        "[[rules]]\nprefix = 'aws/'\nstrip_prefix = true\nto = ['second']\n[[rules]]\npattern = 'crm-*'\nto = ['first']\n",
    );
    bench.first.put("crm-eu", "of the first");
    bench.second.put("crm", "of the second");
    assert_eq!(ask(&bench.route, &fresh("crm-eu")).await.expect("found"), "of the first");
    assert!(bench.first.asked()[0].fresh);
    let question = lookup("aws/crm");
    let found = bench.route.resolve(&question, Duration::from_secs(1)).await.expect("found");
    let steps: Vec<_> = found.trace.0.iter().map(|step| step.what.as_str()).collect();
    assert_eq!(steps, ["rule 1 of default led to second", "answered"]);
    assert_eq!(bench.second.asked()[0].credential_id, "crm");
    let none = ask(&bench.route, &lookup("other")).await.expect_err("no rule");
    assert_eq!((none.code.as_str(), none.persistence), ("route_missing", Persistence::Permanent));
    for bad in ["aws/-o", "aws/a;b", "-a", "crm-\n"] {
        assert_eq!(ask(&bench.route, &lookup(bad)).await.expect_err(bad).code, "invalid_credential_id");
    }
    assert_eq!((bench.first.asked().len(), bench.second.asked().len()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn the_next_is_asked_when_one_fails_for_now() {
    let bench = bench(BOTH);
    bench.second.put("a", "spare");
    bench.first.now(fails(Persistence::Transient, "vault_unreachable"));
    let question = lookup("a");
    let found = bench.route.resolve(&question, Duration::from_secs(1)).await.expect("found");
    let steps: Vec<_> = found.trace.0.iter().map(|step| step.what.as_str()).collect();
    assert_eq!(steps, ["first failed (vault_unreachable)", "rule 1 of default led to second", "answered"]);
}

#[tokio::test(start_paused = true)]
async fn one_that_hangs_leaves_time_for_the_next() {
    let bench = bench(BOTH);
    bench.second.put("a", "spare");
    bench.first.now(|conduct| conduct.takes = Duration::from_hours(1));
    let found = ask_within(&bench.route, &lookup("a"), Duration::from_secs(10)).await;
    assert_eq!(found.expect("half of the time was left"), "spare");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_an_answer() {
    for code in ["vault_denied", "vault_ambiguous", "empty_secret", "vault_login_refused"] {
        let bench = bench(BOTH_EVEN_IF_NOT_FOUND);
        bench.second.put("a", "spare");
        bench.first.now(fails(Persistence::Permanent, code));
        let refused = ask(&bench.route, &lookup("a")).await.expect_err("refused");
        assert_eq!((refused.code.as_str(), bench.second.asked().len()), (code, 0));
        assert!(refused.detail.ends_with("(resolver default asked first)"), "{refused}");
    }
}

#[tokio::test(start_paused = true)]
async fn not_found_goes_on_only_where_it_is_configured() {
    let closed = bench(BOTH);
    closed.second.put("a", "spare");
    assert_eq!(ask(&closed.route, &lookup("a")).await.expect_err("none").code, "vault_not_found");
    assert!(closed.second.asked().is_empty());
    let open = bench(BOTH_EVEN_IF_NOT_FOUND);
    open.second.put("a", "spare");
    assert_eq!(ask(&open.route, &lookup("a")).await.expect("found"), "spare");
    let nowhere = ask(&open.route, &lookup("b")).await.expect_err("nowhere");
    assert_eq!(nowhere.code, "vault_not_found");
    assert!(nowhere.detail.contains("asked first, then second"), "{nowhere}");
}

#[tokio::test(start_paused = true)]
async fn the_failure_that_counts_is_the_one_to_act_on() {
    for (first, second, counts) in [
        ((Persistence::Transient, "vault_unreachable"), (Persistence::Transient, "vault_timeout"), "vault_unreachable"),
        // The account may be in the one that cannot be reached.
        (
            (Persistence::Transient, "vault_unreachable"),
            (Persistence::Permanent, "vault_not_found"),
            "vault_unreachable",
        ),
        ((Persistence::Permanent, "vault_not_found"), (Persistence::Transient, "vault_timeout"), "vault_timeout"),
        ((Persistence::Transient, "vault_unreachable"), (Persistence::Permanent, "vault_denied"), "vault_denied"),
    ] {
        let bench = bench(BOTH_EVEN_IF_NOT_FOUND);
        bench.first.now(fails(first.0, first.1));
        bench.second.now(fails(second.0, second.1));
        assert_eq!(ask(&bench.route, &lookup("a")).await.expect_err("both").code, counts, "{first:?} {second:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn it_reports_what_its_rules_can_serve() {
    let rules = "rules = [{ prefix = 'a', to = ['first', 'second'] }, { prefix = 'b', to = ['second'] }]";
    let unusable = || Some(ResolverReport::Unusable("no JAR".to_owned()));
    for (first, second, report) in [
        (None, None, ResolverReport::Ready),
        (unusable(), None, ResolverReport::Ready),
        (None, unusable(), ResolverReport::Degraded("second: no JAR".to_owned())),
        (unusable(), unusable(), ResolverReport::Unusable("first: no JAR".to_owned())),
    ] {
        let bench = bench(rules);
        bench.first.now(|conduct| conduct.reports = first);
        bench.second.now(|conduct| conduct.reports = second);
        assert_eq!(bench.route.report(), report);
    }
}
