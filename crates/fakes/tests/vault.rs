//! The AIM client's program against the vault, row by row of CyberArk's documented behaviour.

use std::io::Read as _;
use std::process::{Command, Output, Stdio};

use midward_fakes::vault::line::{Answer, Fields, ask};
use midward_fakes::vault::{Account, Application, CliFault, Vault, VaultConfig, VaultFault};

const SECRET: &str = "p@ss,w;rd \"x\" 100% ü";

fn vault() -> Vault {
    Vault::start(VaultConfig {
        port: 0,
        applications: vec![
            Application::new("Midward", &["OAuth"]),
            Application { clients: Some(vec!["sdk".to_owned()]), ..Application::new("SdkOnly", &["OAuth"]) },
        ],
        accounts: vec![
            Account::new("OAuth", "crm", "client-1", SECRET).with_address("as.example").with_property("Team", "red"),
            Account::new("OAuth", "erp-a", "client-2", "a"),
            Account::new("OAuth", "erp-b", "client-2", "b"),
            Account::new("Other", "hidden", "client-3", "c"),
        ],
    })
    .expect("the vault starts")
}

fn cli(vault: &Vault, app_id: &str, parameters: &[&str], output: &str) -> Output {
    command(vault, app_id, parameters, output).output().expect("the program runs")
}

fn command(vault: &Vault, app_id: &str, parameters: &[&str], output: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_clipasswordsdk"));
    command.env("FAKE_AIM_PORT", vault.port().to_string());
    command.args(["GetPassword", "-p", &format!("AppDescs.AppID={app_id}")]);
    for parameter in parameters {
        command.args(["-p", parameter]);
    }
    command.args(["-o", output, "-d", "|"]);
    command
}

fn refused(output: &Output, code: &str) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{code}");
    assert!(stderr.starts_with(&format!("{code} ")), "{code}: {stderr}");
    assert_eq!(output.stdout, b"", "{code}");
}

#[test]
fn values_come_in_the_order_asked_for_and_missing_ones_are_marked() {
    let vault = vault();
    for query in [
        "Query=Safe=OAuth;Folder=Root;Object=crm",
        "Query=\"Safe=OAuth;Folder=Root;Object=crm\"",
        "query=safe=oauth;OBJECT=CRM",
        "Query=UserName=client-1;Address=as.example",
    ] {
        let names = "passprops.username,PasswordChangeInProcess,PassProps.Database,PassProps.team,Password";
        let output = cli(&vault, "Midward", &[query, "RequiredProps=*", "Reason=test"], names);
        assert!(output.status.success(), "{query}");
        assert_eq!(String::from_utf8_lossy(&output.stdout), format!("client-1|false|<na>|red|{SECRET}\n"), "{query}");
        assert_eq!(output.stderr, b"", "{query}");
    }
}

#[test]
fn only_required_properties_are_given() {
    let output = cli(
        &vault(),
        "Midward",
        &["Query=Safe=OAuth;Object=crm", "RequiredProps=UserName"],
        "PassProps.UserName,PassProps.Address",
    );
    assert_eq!(String::from_utf8_lossy(&output.stdout), "client-1|<na>\n");
}

#[test]
fn each_refusal_has_its_code() {
    let vault = vault();
    let ask = |app_id, query| cli(&vault, app_id, &[query], "Password");
    let missing = ask("Midward", "Query=Safe=OAuth;Folder=Root;Object=none");
    refused(&missing, "APPAP004E");
    let text = String::from_utf8_lossy(&missing.stderr).into_owned();
    assert!(text.contains("[Safe=OAuth;Folder=Root;Object=none] was not found (Diagnostic Info: 5)"), "{text}");
    refused(&ask("Midward", "Query=Safe=Other;Object=hidden"), "APPAP004E");
    refused(&ask("Nobody", "Query=Safe=OAuth;Object=crm"), "APPAP008E");
    refused(&ask("SdkOnly", "Query=Safe=OAuth;Object=crm"), "APPAP306E");
    refused(&ask("Midward", "Query=Safe=OAuth;UserName=client-2"), "APPAP227E");
    refused(&ask("Midward", "Query=Colour=red"), "APPAP081E");
    refused(&cli(&vault, "Midward", &["Query=Safe=OAuth;Object=erp-.", "QueryFormat=regexp"], "Password"), "APPAP227E");
    let one = cli(&vault, "Midward", &["Query=Safe=OAuth;Object=erp-[a]", "QueryFormat=regexp"], "Password");
    assert_eq!(one.stdout, b"a\n");
    assert!(vault.set_change_in_process("OAuth", "crm", true));
    let strict = ["Query=Safe=OAuth;Object=crm", "FailRequestOnPasswordChange=true"];
    refused(&cli(&vault, "Midward", &strict, "Password"), "APPAP282E");
    let during = cli(&vault, "Midward", &strict[..1], "PasswordChangeInProcess");
    assert_eq!(during.stdout, b"true\n");
}

#[test]
fn an_empty_request_proves_that_the_vault_lives() {
    let vault = vault();
    let mut request = Fields::default();
    request.push("op", "GetPassword");
    request.push("client", "sdk");
    match ask(vault.port(), &request).expect("an answer") {
        Answer::Refused { code, .. } => assert_eq!(code, "APPPR010E"),
        _ => panic!("the empty request was not refused"),
    }
    assert_eq!(vault.requests()[0].result, "APPPR010E");
}

#[test]
fn a_rotated_password_is_the_next_answer() {
    let vault = vault();
    assert!(vault.set_password("OAuth", "crm", "new"));
    assert!(!vault.set_password("OAuth", "none", "new"));
    assert_eq!(cli(&vault, "Midward", &["Query=Safe=OAuth;Object=crm"], "Password").stdout, b"new\n");
}

#[test]
fn faults_come_to_order_and_go() {
    let vault = vault();
    let ask = |object: &str| cli(&vault, "Midward", &[&format!("Query=Safe=OAuth;Object={object}")], "Password");
    let error = |code: &str| VaultFault::Error { code: code.to_owned(), text: "ordered".to_owned() };
    for (fault, code) in [
        (error("APPAP289E"), "APPAP289E"),
        (VaultFault::Denied, "APPAP306E"),
        (VaultFault::Ambiguous, "APPAP227E"),
        (VaultFault::Dead, "APPAP007E"),
    ] {
        vault.set_fault(fault, Some(1));
        refused(&ask("crm"), code);
        assert!(ask("crm").status.success(), "{code} stays");
    }
    vault.set_fault(VaultFault::EmptySecret, Some(1));
    assert_eq!(ask("crm").stdout, b"\n");
    vault.set_fault_for("crm", VaultFault::Denied, None);
    assert!(ask("erp-a").status.success());
    refused(&ask("crm"), "APPAP306E");
    vault.clear_faults();
    assert!(ask("crm").status.success());
}

#[test]
fn the_program_itself_misbehaves_to_order() {
    let vault = vault();
    let query = ["Query=Safe=OAuth;Object=crm"];
    vault.set_fault(VaultFault::Cli { mode: CliFault::ExitWithStdout }, Some(1));
    let output = cli(&vault, "Midward", &query, "Password");
    assert_eq!((output.status.code(), output.stdout), (Some(1), format!("{SECRET}\n").into_bytes()));

    vault.set_fault(VaultFault::Cli { mode: CliFault::Huge }, Some(1));
    assert_eq!(cli(&vault, "Midward", &query, "Password").stdout.len(), 64 * 1024 * 1024);

    for mode in [CliFault::Hang, CliFault::ForkKeepsPipe] {
        vault.set_fault(VaultFault::Cli { mode }, Some(1));
        let before = vault.request_count();
        let mut child = command(&vault, "Midward", &query, "Password")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program runs");
        if mode == CliFault::ForkKeepsPipe {
            assert!(child.wait().expect("it ends").success());
            // The secret is there, although the pipe does not end.
            let mut secret = vec![0; SECRET.len()];
            child.stdout.take().expect("a pipe").read_exact(&mut secret).expect("the secret");
            assert_eq!(secret, SECRET.as_bytes());
        } else {
            while vault.request_count() == before {
                std::thread::yield_now();
            }
            assert!(child.try_wait().expect("it can be asked").is_none());
            child.kill().expect("it can be killed");
            child.wait().expect("it ends");
        }
    }
}

#[test]
fn a_vault_that_is_not_there_is_a_failed_connection() {
    let port = vault().port();
    let output = Command::new(env!("CARGO_BIN_EXE_clipasswordsdk"))
        .args(["GetPassword", "-p", "AppDescs.AppID=Midward", "-p", "Query=Safe=OAuth;Object=crm", "-o", "Password"])
        .args(["-p", &format!("ConnectionParms.Port={port}")])
        .output()
        .expect("the program runs");
    refused(&output, "APPAP007E");
}
