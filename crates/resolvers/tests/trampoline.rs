//! What a JVM, and whatever it starts, is left with.

mod support;

use std::process::Command;
use std::time::Duration;

use support::{Bench, lookup};

#[test]
fn limits_are_set_and_inherited_descriptors_hidden() {
    let folder = tempfile::tempdir().expect("folder");
    let private = folder.path().join("private");
    std::fs::write(&private, "not for a JAR").expect("written");
    // Whoever starts the MID leaks descriptor 9; 3 and 4 are the pipes of frames.
    let script = format!(
        "exec 3<'{0}' 9<'{0}'; exec \"$0\" /bin/sh -c 'cat <&3; cat <&9; umask; cat /proc/self/limits /proc/self/status'",
        private.display()
    );
    let exec = env!("CARGO_BIN_EXE_jar-host-exec");
    let output = Command::new("/bin/sh").args(["-c", &script, exec]).output().expect("sh");
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).expect("text");
    assert_eq!(text.matches("not for a JAR").count(), 1, "descriptor 3 only: {text}");
    assert!(text.contains("0077"), "{text}");
    let line = |name: &str| text.lines().find(|line| line.starts_with(name)).map(str::to_owned).unwrap_or_default();
    let core: Vec<_> = line("Max core file size").split_whitespace().skip(4).map(str::to_owned).collect();
    assert_eq!(core[..2], ["0", "0"], "{text}");
    assert_eq!(line("NoNewPrivs").split_whitespace().last(), Some("1"), "{text}");
}

#[test]
fn nothing_to_run_is_an_error() {
    let status = Command::new(env!("CARGO_BIN_EXE_jar-host-exec")).status().expect("started");
    assert_eq!(status.code(), Some(126));
}

#[tokio::test]
async fn a_program_that_the_jar_started_ends_with_it() {
    let bench = Bench::new();
    let written = bench.folder.path().join("written");
    std::fs::create_dir(&written).expect("folder");
    let file = written.join("pid");
    let more = format!(
        "executables = ['/bin/sh', '/bin/sleep']\nwritable_paths = ['{}']\nenvironment_values = {{ PID_FILE = '{}' }}",
        written.display(),
        file.display()
    );
    let resolver = bench.class("Moody", &more);
    resolver.warm_up().await;
    let outcome = resolver.resolve(&lookup("child"), Duration::from_secs(2)).await;
    assert_eq!(outcome.expect_err("ended").0.code, "resolver_timeout");
    let pid = std::fs::read_to_string(&file).expect("the program ran").trim().to_owned();
    ended(&pid).await;
}

#[tokio::test]
async fn nothing_outlives_the_process_that_started_it() {
    use std::io::BufRead as _;
    let script = "\"$0\" /bin/sleep 600 >/dev/null & echo $!; wait";
    let mut parent = Command::new("/bin/sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_jar-host-exec")])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("sh");
    let mut pid = String::new();
    std::io::BufReader::new(parent.stdout.take().expect("stdout")).read_line(&mut pid).expect("a line");
    let pid = pid.trim();
    let became = async {
        while !std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "sleep") {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), became).await.expect("the trampoline became the program");
    parent.kill().expect("killed");
    parent.wait().expect("reaped");
    ended(pid).await;
}

/// Waits until the process runs no longer. An orphan may stay a zombie until somebody reaps it; that counts as ended.
async fn ended(pid: &str) {
    let runs = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
    };
    let gone = async {
        while runs() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), gone).await.expect("the program ends");
}
