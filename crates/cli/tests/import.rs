//! `midward import` with a MID Server's `config.xml`: what comes out is read by `midward-mid`, and holds no secret.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use midward_mid::MidConfig;

const CONFIG: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<parameters>
  <!-- the link to the instance -->
  <parameter name="url" value="https://example.service-now.com/"/>
  <parameter name="mid.instance.username" value="mid"/>
  <parameter name="mid.instance.password" value="hunter2" secure="true" encrypt="true"/>
  <parameter name="name" value="edge"/>
  <parameter name="mid.proxy.use_proxy" value="true"/>
  <parameter name="mid.proxy.host" value="proxy.example"/>
  <parameter name="mid.proxy.port" value="3128"/>
  <parameter name="mid.proxy.username" value="mid"/>
  <parameter name="mid.proxy.password" value="hunter2"/>
  <parameter name="ext.cred.use_cyberark" value="true"/>
  <parameter name="ext.cred.safe_name" value="Apps"/>
  <parameter name="ext.cred.safe_timeout" value="5"/>
CCP
  <parameter name="ext.tss.password" value="hunter2"/>
</parameters>
"#;
const CCP: &str = r#"  <parameter name="ext.cred.cyberark.ccp_endpoint" value="https://ccp.example/AIMWebService/api/Accounts"/>
  <parameter name="ext.cred.cyberark.cert_path" value="/etc/pki/mid.pfx"/>
  <parameter name="ext.cred.cyberark.cert_password" value="hunter2"/>"#;

fn import(xml: &str, more: &[&str]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_midward"))
        .args(["import", "-"])
        .args(more)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("midward starts");
    child.stdin.take().expect("a pipe").write_all(xml.as_bytes()).expect("written");
    child.wait_with_output().expect("midward ends")
}

#[test]
fn the_result_is_a_part_of_mid_toml_without_a_password() {
    let folder = tempfile::tempdir().expect("a folder");
    for (ccp, aim, kind) in [(CCP, "sdk", "cyberark_ccp"), ("", "sdk", "cyberark_sdk"), ("", "cli", "cyberark_cli")] {
        let output = import(&CONFIG.replace("CCP", ccp), &["--aim", aim, "--name", "vault"]);
        let text = String::from_utf8(output.stdout).expect("text");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(text.contains(&format!("[resolvers.vault]\nkind = \"{kind}\"")), "{text}");
        assert!(
            !text.contains("hunter2") && text.contains("ext.tss.password") && text.contains("proxy.example:3128"),
            "{text}"
        );
        let whole = format!(
            "[mid]\nname = \"edge\"\nstate_dir = \"state\"\n[policy]\nfile = \"policy.toml\"\n[jar_host]\ndir = \"jars\"\n{text}"
        );
        let read = MidConfig::parse(&whole, folder.path()).map(|config| config.resolvers.len());
        assert_eq!(read.map_err(|failure| failure.to_string()), Ok(1), "{text}");
    }
}

#[test]
fn a_file_is_written_once_and_what_is_no_config_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("part.toml");
    let out_words = ["--out", out.to_str().expect("a path")];
    let written = import(&CONFIG.replace("CCP", ""), &out_words);
    assert!(written.status.success() && written.stdout.is_empty());
    assert!(std::fs::read_to_string(&out).expect("written").contains("[resolvers.cyberark]"));
    assert_eq!(import(&CONFIG.replace("CCP", ""), &out_words).status.code(), Some(2), "it is there already");
    let refused = import("<config>hunter2", &[]);
    let said = String::from_utf8(refused.stderr).expect("text");
    assert_eq!(refused.status.code(), Some(2));
    assert!(said.contains("config.xml") && !said.contains("hunter2") && said.lines().count() == 1, "{said}");
}
