//! The customer's JAR in a plain JVM of its own: what a resolver costs without Midward around it.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use midward_demo::stack::{APP_ID, OBJECT, Programs, SAFE};

use crate::stack::Bench;

pub(crate) struct JarAlone {
    jvm: Child,
    identifiers: ChildStdin,
    times: BufReader<ChildStdout>,
}

impl JarAlone {
    /// The sample resolver against the stack's vault, in a JVM with the flags that speed up its start, as our own has.
    pub(crate) fn start(bench: &Bench, programs: &Programs, source: &std::path::Path) -> anyhow::Result<Self> {
        let classes = std::env::join_paths([programs.sample_jar(), programs.jars.join("midward-mid-classes.jar")])?;
        let mut jvm = Command::new("java")
            .args(["-Xmx64m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"])
            .arg("-cp")
            .arg(classes)
            .arg(source)
            .arg("com.snc.discovery.CredentialResolver")
            .arg(format!("ext.cred.app_id={APP_ID}"))
            .arg(format!("ext.cred.safe_name={SAFE}"))
            .arg(format!("ext.cred.aim_port={}", bench.stack.vault.port()))
            .env("AIM_CLIPASSWORDSDK_CMD", &programs.clipasswordsdk)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("java")?;
        let identifiers = jvm.stdin.take().context("stdin")?;
        let times = BufReader::new(jvm.stdout.take().context("stdout")?);
        Ok(Self { jvm, identifiers, times })
    }

    /// How long the resolver itself took for one answer.
    pub(crate) fn resolve(&mut self) -> anyhow::Result<Duration> {
        writeln!(self.identifiers, "{OBJECT}")?;
        let mut line = String::new();
        self.times.read_line(&mut line)?;
        Ok(Duration::from_nanos(line.trim().parse().context("the JAR alone gave no answer")?))
    }
}

impl Drop for JarAlone {
    fn drop(&mut self) {
        // The end of its input ends it; this is for when it hangs.
        let _ = self.jvm.kill();
        let _ = self.jvm.wait();
    }
}
