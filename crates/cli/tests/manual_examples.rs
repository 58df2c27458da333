//! Every configuration that the manual shows is read by the program that it is for.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use midward_instance::InstanceConfig;
use midward_mid::MidConfig;
use midward_mid::policy::Policy;

/// An example: where it stands, which file it is (by its first line), and its text.
struct Example {
    page: String,
    file: String,
    text: String,
}

/// What a `mid.toml` cannot lack, for examples that show only a part of one.
const NEEDED: [(&str, &str); 3] = [
    ("[mid]", "[mid]\nname = \"edge-1\"\nstate_dir = \"state\"\n"),
    ("[policy]", "[policy]\nfile = \"policy.toml\"\n"),
    ("[jar_host]", "[jar_host]\ndir = \"jar-host\"\n"),
];

#[test]
fn every_example_is_accepted() {
    let examples = examples();
    let count = |file: &str| examples.iter().filter(|example| example.file == file).count();
    for file in ["mid.toml", "policy.toml", "instance.toml", "connections.yaml"] {
        assert!(count(file) > 0, "the manual shows no {file} any more");
    }
    let folder = tempfile::tempdir().expect("a folder");
    for example in &examples {
        let read = match &*example.file {
            "mid.toml" => {
                MidConfig::parse(&completed(&example.text), folder.path()).map(drop).map_err(|e| e.to_string())
            }
            "policy.toml" => Policy::parse(&example.text).map(drop).map_err(|e| e.to_string()),
            "instance.toml" => {
                let file = folder.path().join("instance.toml");
                std::fs::write(&file, &example.text).expect("written");
                InstanceConfig::read(&file).map(drop).map_err(|e| e.to_string())
            }
            "connections.yaml" => continue,
            other => Err(format!("begin the example with a comment that names its file, not {other:?}")),
        };
        assert_eq!(read, Ok(()), "{}:\n{}", example.page, example.text);
    }
}

#[test]
fn every_document_can_be_applied() {
    let folder = tempfile::tempdir().expect("a folder");
    let instance = Instance::start(folder.path());
    for example in examples().iter().filter(|example| example.file == "connections.yaml") {
        let file = folder.path().join("connections.yaml");
        std::fs::write(&file, &example.text).expect("written");
        let applied = Command::new(env!("CARGO_BIN_EXE_midward"))
            .args(["apply", "--dry-run", "-f"])
            .arg(&file)
            .args(["--url", &instance.url, "--key-file"])
            .arg(&instance.key)
            .output()
            .expect("midward");
        let said = String::from_utf8_lossy(&applied.stderr);
        assert!(applied.status.success(), "{}: {said}", example.page);
        assert!(String::from_utf8_lossy(&applied.stdout).contains("create "), "{}", example.page);
    }
}

/// No block of the manual can show `jars`: their files would have to be there.
#[test]
fn jars_beside_a_document_are_stored_and_listed() {
    let folder = tempfile::tempdir().expect("a folder");
    let instance = Instance::start(folder.path());
    let (document, jar) = (folder.path().join("connections.yaml"), folder.path().join("my.jar"));
    std::fs::write(&document, "version: 1\njars:\n  - name: vault\n    file: my.jar\n").expect("written");
    let midward = |words: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_midward"))
            .args(words)
            .args(["--url", &instance.url, "--key-file"])
            .arg(&instance.key)
            .output()
            .expect("midward");
        (output.status.success(), String::from_utf8(output.stdout).expect("text"))
    };
    let file = document.to_str().expect("a path");
    assert!(!midward(&["apply", "-f", file]).0, "the file is not there");
    std::fs::write(&jar, b"PK\x03\x04 a resolver").expect("written");
    let hashed = Command::new(env!("CARGO_BIN_EXE_midward-mid")).args(["jar", "hash"]).arg(&jar).output();
    let digest = String::from_utf8(hashed.expect("midward-mid").stdout).expect("text");
    let created = format!("create JAR vault {digest}");
    assert!(midward(&["apply", "--dry-run", "-f", file]).1.starts_with(&created));
    assert!(!midward(&["get", "jars"]).1.contains("vault"), "a dry run stores nothing");
    assert!(midward(&["apply", "-f", file]).1.starts_with(&created));
    assert_eq!(midward(&["apply", "-f", file]), (true, "nothing to change\n".to_owned()));
    assert!(midward(&["get", "jars"]).1.contains(digest.trim()));
}

/// A running instance on loopback; ended when dropped.
struct Instance {
    child: Child,
    url: String,
    key: PathBuf,
}

impl Instance {
    fn start(folder: &Path) -> Self {
        let data = folder.join("data");
        let mut child = Command::new(env!("CARGO_BIN_EXE_midward"))
            .args(["instance", "--no-tls", "--listen", "127.0.0.1:0", "--call-listen", "127.0.0.1:0", "--data"])
            .arg(&data)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("midward instance");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("standard output")).read_line(&mut line).expect("a line");
        let url = line.split("API ").nth(1).and_then(|rest| rest.split(',').next()).unwrap_or_default().to_owned();
        // The file is removed at the key's first use.
        let key = folder.join("admin-key");
        std::fs::copy(data.join("first-admin-key"), &key).expect("the administrator's key");
        Self { child, url, key }
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn completed(part: &str) -> String {
    let lacking = NEEDED.iter().filter(|(section, _)| !part.contains(section)).map(|(_, text)| *text);
    lacking.collect::<String>() + part
}

/// The fenced blocks of TOML and YAML in the manual.
fn examples() -> Vec<Example> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/src");
    let mut examples = Vec::new();
    for entry in std::fs::read_dir(folder).expect("the manual") {
        let path = entry.expect("an entry").path();
        let page = path.display().to_string();
        let text = std::fs::read_to_string(&path).expect("a page");
        for block in text.split("\n```").filter(|block| block.starts_with("toml\n") || block.starts_with("yaml\n")) {
            let text = block.split_once('\n').map_or("", |(_, text)| text).to_owned();
            let file = text.lines().next().unwrap_or_default().trim_start_matches("# ").to_owned();
            examples.push(Example { page: page.clone(), file, text });
        }
    }
    examples
}
