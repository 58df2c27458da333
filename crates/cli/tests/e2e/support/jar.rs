//! A customer's JAR, compiled from source inside the test.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};

/// Compiles one class with plain `javac` and packs it. `class_path` may hold what it implements.
pub(crate) fn compile(folder: &Path, class: &str, source: &str, class_path: Option<&Path>) -> anyhow::Result<PathBuf> {
    let sources = folder.join("java-source");
    let classes = folder.join("java-classes");
    let file = sources.join(format!("{}.java", class.replace('.', "/")));
    std::fs::create_dir_all(file.parent().context("a class has a folder")?)?;
    std::fs::create_dir_all(&classes)?;
    std::fs::write(&file, source)?;
    let mut javac = Command::new("javac");
    javac.args(["--release", "11", "-nowarn", "-d"]).arg(&classes).arg(&file);
    if let Some(class_path) = class_path {
        javac.arg("-cp").arg(class_path);
    }
    run(&mut javac)?;
    let jar = folder.join("customer.jar");
    run(Command::new("jar").args(["--create", "--file"]).arg(&jar).arg("-C").arg(&classes).arg("."))?;
    Ok(jar)
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command.output().context("no JDK: run the tests by `make test`, which installs it")?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// A resolver of the legacy generation (no interface), as a customer would have written it: it runs the AIM client's
/// command line and hands its two values on.
pub(crate) const LEGACY_RESOLVER: &str = r#"
package com.snc.discovery;

import java.nio.charset.StandardCharsets;
import java.util.HashMap;
import java.util.Map;

public class CredentialResolver {
    public String getVersion() {
        return "7";
    }

    public Map resolve(Map args) throws Exception {
        String id = (String) args.get("id");
        System.out.println("resolving " + id);
        String separator = "<" + java.util.UUID.randomUUID() + ">";
        Process client = new ProcessBuilder(
                System.getenv("AIM_CLIPASSWORDSDK_CMD"), "GetPassword",
                "-p", "AppDescs.AppID=ServiceNow_MID_Server",
                "-p", "Query=Safe=Finance;Folder=root;Object=" + id,
                "-p", "ConnectionParms.Port=" + System.getenv("AIM_PORT"),
                "-o", "PassProps.UserName,Password", "-d", separator)
            .redirectErrorStream(false).start();
        String line = new String(client.getInputStream().readAllBytes(), StandardCharsets.UTF_8);
        if (client.waitFor() != 0) throw new IllegalStateException("the AIM client failed");
        String[] values = line.replaceFirst("\\R$", "").split(java.util.regex.Pattern.quote(separator), 2);
        Map result = new HashMap();
        result.put("user", values[0]);
        result.put("pswd", values[1]);
        return result;
    }
}
"#;
