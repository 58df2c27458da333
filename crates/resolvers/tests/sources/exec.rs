//! `exec`, with shell scripts as programs.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use midward_core::{MaterialField, Persistence};
use midward_net::WayOut;
use midward_resolvers::{BoxFuture, Resolver, ResolverReport};
use serde_json::{Value, json};

use crate::conformance::{self, Trouble, Vault};
use crate::{failed, field, local, pair, resolve, resolved, resolver_by, within, write};

/// What the scripts below start.
const PROGRAMS: &str =
    "executables = ['/bin/sh', '/bin/cat', '/bin/sleep', '/bin/ls', '/usr/bin/env', '/usr/bin/head']";
const ANSWER: &str = r#"echo '{"client_id":"a","client_secret":"hunter2"}'"#;

struct Bench(tempfile::TempDir);

impl Bench {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("folder"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn script(&self, lines: &str) -> PathBuf {
        write(&self.path("program"), &format!("#!/bin/sh\n{lines}\n"), 0o755)
    }

    fn section(&self, lines: &str, more: &str) -> String {
        let out = self.path("out");
        std::fs::create_dir_all(&out).expect("folder");
        format!(
            "kind = 'exec'\nprogram = '{}'\n{PROGRAMS}\nwritable_paths = ['{1}']\nenvironment_values = {{ OUT = '{1}' }}\n{more}",
            self.script(lines).display(),
            out.display(),
        )
    }

    fn resolver(&self, lines: &str, more: &str) -> Arc<dyn Resolver> {
        local(&self.section(lines, more))
    }

    fn out(&self, name: &str) -> String {
        std::fs::read_to_string(self.path("out").join(name)).expect("the program wrote it")
    }
}

#[tokio::test]
async fn a_program_is_asked_in_json_and_finds_nothing_but_what_is_listed() {
    let bench = Bench::new();
    let lines = format!(
        "cat >$OUT/question; env >$OUT/env; ls -l /proc/self/fd >$OUT/fds; pwd >$OUT/pwd; echo \"$1|$2\" >$OUT/args\n\
         echo noise >&2; {ANSWER}"
    );
    let resolver = bench.resolver(&lines, "args = ['one two', '$HOME']\nenvironment = ['PATH', 'MIDWARD_NOT_SET']");
    resolver.warm_up().await;
    assert_eq!((resolver.kind(), resolver.report()), ("exec", ResolverReport::Ready));
    assert_eq!(resolved(&*resolver, "safe:crm é").await, pair("a", "hunter2"));
    let question: Value = serde_json::from_str(&bench.out("question")).expect("JSON");
    assert_eq!(question, json!({"version": 1, "credential_id": "safe:crm é", "type": "oauth_2_0", "mid": "mid-1"}));
    let mut names: Vec<_> =
        bench.out("env").lines().filter_map(|line| Some(line.split_once('=')?.0.to_owned())).collect();
    // The shell's own.
    names.retain(|name| !["PWD", "OLDPWD", "SHLVL", "_"].contains(&name.as_str()));
    names.sort();
    assert_eq!(names, ["OUT", "PATH"]);
    assert_eq!((bench.out("pwd").as_str(), bench.out("args").as_str()), ("/\n", "one two|$HOME\n"));
    for line in bench.out("fds").lines() {
        let Some((before, target)) = line.split_once(" -> ") else { continue };
        let number: u32 = before.rsplit(' ').next().and_then(|number| number.parse().ok()).expect("a descriptor");
        // 3 is the listing's own.
        let fine = number < 3 || target == "/dev/null" || (number == 3 && target.starts_with("/proc/"));
        assert!(fine, "{line}");
    }
}

#[tokio::test]
async fn keys_versions_and_terms_are_taken() {
    let bench = Bench::new();
    let answer = r#"{"client_id":"a","private_key":"p","certificate":"c","key_id":"k","version":"v7","expires_in":0}"#;
    let resolver = bench.resolver(&format!("echo '{answer}'"), "");
    let found = resolve(&*resolver, "crm").await.expect("found");
    let values =
        [MaterialField::PrivateKey, MaterialField::Certificate, MaterialField::KeyId].map(|name| field(&found, name));
    assert_eq!(values, ["p", "c", "k"]);
    assert!(found.changing && found.trace.0[0].what == "the program answered (version v7), good for 0 s");
}

#[tokio::test]
async fn what_a_failed_program_wrote_is_dropped() {
    let bench = Bench::new();
    let resolver = bench.resolver(&format!("{ANSWER}; echo hunter2 >&2; exit 3"), "");
    let failure = failed(&*resolver, "crm").await;
    assert_eq!((failure.code.as_str(), failure.persistence), ("program_failed", Persistence::Transient));
    assert!(failure.detail.contains("exit code 3") && failure.detail.contains("something (withheld)"), "{failure}");
    let failure = failed(&*bench.resolver("echo hunter2", ""), "crm").await;
    assert_eq!(failure.code, "program_answer_invalid");
    let failure = failed(&*bench.resolver("kill -9 $$", ""), "crm").await;
    assert!(
        failure.code == "program_failed" && failure.detail.contains("signal 9; on standard error it wrote nothing"),
        "{failure}"
    );
    let failure = failed(&*bench.resolver(r#"echo '{"client_id":"a","client_secret":""}'"#, ""), "crm").await;
    assert_eq!(failure.code, "empty_secret");
}

#[tokio::test]
async fn an_overdue_program_ends_with_all_that_it_started() {
    let bench = Bench::new();
    let lines = format!(
        "sleep 600 & echo $! >$OUT/pid.new; mv $OUT/pid.new $OUT/pid 2>/dev/null || cat $OUT/pid.new >$OUT/pid; {ANSWER}; wait"
    );
    let resolver = bench.resolver(&lines, "timeout_ms = 2000");
    let failure = failed(&*resolver, "crm").await;
    assert_eq!((failure.code.as_str(), failure.persistence), ("resolver_timeout", Persistence::Transient));
    ended(bench.out("pid").trim()).await;
}

#[tokio::test]
async fn a_child_that_keeps_the_pipe_delays_nobody_and_ends() {
    let bench = Bench::new();
    let resolver = bench.resolver(&format!("sleep 600 & echo $! >$OUT/pid; {ANSWER}"), "timeout_ms = 60000");
    let found = within(&*resolver, "crm", Duration::from_secs(50)).await.expect("found");
    assert_eq!(field(&found, MaterialField::ClientSecret), "hunter2");
    ended(bench.out("pid").trim()).await;
}

#[tokio::test]
async fn a_program_ends_with_the_caller_who_leaves() {
    let bench = Bench::new();
    let resolver = bench.resolver("echo $$ >$OUT/pid; exec sleep 600", "timeout_ms = 600000");
    let pid = bench.path("out/pid");
    let started = async {
        while std::fs::read_to_string(&pid).map_or(true, |pid| !pid.ends_with('\n')) {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        outcome = resolve(&*resolver, "crm") => panic!("it does not end: {outcome:?}"),
        started = tokio::time::timeout(Duration::from_secs(30), started) => started.expect("the program ran"),
    }
    ended(bench.out("pid").trim()).await;
}

#[tokio::test]
async fn floods_are_stopped_and_noise_does_no_harm() {
    let bench = Bench::new();
    let failure = failed(&*bench.resolver("exec cat /dev/zero", "timeout_ms = 60000"), "crm").await;
    assert!(failure.code == "program_answer_invalid" && failure.detail.contains("64 KiB"), "{failure}");
    // More than a pipe holds, and nobody reads standard input.
    let noisy = bench.resolver(&format!("head -c 1000000 /dev/zero >&2; {ANSWER}"), "");
    assert_eq!(resolved(&*noisy, "crm").await, pair("a", "hunter2"));
    let failure = failed(&*bench.resolver("exec cat /dev/zero >&2", "timeout_ms = 1000"), "crm").await;
    assert_eq!(failure.code, "resolver_timeout");
}

#[tokio::test]
async fn a_program_that_others_can_change_is_not_started() {
    let bench = Bench::new();
    let marked = format!("echo ran >$OUT/ran; {ANSWER}");
    let mode = |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("mode");
    for (file, folder) in [(0o775, 0o755), (0o757, 0o755), (0o755, 0o777), (0o644, 0o755)] {
        let resolver = bench.resolver(&marked, "");
        mode(&bench.path("program"), file);
        mode(bench.0.path(), folder);
        let failure = failed(&*resolver, "crm").await;
        assert_eq!((failure.code.as_str(), failure.persistence), ("program_unusable", Persistence::Permanent));
        assert!(matches!(resolver.report(), ResolverReport::Unusable(_)));
        assert!(!bench.path("out/ran").exists(), "{file:o} {folder:o}");
        mode(bench.0.path(), 0o755);
    }
    let resolver = bench.resolver(&marked, "allow_writable_program = true");
    mode(&bench.path("program"), 0o777);
    assert_eq!(resolved(&*resolver, "crm").await, pair("a", "hunter2"));
    assert_eq!(resolver.report(), ResolverReport::Ready);
}

#[tokio::test]
async fn what_cannot_be_started_says_why() {
    let bench = Bench::new();
    let resolver = bench.resolver(ANSWER, "");
    std::fs::remove_file(bench.path("program")).expect("removed");
    resolver.warm_up().await;
    assert!(matches!(resolver.report(), ResolverReport::Unusable(why) if why.contains("does not exist")));
    assert_eq!(failed(&*resolver, "crm").await.code, "program_unusable");
    let script = bench.script(ANSWER);
    let without_interpreter = local(&format!("kind = 'exec'\nprogram = '{}'", script.display()));
    let failure = failed(&*without_interpreter, "crm").await;
    assert!(failure.code == "program_unusable" && failure.detail.contains("interpreter"), "{failure}");
    for section in ["program = 'get'", "program = '/bin/cat'\nreadable_paths = ['x']"] {
        let resolver = local(&format!("kind = 'exec'\n{section}"));
        assert_eq!(failed(&*resolver, "crm").await.code, "resolver_misconfigured");
    }
}

#[tokio::test]
async fn a_program_is_isolated_as_a_jar_is() {
    let bench = Bench::new();
    let private = write(&bench.path("private"), "not for a program", 0o644);
    let lines = format!("cat '{}' >$OUT/read 2>/dev/null && exit 9; {ANSWER}", private.display());
    assert_eq!(resolved(&*bench.resolver(&lines, ""), "crm").await, pair("a", "hunter2"));
    let open = bench.resolver(&lines, &format!("readable_paths = ['{}']", private.display()));
    assert!(failed(&*open, "crm").await.detail.contains("exit code 9"));
    assert_eq!(bench.out("read"), "not for a program");
    // A kernel without Landlock.
    let old = |mode: &str| {
        let section = bench.section(&lines, &format!("sandbox = '{mode}'"));
        resolver_by(&["--without-landlock"], &section, WayOut::plain_default().expect("a way out"))
    };
    let refused = old("required");
    assert_eq!(failed(&*refused, "crm").await.code, "sandbox_unavailable");
    assert!(matches!(refused.report(), ResolverReport::Unusable(_)));
    for mode in ["best_effort", "off"] {
        assert!(failed(&*old(mode), "crm").await.detail.contains("exit code 9"), "{mode}");
    }
}

#[tokio::test]
async fn a_program_may_have_a_user_of_its_own() {
    let bench = Bench::new();
    let lines = format!(
        "while read -r line; do echo \"$line\"; done </proc/self/status >$OUT/status\n\
         read -r question </dev/stdin; echo \"$question\" >$OUT/question; {ANSWER}"
    );
    for mode in ["required", "off"] {
        let resolver = bench.resolver(&lines, &format!("run_as = 'nobody'\nsandbox = '{mode}'"));
        if !rustix::process::geteuid().is_root() {
            assert!(failed(&*resolver, "crm").await.detail.contains("runs as root"));
            return;
        }
        std::os::unix::fs::chown(bench.path("out"), Some(65_534), Some(65_534)).expect("owner");
        std::fs::set_permissions(bench.0.path(), std::fs::Permissions::from_mode(0o711)).expect("mode");
        assert_eq!(resolved(&*resolver, "crm").await, pair("a", "hunter2"));
        let status = bench.out("status");
        let line =
            |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim().to_owned();
        assert_eq!((line("Uid:").as_str(), line("Groups:").as_str()), ("65534\t65534\t65534\t65534", ""), "{mode}");
        assert_eq!((line("CapEff:"), line("CapPrm:")), ("0".repeat(16), "0".repeat(16)), "{mode}");
        assert!(bench.out("question").contains("credential_id"), "{mode}");
    }
    for user in ["root", "nobody-of-this-name", "65534"] {
        let resolver = bench.resolver(ANSWER, &format!("run_as = '{user}'"));
        assert_eq!(failed(&*resolver, "crm").await.code, "resolver_misconfigured", "{user}");
    }
}

#[tokio::test]
async fn one_at_a_time_when_it_must_be() {
    let bench = Bench::new();
    let resolver = bench.resolver("exec sleep 600", "concurrency = 1\ntimeout_ms = 3000");
    let (first, second) = tokio::join!(
        within(&*resolver, "crm", Duration::from_secs(3)),
        within(&*resolver, "erp", Duration::from_millis(500))
    );
    assert_eq!(first.expect_err("overdue").code, "resolver_timeout");
    assert_eq!(second.expect_err("not its turn").code, "resolver_busy");
}

/// Waits until the process runs no longer. An orphan may stay a zombie until somebody reaps it; that counts as ended.
async fn ended(pid: &str) {
    assert!(!pid.is_empty());
    let runs = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
    };
    let gone = async {
        while runs() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), gone).await.expect("the program ends");
}

/// A folder of answers, and a program that reads it.
struct Folder {
    bench: Bench,
    resolver: Arc<dyn Resolver>,
}

const VAULT: &str = r#"
read -r question
id=${question#*'"credential_id":"'}; id=${id%%'"'*}
echo "$id" >>$OUT/asked
if [ -e "$OUT/$id.trouble" ]; then
    read -r code <"$OUT/$id.trouble"
    [ "$code" != slow ] || exec sleep 600
    exit "$code"
fi
[ -e "$OUT/$id.json" ] || exit 66
exec cat "$OUT/$id.json""#;

impl Vault for Folder {
    fn resolver(&self) -> Arc<dyn Resolver> {
        Arc::clone(&self.resolver)
    }

    fn put<'a>(&'a self, name: &'a str, client_id: &'a str, secret: &'a str) -> BoxFuture<'a, ()> {
        let answer = json!({"client_id": client_id, "client_secret": secret}).to_string();
        std::fs::write(self.bench.path(&format!("out/{name}.json")), answer).expect("written");
        Box::pin(async {})
    }

    fn trouble<'a>(&'a self, name: &'a str, trouble: Trouble) -> BoxFuture<'a, Result<(), &'static str>> {
        let code = match trouble {
            Trouble::NotFound => "66",
            Trouble::Denied => "77",
            Trouble::Ambiguous => "65",
            Trouble::Dead => "69",
            Trouble::Slow => "slow",
            Trouble::Empty => {
                let answer = self.bench.path(&format!("out/{name}.json"));
                std::fs::copy(&answer, answer.with_extension("kept")).expect("kept");
                std::fs::write(answer, r#"{"client_id":"a","client_secret":""}"#).expect("written");
                return Box::pin(async { Ok(()) });
            }
        };
        std::fs::write(self.bench.path(&format!("out/{name}.trouble")), format!("{code}\n")).expect("written");
        Box::pin(async { Ok(()) })
    }

    fn heal<'a>(&'a self, name: &'a str) -> BoxFuture<'a, ()> {
        let kept = self.bench.path(&format!("out/{name}.kept"));
        if kept.exists() {
            std::fs::rename(&kept, kept.with_extension("json")).expect("renamed");
        } else {
            std::fs::remove_file(kept.with_extension("trouble")).expect("removed");
        }
        Box::pin(async {})
    }

    fn questions(&self) -> usize {
        std::fs::read_to_string(self.bench.path("out/asked")).unwrap_or_default().lines().count()
    }

    fn code(&self, trouble: Trouble) -> &'static str {
        match trouble {
            Trouble::NotFound => "vault_not_found",
            Trouble::Denied => "vault_denied",
            Trouble::Ambiguous => "vault_ambiguous",
            Trouble::Empty => "empty_secret",
            Trouble::Slow => "resolver_timeout",
            Trouble::Dead => "vault_unreachable",
        }
    }
}

#[tokio::test]
async fn exec_conforms() {
    let bench = Bench::new();
    let resolver = bench.resolver(VAULT, "timeout_ms = 60000");
    conformance::run(&Folder { bench, resolver }, &[]).await;
}
