//! The directions between the crates, and what must not be linked into the program that runs beside the vault.
//! ARCHITECTURE.md says why; this says that it is so.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// Which crates of the workspace each crate may build upon.
const ALLOWED: &[(&str, &[&str])] = &[
    ("midward-core", &[]),
    ("midward-wire", &["midward-core"]),
    ("midward-telemetry", &["midward-core"]),
    ("midward-net", &["midward-core", "midward-telemetry"]),
    ("midward-oauth", &["midward-core"]),
    ("midward-resolvers", &["midward-core", "midward-net"]),
    (
        "midward-mid",
        &["midward-core", "midward-wire", "midward-net", "midward-oauth", "midward-resolvers", "midward-telemetry"],
    ),
    ("midward-instance", &["midward-core", "midward-wire", "midward-telemetry"]),
    (
        "midward-cli",
        &[
            "midward-core",
            "midward-wire",
            "midward-net",
            "midward-oauth",
            "midward-resolvers",
            "midward-telemetry",
            "midward-mid",
            "midward-instance",
        ],
    ),
    ("midward-fakes", &["midward-core"]),
    ("midward-demo", &["midward-core", "midward-net", "midward-fakes"]),
    (
        "midward-bench",
        &["midward-core", "midward-net", "midward-oauth", "midward-resolvers", "midward-fakes", "midward-demo"],
    ),
];

/// For tests only: what a crate's own tests may use on top of [`ALLOWED`]. Nobody else sees the fakes.
const ALLOWED_IN_TESTS: &[(&str, &[&str])] = &[
    ("midward-cli", &["midward-fakes", "midward-demo"]),
    ("midward-instance", &["midward-fakes"]),
    ("midward-resolvers", &["midward-fakes"]),
];

/// Crates that do IO, or bring a runtime: not for these.
const WITHOUT_IO: &[&str] = &["midward-core", "midward-wire"];
const IO: &[&str] = &["tokio", "async-std", "smol", "hyper", "hyper-util", "reqwest", "axum", "sqlx", "rustls"];

/// Linked into the instance only.
const SQL_OWNER: &str = "midward-instance";

/// One dependency that a crate of the workspace declares.
#[derive(Clone, Debug)]
struct Edge {
    from: String,
    to: String,
    only_in_tests: bool,
}

#[test]
fn the_workspace_keeps_its_directions() {
    let (members, edges) = declared();
    assert!(
        members.contains("midward-core") && members.contains("midward-cli"),
        "this is not the workspace: {members:?}"
    );
    assert!(edges.iter().any(|edge| edge.from == "midward-mid" && edge.to == "midward-wire"), "no edges were read");
    let found = violations(&members, &edges);
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn no_sql_is_linked_into_the_mid_server() {
    let mid = linked(&["--no-default-features", "--features", "mid"]);
    assert!(mid.contains("midward-mid") && mid.contains("midward-resolvers"), "not the MID Server: {mid:?}");
    assert_eq!(sql_or_instance(&mid), Vec::<&str>::new());
    // The same look at the program that does hold them finds them.
    let both = linked(&[]);
    assert!(sql_or_instance(&both).contains(&"midward-instance"));
    assert!(sql_or_instance(&both).contains(&"sqlx"));
}

#[test]
fn a_wrong_direction_is_found() {
    for (from, to, only_in_tests, expected) in [
        ("midward-core", "midward-wire", false, "midward-core must not depend on midward-wire"),
        ("midward-mid", "midward-instance", false, "midward-mid must not depend on midward-instance"),
        ("midward-instance", "midward-mid", false, "midward-instance must not depend on midward-mid"),
        ("midward-oauth", "midward-resolvers", false, "midward-oauth must not depend on midward-resolvers"),
        ("midward-cli", "midward-fakes", false, "midward-cli must not depend on midward-fakes"),
        ("midward-mid", "midward-fakes", true, "midward-mid must not depend on midward-fakes, not even in its tests"),
        ("midward-core", "tokio", false, "midward-core does no IO and must not depend on tokio"),
        ("midward-mid", "sqlx", false, "midward-mid must not depend on sqlx: SQL belongs to midward-instance"),
        ("midward-mid", "sqlx-core", true, "midward-mid must not depend on sqlx-core: SQL belongs to midward-instance"),
    ] {
        let (members, mut edges) = allowed_graph();
        edges.push(Edge { from: from.into(), to: to.into(), only_in_tests });
        assert_eq!(violations(&members, &edges), [expected]);
    }
}

#[test]
fn a_crate_that_nobody_placed_is_found() {
    let (mut members, edges) = allowed_graph();
    members.insert("midward-new".into());
    assert_eq!(violations(&members, &edges), ["midward-new has no place in the table of directions"]);
}

#[test]
fn the_allowed_graph_has_no_violation() {
    let (members, mut edges) = allowed_graph();
    for (from, to, only_in_tests) in [
        ("midward-instance", "sqlx", false),
        ("midward-core", "proptest", true),
        ("midward-cli", "midward-fakes", true),
    ] {
        edges.push(Edge { from: from.into(), to: to.into(), only_in_tests });
    }
    assert_eq!(violations(&members, &edges), Vec::<String>::new());
}

fn violations(members: &BTreeSet<String>, edges: &[Edge]) -> Vec<String> {
    let allowed: BTreeMap<_, _> = ALLOWED.iter().copied().collect();
    let allowed_in_tests: BTreeMap<_, _> = ALLOWED_IN_TESTS.iter().copied().collect();
    let mut found: Vec<String> = members
        .iter()
        .filter(|member| !allowed.contains_key(member.as_str()))
        .map(|member| format!("{member} has no place in the table of directions"))
        .collect();
    for Edge { from, to, only_in_tests } in edges {
        let may =
            |table: &BTreeMap<&str, &[&str]>| table.get(from.as_str()).is_some_and(|to_| to_.contains(&to.as_str()));
        if members.contains(to) {
            if may(&allowed) || (*only_in_tests && may(&allowed_in_tests)) {
                continue;
            }
            let even = if *only_in_tests { ", not even in its tests" } else { "" };
            found.push(format!("{from} must not depend on {to}{even}"));
        } else if is_sql(to) && from != SQL_OWNER {
            found.push(format!("{from} must not depend on {to}: SQL belongs to {SQL_OWNER}"));
        } else if !only_in_tests && WITHOUT_IO.contains(&from.as_str()) && IO.contains(&to.as_str()) {
            found.push(format!("{from} does no IO and must not depend on {to}"));
        }
    }
    found
}

fn is_sql(name: &str) -> bool {
    name == "sqlx" || name.starts_with("sqlx-") || name == "libsqlite3-sys" || name == "rusqlite"
}

fn sql_or_instance(crates: &BTreeSet<String>) -> Vec<&str> {
    crates.iter().map(String::as_str).filter(|name| is_sql(name) || *name == SQL_OWNER).collect()
}

/// Exactly what [`ALLOWED`] says, as a graph.
fn allowed_graph() -> (BTreeSet<String>, Vec<Edge>) {
    let members = ALLOWED.iter().map(|(name, _)| (*name).to_owned()).collect();
    let edges = ALLOWED
        .iter()
        .flat_map(|(from, to)| to.iter().map(|to| (*from, *to)))
        .map(|(from, to)| Edge { from: from.to_owned(), to: to.to_owned(), only_in_tests: false })
        .collect();
    (members, edges)
}

/// What the manifests declare. Optional dependencies, build dependencies and those of one platform count.
fn declared() -> (BTreeSet<String>, Vec<Edge>) {
    let text = cargo(&["metadata", "--no-deps", "--format-version", "1"]);
    let metadata: Value = serde_json::from_str(&text).expect("cargo metadata is JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    let name = |value: &Value| value["name"].as_str().expect("a name").to_owned();
    let members = packages.iter().map(name).collect();
    let mut edges = Vec::new();
    for package in packages {
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let only_in_tests = dependency["kind"] == "dev";
            edges.push(Edge { from: name(package), to: name(dependency), only_in_tests });
        }
    }
    (members, edges)
}

/// Names of all crates linked into the programs of `midward-cli` with these features, on this platform.
fn linked(features: &[&str]) -> BTreeSet<String> {
    let mut arguments = vec!["tree", "--locked", "-p", "midward-cli", "-e", "normal", "--prefix", "none", "-f", "{p}"];
    arguments.extend(features);
    cargo(&arguments).lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

fn cargo(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO"))
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo, which runs this test, runs");
    assert!(output.status.success(), "cargo {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("cargo speaks UTF-8")
}
