//! Control groups of resolvers' processes. What this machine has is asked of the very function that the product asks; where
//! there is no group, or no controller, what the product says about that is the result.

mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use midward_resolvers::cgroup::{Base, CgroupMode, open};
use midward_resolvers::{Resolver, ResolverReport};
use support::{Bench, failed, resolve, resolved};

/// Leaves its session, forks twice, and tells who it is then.
const ESCAPE: &str = "setsid -f sh -c 'sh -c \"echo \\$\\$ >$OUT; exec sleep 600\" &' </dev/null >/dev/null 2>&1";
const PROGRAMS: &str = "executables = ['/bin/sh', '/bin/sleep', '/usr/bin/setsid', '/usr/bin/perl']";

/// The base that this machine has; none where the product says why, which is asserted here.
async fn base(bench: &Bench) -> Option<Arc<Base>> {
    match open(&CgroupMode::Auto) {
        Ok(base) => base,
        Err(lack) => {
            let why = format!("there is no control group: {lack}");
            let failure = failed(&*jar(bench, "", "cgroup = 'required'"), "read").await;
            assert_eq!(failure.code, "sandbox_unavailable");
            assert!(failure.detail.ends_with(&why), "{failure}");
            let auto = jar(bench, "/proc/self/cgroup", "");
            assert!(resolved(&*auto, "read").await.0.starts_with("did "));
            assert_eq!((auto.report(), auto.note()), (ResolverReport::Ready, Some(why)));
            None
        }
    }
}

fn jar(bench: &Bench, target: &str, more: &str) -> Arc<dyn Resolver> {
    bench.resolver(&format!(
        "kind = 'jar'\njar = '{}'\nclass = 'jars.Hostile'\nparameters = {{ 'ext.cred.target' = '''{target}''' }}\n{more}",
        bench.jars.tests().display()
    ))
}

fn program(bench: &Bench, lines: &str, more: &str) -> Arc<dyn Resolver> {
    use std::os::unix::fs::PermissionsExt as _;
    let path = bench.folder.path().join("program");
    std::fs::write(&path, format!("#!/bin/sh\n{lines}\n")).expect("written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("mode");
    bench.resolver(&format!("kind = 'exec'\nprogram = '{}'\n{more}", path.display()))
}

/// Settings with which [`ESCAPE`] writes its number into the file.
fn escaping(file: &Path, more: &str) -> String {
    let folder = file.parent().expect("a folder").display();
    format!("{PROGRAMS}\nwritable_paths = ['{folder}']\nenvironment_values = {{ OUT = '{}' }}\n{more}", file.display())
}

fn out(bench: &Bench, name: &str) -> PathBuf {
    let folder = bench.folder.path().join("out");
    std::fs::create_dir_all(&folder).expect("folder");
    folder.join(name)
}

/// The groups that this process has made and not yet removed.
fn groups(base: &Base) -> Vec<PathBuf> {
    let ours = format!("-{}-", std::process::id());
    let entries = std::fs::read_dir(base.folder()).expect("groups").map(|entry| entry.expect("entry"));
    let ours = entries.filter(|entry| {
        let name = entry.file_name();
        name.to_str().is_some_and(|name| name.starts_with("midward-") && name.contains(&ours))
    });
    ours.map(|entry| entry.path()).collect()
}

/// State, process group, session: the fields of `/proc/PID/stat` behind the name. `None` once it has ended.
fn stat(pid: &str) -> Option<Vec<String>> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<_> = stat.rsplit(") ").next()?.split(' ').map(str::to_owned).collect();
    (fields[0] != "Z" && fields[0] != "X").then_some(fields)
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let held = async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), held).await.unwrap_or_else(|_| panic!("{what}"));
}

async fn number(file: &Path) -> String {
    let text = || std::fs::read_to_string(file).unwrap_or_default();
    until("the program ran", || text().ends_with('\n')).await;
    text().trim().to_owned()
}

#[tokio::test]
async fn what_left_its_session_ends_with_the_jars_process() {
    let bench = Bench::new();
    let Some(base) = base(&bench).await else { return };
    let file = out(&bench, "pid");
    let hostile = jar(&bench, &format!("{ESCAPE}; sleep 600"), &escaping(&file, "timeout_ms = 3000"));
    let call = {
        let hostile = Arc::clone(&hostile);
        tokio::spawn(async move { failed(&*hostile, "shell").await })
    };
    let pid = number(&file).await;
    let fields = stat(&pid).expect("it runs");
    assert_eq!(fields[3], fields[2], "a session of its own: {fields:?}");
    let group = groups(&base).pop().expect("a group");
    let name = group.file_name().and_then(|name| name.to_str()).expect("a name").to_owned();
    let place = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("its groups");
    assert!(place.lines().any(|line| line.starts_with("0::") && line.ends_with(&name)), "{name}: {place}");
    assert_eq!(call.await.expect("answered").code, "resolver_timeout");
    until("it ends, too", || stat(&pid).is_none()).await;
    until("its group is removed", || !group.exists()).await;
    hostile.shut_down().await;
    assert_eq!(groups(&base), Vec::<PathBuf>::new(), "nothing is left when the MID ends");
}

#[tokio::test]
async fn without_a_group_what_left_its_session_lives_on() {
    let bench = Bench::new();
    let file = out(&bench, "pid");
    let hostile = jar(&bench, ESCAPE, &escaping(&file, "cgroup = 'off'"));
    assert!(resolved(&*hostile, "shell").await.0.starts_with("did 0"));
    let pid = number(&file).await;
    assert_eq!(hostile.note(), None);
    hostile.shut_down().await;
    assert!(stat(&pid).is_some(), "which is what the group is for");
    let number = rustix::process::Pid::from_raw(pid.parse().expect("a number")).expect("a process");
    rustix::process::kill_process(number, rustix::process::Signal::KILL).expect("ended");
    until("it ends", || stat(&pid).is_none()).await;
}

#[tokio::test]
async fn what_a_program_leaves_behind_ends_with_its_run() {
    let bench = Bench::new();
    let Some(base) = base(&bench).await else { return };
    let answer = r#"echo '{"client_id":"a","client_secret":"b"}'"#;
    let wait = "while ! [ -s $OUT ]; do :; done";
    for (ending, name, code) in [(answer, "done", ""), ("sleep 600", "late", "resolver_timeout")] {
        let file = out(&bench, name);
        let lines = format!("{ESCAPE}\n{wait}\n{ending}");
        let resolver = program(&bench, &lines, &escaping(&file, "timeout_ms = 3000"));
        let outcome = resolve(&*resolver, "crm").await;
        assert_eq!(outcome.err().map_or_else(String::new, |failure| failure.code), code);
        let pid = number(&file).await;
        until("it ends, too", || stat(&pid).is_none()).await;
        until("the group is removed", || groups(&base).is_empty()).await;
    }
}

#[tokio::test]
async fn the_process_is_inside_from_the_first_and_cannot_change_that() {
    let bench = Bench::new();
    let Some(base) = base(&bench).await else { return };
    let resolver = jar(&bench, "/proc/self/cgroup", "");
    let place = resolved(&*resolver, "read").await.0;
    let group = groups(&base).pop().expect("a group");
    let name = group.file_name().and_then(|name| name.to_str()).expect("a name").to_owned();
    assert!(place.contains(&format!("/{name}\n")), "{place}");
    resolver.shut_down().await;
    assert_eq!(groups(&base), Vec::<PathBuf>::new());
    // The one whose file this is stays as long as the other, which tries to write to it.
    let other = jar(&bench, "", "");
    other.warm_up().await;
    let group = groups(&base).pop().expect("a group");
    let files = ["cgroup.procs", "cgroup.kill", "cgroup.subtree_control", "cgroup.threads"];
    let targets = [base.folder(), &group].into_iter().flat_map(|folder| files.iter().map(|file| folder.join(file)));
    let targets: Vec<_> = targets.map(|path| path.display().to_string()).collect();
    let hostile = jar(&bench, &targets.join("\n"), "");
    let outcome = resolved(&*hostile, "write").await.0;
    assert_eq!(outcome.lines().count(), targets.len());
    assert!(outcome.lines().all(|line| line.starts_with("refused ")), "{outcome}");
    assert_eq!(other.report(), ResolverReport::Ready);
}

#[tokio::test]
async fn what_is_missing_is_said_and_refused_where_it_is_required() {
    let bench = Bench::new();
    let Some(base) = base(&bench).await else { return };
    let enabled = std::fs::read_to_string(base.folder().join("cgroup.subtree_control")).expect("controllers");
    let missing: Vec<_> =
        ["memory", "pids"].into_iter().filter(|name| !enabled.split_whitespace().any(|word| word == *name)).collect();
    assert_eq!(base.lacking(), missing);
    let resolver = jar(&bench, "/etc/hosts", "");
    assert!(resolved(&*resolver, "read").await.0.starts_with("did "));
    assert_eq!((resolver.report(), resolver.note()), (ResolverReport::Ready, base.shortage()));
    let strict = [format!("cgroup = '{}'", base.folder().display()), "cgroup = 'required'".to_owned()];
    for more in &strict {
        let required = jar(&bench, "/etc/hosts", more);
        let program =
            program(&bench, "echo '{\"client_id\":\"a\",\"client_secret\":\"b\"}'", &format!("{PROGRAMS}\n{more}"));
        if missing.is_empty() {
            assert!(resolved(&*required, "read").await.0.starts_with("did "), "{more}");
            assert_eq!(resolved(&*program, "crm").await.0, "a");
            continue;
        }
        let shortage = base.shortage().expect("a text");
        let names = missing.join(", ");
        assert!(shortage.contains(&format!("lacks the controllers {names}: ")), "{shortage}");
        for resolver in [&required, &program] {
            let failure = failed(&**resolver, "read").await;
            assert_eq!(failure.code, "sandbox_unavailable");
            assert_eq!(failure.detail, format!("the resolver's process cannot be isolated: {shortage}"));
            assert_eq!(resolver.report(), ResolverReport::Unusable(failure.detail));
        }
    }
    let nowhere = failed(&*jar(&bench, "", "cgroup = '/nowhere'"), "read").await;
    assert_eq!(nowhere.code, "sandbox_unavailable");
    assert!(nowhere.detail.contains("no group in /nowhere"), "{nowhere}");
    let folder = bench.folder.path().display();
    let ordinary = failed(&*jar(&bench, "", &format!("cgroup = '{folder}'")), "read").await;
    assert!(ordinary.detail.contains("no cgroup.kill"), "a folder of another file system: {ordinary}");
}

#[tokio::test]
async fn memory_and_processes_are_limited_together_with_all_that_is_started() {
    let bench = Bench::new();
    let Some(base) = base(&bench).await else { return };
    let has = |name: &str| !base.lacking().contains(&name);
    let more = "heap_mib = 64\ntimeout_ms = 20000\nmemory_max_mib = 256\npids_max = 100\n";
    let fill = "/usr/bin/perl -e '$a = \"x\" x (320 << 20); print length $a'";
    let hungry = jar(&bench, fill, &format!("{more}{PROGRAMS}"));
    hungry.warm_up().await;
    let outcome = resolve(&*hungry, "shell").await;
    if has("memory") {
        let failure = outcome.expect_err("its memory is used up");
        assert_eq!(failure.code, "resolver_over_memory");
        assert!(failure.detail.contains("256 MiB"), "{failure}");
        let run = failed(&*program(&bench, fill, &format!("memory_max_mib = 256\n{PROGRAMS}")), "crm").await;
        assert_eq!(run.code, "resolver_over_memory");
    } else {
        assert_eq!(support::pair(&outcome.expect("unlimited")).0, format!("did 0 {}", 320 << 20));
        assert!(hungry.note().is_some_and(|note| note.contains("memory")));
    }
    let many = "i=0; while [ $i -lt 200 ]; do sleep 600 >/dev/null 2>&1 & i=$((i+1)); done; echo $i";
    let forking = jar(&bench, many, &format!("{more}{PROGRAMS}"));
    forking.warm_up().await;
    let outcome = resolved(&*forking, "shell").await.0;
    if has("pids") {
        assert!(outcome.contains("Cannot fork"), "{outcome}");
    } else {
        assert!(outcome.starts_with("did 0 200"), "{outcome}");
        assert!(hungry.note().is_some_and(|note| note.contains("pids")));
    }
}

#[tokio::test]
async fn what_a_mid_that_is_no_more_left_is_ended_at_the_next_start() {
    let bench = Bench::new();
    let Ok(Some(base)) = open(&CgroupMode::Auto) else {
        assert!(base(&bench).await.is_none());
        return;
    };
    let namespace = std::fs::read_link("/proc/self/ns/pid").expect("a namespace").display().to_string();
    let namespace = namespace.trim_start_matches("pid:[").trim_end_matches(']').to_owned();
    let mut gone = Command::new("/bin/sleep").arg("600").spawn().expect("sleep");
    let started = stat(&gone.id().to_string()).expect("it runs")[19].clone();
    let left = base.folder().join(format!("midward-{namespace}-{}-{started}-1", gone.id()));
    let parent = std::os::unix::process::parent_id();
    let started = stat(&parent.to_string()).expect("it runs")[19].clone();
    let others = base.folder().join(format!("midward-{namespace}-{parent}-{started}-{}", std::process::id()));
    for folder in [&left, &others] {
        std::fs::create_dir(folder).expect("made");
    }
    let member = ["--in-group", left.to_str().expect("a path"), "/bin/sleep", "600"];
    let mut member =
        Command::new(env!("CARGO_BIN_EXE_jar-host-exec")).args(member).stdin(Stdio::null()).spawn().expect("sleep");
    let procs = left.join("cgroup.procs");
    until("it is a member", || {
        std::fs::read_to_string(&procs).is_ok_and(|pids| pids.trim() == member.id().to_string())
    })
    .await;
    gone.kill().expect("killed");
    gone.wait().expect("reaped");
    // By its path, the same base is opened for the first time.
    let again = open(&CgroupMode::Below(base.folder().to_owned())).expect("opened");
    assert!(again.is_some());
    // Another test's process may be at it as well.
    until("it is removed", || !left.exists()).await;
    assert!(others.exists(), "its owner lives");
    std::fs::remove_dir(&others).expect("removed");
    let status = member.wait().expect("reaped");
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
}
