use std::collections::BTreeMap;
use std::sync::Arc;

use midward_core::{SystemClock, SystemRandom};
use midward_net::WayOut;

use super::{ResolverSet, SetChanges, check_routes};
use crate::{ResolverContext, ResolverSection};

fn sections(text: &str) -> BTreeMap<String, ResolverSection> {
    toml::from_str(text).expect("legal")
}

fn context() -> ResolverContext {
    ResolverContext {
        mid_name: "mid-1".to_owned(),
        jar_host_dir: "/nowhere".into(),
        state_dir: "/nowhere".into(),
        trampoline: Vec::new(),
        java: "/nowhere".into(),
        vaults: WayOut::plain_default().expect("a way out"),
        clock: Arc::new(SystemClock),
        random: Arc::new(SystemRandom),
    }
}

fn jar(name: &str) -> String {
    format!("[{name}]\nkind = 'jar'\njar = '/{name}.jar'\n")
}

fn route(name: &str, to: &str) -> String {
    format!("[{name}]\nkind = 'route'\nrules = [{{ pattern = '*', to = {to} }}]\n")
}

#[test]
fn routes_stand_behind_what_they_lead_to() {
    let text = route("a", "['b', 'z']") + &route("b", "['z']") + &jar("z");
    assert_eq!(check_routes(&sections(&text)).expect("no circle"), ["z", "b", "a"]);
    let set = ResolverSet::build(&sections(&text), &context()).expect("built");
    assert_eq!(
        set.resolvers().iter().map(|(name, resolver)| (name.as_str(), resolver.kind())).collect::<Vec<_>>(),
        [("a", "route"), ("b", "route"), ("z", "jar")]
    );
}

#[test]
fn circles_unknown_names_and_idle_settings_are_refused() {
    for (text, what) in [
        (route("a", "['a']"), "circle: a"),
        (route("a", "['b']") + &route("b", "['c']") + &route("c", "['a', 'z']") + &jar("z"), "circle: a, b, c"),
        (route("a", "['other']"), "leads to \"other\""),
        (route("a", "[]"), "rule 1 names 0 resolvers"),
        (route("a", "['z']") + "limits = { max_concurrent = 1 }\n" + &jar("z"), "a is a route"),
        (route("a", "['z']") + "cache = { ttl_seconds = 1 }\n" + &jar("z"), "a is a route"),
    ] {
        let failure = ResolverSet::build(&sections(&text), &context()).expect_err(what);
        assert_eq!(failure.code, "config_invalid");
        assert!(failure.detail.contains(what), "{failure}");
    }
}

#[test]
fn what_is_the_same_stays_the_same_object() {
    let text = route("a", "['y']") + &route("b", "['x']") + &jar("x") + &jar("y") + &jar("z");
    let old = ResolverSet::build(&sections(&text), &context()).expect("built");
    let text =
        route("a", "['y']") + &route("b", "['x']") + &jar("x") + &jar("y") + "limits = { burst = 2 }\n" + &jar("w");
    let (new, changes) = old.renewed(&sections(&text), &context()).expect("built");
    let names = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    assert_eq!(
        changes,
        SetChanges {
            added: names(&["w"]),
            changed: names(&["a", "y"]),
            removed: names(&["z"]),
            unchanged: names(&["b", "x"]),
        }
    );
    let (old, new) = (old.resolvers(), new.resolvers());
    let same = |name: &str| Arc::ptr_eq(&old[name], &new[name]);
    assert!(same("b") && same("x") && !same("a") && !same("y"));
    assert!(!new.contains_key("z"));
    assert_eq!(new.len(), 5);
}
